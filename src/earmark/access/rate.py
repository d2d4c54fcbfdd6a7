"""How many requests one client may make."""

from __future__ import annotations

import math
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark.errors import RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CLIENTS = 100_000
"""Clients counted at once, about 200 bytes each; the longest quiet one goes first."""

TOLERANCE = 1e-3
"""In requests: rounding must not refuse a client that waited as long as it was told."""

_SECONDS = {"s": 1, "min": 60, "h": 3600}
_RATE = re.compile(r"(\d{1,9})/(\d{1,5})?(s|min|h)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` requests at once, and as many again, evenly spread, every `seconds`."""

    count: int
    seconds: int

    def share(self, processes: int) -> Rate:
        """The part of one of several processes that count apart; at least one request."""
        return Rate(max(1, self.count // processes), self.seconds)


@dataclass(frozen=True, slots=True)
class RateState:
    """Where a client stands after a request that was taken.

    Attributes:
        limit: the client's rate.
        remaining: requests that would be taken now.
        reset_seconds: until one more than that would be.
    """

    limit: Rate
    remaining: int
    reset_seconds: float


def parse_rate(text: str) -> Rate:
    """Reads a rate like `50/s`, `3000/min`, `9000/h` or `100/10s`.

    Raises:
        ValueError: another form, or nothing would ever be taken.
    """
    match = _RATE.fullmatch(text.strip())
    count, times = (0, 0) if match is None else (int(match[1]), int(match[2] or 1))
    if match is None or not count or not times:
        raise ValueError(f'"{text}" is not a rate; write one like 50/s, 3000/min or 100/10s.')
    return Rate(count, times * _SECONDS[match[3]])


class Limiter:
    """Counts the requests of each client, in the memory of this process.

    Processes know nothing of each other: whoever builds several gives each its `Rate.share`.
    Source: GCRA, ITU-T I.371 annex A, in its form as a continuous leaky bucket: what is used and
    since when, rather than one absolute time, whose rounding would cost requests.
    """

    def __init__(
        self,
        rate: Rate,
        *,
        timer: Callable[[], float] = time.monotonic,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self._rate = rate
        self._interval = rate.seconds / rate.count
        self._timer = timer
        self._max_clients = max_clients
        self._used: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def charge(self, client_id: str) -> RateState:
        """Counts one request.

        Raises:
            RateLimitedError: it is one too many, and was not counted.
        """
        with self._lock:
            now = self._timer()
            used, at = self._used.get(client_id, (0.0, now))
            free = self._rate.count - max(0.0, used - (now - at) / self._interval)
            left = math.floor(free + TOLERANCE)
            if left < 1:
                raise RateLimitedError((1 - free) * self._interval)
            self._keep(client_id, self._rate.count - free + 1, now)
        return RateState(self._rate, left - 1, (left + 1 - free) * self._interval)

    def _keep(self, client_id: str, used: float, at: float) -> None:
        self._used.pop(client_id, None)
        self._used[client_id] = (used, at)
        if len(self._used) > self._max_clients:
            del self._used[next(iter(self._used))]
