"""Objects that nobody claims are moved aside, put back, and removed in the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from books import Books
from earmark.database import tables
from earmark.errors import InvalidError
from earmark.interactions import Interactions, media_key, transcript_key, waveform_key
from earmark.model import Principal, new_id
from earmark.storage.local import LocalStore
from earmark.upkeep import sweep as module
from earmark.upkeep.sweep import Orphan, Sweeper, Swept

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Database

DAY_SECONDS = 86_400


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


@pytest.fixture
def sweeper(database: Database, store: LocalStore) -> Sweeper:
    return Sweeper(database, store, actor="operator")


@pytest.fixture
def books(database: Database, organization: UUID) -> Books:
    return Books(database, organization)


@pytest.fixture
def other_books(database: Database, other_organization: UUID) -> Books:
    return Books(database, other_organization)


def put(store: LocalStore, id_: UUID) -> set[str]:
    keys = {media_key(id_), waveform_key(id_)}
    for key in keys:
        store.put(key, b"abc")
    return keys


def objects(store: LocalStore) -> set[str]:
    return set(store.keys(older_than_seconds=-1))


def aside(store: LocalStore) -> set[str]:
    return {one.key for one in store.quarantined()}


def deeds(database: Database) -> list[tuple[str, str, str, dict[str, Any]]]:
    columns = tables.audit.c
    with database.read(None) as scope:
        rows = scope.rows(
            sa.select(columns.actor, columns.action, columns.subject, columns.detail)
        )
    return [(row.actor, row.action, row.subject, row.detail) for row in rows]


def test_only_what_no_interaction_of_any_organization_owns_is_moved_aside(
    sweeper: Sweeper, database: Database, books: Books, other_books: Books, store: LocalStore
) -> None:
    kept = [books.receive(), other_books.receive()]
    lost = [new_id(), new_id()]
    for id_ in kept + lost:
        put(store, id_)
    store.put("check-00", b"")
    store.put(lost[0].hex, b"")
    assert sweeper.sweep(grace_seconds=-1) == Swept(set_aside=4)
    left = {key for id_ in kept for key in (media_key(id_), waveform_key(id_))}
    assert objects(store) == left | {"check-00", lost[0].hex}
    assert aside(store) == {key for id_ in lost for key in (media_key(id_), waveform_key(id_))}
    assert sweeper.sweep(grace_seconds=-1) == Swept()
    assert deeds(database) == [("operator", "storage.sweep", "", {"set_aside": 4})]


def test_to_look_changes_nothing(sweeper: Sweeper, database: Database, store: LocalStore) -> None:
    keys = put(store, new_id())
    staged = store.stage("half")
    assert {one.key for one in sweeper.orphans(grace_seconds=-1)} == keys
    assert sweeper.staged(grace_seconds=-1) == 1
    assert objects(store) == keys
    assert deeds(database) == []
    staged.discard()


def test_what_a_check_of_the_storage_left_whose_process_died_is_moved_aside(
    sweeper: Sweeper, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(store, "delete", lambda _key: None)
        store.check()
    assert len(objects(store)) == 1
    assert sweeper.sweep(grace_seconds=-1) == Swept(set_aside=1)
    assert objects(store) == set()


def test_what_is_younger_than_an_hour_is_spared(
    sweeper: Sweeper, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = put(store, new_id())
    staged = store.stage(media_key(new_id()))
    staged.append([b"half"])
    assert list(sweeper.orphans()) == []
    assert sweeper.staged() == 0
    assert sweeper.sweep() == Swept()
    assert objects(store) == keys
    later = time.time() + module.GRACE_SECONDS + 5
    monkeypatch.setattr(time, "time", lambda: later)
    assert sweeper.sweep() == Swept(set_aside=2, staged=1)
    staged.discard()


def test_all_objects_are_looked_at_in_batches(
    sweeper: Sweeper, books: Books, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    kept = [books.receive() for _ in range(3)]
    for id_ in [*kept, *(new_id() for _ in range(3))]:
        store.put(media_key(id_), b"")
    assert sweeper.sweep(grace_seconds=-1).set_aside == 3
    assert objects(store) == {media_key(id_) for id_ in kept}
    assert sweeper.empty().expired == 3
    assert aside(store) == set()


def test_what_is_aside_is_removed_when_its_time_is_over_and_not_before(
    sweeper: Sweeper, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = put(store, new_id())
    sweeper.sweep(grace_seconds=-1)
    moved = time.time()
    monkeypatch.setattr(time, "time", lambda: moved + 7 * DAY_SECONDS - 60)
    assert sweeper.sweep() == Swept()
    assert aside(store) == keys
    monkeypatch.setattr(time, "time", lambda: moved + 7 * DAY_SECONDS + 60)
    assert sweeper.sweep() == Swept(expired=2)
    assert aside(store) == set()


def test_what_is_claimed_again_is_put_back(
    sweeper: Sweeper, books: Books, store: LocalStore
) -> None:
    """As when the database was restored to an earlier time, and then to the right one."""
    id_ = new_id()
    keys = put(store, id_)
    sweeper.sweep(grace_seconds=-1)
    books.receive(id_=id_)
    assert sweeper.sweep(keep_seconds=-1) == Swept(put_back=2)
    assert objects(store) == keys
    assert aside(store) == set()


def test_what_stands_is_not_replaced_by_what_is_aside(
    sweeper: Sweeper, books: Books, store: LocalStore
) -> None:
    id_ = new_id()
    store.put(waveform_key(id_), b"old")
    sweeper.sweep(grace_seconds=-1)
    books.receive(id_=id_)
    store.put(waveform_key(id_), b"new")
    assert sweeper.sweep() == Swept()
    assert b"".join(store.read(waveform_key(id_))) == b"new"
    with pytest.raises(InvalidError, match="stands in its place"):
        sweeper.restore(waveform_key(id_))


def test_objects_of_what_was_deleted_are_removed_at_once(
    sweeper: Sweeper,
    database: Database,
    principal: Principal,
    books: Books,
    store: LocalStore,
) -> None:
    deleted, unknown = books.receive(), new_id()
    Interactions(database, store).for_(principal).delete(deleted)
    gone, lost = put(store, deleted), put(store, unknown)
    told = {one.key for one in sweeper.orphans(grace_seconds=-1) if one.was_deleted}
    assert told == gone
    assert sweeper.sweep(grace_seconds=-1) == Swept(set_aside=2, deleted=2)
    assert objects(store) == set()
    assert aside(store) == lost


def test_a_purge_removes_them_whatever_their_age_and_wherever_they_stand(
    sweeper: Sweeper,
    database: Database,
    principal: Principal,
    books: Books,
    store: LocalStore,
) -> None:
    deleted, unknown, kept = books.receive(), new_id(), books.receive()
    store.put(transcript_key(deleted), b"aside")
    store.quarantine(transcript_key(deleted))
    store.put(transcript_key(unknown), b"aside")
    store.quarantine(transcript_key(unknown))
    Interactions(database, store).for_(principal).delete(deleted)
    put(store, deleted)
    left = put(store, kept) | put(store, unknown)
    assert sweeper.remove_deleted() == 3
    assert objects(store) == left
    assert aside(store) == {transcript_key(unknown)}
    assert sweeper.remove_deleted() == 0


def test_an_object_is_put_back_by_its_key_and_that_is_written_down(
    sweeper: Sweeper, database: Database, store: LocalStore
) -> None:
    id_ = new_id()
    keys = put(store, id_)
    sweeper.sweep(grace_seconds=-1)
    (first, second) = sweeper.quarantined()
    assert {first.key, second.key} == keys
    sweeper.restore(media_key(id_))
    assert objects(store) == {media_key(id_)}
    assert ("operator", "storage.restore", media_key(id_), {}) in deeds(database)
    with pytest.raises(InvalidError, match="lists what is"):
        sweeper.restore("nothing")
    # It is an orphan still, and nobody has asked for it within the hour.
    assert list(sweeper.orphans(grace_seconds=-1)) == [Orphan(media_key(id_), was_deleted=False)]


def test_emptying_removes_all_but_what_is_claimed(
    sweeper: Sweeper, books: Books, store: LocalStore
) -> None:
    id_ = new_id()
    put(store, new_id())
    keys = put(store, id_)
    sweeper.sweep(grace_seconds=-1)
    books.receive(id_=id_)
    assert sweeper.empty() == Swept(expired=2, put_back=2)
    assert objects(store) == keys
