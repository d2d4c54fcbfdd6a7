"""The audit trail and the events: written in the transaction of what they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database.tables import audit, event
from earmark.model import Event, now

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from earmark.database.core import Scope

NUMBERED_AT_ONCE = 1000
"""Nobody may have read for months; no single reader pays for all of it."""


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


def has_new_events(scope: Scope) -> bool:
    """Whether events wait for their position."""
    return scope.row(sa.select(event.c.sequence).where(_NEW).limit(1)) is not None


def number_events(scope: Scope) -> None:
    """Gives new events of the organization their positions, after all that have one.

    The sequence will not do for readers: of two transactions that overlap, the one that drew the
    lower number may be the last to be seen, when a reader has gone past it already.
    """
    scope.serialise("events", str(scope.organization_id))
    row = scope.row(sa.select(sa.func.coalesce(sa.func.max(event.c.position), 0)))
    last = row[0] if row else 0
    oldest = sa.select(event.c.sequence).where(_NEW).order_by(event.c.sequence)
    waiting = scope.rows(oldest.limit(NUMBERED_AT_ONCE))
    for position, (sequence,) in enumerate(waiting, start=last + 1):
        numbered = sa.update(event).where(event.c.sequence == sequence)
        scope.run(numbered.values(position=position))


def events(scope: Scope, *, after: int, limit: int) -> list[Event]:
    """The first `limit` numbered events after a position, in their order."""
    columns = event.c
    found = (
        sa.select(
            columns.position, columns.at, columns.kind, columns.interaction_id, columns.detail
        )
        .where(columns.position > after)
        .order_by(columns.position)
        .limit(limit)
    )
    return [
        Event(row.position, row.at, row.kind, row.interaction_id, row.detail)
        for row in scope.rows(found)
    ]


_NEW = event.c.position.is_(None)
