"""Arrivals in the order in which readers see them, and rounds that a correction outdates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from earmark.database import types

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DELETED = sa.text("kind = 'interaction.deleted'")

PLACED = """
INSERT INTO arrival (organization_id, number, interaction_id, at, media_type, hierarchy_node_id)
SELECT event.organization_id, event.position, interaction.id,
    max(interaction.received_at) OVER (
        PARTITION BY event.organization_id ORDER BY event.position
    ),
    interaction.media_type, interaction.hierarchy_node_id
FROM event JOIN interaction ON interaction.organization_id = event.organization_id
    AND interaction.id = event.interaction_id
WHERE event.kind = 'interaction.received' AND event.position IS NOT NULL
"""
"""What was received and has a number already; the rest gets its place with its number."""


def upgrade() -> None:
    """Applies this migration."""
    op.add_column(
        "interaction",
        sa.Column("outdated", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.create_index(
        "ix_event_deleted",
        "event",
        ["organization_id", "interaction_id"],
        unique=False,
        sqlite_where=DELETED,
        postgresql_where=DELETED,
    )
    create_arrival()
    op.execute(PLACED)


def create_arrival() -> None:
    """Creates the table with its indexes, bound to the organization of the transaction."""
    op.create_table(
        "arrival",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("media_type", sa.String(length=8), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("interaction_id", sa.Uuid(), nullable=False),
        sa.Column("at", types.Instant(), nullable=False),
        sa.Column("hierarchy_node_id", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization_id", "interaction_id"],
            ["interaction.organization_id", "interaction.id"],
            name=op.f("fk_arrival_organization_id_interaction_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_arrival_organization_id")
        ),
        sa.PrimaryKeyConstraint(
            "organization_id", "media_type", "number", name=op.f("pk_arrival")
        ),
        sa.UniqueConstraint(
            "organization_id",
            "interaction_id",
            name=op.f("uq_arrival_organization_id_interaction_id"),
        ),
        comment="interactions in the order in which readers see them; kind and node never change",
    )
    for name, columns in (
        ("at", ["at", "number"]),
        ("hierarchy", ["hierarchy_node_id", "media_type", "number"]),
    ):
        op.create_index(
            f"ix_arrival_{name}", "arrival", ["organization_id", *columns], unique=False
        )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE arrival ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE arrival FORCE ROW LEVEL SECURITY")
        op.execute(
            "CREATE POLICY organization ON arrival USING ("
            "current_setting('earmark.organization', true) IN ('*', organization_id::text))"
        )
