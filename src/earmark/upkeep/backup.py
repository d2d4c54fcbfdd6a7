"""All of a running installation on SQLite, in one sealed file.

First the database as it is at one moment, then the objects: they never change, and a row never
stands without its bytes, so what the copied rows tell of is there. The engine's database is left
out: what is promised stands in ours. Inside the seal is a tar file:

    backup.json         what it is: `Manifest`
    earmark.sqlite3     the database
    secret.key          unless a setting has the key
    audit-head.json     where the audit trail ended before
    objects/<key>       each object
    end.json            what was not as it should be: `Ending`
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

from earmark.audit import ANCHOR_NAME
from earmark.database import Database, files, journal, migrate, upkeep
from earmark.errors import NotFoundError, UnavailableError
from earmark.interactions import media_key, sha512_key, transcript_key, waveform_key
from earmark.model import now
from earmark.upkeep.sealed import BackupError, sealing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from earmark.database.upkeep import Kept
    from earmark.storage import Store
    from earmark.upkeep.sealed import Keys

FORMAT = 1
MANIFEST, DATABASE, ENDING = "backup.json", "earmark.sqlite3", "end.json"
SECRET, OBJECTS = "secret.key", "objects/"
SNAPSHOT, LOCK = "backup-snapshot.sqlite3", "backup.lock"

BATCH = 200
BLOCK_BYTES = 1024 * 1024

ROOM_FACTOR = 1.02
"""By which the file is larger than what goes into it: seals, names, waveforms, transcripts."""

Tell = Callable[[int, int], None]
"""Told how many bytes are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself.

    Attributes:
        schema: of the database.
        created_at: ISO 8601.
        interactions, media_bytes, database_bytes: how much is in it.
    """

    format: int
    earmark: str
    schema: str
    created_at: str
    interactions: int
    media_bytes: int
    database_bytes: int


@dataclass(slots=True)
class Ending:
    """What a backup found on its way.

    Attributes:
        objects, size_bytes: how much went in.
        deleted: interactions that were deleted after the moment of the database.
        missing: keys of objects that were not there though their rows are.
        damaged: keys of media that differ from the hash of their rows.
    """

    objects: int = 0
    size_bytes: int = 0
    deleted: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What `back_up` made.

    Attributes:
        size_bytes: of the file.
    """

    manifest: Manifest
    ending: Ending
    size_bytes: int
    seconds: float


def back_up(
    database: Database,
    store: Store,
    folder: Path,
    destination: Path,
    keys: Keys,
    *,
    tell: Tell = lambda *_: None,
) -> BackedUp:
    """Writes a backup; under its name it appears whole, durable, or not at all.

    Args:
        database: on SQLite.
        store: where the objects are.
        folder: the data folder.
        destination: the file to be.
        keys: for whom to seal.
        tell: how far it is.

    Raises:
        BackupError: the destination cannot be used, or another backup is under way.
        UnavailableError: database or storage cannot serve.
    """
    began = time.monotonic()
    if destination.exists():
        raise BackupError(f"{destination} is there already; give another name.")
    if not destination.absolute().parent.is_dir():
        raise BackupError(f"{destination.absolute().parent} is no folder; make it first.")
    part = destination.with_name(f"{destination.name}.part")
    with _alone(folder):
        try:
            _check_room(folder, files.path_of(database).stat().st_size)
            # Before the rows: the trail must go on from it.
            beside = {name: _bytes_of(folder / name) for name in (SECRET, ANCHOR_NAME)}
            with database.write(None) as scope:
                journal.record(scope, actor="operator", action="storage.backup", subject="")
            snapshot = _snapshot(database, folder)
            with contextlib.closing(Database(f"sqlite:///{snapshot}")) as copied:
                manifest = _manifest(copied, snapshot)
                _check_room(
                    destination.absolute().parent, manifest.media_bytes + manifest.database_bytes
                )
                with (
                    _written(part) as file,
                    sealing(file, keys) as stream,
                    tarfile.open(mode="w|", fileobj=stream, bufsize=BLOCK_BYTES) as tar,
                ):
                    made = _Archive(tar, tell, manifest)
                    made.add(MANIFEST, _json(manifest))
                    made.add_file(DATABASE, snapshot)
                    for name, content in beside.items():
                        if content:
                            made.add(name, content)
                    ending = made.add_objects(copied, database, store)
                    made.add(ENDING, _json(ending))
            part.rename(destination)
            _sync_folder(destination.absolute().parent)
        except OSError as error:
            raise BackupError(f"The backup cannot be written: {error.strerror}.") from error
        finally:
            part.unlink(missing_ok=True)
    return BackedUp(manifest, ending, destination.stat().st_size, time.monotonic() - began)


def remove_leftovers(folder: Path) -> bool:
    """Removes what a backup left that was killed; False if one is under way, which needs it."""
    with contextlib.suppress(BackupError), _alone(folder):
        return True
    return False


class _Archive:
    """A tar file on its way."""

    def __init__(self, tar: tarfile.TarFile, tell: Tell, manifest: Manifest) -> None:
        self._tar = tar
        self._tell = tell
        self._done = 0
        self._whole = manifest.media_bytes + manifest.database_bytes
        self._at = int(time.time())

    def add(self, name: str, content: bytes) -> None:
        self._add(name, len(content), io.BytesIO(content))

    def add_file(self, name: str, path: Path) -> None:
        with path.open("rb") as file:
            chunks = iter(lambda: file.read(BLOCK_BYTES), b"")
            self._add(name, path.stat().st_size, _Chunks(chunks))

    def add_objects(self, rows: Database, live: Database, store: Store) -> Ending:
        ending = Ending()
        for one in _each(rows):
            missing = [] if self._add_media(one, store, ending) else [media_key(one.id)]
            others = (waveform_key(one.id), transcript_key(one.id), sha512_key(one.id))
            missing += [key for key in others if not self._add_small(key, store, ending)]
            _settle(one, missing, live, ending)
        return ending

    def _add_media(self, one: Kept, store: Store, ending: Ending) -> bool:
        """Adds an interaction's media; False if it is not there."""
        key = media_key(one.id)
        try:
            chunks = store.reread(key)
            with store.local_path(key) as path:
                size = path.stat().st_size
        except (NotFoundError, FileNotFoundError):
            return False
        read = _Chunks(_with_zeros(chunks, size, store))
        self._add_object(key, size, read, ending)
        if read.digest.digest() != one.sha256:
            ending.damaged.append(key)
        return True

    def _add_small(self, key: str, store: Store, ending: Ending) -> bool:
        """The same of what may be made anew meanwhile, and so is read at once."""
        try:
            content = b"".join(store.reread(key))
        except NotFoundError:
            return False
        self._add_object(key, len(content), io.BytesIO(content), ending)
        return True

    def _add_object(self, key: str, size: int, file: io.BytesIO | _Chunks, ending: Ending) -> None:
        self._add(f"{OBJECTS}{key}", size, file)
        ending.objects += 1
        ending.size_bytes += size

    def _add(self, name: str, size: int, file: io.BytesIO | _Chunks) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, self._at
        if isinstance(file, _Chunks):
            file.tell = self._advance
        self._tar.copybufsize = BLOCK_BYTES  # type: ignore[attr-defined] # of 16 KiB
        self._tar.addfile(info, file)  # type: ignore[arg-type] # all it does is read
        self._tar.members.clear()  # type: ignore[attr-defined] # or they would fill memory

    def _advance(self, count: int) -> None:
        self._done += count
        self._tell(self._done, max(self._done, self._whole))


class _Chunks:
    """Chunks as a file that hashes what is read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""
        self.digest = hashlib.sha256()
        self.tell: Callable[[int], None] = lambda _: None

    def read(self, size: int) -> bytes:
        """As many bytes, or fewer at the end."""
        parts = [self._left] if self._left else []
        have = len(self._left)
        while have < size and (chunk := next(self._chunks, b"")):
            parts.append(chunk)
            have += len(chunk)
        whole = b"".join(parts)
        taken, self._left = whole[:size], whole[size:]
        self.digest.update(taken)
        self.tell(len(taken))
        return taken


def _each(rows: Database) -> Iterator[Kept]:
    after = None
    while True:
        with rows.read(None) as scope:
            found = upkeep.kept(scope, after=after, limit=BATCH)
        yield from found
        if len(found) < BATCH:
            return
        after = found[-1].id


def _settle(one: Kept, missing: Sequence[str], live: Database, ending: Ending) -> None:
    """Of an interaction that was deleted meanwhile nothing is missed."""
    needed = {media_key(one.id), *([transcript_key(one.id)] if one.has_transcript else [])}
    missed = [key for key in missing if key in needed]
    if not missed:
        return
    with live.read(None) as scope:
        still = upkeep.find(scope, one.id)
    if still is None:
        ending.deleted.append(str(one.id))
    else:  # its transcript may be made anew
        ending.missing += [
            key for key in missed if key == media_key(one.id) or still.has_transcript
        ]


def _with_zeros(chunks: Iterator[bytes], size: int, store: Store) -> Iterator[bytes]:
    """Zeros in the place of what a damaged medium does not give: the rest is worth keeping."""
    read = 0
    try:
        for chunk in chunks:
            read += len(chunk)
            yield chunk
    except UnavailableError:
        store.check()  # or it is not this object alone
        for start in range(read, size, BLOCK_BYTES):
            yield bytes(min(BLOCK_BYTES, size - start))


def _snapshot(database: Database, folder: Path) -> Path:
    path = folder / SNAPSHOT
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    files.copy(files.path_of(database), path)
    return path


def _manifest(copied: Database, snapshot: Path) -> Manifest:
    with copied.read(None) as scope:
        total = upkeep.total(scope)
    size = snapshot.stat().st_size
    return Manifest(
        *(FORMAT, version("earmark"), migrate.HEAD, now().isoformat()),
        *(total.interactions, total.size_bytes, size),
    )


def _check_room(folder: Path, size_bytes: int) -> None:
    needed, free = int(size_bytes * ROOM_FACTOR), shutil.disk_usage(folder).free
    if free < needed:
        raise BackupError(
            f"{folder} has {free:,} bytes free and the backup needs {needed:,}; make room, or "
            "name another disk."
        )


@contextlib.contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb", BLOCK_BYTES) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One backup at a time; the next one removes what it left, if it was killed."""
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError("Another backup is under way; wait for its end.") from None
        _remove_snapshot(folder)
        try:
            yield
        finally:
            _remove_snapshot(folder)
    finally:
        os.close(descriptor)


def _remove_snapshot(folder: Path) -> None:
    for path in folder.glob(f"{SNAPSHOT}*"):
        path.unlink(missing_ok=True)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from error


def _json(content: Manifest | Ending) -> bytes:
    return json.dumps(asdict(content), indent=2).encode() + b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
