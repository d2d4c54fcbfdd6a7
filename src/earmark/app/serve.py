"""`earmark serve`: web processes and a worker beside them; what dies is started again."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from earmark.app import lifeline
from earmark.app.parts import Parts
from earmark.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from earmark.config import Settings

BACKLOG = 2048
"""Connections that wait to be accepted; the kernel caps it by net.core.somaxconn."""

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
"""Before a process that died is started again: doubled each time it dies young."""

YOUNG_SECONDS = 60.0

AFTER_GRACE_SECONDS = 5.0
"""What processes have beyond the grace time to end themselves, before they are killed."""

LOOK_SECONDS = 0.1
"""Between looks at the processes."""

log = structlog.get_logger("earmark.serve")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where and how `serve` listens.

    Attributes:
        insecure_http: the operator says that plain HTTP beyond this machine is meant.
    """

    host: str
    port: int
    web_processes: int = 1
    worker: bool = True
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_http: bool = False

    @property
    def address(self) -> str:
        """The base URL under which this machine reaches it."""
        scheme = "https" if self.tls_cert else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


def serve(settings: Settings, listen: Listen) -> None:
    """Serves until SIGTERM or SIGINT, then lets what runs end within the grace time.

    Raises:
        SettingsError: it must not or cannot start; one sentence says why and how to mend it.
        UnavailableError: database or storage cannot be reached.
    """
    check_listen(settings, listen)
    parts = Parts(settings, issuer=listen.address)
    parts.prepare()
    parts.access.check()
    parts.database.close()
    with _bind(listen) as bound:
        Supervisor(settings, listen, bound).run()


def check_listen(settings: Settings, listen: Listen) -> None:
    """Refuses to hand out tokens and recordings over plain HTTP beyond this machine.

    Raises:
        SettingsError: as said, or half of a TLS pair, or one that cannot be used.
    """
    if bool(listen.tls_cert) != bool(listen.tls_key):
        raise SettingsError("Give both --tls-cert and --tls-key, or neither.")
    for path in (listen.tls_cert, listen.tls_key):
        if path is not None and not path.is_file():
            raise SettingsError(f"{path} is not there; name the file with the PEM.")
    if listen.tls_cert and listen.tls_key:
        _check_pair(listen.tls_cert, listen.tls_key)
    safe = listen.tls_cert or settings.trusted_proxies or listen.insecure_http
    if not safe and not _is_loopback(listen.host):
        raise SettingsError(
            f"Listening on {listen.host} without TLS would show tokens and recordings to the "
            "network. Give --tls-cert and --tls-key, or set EARMARK_TRUSTED_PROXIES to the proxy "
            "that ends TLS, or say --insecure-http if that is meant.",
        )


def _check_pair(certificate: Path, key: Path) -> None:
    try:
        # An empty password, so that an encrypted key is an error and not a question.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{certificate} and {key} cannot be used together ({error}); give a certificate and "
            "its unencrypted key, both as PEM.",
        ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind(listen: Listen) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(f"--host {listen.host} cannot be used ({error.strerror}).") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise SettingsError(
            f"{listen.host} port {listen.port} cannot be used ({error.strerror}); "
            "choose another with --port.",
        ) from None
    bound.listen(BACKLOG)
    return bound


@dataclass(slots=True)
class _Child:
    """A process that is to live as long as we do."""

    name: str
    command: Sequence[str]
    descriptors: Sequence[int] = ()
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_after: float = 0.0
    wait_seconds: float = FIRST_WAIT_SECONDS


class Supervisor:
    """Starts the processes, starts again what dies, and ends them all in order."""

    def __init__(self, settings: Settings, listen: Listen, bound: socket.socket) -> None:
        self._settings = settings
        self._bound = bound
        self._stopping = False
        # Web processes alone: a port stays taken for as long as anybody has its socket.
        self._children = [
            _Child(f"web-{number}", _web_command(listen, bound.fileno()), (bound.fileno(),))
            for number in range(listen.web_processes)
        ]
        if listen.worker:
            command = [sys.executable, "-m", "earmark.app.worker_process"]
            self._children.append(_Child("worker", command))
        self._address = listen.address

    def run(self) -> None:
        """Runs until a signal says stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._read_end, write_end = os.pipe()
        try:
            log.info("serving", address=self._address, data=str(self._settings.data))
            while not self._stopping:
                for child in self._children:
                    self._keep_alive(child)
                time.sleep(LOOK_SECONDS)
        finally:
            self._end_all()
            os.close(write_end)
            os.close(self._read_end)

    def _stop(self, *_signal: object) -> None:
        # No threading.Event: setting one in a handler can wait for the thread it interrupted.
        self._stopping = True

    def _keep_alive(self, child: _Child) -> None:
        moment = time.monotonic()
        if child.process is not None and child.process.poll() is not None:
            young = moment - child.started_at < YOUNG_SECONDS
            wait = child.wait_seconds if young else FIRST_WAIT_SECONDS
            log.warning(
                "process died", name=child.name, status=child.process.returncode, retry=wait
            )
            child.process = None
            child.start_after = moment + wait
            child.wait_seconds = min(wait * 2, LONGEST_WAIT_SECONDS)
        if child.process is None and moment >= child.start_after:
            self._start(child, moment)

    def _start(self, child: _Child, moment: float) -> None:
        child.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            child.command,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self._environment()},
            pass_fds=(*child.descriptors, self._read_end),
            start_new_session=True,  # Ctrl-C reaches us alone, and we tell the children
        )
        child.started_at = moment

    def _environment(self) -> dict[str, str]:
        """What the command line decided, told to the children as the environment would."""
        return {
            "EARMARK_DATA": str(self._settings.data.absolute()),
            lifeline.VARIABLE: str(self._read_end),
        }

    def _end_all(self) -> None:
        self._bound.close()  # or new connections would be taken here and served by nobody
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.terminate()
        grace_seconds = self._settings.shutdown_grace_seconds + AFTER_GRACE_SECONDS
        deadline = time.monotonic() + grace_seconds
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in running:
            process.kill()
            process.wait()


def _web_command(listen: Listen, descriptor: int) -> list[str]:
    command = [sys.executable, "-m", "earmark.app.web_process"]
    command += ["--descriptor", str(descriptor), "--issuer", listen.address]
    command += ["--processes", str(listen.web_processes)]
    if listen.tls_cert and listen.tls_key:
        command += ["--tls-cert", str(listen.tls_cert), "--tls-key", str(listen.tls_key)]
    return command
