"""Files sent to a connection by the kernel: what they hold never passes through this process.

Source: the ASGI extension `http.response.zerocopysend`; sendfile(2).
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

from anyio import to_thread

if TYPE_CHECKING:
    import socket

EXTENSION = "http.response.zerocopysend"

PIECE_BYTES = 8 * 1024 * 1024
"""Sent by one turn of a thread at most: others wait for the thread."""

POLL_SECONDS = 0.001
"""How often one looks whether a head that was written before is on its way."""


async def send_file(transport: asyncio.Transport, file: int, start: int, count: int) -> None:
    """Sends a part of a file; what was written to the transport before goes first.

    Args:
        transport: of a TCP connection without TLS, on which nobody writes meanwhile.
        file: descriptor; its own position is neither used nor changed.
        start: from this byte on.
        count: bytes.

    Raises:
        OSError: the connection ended, or the file is shorter.
    """
    while transport.get_write_buffer_size() and not transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
    if transport.is_closing():
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended")
    connection: socket.socket = transport.get_extra_info("socket")
    # A descriptor of our own: the transport's may be closed at any moment, and its number be that
    # of somebody else's connection in the next.
    own = os.dup(connection.fileno())
    try:
        while count:
            sent = await to_thread.run_sync(_send_some, own, file, start, count)
            start, count = start + sent, count - sent
            if count:
                await _writable(own)
    finally:
        os.close(own)


def _send_some(connection: int, file: int, start: int, count: int) -> int:
    """Sends until the connection takes no more or the piece is over; returns how many bytes."""
    sent = 0
    while sent < min(count, PIECE_BYTES):
        try:
            now = os.sendfile(connection, file, start + sent, min(count - sent, PIECE_BYTES))
        except BlockingIOError:
            return sent
        if not now:
            raise OSError(errno.EIO, "the file is shorter than it was")
        sent += now
    return sent


async def _writable(connection: int) -> None:
    loop = asyncio.get_running_loop()
    free: asyncio.Future[None] = loop.create_future()
    loop.add_writer(connection, _set, free)
    try:
        await free
    finally:
        loop.remove_writer(connection)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def can_send(transport: asyncio.Transport) -> bool:
    """Whether a file can go to the transport's connection this way."""
    return hasattr(os, "sendfile") and transport.get_extra_info("sslcontext") is None


def asked(message: Any) -> tuple[int, int, int]:
    """Descriptor, start and count of a message of the extension."""
    return message["file"].fileno(), message["offset"], message["count"]
