"""What is counted, and how it is written down."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest, values
from structlog.testing import capture_logs

from contract.forms import body, metadata_part, part
from contract.serving import Service
from earmark.access.seal import Seal
from earmark.app import metering
from earmark.app.metering import Metering
from earmark.app.parts import Parts
from earmark.config import Settings
from earmark.database import Database, journal, tables
from earmark.database.backlog import STATES, backlog
from earmark.egress.address import Destination
from earmark.errors import MediaError, SettingsError, UnavailableError, Why
from earmark.fetch import FetchError
from earmark.intake import Downloading
from earmark.intake.downloads import SEAL_PURPOSE
from earmark.model import Cause, MediaType, Status, new_id, now
from earmark.pipeline import Done, Skipped
from earmark.telemetry import metrics
from earmark.telemetry.metrics import MOST_SERIES, OTHER, RESERVED_BYTES, Counter, Files
from metering import Metrics
from processing import Scripted, process, receive
from serving import RECORDING, free_port, unmeasured, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Counted = Callable[[], Metrics]

WAV = RECORDING.read_bytes()[:50_000]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """Those of a service with two processes; this one is neither yet, and neither at the end."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    made = Files(tmp_path / "metrics")
    made.begin(["web-0", "web-1"])
    yield made
    values.close_all_multiprocess_files()
    for metric in metrics.CATALOGUE:
        vars(metric).update({"_parent": None, "_series": {}})


@pytest.fixture
def counted(files: Files) -> Counted:
    """Tells what this process counted so far."""
    files.record("web-0")
    return lambda: told(files)


def told(files: Files) -> Metrics:
    registry = CollectorRegistry()
    registry.register(files.collector())
    return Metrics(generate_latest(registry).decode())


# How it is written down


def test_nothing_is_written_and_no_library_loaded_until_it_is_asked_for() -> None:
    program = """
import sys
import earmark.app.serve, earmark.app.web_process, earmark.app.worker_process
from earmark.telemetry import metrics
metrics.REQUESTS.add("GET", "/x", "2xx")
metrics.UPLOADS_IN_FLIGHT.change(1)
metrics.STEP_DURATION.took(1.0, "listen")
assert "prometheus_client" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=unmeasured())


def test_what_a_process_counts_is_told_and_what_it_has_in_hand(counted: Counted) -> None:
    metrics.REFUSALS.add("idle")
    metrics.REFUSALS.add("idle", amount=2)
    metrics.UPLOADS_IN_FLIGHT.change(3)
    metrics.UPLOADS_IN_FLIGHT.change(-1)
    metrics.STEP_DURATION.took(0.2, "listen")
    found = counted()
    assert found.sum("earmark_http_refusals_total", code="idle") == 3
    assert found.sum("earmark_uploads_in_flight") == 2
    assert found.sum("earmark_step_duration_seconds_sum", step="listen") == pytest.approx(0.2)
    buckets = {
        one.labels["le"]: one.value for one in found.of("earmark_step_duration_seconds_bucket")
    }
    assert (buckets["0.1"], buckets["0.25"], buckets["+Inf"]) == (0, 1, 1)


def test_a_process_that_begins_anew_goes_on_counting_with_empty_hands(files: Files) -> None:
    for _ in range(2):
        files.record("web-0")
        metrics.REFUSALS.add("idle")
        metrics.UPLOADS_IN_FLIGHT.change(1)
        values.close_all_multiprocess_files()
    found = told(files)
    assert found.sum("earmark_http_refusals_total") == 2
    assert found.sum("earmark_uploads_in_flight") == 1
    assert found.sum("earmark_process_starts_total", process="web") == 2


def test_what_a_process_had_in_hand_is_forgotten_at_its_end_and_nothing_else(
    files: Files, counted: Counted
) -> None:
    metrics.REFUSALS.add("idle")
    metrics.UPLOADS_IN_FLIGHT.change(1)
    assert [name for name, _ in files.running()] == ["web-0"]
    files.end("web-0")
    assert counted().sum("earmark_uploads_in_flight") == 0
    assert counted().sum("earmark_http_refusals_total") == 1
    assert [*files.running()] == []


def test_a_service_begins_with_nothing_of_what_was_before(files: Files, counted: Counted) -> None:
    metrics.REFUSALS.add("idle")
    files.begin(["web-0"])
    assert counted().all == []


def test_files_that_somebody_removed_end_nobody(files: Files, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "metrics")
    files.end("web-0")
    files.record("web-0")
    metrics.UPLOADS_IN_FLIGHT.change(1)
    assert told(files).sum("earmark_uploads_in_flight") == 1


def test_the_files_have_their_room_from_the_beginning(files: Files, tmp_path: Path) -> None:
    made = [*(tmp_path / "metrics").iterdir()]
    assert len(made) == 6
    for path in made:
        assert path.stat().st_size == RESERVED_BYTES
        assert path.stat().st_blocks * 512 >= RESERVED_BYTES  # no hole that a full disk leaves


def test_all_series_of_the_service_fit_into_the_room_of_its_files(
    files: Files, tmp_path: Path, counted: Counted
) -> None:
    """More of them, and longer ones, than the routes have."""
    route = "/v1/interactions/{interaction_id}/a-longer-one-than-there-is"
    for number in range(100):
        metrics.REQUEST_DURATION.took(1, "DELETE", f"{route}{number}")
    for number in range(MOST_SERIES):
        metrics.REQUESTS.add("DELETE", f"{route}{number}", "2xx")
    values.close_all_multiprocess_files()
    for path in (tmp_path / "metrics").glob("*.db"):
        assert path.stat().st_size == RESERVED_BYTES, path.name


def test_one_metric_never_has_more_series_than_its_bound(counted: Counted) -> None:
    for number in range(MOST_SERIES + 50):
        metrics.REQUESTS.add("GET", f"/{number}", "2xx")
    found = counted().told("earmark_http_requests_total", "route")
    assert len(found) == MOST_SERIES + 1
    assert found[OTHER] == 50


def test_a_counter_has_all_its_labels_or_fails() -> None:
    one = Counter("earmark_x_total", "X.", "a", "b")
    one.open()
    with pytest.raises(ValueError, match="label"):
        one.add("only one")


# What is counted


def test_an_event_counts_once_it_is_committed(
    database: Database, organization: Any, counted: Counted
) -> None:
    def announce(scope: Any) -> None:
        journal.announce(scope, kind="interaction.received", interaction_id=new_id())

    with database.write(organization) as scope:
        announce(scope)
        assert counted().sum("earmark_events_total") == 0
    with contextlib.suppress(LookupError), database.write(organization) as scope:
        announce(scope)
        raise LookupError
    assert counted().told("earmark_events_total", "kind") == {"interaction.received": 1}


def test_what_the_database_fails_is_counted_by_its_kind(
    database: Database, counted: Counted
) -> None:
    with pytest.raises(sa.exc.IntegrityError), database.write(None) as scope:
        scope.insert(tables.organization, {"id": new_id(), "name": None, "created_at": now()})
    gone = type(database)("sqlite:////proc/nowhere/x.sqlite3")
    with pytest.raises(UnavailableError), gone.read(None):
        pass
    found = counted().told("earmark_database_errors_total", "error")
    assert found == {"IntegrityError": 1, "OperationalError": 1}


def test_each_attempt_at_a_step_counts_by_its_result_and_cause(
    database: Database, organization: Any, counted: Counted
) -> None:
    steps = [
        Scripted(KeyError(), Done(), name="first"),
        Scripted(Skipped(Cause("speech_off", "x")), name="second"),
        Scripted(MediaError("media_empty", "x"), name="third"),
    ]
    process(database, organization, receive(database, organization), *steps)
    found = {
        tuple(one.labels[name] for name in ("step", "result", "code")): one.value
        for one in counted().of("earmark_steps_total")
    }
    assert found == {
        ("first", "waiting", "internal"): 1,
        ("first", "done", "none"): 1,
        ("second", "skipped", "speech_off"): 1,
        ("third", "failed", "media_empty"): 1,
    }
    assert counted().sum("earmark_step_duration_seconds_count", step="first") == 2


class Fetched:
    """Has any file, unless its address says what goes wrong."""

    def read(self, address: str) -> Destination:
        if "refused" in address:
            raise FetchError(Why.SIGNED_URL_REFUSED, "test")
        return Destination("store.example", address.encode())

    async def download(self, destination: Destination, sink: Any, **_: Any) -> None:
        if b"away" in destination.target:
            raise FetchError(Why.SIGNED_URL_FAILED, "test")
        await sink(WAV)


@pytest.fixture
def service(database: Database, tmp_path: Path) -> Iterator[Service]:
    downloading = Downloading(Fetched(), Seal(b"k" * 32, SEAL_PURPOSE), 4)  # type: ignore[arg-type]
    made = Service(database, tmp_path / "storage", downloading=downloading)
    yield made
    made.close()


def form(name: str, *, url: str = "", content: bytes = WAV, kind: str = "Audio") -> bytes:
    metadata = metadata_part({"FileName": name, "UploadType": kind})
    last = part("signedUrl", url.encode()) if url else part("file", content, file_name=name)
    return body(metadata, last)


@pytest.mark.usefixtures("plain_log")
def test_uploads_and_downloads_count_by_what_became_of_them(
    service: Service, counted: Counted
) -> None:
    caller = service.caller()
    sent = [
        (form("a.wav"), 200),
        (form("a.wav"), 400),
        (form("b.zip", content=b"", kind="Chat"), 400),
        (form("c.wav", url="https://store.example/c.wav"), 200),
        (form("d.wav", url="https://store.example/away.wav"), 400),
        (form("e.wav", url="https://refused.example/e.wav"), 400),
    ]
    assert [caller.upload(each).status for each, _ in sent] == [status for _, status in sent]
    assert caller.upload(form("f.wav"), authorization="").status == 401
    assert caller.upload([form("g.wav")[:-40]], gone=True).status == 499
    found = counted()
    uploads = {
        (one.labels["media"], one.labels["outcome"]): one.value
        for one in found.of("earmark_uploads_total")
    }
    assert uploads == {
        ("audio", "accepted"): 2,
        ("audio", "file_name_taken"): 1,
        ("chat", "file_empty"): 1,
        ("audio", "signed_url_failed"): 1,
        ("audio", "signed_url_refused"): 1,
        ("unknown", "unauthenticated"): 1,
        ("audio", "abandoned"): 1,
    }
    assert found.told("earmark_downloads_total", "outcome") == {
        "received": 1,
        "signed_url_failed": 1,
        "signed_url_refused": 1,
    }
    assert found.sum("earmark_download_duration_seconds_count") == 2
    assert found.sum("earmark_upload_duration_seconds_count") == 8
    assert found.sum("earmark_uploads_in_flight") == 0
    received = found.sum("earmark_received_bytes_total", media="audio")
    assert received == 4 * len(WAV) - 14  # the taken name's too; the abandoned one lacks its end
    refused = found.told("earmark_http_refusals_total", "code")
    assert refused.pop("unauthenticated") == 1
    assert sum(refused.values()) == 4


@pytest.mark.usefixtures("plain_log")
def test_requests_count_by_their_route_and_never_by_their_path(
    service: Service, counted: Counted
) -> None:
    caller = service.caller()
    secret = "quillfeather"
    for number in range(40):
        for path in (
            f"/v1/interactions/{secret}{number}",
            f"/{secret}{number}",
            f"/agent/{secret}{number}",
            f"/v1/{secret}/{number}?q={secret}",
            f"/media/upload/{secret}{number}",
        ):
            for method in ("GET", "POST", f"{secret}{number}"):
                caller.send(method, path)
    assert caller.send("GET", "/v1/interactions").status == 200
    found = counted()
    assert secret not in found.text
    routes = found.told("earmark_http_requests_total", "route")
    assert set(routes) <= {*service.app.built.own_paths, OTHER}
    assert routes["/v1/interactions"] == 1
    assert routes[OTHER] >= 200
    assert set(found.told("earmark_http_requests_total", "method")) <= {"GET", "POST", OTHER}
    assert set(found.told("earmark_http_requests_total", "status")) == {"2xx", "4xx"}
    assert sum(routes.values()) == 601


@pytest.mark.usefixtures("plain_log")
def test_every_kind_of_refusal_tells_its_code(service: Service, counted: Counted) -> None:
    caller = service.caller()
    done = caller.interaction(caller.upload(form("a.wav")))
    there = f"/v1/interactions/{done.id}"
    assert caller.send("GET", f"{there}/media", range="bytes=999999-").status == 416
    assert caller.send("GET", f"{there}/transcript", accept="image/png").status in {404, 406}
    assert caller.send("POST", "/connect/token").status == 400
    assert caller.send("PUT", "/v1/interactions").status == 405
    assert caller.upload(b"", content_type="text/plain").status == 415
    found = counted()
    codes = found.told("earmark_http_refusals_total", "code")
    assert len(codes) == 5
    assert {"range_not_satisfiable", "invalid_request", "method_not_allowed"} < set(codes)
    assert sum(codes.values()) == found.sum("earmark_http_requests_total", status="4xx")


# What is looked up


def test_what_waits_is_told_by_kind_and_state(database: Database, organization: Any) -> None:
    at = now()
    for media, status in (
        (MediaType.AUDIO, Status.RECEIVED),
        (MediaType.AUDIO, Status.RECEIVED),
        (MediaType.CHAT, Status.PROCESSING),
        (MediaType.CHAT, Status.READY),
    ):
        id_ = receive(database, organization, media_type=media, status=status)
    ids = sa.select(tables.interaction.c.id).where(tables.interaction.c.status == "received")
    with database.write(None) as scope:
        oldest, youngest = sorted(row.id for row in scope.rows(ids))
        for id_, ago in ((oldest, 100), (youngest, 50)):
            row = sa.update(tables.interaction).where(tables.interaction.c.id == id_)
            scope.run(row.values(received_at=at - timedelta(seconds=ago)))

    def found() -> dict[tuple[str, str], tuple[int, float]]:
        with database.read(None) as scope:
            return {
                (one.media_type.value, one.state): (one.count, (at - one.since).total_seconds())
                for one in backlog(scope, at)
            }

    first = found()
    assert first["audio", "waiting"] == (2, 100)
    assert first.keys() == {("audio", "waiting"), ("chat", "processing")}
    with database.write(None) as scope:  # tried, and to be tried again
        row = sa.update(tables.interaction).where(tables.interaction.c.id == oldest)
        scope.run(row.values(due_at=at + timedelta(seconds=9)))
    second = found()
    assert second["audio", "waiting"] == (1, 50)
    assert second["audio", "postponed"][0] == 1
    assert {state for _, state in second} == set(STATES)


def test_the_database_is_asked_seldom_and_in_proportion(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    moment = 1000.0

    def slow(*_: Any) -> list[Any]:
        nonlocal moment
        asked.append(moment)
        moment += 2.0
        return []

    monkeypatch.setattr(metering, "backlog", slow)
    monkeypatch.setattr(metering.time, "monotonic", lambda: moment)
    work = metering._Work(database)
    for _ in range(200):
        assert {one.name for one in work.read()} == {
            "earmark_database_up",
            "earmark_workers",
            "earmark_interactions",
            "earmark_oldest_waiting_seconds",
        }
        moment += 1.0
    assert [later - sooner for sooner, later in itertools.pairwise(asked)] == [
        pytest.approx(42.0, abs=1.0)
    ] * (len(asked) - 1)
    assert len(asked) >= 4


def test_an_outage_of_the_database_is_told_and_nothing_that_is_not_known(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise UnavailableError("away")

    monkeypatch.setattr(metering, "backlog", away)
    (up,) = metering._Work(database).read()
    assert (up.name, [one.value for one in up.samples]) == ("earmark_database_up", [0])


def test_what_waits_is_found_by_the_indexes_of_what_is_unfinished(
    sqlite_url: str,
) -> None:
    asked: list[Any] = []
    with contextlib.closing(Database(sqlite_url)) as database, database.read(None) as scope:
        note = sa.event.listens_for(database.engine, "before_cursor_execute")
        note(lambda _c, _cursor, sql, values, *_: asked.append((sql, values)))
        backlog(scope, now())
        plans = [
            str(scope.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all())
            for sql, values in [*asked]
        ]
    assert all("status = '" in sql for sql, _ in asked)  # or a plan of any status has none of one
    waiting, postponed, processing = plans
    assert "USING INDEX ix_interaction_due (due_at<?)" in waiting
    assert "USING INDEX ix_interaction_due (due_at>?)" in postponed
    assert "USING INDEX ix_interaction_processing" in processing


# How it is asked for


class Broken:
    """Cannot be told, and says so with what nobody should read."""

    def collect(self) -> Iterator[Any]:
        raise ValueError("quillfeather")
        yield


def test_a_failure_is_one_line_of_the_log_and_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    registry = CollectorRegistry()
    registry.register(Broken())  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as bound, capture_logs() as logs:
        server = metering._Server(bound, registry)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            port = bound.getsockname()[1]
            with pytest.raises(httpx.RemoteProtocolError):
                httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30)
            until(lambda: logs, "logged")
        finally:
            server.shutdown()
            thread.join()
    assert [one["event"] for one in logs] == ["metrics failed"]
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Files, "begin", full)
    settings = Settings(data=tmp_path / "data", metrics_listen=str(free_port()))
    with pytest.raises(SettingsError, match=r"cannot hold metrics \(No space left"):
        Metering(settings, ["web-0"])


def test_two_services_on_one_data_folder_do_not_empty_each_others(tmp_path: Path) -> None:
    kept = []
    for port in (free_port(), free_port()):
        settings = Settings(data=tmp_path, metrics_listen=f"127.0.0.1:{port}")
        with contextlib.closing(Metering(settings, ["worker"])):
            kept.append({*tmp_path.glob("metrics/*/*.db")})
    first, both = kept
    assert len(first) == 3
    assert first < both


def test_what_the_storage_cannot_tell_is_left_out(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(Settings(data=tmp_path))
    parts.prepare()

    def away() -> int:
        raise UnavailableError("away")

    free = {one.name: one.samples for one in metering._Readings(files, parts).collect()}
    assert free["earmark_storage_free_bytes"][0].value > 0
    monkeypatch.setattr(parts.store, "free_bytes", away)
    left = {one.name: one.samples for one in metering._Readings(files, parts).collect()}
    assert left["earmark_storage_free_bytes"] == []
    assert left["earmark_database_up"][0].value == 1
    parts.close()
