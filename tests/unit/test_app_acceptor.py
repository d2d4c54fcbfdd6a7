"""Connections that are taken at the very moment at which the server is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
import uvloop

from certificates import self_signed
from earmark.app.acceptor import Limits
from earmark.app.web_process import _Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONNECTIONS = 8
GRACE_SECONDS = 3
SOON_SECONDS = 1.0
"""With nothing in flight; uvicorn itself pauses for a tenth of it."""

TURNS = range(8)
"""Of the event loop, from the first that sees the connections: a hand-over takes three."""


CONTENT = bytes(20_000_000)
"""More than the kernel takes at once."""

MORE = bytes(200_000)
"""What stays in the layer of TLS while that waits, and is no reason yet to have us wait."""


async def answer(_scope: Any, _receive: Any, send: Any) -> None:
    length = (b"content-length", str(len(CONTENT) + len(MORE)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": CONTENT, "more_body": True})
    await send({"type": "http.response.body", "body": MORE})


def server(**options: Any) -> _Server:
    config = uvicorn.Config(
        answer,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **options,
    )
    config.load()
    limits = Limits(
        connections=100, per_address=100, proxies=(), handshake_seconds=20, unread_seconds=20
    )
    made = _Server(config, limits, head_seconds=20)
    made.lifespan = config.lifespan_class(config)
    return made


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def callers(bound: socket.socket) -> Iterator[list[socket.socket]]:
    """Who is in the backlog already when the server begins to accept."""
    connect = socket.create_connection
    connected = [connect(bound.getsockname(), 5) for _ in range(CONNECTIONS)]
    yield connected
    for connection in connected:
        connection.close()


def stopped_after(
    turns: int,
    bound: socket.socket,
    go_on: Callable[[], None] = lambda: None,
    **options: Any,
) -> tuple[float, int]:
    """Begins to accept, and stops after so many turns of the loop.

    Args:
        turns: of the loop.
        bound: what it accepts from.
        go_on: what callers do in each turn.
        options: of uvicorn.

    Returns:
        The seconds that the stop took, and how many connections it left.
    """

    async def tell() -> tuple[float, int]:
        stopping = server(**options)
        await stopping.startup(sockets=[bound])
        for _ in range(turns):
            go_on()
            await asyncio.sleep(0)
        begun = time.monotonic()
        await stopping.shutdown()
        seconds, left = time.monotonic() - begun, list(stopping.server_state.connections)
        for one in left:  # or the loop would never close
            one.transport.abort()
        await asyncio.sleep(0.1)
        return seconds, len(left)

    return uvloop.run(tell())


@pytest.mark.usefixtures("callers")
@pytest.mark.parametrize("turns", TURNS)
def test_a_connection_that_comes_as_the_server_stops_does_not_hold_it_up(
    bound: socket.socket, turns: int
) -> None:
    seconds, left = stopped_after(turns, bound)
    assert not left
    assert seconds < SOON_SECONDS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def encrypted(certificate: tuple[Path, Path]) -> dict[str, str]:
    """Options of uvicorn."""
    return {"ssl_certfile": str(certificate[0]), "ssl_keyfile": str(certificate[1])}


@pytest.mark.usefixtures("callers")
@pytest.mark.parametrize("turns", TURNS)
def test_a_caller_that_never_begins_its_handshake_does_not_hold_up_the_stop(
    bound: socket.socket, encrypted: dict[str, str], turns: int
) -> None:
    seconds, left = stopped_after(turns, bound, **encrypted)
    assert not left
    assert seconds < SOON_SECONDS


@pytest.mark.parametrize("turns", range(12))
def test_a_handshake_that_is_under_way_does_not_hold_up_the_stop(
    bound: socket.socket,
    encrypted: dict[str, str],
    callers: list[socket.socket],
    certificate: tuple[Path, Path],
    turns: int,
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    for place, caller in enumerate(callers):
        caller.setblocking(False)
        callers[place] = trusting.wrap_socket(
            caller, server_hostname="127.0.0.1", do_handshake_on_connect=False
        )

    def go_on() -> None:
        for caller in callers:
            assert isinstance(caller, ssl.SSLSocket)
            with contextlib.suppress(ssl.SSLWantReadError):
                caller.do_handshake()

    seconds, left = stopped_after(turns, bound, go_on, **encrypted)
    assert not left
    assert seconds < SOON_SECONDS


def test_an_answer_that_is_not_read_yet_when_the_server_stops_arrives_whole(
    bound: socket.socket, encrypted: dict[str, str], certificate: tuple[Path, Path]
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    stops, taken = threading.Event(), bytearray()

    def call() -> None:
        with (
            socket.create_connection(bound.getsockname(), 5) as plain,
            trusting.wrap_socket(plain, server_hostname="127.0.0.1") as caller,
        ):
            caller.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            stops.wait()
            with contextlib.suppress(OSError):
                while more := caller.recv(65536):
                    taken.extend(more)

    async def tell() -> None:
        stopping = server(**encrypted)
        await stopping.startup(sockets=[bound])
        calling = asyncio.create_task(asyncio.to_thread(call))
        while not stopping.server_state.total_requests or stopping.server_state.tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        ending = asyncio.create_task(stopping.shutdown())
        await asyncio.sleep(0.2)
        stops.set()
        await asyncio.gather(calling, ending)

    uvloop.run(tell())
    assert taken.partition(b"\r\n\r\n")[2] == CONTENT + MORE
