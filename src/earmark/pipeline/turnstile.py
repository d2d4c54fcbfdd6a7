"""Lets attempts in side by side, and one alone where a death of the worker must have one cause."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOK_SECONDS = 0.2
"""Between looks whether the worker stops, while one waits."""


class Turnstile:
    """Where every attempt at a step passes in and out."""

    def __init__(self, leave_if_stopping: Callable[[], None]) -> None:
        """Keeps what raises, to those that wait, when the worker stops."""
        self._leave_if_stopping = leave_if_stopping
        self._changed = threading.Condition()
        self._inside = 0
        self._is_alone = False
        self._wanted = 0

    @contextmanager
    def enter(self, *, alone: bool) -> Iterator[Callable[[], None]]:
        """Waits for its turn; one that wants to be alone lets no others pass it.

        Yields:
            what gives the place back before the block ends; calling it again does nothing.
        """
        enter, leave = (self._alone, self._end_alone) if alone else (self._in, self._out)
        enter()
        left = False

        def give_back() -> None:
            nonlocal left
            if not left:
                left = True
                leave()

        try:
            yield give_back
        finally:
            give_back()

    def _in(self) -> None:
        with self._changed:
            self._wait_for(lambda: not self._is_alone and not self._wanted)
            self._inside += 1

    def _out(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def _alone(self) -> None:
        with self._changed:
            self._wanted += 1
            try:
                self._wait_for(lambda: not self._is_alone and not self._inside)
                self._is_alone = True
            finally:
                self._wanted -= 1
                self._changed.notify_all()

    def _end_alone(self) -> None:
        with self._changed:
            self._is_alone = False
            self._changed.notify_all()

    def _wait_for(self, holds: Callable[[], bool]) -> None:
        while not self._changed.wait_for(holds, LOOK_SECONDS):
            self._leave_if_stopping()
