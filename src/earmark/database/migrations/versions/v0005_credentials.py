"""Credentials that rotate, rates that processes share, and an audit trail that can be verified."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from earmark.database import types

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

APPEND_ONLY = ("audit", "audit_seal")
COMMENT = "who did what; append only; of no organization is what holds for the service"


def upgrade() -> None:
    """Applies this migration. Audit rows that there are stay, and are sealed like new ones."""
    add_columns()
    create_tables()
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE rate SET UNLOGGED")  # worth nothing after a crash
        op.alter_column("audit", "organization_id", nullable=True)
        op.add_column("audit", sa.Column("request_id", sa.Text(), nullable=True))
        op.add_column("audit", sa.Column("address", sa.Text(), nullable=True))
        op.create_table_comment("audit", COMMENT, existing_comment="who did what; append only")
        protect_on_postgresql()
    else:
        rebuild_audit()
        protect_on_sqlite()


def add_columns() -> None:
    """What clients and signing keys get: nothing that existing rows would have to say."""
    for column in (
        sa.Column("previous_secret_hash", sa.LargeBinary(), nullable=True),
        sa.Column("previous_secret_until", types.Instant(), nullable=True),
        sa.Column("tokens_after", types.Instant(), nullable=True),
    ):
        op.add_column("client", column)
    with op.batch_alter_table("client") as client:
        client.add_column(sa.Column("external_id", types.CODE, nullable=True))
        client.create_unique_constraint(op.f("uq_client_external_id"), ["external_id"])
    op.add_column("signing_key", sa.Column("signs_from", types.Instant(), nullable=True))


def create_tables() -> None:
    """The new tables. None of them tells of an organization."""
    op.create_table(
        "access_revision",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_revision")),
        comment="one row: counts the changes of clients and signing keys, "
        "for those who keep copies",
    )
    op.create_table(
        "rate",
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("used", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_rate")),
        comment="how much of each rate is used; on SQLite in a file of its own, "
        "see Database.unsynced",
    )
    op.create_table(
        "audit_seal",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_seal")),
        sa.UniqueConstraint("sequence", name=op.f("uq_audit_seal_sequence")),
        comment="the chain over the audit rows, in the order in which they were seen; append only",
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.Column("sealed_at", types.Instant(), nullable=False),
        sa.Column("mac", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
        comment="one row: where the chain ends, so that a missing end is noticed",
    )


def rebuild_audit() -> None:
    """SQLite cannot make a column nullable: the table is made anew, with the numbers it had."""
    op.create_table(
        "audit_new",
        sa.Column("sequence", types.SERIAL, autoincrement=True, nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=True),
        sa.Column("at", types.Instant(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("detail", types.JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_audit_organization_id")
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.execute(
        "INSERT INTO audit_new (sequence, organization_id, at, actor, action, subject, detail) "
        "SELECT sequence, organization_id, at, actor, action, subject, detail FROM audit "
        "ORDER BY sequence"
    )
    op.drop_table("audit")
    op.rename_table("audit_new", "audit")
    op.create_index(op.f("ix_audit_organization_id"), "audit", ["organization_id"], unique=False)


def protect_on_postgresql() -> None:
    """Whoever tries to change what was written is refused, with or without rows to change."""
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append only', TG_TABLE_NAME; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def protect_on_sqlite() -> None:
    """The same for each row, which is all that SQLite knows."""
    for table in APPEND_ONLY:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append only'); END"
            )
