"""Pause, roll back, emergencies, blocked releases, and the queue of each fleet."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("paused_by", sa.Text(), nullable=False, server_default=""),
        sa.Column("paused_reason", sa.Text(), nullable=False, server_default=""),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False, server_default="refresh"),
        sa.Column("undoes", sa.Integer(), nullable=True),
        sa.Column("undone", sa.Text(), nullable=True),
        sa.Column("forced", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
    )


def upgrade() -> None:
    for column in _columns():
        # Added one by one, with defaults for the rows that are there: SQLite need not make the table anew.
        op.add_column("rollouts", column)
    op.create_table(
        "blocks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fleet", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lifted_by", sa.Text(), nullable=False),
        sa.Column("lifted_reason", sa.Text(), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_blocks"),
    )
    op.create_index(
        "uq_blocks_standing",
        "blocks",
        ["fleet", "family", "version"],
        unique=True,
        sqlite_where=sa.text("lifted_at IS NULL"),
        postgresql_where=sa.text("lifted_at IS NULL"),
    )
    op.create_table(
        "queue",
        sa.Column("fleet", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("fleet", "run", name="pk_queue"),
    )
    op.create_index("ix_intents_action_ended_at", "intents", ["action", "ended_at"])


def downgrade() -> None:
    op.drop_index("ix_intents_action_ended_at", "intents")
    op.drop_table("queue")
    op.drop_table("blocks")
    for column in reversed(_columns()):
        op.drop_column("rollouts", column.name)
