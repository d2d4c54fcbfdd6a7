"""How often a step is tried and how long is waited in between."""

from __future__ import annotations

import random
from dataclasses import dataclass

LEAST_SHARE = 0.5
"""Of a wait: what failed together is not tried again together."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Waits that grow from attempt to attempt, up to a bound, each shortened by chance.

    Attributes:
        attempts: the most that are made in a row; after the last one the step has failed.
        first_seconds: the longest wait before the second attempt.
        growth: by which each wait is longer than the one before.
        most_seconds: the longest wait of all.
    """

    attempts: int
    first_seconds: float
    growth: float
    most_seconds: float

    def bound_seconds(self, failed: int) -> float:
        """The longest wait after this many attempts that failed, from 1."""
        return min(self.most_seconds, self.first_seconds * self.growth ** (failed - 1))

    def wait_seconds(self, failed: int) -> float:
        """The wait after this many attempts that failed: its bound, or as little as half of it."""
        return self.bound_seconds(failed) * random.uniform(LEAST_SHARE, 1.0)  # noqa: S311 - no secret


FAULTS = Patience(attempts=3, first_seconds=2.0, growth=5.0, most_seconds=60.0)
"""For what may be our fault, or a file's that ends its worker: 2 and 10 seconds."""

OUTAGES = Patience(attempts=10, first_seconds=2.0, growth=3.0, most_seconds=900.0)
"""For a service that is away: 2, 6, 18, 54, 162, 486 seconds, then 15 minutes each; an hour
in all, so that what restarts, moves or is mended soon needs nobody's retry."""
