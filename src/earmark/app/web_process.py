"""One web process: uvicorn over connections to a socket that its supervisor opened."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from typing import TYPE_CHECKING

import uvicorn
from typing_extensions import override

from earmark.app import acceptor, fork
from earmark.app.acceptor import Acceptor
from earmark.app.parts import Parts
from earmark.app.protocol import Protocol
from earmark.telemetry import Rarely
from earmark.web import Heart, create_app

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from earmark.app.listen import Listen
    from earmark.config import Settings


def serve_web(settings: Settings, listen: Listen, bound: socket.socket) -> None:
    """Serves until SIGTERM; running requests then have the grace time to end."""
    # uvicorn handles these while it serves and raises them once more at its end. The default
    # would then end the process at once, in the middle of what it still has to tidy up.
    for number in fork.ENDING:
        signal.signal(number, _end)
    logging.getLogger("uvicorn.error").addFilter(Rarely())  # anybody can have it say things
    parts = Parts(settings, issuer=listen.address)
    heart = Heart(
        access=parts.access,
        intake=parts.intake,
        interactions=parts.interactions,
        directory=parts.directory,
        readiness=parts.readiness,
        upload_idle_seconds=settings.upload_idle_seconds,
        upload_min_rate=settings.upload_min_rate,
        stopping=lambda: server.should_exit,
    )
    server = _Server(
        uvicorn.Config(
            create_app(heart),
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_keep_alive=settings.keep_alive_seconds,
            timeout_graceful_shutdown=settings.shutdown_grace_seconds,
            ssl_certfile=listen.tls_cert,
            ssl_keyfile=listen.tls_key,
        ),
        acceptor.Limits(
            connections=acceptor.room_for(settings.max_connections),
            per_address=settings.max_connections_per_address,
            proxies=settings.trusted_proxies,
            handshake_seconds=settings.head_seconds,
            unread_seconds=settings.download_idle_seconds,
        ),
        head_seconds=settings.head_seconds,
    )
    _spare_collector()
    server.run(sockets=[bound])


def _spare_collector() -> None:
    """Has the garbage collector leave alone what was made until now, which stays for good.

    It would go through the hundred thousand objects of our libraries each time, while nothing
    else runs: 45 ms, in which nobody is answered (measured).
    """
    gc.collect()
    gc.freeze()


class _Server(uvicorn.Server):
    """uvicorn's server, over connections that we accept ourselves."""

    def __init__(
        self, config: uvicorn.Config, limits: acceptor.Limits, *, head_seconds: float
    ) -> None:
        super().__init__(config)
        self._limits = limits
        self._head_seconds = head_seconds

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn, which here has no sockets of its own."""
        await super().startup(sockets=[])
        for bound in sockets or []:
            accepting = Acceptor(bound, self._limits, self._protocol, tls=self.config.ssl)
            self.servers.append(accepting)  # type: ignore[arg-type] # it closes it, no more

    def _protocol(self, on_lost: Callable[[], None]) -> Protocol:
        return Protocol(
            self.config,
            self.server_state,
            self.lifespan.state,
            asyncio.get_running_loop(),
            head_seconds=self._head_seconds,
            on_lost=on_lost,
        )


def _end(*_signal: object) -> None:
    raise SystemExit(0)
