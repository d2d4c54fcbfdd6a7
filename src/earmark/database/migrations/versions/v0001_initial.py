"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from earmark.database import types

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BOUND = (
    "agent",
    "audit",
    "client",
    "event",
    "hierarchy_node",
    "agent_node",
    "hierarchy_closure",
    "hierarchy_code",
    "interaction",
    "step",
    "step_part",
)
"""The tables whose rows belong to one organization."""


def upgrade() -> None:
    """Applies this migration."""
    create_tables()
    if op.get_bind().dialect.name == "postgresql":
        for table in BOUND:
            secure_rows(table)


def secure_rows(table: str) -> None:
    """Lets a transaction see and write its own organization's rows only, the owner's too."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY organization ON {table} USING ("
        "current_setting('earmark.organization', true) IN ('*', organization_id::text))"
    )


def create_tables() -> None:
    """Creates every table with its indexes."""
    op.create_table(
        "organization",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", types.CODE, nullable=False),
        sa.Column("agent_channel", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organization")),
        sa.UniqueConstraint("name", name=op.f("uq_organization_name")),
    )
    op.create_table(
        "signing_key",
        sa.Column("id", types.CODE, nullable=False),
        sa.Column("public_jwk", types.JSON, nullable=False),
        sa.Column("wrapped_private_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signing_key")),
    )
    op.create_table(
        "worker",
        sa.Column("id", types.CODE, nullable=False),
        sa.Column("started_at", types.Instant(), nullable=False),
        sa.Column("seen_at", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
        comment="worker processes and their last heartbeat",
    )
    op.create_table(
        "agent",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("code", types.CODE, nullable=True),
        sa.Column("first_name", sa.Text(), nullable=False),
        sa.Column("last_name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("manager_id", sa.Text(), nullable=True),
        sa.Column("start_date", sa.Text(), nullable=True),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("modified_at", types.Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_agent_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent")),
        sa.UniqueConstraint("organization_id", "code", name=op.f("uq_agent_organization_id_code")),
        sa.UniqueConstraint("organization_id", "id", name=op.f("uq_agent_organization_id_id")),
    )
    op.create_table(
        "audit",
        sa.Column("sequence", types.SERIAL, autoincrement=True, nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("at", types.Instant(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", types.JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_audit_organization_id")
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit")),
        comment="who did what; append only",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_audit_organization_id"), "audit", ["organization_id"], unique=False)
    op.create_table(
        "client",
        sa.Column("id", types.CODE, nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(), nullable=False),
        sa.Column("grants", types.JSON, nullable=False),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("disabled_at", types.Instant(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_client_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_client")),
    )
    op.create_index(op.f("ix_client_organization_id"), "client", ["organization_id"], unique=False)
    op.create_table(
        "event",
        sa.Column("sequence", types.SERIAL, autoincrement=True, nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("at", types.Instant(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("interaction_id", sa.Uuid(), nullable=False),
        sa.Column("detail", types.JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_event_organization_id")
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_event")),
        sa.UniqueConstraint(
            "organization_id", "position", name=op.f("uq_event_organization_id_position")
        ),
        comment="what happened to interactions; numbered once it is seen, so that none is missed",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_event_new",
        "event",
        ["organization_id", "sequence"],
        unique=False,
        sqlite_where=sa.text("position IS NULL"),
        postgresql_where=sa.text("position IS NULL"),
    )
    op.create_table(
        "hierarchy_node",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("code", types.CODE, nullable=True),
        sa.Column("category", sa.Text(), nullable=True),
        sa.Column("sub_category", sa.Text(), nullable=True),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("modified_at", types.Instant(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "parent_id"],
            ["hierarchy_node.organization_id", "hierarchy_node.id"],
            name=op.f("fk_hierarchy_node_organization_id_parent_id"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organization.id"],
            name=op.f("fk_hierarchy_node_organization_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hierarchy_node")),
        sa.UniqueConstraint(
            "organization_id", "id", name=op.f("uq_hierarchy_node_organization_id_id")
        ),
    )
    op.create_table(
        "agent_node",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "agent_id"],
            ["agent.organization_id", "agent.id"],
            name=op.f("fk_agent_node_organization_id_agent_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "node_id"],
            ["hierarchy_node.organization_id", "hierarchy_node.id"],
            name=op.f("fk_agent_node_organization_id_node_id"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_agent_node_organization_id")
        ),
        sa.PrimaryKeyConstraint(
            "organization_id", "agent_id", "node_id", name=op.f("pk_agent_node")
        ),
        comment="direct assignments; the parents follow by hierarchy_closure",
    )
    op.create_table(
        "hierarchy_closure",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("ancestor_id", sa.Uuid(), nullable=False),
        sa.Column("descendant_id", sa.Uuid(), nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "ancestor_id"],
            ["hierarchy_node.organization_id", "hierarchy_node.id"],
            name=op.f("fk_hierarchy_closure_organization_id_ancestor_id"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "descendant_id"],
            ["hierarchy_node.organization_id", "hierarchy_node.id"],
            name=op.f("fk_hierarchy_closure_organization_id_descendant_id"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organization.id"],
            name=op.f("fk_hierarchy_closure_organization_id"),
        ),
        sa.PrimaryKeyConstraint(
            "organization_id", "ancestor_id", "descendant_id", name=op.f("pk_hierarchy_closure")
        ),
        comment="every node with each of its ancestors, itself included at depth 0",
    )
    op.create_index(
        "ix_hierarchy_closure_descendant",
        "hierarchy_closure",
        ["organization_id", "descendant_id"],
        unique=False,
    )
    op.create_table(
        "hierarchy_code",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("code", types.CODE, nullable=False),
        sa.Column("node_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "node_id"],
            ["hierarchy_node.organization_id", "hierarchy_node.id"],
            name=op.f("fk_hierarchy_code_organization_id_node_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"],
            ["organization.id"],
            name=op.f("fk_hierarchy_code_organization_id"),
        ),
        sa.PrimaryKeyConstraint("organization_id", "code", name=op.f("pk_hierarchy_code")),
        comment="every name of a node on uploads: its code first, then its other codes",
    )
    op.create_index(
        "ix_hierarchy_code_node", "hierarchy_code", ["organization_id", "node_id"], unique=False
    )
    op.create_table(
        "interaction",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("file_name", types.CODE, nullable=False),
        sa.Column("media_type", sa.String(length=8), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("received_at", types.Instant(), nullable=False),
        sa.Column("occurred_at", types.Instant(), nullable=False),
        sa.Column("interaction_at", types.Instant(), nullable=True),
        sa.Column("interaction_offset_minutes", sa.Integer(), nullable=True),
        sa.Column("interaction_date_sent", sa.Text(), nullable=True),
        sa.Column("direction", sa.String(length=8), nullable=True),
        sa.Column("customer_name", sa.Text(), nullable=True),
        sa.Column("customer_phone", sa.Text(), nullable=True),
        sa.Column("customer_email", sa.Text(), nullable=True),
        sa.Column("agent_id", sa.Uuid(), nullable=True),
        sa.Column("agent_code", types.CODE, nullable=True),
        sa.Column("agent_first_name", sa.Text(), nullable=True),
        sa.Column("agent_last_name", sa.Text(), nullable=True),
        sa.Column("hierarchy_node_id", sa.Uuid(), nullable=True),
        sa.Column("apply_hierarchy_to_agent", sa.Boolean(), nullable=False),
        sa.Column("locale", sa.String(length=8), nullable=False),
        sa.Column("client_call_id", types.CODE, nullable=True),
        sa.Column("extended", types.JSON, nullable=False),
        sa.Column("metadata_sent", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("audio", types.JSON, nullable=True),
        sa.Column("transcript", types.JSON, nullable=True),
        sa.Column("chat_message_count", sa.Integer(), nullable=True),
        sa.Column("chat_first_at", types.Instant(), nullable=True),
        sa.Column("chat_last_at", types.Instant(), nullable=True),
        sa.Column("meta", types.JSON, server_default="{}", nullable=False),
        sa.Column("warnings", types.JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "agent_id"],
            ["agent.organization_id", "agent.id"],
            name=op.f("fk_interaction_organization_id_agent_id"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id", "hierarchy_node_id"],
            ["hierarchy_node.organization_id", "hierarchy_node.id"],
            name=op.f("fk_interaction_organization_id_hierarchy_node_id"),
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_interaction_organization_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_interaction")),
        sa.UniqueConstraint(
            "organization_id", "file_name", name=op.f("uq_interaction_organization_id_file_name")
        ),
        sa.UniqueConstraint(
            "organization_id", "id", name=op.f("uq_interaction_organization_id_id")
        ),
    )
    op.create_index(
        "ix_interaction_agent",
        "interaction",
        ["organization_id", "agent_id", "occurred_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_interaction_agent_code",
        "interaction",
        ["organization_id", "agent_code", "occurred_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_interaction_client_call_id",
        "interaction",
        ["organization_id", "client_call_id", "occurred_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_interaction_hierarchy",
        "interaction",
        ["organization_id", "hierarchy_node_id", "occurred_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_interaction_newest",
        "interaction",
        ["organization_id", "occurred_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_interaction_status",
        "interaction",
        ["organization_id", "status", "occurred_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_interaction_unfinished",
        "interaction",
        ["status", "organization_id", "id"],
        unique=False,
        sqlite_where=sa.text("status IN ('received', 'processing')"),
        postgresql_where=sa.text("status IN ('received', 'processing')"),
    )
    op.create_table(
        "step",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("interaction_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("excused", sa.Integer(), server_default="0", nullable=False),
        sa.Column("progress", sa.Float(), nullable=True),
        sa.Column("started_at", types.Instant(), nullable=True),
        sa.Column("finished_at", types.Instant(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["organization_id", "interaction_id"],
            ["interaction.organization_id", "interaction.id"],
            name=op.f("fk_step_organization_id_interaction_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_step_organization_id")
        ),
        sa.PrimaryKeyConstraint("organization_id", "interaction_id", "name", name=op.f("pk_step")),
    )
    op.create_table(
        "step_part",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("interaction_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content", types.JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id", "interaction_id"],
            ["interaction.organization_id", "interaction.id"],
            name=op.f("fk_step_part_organization_id_interaction_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organization.id"], name=op.f("fk_step_part_organization_id")
        ),
        sa.PrimaryKeyConstraint(
            "organization_id", "interaction_id", "name", "number", name=op.f("pk_step_part")
        ),
        comment="what a long step has done so far, so that another worker goes on from there",
    )
