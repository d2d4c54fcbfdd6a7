"""A process that has loaded everything; told a kind of process, it starts one as its own copy.

"web" and "worker" are those of `earmark serve`; a "sweeper" is a worker that spares nothing older
than a moment, for when no upload is on its way.

Its arguments: a port, and how many threads the intake of a web process has; 0 for the usual.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from earmark.app import parts, web_process
from earmark.app.listen import Listen, bind
from earmark.config import load
from earmark.telemetry import configure

if TYPE_CHECKING:
    from collections.abc import Callable

END_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2), of Linux: so no copy outlives a test run that is killed."""

SWEEPER_GRACE_SECONDS = 1
"""The setting begins at a minute, which no test should wait for."""


def _main(port: int, intake_threads: int) -> None:
    settings, listen = load(), Listen("127.0.0.1", port)
    configure(log_format=settings.log_format, level=settings.log_level)
    if intake_threads:
        parts.INTAKE_THREADS = parts.WRITING_THREADS = intake_threads

    def web() -> None:
        with bind(listen) as bound:  # nobody waits at the door of one that died
            web_process.serve_web(settings, listen, bound)

    def worker(**other: object) -> None:
        from earmark.app.worker_process import work

        work(settings.model_copy(update=other))

    def sweeper() -> None:
        from earmark.app import worker_process

        often = functools.partial(worker_process.Pace, sweep_seconds=SWEEPER_GRACE_SECONDS)
        worker_process.Pace = often  # type: ignore[assignment,misc]
        worker(orphan_grace_seconds=SWEEPER_GRACE_SECONDS)

    processes = {"web": web, "worker": worker, "sweeper": sweeper}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who dies is not waited for
    with socket.socket() as kept:  # or others take the port while nobody listens at it
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((listen.host, listen.port))
        for line in sys.stdin:
            print(_copy(processes[line.strip()]), flush=True)


def _copy(main: Callable[[], None]) -> int:
    if copied := os.fork():
        return copied
    ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(os.devnull) as nothing, open(2, "w", closefd=False) as log:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
    try:
        main()
    finally:
        os._exit(1)  # none ends but by being killed


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
