"""Child processes that begin as copies of this one, so that what all need is loaded once.

A copy is taken of a process without other threads and without open connections alone: locks that
other threads hold would never be released in the copy, and a connection cannot be shared.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

    from earmark.app.lifeline import Lifeline

log = structlog.get_logger("earmark.serve")

ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that ask a process to end."""


def start(name: str, main: Callable[[], None], lifeline: Lifeline) -> BaseProcess:
    """Starts a child that calls `main` and ends with it, or with this process.

    Its exit status is that of the SystemExit that `main` raised, 0 if it returned, else 1. On
    Linux, `ps -e` and `top` show it as `earmark-<name>`.
    """
    arguments = (f"earmark-{name}", main, lifeline)
    child = multiprocessing.get_context("fork").Process(target=_begin, args=arguments, name=name)
    # Until the child has its own handlers, ours would swallow the signal that asks it to end.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


def _begin(name: str, main: Callable[[], None], lifeline: Lifeline) -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    os.setsid()  # Ctrl-C reaches the parent alone, and it tells the children
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with contextlib.suppress(OSError):  # there is no such file but on Linux
        Path("/proc/self/comm").write_text(name, encoding="ascii")
    lifeline.hold()
    try:
        main()
    except Exception:  # the edge of this process, which would print the message too
        log.exception("process failed")
        raise SystemExit(1) from None
