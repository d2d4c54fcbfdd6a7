"""Where `earmark serve` listens, and where it must not."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from earmark.config import Settings

BACKLOG = 2048
"""Connections that wait to be accepted; the kernel caps it by net.core.somaxconn."""


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
    if not safe and not is_loopback(listen.host):
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


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(listen: Listen, *, host_by: str = "--host", port_by: str = "--port") -> socket.socket:
    """A socket that takes connections there.

    Args:
        listen: where.
        host_by: by what the operator says the host.
        port_by: by what the operator says the port.

    Raises:
        SettingsError: the host or the port cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SettingsError(
            f"{host_by} {listen.host} cannot be used ({error.strerror})."
        ) from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise SettingsError(
            f"{listen.host} port {listen.port} cannot be used ({error.strerror}); "
            f"choose another with {port_by}.",
        ) from None
    bound.listen(BACKLOG)
    return bound
