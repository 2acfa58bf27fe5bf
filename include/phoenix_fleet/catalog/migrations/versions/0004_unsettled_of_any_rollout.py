"""What nobody settled is asked by the slot, whichever rollout it was of."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_intents_slot_outcome", "intents", ["slot", "outcome"])
    op.drop_index("ix_intents_purpose_slot", "intents")


def downgrade() -> None:
    op.create_index("ix_intents_purpose_slot", "intents", ["purpose", "slot"])
    op.drop_index("ix_intents_slot_outcome", "intents")
