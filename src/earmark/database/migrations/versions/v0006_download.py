"""Downloads from signed addresses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from earmark.database import types

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_UNFINISHED = sa.text("status = 'downloading'")


def upgrade() -> None:
    """Applies this migration."""
    op.create_table(
        "download",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("client_id", types.CODE, nullable=False),
        sa.Column("file_name", types.CODE, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=True),
        sa.Column("sealed_address", sa.LargeBinary(), nullable=True),
        sa.Column("submission", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Uuid(), nullable=True),
        sa.Column("held_until", types.Instant(), nullable=True),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("finished_at", types.Instant(), nullable=True),
        sa.Column("interaction_id", sa.Uuid(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_download_organization_id")
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "interaction_id"],
            ["interaction.organization_id", "interaction.id"],
            name=op.f("fk_download_organization_id_interaction_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_download")),
        comment="files on their way from signed addresses; those promised have theirs, sealed",
    )
    op.create_index(
        "ix_download_unfinished",
        "download",
        ["organization_id", "file_name"],
        unique=True,
        sqlite_where=_UNFINISHED,
        postgresql_where=_UNFINISHED,
    )
    op.create_index("ix_download_interaction", "download", ["organization_id", "interaction_id"])
    op.create_index("ix_download_finished", "download", ["finished_at"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE download ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE download FORCE ROW LEVEL SECURITY")
        op.execute(
            "CREATE POLICY organization ON download USING ("
            "current_setting('earmark.organization', true) IN ('*', organization_id::text))"
        )
