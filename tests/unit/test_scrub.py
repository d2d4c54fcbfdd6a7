"""Every object is read again from the medium and held against its hash, at a rate, to the end."""

from __future__ import annotations

import hashlib
import json
import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from typing_extensions import override

from books import Books
from earmark.database import tables
from earmark.errors import UnavailableError
from earmark.interactions import Interactions, media_key, transcript_key
from earmark.model import Principal, now
from earmark.storage.local import LocalStore
from earmark.upkeep import scrub as module
from earmark.upkeep.scrub import MISSING, UNREADABLE, Scrubber, progress_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Database
    from earmark.upkeep.scrub import Progress

FAST = 10**12


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


@pytest.fixture
def scrubber(database: Database, store: LocalStore, tmp_path: Path) -> Scrubber:
    return Scrubber(database, store, tmp_path / "data")


@pytest.fixture
def books(database: Database, organization: UUID) -> Books:
    return Books(database, organization)


def receive(books: Books, store: LocalStore, content: bytes = b"content", **values: Any) -> UUID:
    time.sleep(0.002)  # ids that are made in one millisecond are in no order
    id_ = books.receive(size_bytes=len(content))
    books.change(id_, sha256=hashlib.sha256(content).digest(), **values)
    store.put(media_key(id_), content)
    return id_


def found(done: Progress) -> dict[str, str]:
    return {one.key: one.found for one in done.findings}


def damage(store: LocalStore, key: str) -> None:
    """One bit flips, and neither the file's size nor its times tell."""
    with store.local_path(key) as path, path.open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))


def test_what_is_as_it_was_taken_in_is_no_finding(
    scrubber: Scrubber, books: Books, store: LocalStore, tmp_path: Path
) -> None:
    for _ in range(3):
        receive(books, store)
    done = scrubber.scrub(bytes_per_second=FAST)
    assert (done.objects, done.size_bytes, done.damaged) == (3, 21, 0)
    assert done.ended_at
    assert progress_in(tmp_path / "data") == done


def test_what_differs_or_is_missing_is_found_and_written_down(
    scrubber: Scrubber, database: Database, books: Books, store: LocalStore
) -> None:
    good, flipped, missing, cut = (receive(books, store) for _ in range(4))
    damage(store, media_key(flipped))
    store.delete(media_key(missing))
    store.put(media_key(cut), b"conte")
    done = scrubber.scrub(bytes_per_second=FAST)
    assert found(done) == {
        media_key(flipped): hashlib.sha256(b"bontent").hexdigest(),
        media_key(missing): MISSING,
        media_key(cut): hashlib.sha256(b"conte").hexdigest(),
    }
    assert done.damaged == 3
    assert media_key(good) not in found(done)
    columns = tables.audit.c
    told = sa.select(columns.subject, columns.detail).where(columns.action == "storage.damage")
    with database.read(books.organization_id) as scope:
        rows = {row.subject: row.detail for row in scope.rows(told)}
    assert set(rows) == {str(flipped), str(missing), str(cut)}
    assert rows[str(missing)] == {
        "object": media_key(missing),
        "expected": hashlib.sha256(b"content").hexdigest(),
        "found": MISSING,
    }


def test_a_transcript_must_be_there_where_its_row_says_so(
    scrubber: Scrubber, books: Books, store: LocalStore
) -> None:
    there, missing, none = (receive(books, store) for _ in range(3))
    books.change(there, transcript={"engine": "x"})
    books.change(missing, transcript={"engine": "x"})
    store.put(transcript_key(there), b"{}")
    done = scrubber.scrub(bytes_per_second=FAST)
    assert found(done) == {transcript_key(missing): MISSING}
    assert done.objects == 4
    assert str(none) == done.position


def test_what_is_deleted_meanwhile_is_no_finding(
    database: Database, principal: Principal, books: Books, store: LocalStore, tmp_path: Path
) -> None:
    first = receive(books, store)
    second = receive(books, store)
    mine = Interactions(database, store).for_(principal)

    class Deleting(LocalStore):
        @override
        def reread(self, key: str) -> Iterator[bytes]:
            if key == media_key(second):  # after its row was read
                mine.delete(second)
            return super().reread(key)

    done = Scrubber(database, Deleting(tmp_path / "objects"), tmp_path / "data").scrub(
        bytes_per_second=FAST
    )
    assert (done.objects, done.damaged) == (1, 0)
    assert done.position == str(second) != str(first)


def test_an_object_that_the_medium_does_not_give_is_found_and_the_rest_is_read(
    database: Database, books: Books, store: LocalStore, tmp_path: Path
) -> None:
    ids = [receive(books, store) for _ in range(3)]

    class Torn(LocalStore):
        @override
        def reread(self, key: str) -> Iterator[bytes]:
            if key == media_key(ids[1]):
                raise UnavailableError("the storage cannot read a file: Input/output error")
            return super().reread(key)

    done = Scrubber(database, Torn(tmp_path / "objects"), tmp_path / "data").scrub(
        bytes_per_second=FAST
    )
    assert found(done) == {media_key(ids[1]): UNREADABLE}
    assert done.objects == 2


def test_a_storage_that_is_away_ends_the_scrub_and_the_next_goes_on_there(
    database: Database, books: Books, store: LocalStore, tmp_path: Path
) -> None:
    ids = [receive(books, store) for _ in range(4)]
    store.delete(media_key(ids[0]))

    class Away(LocalStore):
        @override
        def reread(self, key: str) -> Iterator[bytes]:
            if key == media_key(ids[2]):
                raise UnavailableError("away")
            return super().reread(key)

        @override
        def check(self) -> None:
            raise UnavailableError("away")

    away = Scrubber(database, Away(tmp_path / "objects"), tmp_path / "data")
    with pytest.raises(UnavailableError):
        away.scrub(bytes_per_second=FAST)
    broken_off = progress_in(tmp_path / "data")
    assert broken_off is not None
    assert (broken_off.position, broken_off.ended_at) == (str(ids[1]), "")
    read: list[str] = []

    class Watched(LocalStore):
        @override
        def reread(self, key: str) -> Iterator[bytes]:
            read.append(key)
            return super().reread(key)

    again = Scrubber(database, Watched(tmp_path / "objects"), tmp_path / "data")
    done = again.scrub(bytes_per_second=FAST)
    assert read == [media_key(ids[2]), media_key(ids[3])]
    assert done.objects == 3
    assert found(done) == {media_key(ids[0]): MISSING}  # from before it was broken off
    assert again.scrub(bytes_per_second=FAST).objects == 3  # anew, since the last one ended
    assert len(read) == 2 + 4


def test_one_that_is_to_begin_anew_does(
    scrubber: Scrubber, books: Books, store: LocalStore, tmp_path: Path
) -> None:
    ids = [receive(books, store) for _ in range(2)]
    unfinished = module.Progress(now().isoformat(), position=str(ids[0]), damaged=1)
    (tmp_path / "data").mkdir()
    told = json.dumps(unfinished, default=lambda one: {**module.asdict(one)})
    (tmp_path / "data" / module.STATE_NAME).write_text(told)
    assert scrubber.scrub(bytes_per_second=FAST, restart=True).objects == 2


def test_only_what_was_received_since_then_is_read_and_the_position_is_left_alone(
    scrubber: Scrubber, books: Books, store: LocalStore, tmp_path: Path
) -> None:
    old, young = receive(books, store), receive(books, store)
    books.change(old, received_at=now() - timedelta(days=3))
    done = scrubber.scrub(bytes_per_second=FAST, since=now() - timedelta(days=1))
    assert (done.objects, done.position) == (1, str(young))
    assert progress_in(tmp_path / "data") is None


def test_all_batches_are_read(
    scrubber: Scrubber, books: Books, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    for _ in range(4):
        receive(books, store)
    told = []
    done = scrubber.scrub(
        bytes_per_second=FAST, tell=lambda at, total: told.append((at.objects, total))
    )
    assert done.objects == 4
    assert [count for count, _ in told] == [1, 2, 3, 4]
    assert {total for _, total in told} == {(4, 28)}


def test_it_reads_no_faster_than_it_may(
    scrubber: Scrubber, books: Books, store: LocalStore
) -> None:
    content = bytes(600_000)
    for _ in range(2):
        receive(books, store, content)
    began = time.monotonic()
    scrubber.scrub(bytes_per_second=1_000_000)
    assert time.monotonic() - began >= 1.2 - module._Pace.BURST_SECONDS


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no such advice")
def test_the_medium_is_read_and_memory_is_left_as_it_was(
    scrubber: Scrubber, books: Books, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(1_000_000)
    receive(books, store, content)
    advised: list[tuple[int, int]] = []
    real = os.posix_fadvise

    def watched(descriptor: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        advised.append((start, length))
        real(descriptor, start, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", watched)
    scrubber.scrub(bytes_per_second=FAST)
    assert advised[0] == (0, 0)  # all of it, before the first byte
    assert sum(length for _, length in advised) == len(content)  # and each part after it


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "3", '{"findings": 3}', '{"findings": [], "a": 1}']
)
def test_a_note_that_cannot_be_read_begins_anew(content: str, tmp_path: Path) -> None:
    (tmp_path / module.STATE_NAME).write_text(content)
    assert progress_in(tmp_path) is None


def test_when_the_one_before_ended_is_remembered(
    scrubber: Scrubber, books: Books, store: LocalStore, tmp_path: Path
) -> None:
    receive(books, store)
    first = scrubber.scrub(bytes_per_second=FAST)
    second = scrubber._begin(None, restart=False)
    assert second.last_ended_at == first.ended_at
    assert second.ended_at == ""
