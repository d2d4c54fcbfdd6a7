"""A backup becomes an installation again, or is shown to be one that would.

Everything is checked on the way: each part by its seal, each recording by the hash in its row, and
that none is missing. The database gets its name last, so that nothing half there ever serves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from earmark.audit import ANCHOR_NAME
from earmark.database import Database, files, journal, migrate, upkeep
from earmark.database import interactions as stored
from earmark.errors import UnavailableError
from earmark.interactions import media_key, owner_of
from earmark.upkeep.backup import (
    BLOCK_BYTES,
    DATABASE,
    ENDING,
    FORMAT,
    MANIFEST,
    OBJECTS,
    SECRET,
    Ending,
    Manifest,
)
from earmark.upkeep.sealed import BackupError, opening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from earmark.storage import Staged, Store
    from earmark.upkeep.backup import Tell
    from earmark.upkeep.sealed import Keys

KEY = re.compile(r"[a-z0-9-]{1,64}(\.[a-z0-9]{1,16})?", re.ASCII)

HARMLESS = frozenset({"lost+found"})
"""What an empty disk has in it."""

DAMAGED = "The backup is damaged: {}."


@dataclass(frozen=True, slots=True)
class Restored:
    """What was read, and what became of it.

    Attributes:
        interactions: that stand now.
        handed_back: of them, those that were in processing and are begun again.
    """

    manifest: Manifest
    ending: Ending
    interactions: int
    handed_back: int
    seconds: float


def check(source: Path, keys: Keys, *, tell: Tell = lambda *_: None) -> Restored:
    """Reads a backup to its end and holds everything against the rows; keeps nothing.

    Its database lies in the system's folder for temporary files meanwhile, for this user alone.

    Raises:
        BackupError: it could not be restored.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="earmark-") as folder, _found(source, keys) as stream:
        reading = _Reading(stream, Path(folder), None, tell)
        reading.read()
    told = reading.count - len(reading.ending.deleted)
    return Restored(reading.manifest, reading.ending, told, 0, time.monotonic() - began)


def restore(
    source: Path,
    keys: Keys,
    *,
    folder: Path,
    database_path: Path,
    open_store: Callable[[], Store],
    approve: Callable[[Database], None],
    tell: Tell = lambda *_: None,
) -> Restored:
    """Makes an installation of a backup; whatever fails leaves nothing of it behind.

    Interactions that were deleted while the backup was made are deleted again. What was in
    processing is begun again by the next worker.

    Args:
        source: the backup.
        keys: to open it with.
        folder: the data folder, empty or not there.
        database_path: where the database is to be.
        open_store: the storage, called once the folder is known to be empty; empty itself.
        approve: called with the database before it gets its name; raises to refuse it.
        tell: how far it is.

    Raises:
        BackupError: the backup is damaged or for another key or version; something is where it is
            to be; or there is no room for it.
        UnavailableError: storage or disk cannot take it.
    """
    began = time.monotonic()
    if database_path.exists():
        raise BackupError(f"{database_path} is there already; name an empty data folder.")
    with _emptied_if_it_fails(folder):
        store = open_store()
        if next(store.keys(older_than_seconds=-1e9), None) is not None:
            raise BackupError("The storage is not empty; name an empty one.")
        with _removed_if_it_fails(store) as put:
            staging = database_path.with_name("restoring")
            staging.mkdir(mode=0o700)
            with _found(source, keys) as stream:
                reading = _Reading(stream, staging, _Putting(store, put), tell)
                reading.read()
            for name in (SECRET, ANCHOR_NAME):
                if (staging / name).exists():
                    (staging / name).rename(folder / name)
            count, handed_back = _apply(reading, staging / DATABASE, approve)
            (staging / DATABASE).rename(database_path)
            shutil.rmtree(staging)
            for each in {folder, database_path.parent}:
                _sync_folder(each)
    return Restored(reading.manifest, reading.ending, count, handed_back, time.monotonic() - began)


class _Putting:
    """Puts objects into a store and remembers which."""

    def __init__(self, store: Store, put: list[str]) -> None:
        self.store = store
        self._put = put

    def stage(self, key: str) -> Staged:
        self._put.append(key)
        return self.store.stage(key)


class _Reading:
    """Reads a backup, once, into a folder and a store.

    Attributes:
        manifest, ending: known once `read` has returned.
        count: how many interactions the rows tell of.
    """

    manifest: Manifest
    ending: Ending

    def __init__(
        self, stream: BinaryIO, folder: Path, putting: _Putting | None, tell: Tell
    ) -> None:
        self._stream = stream
        self._folder = folder
        self._putting = putting
        self._tell = tell
        self._done = 0
        self._whole = 0
        self._damaged: list[str] = []
        self._media = 0
        self._objects = 0
        self.count = 0

    def read(self) -> None:
        try:
            with (
                tarfile.open(mode="r|", fileobj=self._stream, bufsize=BLOCK_BYTES) as tar,
                contextlib.ExitStack() as opened,
            ):
                members = _members(tar)
                self.manifest = self._read_manifest(*next(members))
                rows = opened.enter_context(
                    contextlib.closing(self._read_database(*next(members)))
                )
                for name, file in members:
                    self._read_member(name, file, rows)
        except (tarfile.TarError, StopIteration) as error:
            raise BackupError(DAMAGED.format("it ends early")) from error
        except OSError as error:
            raise UnavailableError(f"a file cannot be written: {error.strerror}") from error
        self._check()

    def _read_manifest(self, name: str, file: BinaryIO) -> Manifest:
        told = _parsed(file) if name == MANIFEST else {}
        if told.get("format") != FORMAT:
            raise BackupError("This is no backup of Earmark, or one of a newer version.")
        manifest = Manifest(**told)
        if manifest.schema > migrate.HEAD:
            raise BackupError(
                f"The backup is of Earmark {manifest.earmark}, which is newer; restore it with "
                "that version."
            )
        self._check_room(manifest)
        self._whole = manifest.media_bytes + manifest.database_bytes
        return manifest

    def _check_room(self, manifest: Manifest) -> None:
        free = shutil.disk_usage(self._folder).free
        needed = manifest.database_bytes
        if self._putting is not None:
            needed += manifest.media_bytes
            in_store = self._putting.store.free_bytes()
            if in_store is not None and in_store < manifest.media_bytes:
                free = 0
        if free < needed:
            raise BackupError(
                f"There is no room: the backup needs {needed:,} bytes; make room or name "
                "another disk."
            )

    def _read_database(self, name: str, file: BinaryIO) -> Database:
        if name != DATABASE:
            raise BackupError(DAMAGED.format("it has no database"))
        self._keep(name, file)
        database = Database(f"sqlite:///{self._folder / DATABASE}")
        # One of an older version has other tables, of which a newer one cannot tell.
        migrate.upgrade(database)
        with database.read(None) as scope:
            self.count = upkeep.total(scope).interactions
        return database

    def _read_member(self, name: str, file: BinaryIO, rows: Database) -> None:
        if name in {SECRET, ANCHOR_NAME}:
            self._keep(name, file)
        elif name == ENDING:
            self.ending = Ending(**_parsed(file))
        elif name.startswith(OBJECTS) and KEY.fullmatch(key := name.removeprefix(OBJECTS)):
            self._read_object(key, file, rows)
        else:
            raise BackupError(DAMAGED.format("it holds what no backup holds"))

    def _read_object(self, key: str, file: BinaryIO, rows: Database) -> None:
        digest = self._put(key, file)
        self._objects += 1
        owner = owner_of(key)
        if owner is None or key != media_key(owner):
            return
        self._media += 1
        with rows.read(None) as scope:
            row = upkeep.find(scope, owner)
        if row is None:
            raise BackupError(DAMAGED.format("it holds a recording without a row"))
        if digest != row.sha256:
            self._damaged.append(key)

    def _put(self, key: str, file: BinaryIO) -> bytes:
        """Puts an object into the store, if there is one; returns its SHA-256."""
        digest = hashlib.sha256()
        staged = None if self._putting is None else self._putting.stage(key)
        try:
            for chunk in self._chunks(file):
                digest.update(chunk)
                if staged is not None:
                    staged.append([chunk])
            if staged is not None:
                staged.publish()
        except BaseException:
            if staged is not None:
                staged.discard()
            raise
        return digest.digest()

    def _keep(self, name: str, file: BinaryIO) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        with os.fdopen(os.open(self._folder / name, flags, 0o600), "wb") as target:
            for chunk in self._chunks(file):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())

    def _chunks(self, file: BinaryIO) -> Iterator[bytes]:
        while chunk := file.read(BLOCK_BYTES):
            yield chunk
            self._done += len(chunk)
            self._tell(self._done, max(self._done, self._whole))

    def _check(self) -> None:
        """Holds what came against what was to come."""
        if not hasattr(self, "ending"):
            raise BackupError(DAMAGED.format("it ends early"))
        if self._objects != self.ending.objects:
            raise BackupError(DAMAGED.format("objects are missing in it"))
        if surprises := set(self._damaged) - set(self.ending.damaged):
            raise BackupError(
                DAMAGED.format(f"{len(surprises)} recordings differ from their hash")
            )
        missed = sum(1 for key in self.ending.missing if "." not in key)
        gone = {media_key(UUID(each)) for each in self.ending.deleted}
        if self._media + missed + len(gone) < self.count:
            raise BackupError(DAMAGED.format("recordings are missing in it"))


def _apply(reading: _Reading, path: Path, approve: Callable[[Database], None]) -> tuple[int, int]:
    """Brings the database to where it can serve; how many interactions, and how many go on."""
    with contextlib.closing(Database(f"sqlite:///{path}")) as database:
        approve(database)
        for each in map(UUID, reading.ending.deleted):
            _delete_again(database, each)
        with database.write(None) as scope:
            handed_back = upkeep.hand_back(scope)
            count = upkeep.total(scope).interactions
            journal.record(
                scope,
                actor="operator",
                action="storage.restore_backup",
                subject="",
                detail={"backup_of": reading.manifest.created_at, "interactions": count},
            )
    files.empty_log(path)
    return count, handed_back


def _delete_again(database: Database, interaction_id: UUID) -> None:
    with database.read(None) as scope:
        row = upkeep.find(scope, interaction_id)
    if row is not None:
        with database.write(row.organization_id) as scope:
            stored.delete(scope, interaction_id)
            subject = str(interaction_id)
            journal.record(scope, actor="operator", action="interaction.delete", subject=subject)
            journal.announce(scope, kind="interaction.deleted", interaction_id=interaction_id)


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, BinaryIO]]:
    while (member := tar.next()) is not None:
        file = tar.extractfile(member) if member.isfile() else None
        if file is None:
            raise BackupError(DAMAGED.format("it holds what no backup holds"))
        yield member.name, file  # type: ignore[misc] # it reads as one
        tar.members.clear()  # type: ignore[attr-defined] # or they would fill memory


def _parsed(file: BinaryIO) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(file.read())
    except ValueError as error:
        raise BackupError(DAMAGED.format("it cannot be read")) from error
    return told


@contextlib.contextmanager
def _found(source: Path, keys: Keys) -> Iterator[BinaryIO]:
    try:
        file = source.open("rb")
    except OSError as error:
        raise BackupError(f"{source} cannot be read: {error.strerror}.") from error
    with file, opening(file, keys) as stream:
        yield stream


@contextlib.contextmanager
def _emptied_if_it_fails(folder: Path) -> Iterator[None]:
    """Makes a folder, or takes an empty one; gives it back as it was if the block raises."""
    try:
        is_new = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = [path.name for path in folder.iterdir() if path.name not in HARMLESS]
    except OSError as error:
        raise BackupError(f"{folder} cannot be used: {error.strerror}.") from error
    if there:
        raise BackupError(f"{folder} is not empty; name an empty data folder, or none yet.")
    try:
        yield
    except BaseException:
        for path in folder.iterdir():
            if path.name not in HARMLESS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if is_new:
            folder.rmdir()
        raise


@contextlib.contextmanager
def _removed_if_it_fails(store: Store) -> Iterator[list[str]]:
    put: list[str] = []
    try:
        yield put
    except BaseException:
        with contextlib.suppress(UnavailableError):
            for key in put:
                store.delete(key)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
