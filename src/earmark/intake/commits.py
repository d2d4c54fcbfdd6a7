"""Uploads that are kept together: whatever waits when a thread is free goes with it.

Each step is done for all before the next one begins: their bytes are durable, then they have their
names, then one transaction has their rows. An upload alone is kept at once; of many, one wait for
the disk serves all, and a thread is asked once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from earmark.errors import CallerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from earmark.database import Database, Piece
    from earmark.intake.stage import Content, Stages
    from earmark.model import Accepted

TOGETHER = 32
"""Uploads that are kept together at most, so that the first does not wait long for the last."""

RUNNERS = 2
"""Threads that keep uploads where these share a transaction: while one waits for the disk, the
other hashes and writes."""

RUNNERS_ALONE = 16
"""The same where each has a transaction of its own, for whose end a thread waits."""


class Commit:
    """One upload that is to be kept. Its methods block.

    Attributes:
        content: its bytes.
        rows: writes what is kept of it, and returns that.
        failure: why it is not kept.
    """

    def __init__(self, content: Content, check: Callable[[], None], rows: Piece[Accepted]) -> None:
        """`check` demands of the bytes what they have to be; it raises CallerError."""
        self.content = content
        self.rows = rows
        self.failure: BaseException | None = None
        self.accepted: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self._check = check
        self._outcome: Accepted | None = None

    def write(self) -> None:
        """Checks the bytes and has the storage take all of them."""
        try:
            self._check()
            self.content.write_rest()
        except BaseException as error:  # noqa: BLE001 - told to who waits
            self.give_up(error)

    def end(self) -> None:
        """Notes what became of the rows."""
        try:
            self._outcome = self.rows.result()
        except CallerError as error:
            # Only here is it certain that no row claims the bytes. After any other failure the
            # commit may have happened all the same, so the bytes are left to the sweeper.
            self.give_up(error)
        except BaseException as error:  # noqa: BLE001 - told to who waits
            self.failure = error

    def give_up(self, failure: BaseException) -> None:
        """Removes the bytes."""
        self.failure = failure
        self.content.discard()

    def tell(self) -> None:
        """Ends the wait, in its event loop."""
        if self._outcome is not None:
            self.accepted.set_result(self._outcome)
        else:
            self.accepted.set_exception(self.failure or RuntimeError("nothing became of it"))


class Commits:
    """Keeps uploads."""

    def __init__(self, database: Database, stages: Stages) -> None:
        """Begins nothing yet."""
        self._database = database
        self._store = stages.store
        self._pool = stages.pool
        self._most = TOGETHER if database.is_sqlite else 1
        self._runners = RUNNERS if database.is_sqlite else RUNNERS_ALONE
        self._running = 0
        self._waiting: list[Commit] = []
        self._lock = threading.Lock()

    def keep(self, commit: Commit) -> asyncio.Future[Accepted]:
        """Begins to keep it; it goes on to the end, whatever becomes of who waits for that.

        What its parts raise comes out of the future, and UnavailableError: then nothing is kept,
        unless the database went away while it was committing.
        """
        with self._lock:
            self._waiting.append(commit)
            if self._running < self._runners:
                self._begin(commit)
        return commit.accepted

    def _begin(self, first: Commit) -> None:
        """Has one more thread keep what waits."""
        try:
            self._pool.submit(self._run)  # in no request's context: it serves many
        except BaseException:
            self._waiting.remove(first)  # who is told that it is not kept must not find it kept
            raise
        self._running += 1

    def _run(self) -> None:
        try:
            while batch := self._next():
                self._keep(batch)
        except BaseException:
            with self._lock:
                self._running -= 1
            raise

    def _next(self) -> Sequence[Commit]:
        """What goes together now. After nothing at all its runner has stopped."""
        with self._lock:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            self._running -= not batch
            return batch

    def _keep(self, batch: Sequence[Commit]) -> None:
        try:
            for commit in batch:
                commit.write()
            self._publish(_good(batch))
            self._write_rows(_good(batch))
        except BaseException as error:  # noqa: BLE001 - nobody is left waiting
            for commit in _good(batch):
                commit.failure = error
        finally:
            _tell(batch)

    def _publish(self, batch: Sequence[Commit]) -> None:
        failures = self._store.publish([commit.content.staged for commit in batch])
        for commit, failure in zip(batch, failures, strict=True):
            if failure is not None:
                commit.give_up(failure)

    def _write_rows(self, batch: Sequence[Commit]) -> None:
        self._database.share([commit.rows for commit in batch])
        for commit in batch:
            commit.end()


def _good(batch: Sequence[Commit]) -> list[Commit]:
    return [commit for commit in batch if commit.failure is None]


def _tell(batch: Sequence[Commit]) -> None:
    def tell() -> None:
        for commit in batch:
            commit.tell()

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        batch[0].accepted.get_loop().call_soon_threadsafe(tell)
