"""What each upload takes of its organization's quota, from its first byte to its end."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from earmark.access.cache import Cache
from earmark.database import reservations as stored
from earmark.errors import StorageQuotaError, TooManyUploadsError, UnavailableError
from earmark.intake import holding
from earmark.model import new_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from concurrent.futures import Executor
    from types import TracebackType
    from uuid import UUID

    from earmark.database import Database
    from earmark.errors import CallerError
    from earmark.model import Quota

KEEP_SECONDS = stored.HOLD_SECONDS / 3
"""How often the end of what is on its way is put off."""

STEP_BYTES = 8 * 1024 * 1024
"""Reserved ahead of an upload that does not say how long it is: one statement for as many."""

REFUSED_SECONDS = 0.1
"""How long a refusal is repeated from memory: whoever sends against a limit without a pause then
costs others no look at the database. What is given back in this process ends it at once."""

REMEMBERED = 10_000
"""Organizations whose last refusal is remembered, about 300 bytes each."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """That an upload of `least_bytes` was refused, and any other as large would have been."""

    error: Callable[[], CallerError]
    least_bytes: int
    until: float


class Reservations:
    """The reservations of one process."""

    def __init__(
        self,
        database: Database,
        pool: Executor,
        quota: Callable[[UUID], Quota],
        known_quota: Callable[[UUID], Quota | None],
    ) -> None:
        """Opens nothing yet.

        Args:
            database: where those of all processes are.
            pool: for what blocks.
            quota: of an organization; it may block.
            known_quota: the same from memory, or None.
        """
        self.quota = quota
        self.known_quota = known_quota
        self._pool = pool
        self.stored = stored.Reservations(database)
        self.held = holding.Held()
        self._refusals: Cache[UUID, _Refusal] = Cache(REMEMBERED)

    def of(self, organization_id: UUID) -> Reservation:
        """A reservation of an organization, which has yet to begin."""
        return Reservation(self, organization_id)

    async def run(self, function: Callable[..., object], *args: int) -> None:
        """Runs a function that blocks to its end, whatever becomes of the caller."""
        await holding.run(self._pool, function, *args)

    def repeat_refusal(self, organization_id: UUID, least_bytes: int) -> None:
        """Raises what such an upload of the organization got a moment ago; does not block."""
        refusal = self._refusals.get(organization_id)
        if refusal and refusal.least_bytes <= least_bytes and time.monotonic() < refusal.until:
            raise refusal.error()

    @contextlib.contextmanager
    def remembering(self, organization_id: UUID, least_bytes: int) -> Iterator[None]:
        """Remembers it if the block refuses such an upload."""
        began = time.monotonic()
        try:
            yield
        except TooManyUploadsError as error:
            again = functools.partial(TooManyUploadsError, error.retry_after_seconds)
            refusal = _Refusal(again, 0, began + REFUSED_SECONDS)
            self._refusals.put(organization_id, refusal)
            raise
        except StorageQuotaError:
            refusal = _Refusal(StorageQuotaError, least_bytes, began + REFUSED_SECONDS)
            self._refusals.put(organization_id, refusal)
            raise

    def forget_refusal(self, organization_id: UUID) -> None:
        """Has it found out anew: something was given back."""
        self._refusals.forget(organization_id)

    @contextlib.asynccontextmanager
    async def tended(self) -> AsyncIterator[None]:
        """While the block runs, reservations do not end before their uploads."""
        async with holding.kept(
            self._pool, self._keep, every_seconds=KEEP_SECONDS, what="reservations"
        ):
            yield

    def _keep(self) -> None:
        if held := self.held.all():
            self.stored.keep(held)


class Reservation:
    """The part of one upload; an asynchronous context manager that gives it back.

    Attributes:
        id: of the interaction that the upload becomes.
    """

    def __init__(self, reservations: Reservations, organization_id: UUID) -> None:
        self.id = new_id()
        self._reservations = reservations
        self._organization_id = organization_id
        self._covered_bytes = 0

    def begin_unlimited(self) -> bool:
        """Begins if it is known that no quota holds; else False. Does not block."""
        quota = self._reservations.known_quota(self._organization_id)
        if quota is None or quota.limits_storage:
            return False
        self._covered_bytes = sys.maxsize
        return True

    def begin(self, least_bytes: int, most_bytes: int | None) -> None:
        """Reserves what the upload is going to take, if there is a quota. Blocks.

        Args:
            least_bytes: as many will come for sure; even an empty room has no place for none.
            most_bytes: no more will come; None if nobody knows.

        Raises:
            TooManyUploadsError: the organization has too many on their way.
            StorageQuotaError: the least does not fit.
            UnavailableError: the database cannot serve.
        """
        wanted = least_bytes + STEP_BYTES if most_bytes is None else most_bytes
        least = max(1, least_bytes)
        with self._reservations.remembering(self._organization_id, least):
            if self._reserve(least, max(1, wanted)):
                self._reservations.held.hold(self.id)

    async def cover(self, size_bytes: int) -> None:
        """Sees to it that as many bytes are reserved.

        Raises:
            StorageQuotaError: they do not fit.
            UnavailableError: the database cannot serve.
        """
        if size_bytes > self._covered_bytes:
            await self._reservations.run(self._reserve, size_bytes, size_bytes + STEP_BYTES)

    def end(self) -> None:
        """Gives it back, if there is something to give. Blocks."""
        if self.id in self._reservations.held:
            self._reservations.held.drop(self.id)
            with contextlib.suppress(UnavailableError):  # then it ends when its time is over
                self._reservations.stored.release(self._organization_id, self.id)
            self._reservations.forget_refusal(self._organization_id)

    async def __aenter__(self) -> Self:
        """Nothing to do: it has begun."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives it back, even while the caller is being cancelled."""
        if self.id in self._reservations.held:
            await self._reservations.run(self.end)

    def _reserve(self, least_bytes: int, wanted_bytes: int) -> bool:
        """Whether there is something to give back."""
        quota = self._reservations.quota(self._organization_id)
        if not quota.limits_storage:
            self._covered_bytes = sys.maxsize
            return False
        reserved = self._reservations.stored.reserve(
            self._organization_id,
            self.id,
            quota,
            least_bytes=least_bytes,
            wanted_bytes=wanted_bytes,
        )
        self._covered_bytes = reserved if quota.stored_bytes else sys.maxsize
        return True
