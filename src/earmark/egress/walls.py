"""The only way to where a caller says: resolved once, judged whole, dialled as judged.

A name is resolved here and nowhere else; the connection is made to the very address that was
judged, and its other end is compared once more. So there is no moment between judgement and use
in which a name could change its meaning.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from typing import TYPE_CHECKING, Any

import httpcore2
from typing_extensions import override

from earmark.egress.address import HTTPS_PORT
from earmark.egress.networks import Networks, is_public
from earmark.egress.operator import CONNECT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from earmark.egress.address import Destination

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address
    Resolve = Callable[[str], Awaitable[Sequence[str]]]

MAX_ANSWERS = 16
"""Addresses of one name that are looked at; more are no store's."""


class BarredError(Exception):
    """The destination may not be reached, or its name says nothing.

    Both are one: to tell them apart is to tell which names a network has inside.
    """


class Walls:
    """What callers may make this service connect to."""

    def __init__(
        self,
        *,
        hosts: Iterable[str] = (),
        networks: Networks | None = None,
        ca_file: str | Path | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        """Reads the authorities; opens nothing.

        Args:
            hosts: names that may be reached, each with all below it; none means every name.
            networks: which addresses may be; only public ones if not given.
            ca_file: further authorities, PEM, beside the system's.
            resolve: every address of a name; the system's resolver if not given.

        Raises:
            OSError: the file of authorities cannot be read or holds none.
        """
        self._hosts = tuple(host.lower() for host in hosts)
        self._networks = networks or Networks()
        self._resolve = resolve or _system_addresses
        self._tls = ssl.create_default_context()
        if ca_file is not None:
            self._tls.load_verify_locations(cafile=ca_file)

    def judge(self, destination: Destination) -> None:
        """Refuses what needs no look-up to be refused.

        Raises:
            BarredError: the host is not among those allowed, or is an address out of bounds.
        """
        host, literal = destination.host, destination.literal
        if self._hosts and not any(host == one or host.endswith(f".{one}") for one in self._hosts):
            raise BarredError("host")
        if literal is not None and not self._networks.admit(literal):
            raise BarredError("address")

    async def addresses(self, destination: Destination) -> Sequence[Address]:
        """Every address of a destination, all within bounds.

        Raises:
            BarredError: as `judge`; or the name has no address, or one out of bounds among them.
        """
        self.judge(destination)
        if destination.literal is not None:
            return [destination.literal]
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                told = await self._resolve(destination.host)
            found = [ipaddress.ip_address(one) for one in dict.fromkeys(told)]
        except (OSError, ValueError) as error:
            raise BarredError("name") from error
        if not 0 < len(found) <= MAX_ANSWERS:
            raise BarredError("name")
        if not all(map(self._networks.admit, found)):
            raise BarredError("address")
        return found

    async def open(self, destination: Destination) -> Opening:
        """One connection's worth of a way to the destination, which was judged.

        Raises:
            BarredError: see addresses.
        """
        return Opening(destination, await self.addresses(destination), self._tls)


class Opening:
    """A way through the walls to one destination; used for one request, then closed.

    Attributes:
        public: whether it leads to anybody's host on the internet, of which may be told.
    """

    def __init__(
        self, destination: Destination, addresses: Sequence[Address], tls: ssl.SSLContext
    ) -> None:
        self.public = all(map(is_public, addresses))
        self._destination = destination
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=1,
            max_keepalive_connections=0,
            http2=False,
            retries=0,
            network_backend=_Dialler(destination.host, addresses),
        )

    async def get(
        self, headers: Sequence[tuple[bytes, bytes]], *, read_seconds: float
    ) -> httpcore2.Response:
        """Sends GET with these headers and no others but Host; the body is read by the caller.

        Raises:
            BarredError: the other end is not the address that was judged.
            httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError
        """
        url = httpcore2.URL(
            scheme=b"https",
            host=self._destination.host.encode(),
            port=HTTPS_PORT,
            target=self._destination.target,
        )
        timeouts = {"connect": CONNECT_SECONDS, "read": read_seconds, "write": CONNECT_SECONDS}
        request = httpcore2.Request(
            b"GET",
            url,
            headers=[(b"Host", self._destination.host_header), *headers],
            extensions={"timeout": timeouts},
        )
        return await self._pool.handle_async_request(request)

    async def close(self) -> None:
        """Ends the connection."""
        await self._pool.aclose()


class _Dialler(httpcore2.AsyncNetworkBackend):
    """Dials the addresses that were judged, in their order, and nothing else."""

    def __init__(self, host: str, addresses: Sequence[Address]) -> None:
        self._host = host
        self._addresses = addresses
        self._network = httpcore2.AnyIOBackend()

    @override
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """See AsyncNetworkBackend."""
        if (host, port) != (self._host, HTTPS_PORT):
            raise BarredError("destination")
        failure: Exception = httpcore2.ConnectError("no address")
        for address in self._addresses:
            try:
                stream = await self._network.connect_tcp(str(address), port, timeout=timeout)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
                continue
            if _other_end(stream) != address:
                await stream.aclose()
                raise BarredError("other end")
            return stream
        raise failure

    @override
    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """Never."""
        raise BarredError("destination")

    @override
    async def sleep(self, seconds: float) -> None:
        """See AsyncNetworkBackend."""
        await asyncio.sleep(seconds)


def _other_end(stream: httpcore2.AsyncNetworkStream) -> Address | None:
    told = stream.get_extra_info("server_addr")
    try:
        return ipaddress.ip_address(told[0])
    except (TypeError, IndexError, ValueError):
        return None


async def _system_addresses(host: str) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, HTTPS_PORT, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]
