"""A backup is all of an installation at one moment, sealed; what comes of it is checked whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyrage
import pytest
import sqlalchemy as sa
from typing_extensions import override

from books import Books
from earmark.audit import ANCHOR_NAME, Audit
from earmark.database import Database, journal, migrate, tables, upkeep
from earmark.errors import NotFoundError, UnavailableError
from earmark.interactions import (
    Interactions,
    media_key,
    sha512_key,
    transcript_key,
    waveform_key,
)
from earmark.model import Principal, Status, new_id, now
from earmark.storage.local import LocalStore
from earmark.upkeep import backup as module
from earmark.upkeep.backup import MANIFEST, SECRET, Ending, back_up, remove_leftovers
from earmark.upkeep.restore import check, restore
from earmark.upkeep.sealed import BackupError, Keys, make_key, opening, read_keys, sealing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from earmark.upkeep.restore import Restored

KEY = b"k" * 32


class Place:
    """An installation on SQLite, without its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "earmark.sqlite3"
        self.database = Database(f"sqlite:///{self.path}")
        self.store = LocalStore(folder / "storage")

    def organization(self) -> UUID:
        id_ = new_id()
        with self.database.write(None) as scope:
            row = {"id": id_, "name": f"Org {id_}", "created_at": now()}
            scope.insert(tables.organization, row)
        return id_

    def receive(self, books: Books, content: bytes, **values: Any) -> UUID:
        time.sleep(0.002)  # ids that are made in one millisecond are in no order
        id_ = books.receive(size_bytes=len(content))
        books.change(id_, sha256=hashlib.sha256(content).digest(), **values)
        self.store.put(media_key(id_), content)
        return id_

    def objects(self) -> dict[str, bytes]:
        keys = self.store.keys(older_than_seconds=-1)
        return {key: b"".join(self.store.read(key)) for key in keys}

    def rows(self, table: sa.Table) -> list[tuple[Any, ...]]:
        with self.database.read(None) as scope:
            return sorted(map(tuple, scope.rows(sa.select(table))), key=repr)


@pytest.fixture
def place(tmp_path: Path, sqlite_template: Path) -> Iterator[Place]:
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copyfile(sqlite_template, folder / "earmark.sqlite3")
    (folder / SECRET).write_text("s" * 40)
    made = Place(folder)
    yield made
    made.database.close()


@pytest.fixture
def books(place: Place) -> Books:
    return Books(place.database, place.organization())


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "backup.key"
    make_key(path)
    return path


@pytest.fixture
def keys(key_file: Path) -> Keys:
    return read_keys(key_file)


def backed_up(place: Place, keys: Keys, **given: Any) -> tuple[Path, module.BackedUp]:
    target = place.folder.with_name(f"backup-{new_id()}.age")
    store = given.pop("store", place.store)
    return target, back_up(place.database, store, place.folder, target, keys, **given)


def restored(
    source: Path, keys: Keys, folder: Path, approve: Callable[[Database], None] = lambda _: None
) -> Restored:
    return restore(
        source,
        keys,
        folder=folder,
        database_path=folder / "earmark.sqlite3",
        open_store=lambda: LocalStore(folder / "storage"),
        approve=approve,
    )


@contextlib.contextmanager
def again(source: Path, keys: Keys) -> Iterator[tuple[Place, Restored]]:
    folder = source.with_name(f"restored-{new_id()}")
    done = restored(source, keys, folder)
    made = Place(folder)
    yield made, done
    made.database.close()


def test_what_is_restored_is_what_was_backed_up(place: Place, books: Books, keys: Keys) -> None:
    id_ = place.receive(books, b"one" * 100_000, transcript={"engine": "x"}, status=Status.READY)
    place.receive(Books(place.database, place.organization()), b"")
    for key_of, content in (
        (waveform_key, b"{}"),
        (transcript_key, b"[]"),
        (sha512_key, b"5" * 64),
    ):
        place.store.put(key_of(id_), content)
    place.store.put(media_key(new_id()), b"an orphan")
    source, made = backed_up(place, keys)
    assert (made.ending.objects, made.manifest.interactions) == (5, 2)
    assert made.ending == Ending(objects=5, size_bytes=300_000 + 2 + 2 + 64)
    with again(source, keys) as (new, done):
        assert (done.interactions, done.handed_back) == (2, 0)
        wanted = {key: value for key, value in place.objects().items() if value != b"an orphan"}
        assert new.objects() == wanted
        for table in tables.metadata.sorted_tables:
            if table.name not in {"audit", "rate", "reservation"}:
                assert new.rows(table) == place.rows(table), table.name
        assert len(new.rows(tables.audit)) == len(place.rows(tables.audit)) + 1
        assert (new.folder / SECRET).read_text() == "s" * 40
        modes = {path.stat().st_mode & 0o777 for path in (new.path, new.folder / SECRET)}
        assert modes == {0o600}
        assert sorted(path.name for path in new.folder.iterdir()) == [
            "earmark.sqlite3", "earmark.sqlite3-shm", "earmark.sqlite3-wal", SECRET, "storage",
        ]  # fmt: skip


def test_a_backup_leaves_the_data_folder_as_it_was(place: Place, books: Books, keys: Keys) -> None:
    place.receive(books, b"content")
    before = {path.name for path in place.folder.iterdir()}
    source, _ = backed_up(place, keys)
    assert {path.name for path in place.folder.iterdir()} == before | {module.LOCK}
    assert sorted(source.parent.glob("backup-*")) == [source]
    assert source.stat().st_mode & 0o777 == 0o600


def test_nothing_of_it_can_be_read_without_the_key(place: Place, books: Books, keys: Keys) -> None:
    place.receive(books, b"canary" * 1000)
    source, _ = backed_up(place, keys)
    content = source.read_bytes()
    assert content.startswith(b"age-encryption.org/v1\n")
    for word in (b"canary", b"SQLite", b"Org ", b"s" * 40):
        assert word not in content
    other = pyrage.x25519.Identity.generate()
    with pytest.raises(BackupError, match="sealed for another key"):
        check(source, Keys([other.to_public()], [other]))
    with pytest.raises(BackupError, match="takes the identity"):
        check(source, Keys(keys.recipients, []))


def test_anybody_with_age_and_tar_can_open_it(
    place: Place, books: Books, keys: Keys, tmp_path: Path
) -> None:
    id_ = place.receive(books, b"content")
    source, _ = backed_up(place, keys)
    plain = pyrage.decrypt(source.read_bytes(), keys.identities)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        names = tar.getnames()
        assert names[:2] == [MANIFEST, "earmark.sqlite3"]
        assert f"objects/{media_key(id_)}" in names
        assert names[-1] == module.ENDING


def test_uploads_that_come_meanwhile_are_no_part_of_it_and_harm_nothing(
    place: Place, books: Books, keys: Keys
) -> None:
    first = place.receive(books, b"first")

    def meanwhile(_done: int, _whole: int) -> None:
        place.receive(books, b"later")

    source, made = backed_up(place, keys, tell=meanwhile)
    assert len(place.objects()) > 1
    assert made.manifest.interactions == 1
    with again(source, keys) as (new, _):
        assert new.objects() == {media_key(first): b"first"}


def test_what_is_deleted_meanwhile_stays_deleted(place: Place, books: Books, keys: Keys) -> None:
    mine = Interactions(place.database, place.store).for_(
        Principal(books.organization_id, "c", frozenset({"delete", "read"}))  # type: ignore[arg-type]
    )
    gone, kept = place.receive(books, b"gone"), place.receive(books, b"kept")

    def meanwhile(_done: int, _whole: int) -> None:
        with contextlib.suppress(NotFoundError):
            mine.delete(gone)

    source, made = backed_up(place, keys, tell=meanwhile)
    assert made.ending.deleted == [str(gone)]
    assert made.ending.missing == []
    with again(source, keys) as (new, done):
        assert done.interactions == 1
        with new.database.read(None) as scope:
            assert [one.id for one in upkeep.kept(scope, after=None, limit=9)] == [kept]
            assert upkeep.deleted(scope, {gone, kept}) == {gone}


def test_what_was_in_processing_is_received_again(place: Place, books: Books, keys: Keys) -> None:
    ids = {
        status: place.receive(books, b"x", status=status)
        for status in (Status.PROCESSING, Status.READY, Status.FAILED, Status.RECEIVED)
    }
    source, _ = backed_up(place, keys)
    with again(source, keys) as (new, done):
        assert done.handed_back == 1
        found = {row[0]: row[4] for row in new.rows(tables.interaction)}
        assert found[ids[Status.PROCESSING]] == Status.RECEIVED
        assert found[ids[Status.READY]] == Status.READY
        assert found[ids[Status.FAILED]] == Status.FAILED


def test_the_audit_trail_goes_on_though_rows_are_sealed_meanwhile(
    place: Place, books: Books, keys: Keys
) -> None:
    audit = Audit(place.database, key=KEY, folder=place.folder)

    def deed() -> None:
        with place.database.write(None) as scope:
            journal.record(scope, actor="x", action="x.y", subject="")
        audit.seal()

    deed()
    source, _ = backed_up(place, keys, tell=lambda *_: deed())
    deed()
    with again(source, keys) as (new, _):
        assert (new.folder / ANCHOR_NAME).exists()
        after = Audit(new.database, key=KEY, folder=new.folder)
        assert after.seal() >= 1
        assert after.verify().faults == []


def test_damaged_and_missing_objects_are_told_and_all_else_is_kept(
    place: Place, books: Books, keys: Keys
) -> None:
    good, flipped, missing = (place.receive(books, b"content") for _ in range(3))
    torn = place.receive(books, b"t" * 600_000, transcript={"engine": "x"})
    place.store.put(media_key(flipped), b"kontent")
    place.store.delete(media_key(missing))

    class Torn(LocalStore):
        @override
        def reread(self, key: str) -> Iterator[bytes]:
            chunks = super().reread(key)
            return self._torn(chunks) if key == media_key(torn) else chunks

        def _torn(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
            yield next(chunks)
            raise UnavailableError("the storage cannot read a file: Input/output error")

    source, made = backed_up(place, keys, store=Torn(place.folder / "storage"))
    assert made.ending.damaged == [media_key(flipped), media_key(torn)]
    assert made.ending.missing == [media_key(missing), transcript_key(torn)]
    told = check(source, keys)
    assert told.ending == made.ending
    with again(source, keys) as (new, done):
        assert done.interactions == 4
        assert new.objects()[media_key(good)] == b"content"
        assert len(new.objects()[media_key(torn)]) == 600_000


def test_a_storage_that_is_away_ends_it_and_leaves_nothing(
    place: Place, books: Books, keys: Keys
) -> None:
    place.receive(books, b"content")

    class Away(LocalStore):
        @override
        def reread(self, key: str) -> Iterator[bytes]:
            raise UnavailableError("away")

    with pytest.raises(UnavailableError, match="away"):
        backed_up(place, keys, store=Away(place.folder / "storage"))
    assert list(place.folder.parent.glob("backup-*")) == []
    assert not (place.folder / module.SNAPSHOT).exists()
    backed_up(place, keys)


def test_a_disk_that_fills_up_is_told_and_leaves_nothing(
    place: Place, books: Books, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.receive(books, os.urandom(3_000_000))
    real = os.fdopen

    class Full(io.RawIOBase):
        """Takes a million bytes."""

        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 1_000_000

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(data))

        def fileno(self) -> int:
            return int(self.file.fileno())

        def close(self) -> None:
            self.file.close()
            super().close()

    def fdopen(descriptor: int, mode: str = "r", *args: Any, **named: Any) -> Any:
        file = real(descriptor, mode, *args, **named)
        is_target = Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".part"
        return Full(file) if is_target else file

    monkeypatch.setattr(os, "fdopen", fdopen)
    with pytest.raises(BackupError, match="No space left"):
        backed_up(place, keys)
    assert list(place.folder.parent.glob("backup-*")) == []


def test_no_file_is_overwritten_and_room_is_asked_for_first(
    place: Place, books: Books, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.receive(books, b"content")
    source, _ = backed_up(place, keys)
    before = source.read_bytes()
    with pytest.raises(BackupError, match="is there already"):
        back_up(place.database, place.store, place.folder, source, keys)
    assert source.read_bytes() == before
    with pytest.raises(BackupError, match="is no folder"):
        back_up(place.database, place.store, place.folder, source / "x" / "y", keys)
    usage = shutil.disk_usage(place.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(BackupError, match="1,000 bytes free and the backup needs"):
        backed_up(place, keys)
    assert list(source.parent.glob("backup-*")) == [source]


def test_one_at_a_time_and_the_next_removes_what_a_killed_one_left(
    place: Place, books: Books, keys: Keys
) -> None:
    place.receive(books, b"content")

    def meanwhile(_done: int, _whole: int) -> None:
        with pytest.raises(BackupError, match="under way"):
            backed_up(place, keys)
        assert not remove_leftovers(place.folder)
        assert (place.folder / module.SNAPSHOT).exists()

    backed_up(place, keys, tell=meanwhile)
    (place.folder / module.SNAPSHOT).write_text("of one that was killed")
    (place.folder / f"{module.SNAPSHOT}-wal").write_text("of one that was killed")
    backed_up(place, keys)
    (place.folder / module.SNAPSHOT).write_text("of one that was killed")
    assert remove_leftovers(place.folder)
    assert not list(place.folder.glob(f"{module.SNAPSHOT}*"))


@pytest.fixture
def sealed(place: Place, books: Books, keys: Keys) -> Path:
    place.receive(books, os.urandom(200_000))
    place.receive(books, b"small")
    return backed_up(place, keys)[0]


def refused(source: Path, keys: Keys, match: str) -> None:
    """Neither checked nor restored, and nothing is left of it."""
    with pytest.raises(BackupError, match=match):
        check(source, keys)
    folder = source.with_name(f"new-{new_id()}")
    with pytest.raises(BackupError, match=match):
        restored(source, keys, folder)
    assert not folder.exists()
    folder.mkdir()
    (folder / "lost+found").mkdir()
    with pytest.raises(BackupError, match=match):
        restored(source, keys, folder)
    assert [path.name for path in folder.iterdir()] == ["lost+found"]


def test_a_backup_that_was_cut_anywhere_is_refused(sealed: Path, keys: Keys) -> None:
    whole = sealed.read_bytes()
    for size in (0, 10, 150, 70_000, len(whole) // 2, len(whole) - 70_000, len(whole) - 1):
        sealed.write_bytes(whole[:size])
        refused(sealed, keys, "The backup is damaged")
    sealed.write_bytes(whole + b"x")
    refused(sealed, keys, "The backup is damaged")


def test_a_backup_of_which_one_bit_was_changed_is_refused(sealed: Path, keys: Keys) -> None:
    whole = bytearray(sealed.read_bytes())
    for at in (250, 1_000, len(whole) // 2, len(whole) - 1):
        whole[at] ^= 1
        sealed.write_bytes(whole)
        refused(sealed, keys, "The backup is damaged")
        whole[at] ^= 1


def test_the_seal_is_checked_to_its_end_beyond_the_archive(sealed: Path, keys: Keys) -> None:
    plain = pyrage.decrypt(sealed.read_bytes(), keys.identities)
    whole = bytearray(pyrage.encrypt(plain + bytes(4_000_000), keys.recipients))
    sealed.write_bytes(whole)
    check(sealed, keys)
    whole[-1] ^= 1
    sealed.write_bytes(whole)
    refused(sealed, keys, "The backup is damaged")


def remade(
    sealed: Path, keys: Keys, change: Callable[[str, bytes], tuple[str, bytes] | None]
) -> None:
    """Puts another archive into the seal, as only the holder of the key for sealing could."""
    with sealed.open("rb") as file, opening(file, keys) as stream:
        plain = io.BytesIO(stream.read())
    with (
        tarfile.open(fileobj=plain) as old,
        sealed.open("wb") as file,
        sealing(file, keys) as stream,
        tarfile.open(mode="w|", fileobj=stream) as new,
    ):
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            changed = change(member.name, content.read())
            if changed is not None:
                member.name, data = changed
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (MANIFEST, "no backup of Earmark"),
        ("earmark.sqlite3", "it has no database"),
        ("objects/", "objects are missing in it"),
        (module.ENDING, "it ends early"),
    ],
)
def test_a_backup_without_one_of_its_parts_is_refused(
    name: str, match: str, sealed: Path, keys: Keys
) -> None:
    left = [name]

    def drop(member: str, data: bytes) -> tuple[str, bytes] | None:
        if left and member.startswith(left[0]):
            left.clear()
            return None
        return member, data

    remade(sealed, keys, drop)
    refused(sealed, keys, match)


@pytest.mark.parametrize("name", ["../evil", "objects/../../evil", "objects/A", "other", "/etc/x"])
def test_a_backup_with_another_name_in_it_is_refused(name: str, sealed: Path, keys: Keys) -> None:
    remade(sealed, keys, lambda member, data: (name if member == SECRET else member, data))
    refused(sealed, keys, "holds what no backup holds")


def test_a_recording_that_differs_from_its_row_is_refused(sealed: Path, keys: Keys) -> None:
    remade(sealed, keys, lambda member, data: (member, b"smile" if data == b"small" else data))
    refused(sealed, keys, "1 recordings differ from their hash")


def test_a_recording_without_a_row_is_refused(sealed: Path, keys: Keys) -> None:
    other = f"objects/{new_id()}"
    remade(sealed, keys, lambda member, data: (other if data == b"small" else member, data))
    refused(sealed, keys, "a recording without a row")


def test_a_row_without_its_recording_is_refused(sealed: Path, keys: Keys) -> None:
    def forget(member: str, data: bytes) -> tuple[str, bytes] | None:
        if data == b"small":
            return None
        if member == module.ENDING:
            return member, data.replace(b'"objects": 2', b'"objects": 1')
        return member, data

    remade(sealed, keys, forget)
    refused(sealed, keys, "recordings are missing in it")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('"format": 1', '"format": 2', "one of a newer version"),
        (f'"schema": "{migrate.HEAD}"', '"schema": "9999"', "which is newer"),
        ('"database_bytes": ', '"database_bytes": 99999999999999', "There is no room"),
    ],
)
def test_a_backup_that_is_not_for_this_place_is_refused(
    old: str, new: str, match: str, sealed: Path, keys: Keys
) -> None:
    def change(member: str, data: bytes) -> tuple[str, bytes]:
        assert member != MANIFEST or old.encode() in data
        return member, data.replace(old.encode(), new.encode()) if member == MANIFEST else data

    remade(sealed, keys, change)
    refused(sealed, keys, match)


def test_only_an_empty_place_is_restored_into(
    place: Place, sealed: Path, keys: Keys, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    with pytest.raises(BackupError, match="is there already"):
        restored(sealed, keys, place.folder)
    assert {path: path.read_bytes() for path in before} == before
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(BackupError, match="is not empty"):
        restored(sealed, keys, folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]
    with pytest.raises(BackupError, match="storage is not empty"):
        restore(
            sealed,
            keys,
            folder=tmp_path / "third",
            database_path=tmp_path / "third" / "earmark.sqlite3",
            open_store=lambda: place.store,
            approve=lambda _: None,
        )
    assert len(place.objects()) == 2
    assert not (tmp_path / "third").exists()


def test_what_is_refused_at_the_end_leaves_nothing_in_a_storage_elsewhere(
    sealed: Path, keys: Keys, tmp_path: Path
) -> None:
    elsewhere = LocalStore(tmp_path / "elsewhere")

    def refuse(_: Database) -> None:
        assert len(list(elsewhere.keys(older_than_seconds=-1))) == 2
        raise BackupError("no")

    with pytest.raises(BackupError, match="no"):
        restore(
            sealed,
            keys,
            folder=tmp_path / "new",
            database_path=tmp_path / "new" / "earmark.sqlite3",
            open_store=lambda: elsewhere,
            approve=refuse,
        )
    assert list(elsewhere.keys(older_than_seconds=-1)) == []
    assert elsewhere.staged_alone(older_than_seconds=-1) == 0
    assert not (tmp_path / "new").exists()


def test_the_database_gets_its_name_last(sealed: Path, keys: Keys, tmp_path: Path) -> None:
    folder = tmp_path / "new"

    def look(_: Database) -> None:
        assert not (folder / "earmark.sqlite3").exists()
        assert (folder / SECRET).exists()

    restored(sealed, keys, folder, look)
    assert (folder / "earmark.sqlite3").exists()


# Keys


def test_a_key_file_has_recipients_or_identities(tmp_path: Path, key_file: Path) -> None:
    made = tmp_path / "made"
    recipient = make_key(made)
    assert made.stat().st_mode & 0o777 == 0o600
    assert len(read_keys(made).identities) == 1
    public = tmp_path / "public"
    public.write_text(f"# us and them\n\n{recipient}\n{read_keys(key_file).recipients[0]}\n")
    both = read_keys(public)
    assert (len(both.recipients), len(both.identities)) == (2, 0)
    with pytest.raises(BackupError, match="File exists"):
        make_key(made)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"hunter2-hunter2", "Line 1 of .* is neither"),
        (b"\nAGE-SECRET-KEY-1WRONG", "Line 2 of .* is neither"),
        (b"\xff\xfe", "cannot be read: it is no text"),
    ],
)
def test_another_key_file_is_refused_and_not_repeated(
    content: bytes, match: str, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(BackupError, match=match) as caught:
        read_keys(path)
    assert "hunter2" not in str(caught.value)
    assert "WRONG" not in str(caught.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="No such file"):
        read_keys(tmp_path / "none")
