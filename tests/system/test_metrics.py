"""`/metrics` of a whole service: several web processes and a worker, whoever is asked."""

from __future__ import annotations

import os
import re
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from chats import zipped
from earmark.telemetry import metrics
from metering import Metrics, scraped
from serving import RECORDING, Server, free_port, run, serving, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONTENT = RECORDING.read_bytes()
CHAT = zipped({"a.txt": "A: b"})


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def service(request: pytest.FixtureRequest, new_server: Callable[..., Server]) -> Iterator[Server]:
    """Two web processes and a worker, which are measured."""
    server = new_server(request.param, "--web-processes", "2", metrics_listen=str(free_port()))
    with serving(server, worker=True) as started:
        both_start(started)
        yield started


def both_start(server: Server) -> None:
    starts = "earmark_process_starts_total"
    until(lambda: asked(server).sum(starts, process="web") >= 2, "both web processes count")
    until(lambda: server.log.read_text().count("Application startup complete") >= 2, "both serve")


def asked(server: Server) -> Metrics:
    return scraped(int(str(server.settings["metrics_listen"])))


@contextmanager
def without(pid: int) -> Iterator[None]:
    """A process takes nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_all_processes_did_is_told_by_each(service: Server) -> None:
    caller = service.caller()
    before = asked(service)
    ids = []
    for number, frozen in enumerate(service.children("web")):
        with without(frozen):  # so that the other one takes them
            for kind in range(2):
                taken = caller.upload(f"{number}-{kind}.wav", CONTENT, caller.another())
                ids.append(taken.json()["id"])
            chat = caller.upload(f"{number}.zip", CHAT, caller.another(), UploadType="Chat")
            ids.append(chat.json()["id"])
            again = caller.upload(f"{number}-0.wav", CONTENT, caller.another())
            assert again.status_code == 400
            address = {"signedUrl": (None, b"https://192.0.2.1/a.wav")}
            form = {"metadata": (None, b'{"FileName": "a.wav", "UploadType": "Audio"}'), **address}
            assert caller.another().post("/Media/Upload", files=form).status_code == 400
    for id_ in ids:
        assert caller.processed(id_)["status"] == "ready"
    each = []
    for frozen in service.children("web"):
        with without(frozen):
            each.append(asked(service))
    for found in each:

        def grown(name: str, found: Metrics = found, **labels: str) -> float:
            return found.sum(name, **labels) - before.sum(name, **labels)

        uploads = "earmark_uploads_total"
        assert grown(uploads, media="audio", outcome="accepted") == 4
        assert grown(uploads, media="chat", outcome="accepted") == 2
        assert grown(uploads, media="audio", outcome="file_name_taken") == 2
        assert grown(uploads, outcome="signed_url_refused") == 2
        assert grown(uploads) == 10
        assert grown("earmark_upload_duration_seconds_count") == 10
        assert grown("earmark_downloads_total", outcome="signed_url_refused") == 2
        requests = "earmark_http_requests_total"
        assert grown(requests, route="/Media/Upload", method="POST", status="2xx") == 6
        assert grown(requests, route="/Media/Upload", method="POST", status="4xx") == 4
        assert grown("earmark_http_refusals_total", code="file_name_taken") == 2
        assert grown("earmark_received_bytes_total", media="chat") == 2 * len(CHAT)
        assert grown("earmark_received_bytes_total", media="audio") >= 4 * len(CONTENT)
        assert grown("earmark_steps_total", step="listen", result="done", code="none") == 4
        assert grown("earmark_steps_total", step="transcribe", code="speech_off") == 4
        assert grown("earmark_steps_total", step="unpack", result="done") == 2
        assert grown("earmark_step_duration_seconds_count", step="listen") == 4
        assert grown("earmark_events_total", kind="interaction.received") == 6
        assert found.sum("earmark_uploads_in_flight") == 0
        assert found.sum("earmark_database_up") == 1
        assert found.sum("earmark_workers") == 1
        assert found.told("process_resident_memory_bytes", "process").keys() == {
            "web-0",
            "web-1",
            "worker",
        }


def test_nothing_is_told_that_is_not_in_the_catalogue(service: Server) -> None:
    found = asked(service)
    known = {one.name.removesuffix("_total") for one in metrics.CATALOGUE}
    own = {name for name in found.families if not name.startswith("process_")}
    assert own <= known
    for metric in metrics.CATALOGUE:
        for one in found.of(metric.name):
            assert one.labels.keys() == set(metric.labels)


def test_it_is_told_in_both_forms_and_nothing_else_is_there(service: Server) -> None:
    base = f"http://127.0.0.1:{service.settings['metrics_listen']}"
    open_metrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = httpx.get(f"{base}/metrics", headers=open_metrics, trust_env=False)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    for path in ("/", "/metrics/", "/v1/interactions", "/health/live"):
        assert httpx.get(f"{base}{path}", trust_env=False).status_code == 404
    assert httpx.post(f"{base}/metrics", trust_env=False).status_code == 501


def test_the_public_address_tells_no_metrics(service: Server) -> None:
    for path in ("/metrics", "/Metrics", "/metrics/", "/v1/metrics"):
        answer = service.get(path)
        assert answer is not None
        assert answer.status_code == 404
        assert "earmark_" not in answer.text


def test_a_killed_process_leaves_nothing_in_hand_and_loses_no_count(service: Server) -> None:
    caller = service.caller("Killed")
    taken = [caller.upload("before.wav", CONTENT).json()["id"]]
    until(lambda: asked(service).sum("earmark_uploads_in_flight") == 0, "answered")
    before = asked(service)
    first, second = service.children("web")
    head = (
        f"POST /Media/Upload HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {caller.token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n--b\r\n"
    )
    with without(second), socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode())
        until(lambda: asked(service).sum("earmark_uploads_in_flight") == 1, "in flight")
        os.kill(first, signal.SIGKILL)
        until(lambda: first not in service.children("web"), "killed")
    until(lambda: asked(service).sum("earmark_uploads_in_flight") == 0, "forgotten")
    starts = before.sum("earmark_process_starts_total", process="web")
    until(
        lambda: asked(service).sum("earmark_process_starts_total", process="web") == starts + 1,
        "started anew",
    )
    after = asked(service)
    accepted = {"media": "audio", "outcome": "accepted"}
    kept = before.sum("earmark_uploads_total", **accepted)
    assert kept >= 1
    assert after.sum("earmark_uploads_total", **accepted) == kept
    memory = after.told("process_resident_memory_bytes", "process")
    assert memory.keys() == {"web-0", "web-1", "worker"}
    for frozen in service.children("web"):  # the new one counts on, in the same files
        with without(frozen):
            answer = caller.upload(f"{frozen}.wav", CONTENT, caller.another())
            taken.append(answer.json()["id"])
    for id_ in taken:  # nothing is left that others would count
        caller.processed(id_)
    assert asked(service).sum("earmark_uploads_total", **accepted) == kept + 2


def test_it_is_off_unless_it_is_asked_for(new_server: Callable[..., Server]) -> None:
    with serving(new_server("sqlite", "--no-worker")) as server:
        answer = server.get("/metrics")
        assert answer is not None
        assert answer.status_code == 404
        assert not (server.data / "metrics").exists()


def test_a_worker_alone_tells_its_own(new_server: Callable[..., Server]) -> None:
    server = new_server("sqlite", metrics_listen=f"127.0.0.1:{free_port()}")
    port = int(str(server.settings["metrics_listen"]).rpartition(":")[2])
    process = server.launch_as("worker")
    try:

        def answers() -> bool:
            assert process.poll() is None, server.log.read_text()
            try:
                return scraped(port).sum("earmark_workers") == 1
            except httpx.TransportError:
                return False

        until(answers, f"a worker; {server.log}")
        found = scraped(port)
        assert found.told("earmark_process_starts_total", "process") == {"worker": 1}
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_an_address_that_is_taken_is_told_with_its_setting(command: str, tmp_path: Path) -> None:
    more = ("--port", str(free_port())) if command == "serve" else ()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(command, *more, data=tmp_path, metrics_listen=port)
    assert ended.returncode != 0
    assert re.search(rf"127\.0\.0\.1 port {port} cannot be used", ended.stderr), ended.stderr
    assert "choose another with EARMARK_METRICS_LISTEN" in ended.stderr
