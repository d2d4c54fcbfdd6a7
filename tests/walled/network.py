"""A network of our own in a namespace: addresses of every kind, all on its loopback, and a count.

Every address answers on every port that the tests name, so nothing is refused for want of a
listener: a connection that was made is a connection that is counted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import struct
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

STORE, OTHER, THIRD = "93.184.216.34", "93.184.216.35", "93.184.216.36"
STORE_V6 = "2606:2800:220:1::34"
"""Public addresses, here only."""

ON_SITE = "10.20.30.40"
"""A private one, of the user's own site."""

PRIVATE = (
    ON_SITE,
    "10.0.0.5",
    "172.16.0.9",
    "192.168.1.1",
    "100.64.0.1",
    "100.127.255.254",
    "169.254.169.254",
    "169.254.170.2",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "192.0.0.8",
    "192.0.2.7",
    "192.88.99.1",
    "198.18.0.1",
    "198.19.255.1",
    "198.51.100.1",
    "203.0.113.5",
    "240.0.0.1",
    "fd00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fc00::8",
    "fec0::1",
    "64:ff9b::a00:5",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:5",
    "2002:a00:5::1",
    "2002:7f00:1::1",
    "2001:0:5db8:d822::1",
    "2001:db8::1",
    "2001:10::1",
    "3fff::1",
    "100::1",
    "5f00::1",
    "4000::1",
    "::10.0.0.5",
    "64:ff9b::5db8:d822",
)
"""What may not be reached, each with a listener."""

PORTS = (443, 80, 22, 8080, 8443, 8333)


def build(resolver: Path) -> None:
    """Makes the addresses and the resolver's configuration; for a namespace of our own alone."""
    _ip("link", "set", "lo", "up")
    for name in ("lo", "all", "default"):
        switch = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        if switch.exists():
            switch.write_text("0")
    for address in (STORE, OTHER, THIRD, STORE_V6, *PRIVATE):
        version = ipaddress.ip_address(address).version
        length = 32 if version == 4 else 128
        options = [] if version == 4 else ["nodad"]
        _ip(f"-{version}", "addr", "add", f"{address}/{length}", "dev", "lo", *options)
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1 ndots:1\n")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tests")])
        self.path = folder / "authority.pem"
        certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """For a server of these names, of which some may be addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [_general_name(name) for name in names]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = (
            self._builder(subject, key, expired=expired)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = self._folder / f"{abs(hash(names))}-{expired}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
    ) -> x509.CertificateBuilder:
        today = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - timedelta(days=30))
            .not_valid_after(today + timedelta(days=-1 if expired else 30))
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass
class Names:
    """A name server on the namespace's loopback: answers in turn, and counts what it is asked."""

    known: dict[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(2048)
            answer = self._answer(query)
            if answer:
                self._socket.sendto(answer, sender)

    def _answer(self, query: bytes) -> bytes | None:
        labels, place = [], 12
        while query[place]:
            labels.append(query[place + 1 : place + 1 + query[place]].decode())
            place += query[place] + 1
        question = query[12 : place + 5]
        kind = struct.unpack(">H", question[-4:-2])[0]
        name = ".".join(labels).lower()
        # One look-up asks for both families; the first of the two turns the page.
        version = {1: 4, 28: 6}.get(kind, 0)
        turns = self.known.get(name)
        if turns is None:
            return query[:2] + b"\x81\x83" + query[4:6] + b"\0" * 6 + question
        turn = turns[min(self.asked[f"{name}/{version}"], len(turns) - 1)]
        self.asked[f"{name}/{version}"] += 1
        if turn == ("silence",):
            return None
        found = [ipaddress.ip_address(one) for one in turn]
        packed = [one.packed for one in found if one.version == version]
        records = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(one)) + one for one in packed
        )
        counts = struct.pack(">HHHH", 1, len(packed), 0, 0)
        return query[:2] + b"\x81\x80" + counts + question + records


class Listeners:
    """Listens on every address and port, counts each connection, and serves TLS on 443."""

    def __init__(self, tls: ssl.SSLContext, serve: Handler) -> None:
        self.connections: Counter[tuple[str, int]] = Counter()
        self.tls = tls
        self.serve = serve
        self._loop = asyncio.new_event_loop()

    def start(self) -> None:
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        assert ready.wait(10)

    @property
    def total(self) -> int:
        return sum(self.connections.values())

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        ready.set()
        self._loop.run_forever()

    async def _listen(self) -> None:
        for port in PORTS:
            for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                listening = socket.socket(family, socket.SOCK_STREAM)
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.bind((everywhere, port))
                listening.listen(256)
                listening.setblocking(False)
                self._loop.create_task(self._accept(listening, port))

    async def _accept(self, listening: socket.socket, port: int) -> None:
        while True:
            connection, _ = await self._loop.sock_accept(listening)
            self.connections[(connection.getsockname()[0], port)] += 1
            if port == 443:
                self._loop.create_task(self._talk(connection))
            else:
                connection.close()

    async def _talk(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self.tls
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            try:
                await self.serve(reader, writer)
            finally:
                writer.close()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            return
