"""Objects as files on a local disk, durable against power loss.

    <root>/staging/<key>.<random>     on its way in
    <root>/objects/<shard>/<key>      published
    <root>/quarantine/<key>@<second>  moved aside, and when

An object is synced before it gets its name, and its folder after; the order is the promise.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from earmark.errors import NotFoundError, SettingsError, UnavailableError
from earmark.model import new_id
from earmark.storage import READ_CHUNK_BYTES, Quarantined, Reading, Staged, Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    from typing_extensions import Buffer

_MODE = 0o600
_FOLDER_MODE = 0o700
WRITE_BACK_BYTES = 8 * 1024 * 1024
SLOW_SECONDS = 0.002
"""A wait for the disk that is longer than what a thread costs, several times over."""

SYNCS_AT_ONCE = 8
_IOV_MAX = 512
"""Buffers in one writev; Linux and macOS take 1,024."""


def open_store(url: str) -> LocalStore:
    """Opens `file:/absolute/path` or `file:relative/path`; makes the folders.

    Raises:
        SettingsError: the URL names no usable folder.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc or not path:
        raise SettingsError("EARMARK_STORAGE_URL must be like file:/srv/earmark/objects.")
    try:
        return LocalStore(Path(path).absolute())
    except OSError as error:
        raise SettingsError(
            f"EARMARK_STORAGE_URL names a folder that cannot be used ({error.strerror}); "
            "create it for this user or name another.",
        ) from error


class LocalStore(Store):
    """See Store."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._staging = root / "staging"
        self._quarantine = root / "quarantine"
        _make_folder(self._staging)
        _make_folder(self._quarantine)
        _make_folder(self._objects)
        # All at once and before the first upload, so that publishing never has to wonder whether
        # the entry of a shard that another process made is already durable.
        for number in range(256):
            (self._objects / f"{number:02x}").mkdir(mode=_FOLDER_MODE, exist_ok=True)
        _sync_folder(self._objects)

    @override
    def stage(self, key: str) -> Staged:
        """See Store.stage."""
        with _unavailable("take a new file"):
            return _LocalStaged(self._staging, self._place(key))

    @override
    def publish(self, batch: Sequence[Staged]) -> list[UnavailableError | None]:
        """See Store.publish."""
        staged = cast("Sequence[_LocalStaged]", batch)
        failures: list[UnavailableError | None] = [None] * len(staged)
        for step in _STEPS:
            left = [number for number, failure in enumerate(failures) if failure is None]
            outcomes = self._each(step, [staged[number] for number in left])
            for number, failure in zip(left, outcomes, strict=True):
                failures[number] = failure
        return failures

    @override
    def put(self, key: str, data: bytes) -> None:
        """See Store.put."""
        staged = self.stage(key)
        try:
            staged.append([data])
            staged.publish()
        except BaseException:
            staged.discard()
            raise

    @override
    def read(self, key: str, start: int = 0, stop: int | None = None) -> Reading:
        """See Store.read."""
        with _unavailable("read a file", key):
            descriptor = os.open(self._place(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return _LocalReading(descriptor, start, stop)

    @override
    def reread(self, key: str) -> Reading:
        """See Store.reread."""
        with _unavailable("read a file", key):
            descriptor = os.open(self._place(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return _LocalRereading(descriptor)

    @contextlib.contextmanager
    @override
    def local_path(self, key: str) -> Iterator[Path]:
        """See Store.local_path."""
        path = self._place(key)
        with _unavailable("read a file", key):
            path.stat()
        yield path

    @override
    def delete(self, key: str) -> None:
        """See Store.delete."""
        with _unavailable("remove a file"):
            self._place(key).unlink(missing_ok=True)

    @override
    def keys(self, *, older_than_seconds: float) -> Iterator[str]:
        """See Store.keys."""
        with _unavailable("be listed"):
            shards = sorted(self._objects.iterdir())
        for shard in shards:
            with _unavailable("be listed"):
                names = list(_stale(shard, older_than_seconds))
            yield from names

    @override
    def quarantine(self, key: str) -> None:
        """See Store.quarantine."""
        place = self._place(key)
        aside = self._quarantine / f"{key}@{int(time.time())}"
        with _unavailable("move a file aside"), contextlib.suppress(FileNotFoundError):
            place.rename(aside)
            _sync_folder(self._quarantine)
            _sync_folder(place.parent)

    @override
    def quarantined(self) -> Iterator[Quarantined]:
        """See Store.quarantined."""
        with _unavailable("be listed"):
            names = [path.name for path in self._quarantine.iterdir()]
        for name in names:
            key, _, since = name.rpartition("@")
            with _unavailable("be listed"), contextlib.suppress(FileNotFoundError):
                facts = (self._quarantine / name).stat()
                yield Quarantined(key, float(since), facts.st_size)

    @override
    def restore(self, key: str) -> None:
        """See Store.restore."""
        with _unavailable("move a file back"):
            found = self._aside(key)
            if not found:
                raise NotFoundError(key)
            place = self._place(key)
            found[-1].rename(place)
            _sync_folder(place.parent)
            _sync_folder(self._quarantine)

    @override
    def remove_quarantined(self, key: str) -> None:
        """See Store.remove_quarantined."""
        with _unavailable("remove a file"):
            for path in self._aside(key):
                path.unlink(missing_ok=True)

    @override
    def staged_alone(self, *, older_than_seconds: float) -> int:
        """See Store.staged_alone."""
        with _unavailable("be listed"):
            return sum(1 for _ in _stale(self._staging, older_than_seconds))

    @override
    def sweep_staging(self, *, older_than_seconds: float) -> int:
        """See Store.sweep_staging."""
        with _unavailable("remove a file"):
            names = list(_stale(self._staging, older_than_seconds))
            for name in names:
                (self._staging / name).unlink(missing_ok=True)
        return len(names)

    @override
    def free_bytes(self) -> int:
        """See Store.free_bytes."""
        with _unavailable("be measured"):
            facts = os.statvfs(self._staging)
        return facts.f_bavail * facts.f_frsize

    @override
    def check(self) -> None:
        """See Store.check."""
        key = str(new_id())  # of no interaction, so that the sweeper finds what a crash leaves
        self.put(key, b"check")
        try:
            whole = b"".join(self.read(key))
        finally:
            self.delete(key)
        if whole != b"check":
            raise UnavailableError("the storage gave back other bytes than it took")

    def _each(
        self, step: _Step, staged: Sequence[_LocalStaged]
    ) -> Sequence[UnavailableError | None]:
        """Does a step of each: one after the other, or all at once on a disk that is slow.

        A thread costs more than a fast disk takes. On a slow one, what waits at the same time
        shares a wait.
        """
        outcomes = []
        for number, one in enumerate(staged):
            began = time.monotonic()
            outcomes.append(_tried(step, one))
            if time.monotonic() - began > SLOW_SECONDS:
                return outcomes + self._at_once(step, staged[number + 1 :])
        return outcomes

    def _at_once(
        self, step: _Step, staged: Sequence[_LocalStaged]
    ) -> list[UnavailableError | None]:
        try:
            return list(self._threads.map(partial(_tried, step), staged))
        except RuntimeError as error:  # no thread can be begun
            failure = UnavailableError("the storage has no thread to wait for the disk")
            failure.__cause__ = error
            return [failure] * len(staged)

    @cached_property
    def _threads(self) -> Executor:
        return ThreadPoolExecutor(SYNCS_AT_ONCE, thread_name_prefix="storage")

    def _aside(self, key: str) -> list[Path]:
        """What stands aside under a key, the oldest first."""
        found = [path for path in self._quarantine.iterdir() if path.name.startswith(f"{key}@")]
        return sorted(found, key=lambda path: int(path.name.rpartition("@")[2]))

    def _place(self, key: str) -> Path:
        # The last digits of an id are random: they spread objects evenly over 256 folders.
        stem = key.partition(".")[0]
        return self._objects / stem[-2:] / key


class _LocalStaged(Staged):
    """See Staged."""

    def __init__(self, staging: Path, place: Path) -> None:
        # As text: what pathlib does with a path takes longer than what the kernel does (measured).
        self._place, self._folder = str(place), str(place.parent)
        self._path = f"{staging}/{place.name}.{secrets.token_hex(8)}"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, _MODE)
        self._published = False
        self._written_bytes = 0
        self._begun_bytes = 0

    @override
    def append(self, batch: Sequence[Buffer]) -> None:
        """See Staged.append."""
        with _unavailable("take more bytes"):
            for first in range(0, len(batch), _IOV_MAX):
                _write_all(self._descriptor, batch[first : first + _IOV_MAX])
            self._written_bytes += sum(memoryview(buffer).nbytes for buffer in batch)
            self._begin_writing_back()

    @override
    def publish(self) -> None:
        """See Staged.publish."""
        for step in _STEPS:
            step(self)

    def sync(self) -> None:
        """Has the disk keep its bytes."""
        with _unavailable("keep a file"):
            os.fsync(self._descriptor)

    def take_its_place(self) -> None:
        """Gives it its name."""
        with _unavailable("keep a file"):
            os.rename(self._path, self._place)  # noqa: PTH104
            self._published = True

    def sync_folder(self) -> None:
        """Has the disk keep its name."""
        with _unavailable("keep a file"):
            _sync_folder(self._folder)
            self._close()

    @override
    def discard(self) -> None:
        """See Staged.discard."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            os.unlink(self._place if self._published else self._path)  # noqa: PTH108

    def _begin_writing_back(self) -> None:
        """Has the kernel bring to the disk now what it would else keep until the sync."""
        size = self._written_bytes - self._begun_bytes
        if size >= WRITE_BACK_BYTES and _sync_file_range is not None:
            _sync_file_range(self._descriptor, self._begun_bytes, size, _SYNC_FILE_RANGE_WRITE)
            self._begun_bytes = self._written_bytes

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


_Step = Callable[[_LocalStaged], None]
_STEPS: Sequence[_Step] = (
    _LocalStaged.sync,
    _LocalStaged.take_its_place,
    _LocalStaged.sync_folder,
)
"""How an object is published. Their order is the promise."""


def _tried(step: _Step, staged: _LocalStaged) -> UnavailableError | None:
    try:
        step(staged)
    except UnavailableError as error:
        return error
    return None


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """sync_file_range(2), which Python's os lacks; None where there is none."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_sync_file_range = _find_sync_file_range()
_SYNC_FILE_RANGE_WRITE = 2


def _write_all(descriptor: int, buffers: Sequence[Buffer]) -> None:
    """Writes every byte; the kernel may take fewer than it is given."""
    views = [memoryview(buffer) for buffer in buffers]
    while views:
        written = os.writev(descriptor, views)
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]


class _LocalReading(Reading):
    """See Reading."""

    def __init__(self, descriptor: int, start: int, stop: int | None) -> None:
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._start = start
        self._stop = sys.maxsize if stop is None else stop

    def __del__(self) -> None:
        """Who drops it half read need not close it."""
        self._file.close()

    @override
    def __iter__(self) -> Self:
        """See Reading."""
        return self

    @override
    def __next__(self) -> bytes:
        """See Reading."""
        size = min(READ_CHUNK_BYTES, self._stop - self._start)
        chunk = b""
        if size > 0 and not self._file.closed:
            with _unavailable("read a file"):
                chunk = os.pread(self._file.fileno(), size, self._start)
        if not chunk:
            self.close()
            raise StopIteration
        self._start += len(chunk)
        return chunk

    @override
    def close(self) -> None:
        """See Reading."""
        self._file.close()

    @override
    def fileno(self) -> int | None:
        """See Reading."""
        return self._file.fileno()


class _LocalRereading(_LocalReading):
    """Of a file that is synced: memory keeps its pages neither before nor after."""

    def __init__(self, descriptor: int) -> None:
        _forget(descriptor)
        super().__init__(descriptor, 0, None)

    @override
    def __next__(self) -> bytes:
        """See Reading."""
        start = self._start
        chunk = super().__next__()
        _forget(self._file.fileno(), start, len(chunk))
        return chunk


def _forget(descriptor: int, start: int = 0, length: int = 0) -> None:
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


def _stale(folder: Path, older_than_seconds: float) -> Iterator[str]:
    limit = time.time() - older_than_seconds
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                facts = entry.stat(follow_symlinks=False)
                # Publishing renames, which is seen in the change time only.
                if max(facts.st_mtime, facts.st_ctime) <= limit:
                    yield entry.name


def _make_folder(folder: Path) -> None:
    """Makes a folder that survives power loss, and those above it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path | str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def _unavailable(what: str, key: str = "") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if key:
            raise NotFoundError(key) from error
        raise UnavailableError(f"the storage cannot {what}: {error.strerror}") from error
    except OSError as error:
        wait = 60 if error.errno in _FULL else 5
        raise UnavailableError(
            f"the storage cannot {what}: {error.strerror}", retry_after_seconds=wait
        ) from error
