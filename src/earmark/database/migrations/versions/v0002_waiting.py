"""Waits between attempts, and attempts that ended with their worker."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from earmark.database import types

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_RECEIVED = sa.text("status = 'received'")
_PROCESSING = sa.text("status = 'processing'")
_TOLD = sa.text("error_code IS NOT NULL")


def upgrade() -> None:
    """Applies this migration. What is received already is due since long ago."""
    op.add_column(
        "interaction",
        sa.Column(
            "due_at",
            types.Instant(),
            server_default="1970-01-01 00:00:00+00",
            nullable=False,
        ),
    )
    op.add_column("step", sa.Column("lost", sa.Integer(), server_default="0", nullable=False))
    op.add_column("step", sa.Column("next_attempt_at", types.Instant(), nullable=True))
    op.drop_index("ix_interaction_unfinished", table_name="interaction")
    for name, columns, where in (
        ("ix_interaction_due", ["due_at"], _RECEIVED),
        ("ix_interaction_turn", ["organization_id", "due_at", "id"], _RECEIVED),
        ("ix_interaction_processing", ["organization_id", "id"], _PROCESSING),
    ):
        op.create_index(name, "interaction", columns, sqlite_where=where, postgresql_where=where)
    op.create_index(
        "ix_step_error",
        "step",
        ["organization_id", "error_code", "interaction_id"],
        sqlite_where=_TOLD,
        postgresql_where=_TOLD,
    )
