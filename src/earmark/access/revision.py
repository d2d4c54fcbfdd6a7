"""Whether what a process remembers of clients and keys is still so: one number, asked seldom."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from earmark.database import clients as queries

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark.database import Database

POLL_SECONDS = 0.5
"""How long the number is believed. A change is seen by every process within this, half of the
second that is promised; it costs a process two reads of one row a second, whatever comes in."""


class Revision:
    """The count of changes to clients and signing keys, in the database. Safe among threads."""

    def __init__(self, database: Database, *, timer: Callable[[], float]) -> None:
        self._database = database
        self._timer = timer
        self._lock = threading.Lock()
        self._read: tuple[int, float] | None = None

    def recent(self) -> int | None:
        """The number as read at most `POLL_SECONDS` ago; None if that is longer ago."""
        read = self._read
        if read is None or self._timer() - read[1] >= POLL_SECONDS:
            return None
        return read[0]

    def current(self) -> int:
        """As `recent`; reads it if need be. Of many threads that ask at once, one reads.

        Raises:
            UnavailableError: the database cannot serve, so nobody knows.
        """
        with self._lock:
            known = self.recent()
            if known is None:
                read_at = self._timer()  # before the read: what changes meanwhile is seen next
                with self._database.read(None) as scope:
                    known = queries.revision(scope)
                self._read = (known, read_at)
            return known

    def forget(self) -> None:
        """Has it read anew at once: something was changed by this very process."""
        self._read = None
