"""Indexes for what every step of every replacement asks, whatever else the catalog has grown to hold."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_intents_purpose_slot", "intents", ["purpose", "slot"])
    op.create_index("ix_events_subject_kind", "events", ["subject", "kind"])


def downgrade() -> None:
    op.drop_index("ix_events_subject_kind", "events")
    op.drop_index("ix_intents_purpose_slot", "intents")
