"""How many requests one client may make, whichever process it meets."""

from __future__ import annotations

import math
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark.database.rates import Level
from earmark.errors import RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from earmark.database.rates import Rates

MAX_CLIENTS = 100_000
"""Clients of which leases are remembered, about 300 bytes each; the longest quiet goes first."""

TOLERANCE = 1e-3
"""In requests: rounding must not refuse a client that waited as long as it was told."""

LEASE_SECONDS = 0.25
"""How long a leased request may be used. It counts as made from the moment it is leased."""

LEASE_SHARE = 8
"""No lease is larger than this part of the rate's count."""

TURNS = 16
"""Clients whose leases one process takes at once."""

_SECONDS = {"s": 1, "min": 60, "h": 3600}
_RATE = re.compile(r"(\d{1,9})/(\d{1,5})?(s|min|h)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` requests at once, and as many again, evenly spread, every `seconds`."""

    count: int
    seconds: int

    @property
    def interval(self) -> float:
        """Seconds after which one more request is free."""
        return self.seconds / self.count

    def free(self, level: Level, now: float) -> float:
        """Requests that would be taken now; not whole, and never more than `count`.

        Source: GCRA, ITU-T I.371 annex A, in its form as a continuous leaky bucket: what is used
        and since when, rather than one absolute time, whose rounding would cost requests.
        """
        elapsed = max(0.0, now - level.at)
        return self.count - max(0.0, level.used - elapsed / self.interval)

    def demand(self, level: Level, now: float) -> None:
        """Raises RateLimitedError if not even one would be."""
        free = self.free(level, now)
        if free + TOLERANCE < 1:
            raise RateLimitedError((1 - free) * self.interval)

    def charged(self, level: Level, now: float, count: float = 1) -> Level:
        """The level after as many more requests."""
        return Level(max(0.0, self.count - self.free(level, now) + count), now)


@dataclass(frozen=True, slots=True)
class RateState:
    """Where a client stands after a request that was taken.

    Attributes:
        limit: the client's rate.
        remaining: requests that would be taken now, as far as this process knows.
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


@dataclass(slots=True)
class _Lease:
    """Requests that this process may take without asking.

    Attributes:
        size: how many were leased last.
        left: how many of them are.
        free: what was left for everybody after it.
        taken_at: when, by the timer.
        refused_until: nothing is free before that.
    """

    size: int
    left: int
    free: float
    taken_at: float
    refused_until: float = -math.inf


class Limiter:
    """Counts the requests of each client, together with all other processes. Safe among threads.

    A process leases requests in small bunches: one at first, twice as many each time a bunch was
    used up while it held, and never more than the `LEASE_SHARE`th part of the rate. So most
    requests cost no look at the database. What is leased counts at once, so no burst is larger
    than the rate says; but it may be used up to `LEASE_SECONDS` later. In any stretch of time
    are taken at most the rate's count, what becomes free meanwhile, and one lease a process.
    """

    def __init__(
        self,
        rate: Rate,
        rates: Rates,
        *,
        key: Callable[[str], bytes],
        timer: Callable[[], float],
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        """Leases nothing yet.

        Args:
            rate: of each client.
            rates: where all processes count.
            key: of a client's bucket there.
            timer: seconds that never run backwards.
            max_clients: of which leases are remembered.
        """
        self.rate = rate
        self._rates = rates
        self._key = key
        self._timer = timer
        self._max_clients = max_clients
        self._largest = max(1, rate.count // LEASE_SHARE)
        self._leases: dict[str, _Lease] = {}
        self._lock = threading.Lock()
        self._turns = [threading.Lock() for _ in range(TURNS)]

    def recall(self, client_id: str) -> RateState | None:
        """Counts one request if that needs no look at the database; else None: call `charge`.

        Raises:
            RateLimitedError: it is one too many, and was not counted.
        """
        with self._lock:
            lease, now = self._leases.get(client_id), self._timer()
            if lease is None:
                return None
            if now < lease.refused_until:
                raise RateLimitedError(lease.refused_until - now)
            if not lease.left or now - lease.taken_at >= LEASE_SECONDS:
                return None
            lease.left -= 1
            return self._state(lease, now)

    def charge(self, client_id: str) -> RateState:
        """As `recall`; leases if need be, which waits for the database.

        Raises:
            RateLimitedError: it is one too many, and was not counted.
            UnavailableError: the database cannot serve.
        """
        with self._turns[hash(client_id) % TURNS]:
            state = self.recall(client_id)  # another thread may have leased meanwhile
            if state is None:
                self._lease(client_id)
                state = self.recall(client_id)
        if state is None:
            # The lease ran out before its first request: the machine stood still. It is counted.
            state = RateState(self.rate, 0, self.rate.interval)
        return state

    def _lease(self, client_id: str) -> None:
        old = self._leases.get(client_id)
        wanted, unused = 1, 0
        if old is not None:
            spent = not old.left and self._timer() - old.taken_at < LEASE_SECONDS
            wanted = min(self._largest, old.size * 2) if spent else max(1, old.size // 2)
            unused = old.left
        taken_at = self._timer()
        made = _Lease(wanted, 0, 0.0, taken_at)

        def step(now: float, levels: Sequence[Level]) -> Sequence[Level]:
            returned = self.rate.charged(levels[0], now, -unused)
            free = self.rate.free(returned, now)
            made.left = min(wanted, math.floor(free + TOLERANCE))
            made.free = free - made.left
            return [self.rate.charged(returned, now, made.left)]

        self._rates.change([self._key(client_id)], step)
        if not made.left:
            made.refused_until = taken_at + (1 - made.free) * self.rate.interval
        with self._lock:
            self._keep(client_id, made)

    def _state(self, lease: _Lease, now: float) -> RateState:
        since = (now - lease.taken_at) / self.rate.interval
        total = min(self.rate.count - 1.0, lease.left + lease.free + since)
        remaining = max(0, math.floor(total + TOLERANCE))
        return RateState(self.rate, remaining, (remaining + 1 - total) * self.rate.interval)

    def _keep(self, client_id: str, lease: _Lease) -> None:
        self._leases.pop(client_id, None)
        self._leases[client_id] = lease
        if len(self._leases) > self._max_clients:
            del self._leases[next(iter(self._leases))]
