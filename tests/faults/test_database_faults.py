"""A database that is locked, moved, read-only or gone: 503 meanwhile, and all goes on after."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from earmark.app.worker_process import upgrade
from earmark.config import Settings
from faults.faults import (
    UNCOMMITTED,
    Ledger,
    Mutant,
    caught,
    disk,
    label,
    lines,
    name_of,
    planted,
)
from postgres import Cluster
from postgres import Server as Postgres
from serving import Server, serving, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HASTE = Mutant(
    "",  # no mutant: a lock is waited for a second, and not a quarter of a minute
    "database/core.py",
    "BUSY_SECONDS = 15\n",
    "BUSY_SECONDS = 1\n",
)
PATIENT_FOR_EVER = Mutant(
    "locks are waited for without end",
    "database/core.py",
    " -c lock_timeout={BUSY_SECONDS}s",
    "",
)
ANY_FILE = Mutant(
    "connections outlive their file",
    "pooled.py",
    "        if before != present:",
    "        if False:",
)
SPOILT_KEPT = Mutant(
    "spoilt connections are kept",
    "pooled.py",
    "            context.is_disconnect = True",
    "            pass",
)
OURS = Mutant(
    "a read-only database counts as our fault",
    "database/core.py",
    "        if is_read_only(error.orig):",
    "        if False:",
)
LOCK_SECONDS = 8


def file_of(server: Server) -> Path:
    return server.data / "earmark.sqlite3"


def superuser(server: Server, cluster: Postgres) -> psycopg.Connection:
    name = server.database_url.rpartition("/")[2]
    url = cluster.superuser_url(name)
    if url is None:
        pytest.skip("the given PostgreSQL has no superuser for the tests")
    return psycopg.connect(url, autocommit=True)


def meanwhile(ledger: Ledger, server: Server, release: Callable[[], None]) -> None:
    """Uploads while somebody holds a lock, which is released if they wait too long for it."""
    released = threading.Event()

    def let_go() -> None:
        released.set()
        release()

    timer = threading.Timer(LOCK_SECONDS, let_go)
    timer.start()
    try:
        names = [f"held-{number}.wav" for number in range(2)]
        with ledger.held(server.data / "storage" / "staging", *names):
            pass
        ledger.upload("meanwhile.wav")
        assert not released.is_set(), "nobody was answered before the lock ended"
        assert server.get("/health/live").status_code == 200
    finally:
        timer.cancel()
        timer.join()
        if not released.is_set():
            release()


def sqlite_locked(server: Server) -> Ledger:
    """SQLite locked: another process holds the write lock for longer than is waited."""
    ledger = Ledger(server.caller())
    assert ledger.upload("before.wav") == 200
    locker = sqlite3.connect(file_of(server), check_same_thread=False, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    meanwhile(ledger, server, locker.close)
    assert ledger.answers == {"200": 1, "503 in 5 s": 3}, ledger.told
    ledger.complete()
    return ledger


def sqlite_moved(server: Server) -> Ledger:
    """SQLite's file away: moved, and put back under a running server."""
    ledger = Ledger(server.caller(), patience_seconds=10)
    assert ledger.upload("before.wav") == 200
    away = server.data.with_name("away")
    away.mkdir(exist_ok=True)
    files = [file_of(server).with_name(f"earmark.sqlite3{more}") for more in ("", "-wal", "-shm")]
    for file in files:
        file.rename(away / file.name)
    for number in range(4):
        ledger.upload(f"meanwhile-{number}.wav")
    assert not ledger.answers["200"] > 1, "acknowledged into a file that is not there any more"
    for file in files:
        file.unlink(missing_ok=True)
    for file in files:
        (away / file.name).rename(file)
    ledger.complete()
    return ledger


def sqlite_replaced(server: Server) -> Ledger:
    """SQLite's file replaced: what is acknowledged from then on is in the new one."""
    ledger = Ledger(server.caller(), patience_seconds=10)
    assert ledger.upload("before.wav") == 200
    copy = server.data / "copy.sqlite3"
    with (
        contextlib.closing(sqlite3.connect(file_of(server))) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")
    for more in ("-wal", "-shm", ""):
        file_of(server).with_name(f"earmark.sqlite3{more}").unlink()
    copy.rename(file_of(server))
    for number in range(4):
        ledger.upload(f"after-{number}.wav")
    ledger.complete()
    with contextlib.closing(sqlite3.connect(file_of(server))) as new:
        names = "SELECT file_name FROM interaction WHERE file_name LIKE ?"
        found = {row[0] for row in new.execute(names, (f"{ledger.folder}/%",))}
    assert found == {f"{ledger.folder}/{name}" for name in ledger.kept}
    return ledger


def sqlite_unwritable(server: Server) -> Ledger:
    """SQLite's file unwritable: who opens it meanwhile can read, and never write."""
    ledger = Ledger(server.caller(), lost_allowed=True, patience_seconds=10)
    assert ledger.upload("before.wav") == 200
    (web,) = server.children("web")
    subprocess.run(["chattr", "+i", str(file_of(server))], check=True)
    try:
        os.kill(web, signal.SIGKILL)
        until(lambda: server.children("web") not in ([], [web]) and server.answers(), "another")
        for number in range(4):
            ledger.upload(f"meanwhile-{number}.wav")
    finally:
        subprocess.run(["chattr", "-i", str(file_of(server))], check=True)
    assert ledger.answers == {"200": 1, "503 in 5 s": 4}, ledger.told
    ledger.complete()
    return ledger


@contextlib.contextmanager
def on_a_disk(folder: Path, template: Path, mutant: Mutant | None = None) -> Iterator[Server]:
    with disk(folder / "data", 32) as data:  # tmpfs lets nobody make a file unchangeable
        shutil.copytree(template, data.path, dirs_exist_ok=True)
        server = Server(data.path)
        planted(server, [mutant] if mutant else [], folder)
        with serving(server, worker=True):
            yield server


def test_connections_opened_while_sqlite_was_unwritable_are_dropped(
    tmp_path, sqlite_served, record_property
):
    with on_a_disk(tmp_path, sqlite_served) as server:
        ledger = sqlite_unwritable(server)
        record_property("fault", (name_of(sqlite_unwritable), *judge(server, ledger, 0)))


def test_connections_that_are_not_dropped_are_seen(tmp_path, sqlite_served, record_property):
    fault = name_of(sqlite_unwritable)
    with (
        on_a_disk(tmp_path, sqlite_served, SPOILT_KEPT) as server,
        caught(SPOILT_KEPT, fault, record_property),
    ):
        sqlite_unwritable(server).check()


def postgres_locked(server: Server, cluster: Postgres) -> Ledger:
    """PostgreSQL locked: somebody holds LOCK TABLE for longer than is waited."""
    ledger = Ledger(server.caller())
    with superuser(server, cluster) as locker:
        locker.execute("BEGIN")
        locker.execute("LOCK TABLE interaction IN SHARE MODE")  # uploads can look, and not add
        meanwhile(ledger, server, lambda: locker.cancel() or locker.close())
    assert ledger.answers == {"503 in 5 s": 3}, ledger.told
    ledger.complete()
    return ledger


def postgres_read_only(server: Server, cluster: Postgres) -> Ledger:
    """PostgreSQL read-only: as after a failover to what is a standby still."""
    ledger = Ledger(server.caller())
    name = server.database_url.rpartition("/")[2]
    with superuser(server, cluster) as operator:
        for state in ("on", "off"):
            operator.execute(
                f'ALTER DATABASE "{name}" SET default_transaction_read_only = {state}'
            )
            if state == "on":
                ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
                operator.execute(f"{ended} AND pid <> pg_backend_pid()", (name,))
                for number in range(4):
                    ledger.upload(f"meanwhile-{number}.wav")
    assert ledger.answers == {"503 in 5 s": 4}, ledger.told
    ledger.complete()
    return ledger


ON_SQLITE = [(sqlite_locked, UNCOMMITTED), (sqlite_moved, ANY_FILE), (sqlite_replaced, ANY_FILE)]
ON_POSTGRESQL = [(postgres_locked, PATIENT_FOR_EVER), (postgres_read_only, OURS)]


@pytest.fixture(scope="module")
def hasty(
    new_server, tmp_path_factory
) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Starts servers that wait for no lock as long as usual, with or without a mutant."""

    @contextlib.contextmanager
    def start(kind: str, mutant: Mutant | None = None) -> Iterator[Server]:
        server = new_server(kind)
        planted(server, [HASTE, *([mutant] if mutant else [])], tmp_path_factory.mktemp("hasty"))
        with serving(server, worker=True):
            yield server
            if mutant:
                server.kill()

    return start


@pytest.fixture(scope="module")
def on_sqlite(hasty) -> Iterator[Server]:
    with hasty("sqlite") as started:
        yield started


@pytest.fixture(scope="module")
def on_postgresql(hasty) -> Iterator[Server]:
    with hasty("postgresql") as started:
        yield started


def judge(server: Server, ledger: Ledger, before: int) -> tuple[str, str, str, str]:
    kept = ledger.check()
    until(lambda: server.ready(worker=True), "ready again")
    told = [line for line in lines(server, before) if "milliseconds" not in line]
    assert told, "the operator hears nothing of it"
    said = [line for line in told if "request failed" not in line]
    assert len(said) < 20, said
    return ledger.told, kept, ""


@pytest.mark.parametrize("fault", [fault for fault, _ in ON_SQLITE], ids=label)
def test_what_sqlite_cannot_take_is_503_and_is_taken_once_it_can(
    on_sqlite, fault, record_property
):
    before = len(lines(on_sqlite))
    ledger = fault(on_sqlite)
    record_property("fault", (name_of(fault), *judge(on_sqlite, ledger, before)))


@pytest.mark.parametrize("fault", [fault for fault, _ in ON_POSTGRESQL], ids=label)
def test_what_postgresql_cannot_take_is_503_and_is_taken_once_it_can(
    on_postgresql, postgres_server, fault, record_property
):
    before = len(lines(on_postgresql))
    ledger = fault(on_postgresql, postgres_server)
    record_property("fault", (name_of(fault), *judge(on_postgresql, ledger, before)))


@pytest.mark.parametrize(("fault", "mutant"), ON_SQLITE, ids=label)
def test_a_defence_on_sqlite_that_is_off_is_seen(hasty, fault, mutant, record_property):
    with hasty("sqlite", mutant) as server, caught(mutant, name_of(fault), record_property):
        fault(server).check()


@pytest.mark.parametrize(("fault", "mutant"), ON_POSTGRESQL, ids=label)
def test_a_defence_on_postgresql_that_is_off_is_seen(
    hasty, postgres_server, fault, mutant, record_property
):
    with hasty("postgresql", mutant) as server, caught(mutant, name_of(fault), record_property):
        fault(server, postgres_server).check()


# PostgreSQL stopped and started


def postgres_gone(server: Server, cluster: Cluster) -> Ledger:
    """PostgreSQL gone: stopped with uploads in flight, and started again after a while."""
    ledger = Ledger(server.caller())
    assert ledger.upload("before.wav") == 200
    names = [f"held-{number}.wav" for number in range(2)]
    with ledger.held(server.data / "storage" / "staging", *names):
        cluster.crash()
    for number in range(4):
        ledger.upload(f"meanwhile-{number}.wav")
    assert ledger.answers == {"200": 1, "503 in 5 s": 6}, ledger.told
    until(lambda: server.health()[0] == 503, "not ready")
    cluster.restart()
    ledger.complete()
    return ledger


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(settings={"synchronous_commit": "on"})  # what it acknowledged it has
    yield made
    made.stop()


@contextlib.contextmanager
def on_cluster(cluster: Cluster, folder: Path, mutant: Mutant | None = None) -> Iterator[Server]:
    servers = Postgres(*cluster.urls)
    name = servers.create()
    servers.close()
    urls = {"database_url": servers.url(name), "database_owner_url": servers.owner_url(name)}
    upgrade(Settings(data=folder / "data", **urls))
    server = Server(folder / "data", urls["database_url"])
    planted(server, [mutant] if mutant else [], folder)
    with serving(server, worker=True):
        yield server
        if mutant:
            server.kill()


def test_while_postgresql_is_gone_it_is_503_and_goes_on_once_it_is_back(
    cluster, tmp_path, record_property
):
    with on_cluster(cluster, tmp_path) as server:
        ledger = postgres_gone(server, cluster)
        record_property("fault", (name_of(postgres_gone), *judge(server, ledger, 0)))


def test_a_commit_that_failed_and_was_acknowledged_is_seen(cluster, tmp_path, record_property):
    with (
        on_cluster(cluster, tmp_path, UNCOMMITTED) as server,
        caught(UNCOMMITTED, name_of(postgres_gone), record_property),
    ):
        postgres_gone(server, cluster)
    cluster.restart()
