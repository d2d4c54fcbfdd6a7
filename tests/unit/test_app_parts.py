"""Parts are joined as the settings say, and tell whether they can serve."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from earmark import fetch
from earmark.app import parts as module
from earmark.app.parts import Parts
from earmark.config import Settings
from earmark.database import workers
from earmark.errors import SettingsError, UnavailableError
from earmark.model import now
from processing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET_KEY = "a-key-for-tests-alone-0123456789-0123456789"
OK = {"database": "ok", "migrations": "ok", "storage": "ok", "worker": "absent"}


@pytest.fixture
def parts(database_url: str, tmp_path: Path) -> Iterator[Parts]:
    settings = Settings(data=tmp_path / "data", database_url=database_url, secret_key=SECRET_KEY)
    made = Parts(settings, issuer="https://e.example.org")
    yield made
    made.database.close()


def test_nothing_is_opened_before_it_is_asked_for(tmp_path):
    Parts(Settings(data=tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_on_sqlite_everything_is_made(tmp_path):
    made = Parts(Settings(data=tmp_path / "a" / "data"), issuer="http://x")
    made.prepare()
    made.access.check()
    assert made.readiness() == OK
    assert (tmp_path / "a" / "data").stat().st_mode & 0o077 == 0
    made.database.close()


@pytest.mark.parametrize("name", ["a b", "a?b", "a#b", "a%3Fb", "a%b", "ä", "a:b@c"])
def test_a_data_folder_may_have_any_name(tmp_path, name):
    made = Parts(Settings(data=tmp_path / name), issuer="http://x")
    made.prepare()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    kept = {path.name for path in (tmp_path / name).iterdir()}
    assert {"earmark.sqlite3", "storage"} <= kept
    made.database.close()


def test_all_parts_share_one_database_and_one_store(parts):
    parts.prepare()
    assert parts.interactions.database is parts.database
    assert parts.interactions.store is parts.store
    assert parts.intake._database is parts.directory._database is parts.database
    assert parts.intake._stages.limits.upload_bytes == parts.settings.max_upload_bytes
    parts.intake._stages.pool.shutdown()


def test_the_public_address_is_the_issuer_where_one_is_set(parts, tmp_path):
    assert parts.access.issuer == "https://e.example.org"
    settings = Settings(data=tmp_path / "other", public_url="https://public.example.org/")
    other = Parts(settings, issuer="http://127.0.0.1")
    assert other.access.issuer == "https://public.example.org"
    other.database.close()


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_postgresql_that_may_lose_what_it_acknowledged_is_told(parts):
    with capture_logs() as logs:
        parts.warn_of_loss()
    told = [line for line in logs if line["event"].startswith("the database may lose")]
    # The tests' own server waits for no disk.
    assert [line["setting"] for line in told] == ["fsync", "full_page_writes"]
    assert all(line["log_level"] == "warning" for line in told)
    assert all(f"{line['setting']} = on" in line["mend"] for line in told)


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_postgresql_is_not_upgraded_on_the_way(parts, owner_of):
    with owner_of(parts.database).write(None) as scope:
        scope.run(sa.text("UPDATE alembic_version SET version_num = 'older'"))
    with pytest.raises(SettingsError, match="run `earmark database upgrade` first"):
        parts.prepare()


def test_a_storage_that_does_not_work_keeps_it_from_starting(parts, monkeypatch):
    def broken() -> None:
        raise UnavailableError("broken")

    monkeypatch.setattr(parts.store, "check", broken)
    with pytest.raises(UnavailableError, match="broken"):
        parts.prepare()


@pytest.mark.parametrize("place", ["file", "file/data"])
def test_a_data_folder_that_cannot_be_used_is_told(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="EARMARK_DATA names a folder that cannot be used"):
        Parts(Settings(data=tmp_path / place)).prepare()


@pytest.mark.parametrize("rate", ["often", "0/s", "5"])
def test_a_wrong_rate_is_told(tmp_path, rate):
    made = Parts(Settings(data=tmp_path, rate_limit=rate))
    with pytest.raises(SettingsError, match=r"^EARMARK_RATE_LIMIT: "):
        _ = made.access
    made.database.close()


# Readiness


def passing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the time pass after which readiness asks again."""
    later = time.monotonic() + 10 * module.READINESS_SECONDS
    monkeypatch.setattr(module.time, "monotonic", lambda: later)


def test_a_living_worker_is_seen(parts):
    with parts.database.write(None) as scope:
        workers.beat(scope, "w", started_at=now(), now=now())
    assert parts.readiness() == {**OK, "worker": "alive"}


def test_an_answer_is_repeated_for_a_while_and_then_asked_anew(parts, monkeypatch):
    assert parts.readiness() == OK
    shutil.rmtree(parts.settings.data)
    assert parts.readiness() == OK
    passing(monkeypatch)
    assert parts.readiness()["storage"] == "unavailable"


def test_who_asks_a_busy_disk_is_told_what_was_so_a_moment_ago(parts, monkeypatch):
    assert parts.readiness() == OK
    checking, go_on, moment = threading.Event(), threading.Event(), time.monotonic()
    asked: list[int] = []
    monkeypatch.setattr(module.time, "monotonic", lambda: moment)

    def slowly() -> None:
        asked.append(1)
        checking.set()
        assert go_on.wait(20)
        raise UnavailableError("full")

    monkeypatch.setattr(parts.store, "check", slowly)
    moment += 1.5 * module.READINESS_SECONDS
    assert parts.readiness() == OK
    assert checking.wait(20)
    assert parts.readiness() == OK
    go_on.set()
    wait_until(lambda: parts.readiness()["storage"] == "unavailable")
    parts.readiness._pool.submit(lambda: None).result(20)  # whatever was asked has ended
    assert len(asked) == 1


def test_but_not_what_was_so_long_ago(parts, monkeypatch):
    assert parts.readiness() == OK
    later = time.monotonic() + 2 * module.STALE_SECONDS
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.0)
    shutil.rmtree(parts.settings.data)
    assert parts.readiness()["storage"] == "unavailable"


def test_tables_of_another_version_are_told(parts, owner_of):
    with owner_of(parts.database).write(None) as scope:
        scope.run(sa.text("UPDATE alembic_version SET version_num = 'older'"))
    assert parts.readiness() == {
        "database": "ok",
        "migrations": "behind; run earmark database upgrade",
        "storage": "ok",
        "worker": "unknown",
    }


def test_a_database_that_is_away_is_told(parts, monkeypatch):
    def away(_: Any) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(parts.database, "read", away)
    assert parts.readiness() == {
        "database": "unavailable",
        "migrations": "unknown",
        "storage": "ok",
        "worker": "unknown",
    }


def test_downloads_may_be_switched_off(tmp_path):
    made = Parts(Settings(data=tmp_path / "data", fetch_at_once=0), issuer="http://x")
    assert made.intake._downloads._settings is None
    made.close()


def test_downloads_have_the_limits_of_the_settings(parts):
    settings = parts.intake._downloads._settings
    assert settings.at_once == parts.settings.fetch_at_once
    assert settings.fetcher._limits == fetch.Limits(
        size_bytes=parts.settings.max_upload_bytes,
        seconds=parts.settings.fetch_seconds,
        bytes_per_second=parts.settings.fetch_min_rate,
        redirects=parts.settings.fetch_redirects,
    )


@pytest.mark.parametrize(
    "network",
    ["127.0.0.0/8", "127.0.0.1", "169.254.169.254", "::1", "fe80::/64", "fd00:ec2::254", "::/128"],
)
def test_a_network_that_nobody_may_reach_cannot_be_opened(network):
    with pytest.raises(SettingsError, match=r"EARMARK_FETCH_ALLOW_NETWORKS: .* never reached"):
        module.walls(Settings(fetch_allow_networks=network))


def test_a_file_of_authorities_must_be_one(tmp_path):
    (tmp_path / "empty.pem").write_text("")
    for path in (tmp_path / "none.pem", tmp_path / "empty.pem", tmp_path):
        with pytest.raises(SettingsError, match="EARMARK_FETCH_CA_FILE"):
            module.walls(Settings(fetch_ca_file=str(path)))


@pytest.mark.skipif(sys.platform != "linux", reason="NOT SHOWN: a thread has no niceness here")
def test_threads_that_hash_and_write_let_the_event_loop_go_first(parts):
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    stages = parts.intake._stages
    assert stages.writers.submit(niceness).result() == module.STEPPED_BACK
    assert stages.pool.submit(niceness).result() == niceness() < module.STEPPED_BACK
