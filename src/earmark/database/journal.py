"""The audit trail and the events: written in the transaction of what they tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark.database import arrivals
from earmark.database.tables import audit, event, organization
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


def organizations_with_new_events(scope: Scope) -> list[UUID]:
    """Those that have events without a position; it asks for each, however many events wait."""
    waits = sa.select(event.c.sequence).where(event.c.organization_id == organization.c.id, _NEW)
    return [row.id for row in scope.rows(sa.select(organization.c.id).where(waits.exists()))]


def number_events(scope: Scope) -> bool:
    """Gives new events of the organization their positions, after all that have one.

    The sequence will not do for readers: of two transactions that overlap, the one that drew the
    lower number may be the last to be seen, when a reader has gone past it already. What was
    received gets its place among the arrivals with it.

    Returns:
        whether events are left without a position: `NUMBERED_AT_ONCE` get one at most.
    """
    scope.serialise("events", str(scope.organization_id))
    row = scope.row(sa.select(sa.func.coalesce(sa.func.max(event.c.position), 0)))
    last = row[0] if row else 0
    new = event.alias()
    oldest = (
        sa.select(new.c.sequence)
        .where(new.c.organization_id == scope.organization_id, new.c.position.is_(None))
        .order_by(new.c.sequence)
        .limit(NUMBERED_AT_ONCE)
        .subquery()
    )
    number = last + sa.func.row_number().over(order_by=oldest.c.sequence)
    placed = sa.select(oldest.c.sequence, number.label("position")).subquery()
    found = scope.run(
        sa.update(event)
        .where(event.c.sequence == placed.c.sequence)
        .values(position=placed.c.position)
    )
    arrivals.add(scope, beyond=last)
    return found == NUMBERED_AT_ONCE


def lock_arrivals(scope: Scope) -> None:
    """Waits until nobody gives places to arrivals; nobody does until this transaction ends."""
    scope.serialise("events", str(scope.organization_id), shared=True)


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
