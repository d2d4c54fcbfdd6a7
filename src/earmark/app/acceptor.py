"""Takes connections from a listening socket: no more than fit, and through scarcity.

uvloop's own server closes its socket for good, and without a word, when `accept` fails; asyncio's
writes a line for each place in the backlog. Neither counts. So connections are accepted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import socket
import sys
from collections import Counter, deque
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

from earmark.access.lockout import network_of
from earmark.app.protocol import LINGER_SECONDS, refusal
from earmark.telemetry import Seldom

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection

    from earmark.app.protocol import Protocol

ACCEPT_AT_ONCE = 64
"""Connections taken before others get their turn."""

PAUSE_SECONDS = 1.0
"""Until it is tried again when there are no descriptors left, or no memory for sockets."""

MAX_LINGERING = 128
"""Refused connections that are kept for a moment, so that their answer arrives."""

OWN_FILES = 128
"""Descriptors that a process needs beside its connections: databases, logs, libraries."""

MORE_FILES = "Raise the limit (ulimit -n, LimitNOFILE) or lower EARMARK_MAX_CONNECTIONS."

_BUSY = refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Retry-After: 5")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections are held at once.

    Attributes:
        connections: in all.
        per_address: of one IPv4 address or IPv6 /64.
        proxies: networks that `per_address` does not concern.
        handshake_seconds: for TLS.
        unread_seconds: a caller that takes not a byte of what is sent is cut off after as long.
    """

    connections: int
    per_address: int
    proxies: Collection[str]
    handshake_seconds: float
    unread_seconds: float


def room_for(connections: int) -> int:
    """How many connections this process has descriptors for, at most as many as are wanted.

    The limit of open files is raised as far as that may be done. A third of them is left for the
    files that uploads and downloads have open beside their connections.
    """
    files = most_files()
    if files == sys.maxsize:
        return connections
    with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    room = room_within(files)
    if room < connections:
        log.warning(
            "few open files are allowed",
            files=files,
            connections=room,
            wanted=connections,
            mend=MORE_FILES,
        )
    return min(connections, room)


def most_files() -> int:
    """How many files this process may have open, if it raises its limit."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else files


def room_within(files: int) -> int:
    """How many connections there is room for with so many open files."""
    return max(1, (files - OWN_FILES) * 2 // 3)


class Acceptor:
    """Accepts from one socket. To uvicorn it looks like a server of asyncio."""

    def __init__(
        self,
        bound: socket.socket,
        limits: Limits,
        protocol: Callable[[Callable[[], None]], Protocol],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Begins to accept, in the running event loop.

        Args:
            bound: listens already; whoever made it closes it.
            limits: how many at once.
            protocol: makes that of one connection; it calls what it is given when that is gone.
            tls: what connections speak; None for plain ones.
        """
        self._bound = bound
        self._limits = limits
        self._log = Seldom()
        self._protocol = protocol
        self._tls = tls
        self._proxies = [ipaddress.ip_network(network) for network in limits.proxies]
        self._loop = asyncio.get_running_loop()
        self._open: dict[socket.socket, str] = {}
        self._of_address: Counter[str] = Counter()
        self._beginning: dict[asyncio.Task[None], socket.socket] = {}
        self._closed = False
        self._lingering: deque[socket.socket] = deque()
        self._pause: asyncio.TimerHandle | None = None
        bound.setblocking(False)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
            unread = int(limits.unread_seconds * 1000)
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread)
        self._go_on()

    def close(self) -> None:
        """Accepts nothing more. What is being handed over is ended once it has begun.

        Not by cancelling it: uvloop then closes the connection without telling its protocol, which
        the server would wait for.
        """
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._bound)
        if self._tls is not None:
            self._end_handshakes()
        while self._lingering:
            self._lingering.popleft().close()

    async def wait_closed(self) -> None:
        """Waits until what had not begun yet is gone."""
        if self._beginning:
            await asyncio.wait(self._beginning)

    def _end_handshakes(self) -> None:
        """Has them fail now: they depend on the other side, and would take their time."""
        for accepted in self._beginning.values():
            with contextlib.suppress(OSError):  # the other side is gone already
                accepted.shutdown(socket.SHUT_RDWR)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._bound, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                accepted, address = self._bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Those that wait stay in the backlog. To listen on meanwhile would be to spin.
                self._log.warning("cannot accept connections", error=error, retry=PAUSE_SECONDS)
                self._loop.remove_reader(self._bound)
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._go_on)
                return
            self._take(accepted, address[0])

    def _take(self, accepted: socket.socket, address: str) -> None:
        accepted.setblocking(False)
        network = network_of(address)
        if len(self._open) >= self._limits.connections:
            self._log.warning("too many connections", limit=self._limits.connections)
            self._refuse(accepted)
        elif self._of_address[network] >= self._limits.per_address and not self._is_proxy(address):
            self._log.warning(
                "too many connections of one address",
                address=network,
                limit=self._limits.per_address,
            )
            self._refuse(accepted)
        else:
            self._open[accepted] = network
            self._of_address[network] += 1
            task = self._loop.create_task(self._begin(accepted))
            self._beginning[task] = accepted
            task.add_done_callback(self._beginning.pop)

    def _is_proxy(self, address: str) -> bool:
        known = ipaddress.ip_address(address.partition("%")[0])
        known = getattr(known, "ipv4_mapped", None) or known
        return any(known in network for network in self._proxies)

    async def _begin(self, accepted: socket.socket) -> None:
        leave = partial(self._leave, accepted)
        protocol = self._protocol(leave)
        seconds = self._limits.handshake_seconds if self._tls else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=seconds,
            )
        except OSError:  # it spoke no TLS, or not in time, or is gone
            accepted.close()
            leave()
        else:
            if self._closed:  # too late for the server to have told it
                protocol.shutdown()

    def _leave(self, accepted: socket.socket) -> None:
        """Gives its place free; once, however often it is called."""
        network = self._open.pop(accepted, None)
        if network is None:
            return
        self._of_address[network] -= 1
        if not self._of_address[network]:
            del self._of_address[network]

    def _refuse(self, accepted: socket.socket) -> None:
        """Says why if that can be said without a handshake, and ends it."""
        if self._tls is not None or len(self._lingering) >= MAX_LINGERING:
            accepted.close()
            return
        with contextlib.suppress(OSError):
            accepted.send(_BUSY)
            accepted.shutdown(socket.SHUT_WR)
        self._lingering.append(accepted)
        self._loop.call_later(LINGER_SECONDS, self._end_first)

    def _end_first(self) -> None:
        if self._lingering:
            self._lingering.popleft().close()
