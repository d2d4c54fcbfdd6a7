"""The tables, one definition for both databases.

Every table with an `organization_id` is bound to the organization of the transaction: by
`Scope` on both databases and by row-level security on PostgreSQL. References between such tables
carry the organization too, so that no row can point across organizations.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from earmark.database.types import CODE, JSON, SERIAL, Instant

LONG_AGO = "1970-01-01 00:00:00+00"
"""As a default in both databases: before every instant at which something may be due."""

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    },
)

organization = sa.Table(
    "organization",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", CODE, nullable=False, unique=True),
    sa.Column("agent_channel", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("quota_stored_bytes", sa.BigInteger),
    sa.Column("quota_uploads_at_once", sa.Integer),
    sa.Column("quota_uploads_per_minute", sa.Integer),
)


def _organization(**options: Any) -> sa.Column[Any]:
    return sa.Column(
        "organization_id", sa.Uuid, sa.ForeignKey("organization.id"), nullable=False, **options
    )


client = sa.Table(
    "client",
    metadata,
    sa.Column("id", CODE, primary_key=True),
    _organization(index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),
    sa.Column("previous_secret_hash", sa.LargeBinary),
    sa.Column("previous_secret_until", Instant),
    sa.Column("tokens_after", Instant),
    sa.Column("external_id", CODE, unique=True),
    sa.Column("grants", JSON, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("disabled_at", Instant),
)

signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("id", CODE, primary_key=True),
    sa.Column("public_jwk", JSON, nullable=False),
    sa.Column("wrapped_private_key", sa.LargeBinary, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("signs_from", Instant),
)

receipt_key = sa.Table(
    "receipt_key",
    metadata,
    sa.Column("id", CODE, primary_key=True),
    sa.Column("public_jwk", JSON, nullable=False),
    sa.Column("wrapped_private_key", sa.LargeBinary, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    comment="the key that signs receipts; never removed, so that each stays verifiable",
)

access_revision = sa.Table(
    "access_revision",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    comment="one row: counts the changes of clients and signing keys, for those who keep copies",
)

rate = sa.Table(
    "rate",
    metadata,
    sa.Column("key", sa.LargeBinary(32), primary_key=True),
    sa.Column("used", sa.Float, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    comment="how much of each rate is used; on SQLite in a file of its own, see Database.unsynced",
)

stored_bytes = sa.Table(
    "stored_bytes",
    metadata,
    _organization(primary_key=True),
    sa.Column("shard", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    comment="how much media an organization has, kept by triggers; its shards are to be summed, "
    "and are several so that commits on PostgreSQL do not wait for each other",
)

reservation = sa.Table(
    "reservation",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("organization_id", sa.Uuid, nullable=False, index=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("held_until", sa.Float, nullable=False),
    comment="uploads on their way and what they may store, under the id of the interaction to be; "
    "on SQLite in a file of its own, see Database.unsynced",
)

hierarchy_node = sa.Table(
    "hierarchy_node",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    _organization(),
    sa.Column("parent_id", sa.Uuid),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("code", CODE),
    sa.Column("category", sa.Text),
    sa.Column("sub_category", sa.Text),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("modified_at", Instant, nullable=False),
    sa.UniqueConstraint("organization_id", "id"),
    sa.ForeignKeyConstraint(
        ["organization_id", "parent_id"], ["hierarchy_node.organization_id", "hierarchy_node.id"]
    ),
)

hierarchy_code = sa.Table(
    "hierarchy_code",
    metadata,
    _organization(primary_key=True),
    sa.Column("code", CODE, primary_key=True),
    sa.Column("node_id", sa.Uuid, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(
        ["organization_id", "node_id"],
        ["hierarchy_node.organization_id", "hierarchy_node.id"],
        ondelete="CASCADE",
    ),
    sa.Index("ix_hierarchy_code_node", "organization_id", "node_id"),
    comment="every name of a node on uploads: its code first, then its other codes",
)

hierarchy_closure = sa.Table(
    "hierarchy_closure",
    metadata,
    _organization(primary_key=True),
    sa.Column("ancestor_id", sa.Uuid, primary_key=True),
    sa.Column("descendant_id", sa.Uuid, primary_key=True),
    sa.Column("depth", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(
        ["organization_id", "ancestor_id"],
        ["hierarchy_node.organization_id", "hierarchy_node.id"],
    ),
    sa.ForeignKeyConstraint(
        ["organization_id", "descendant_id"],
        ["hierarchy_node.organization_id", "hierarchy_node.id"],
    ),
    sa.Index("ix_hierarchy_closure_descendant", "organization_id", "descendant_id"),
    comment="every node with each of its ancestors, itself included at depth 0",
)

agent = sa.Table(
    "agent",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    _organization(),
    sa.Column("code", CODE),
    sa.Column("first_name", sa.Text, nullable=False),
    sa.Column("last_name", sa.Text, nullable=False),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("user_id", sa.Text),
    sa.Column("manager_id", sa.Text),
    sa.Column("start_date", sa.Text),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("modified_at", Instant, nullable=False),
    sa.UniqueConstraint("organization_id", "id"),
    sa.UniqueConstraint("organization_id", "code"),
)

agent_node = sa.Table(
    "agent_node",
    metadata,
    _organization(primary_key=True),
    sa.Column("agent_id", sa.Uuid, primary_key=True),
    sa.Column("node_id", sa.Uuid, primary_key=True),
    sa.ForeignKeyConstraint(
        ["organization_id", "agent_id"], ["agent.organization_id", "agent.id"], ondelete="CASCADE"
    ),
    sa.ForeignKeyConstraint(
        ["organization_id", "node_id"],
        ["hierarchy_node.organization_id", "hierarchy_node.id"],
    ),
    comment="direct assignments; the parents follow by hierarchy_closure",
)

interaction = sa.Table(
    "interaction",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    _organization(),
    sa.Column("file_name", CODE, nullable=False),
    sa.Column("media_type", sa.String(8), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("outdated", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("due_at", Instant, nullable=False, server_default=LONG_AGO),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("occurred_at", Instant, nullable=False),
    sa.Column("interaction_at", Instant),
    sa.Column("interaction_offset_minutes", sa.Integer),
    sa.Column("interaction_date_sent", sa.Text),
    sa.Column("direction", sa.String(8)),
    sa.Column("customer_name", sa.Text),
    sa.Column("customer_phone", sa.Text),
    sa.Column("customer_email", sa.Text),
    sa.Column("agent_id", sa.Uuid),
    sa.Column("agent_code", CODE),
    sa.Column("agent_first_name", sa.Text),
    sa.Column("agent_last_name", sa.Text),
    sa.Column("hierarchy_node_id", sa.Uuid),
    sa.Column("apply_hierarchy_to_agent", sa.Boolean, nullable=False),
    sa.Column("locale", sa.String(8), nullable=False),
    sa.Column("client_call_id", CODE),
    sa.Column("extended", JSON, nullable=False),
    sa.Column("metadata_sent", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("audio", JSON),
    sa.Column("transcript", JSON),
    sa.Column("chat_message_count", sa.Integer),
    sa.Column("chat_first_at", Instant),
    sa.Column("chat_last_at", Instant),
    sa.Column("meta", JSON, nullable=False, server_default="{}"),
    sa.Column("warnings", JSON, nullable=False),
    sa.UniqueConstraint("organization_id", "id"),
    sa.UniqueConstraint("organization_id", "file_name"),
    sa.ForeignKeyConstraint(
        ["organization_id", "agent_id"], ["agent.organization_id", "agent.id"]
    ),
    sa.ForeignKeyConstraint(
        ["organization_id", "hierarchy_node_id"],
        ["hierarchy_node.organization_id", "hierarchy_node.id"],
    ),
    sa.Index("ix_interaction_newest", "organization_id", "occurred_at", "id"),
    sa.Index("ix_interaction_agent", "organization_id", "agent_id", "occurred_at", "id"),
    sa.Index(
        "ix_interaction_hierarchy", "organization_id", "hierarchy_node_id", "occurred_at", "id"
    ),
    sa.Index("ix_interaction_agent_code", "organization_id", "agent_code", "occurred_at", "id"),
    sa.Index(
        "ix_interaction_client_call_id", "organization_id", "client_call_id", "occurred_at", "id"
    ),
    sa.Index("ix_interaction_status", "organization_id", "status", "occurred_at", "id"),
    # One status each: SQLite does not see that an equality lies within an IN.
    sa.Index(
        "ix_interaction_due",
        "due_at",
        sqlite_where=sa.text("status = 'received'"),
        postgresql_where=sa.text("status = 'received'"),
    ),
    sa.Index(
        "ix_interaction_turn",
        "organization_id",
        "due_at",
        "id",
        sqlite_where=sa.text("status = 'received'"),
        postgresql_where=sa.text("status = 'received'"),
    ),
    sa.Index(
        "ix_interaction_processing",
        "organization_id",
        "id",
        sqlite_where=sa.text("status = 'processing'"),
        postgresql_where=sa.text("status = 'processing'"),
    ),
)

step = sa.Table(
    "step",
    metadata,
    _organization(primary_key=True),
    sa.Column("interaction_id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("excused", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lost", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_attempt_at", Instant),
    sa.Column("progress", sa.Float),
    sa.Column("started_at", Instant),
    sa.Column("finished_at", Instant),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.ForeignKeyConstraint(
        ["organization_id", "interaction_id"],
        ["interaction.organization_id", "interaction.id"],
        ondelete="CASCADE",
    ),
    sa.Index(
        "ix_step_error",
        "organization_id",
        "error_code",
        "interaction_id",
        sqlite_where=sa.text("error_code IS NOT NULL"),
        postgresql_where=sa.text("error_code IS NOT NULL"),
    ),
)

step_part = sa.Table(
    "step_part",
    metadata,
    _organization(primary_key=True),
    sa.Column("interaction_id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("content", JSON, nullable=False),
    sa.ForeignKeyConstraint(
        ["organization_id", "interaction_id"],
        ["interaction.organization_id", "interaction.id"],
        ondelete="CASCADE",
    ),
    comment="what a long step has done so far, so that another worker goes on from there",
)

download = sa.Table(
    "download",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    _organization(),
    sa.Column("client_id", CODE, nullable=False),
    sa.Column("file_name", CODE, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("fingerprint", sa.LargeBinary(32)),
    sa.Column("sealed_address", sa.LargeBinary),
    sa.Column("submission", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("holder", sa.Uuid),
    sa.Column("held_until", Instant),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("finished_at", Instant),
    sa.Column("interaction_id", sa.Uuid),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.ForeignKeyConstraint(
        ["organization_id", "interaction_id"],
        ["interaction.organization_id", "interaction.id"],
        ondelete="CASCADE",
    ),
    sa.Index(
        "ix_download_unfinished",
        "organization_id",
        "file_name",
        unique=True,
        sqlite_where=sa.text("status = 'downloading'"),
        postgresql_where=sa.text("status = 'downloading'"),
    ),
    sa.Index("ix_download_interaction", "organization_id", "interaction_id"),
    sa.Index("ix_download_finished", "finished_at"),
    comment="files on their way from signed addresses; those promised have theirs, sealed",
)

idempotency_key = sa.Table(
    "idempotency_key",
    metadata,
    _organization(primary_key=True),
    sa.Column("key_hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
    sa.Column("interaction_id", sa.Uuid),
    sa.Column("download_id", sa.Uuid),
    sa.Column("expires_at", Instant, nullable=False, index=True),
    comment="what became of uploads with a key; without references, since it outlives what was "
    "deleted: a late retry must not bring that back",
)

idempotency_lease = sa.Table(
    "idempotency_lease",
    metadata,
    sa.Column("key_hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("organization_id", sa.Uuid, nullable=False),
    sa.Column("holder", sa.Uuid, nullable=False, index=True),
    sa.Column("held_until", sa.Float, nullable=False),
    comment="uploads with a key that are on their way; on SQLite in a file of its own, see "
    "Database.unsynced",
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("sequence", SERIAL, primary_key=True, autoincrement=True),
    sa.Column("organization_id", sa.Uuid, sa.ForeignKey("organization.id"), index=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Column("address", sa.Text),
    sa.Column("detail", JSON, nullable=False),
    sqlite_autoincrement=True,
    comment="who did what; append only; of no organization is what holds for the service",
)

audit_seal = sa.Table(
    "audit_seal",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, nullable=False, unique=True),
    sa.Column("hash", sa.LargeBinary(32), nullable=False),
    comment="the chain over the audit rows, in the order in which they were seen; append only",
)

audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False),
    sa.Column("settled", sa.BigInteger, nullable=False),
    sa.Column("sealed_at", Instant, nullable=False),
    sa.Column("mac", sa.LargeBinary(32), nullable=False),
    comment="one row: where the chain ends, so that a missing end is noticed",
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("sequence", SERIAL, primary_key=True, autoincrement=True),
    _organization(),
    sa.Column("position", sa.BigInteger),
    sa.Column("at", Instant, nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("interaction_id", sa.Uuid, nullable=False),
    sa.Column("detail", JSON, nullable=False),
    sa.UniqueConstraint("organization_id", "position"),
    sa.Index(
        "ix_event_new",
        "organization_id",
        "sequence",
        sqlite_where=sa.text("position IS NULL"),
        postgresql_where=sa.text("position IS NULL"),
    ),
    sa.Index(
        "ix_event_deleted",
        "organization_id",
        "interaction_id",
        sqlite_where=sa.text("kind = 'interaction.deleted'"),
        postgresql_where=sa.text("kind = 'interaction.deleted'"),
    ),
    sqlite_autoincrement=True,
    comment="what happened to interactions; numbered once it is seen, so that none is missed",
)

arrival = sa.Table(
    "arrival",
    metadata,
    _organization(primary_key=True),
    sa.Column("media_type", sa.String(8), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("interaction_id", sa.Uuid, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("hierarchy_node_id", sa.Uuid),
    sa.UniqueConstraint("organization_id", "interaction_id"),
    sa.ForeignKeyConstraint(
        ["organization_id", "interaction_id"],
        ["interaction.organization_id", "interaction.id"],
        ondelete="CASCADE",
    ),
    sa.Index("ix_arrival_at", "organization_id", "at", "number"),
    sa.Index(
        "ix_arrival_hierarchy", "organization_id", "hierarchy_node_id", "media_type", "number"
    ),
    comment="interactions in the order in which readers see them; kind and node never change",
)

search_document = sa.Table(
    "search_document",
    metadata,
    _organization(primary_key=True),
    sa.Column("interaction_id", sa.Uuid, primary_key=True),
    sa.Column("occurred_at", Instant, nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("content", sa.LargeBinary),
    sa.ForeignKeyConstraint(
        ["organization_id", "interaction_id"],
        ["interaction.organization_id", "interaction.id"],
        ondelete="CASCADE",
    ),
    sa.Index(
        "ix_search_document_newest", "organization_id", "occurred_at", "interaction_id", "number"
    ),
    sa.Index(
        "ix_search_document_number", "organization_id", "number", "occurred_at", "interaction_id"
    ),
    sa.Index(
        "ix_search_document_waiting",
        "organization_id",
        "interaction_id",
        sqlite_where=sa.text("number IS NULL AND content IS NOT NULL"),
        postgresql_where=sa.text("number IS NULL AND content IS NOT NULL"),
    ),
    sa.Index(
        "ix_search_document_unread",
        "organization_id",
        "interaction_id",
        sqlite_where=sa.text("content IS NULL"),
        postgresql_where=sa.text("content IS NULL"),
    ),
    comment="each transcript; without content it is to be read, without number to be indexed",
)

search_posting = sa.Table(
    "search_posting",
    metadata,
    _organization(primary_key=True),
    sa.Column("key", CODE, primary_key=True),
    sa.Column("block", sa.Integer, primary_key=True),
    sa.Column("documents", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
    comment="by word, and by what else the index notes: which documents of a block have it",
)

search_block = sa.Table(
    "search_block",
    metadata,
    _organization(primary_key=True),
    sa.Column("block", sa.Integer, primary_key=True),
    sa.Column("used", sa.Integer, nullable=False),
    sa.Column("newest_at", Instant, nullable=False),
    comment="how many numbers of a block are taken, and that none of its documents is newer",
)

worker = sa.Table(
    "worker",
    metadata,
    sa.Column("id", CODE, primary_key=True),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("seen_at", Instant, nullable=False),
    comment="worker processes and their last heartbeat",
)
