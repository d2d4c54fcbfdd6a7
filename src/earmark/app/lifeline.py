"""A child process ends with its parent, however the parent ended.

The parent keeps the write end of a pipe open and writes nothing; the child reads. End of file
means that the parent is gone, even by SIGKILL, on every system that has pipes.
"""

from __future__ import annotations

import os
import signal
import threading

VARIABLE = "EARMARK_LIFELINE"
"""Names the read end's descriptor to the child; no setting of an operator."""


def hold() -> None:
    """In the child: asks this process to stop as soon as the parent is gone."""
    descriptor = os.environ.pop(VARIABLE, "")
    if descriptor:
        threading.Thread(target=_wait, args=(int(descriptor),), daemon=True).start()


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
