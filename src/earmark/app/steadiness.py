"""How long the clock has run evenly: what is old by it may be young, after it jumped.

Files bear the time of the clock that wrote them. Right after it was set forward, bytes that an
upload published a second ago look hours old, and their row is not committed yet.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

JUMP_SECONDS = 5.0
"""Between two looks; a clock that is set right gently moves half a millisecond in a second.

Source: adjtimex(2), the largest slew that ntpd and chronyd use by default."""

log = structlog.get_logger("earmark.worker")


class Steadiness:
    """Watches the clock against that of the machine, which is never set."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins to watch; before, the clock is taken to have run evenly."""
        self._clock = clock
        self._timer = timer
        self._offset = clock() - timer()
        self._jumped_at = float("-inf")

    def seconds(self) -> float:
        """For how long it has, up to now; infinity if no jump was seen."""
        moment = self._timer()
        before, self._offset = self._offset, self._clock() - moment
        if abs(self._offset - before) > JUMP_SECONDS:
            log.warning("clock jumped", seconds=round(self._offset - before))
            self._jumped_at = moment
        return moment - self._jumped_at
