"""The local store: the order of its system calls is its promise, and every failure is told."""

from __future__ import annotations

import errno
import gc
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from earmark.errors import NotFoundError, SettingsError, UnavailableError
from earmark.storage import local
from earmark.storage.local import LocalStore, open_store
from serving import descriptors

KEY = "018f0000-0000-7000-8000-0123456789ab"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def files(store_root: Path) -> list[Path]:
    return [path for path in store_root.rglob("*") if path.is_file()]


SCRIPT = """
import sys
from pathlib import Path
from earmark.storage.local import LocalStore
store = LocalStore(Path(sys.argv[1]))
staged = store.stage(sys.argv[2])
staged.append([b"some bytes"])
Path(sys.argv[1], "MARK").exists()
staged.publish()
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="NOT SHOWN: strace is not installed")
def test_the_data_is_synced_before_the_name_and_the_name_before_the_promise(tmp_path):
    trace = tmp_path / "trace"
    calls = "trace=openat,fsync,fdatasync,rename,renameat,renameat2,writev,stat,newfstatat,close"
    command = ["strace", "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        [*command, str(tmp_path / "store"), KEY], capture_output=True, text=True, check=False
    )
    if "ptrace" in done.stderr:
        pytest.skip("NOT SHOWN: strace may not trace here")
    assert done.returncode == 0, done.stderr
    before, after = trace.read_text().split('MARK"')
    opened = [line for line in before.splitlines() if "openat" in line and "/staging/" in line]
    assert len(opened) == 1
    assert {"O_CREAT", "O_EXCL", "O_NOFOLLOW", "O_CLOEXEC"} <= set(re.findall(r"O_\w+", opened[0]))
    assert "writev" in before
    staged, shard = rf"/staging/{KEY}\.\w+", f"/objects/{KEY[-2:]}"
    order = [
        rf"fsync\(\d+<[^>]*{staged}>\)\s+= 0",
        rf'rename\("[^"]*{staged}", "[^"]*{shard}/{KEY}"\)\s+= 0',
        rf"fsync\(\d+<[^>]*{shard}>\)\s+= 0",
    ]
    places = [match.start() if (match := re.search(one, after)) else -1 for one in order]
    assert -1 not in places, after
    assert places == sorted(places)


def test_the_folders_are_there_and_synced_before_the_first_upload(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    LocalStore(tmp_path / "a" / "b")
    assert [path.relative_to(tmp_path).as_posix() for path in synced] == [
        ".",
        "a",
        "a/b",
        "a/b",
        "a/b",
        "a/b/objects",
    ]
    assert len([*(tmp_path / "a" / "b" / "objects").iterdir()]) == 256


def test_nobody_else_may_read_what_is_kept(store, tmp_path):
    store.put(KEY, b"private")
    for path in (tmp_path / "store").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_stands_where_a_stage_would_be_is_never_written_to(store, tmp_path, monkeypatch):
    target = tmp_path / "target"
    target.write_bytes(b"untouched")
    monkeypatch.setattr(local.secrets, "token_hex", lambda _: "same")
    (tmp_path / "store" / "staging" / f"{KEY}.same").symlink_to(target)
    with pytest.raises(UnavailableError, match="File exists"):
        store.stage(KEY)
    assert target.read_bytes() == b"untouched"


def test_an_object_that_is_a_link_is_not_followed(store, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"not ours")
    (tmp_path / "store" / "objects" / "ab" / KEY).symlink_to(secret)
    with pytest.raises(UnavailableError):
        store.read(KEY)


def test_objects_are_spread_by_the_random_end_of_their_ids(store, tmp_path):
    store.put(KEY, b"x")
    store.put(f"{KEY}.waveform", b"y")
    assert {path.parent.name for path in files(tmp_path / "store")} == {"ab"}


@pytest.mark.parametrize(("number", "seconds"), [("ENOSPC", 60), ("EDQUOT", 60), ("EIO", 5)])
@pytest.mark.parametrize("call", ["writev", "fsync"])
def test_a_full_or_broken_disk_is_told_and_nothing_stays(  # noqa: PLR0917 - fixtures
    store, tmp_path, monkeypatch, number, seconds, call
):
    def fail(*_: Any) -> None:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UnavailableError) as caught:
        store.put(KEY, b"x")
    assert caught.value.retry_after_seconds == seconds
    assert isinstance(caught.value.__cause__, OSError)
    monkeypatch.undo()
    assert files(tmp_path / "store") == []


def test_a_disk_that_fails_after_the_rename_keeps_no_object(store, tmp_path, monkeypatch):
    real = os.fsync

    def fail_for_folders(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(errno.EIO, "input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    with pytest.raises(UnavailableError):
        store.put(KEY, b"x")
    monkeypatch.undo()
    assert files(tmp_path / "store") == []


def test_a_file_over_the_systems_limit_is_unavailable_and_leaves_nothing(tmp_path):
    """EFBIG, by a real limit in a process of its own."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from earmark.errors import UnavailableError\n"
        "from earmark.storage.local import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    store.put('ab', bytes(200_000))\n"
        "except UnavailableError as error:\n"
        "    print(error)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "the storage cannot take more bytes: File too large\n"
    assert files(tmp_path / "store") == []


def test_a_write_that_takes_fewer_bytes_goes_on_until_all_are_taken(store, monkeypatch):
    real, sizes = os.writev, []

    def reluctant(descriptor: int, views: list[memoryview]) -> int:
        sizes.append(written := real(descriptor, [views[0][:3]]))
        return written

    monkeypatch.setattr(os, "writev", reluctant)
    store.put(KEY, b"0123456789")
    assert sizes == [3, 3, 3, 1]
    assert b"".join(store.read(KEY)) == b"0123456789"


def test_a_storage_that_is_gone_is_unavailable_in_every_way(store, tmp_path):
    store.put(KEY, b"x")
    shutil.rmtree(tmp_path / "store")
    for ask in (
        lambda: store.stage(KEY),
        lambda: store.put(KEY, b""),
        store.free_bytes,
        store.check,
        lambda: list(store.keys(older_than_seconds=0)),
        lambda: store.sweep_staging(older_than_seconds=0),
        lambda: store.staged_alone(older_than_seconds=0),
        lambda: list(store.quarantined()),
        lambda: store.restore(KEY),
        lambda: store.remove_quarantined(KEY),
    ):
        with pytest.raises(UnavailableError):
            ask()
    with pytest.raises(NotFoundError):
        store.read(KEY)


def test_a_folder_where_an_object_should_be_cannot_be_deleted(store, tmp_path):
    (tmp_path / "store" / "objects" / "ab" / KEY).mkdir()
    with pytest.raises(UnavailableError):
        store.delete(KEY)


def test_a_storage_that_gives_back_other_bytes_is_found_out(store, monkeypatch):
    monkeypatch.setattr(store, "read", lambda _key: iter([b"other"]))
    with pytest.raises(UnavailableError, match="other bytes than it took"):
        store.check()


def test_dropping_a_reading_or_a_listing_closes_what_it_had_open(store):
    store.put(KEY, bytes(1_000_000))
    gc.collect()  # what earlier tests dropped is none of it
    before = descriptors(os.getpid())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reading, untouched = store.read(KEY), store.read(KEY)
        next(reading)
        listing = store.keys(older_than_seconds=-60)
        next(listing)
        del reading, untouched, listing
        gc.collect()
    assert descriptors(os.getpid()) == before


def test_what_vanishes_while_it_is_listed_is_passed_over(store, tmp_path, monkeypatch):
    staged = store.stage(KEY)
    real = os.scandir

    class Vanishing:
        def __init__(self, folder: Path) -> None:
            self.entries = real(folder)

        def __enter__(self) -> Any:
            found = list(self.entries)
            for entry in found:
                os.unlink(entry.path)  # noqa: PTH108
            return iter(found)

        def __exit__(self, *_: object) -> None:
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Vanishing)
    assert store.sweep_staging(older_than_seconds=-60) == 0
    staged.discard()


@pytest.mark.parametrize("url", ["file://host/path", "file:", "file://"])
def test_a_url_that_names_no_folder_is_refused(url):
    with pytest.raises(SettingsError, match="must be like file:/"):
        open_store(url)


def test_a_url_whose_folder_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be used"):
        open_store((tmp_path / "file" / "store").as_uri())


def test_a_url_may_be_relative_and_hold_escapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_store("file:a%20b%3F")
    assert (tmp_path / "a b?" / "objects").is_dir()


def test_a_disk_that_fails_in_the_middle_of_a_reading_is_told(store, monkeypatch):
    real = os.pread

    def fail_later(descriptor: int, size: int, start: int) -> bytes:
        if start:
            raise OSError(errno.EIO, "input/output error")
        return real(descriptor, size, start)

    store.put(KEY, bytes(1_000_000))
    reading = store.read(KEY)
    monkeypatch.setattr(os, "pread", fail_later)
    assert next(reading)
    with pytest.raises(UnavailableError, match="cannot read a file: input/output error") as caught:
        next(reading)
    assert isinstance(caught.value.__cause__, OSError)


# Several at once


@pytest.fixture
def bunch(store) -> tuple[list[str], list[Any]]:
    """Keys, and what is staged under them."""
    keys = [f"{KEY[:-1]}{number}" for number in range(5)]
    staged = [store.stage(key) for key in keys]
    for one in staged:
        one.append([b"some bytes"])
    return keys, staged


@pytest.fixture(params=["fast", "slow"])
def disk(request, monkeypatch) -> str:
    """Each wait takes too long, or none does."""
    monkeypatch.setattr(local, "SLOW_SECONDS", {"fast": 60, "slow": -1}[request.param])
    return request.param


def test_one_that_fails_keeps_none_of_the_others_from_their_place(store, bunch, disk, monkeypatch):
    keys, staged = bunch
    real = os.fsync

    def fail(descriptor: int) -> None:
        if descriptor == staged[2]._descriptor:
            raise OSError(errno.EIO, "input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    outcomes = store.publish(staged)
    assert [outcome is None for outcome in outcomes] == [True, True, False, True, True]
    assert isinstance(outcomes[2], UnavailableError)
    assert set(store.keys(older_than_seconds=-60)) == {*keys[:2], *keys[3:]}


def test_each_step_is_done_for_all_before_the_next(store, bunch, disk, monkeypatch):
    _keys, staged = bunch
    done: list[str] = []
    lock = threading.Lock()
    for name in ("fsync", "rename"):
        real = getattr(os, name)

        def noting(*args: Any, name: str = name, real: Any = real) -> None:
            real(*args)
            with lock:
                done.append(name)

        monkeypatch.setattr(os, name, noting)
    assert store.publish(staged) == [None] * 5
    assert done == ["fsync"] * 5 + ["rename"] * 5 + ["fsync"] * 5


def test_on_a_slow_disk_all_wait_at_once(store, bunch, monkeypatch):
    _keys, staged = bunch
    monkeypatch.setattr(local, "SLOW_SECONDS", 0.01)
    together, real = threading.Barrier(4), os.fsync

    def slow(descriptor: int) -> None:
        if descriptor == staged[0]._descriptor:
            time.sleep(0.05)
        elif descriptor in {one._descriptor for one in staged[1:]}:
            together.wait(20)  # which only ends if the four others come while one waits
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    assert store.publish(staged) == [None] * 5


def test_without_threads_what_would_wait_in_them_is_not_there_for_good(store, bunch, monkeypatch):
    keys, staged = bunch

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(local, "SLOW_SECONDS", -1)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    outcomes = store.publish(staged)
    assert outcomes[0] is None
    assert all(isinstance(outcome, UnavailableError) for outcome in outcomes[1:])
    assert set(store.keys(older_than_seconds=-60)) == {keys[0]}
