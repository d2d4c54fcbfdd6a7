"""A file sent by the kernel: whole, whatever the other side does."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from earmark.app import zerocopy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

SIZE = 3_000_000


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Iterator[int]:
    (tmp_path / "file").write_bytes(content)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def with_connection(
    story: Callable[[asyncio.Transport, socket.socket], Awaitable[None]],
) -> None:
    """Tells a story of a server's transport, and of the socket at the other end of it."""

    async def tell() -> None:
        loop = asyncio.get_running_loop()
        connected: asyncio.Future[asyncio.Transport] = loop.create_future()

        class Taking(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                connected.set_result(cast("asyncio.Transport", transport))

        server = await loop.create_server(Taking, "127.0.0.1", 0)
        other = socket.socket()
        other.setblocking(False)
        await loop.sock_connect(other, server.sockets[0].getsockname())
        transport = await connected
        try:
            await story(transport, other)
        finally:
            transport.abort()
            other.close()
            server.close()

    asyncio.run(tell())


async def take(other: socket.socket, size: int) -> bytes:
    taken = bytearray()
    while len(taken) < size:
        chunk = await asyncio.get_running_loop().sock_recv(other, 65536)
        if not chunk:
            break
        taken += chunk
    return bytes(taken)


@pytest.mark.parametrize("piece", [zerocopy.PIECE_BYTES, 100_000])
def test_a_part_of_a_file_comes_after_what_was_written_before(
    file: int, content: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zerocopy, "PIECE_BYTES", piece)
    head = os.urandom(20_000_000)  # more than the kernel takes at once

    async def story(transport: asyncio.Transport, other: socket.socket) -> None:
        before = descriptors()
        transport.write(head)
        sending = asyncio.create_task(zerocopy.send_file(transport, file, 10, SIZE - 20))
        assert await take(other, len(head)) == head
        assert await take(other, SIZE - 20) == content[10:-10]
        await sending
        assert descriptors() == before
        transport.write(b"and after")
        assert await take(other, 9) == b"and after"

    with_connection(story)
    assert os.lseek(file, 0, os.SEEK_CUR) == 0


def test_who_reads_nothing_for_a_while_gets_all_in_the_end(file: int, content: bytes) -> None:
    async def story(transport: asyncio.Transport, other: socket.socket) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        sending = asyncio.create_task(zerocopy.send_file(transport, file, 0, SIZE))
        await asyncio.sleep(0.3)
        assert not sending.done()
        assert await take(other, SIZE) == content
        await sending

    with_connection(story)


@pytest.mark.parametrize("waiting", ["for the head", "for the file"])
def test_a_connection_that_ends_ends_it(file: int, waiting: str) -> None:
    async def story(transport: asyncio.Transport, other: socket.socket) -> None:
        before = descriptors()
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        if waiting == "for the head":
            transport.write(bytes(20_000_000))
        sending = asyncio.create_task(zerocopy.send_file(transport, file, 0, SIZE))
        await asyncio.sleep(0.1)
        assert not sending.done()
        other.close()
        with pytest.raises(OSError, match=r"ended|reset|Broken"):
            await asyncio.wait_for(sending, 20)
        await asyncio.sleep(0)
        assert descriptors() <= before

    with_connection(story)


def test_who_is_cancelled_leaves_nothing_open(file: int) -> None:
    async def story(transport: asyncio.Transport, _other: socket.socket) -> None:
        before = descriptors()
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        sending = asyncio.create_task(zerocopy.send_file(transport, file, 0, SIZE))
        await asyncio.sleep(0.1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert descriptors() == before

    with_connection(story)


def test_a_file_that_became_shorter_is_an_error(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendfile, ends = os.sendfile, itertools.count(1)

    def bounded(*asked: int) -> int:
        sent = sendfile(*asked)
        # Nothing else would end a thread that asks for ever.
        assert sent or next(ends) <= 3, "a file that has ended is asked for more again and again"
        return sent

    monkeypatch.setattr(os, "sendfile", bounded)

    async def story(transport: asyncio.Transport, other: socket.socket) -> None:
        sending = asyncio.create_task(zerocopy.send_file(transport, file, 0, SIZE + 1))
        await take(other, SIZE)
        with pytest.raises(OSError, match="shorter"):
            await sending

    with_connection(story)
