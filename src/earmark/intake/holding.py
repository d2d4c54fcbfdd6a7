"""What uploads have for as long as they last: its end is put off as long as the process lives."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

import structlog

from earmark.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Executor
    from uuid import UUID

log = structlog.get_logger("earmark.intake")


class Held:
    """The ids of what this process holds. Safe among threads."""

    def __init__(self) -> None:
        self._ids: set[UUID] = set()
        self._lock = threading.Lock()

    def hold(self, id_: UUID) -> None:
        """Has its end put off from now on."""
        with self._lock:
            self._ids.add(id_)

    def drop(self, id_: UUID) -> None:
        """Puts its end off no more."""
        with self._lock:
            self._ids.discard(id_)

    def __contains__(self, id_: UUID) -> bool:
        """Whether its end is put off."""
        return id_ in self._ids

    def all(self) -> list[UUID]:
        """All of them."""
        with self._lock:
            return list(self._ids)


async def run(pool: Executor, function: Callable[..., object], *args: object) -> None:
    """Runs a function that blocks to its end, whatever becomes of the caller."""
    await asyncio.shield(asyncio.wrap_future(pool.submit(function, *args)))


@contextlib.asynccontextmanager
async def kept(
    pool: Executor, keep: Callable[[], object], *, every_seconds: float, what: str
) -> AsyncIterator[None]:
    """While the block runs, `keep` is called now and then; what goes wrong is tried again."""
    keeping = asyncio.create_task(_keep(pool, keep, every_seconds, what))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def _keep(
    pool: Executor, keep: Callable[[], object], every_seconds: float, what: str
) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await run(pool, keep)
        except UnavailableError as error:
            log.warning("lease.unkept", what=what, error=str(error))
