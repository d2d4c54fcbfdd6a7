"""The processes of one `earmark serve`: started anew when they die, ended in order.

Of a worker that dies tells test_line.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from earmark.intake.stage import BATCH_BYTES
from serving import RECORDING, Server, alive, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def pair(new_server) -> Iterator[Server]:
    """A server with two web processes and no worker."""
    with serving(new_server("sqlite", "--web-processes", "2", "--no-worker")) as server:
        until(lambda: len(server.children("web")) == 2, "two web processes")
        until(lambda: started_processes(server) >= 2, "both started")
        yield server


def started_processes(server: Server) -> int:
    return server.log.read_text().count("Started server process")


def test_two_web_processes_serve_the_same_port(pair):
    for stopped in pair.children("web"):
        with frozen(stopped):
            answer = httpx.get(f"{pair.base}/health/live", trust_env=False, timeout=20)
        assert answer.json() == {"status": "live"}


def test_a_killed_web_process_is_started_anew_while_the_other_serves(pair):
    before = pair.children("web")
    os.kill(before[0], signal.SIGKILL)
    assert httpx.get(f"{pair.base}/health/live", trust_env=False, timeout=20).status_code == 200
    until(lambda: before[0] not in (now := pair.children("web")) and len(now) == 2, "two again")
    assert before[1] in pair.children("web")
    assert "process died" in pair.log.read_text()


def test_children_end_by_themselves_when_the_supervisor_is_killed(new_server):
    with serving(new_server("sqlite")) as server:
        children = [*server.children("web"), *server.children("worker")]
        assert len(children) == 2
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        until(lambda: not any(map(alive, children)), "ended")
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", server.port))


def test_a_stopped_server_ends_what_runs_and_takes_nothing_new(new_server):
    stopped = new_server("sqlite", shutdown_grace_seconds=20)
    stopped.measured = True
    with serving(stopped) as server:
        caller = server.caller()
        going, answers = threading.Event(), []

        def slow_upload() -> None:
            answers.append(
                caller.another().post(
                    "/Media/Upload",
                    content=body(going),
                    headers={"Content-Type": "multipart/form-data; boundary=b"},
                )
            )

        uploader = threading.Thread(target=slow_upload)
        uploader.start()
        staging = server.data / "storage" / "staging"
        until(lambda: [*staging.iterdir()], "staged")
        server.process.terminate()
        asked = time.monotonic()
        until(lambda: refused(server.port), "refused", seconds=10)
        assert server.process.poll() is None
        going.set()
        uploader.join()
        assert answers[0].status_code == 200, answers[0].text
        assert server.process.wait(30) == 0
        assert time.monotonic() - asked < 20
        assert not [*staging.iterdir()]


def test_a_stopped_server_does_not_wait_longer_than_its_grace(new_server):
    server = new_server("sqlite", "--no-worker", shutdown_grace_seconds=1)
    with serving(server):
        caller = server.caller()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(caller.token) + next(body(threading.Event())))
            until(lambda: [*(server.data / "storage" / "staging").iterdir()], "staged")
            asked = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - asked < 8
        assert not [*(server.data / "storage" / "staging").iterdir()]


def head(token: str) -> bytes:
    return (
        f"POST /Media/Upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000000\r\n\r\n"
    ).encode()


def body(going: threading.Event) -> Iterator[bytes]:
    metadata = json.dumps({"FileName": "slow.wav", "UploadType": "Audio"})
    start = '--b\r\nContent-Disposition: form-data; name="'
    form = f'{start}metadata"\r\n\r\n{metadata}\r\n{start}file"; filename="slow.wav"\r\n\r\n'
    content = RECORDING.read_bytes()
    half = content + bytes(BATCH_BYTES)  # what is shorter is kept in memory
    yield form.encode() + half
    going.wait(30)
    yield content + b"\r\n--b--\r\n"


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that does not run meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
