"""How much of each rate is used, shared by all processes on all machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.database.tables import rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from earmark.database.core import Database
    from earmark.database.scope import Scope


@dataclass(frozen=True, slots=True)
class Level:
    """How full a bucket was, and when.

    Attributes:
        used: in requests; it runs off with time, at a pace that only its owner knows.
        at: seconds since 1970 by the clock that all processes share.
    """

    used: float
    at: float


class Rates:
    """The buckets. What is changed here is seen by every process at once.

    A power failure may take it: then everybody has their whole rate again.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] | None = None) -> None:
        """Opens nothing yet.

        Args:
            database: whose `unsynced` part keeps them.
            clock: in place of the shared one, which on PostgreSQL is the server's.
        """
        self._database = database
        self._clock = clock

    def change(
        self, keys: Sequence[bytes], step: Callable[[float, Sequence[Level]], Sequence[Level]]
    ) -> None:
        """Changes buckets together, one process at a time.

        Args:
            keys: of the buckets, 32 bytes each; one that is new is empty.
            step: given the time and the levels, the new ones. What it raises changes nothing.

        Raises:
            UnavailableError: the database cannot serve.
        """
        with self._database.unsynced.write(None) as scope:
            for key in sorted(keys):  # in one order, or two processes could wait for each other
                self._lock(scope, key)
            now, before = self._read(scope, keys)
            after = step(now, before)
            for key, old, new in zip(keys, before, after, strict=True):
                if new != old:
                    changed = sa.update(rate).where(rate.c.key == key)
                    scope.run(changed.values(used=new.used, at=new.at))

    def forget(self, *, older_than_seconds: float) -> None:
        """Removes buckets that nobody has changed for so long that they have run empty."""
        with self._database.unsynced.write(None) as scope:
            before = self._now(scope) - older_than_seconds
            scope.run(sa.delete(rate).where(rate.c.at < before))

    def _lock(self, scope: Scope, key: bytes) -> None:
        scope.insert_if_absent(rate, {"key": key, "used": 0.0, "at": 0.0})
        if scope.is_postgresql:
            scope.row(sa.select(rate.c.key).where(rate.c.key == key).with_for_update())

    def _read(self, scope: Scope, keys: Sequence[bytes]) -> tuple[float, list[Level]]:
        found = {
            row.key: Level(row.used, row.at)
            for row in scope.rows(sa.select(rate).where(rate.c.key.in_(keys)))
        }
        return self._now(scope), [found[key] for key in keys]

    def _now(self, scope: Scope) -> float:
        return scope.clock() if self._clock is None else self._clock()
