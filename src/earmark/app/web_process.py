"""One web process: uvicorn over a socket that its supervisor opened."""

from __future__ import annotations

import argparse
import signal
import socket

import uvicorn

from earmark import config, telemetry
from earmark.app import lifeline
from earmark.app.parts import Parts
from earmark.web import Heart, create_app

KEEP_ALIVE_SECONDS = 65
"""Longer than the 60 s after which usual load balancers drop an idle connection themselves."""


def main() -> None:
    """Serves until SIGTERM; running requests then have the grace time to end."""
    options = _options()
    # uvicorn handles these while it serves and raises them once more at its end. The default
    # would then end the process at once, in the middle of what it still has to tidy up.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    lifeline.hold()
    settings = config.load()
    telemetry.configure(log_format=settings.log_format, level=settings.log_level)
    parts = Parts(settings, issuer=options.issuer, processes=options.processes)
    heart = Heart(
        access=parts.access,
        intake=parts.intake,
        interactions=parts.interactions,
        directory=parts.directory,
        readiness=parts.readiness,
        upload_idle_seconds=settings.upload_idle_seconds,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(heart),
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.shutdown_grace_seconds,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
        ),
    )
    server.run(sockets=[socket.socket(fileno=options.descriptor)])


def _end(*_signal: object) -> None:
    raise SystemExit(0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--descriptor", type=int, required=True)
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    return parser.parse_args()


if __name__ == "__main__":
    main()
