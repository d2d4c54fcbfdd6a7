"""The index of what was said, and every transcript there is, to be read into it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from earmark.database import types

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BOUND = ("search_document", "search_posting", "search_block")
"""The tables whose rows belong to one organization."""

BLOCK_DOCUMENTS = 4096
"""As in earmark.database.search_index when this was written."""


def upgrade() -> None:
    """Applies this migration."""
    create_tables()
    if op.get_bind().dialect.name == "postgresql":
        for table in BOUND:
            secure_rows(table)
        follow_dates_on_postgresql()
    else:
        follow_dates_on_sqlite()
    op.execute(
        "INSERT INTO search_document (organization_id, interaction_id, occurred_at) "
        "SELECT organization_id, id, occurred_at FROM interaction WHERE transcript IS NOT NULL"
    )


def secure_rows(table: str) -> None:
    """Lets a transaction see and write its own organization's rows only, the owner's too."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY organization ON {table} USING ("
        "current_setting('earmark.organization', true) IN ('*', organization_id::text))"
    )


# An interaction's instant stands in the index too, which is read in its order. Whoever changes
# the one changes the other, and need not know of it.

_FOLLOW = f"""
    UPDATE search_document SET occurred_at = new.occurred_at
    WHERE organization_id = new.organization_id AND interaction_id = new.id;
    UPDATE search_block SET newest_at = new.occurred_at
    WHERE organization_id = new.organization_id AND newest_at < new.occurred_at AND block = (
        SELECT number / {BLOCK_DOCUMENTS} FROM search_document
        WHERE organization_id = new.organization_id AND interaction_id = new.id
    );
"""  # noqa: S608 - a constant


def follow_dates_on_sqlite() -> None:
    """Lets the index follow when the instant of an interaction is changed."""
    op.execute(
        "CREATE TRIGGER search_follows_date AFTER UPDATE OF occurred_at ON interaction "
        f"WHEN new.occurred_at <> old.occurred_at BEGIN {_FOLLOW} END"
    )


def follow_dates_on_postgresql() -> None:
    """Lets the index follow when the instant of an interaction is changed."""
    op.execute(
        "CREATE FUNCTION search_follow_date() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {_FOLLOW} RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER search_follows_date AFTER UPDATE OF occurred_at ON interaction "
        "FOR EACH ROW WHEN (new.occurred_at <> old.occurred_at) "
        "EXECUTE FUNCTION search_follow_date()"
    )


def create_tables() -> None:
    """Creates every table with its indexes."""
    op.create_table(
        "search_document",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("interaction_id", sa.Uuid(), nullable=False),
        sa.Column("occurred_at", types.Instant(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization_id", "interaction_id"],
            ["interaction.organization_id", "interaction.id"],
            name=op.f("fk_search_document_organization_id_interaction_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organization.id"],
            name=op.f("fk_search_document_organization_id"),
        ),
        sa.PrimaryKeyConstraint(
            "organization_id", "interaction_id", name=op.f("pk_search_document")
        ),
        comment=(
            "each transcript; without content it is to be read, without number to be indexed"
        ),
    )
    op.create_index(
        "ix_search_document_newest",
        "search_document",
        ["organization_id", "occurred_at", "interaction_id", "number"],
        unique=False,
    )
    op.create_index(
        "ix_search_document_number",
        "search_document",
        ["organization_id", "number", "occurred_at", "interaction_id"],
        unique=False,
    )
    op.create_index(
        "ix_search_document_waiting",
        "search_document",
        ["organization_id", "interaction_id"],
        unique=False,
        sqlite_where=sa.text("number IS NULL AND content IS NOT NULL"),
        postgresql_where=sa.text("number IS NULL AND content IS NOT NULL"),
    )
    op.create_index(
        "ix_search_document_unread",
        "search_document",
        ["organization_id", "interaction_id"],
        unique=False,
        sqlite_where=sa.text("content IS NULL"),
        postgresql_where=sa.text("content IS NULL"),
    )
    op.create_table(
        "search_posting",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("key", types.CODE, nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("documents", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organization.id"],
            name=op.f("fk_search_posting_organization_id"),
        ),
        sa.PrimaryKeyConstraint("organization_id", "key", "block", name=op.f("pk_search_posting")),
        sqlite_with_rowid=False,
        comment="by word, and by what else the index notes: which documents of a block have it",
    )
    op.create_table(
        "search_block",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("newest_at", types.Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_search_block_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "block", name=op.f("pk_search_block")),
        comment="how many numbers of a block are taken, and that none of its documents is newer",
    )
