"""A child process ends with its parent, however the parent ended.

The parent keeps the write end of a pipe open and writes nothing; the children read. End of file
means that the parent is gone, even by SIGKILL, on every system that has pipes.
"""

from __future__ import annotations

import os
import signal
import threading


class Lifeline:
    """The pipe; made by the parent before its first child."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()

    def hold(self) -> None:
        """In a child: asks this process to stop as soon as the parent is gone."""
        os.close(self._write_end)  # a copy in the child's hands would keep the parent alive
        threading.Thread(target=_wait, args=(self._read_end,), daemon=True).start()

    def close(self) -> None:
        """In the parent: closes both ends."""
        os.close(self._write_end)
        os.close(self._read_end)


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
