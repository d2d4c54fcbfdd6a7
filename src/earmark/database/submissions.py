"""What intake asks and writes: who holds a name, and the row that makes the promise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database.tables import interaction
from earmark.model import Accepted, Status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from earmark.database.scope import Scope
    from earmark.model import Submission, Warn


@dataclass(frozen=True, slots=True)
class Holder:
    """The interaction that has a name, and the SHA-256 of its bytes."""

    id: UUID
    sha256: bytes


def holder(scope: Scope, file_name: str) -> Holder | None:
    """Who has exactly this normalised name in the organization."""
    columns = sa.select(interaction.c.id, interaction.c.sha256)
    row = scope.row(columns.where(interaction.c.file_name == file_name))
    return Holder(row.id, row.sha256) if row else None


def accepted(scope: Scope, interaction_id: UUID) -> Accepted | None:
    """What the answer to an upload said of an interaction; None if there is none any more."""
    columns = (
        interaction.c.id,
        interaction.c.file_name,
        interaction.c.size_bytes,
        interaction.c.sha256,
        interaction.c.received_at,
    )
    row = scope.row(sa.select(*columns).where(interaction.c.id == interaction_id))
    return Accepted(**row._mapping) if row else None  # noqa: SLF001 - SQLAlchemy's public name


def add(
    scope: Scope,
    submission: Submission,
    *,
    id_: UUID,
    received_at: datetime,
    size_bytes: int,
    sha256: bytes,
    agent_id: UUID | None,
    node_id: UUID | None,
    warnings: Sequence[Warn],
) -> bool:
    """Adds the interaction as `received`; False, and nothing added, if the name is taken."""
    date = submission.interaction_date
    values: dict[str, Any] = {
        "id": id_,
        "file_name": submission.file_name,
        "media_type": submission.media_type.value,
        "status": Status.RECEIVED.value,
        "round": 1,
        "due_at": received_at,
        "received_at": received_at,
        "occurred_at": date.instant if date else received_at,
        "interaction_at": date.instant if date else None,
        "interaction_offset_minutes": date.offset_minutes if date else None,
        "interaction_date_sent": date.sent if date else None,
        "direction": submission.direction.value if submission.direction else None,
        "customer_name": submission.customer.name,
        "customer_phone": submission.customer.phone,
        "customer_email": submission.customer.email,
        "agent_id": agent_id,
        "agent_code": submission.agent.code,
        "agent_first_name": submission.agent.first_name,
        "agent_last_name": submission.agent.last_name,
        "hierarchy_node_id": node_id,
        "apply_hierarchy_to_agent": submission.apply_hierarchy_to_agent,
        "locale": submission.locale,
        "client_call_id": submission.client_call_id,
        "extended": dict(submission.extended),
        "metadata_sent": submission.metadata_sent,
        "size_bytes": size_bytes,
        "sha256": sha256,
        "audio": None,
        "warnings": [asdict(warning) for warning in warnings],
    }
    return scope.insert_if_absent(interaction, values)
