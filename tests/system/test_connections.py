"""Who is slow, endless or many keeps nobody else from the service, and ends."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from earmark.intake.stage import BATCH_BYTES
from serving import EARMARK, RECORDING, Caller, Server, descriptors, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_SECONDS = 30
"""How long a connection is watched; each deadline here is a tenth of it or less."""

DEADLINES = {
    "head_seconds": 1,
    "keep_alive_seconds": 1,
    "upload_idle_seconds": 3,
    "upload_min_rate": 8192,
    "download_idle_seconds": 2,
}
ASK = b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"
TRICKLE = 0.2
"""Seconds between the bytes of a caller that never quite stops."""

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def impatient(new_server) -> Iterator[Server]:
    """A server whose deadlines are short."""
    with serving(new_server("sqlite", "--no-worker", **DEADLINES)) as server:
        yield server


@pytest.fixture(scope="module")
def caller(impatient: Server) -> Caller:
    return impatient.caller()


@contextlib.contextmanager
def connected(server: Server, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, PATIENCE_SECONDS, (source, 0)) as connection:
        yield connection


def answer(connection: socket.socket) -> bytes:
    """What comes until one answer is whole."""
    got = b""
    while b"\r\n\r\n" not in got or not got.endswith((b"}", b".")):
        more = connection.recv(65536)
        assert more, got
        got += more
    return got


def rest(connection: socket.socket) -> bytes:
    """What comes until the connection ends; that it does is what is tested."""
    got = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while more := connection.recv(65536):
            got += more
    return got


def trickle(connection: socket.socket, piece: bytes) -> bytes:
    """What comes while ever the same is sent, until the connection ends."""
    connection.settimeout(TRICKLE)
    until_then, got = time.monotonic() + PATIENCE_SECONDS, b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while time.monotonic() < until_then:
            with contextlib.suppress(TimeoutError):
                more = connection.recv(65536)
                if not more:
                    return got
                got += more
                continue
            connection.sendall(piece)
        raise AssertionError("the connection was not ended")
    return got


def takes(connection: socket.socket, size: int) -> int:
    """How many of so many bytes can be sent before the connection is ended."""
    sent, piece = 0, bytes(MEBIBYTE)
    with contextlib.suppress(ConnectionError):
        while sent < size:
            connection.sendall(piece)
            sent += len(piece)
    return sent


# Heads


def test_a_connection_on_which_nothing_is_asked_is_ended_without_a_word(impatient):
    with connected(impatient) as connection:
        assert rest(connection) == b""


@pytest.mark.parametrize("asked_before", [False, True], ids=["first", "further"])
@pytest.mark.parametrize("begun", [b"G", ASK[:-2], b"\r\n"], ids=["byte", "no-end", "empty-line"])
def test_half_a_head_ends_its_connection(impatient, begun, asked_before):
    with connected(impatient) as connection:
        if asked_before:
            connection.sendall(ASK)
            assert answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(begun)
        told = rest(connection)
        assert told.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"Connection: close\r\n" in told


def test_half_a_head_behind_a_whole_one_ends_its_connection(impatient):
    with connected(impatient) as connection:
        connection.sendall(ASK + ASK[:10])
        assert rest(connection).startswith(b"HTTP/1.1 200")


def test_a_head_that_began_behind_another_request_is_taken(impatient):
    with connected(impatient) as connection:
        connection.sendall(ASK + ASK[:20])
        assert answer(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(ASK[20:])
        assert answer(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("piece", [b"X-Y: z\r\n", b"x"], ids=["lines", "bytes"])
def test_a_head_that_comes_ever_so_slowly_ends_its_connection(impatient, piece):
    with connected(impatient) as connection:
        connection.sendall(ASK[:-2])
        assert trickle(connection, piece).startswith(b"HTTP/1.1 408")


def test_a_connection_that_is_silent_after_a_request_is_ended(impatient):
    with connected(impatient) as connection:
        connection.sendall(ASK)
        answer(connection)
        assert rest(connection) == b""


@pytest.mark.parametrize(
    "head",
    [
        ASK[:-2] + b"X-Long: " + b"x" * 33_000 + b"\r\n\r\n",
        ASK[:-2] + b"X-Long: " + b"x" * 33_000,
        ASK[:-2] + b"X: y\r\n" * 101 + b"\r\n",
        b"GET /" + b"x" * 33_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\r\n" * 20_000,
    ],
    ids=["one-header", "endless-header", "many-headers", "long-address", "empty-lines"],
)
def test_a_head_that_is_too_large_is_refused_at_once(impatient, head):
    with connected(impatient) as connection:
        connection.sendall(head)
        told = answer(connection)
        assert told.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
        assert told.endswith(b"may have 32,768 bytes and 100 headers.")
        assert rest(connection) == b""


def test_a_head_as_large_as_may_be_is_taken(impatient):
    with connected(impatient) as connection:
        extra = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 300) for number in range(99))
        connection.sendall(ASK[:-2] + extra + b"\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("begun", [b"0\r\nX: ", b"1;x="], ids=["trailer", "extension"])
def test_what_surrounds_chunks_is_no_larger_than_a_head(impatient, begun):
    token = b"POST /connect/token HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(impatient) as connection:
        connection.sendall(token + begun)
        assert takes(connection, 128 * MEBIBYTE) < 64 * MEBIBYTE


def test_what_is_no_http_is_400_and_ends(impatient):
    with connected(impatient) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert rest(connection).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_connection_that_speaks_no_tls_is_ended(new_server, certificate):
    pair = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    server = new_server("sqlite", *pair, "--no-worker", head_seconds=2)
    server.scheme = "https"
    with serving(server), connected(server) as silent, connected(server) as plain:
        plain.sendall(ASK)
        assert b"200" not in rest(plain)
        assert rest(silent) == b""


def test_requests_that_are_none_do_not_fill_the_log(impatient):
    before = len(impatient.log.read_text().splitlines())
    for sent in (b"\x16\x03\x01\x02", ASK[:-2] + b"Upgrade: x\r\nConnection: upgrade\r\n\r\n"):
        for _ in range(20):
            with connected(impatient) as connection:
                connection.sendall(sent)
                assert connection.recv(65536)
    told = impatient.log.read_text().splitlines()[before:]
    assert len([line for line in told if "milliseconds" not in line]) <= 4


# Bodies


def begun(caller: Caller, length: int = 100_000_000) -> bytes:
    """The head of an upload and its form up to the recording's first bytes."""
    name = f"{uuid.uuid4()}.wav"
    metadata = json.dumps({"FileName": name, "UploadType": "Audio"})
    part = '--b\r\nContent-Disposition: form-data; name="'
    head = (
        f"POST /Media/Upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {caller.token}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    )
    form = f'{part}metadata"\r\n\r\n{metadata}\r\n{part}file"; filename="{name}"\r\n\r\n'
    return (head + form).encode() + RECORDING.read_bytes()[:20_000]


def staged(server: Server) -> list[Any]:
    return [*(server.data / "storage" / "staging").iterdir()]


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["stalled", "trickling"])
def test_an_upload_that_is_too_slow_is_408_and_leaves_nothing(impatient, caller, piece):
    with connected(impatient) as connection:
        connection.sendall(begun(caller) + bytes(BATCH_BYTES))  # less is kept in memory
        until(lambda: staged(impatient), "staged")
        told = trickle(connection, piece) if piece else rest(connection)
    assert told.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close\r\n" in told.lower()
    until(lambda: not staged(impatient), "nothing staged")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/connect/token", "application/x-www-form-urlencoded"),
        ("/Metadata", "application/json"),
        ("/v1/interactions/retry", "application/json"),
    ],
    ids=["token", "metadata", "retry"],
)
def test_every_other_body_that_stalls_is_408_too(impatient, caller, path, kind):
    head = (
        f"POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {caller.token}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: 100\r\n\r\n{{"
    )
    with connected(impatient) as connection:
        connection.sendall(head.encode())
        assert rest(connection).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_a_slow_and_honest_upload_is_taken(impatient, caller):
    """64 KB/s, for more than two of the times over which a rate is measured."""
    end, content = b"\r\n--b--\r\n", bytes(16_384)
    form = begun(caller).partition(b"\r\n\r\n")[2]
    count = 32
    whole = begun(caller, len(form) + count * len(content) + len(end))
    with connected(impatient) as connection:
        connection.sendall(whole)
        for _ in range(count):
            time.sleep(0.25)
            connection.sendall(content)
        connection.sendall(end)
        assert b" 200 OK\r\n" in connection.recv(65536)


def test_an_early_refusal_reads_little_of_what_still_comes(impatient):
    head = b"POST /Media/Upload HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n"
    with connected(impatient) as connection:
        connection.sendall(head)
        told = connection.recv(65536)
        assert told.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close\r\n" in told.lower()
        assert takes(connection, 128 * MEBIBYTE) < 64 * MEBIBYTE


# Answers


def test_a_download_that_nobody_reads_is_ended(impatient, caller):
    content = RECORDING.read_bytes() + bytes(64 * MEBIBYTE)
    id_ = caller.upload("large.wav", content).json()["id"]
    (web,) = impatient.children("web")

    def opened() -> bool:
        return any("/objects/" in name for name in descriptors(web))

    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", impatient.port))
        head = f"GET /v1/interactions/{id_}/media HTTP/1.1\r\nHost: h\r\n"
        connection.sendall(f"{head}Authorization: Bearer {caller.token}\r\n\r\n".encode())
        until(opened, "read")
        until(lambda: not opened(), "ended", PATIENCE_SECONDS)
    assert caller.media(id_) == content


# How many


def test_more_connections_than_are_allowed_are_told_so_and_others_live_on(new_server):
    server = new_server("sqlite", "--no-worker", max_connections=20)
    with serving(server), contextlib.ExitStack() as opened:
        held = [held_by(server, opened) for _ in range(20)]
        told = []
        for _ in range(150):
            with connected(server) as refused:
                told.append(rest(refused))
            assert told[0].startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"Retry-After: 5\r\n" in told[0]
        assert set(told) <= {told[0], b""}, "only so many are kept until their answer arrived"
        held[7].sendall(ASK)
        assert answer(held[7]).startswith(b"HTTP/1.1 200")
        held[3].close()
        until(lambda: healthy(server), "room again")
    assert server.log.read_text().count("too many connections") == 1


def held_by(server: Server, opened: contextlib.ExitStack) -> socket.socket:
    """A connection that is taken; those by which its start was watched may still be ending."""

    def taken() -> socket.socket | None:
        connection = opened.enter_context(connected(server))
        connection.sendall(ASK)
        return connection if answer(connection).startswith(b"HTTP/1.1 200") else None

    found: socket.socket = until(taken, "taken")
    return found


def healthy(server: Server) -> bool:
    found = server.get("/health/live")
    return found is not None and found.status_code == 200


def test_one_address_has_its_share_and_a_trusted_proxy_may_have_all(new_server):
    server = new_server(
        "sqlite", "--no-worker", max_connections_per_address=4, trusted_proxies="127.0.0.3"
    )
    with serving(server), contextlib.ExitStack() as opened:

        def asked(source: str) -> bytes:
            connection = opened.enter_context(connected(server, source))
            connection.sendall(ASK)
            return answer(connection)[:12]

        assert {asked("127.0.0.2") for _ in range(4)} == {b"HTTP/1.1 200"}
        assert asked("127.0.0.2") == b"HTTP/1.1 503"
        assert asked("127.0.0.4") == b"HTTP/1.1 200"
        assert {asked("127.0.0.3") for _ in range(8)} == {b"HTTP/1.1 200"}
    assert "too many connections of one address" in server.log.read_text()


def test_without_descriptors_it_waits_says_so_once_and_goes_on_by_itself(new_server):
    with serving(new_server("sqlite", "--no-worker")) as server:
        (web,) = server.children("web")
        before = resource.prlimit(web, resource.RLIMIT_NOFILE)
        few = len(descriptors(web)) + 8
        resource.prlimit(web, resource.RLIMIT_NOFILE, (few, before[1]))
        told = len(server.log.read_text().splitlines())
        with contextlib.ExitStack() as opened:
            for _ in range(60):
                opened.enter_context(connected(server))
            said = "cannot accept connections"
            until(lambda: said in server.log.read_text(), "said")
            worked = cpu_seconds(web)
            time.sleep(3)
            assert cpu_seconds(web) - worked < 1
            assert len(descriptors(web)) >= few - 1
        until(lambda: healthy(server), "recovered")
        lines = server.log.read_text().splitlines()[told:]
        assert sum(said in line for line in lines) == 1
        assert len(lines) < 10


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.parametrize(
    ("limits", "raised", "told"),
    [("-Sn 100", True, False), ("-n 400", False, True)],
    ids=["raised", "too-low"],
)
def test_it_takes_all_descriptors_that_it_may_and_says_if_those_are_few(
    new_server, limits, raised, told
):
    server = new_server("sqlite", "--no-worker", max_connections=1000)
    server.program = ("sh", "-c", f'ulimit {limits} && exec "$0" "$@"', EARMARK)
    with serving(server):
        (web,) = server.children("web")
        soft, hard = resource.prlimit(web, resource.RLIMIT_NOFILE)
        assert soft == hard
        assert (soft > 400) == raised
        log = server.log.read_text()
        assert ("few open files are allowed" in log) == told
        assert ("connections=181" in log or '"connections": 181' in log) == told


def test_a_stop_does_not_wait_for_connections_that_ask_nothing(new_server):
    stopped = new_server("sqlite", "--no-worker", shutdown_grace_seconds=80)
    with serving(stopped) as server, contextlib.ExitStack() as opened:
        _silent, kept, half = (opened.enter_context(connected(server)) for _ in range(3))
        kept.sendall(ASK)
        answer(kept)
        half.sendall(ASK[:-2])
        server.process.terminate()
        assert server.process.wait(PATIENCE_SECONDS) == 0
