"""How slowly the body of a request may come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark.errors import SlowError

if TYPE_CHECKING:
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
    """

    def __init__(self, receive: Receive, pace: Pace) -> None:
        self._receive = receive
        self._pace = pace
        self._waited_seconds = 0.0
        self._came_bytes = 0

    async def __call__(self) -> Message:
        """See ASGI.

        Raises:
            SlowError: nothing came for too long, or too little over as long.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._pace.seconds):
                message = await self._receive()
        except TimeoutError:
            raise SlowError(f"nothing came for {self._pace.seconds:g} s") from None
        self._waited_seconds += loop.time() - began
        self._came_bytes += len(message.get("body", b""))
        if self._waited_seconds >= self._pace.seconds and message.get("more_body", False):
            self._judge()
        return message

    def _judge(self) -> None:
        if self._came_bytes < self._waited_seconds * self._pace.bytes_per_second:
            raise SlowError(f"{self._came_bytes} bytes came in {self._waited_seconds:.1f} s")
        self._waited_seconds, self._came_bytes = 0.0, 0
