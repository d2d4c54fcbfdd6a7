"""The audit trail and the events: written in the transaction of what they tell.

What was only read has no transaction to be told in; `Reads` makes one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from earmark import telemetry
from earmark.database import arrivals
from earmark.database.tables import audit, event, organization
from earmark.errors import UnavailableError
from earmark.model import Event, now
from earmark.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from earmark.database.core import Database
    from earmark.database.scope import Scope

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
    """Adds an audit row: `actor` did `action` to `subject`, in the present call.

    Args:
        scope: the transaction of what is told.
        actor: "client:<id>", "worker" or "operator".
        action: noun and verb, like "interaction.receive".
        subject: the id of what it was done to.
        detail: facts without personal data.
    """
    scope.insert(audit, _row(actor=actor, action=action, subject=subject, detail=detail))


def _row(
    *, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None
) -> dict[str, Any]:
    origin = telemetry.origin.get()
    return {
        "at": now(),
        "actor": actor,
        "action": action,
        "subject": subject,
        "request_id": origin.request_id,
        "address": origin.address,
        "detail": dict(detail or {}),
    }


@dataclass(slots=True)
class _Batch:
    """Reads that are told in one transaction.

    Attributes:
        ended: whether it was tried; `failure` says how it ended.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False
    failure: UnavailableError | None = None


class Reads:
    """Tells of what is read, before anybody sees it. Safe among threads.

    Reads that come while others are being written down wait, and share the next transaction: one
    commit at a time, however many come.
    """

    def __init__(self, database: Database) -> None:
        """Opens nothing yet."""
        self._database = database
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting = _Batch()

    def record(
        self,
        organization_id: UUID,
        *,
        actor: str,
        action: str,
        subject: str,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds an audit row as `record` does; it is durable when this returns.

        Raises:
            UnavailableError: nobody knows whether it is, so nothing must be shown.
        """
        row = _row(actor=actor, action=action, subject=subject, detail=detail)
        with self._lock:
            batch = self._waiting
            batch.rows.append({**row, "organization_id": organization_id})
        with self._turn:
            if not batch.ended:  # the first who gets here writes for all who wait with it
                self._write(batch)
        if batch.failure is not None:
            raise UnavailableError("the audit trail cannot be written") from batch.failure

    def _write(self, batch: _Batch) -> None:
        with self._lock:
            self._waiting = _Batch()
        batch.failure = UnavailableError("it was given up")
        try:
            with self._database.write(None) as scope:
                scope.insert(audit, *batch.rows)
            batch.failure = None
        except UnavailableError as error:
            batch.failure = error
        finally:
            batch.ended = True


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
    scope.after_commit.append(partial(metrics.EVENTS.add, kind))


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
