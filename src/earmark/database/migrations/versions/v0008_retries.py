"""What makes retries safe: idempotency keys, and the key that signs receipts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from earmark.database import types

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies this migration."""
    create_tables()
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE idempotency_lease SET UNLOGGED")  # worth nothing after a crash
        for table in ("idempotency_key", "idempotency_lease"):
            bind_to_organizations(table)


def create_tables() -> None:
    """Creates every table with its indexes."""
    op.create_table(
        "receipt_key",
        sa.Column("id", types.CODE, nullable=False),
        sa.Column("public_jwk", types.JSON, nullable=False),
        sa.Column("wrapped_private_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_receipt_key")),
        comment="the key that signs receipts; never removed, so that each stays verifiable",
    )
    op.create_table(
        "idempotency_key",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("interaction_id", sa.Uuid(), nullable=True),
        sa.Column("download_id", sa.Uuid(), nullable=True),
        sa.Column("expires_at", types.Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organization.id"],
            name=op.f("fk_idempotency_key_organization_id"),
        ),
        sa.PrimaryKeyConstraint("organization_id", "key_hash", name=op.f("pk_idempotency_key")),
        comment="what became of uploads with a key; without references, since it outlives what "
        "was deleted: a late retry must not bring that back",
    )
    op.create_index(op.f("ix_idempotency_key_expires_at"), "idempotency_key", ["expires_at"])
    op.create_table(
        "idempotency_lease",
        sa.Column("key_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("holder", sa.Uuid(), nullable=False),
        sa.Column("held_until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_idempotency_lease")),
        comment="uploads with a key that are on their way; on SQLite in a file of its own, see "
        "Database.unsynced",
    )
    op.create_index(op.f("ix_idempotency_lease_holder"), "idempotency_lease", ["holder"])


def bind_to_organizations(table: str) -> None:
    """A transaction sees the rows of its organization alone."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY organization ON {table} USING ("
        "current_setting('earmark.organization', true) IN ('*', organization_id::text))"
    )
