"""`earmark serve`: web processes and a worker beside them; what dies is started again."""

from __future__ import annotations

import gc
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import structlog

from earmark.app import fork
from earmark.app.lifeline import Lifeline
from earmark.app.listen import bind, check_listen
from earmark.app.parts import Parts, walls
from earmark.app.supervisor import Child, Supervisor

if TYPE_CHECKING:
    import socket

    from earmark.app.listen import Listen
    from earmark.config import Settings

log = structlog.get_logger("earmark.serve")


def serve(settings: Settings, listen: Listen) -> None:
    """Serves until SIGTERM or SIGINT, then lets what runs end within the grace time.

    Raises:
        SettingsError: it must not or cannot start; one sentence says why and how to mend it.
        UnavailableError: database or storage cannot be reached.
    """
    check_listen(settings, listen)
    with closing(Parts(settings, issuer=listen.address)) as parts:
        parts.prepare()
        parts.check_role()
        parts.access.check()
        walls(settings)  # a wrong setting ends the start, not each web process
    with bind(listen) as bound, closing(Lifeline()) as lifeline:
        log.info("serving", address=listen.address, data=str(settings.data))
        gc.freeze()  # or the children's collectors would copy what they share with us
        Supervisor(
            children(settings, listen, bound),
            bound,
            start=partial(fork.start, lifeline=lifeline),
            grace_seconds=settings.shutdown_grace_seconds,
        ).run()


def children(settings: Settings, listen: Listen, bound: socket.socket) -> list[Child]:
    """The processes that serve: web processes on one socket, and a worker unless none is wanted.

    What only some of them need they load themselves, so that no web process has the engine.
    """

    def web() -> None:
        from earmark.app.web_process import serve_web  # noqa: PLC0415

        serve_web(settings, listen, bound)

    def worker() -> None:
        bound.close()  # a port stays taken for as long as anybody has its socket
        from earmark.app.worker_process import work  # noqa: PLC0415

        work(settings)

    made = [Child(f"web-{number}", web) for number in range(listen.web_processes)]
    return [*made, Child("worker", worker)] if listen.worker else made
