"""The audit trail and the events: written in the transaction of what they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earmark.database.tables import audit, event
from earmark.model import now

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from earmark.database.core import Scope


def record(
    scope: Scope,
    *,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Adds an audit row: `actor` did `action` to `subject`.

    Args:
        scope: the transaction of what is told.
        actor: "client:<id>", "worker" or "operator".
        action: noun and verb, like "interaction.receive".
        subject: the id of what it was done to.
        detail: facts without personal data.
    """
    scope.insert(
        audit,
        {
            "at": now(),
            "actor": actor,
            "action": action,
            "subject": subject,
            "detail": dict(detail or {}),
        },
    )


def announce(
    scope: Scope, *, kind: str, interaction_id: UUID, detail: Mapping[str, Any] | None = None
) -> None:
    """Adds an event row: `kind` ("interaction.received") happened to the interaction."""
    scope.insert(
        event,
        {
            "at": now(),
            "kind": kind,
            "interaction_id": interaction_id,
            "detail": dict(detail or {}),
        },
    )
