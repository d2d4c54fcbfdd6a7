"""Whose turn it is where few things can run at once, and organizations want them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType
    from uuid import UUID

KEPT_FREE = 4
"""One place in as many is left to other organizations, so that none waits for the end of a long
run of one alone. Fewer places than this are too few to leave one empty."""


class Turns:
    """The places of one event loop. The organization that has the fewest gets the next.

    Attributes:
        free: places that nobody has.
        share: places that one organization has at most.
    """

    def __init__(self, places: int) -> None:
        self.free = places
        self.share = places - places // KEPT_FREE
        self._taken: Counter[UUID] = Counter()
        self._waiting: list[Turn] = []

    def ask(self, organization_id: UUID) -> Turn:
        """A turn of an organization: a context manager, whose block begins when it has come."""
        turn = Turn(self, organization_id)
        self._waiting.append(turn)
        self._give()
        return turn

    def end(self, turn: Turn) -> None:
        """Takes a turn back, whether or not it had come."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        else:
            self.free += 1
            self._taken -= Counter([turn.organization_id])
            self._give()

    def _give(self) -> None:
        while self.free:
            able = [one for one in self._waiting if self._taken[one.organization_id] < self.share]
            if not able:
                return
            turn = min(able, key=lambda one: self._taken[one.organization_id])
            self._waiting.remove(turn)
            self.free -= 1
            self._taken[turn.organization_id] += 1
            turn.has_come.set()


class Turn:
    """One turn; see Turns.ask."""

    def __init__(self, turns: Turns, organization_id: UUID) -> None:
        self.organization_id = organization_id
        self.has_come = asyncio.Event()
        self._turns = turns

    async def __aenter__(self) -> Self:
        """Waits for it."""
        try:
            await self.has_come.wait()
        except asyncio.CancelledError:
            self._turns.end(self)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends it."""
        self._turns.end(self)
