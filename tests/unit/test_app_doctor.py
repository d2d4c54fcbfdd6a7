"""`earmark doctor`: what is wrong is found, and every finding that needs one has its mend."""

from __future__ import annotations

import shutil
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from earmark import sandbox
from earmark.app import doctor
from earmark.app.parts import Parts
from earmark.app.secret import FILE_NAME
from earmark.config import Settings
from earmark.database import Database, migrate, workers
from earmark.model import now
from earmark.storage.local import LocalStore
from postgres import Cluster, Server
from processing import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SECRET_KEY = "a-key-for-tests-alone-0123456789-0123456789"
GIBIBYTE = 1024**3


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EARMARK_{name.upper()}", raising=False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder in which a server has been."""
    folder = tmp_path / "data"
    parts = Parts(Settings(data=folder), issuer="http://x")
    parts.prepare()
    parts.access.check()
    parts.database.close()
    return folder


def findings(folder: Path) -> dict[str, doctor.Finding]:
    found = {finding.subject: finding for finding in doctor.examine(folder)}
    for finding in found.values():
        assert finding.words
        assert finding.state in {"ok", "warn", "fail"}
        assert finding.state == "ok" or finding.mend
    return found


def states(folder: Path) -> dict[str, str]:
    return {subject: finding.state for subject, finding in findings(folder).items()}


def snapshot(folder: Path) -> set[Any]:
    paths = [path for path in folder.rglob("*") if "sqlite3-" not in path.name]
    return {(path, path.read_bytes() if path.is_file() else b"") for path in paths}


def test_a_server_that_was_set_up_is_well(data):
    found = states(data)
    assert found.pop("decoder") in {"ok", "warn"}
    assert found.pop("open files") in {"ok", "warn"}
    assert found == {
        "settings": "ok",
        "database": "ok",
        "storage": "ok",
        "secret key": "ok",
        "worker": "warn",
        "address": "warn",
        "speech": "warn",
        "metrics": "ok",
    }


def test_speech_is_told_with_what_is_missing(data, tmp_path, monkeypatch):
    found = findings(data)["speech"]
    assert (found.state, "earmark models install base" in found.mend) == ("warn", True)
    model = tmp_path / "share" / "earmark" / "models" / "mine"
    model.mkdir(parents=True)
    (model / "model.bin").write_bytes(b"weights")
    found = findings(data)["speech"]
    assert (found.state, found.words) == ("ok", "engine local, model mine")
    monkeypatch.setenv("EARMARK_SPEECH_ENGINE", "off")
    assert findings(data)["speech"].state == "ok"


def test_looking_changes_nothing(data, tmp_path):
    before = snapshot(data)
    findings(data)
    assert snapshot(data) == before
    for folder in (tmp_path / "absent", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        found = findings(folder)
        assert found["data"].state == "warn"
        assert {"decoder", "address"} <= set(found)
        assert not [*tmp_path.glob("absent"), *folder.glob("*")]


def test_a_wrong_setting_is_all_that_is_told(data, monkeypatch):
    monkeypatch.setenv("EARMARK_DISK_RESERVE", "much")
    (finding,) = doctor.examine(data)
    assert (finding.state, finding.subject) == ("fail", "settings")
    assert "EARMARK_DISK_RESERVE" in finding.words


def test_a_living_worker_and_an_address_are_seen(data, monkeypatch):
    monkeypatch.setenv("EARMARK_PUBLIC_URL", "https://calls.example.org")
    parts = Parts(Settings(data=data))
    with parts.database.write(None) as scope:
        workers.beat(scope, "w", started_at=now(), now=now())
    parts.database.close()
    found = findings(data)
    assert found["worker"].state == "ok"
    assert (found["address"].state, found["address"].words) == ("ok", "https://calls.example.org")


def test_a_database_of_another_version_ends_the_look_into_it(data):
    parts = Parts(Settings(data=data))
    with parts.database.write(None) as scope:
        scope.run(sa.text("DELETE FROM alembic_version"))
    parts.database.close()
    found = findings(data)
    assert found["database"].state == "fail"
    assert "earmark database upgrade" in found["database"].mend
    assert not {"worker", "secret key"} & set(found)


def test_a_damaged_database_is_told(data):
    for path in data.glob("earmark.sqlite3*"):
        path.unlink()
    (data / "earmark.sqlite3").write_bytes(b"no database" * 999)
    assert findings(data)["database"].state == "fail"


@pytest.mark.parametrize(
    "url", ["postgresql://u:p4ss@127.0.0.1:1/x", "mysql://u:p4ss@h/x", "postgresql://"]
)
def test_a_database_that_cannot_be_reached_is_told_without_its_password(data, monkeypatch, url):
    monkeypatch.setenv("EARMARK_DATABASE_URL", url)
    found = findings(data)
    assert found["database"].state == "fail"
    assert "p4ss" not in str(found)


def test_postgresql_is_looked_into_as_well(postgres_url, tmp_path, monkeypatch):
    monkeypatch.setenv("EARMARK_DATABASE_URL", postgres_url)
    assert findings(tmp_path)["secret key"].state == "fail"
    monkeypatch.setenv("EARMARK_SECRET_KEY", SECRET_KEY)
    found = findings(tmp_path)
    assert found["database"].words.startswith("PostgreSQL")
    assert found["secret key"].words == "given by EARMARK_SECRET_KEY"


def test_the_role_on_postgresql_is_judged(
    postgres_server, postgres_template, tmp_path, monkeypatch
):
    name = postgres_server.create(postgres_template)
    monkeypatch.setenv("EARMARK_SECRET_KEY", SECRET_KEY)
    try:
        monkeypatch.setenv("EARMARK_DATABASE_URL", postgres_server.url(name))
        role = findings(tmp_path)["database role"]
        assert (role.state, role.mend) == ("ok", "")
        monkeypatch.setenv("EARMARK_DATABASE_URL", postgres_server.owner_url(name))
        role = findings(tmp_path)["database role"]
        assert role.state == "fail"
        assert "owns the tables" in role.words
        assert "docs/security.md" in role.mend
        monkeypatch.setenv("EARMARK_DATABASE_ALLOW_OWNER", "true")
        assert findings(tmp_path)["database role"].state == "warn"
        owner = Database(postgres_server.owner_url(name))
        with closing(owner), owner.write(None) as scope:
            scope.run(sa.text(f"REVOKE INSERT ON audit FROM {postgres_server.app_role}"))
        monkeypatch.setenv("EARMARK_DATABASE_URL", postgres_server.url(name))
        found = findings(tmp_path)
        assert found["database"].state == "fail"
        assert "not all rights on audit;" in found["database"].words
    finally:
        postgres_server.drop(name)


@pytest.fixture(scope="module")
def careful_server() -> Iterator[Server]:
    """A PostgreSQL as it is installed, but for `synchronous_commit`."""
    cluster = Cluster(settings={"fsync": "", "full_page_writes": ""})
    server = Server(*cluster.urls)
    yield server
    server.close()
    cluster.stop()


@contextmanager
def switched_off(server: Server, names: Sequence[str]) -> Iterator[None]:
    superuser = psycopg.connect(str(server.superuser_url("postgres")), autocommit=True)

    def have(change: str, value: str) -> None:
        for name in names:
            superuser.execute(sql.SQL(change).format(sql.Identifier(name)))
        superuser.execute("SELECT pg_reload_conf()")
        for name in names:
            wait_until(lambda name=name: superuser.execute(f"SHOW {name}").fetchone() == (value,))

    with superuser:
        have("ALTER SYSTEM SET {} = off", "off")
        yield
        have("ALTER SYSTEM RESET {}", "on")


def durability(server: Server, tmp_path: Path) -> doctor.Finding:
    name = server.create()
    with closing(Database(server.owner_url(name))) as owner:
        migrate.upgrade(owner, app_role=server.app_role)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EARMARK_DATABASE_URL", server.url(name))
        patch.setenv("EARMARK_SECRET_KEY", SECRET_KEY)
        found = findings(tmp_path)["database durability"]
    server.drop(name)
    return found


def test_a_postgresql_that_waits_for_the_disk_is_well(careful_server, tmp_path):
    assert durability(careful_server, tmp_path).state == "ok"


@pytest.mark.parametrize(
    ("off", "state"),
    [(["fsync"], "fail"), (["full_page_writes"], "warn"), (["fsync", "full_page_writes"], "fail")],
)
def test_a_postgresql_that_may_lose_what_it_acknowledged_is_told(
    careful_server, tmp_path, off, state
):
    with switched_off(careful_server, off):
        found = durability(careful_server, tmp_path)
    assert found.state == state
    assert found.words.startswith(f"{', '.join(off)} off: ")
    assert all(f"Set {name} = on" in found.mend for name in off)


def test_a_commit_that_waits_for_no_disk_is_told(postgres_url, tmp_path, monkeypatch):
    # As behind a pooler that resets what a connection has set.
    monkeypatch.setattr("earmark.database.core.await_disk", lambda _engine: None)
    monkeypatch.setenv("EARMARK_DATABASE_URL", postgres_url)
    found = findings(tmp_path)["database durability"]
    assert (found.state, "synchronous_commit" in found.words) == ("fail", True)
    assert "synchronous_commit = on" in found.mend


def test_a_postgresql_without_tables_is_told(postgres_server, tmp_path, monkeypatch):
    name = postgres_server.create()
    monkeypatch.setenv("EARMARK_DATABASE_URL", postgres_server.url(name))
    try:
        assert findings(tmp_path)["database"].state == "fail"
    finally:
        postgres_server.drop(name)


def test_a_storage_that_cannot_be_used_is_told(data, monkeypatch):
    shutil.rmtree(data / "storage")
    (data / "storage").write_text("")
    found = findings(data)
    assert found["storage"].state == "fail"
    monkeypatch.setenv("EARMARK_STORAGE_URL", "gopher:/x")
    assert findings(data)["storage"].state == "fail"
    assert findings(data)["worker"].state == "warn"


@pytest.mark.parametrize(
    ("free", "state"),
    [(None, "ok"), (100 * GIBIBYTE, "ok"), (2 * GIBIBYTE, "warn"), (GIBIBYTE // 2, "fail")],
)
def test_the_room_is_held_against_the_reserve(data, monkeypatch, free, state):
    monkeypatch.setattr(LocalStore, "free_bytes", lambda _self: free)
    assert findings(data)["storage"].state == state


def test_a_key_that_others_may_read_is_told(data):
    (data / FILE_NAME).chmod(0o640)
    found = findings(data)["secret key"]
    assert (found.state, found.mend) == ("fail", f"Run `chmod 600 {data / FILE_NAME}`.")


def test_a_lost_key_is_told_and_no_other_is_made(data):
    (data / FILE_NAME).unlink()
    assert findings(data)["secret key"].state == "fail"
    assert not (data / FILE_NAME).exists()


def test_a_key_of_another_installation_is_told(data):
    (data / FILE_NAME).write_text("another-key-0123456789-0123456789-0123456789")
    found = findings(data)["secret key"]
    assert (found.state, found.mend) == ("fail", "Give the key used so far.")


@pytest.mark.parametrize(("complete", "state"), [(True, "ok"), (False, "warn")])
def test_a_sandbox_with_less_than_all_of_it_is_told(data, monkeypatch, complete, state):
    class Isolation:
        pass

    isolation = Isolation()
    isolation.complete = complete  # type: ignore[attr-defined]
    monkeypatch.setattr(sandbox, "available", lambda: isolation)
    monkeypatch.setattr(sandbox, "description", lambda: "words")
    assert findings(data)["decoder"].state == state


@pytest.mark.parametrize(("files", "state"), [(1_000_000, "ok"), (1024, "warn")])
def test_open_files_are_held_against_the_connections_wanted(data, monkeypatch, files, state):
    limits = (1024, files)
    monkeypatch.setattr("earmark.app.acceptor.resource.getrlimit", lambda _what: limits)
    found = findings(data)["open files"]
    assert found.state == state
    assert ("LimitNOFILE" in found.mend) is (state == "warn")


@pytest.mark.parametrize(
    ("place", "state", "words"),
    [
        ("", "ok", "not kept"),
        ("9464", "ok", "http://127.0.0.1:9464/metrics"),
        ("10.0.0.5:9464", "warn", "http://10.0.0.5:9464/metrics"),
        ("[::1]:9464", "ok", "http://[::1]:9464/metrics"),
    ],
)
def test_the_address_of_metrics_is_told(data, monkeypatch, place, state, words):
    monkeypatch.setenv("EARMARK_METRICS_LISTEN", place)
    found = findings(data)["metrics"]
    assert (found.state, words in found.words) == (state, True)
