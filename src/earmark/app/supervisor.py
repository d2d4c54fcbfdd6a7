"""Looks after child processes: what dies is started again, and at the end all end in order."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from earmark.app.fork import ENDING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
"""Before a process that died is started again: doubled each time it dies young."""

YOUNG_SECONDS = 60.0

AFTER_GRACE_SECONDS = 5.0
"""What processes have beyond the grace time to end themselves, before they are killed."""

LOOK_SECONDS = 0.1
"""Between looks at the processes."""

log = structlog.get_logger("earmark.serve")


class Process(Protocol):
    """A started child; see multiprocessing.Process, which is one."""

    @property
    def exitcode(self) -> int | None:
        """None while it runs; a negative number is that of the signal which ended it."""

    def join(self, timeout: float | None = None) -> None:
        """Waits for its end."""

    def terminate(self) -> None:
        """Asks it to end."""

    def kill(self) -> None:
        """Ends it."""


@dataclass(slots=True)
class Child:
    """A process that is to live as long as we do.

    Attributes:
        main: what it does from its beginning to its end.
    """

    name: str
    main: Callable[[], None]
    process: Process | None = None
    started_at: float = 0.0
    start_after: float = 0.0
    wait_seconds: float = FIRST_WAIT_SECONDS


class Supervisor:
    """Starts the processes, starts again what dies, and ends them all in order."""

    def __init__(
        self,
        children: Sequence[Child],
        bound: socket.socket,
        *,
        start: Callable[[str, Callable[[], None]], Process],
        grace_seconds: float,
        on_end: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """Starts nothing yet.

        Args:
            children: in the order in which they are started.
            bound: the socket they take connections from; closed here before they are ended.
            start: starts one of a name, which calls its `main`.
            grace_seconds: what they have to end well.
            on_end: told the name of each that ended by itself.
        """
        self._children = children
        self._bound = bound
        self._start = start
        self._grace_seconds = grace_seconds
        self._on_end = on_end
        self._stopping = False

    def run(self) -> None:
        """Runs until a signal says stop."""
        for number in ENDING:
            signal.signal(number, self._stop)
        try:
            while not self._stopping:
                for child in self._children:
                    self._keep_alive(child)
                time.sleep(LOOK_SECONDS)
        finally:
            self._end_all()

    def _stop(self, *_signal: object) -> None:
        # No threading.Event: setting one in a handler can wait for the thread it interrupted.
        self._stopping = True

    def _keep_alive(self, child: Child) -> None:
        moment = time.monotonic()
        if child.process is not None and child.process.exitcode is not None:
            young = moment - child.started_at < YOUNG_SECONDS
            wait = child.wait_seconds if young else FIRST_WAIT_SECONDS
            log.warning("process died", name=child.name, status=child.process.exitcode, retry=wait)
            self._on_end(child.name)
            child.process = None
            child.start_after = moment + wait
            child.wait_seconds = min(wait * 2, LONGEST_WAIT_SECONDS)
        if child.process is None and moment >= child.start_after:
            child.process = self._start(child.name, child.main)
            child.started_at = moment

    def _end_all(self) -> None:
        self._bound.close()  # or new connections would be taken here and served by nobody
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self._grace_seconds + AFTER_GRACE_SECONDS
        for process in running:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in running:
            process.kill()
            process.join()
