"""The namespace as one thing: who is where, what a web server there does, and how to fetch."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

from contract.forms import wav
from earmark import egress
from earmark.fetch import Fetcher, FetchError, Limits
from walled.network import (
    ON_SITE,
    OTHER,
    PRIVATE,
    STORE,
    STORE_V6,
    THIRD,
    Authority,
    Listeners,
    Names,
    build,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CONTENT = wav(10.0)
TAG = f'"{hashlib.sha256(CONTENT).hexdigest()[:16]}"'
SIZE_LIMIT = 1024 * 1024
STORE_NAME = "store.example.test"

NAMES = {
    STORE_NAME: [[STORE]],
    "under.store.example.test": [[STORE]],
    "notstore.example.test": [[OTHER]],
    "both.example.test": [[STORE, STORE_V6]],
    "six.example.test": [[STORE_V6]],
    "other.example.test": [[OTHER]],
    "s3.example.test": [[THIRD]],
    "account.blob.example.test": [[THIRD]],
    "wrong.example.test": [[STORE]],
    "expired.example.test": [[STORE]],
    "unknown-authority.example.test": [[STORE]],
    "on-site.example.test": [[ON_SITE]],
    "closed.example.test": [["93.184.216.99"]],
}


@dataclass(frozen=True)
class Got:
    """How a fetch went."""

    code: str
    content: bytes = b""
    error: FetchError | None = None
    connections: int = 0


@dataclass(frozen=True)
class Ask:
    """One request to the web server, and where its answer goes."""

    writer: asyncio.StreamWriter
    headers: Mapping[str, str]
    fields: Mapping[str, str]
    path: str


@dataclass
class World:
    """All of it."""

    folder: Path
    requests: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    backends: dict[str, int] = field(default_factory=dict)
    made: dict[object, egress.Walls] = field(default_factory=dict)
    opened: int = 0
    gates: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)
    contents: dict[str, bytes] = field(default_factory=dict)

    def start(self) -> None:
        build(self.folder / "resolv.conf")
        self.authority = Authority(self.folder)
        self.names = Names(dict(NAMES))
        self.names.start()
        proven = [name for name in NAMES if not name.startswith(("wrong", "expired", "unknown"))]
        usual = self.authority.context(*proven, STORE, STORE_V6, ON_SITE)
        stranger = Authority(_made(self.folder / "stranger"))
        special = {
            "wrong.example.test": self.authority.context("right.example.test"),
            "expired.example.test": self.authority.context("expired.example.test", expired=True),
            "unknown-authority.example.test": stranger.context("unknown-authority.example.test"),
        }

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.context = special.get(name or "", usual)

        usual.sni_callback = choose  # type: ignore[assignment]
        self.listeners = Listeners(usual, self.serve)
        self.listeners.start()

    def resolve(self, name: str, *turns: Iterable[str]) -> str:
        """Makes the name server answer for a name, in turn; returns the name."""
        self.names.known[name] = [tuple(turn) for turn in turns]
        return name

    def walls(
        self, *, hosts: Iterable[str] = (), networks: Iterable[str] = (), trusted: bool = True
    ) -> egress.Walls:
        key = (tuple(hosts), tuple(networks), trusted)
        if key not in self.made:  # to load the authorities takes longer than most tests do
            self.made[key] = egress.Walls(
                hosts=hosts,
                networks=egress.Networks(networks),
                ca_file=self.authority.path if trusted else None,
            )
        return self.made[key]

    async def fetch(self, address: str, walls: egress.Walls | None = None, **limits: float) -> Got:
        """Downloads; tells the code of its end, and how many connections were made for it."""
        content = bytearray()

        async def sink(chunk: bytes) -> None:
            content.extend(chunk)

        bounds = dataclasses.replace(Limits(SIZE_LIMIT, seconds=20), **limits)
        fetcher = Fetcher(walls or self.walls(), bounds)
        before = self.listeners.total
        error, code = None, "received"
        try:
            await fetcher.download(fetcher.read(address), sink)
        except FetchError as failure:
            error, code = failure, failure.faults[0].why.value
        await asyncio.sleep(0)
        self.outcomes[code] += 1
        made = self.listeners.total - before
        if walls is not None and walls._networks._opened:
            self.opened += made
        return Got(code, bytes(content), error, made)

    def summary(self) -> str:
        """What the whole run came to."""
        told = ", ".join(f"{count} {code}" for code, count in sorted(self.outcomes.items()))
        private = sum(
            count
            for (address, _), count in self.listeners.connections.items()
            if address in PRIVATE
        )
        return (
            f"{sum(self.outcomes.values())} single fetches: {told}; "
            f"{self.listeners.total} connections in all, {private} of them to addresses that are "
            f"not public (opened by a test's own setting: {self.opened})"
        )

    # The web server.

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.requests.append(head)
        lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        target = lines[0].split(" ")[1]
        backend = self.backends.get(headers["host"])
        if backend is not None:
            await _forward(head.encode("latin-1"), reader, writer, backend)
            return
        path, _, query = target.partition("?")
        fields = {key: values[0] for key, values in parse_qs(query).items()}
        action = getattr(self, f"_{path.strip('/').split('/')[0].partition('.')[0]}", self._file)
        await action(Ask(writer, headers, fields, path))

    async def _file(self, ask: Ask) -> None:
        start = ask.headers.get("range", "")
        if start:
            begin = int(start.removeprefix("bytes=").rstrip("-"))
            rest = CONTENT[begin:]
            place = f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}"
            await _answer(ask.writer, rest, "206 Partial Content", ETag=TAG, Content_Range=place)
        else:
            await _answer(ask.writer, CONTENT, ETag=TAG)

    async def _echo(self, ask: Ask) -> None:
        await _answer(ask.writer, self.requests[-1].encode("latin-1"))

    async def _status(self, ask: Ask) -> None:
        code = ask.path.split("/")[2]
        await _answer(ask.writer, CONTENT, f"{code} Whatever")

    async def _gzip(self, ask: Ask) -> None:
        await _answer(
            ask.writer, gzip.compress(CONTENT), Content_Encoding=ask.fields.get("as", "gzip")
        )

    async def _double(self, ask: Ask) -> None:
        codings = b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n"
        packed = gzip.compress(CONTENT)
        ask.writer.write(
            b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (codings, len(packed))
        )
        ask.writer.write(packed)
        await ask.writer.drain()

    async def _chunked(self, ask: Ask) -> None:
        ask.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for place in range(0, len(CONTENT), 5000):
            piece = CONTENT[place : place + 5000]
            ask.writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if "cut" not in ask.fields:
            ask.writer.write(b"0\r\n\r\n")
        await ask.writer.drain()

    async def _endless(self, ask: Ask) -> None:
        ask.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(64):
            ask.writer.write(b"10000\r\n" + b"\0" * 65536 + b"\r\n")
            await ask.writer.drain()
            await asyncio.sleep(0)  # or a client that left would never be noticed

    async def _lying(self, ask: Ask) -> None:
        ask.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (SIZE_LIMIT + 1))
        await ask.writer.drain()

    async def _whole(self, ask: Ask) -> None:
        await _answer(ask.writer, b"RIFF" + b"\0" * (SIZE_LIMIT - 4))

    async def _unknown(self, ask: Ask) -> None:
        ask.writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT)
        await ask.writer.drain()

    async def _twice(self, ask: Ask) -> None:
        lengths = b"Content-Length: 5\r\nContent-Length: 6\r\n"
        ask.writer.write(b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\nhello!")
        await ask.writer.drain()

    async def _nonsense(self, ask: Ask) -> None:
        ask.writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await ask.writer.drain()

    async def _huge(self, ask: Ask) -> None:
        ask.writer.write(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n")
        await ask.writer.drain()

    async def _redirect(self, ask: Ask) -> None:
        code = ask.fields.get("code", "302")
        await _answer(
            ask.writer, b"elsewhere", f"{code} Found", Location=unquote(ask.fields["to"])
        )

    async def _gate(self, ask: Ask) -> None:
        """Sends half, and the rest once the gate of that name is open."""
        self.waiting.add(ask.fields["name"])
        content = self.contents.get(ask.fields.get("what", ""), CONTENT)
        half = len(content) // 2
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n"
        ask.writer.write(head.encode() + content[:half])
        await ask.writer.drain()
        name, closing = ask.fields["name"], ask.writer.is_closing
        while name not in self.gates and not closing():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)
        ask.writer.write(content[half:])
        await ask.writer.drain()

    async def _flaky(self, ask: Ask) -> None:
        """Fails as often as `times` says, then serves."""
        self.failures[ask.path] += 1
        if self.failures[ask.path] <= int(ask.fields["times"]):
            await _answer(ask.writer, b"", "503 Busy")
        else:
            await _answer(ask.writer, CONTENT)

    async def _content(self, ask: Ask) -> None:
        await _answer(ask.writer, self.contents[ask.fields["name"]])

    async def _silent(self, _ask: Ask) -> None:
        await asyncio.sleep(30)

    async def _drip(self, ask: Ask) -> None:
        ask.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not ask.writer.is_closing():
            ask.writer.write(b"x")
            await ask.writer.drain()
            await asyncio.sleep(0.05)

    async def _cookie(self, ask: Ask) -> None:
        where = "/echo.wav" if "cookie" not in ask.headers else "/file.wav"
        await _answer(ask.writer, b"", "302 Found", Location=where, Set_Cookie="a=b; Path=/")

    async def _cut(self, ask: Ask) -> None:
        """Sends a third and cuts; `then` says what a resume meets; `tag` which tag it shows."""
        tag = {"none": "", "weak": f"W/{TAG}"}.get(ask.fields.get("tag", ""), TAG)
        third = len(CONTENT) // 3
        began = int(ask.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        then = ask.fields.get("then", "rest")
        if not began:
            named = f"ETag: {tag}\r\n" if tag else ""
            head = f"HTTP/1.1 200 OK\r\n{named}Content-Length: {len(CONTENT)}\r\n\r\n"
            ask.writer.write(head.encode() + CONTENT[:third])
        elif then == "rest":
            assert ask.headers["if-range"] == TAG.lower()
            await self._file(ask)
        elif then == "short":
            place = f"bytes {began}-{len(CONTENT) - 1}/{len(CONTENT)}"
            rest = CONTENT[began : began + 100]
            await _answer(ask.writer, rest, "206 Partial", ETag=TAG, Content_Range=place)
        elif then == "again":
            place = f"bytes {began}-{len(CONTENT) - 1}/{len(CONTENT)}"
            head = f"HTTP/1.1 206 Partial\r\nETag: {TAG}\r\nContent-Range: {place}\r\n"
            rest = CONTENT[began:]
            ask.writer.write(f"{head}Content-Length: {len(rest)}\r\n\r\n".encode() + rest[:100])
        else:
            await _answer(ask.writer, *_OTHER_RESTS[then])
        await ask.writer.drain()
        ask.writer.transport.abort()


_OTHER_RESTS = {
    "changed": (CONTENT, "200 OK"),
    "gone": (b"", "404 Gone"),
}


async def _answer(
    writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK", **headers: str
) -> None:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    await writer.drain()


async def _forward(
    head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
) -> None:
    """Passes one exchange on to a real server that has no TLS of its own."""
    onward, back = await asyncio.open_connection("127.0.0.1", port)
    back.write(head)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            sink.write(chunk)
            await sink.drain()

    pumping = asyncio.create_task(pump(reader, back))
    try:
        await pump(onward, writer)
    finally:
        pumping.cancel()
        back.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
