"""One web process: uvicorn over a socket that its supervisor opened."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import uvicorn

from earmark.app import fork
from earmark.app.parts import Parts
from earmark.web import Heart, create_app

if TYPE_CHECKING:
    import socket

    from earmark.app.listen import Listen
    from earmark.config import Settings

KEEP_ALIVE_SECONDS = 65
"""Longer than the 60 s after which usual load balancers drop an idle connection themselves."""


def serve_web(settings: Settings, listen: Listen, bound: socket.socket) -> None:
    """Serves until SIGTERM; running requests then have the grace time to end."""
    # uvicorn handles these while it serves and raises them once more at its end. The default
    # would then end the process at once, in the middle of what it still has to tidy up.
    for number in fork.ENDING:
        signal.signal(number, _end)
    parts = Parts(settings, issuer=listen.address)
    heart = Heart(
        access=parts.access,
        intake=parts.intake,
        interactions=parts.interactions,
        directory=parts.directory,
        readiness=parts.readiness,
        upload_idle_seconds=settings.upload_idle_seconds,
        stopping=lambda: server.should_exit,
    )
    server = uvicorn.Server(
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
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.shutdown_grace_seconds,
            ssl_certfile=listen.tls_cert,
            ssl_keyfile=listen.tls_key,
        ),
    )
    server.run(sockets=[bound])


def _end(*_signal: object) -> None:
    raise SystemExit(0)
