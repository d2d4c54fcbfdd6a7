"""How slowly the body of a request may come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from earmark.errors import SlowError

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.types import Message, Receive


@dataclass(frozen=True, slots=True)
class Pace:
    """The least that is asked of who sends a body.

    Attributes:
        seconds: without a single byte a body is given up after as long.
        bytes_per_second: over as long it brings at least so much; 0 asks for nothing.
    """

    seconds: float
    bytes_per_second: int = 0


class Paced:
    """A request's `receive`, which gives up a body that comes too slowly.

    Only what is spent waiting for the caller counts: while we are busy with what came, or wait
    for the disk or for our own buffers, nothing is read and nobody is slow.

    One timer serves a whole request: it looks whether a wait has become too long. To begin and end
    one for each piece of a body takes longer than to read the piece (measured).
    """

    def __init__(self, receive: Receive, pace: Pace) -> None:
        self._receive = receive
        self._pace = pace
        self._waited_seconds = 0.0
        self._came_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: _Wait | None = None

    async def __call__(self) -> Message:
        """See ASGI. One call at a time.

        Raises:
            SlowError: nothing came for too long, or too little over as long.
        """
        loop = asyncio.get_running_loop()
        message: Message | None = None
        self._waiting = _Wait(asyncio.current_task(loop), loop.time())
        if self._timer is None:
            self._timer = loop.call_later(self._pace.seconds, self._look, loop)
        try:
            with self._waiting as wait:
                message = await self._receive()
        finally:
            self._waiting = None
        if message is None:
            raise SlowError(f"nothing came for {self._pace.seconds:g} s")
        self._waited_seconds += loop.time() - wait.since
        self._came_bytes += len(message.get("body", b""))
        if self._waited_seconds >= self._pace.seconds and message.get("more_body", False):
            self._judge()
        return message

    def end(self) -> None:
        """Forgets the timer: nothing more is read."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        since = loop.time() if self._waiting is None else self._waiting.since
        left = since + self._pace.seconds - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look, loop)
        elif self._waiting is not None:
            self._timer = None
            self._waiting.give_up()

    def _judge(self) -> None:
        if self._came_bytes < self._waited_seconds * self._pace.bytes_per_second:
            raise SlowError(f"{self._came_bytes} bytes came in {self._waited_seconds:.1f} s")
        self._waited_seconds, self._came_bytes = 0.0, 0


class _Wait:
    """A task that waits for the caller. Giving up ends the block, as `asyncio.timeout` does.

    Attributes:
        since: when it began, by the loop's clock.
    """

    __slots__ = ("_cancelling", "_given_up", "_task", "since")

    def __init__(self, task: asyncio.Task[Any] | None, since: float) -> None:
        if task is None:
            raise RuntimeError("a body is read in a task")
        self.since = since
        self._task = task
        self._cancelling = task.cancelling()
        self._given_up = False

    def give_up(self) -> None:
        """Ends the wait."""
        self._given_up = True
        self._task.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        """Swallows the cancellation if it was `give_up` alone that cancelled the task."""
        mine = self._given_up and kind is asyncio.CancelledError
        return mine and self._task.uncancel() <= self._cancelling
