"""Heartbeats of worker processes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database.tables import worker

if TYPE_CHECKING:
    from datetime import datetime

    from earmark.database.scope import Scope

BEAT_SECONDS = 5.0
"""How often a worker says that it lives."""

ABSENT_AFTER_SECONDS = 15.0
"""Three beats: one that a busy database delays does not count as death."""

FORGOTTEN_AFTER_SECONDS = 3600.0
"""When the row of a worker that died without a word is removed."""


def beat(scope: Scope, worker_id: str, *, started_at: datetime, now: datetime) -> None:
    """Notes that a worker lives, and forgets those that have been dead for long."""
    seen = {"started_at": started_at, "seen_at": now}
    if not scope.insert_if_absent(worker, {"id": worker_id, **seen}):
        scope.run(sa.update(worker).where(worker.c.id == worker_id).values(**seen))
    forgotten = now - timedelta(seconds=FORGOTTEN_AFTER_SECONDS)
    scope.run(sa.delete(worker).where(worker.c.seen_at < forgotten))


def any_alive(scope: Scope, now: datetime) -> bool:
    """Whether a worker was seen within `ABSENT_AFTER_SECONDS`."""
    return count_alive(scope, now) > 0


def count_alive(scope: Scope, now: datetime) -> int:
    """How many workers were seen within `ABSENT_AFTER_SECONDS`."""
    recent = now - timedelta(seconds=ABSENT_AFTER_SECONDS)
    return len(scope.rows(sa.select(worker.c.id).where(worker.c.seen_at > recent)))


def leave(scope: Scope, worker_id: str) -> None:
    """Forgets a worker that stops."""
    scope.run(sa.delete(worker).where(worker.c.id == worker_id))
