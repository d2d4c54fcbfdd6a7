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
from earmark.app.metering import Metering
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
        parts.warn_of_loss()
    with (
        bind(listen) as bound,
        closing(Metering(settings, names(listen))) as metering,
        closing(Lifeline()) as lifeline,
    ):
        log.info("serving", address=listen.address, data=str(settings.data))
        gc.freeze()  # or the children's collectors would copy what they share with us
        Supervisor(
            children(settings, listen, bound, metering),
            bound,
            start=partial(fork.start, lifeline=lifeline),
            grace_seconds=settings.shutdown_grace_seconds,
            on_end=metering.end,
        ).run()


def names(listen: Listen) -> list[str]:
    """Those of the processes that serve."""
    web = [f"web-{number}" for number in range(listen.web_processes)]
    return [*web, "worker"] if listen.worker else web


def children(
    settings: Settings, listen: Listen, bound: socket.socket, metering: Metering
) -> list[Child]:
    """The processes that serve: web processes on one socket, and a worker unless none is wanted.

    What only some of them need they load themselves, so that no web process has the engine. Each
    web process tells the metrics of all.
    """

    def web(name: str) -> None:
        metering.record(name)
        metering.answer()
        from earmark.app.web_process import serve_web  # noqa: PLC0415

        serve_web(settings, listen, bound)

    def worker(name: str) -> None:
        metering.record(name)
        for taken in (bound, metering):
            taken.close()  # a port stays taken for as long as anybody has its socket
        from earmark.app.worker_process import work  # noqa: PLC0415

        work(settings)

    return [
        Child(name, partial(worker if name == "worker" else web, name)) for name in names(listen)
    ]
