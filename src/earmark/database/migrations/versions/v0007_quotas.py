"""What each organization may use, what it stores, and what is on its way."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SHARDS = 16
"""Connections of one organization that can commit uploads without waiting for each other."""


def upgrade() -> None:
    """Applies this migration. What is stored already is counted once."""
    for column in (
        sa.Column("quota_stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("quota_uploads_at_once", sa.Integer(), nullable=True),
        sa.Column("quota_uploads_per_minute", sa.Integer(), nullable=True),
    ):
        op.add_column("organization", column)
    create_tables()
    op.execute(
        "INSERT INTO stored_bytes (organization_id, shard, bytes) "
        "SELECT organization_id, 0, CAST(sum(size_bytes) AS BIGINT) FROM interaction "
        "GROUP BY organization_id"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE reservation SET UNLOGGED")  # worth nothing after a crash
        bind_to_organizations()
        count_on_postgresql()
    else:
        count_on_sqlite()


def create_tables() -> None:
    """Creates both tables."""
    op.create_table(
        "stored_bytes",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_stored_bytes_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "shard", name=op.f("pk_stored_bytes")),
        comment="how much media an organization has, kept by triggers; its shards are to be "
        "summed, and are several so that commits on PostgreSQL do not wait for each other",
    )
    op.create_table(
        "reservation",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("held_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservation")),
        comment="uploads on their way and what they may store, under the id of the interaction "
        "to be; on SQLite in a file of its own, see Database.unsynced",
    )
    op.create_index(op.f("ix_reservation_organization_id"), "reservation", ["organization_id"])


def bind_to_organizations() -> None:
    """A transaction sees the rows of its organization alone."""
    for table in ("stored_bytes", "reservation"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY organization ON {table} USING ("
            "current_setting('earmark.organization', true) IN ('*', organization_id::text))"
        )


def count_on_postgresql() -> None:
    """Once for each statement: one that adds a million rows changes a total once.

    A connection has a shard to itself, unless there are many. The rows are taken in one order, so
    that two statements over several organizations cannot wait for each other.
    """
    op.execute(
        "CREATE FUNCTION count_stored_bytes() RETURNS trigger "  # noqa: S608 - a constant
        "LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO stored_bytes AS total (organization_id, shard, bytes) "
        f"SELECT organization_id, pg_backend_pid() % {SHARDS}, "
        "sum(CASE TG_OP WHEN 'DELETE' THEN -size_bytes ELSE size_bytes END)::bigint "
        "FROM changed GROUP BY organization_id ORDER BY organization_id "
        "ON CONFLICT (organization_id, shard) DO UPDATE SET bytes = total.bytes + excluded.bytes; "
        "RETURN NULL; END $$"
    )
    for change, rows in (("insert", "NEW"), ("delete", "OLD")):
        op.execute(
            f"CREATE TRIGGER count_{change} AFTER {change} ON interaction "
            f"REFERENCING {rows} TABLE AS changed "
            "FOR EACH STATEMENT EXECUTE FUNCTION count_stored_bytes()"
        )


def count_on_sqlite() -> None:
    """Once for each row, which is all that SQLite knows. It has one writer, and so one shard."""
    for change, row, sign in (("insert", "new", "+"), ("delete", "old", "-")):
        op.execute(
            f"CREATE TRIGGER count_{change} "  # noqa: S608 - constants
            f"AFTER {change} ON interaction BEGIN "
            "INSERT INTO stored_bytes (organization_id, shard, bytes) "
            f"SELECT {row}.organization_id, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM stored_bytes "
            f"WHERE organization_id = {row}.organization_id AND shard = 0); "
            f"UPDATE stored_bytes SET bytes = bytes {sign} {row}.size_bytes "
            f"WHERE organization_id = {row}.organization_id AND shard = 0; END"
        )
