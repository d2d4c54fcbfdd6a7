"""What the commands of upkeep print, and how they end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from books import Books
from commands import runner
from earmark.app.parts import Parts
from earmark.cli._common import Meter, shown_bytes, size
from earmark.config import load
from earmark.database import journal
from earmark.interactions import Interactions, media_key
from earmark.model import Principal, new_id
from earmark.storage.local import LocalStore
from serving import SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from commands import Ended
    from earmark.database import Database


@pytest.fixture
def run(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Ended]:
    settings: dict[str, object] = {
        "data": tmp_path / "data",
        "database_url": database_url,
        "secret_key": SECRET_KEY,
        "orphan_grace_seconds": 60,
    }
    return runner(monkeypatch, capsys, **settings)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data" / "storage")


@pytest.fixture
def books(database: Database, organization: UUID) -> Books:
    return Books(database, organization)


def receive(books: Books, store: LocalStore, content: bytes = b"content") -> UUID:
    id_ = books.receive(size_bytes=len(content))
    books.change(id_, sha256=hashlib.sha256(content).digest())
    store.put(media_key(id_), content)
    return id_


def told(ended: Ended) -> Any:
    return json.loads(ended.out)


def test_a_scrub_tells_what_is_damaged_and_ends_with_1(
    run: Callable[..., Ended], books: Books, store: LocalStore
) -> None:
    good, bad = receive(books, store), receive(books, store)
    clean = run("scrub", "--rate", "50MB")
    assert (clean.status, clean.err) == (0, "")
    assert clean.out == "ok    2 objects, 14 bytes are as they were taken in.\n"
    store.put(media_key(bad), b"kontent")
    found = run("scrub")
    assert found.status == 1
    assert f"interaction {bad}, organization {books.organization_id}" in found.out
    assert hashlib.sha256(b"kontent").hexdigest() in found.out
    assert hashlib.sha256(b"content").hexdigest() in found.out
    assert str(good) not in found.out
    as_json = run("scrub", "--json", "--restart")
    assert as_json.status == 1
    # Here, logs go where structlog sends them by itself; else to standard error.
    (finding,) = json.loads(as_json.out.splitlines()[-1])["findings"]
    assert finding["interaction_id"] == str(bad)
    audit = run("audit", "list", "--json", "--subject", str(bad))
    assert [json.loads(line)["action"] for line in audit.out.splitlines()] == [
        "storage.damage",
        "storage.damage",
    ]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--rate", "fast"), "--rate: Use bytes, or a number with KB"),
        (("--rate", "0"), "--rate: Give more than 0."),
        (("--since", "yesterday"), "--since: Write a time like"),
    ],
)
def test_a_scrub_names_what_is_wrong(
    run: Callable[..., Ended], words: tuple[str, ...], match: str
) -> None:
    ended = run("scrub", *words)
    assert ended.status == 1
    assert match in ended.err


def test_a_sweep_tells_first_and_does_then(
    run: Callable[..., Ended],
    principal: Principal,
    books: Books,
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, lost, deleted = receive(books, store), new_id(), receive(books, store)
    Interactions(books.database, store).for_(principal).delete(deleted)
    for id_ in (lost, deleted):
        store.put(media_key(id_), b"content")
    staged = store.stage("half")
    assert told(run("sweep", "--json"))["orphans"] == []  # too young
    later = time.time() + 100
    monkeypatch.setattr(time, "time", lambda: later)
    looked = run("sweep")
    assert looked.status == 0
    assert f"orphan      {lost}  no interaction claims it" in looked.out
    assert f"orphan      {deleted}  its interaction was deleted" in looked.out
    assert "2 orphans, 1 uploads that were left in the middle, 0 objects" in looked.out
    assert "`earmark sweep --remove` does" in looked.err
    assert str(kept) not in looked.out
    facts = told(run("sweep", "--json"))
    assert {one["key"] for one in facts["orphans"]} == {str(lost), str(deleted)}
    assert facts["staged"] == 1
    done = run("sweep", "--remove")
    assert done.out.startswith("1 moved to the quarantine, 0 removed from it, 0 put back")
    assert "1 of deleted interactions removed, 1 uploads" in done.out
    looked = run("sweep")
    assert f"quarantine  {lost}  7 bytes, since 20" in looked.out
    assert looked.err == ""
    assert run("sweep", "--restore", str(lost)).out == f"{lost} is back in its place.\n"
    assert b"".join(store.read(media_key(lost))) == b"content"
    wrong = run("sweep", "--restore", str(lost))
    assert (wrong.status, wrong.out) == (1, "")
    assert "--restore: An object stands in its place" in wrong.err
    store.quarantine(media_key(lost))
    emptied = run("sweep", "--empty", "--json")
    assert told(emptied) == {
        "set_aside": 0, "deleted": 0, "expired": 1, "put_back": 0, "staged": 0,
    }  # fmt: skip
    assert list(store.quarantined()) == []
    staged.discard()
    both = run("sweep", "--empty", "--remove")
    assert both.status == 1
    assert "Give one of --remove" in both.err


def test_a_purge_tells_what_it_did(
    run: Callable[..., Ended], books: Books, store: LocalStore, database: Database
) -> None:
    receive(books, store)
    if not database.is_sqlite:
        assert "leave --quick out" in run("purge", "--quick").err
        return
    purged = run("purge")
    assert purged.status == 0
    assert purged.out.startswith("0 objects of deleted interactions removed.\n")
    assert "earmark.sqlite3 written anew in " in purged.out
    assert "earmark.sqlite3, " in purged.err
    assert "earmark.sqlite3 log emptied in " in run("purge", "--quick").out
    assert told(run("purge", "--json"))["tables"] == 0


def test_backups_are_of_sqlite_and_take_a_key(
    run: Callable[..., Ended], database: Database, tmp_path: Path
) -> None:
    target = str(tmp_path / "b.age")
    for words in (("backup", target), ("restore", target)):
        ended = run(*words)
        assert ended.status == 1
        expected = "Name the key file" if database.is_sqlite else "take the database with pg_dump"
        assert expected in ended.err, words
    assert not (tmp_path / "b.age").exists()


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_backup_is_written_verified_and_restored(
    run: Callable[..., Ended],
    books: Books,
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good, bad = receive(books, store), receive(books, store)
    key, target = str(tmp_path / "key"), str(tmp_path / "b.age")
    made = run("backup-key", key)
    assert made.out.startswith("age1")
    monkeypatch.setenv("EARMARK_BACKUP_KEY_FILE", key)
    written = run("backup", target)
    assert (written.status, written.err) == (0, "")
    assert f"2 interactions, 2 objects in {target}: " in written.out
    verified = run("backup", "--verify", target)
    assert "2 interactions and 2 objects of " in verified.out
    assert told(run("restore", target, "--check", "--json"))["interactions"] == 2
    there = run("restore", target, "--data", str(tmp_path / "data"))
    assert there.status == 1
    assert "is there already" in there.err
    monkeypatch.delenv("EARMARK_DATABASE_URL")
    restored = run("restore", target, "--data", str(tmp_path / "new"))
    assert (restored.status, restored.err) == (0, "")
    assert "are restored, each with its hash" in restored.out
    new = LocalStore(tmp_path / "new" / "storage")
    assert b"".join(new.read(media_key(good))) == b"content"
    monkeypatch.setenv("EARMARK_DATABASE_URL", str(books.database.engine.url))
    store.put(media_key(bad), b"kontent")
    damaged = run("backup", str(tmp_path / "c.age"))
    assert damaged.status == 1
    assert f"fail  {bad} differs from its hash" in damaged.out
    assert f"note  {bad} was damaged already" in run("backup", "--verify", f"{tmp_path}/c.age").out


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_backup_of_another_secret_key_is_refused_and_leaves_nothing(
    run: Callable[..., Ended],
    books: Books,
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receive(books, store)
    with books.database.write(None) as scope:
        journal.record(scope, actor="x", action="x.y", subject="")
    with contextlib.closing(Parts(load())) as parts:
        parts.audit.seal()
    key, target = str(tmp_path / "key"), str(tmp_path / "b.age")
    run("backup-key", key)
    assert run("backup", target, "--key-file", key).status == 0
    monkeypatch.delenv("EARMARK_DATABASE_URL")
    monkeypatch.setenv("EARMARK_SECRET_KEY", "another" * 8)
    new = tmp_path / "new"
    ended = run("restore", target, "--key-file", key, "--data", str(new))
    assert ended.status == 1
    assert "under another secret key; set its EARMARK_SECRET_KEY" in ended.err
    assert not new.exists()


def test_progress_is_a_line_on_a_terminal_and_else_seldom(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    with Meter("read") as meter:
        for done in range(0, 20_000_000, 1_000_000):
            meter(done, 40_000_000)
            at[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "read: 10.0 MB of 40.0 MB, 25 %, 1.0 MB/s, 0.5 min left",
    ]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Meter("read") as meter:
        meter(0, 0)
        at[0] += 1
        meter(2_500, 0)
    assert capsys.readouterr().err == "\rread: 2.5 KB of 0 bytes, , 2.5 KB/s\x1b[K\r\x1b[K"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 KB"),
        (3.2e9, "3.2 GB"),
        (5e15, "5,000.0 TB"),
    ],
)
def test_bytes_are_told_as_people_read_them(count: float, words: str) -> None:
    assert shown_bytes(count) == words


@pytest.mark.parametrize(
    ("text", "count"),
    [("20MB", 20_000_000), ("1.5 gb", 1_500_000_000), ("1kB", 1000), ("1KiB", 1024), ("7", 7)],
)
def test_bytes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert size(text, option="rate") == count
