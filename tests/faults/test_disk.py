"""Disks that are full, read-only, or fail: what is acknowledged is kept, and all goes on after."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from faults.faults import (
    MEBIBYTE,
    SWALLOWED,
    UNCOMMITTED,
    Disk,
    Ledger,
    Mutant,
    caught,
    disk,
    label,
    lines,
    name_of,
    planted,
    preloaded,
    recording,
)
from serving import Server, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE = 3 * MEBIBYTE
RESERVE = 4 * MEBIBYTE

NO_RESERVE = Mutant(
    "no disk reserve",
    "intake/stage.py",
    "else free - self.limits.reserve_bytes",
    "else free",
)
ANOTHER_SYNC = Mutant(
    "a file is synced again after an error",
    "storage/local.py",
    "            os.fsync(self._descriptor)\n",
    "            with contextlib.suppress(OSError):\n                os.fsync(self._descriptor)\n"
    "            os.fsync(self._descriptor)\n",
)
FOLDER_UNSYNCED = Mutant(
    "an error of the folder's sync is swallowed",
    "storage/local.py",
    "            _sync_folder(self._folder)\n",
    "            with contextlib.suppress(OSError):\n                _sync_folder(self._folder)\n",
)
NEVER_DROPPED = Mutant(
    "connections to the database are never dropped",
    "pooled.py",
    '    @event.listens_for(engine, "handle_error")\n',
    '    return\n\n    @event.listens_for(engine, "handle_error")\n',
)


@dataclass
class Disks:
    """A running server, the disk of its database and the disk of its recordings."""

    server: Server
    data: Disk
    storage: Disk
    patience_seconds: float

    @property
    def staging(self) -> Path:
        return self.storage.path / "staging"

    def ledger(self) -> Ledger:
        return Ledger(self.server.caller(), patience_seconds=self.patience_seconds)


@contextlib.contextmanager
def on_disks(
    folder: Path, template: Path, mutant: Mutant | None = None, **settings: object
) -> Iterator[Disks]:
    with disk(folder / "data", 24) as data, disk(folder / "storage", 96) as storage:
        shutil.copytree(template, data.path, dirs_exist_ok=True)
        server = Server(data.path, settings={"storage_url": storage.path.as_uri(), **settings})
        program = preloaded("fiu_run_preload.so", "fiu_posix_preload.so")
        server.program = (*program, f"FIU_CTRL_FIFO={folder}/fiu", *server.program)
        planted(server, [mutant] if mutant else [], folder)
        with serving(server, worker=True):
            yield Disks(server, data, storage, 2 if mutant else 60)
            if mutant:
                server.kill()  # it may not be able to end


@pytest.fixture(scope="module")
def disks(tmp_path_factory, sqlite_served) -> Iterator[Disks]:
    with on_disks(tmp_path_factory.mktemp("disks"), sqlite_served) as made:
        yield made


def storage_full(disks: Disks) -> Ledger:
    """Storage full in the middle: filled while uploads come, and emptied again."""
    ledger = disks.ledger()
    assert ledger.upload("before.wav") == 200
    disks.storage.fill(but_bytes=LARGE - MEBIBYTE // 2)  # it is admitted, and does not fit
    for number in range(4):
        ledger.upload(f"large-{number}.wav", recording(LARGE))
    disks.storage.fill()
    ledger.upload_until(503, "full")
    disks.storage.free()
    ledger.complete()
    return ledger


def database_full(disks: Disks) -> Ledger:
    """Disk full while committing: bytes are staged and published, and the row does not fit."""
    ledger = disks.ledger()
    until(lambda: log_is_short(disks.data.path / "earmark.sqlite3"), "a log without room")
    with ledger.held(disks.staging, *(f"held-{number}.wav" for number in range(5))):
        disks.data.fill()
    assert ledger.answers["503 in 5 s"]
    for number in range(5):
        ledger.upload(f"more-{number}.wav")
    disks.data.free()
    ledger.complete()
    return ledger


def log_is_short(database: Path) -> bool:
    """Whether SQLite's write-ahead log could be cut to nothing: its old length is room, too."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


def read_only(disks: Disks) -> Ledger:
    """Read-only after an error: made so by the kernel, then mended and mounted anew."""
    ledger = disks.ledger()
    assert ledger.upload("before.wav") == 200
    for one in (disks.storage, disks.data):
        one.fail()
    for number in range(12):  # each connection to the database meets it
        ledger.upload(f"meanwhile-{number}.wav")
    until(lambda: disks.server.health()[0] == 503, "not ready")
    for one in (disks.storage, disks.data):
        one.mend()
    ledger.complete()
    return ledger


def file_sync_fails(disks: Disks) -> Ledger:
    """fsync of a file fails once: what it was to keep is never acknowledged."""
    ledger = disks.ledger()
    with failing(disks.server, "fsync", "onetime"):
        assert ledger.upload("once.wav") == 503
    with failing(disks.server, "fsync"):
        for number in range(3):
            assert ledger.upload(f"meanwhile-{number}.wav") == 503
    ledger.complete()
    return ledger


def folder_sync_fails(disks: Disks) -> Ledger:
    """fsync of a folder fails: an object whose name may be lost is never acknowledged."""
    ledger = disks.ledger()
    (web,) = disks.server.children("web")
    # The first of each thread is that of a file, the second that of its folder, and so on.
    inject = ("-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=2+2")
    command = ["strace", "-f", "-p", str(web), *inject]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracing:
        assert tracing.stderr is not None
        told = tracing.stderr.readline()
        assert "attached" in told, told
        try:
            for number in range(3):
                assert ledger.upload(f"meanwhile-{number}.wav") == 503
        finally:
            tracing.terminate()
            tracing.communicate()
    ledger.complete()
    return ledger


def commit_sync_fails(disks: Disks) -> Ledger:
    """fdatasync of the database fails: a commit that may be lost is never acknowledged."""
    ledger = disks.ledger()
    assert ledger.upload("before.wav") == 200
    with failing(disks.server, "fdatasync"):
        for number in range(3):
            assert ledger.upload(f"meanwhile-{number}.wav") == 503
    ledger.complete()
    return ledger


@contextlib.contextmanager
def failing(server: Server, call: str, *options: str) -> Iterator[None]:
    """Has a system call of its web process fail with EIO. Source: fiu-ctrl(1)."""
    (web,) = server.children("web")
    (fifo,) = [word.partition("=")[2] for word in server.program if "FIU_CTRL_FIFO" in word]
    name = f"posix/io/sync/{call}"

    def tell(*words: str) -> None:
        told = ["fiu-ctrl", "-f", fifo, "-c", " ".join(words), str(web)]
        subprocess.run(told, check=True, timeout=20, capture_output=True)

    tell("enable", ",".join([f"name={name}", "failinfo=5", *options]))
    try:
        yield
    finally:
        tell("disable", f"name={name}")


FAULTS = [
    storage_full,
    database_full,
    read_only,
    file_sync_fails,
    folder_sync_fails,
    commit_sync_fails,
]


@pytest.mark.parametrize("fault", FAULTS, ids=label)
def test_what_a_disk_cannot_take_is_503_and_is_taken_once_it_can(disks, fault, record_property):
    before = len(lines(disks.server))
    ledger = fault(disks)
    kept = ledger.check()
    assert not [*disks.staging.iterdir()]
    until(disks.server.ready, "ready again")
    told = lines(disks.server, before)
    assert any("request failed" in line for line in told)
    said = [line for line in told if "milliseconds" not in line and "request failed" not in line]
    assert len(said) < 20, said
    record_property("fault", (name_of(fault), ledger.told, kept, ""))


@pytest.mark.parametrize(
    ("fault", "mutant"),
    [
        (storage_full, SWALLOWED),
        (database_full, UNCOMMITTED),
        (read_only, NEVER_DROPPED),
        (file_sync_fails, ANOTHER_SYNC),
        (folder_sync_fails, FOLDER_UNSYNCED),
        (commit_sync_fails, UNCOMMITTED),
    ],
    ids=label,
)
def test_a_defence_that_is_off_is_seen(fault, mutant, tmp_path, sqlite_served, record_property):
    with (
        on_disks(tmp_path, sqlite_served, mutant) as disks,
        caught(mutant, name_of(fault), record_property),
    ):
        fault(disks).check()


# The reserve


@contextlib.contextmanager
def reserving(tmp_path: Path, template: Path, mutant: Mutant | None = None) -> Iterator[Disks]:
    with on_disks(tmp_path, template, mutant, disk_reserve=RESERVE) as disks:
        yield disks


def reserve_touched(disks: Disks) -> Ledger:
    """The disk reserve: refused at it, before an upload and in its middle."""
    ledger = disks.ledger()
    with ledger.held(disks.staging, "held.wav", size_bytes=LARGE):
        disks.storage.fill(but_bytes=RESERVE - 4096)
    disks.storage.fill(but_bytes=RESERVE - 4096)  # what was held is gone by now
    ledger.upload("small.wav")
    assert set(ledger.answers) == {"503 in 60 s"}, ledger.told
    disks.storage.free()
    ledger.complete()
    return ledger


def test_the_reserve_stays_free(tmp_path, sqlite_served, record_property):
    with reserving(tmp_path, sqlite_served) as disks:
        ledger = reserve_touched(disks)
        record_property("fault", (name_of(reserve_touched), ledger.told, ledger.check(), ""))


def test_a_reserve_that_is_not_looked_at_is_seen(tmp_path, sqlite_served, record_property):
    with (
        reserving(tmp_path, sqlite_served, NO_RESERVE) as disks,
        caught(NO_RESERVE, name_of(reserve_touched), record_property),
    ):
        reserve_touched(disks)
