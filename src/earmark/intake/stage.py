"""The bytes of one upload on their way in: counted, hashed, written, and not yet promised."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import hashlib
import sys
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from earmark import audio
from earmark.errors import Fault, TooLargeError, UnavailableError, Why
from earmark.model import Warn, media_named, new_id
from earmark.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor, Future
    from types import TracebackType

    from typing_extensions import Buffer

    from earmark.intake.reservations import Reservation
    from earmark.storage import Staged, Store

BATCH_BYTES = 1024 * 1024
"""Written at once: larger gains nothing, smaller pays for more thread hops (measured)."""

ROOM_SECONDS = 1.0
"""How long an upload is admitted by the room that was found. What is written is held against the
reserve each time."""

FULL_RETRY_SECONDS = 60
"""When to try again what a full disk refused: an operator has to make room first."""


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What intake takes.

    Attributes:
        upload_bytes: largest file.
        reserve_bytes: left free in the storage.
        buffer_bytes: memory that all uploads of this process together hold before it is written.
    """

    upload_bytes: int
    reserve_bytes: int
    buffer_bytes: int


class Stages:
    """What all stages of one process share: the store, the threads and the buffer budget."""

    def __init__(self, store: Store, limits: Limits, pool: Executor, writers: Executor) -> None:
        self.store = store
        self.limits = limits
        self.pool = pool
        self.writers = writers
        self.held_bytes = 0
        self._room = (0, float("-inf"))

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that blocks in one of the threads, whose number is bounded."""
        return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begins with it; it runs to its end, whatever becomes of the caller."""
        context = contextvars.copy_context()  # which executors do not take along by themselves
        return self.pool.submit(functools.partial(context.run, function, *args, **kwargs))

    def has_room(self, size_bytes: int) -> bool:
        """Whether as many more bytes fit for sure, by what was found lately; does not block."""
        room, found_at = self._room
        return size_bytes < room and time.monotonic() - found_at < ROOM_SECONDS

    def check_reserve(self, size_bytes: int) -> None:
        """Raises UnavailableError if as many more bytes would touch the reserve. Blocks."""
        free = self.store.free_bytes()
        room = sys.maxsize if free is None else free - self.limits.reserve_bytes
        self._room = room, time.monotonic()
        if room < size_bytes:
            raise UnavailableError(
                "the storage has no room beyond its reserve",
                retry_after_seconds=FULL_RETRY_SECONDS,
            )


class Stage:
    """One upload's bytes; an asynchronous context manager that removes them unless committed.

    They are written in batches. What is shorter than one is kept in memory until it is committed,
    and is then hashed, written and synced by one thread at once.

    Attributes:
        id: of the interaction that this becomes.
        size_bytes: how many came so far.
        warnings: what a person should know about the content.
    """

    def __init__(
        self,
        stages: Stages,
        extension: str,
        reservation: Reservation | None,
        claimed: bytes | None = None,
    ) -> None:
        self.id = new_id() if reservation is None else reservation.id
        self.size_bytes = 0
        self.warnings: tuple[Warn, ...] = ()
        self._stages = stages
        self._reservation = reservation
        self._extension = extension
        self._claimed = claimed
        self._head = bytearray()
        self._content = Content(stages, str(self.id))
        self._buffer: list[Buffer] = []
        self._buffered_bytes = 0
        self._writing: asyncio.Future[None] | None = None
        self._fault: Fault | None = None
        self._state = _State.OPEN

    async def __aenter__(self) -> Self:
        """Nothing to do: the storage is asked when there is something to write."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Removes what was not handed over, even while the caller is being cancelled."""
        metrics.RECEIVED_BYTES.add(media_named(self._extension), amount=self.size_bytes)
        if self._state is _State.HANDED_OVER:
            return
        self.let_go()
        if self._writing is not None and not self._writing.done():
            await asyncio.shield(self._remove(self._writing))
        elif self._content.is_staged:
            # Handed to its thread at once: a task would be cancelled with all others when the
            # process stops, before it has begun.
            discarding = self._stages.pool.submit(self._content.discard)
            await asyncio.shield(asyncio.wrap_future(discarding))

    @property
    def fault(self) -> Fault | None:
        """What the content itself breaks, as far as it was read."""
        if self._state is not _State.OPEN and not self.size_bytes:
            return Fault(Why.EMPTY_FILE, "file", "The file holds no bytes.")
        return self._fault

    def sha256(self) -> bytes | None:
        """Of the whole file, 32 bytes; until it is finished as claimed, or None. Blocks."""
        return self._claimed if self._state is _State.OPEN else self._content.sha256()

    def mismatch(self, sha256: bytes) -> Fault | None:
        """What is wrong with the SHA-256 of the whole file, if the caller claimed another."""
        return digest_fault(self._claimed, sha256, self.size_bytes)

    async def append(self, chunk: bytes | bytearray) -> None:
        """Adds bytes; waits while too many of them, here or elsewhere, are not written yet.

        Raises:
            TooLargeError: the file is larger than is taken.
            UnavailableError: the storage cannot take more.
        """
        limits = self._stages.limits
        self.size_bytes += len(chunk)
        if self.size_bytes > limits.upload_bytes:
            raise TooLargeError(limits.upload_bytes)
        if self._reservation is not None:
            await self._reservation.cover(self.size_bytes)
        self._keep_head(chunk)
        self._buffer.append(chunk)
        self._buffered_bytes += len(chunk)
        self._stages.held_bytes += len(chunk)
        if self._stages.held_bytes > limits.buffer_bytes:
            await self._flush()
            await self._settle()
        elif self._buffered_bytes >= BATCH_BYTES:
            await self._flush()

    async def finish(self) -> None:
        """Says that no byte follows; none is promised yet.

        Raises:
            UnavailableError: the storage cannot take them.
        """
        await self._settle()
        if len(self._head) < audio.HEAD_BYTES:
            self._look()
        self._content.rest = tuple(self._buffer)
        self._state = _State.FINISHED

    def hand_over(self) -> Content:
        """The whole content, for the one who commits: theirs to remove now."""
        if self._state is not _State.FINISHED:
            raise RuntimeError("only a finished stage is handed over, and only once")
        self._state = _State.HANDED_OVER
        return self._content

    def _keep_head(self, chunk: bytes | bytearray) -> None:
        missing = audio.HEAD_BYTES - len(self._head)
        if missing > 0:
            self._head += chunk[:missing]
            if len(chunk) >= missing:
                self._look()

    def _look(self) -> None:
        """Judges what the first bytes plainly are."""
        if not self._head:
            return
        kind = audio.sniff(bytes(self._head))
        named = audio.container_of_extension(self._extension)
        archive_as_audio = (
            kind.category is audio.Category.ARCHIVE
            and named.category is not audio.Category.ARCHIVE
        )
        if kind.category is audio.Category.FOREIGN or archive_as_audio:
            detail = f"The file holds {kind.words}; send a recording or a chat archive."
            self._fault = Fault(Why.NOT_MEDIA, "file", detail)
        elif kind.category is audio.Category.AUDIO and kind is not named:
            message = f"The name ends in {self._extension}, but the file holds {kind.words}."
            self.warnings = (Warn("container_differs", message),)

    async def _flush(self) -> None:
        """Starts writing the buffer, once what was being written is."""
        await self._settle()
        batch, size = self._buffer, self._buffered_bytes
        self._buffer, self._buffered_bytes = [], 0
        self._writing = asyncio.ensure_future(self._write_batch(batch, size))
        self._writing.add_done_callback(_retrieve)

    async def _write_batch(self, batch: Sequence[Buffer], size: int) -> None:
        try:
            await asyncio.wrap_future(self._stages.writers.submit(self._content.write, batch))
        finally:
            self._stages.held_bytes -= size

    async def _settle(self) -> None:
        """Waits for what is being written, and raises what went wrong with it."""
        if self._writing is not None:
            writing = self._writing
            await asyncio.shield(writing)
            self._writing = None

    def let_go(self) -> None:
        """Gives back the memory that what is left in the buffer takes of all uploads' budget."""
        self._stages.held_bytes -= self._buffered_bytes
        self._buffer, self._buffered_bytes = [], 0

    async def _remove(self, writing: asyncio.Future[None]) -> None:
        with contextlib.suppress(UnavailableError):
            await writing
        await self._stages.run(self._content.discard)


class _State(Enum):
    OPEN = auto()
    FINISHED = auto()
    HANDED_OVER = auto()


class Content:
    """An upload's bytes on their way into the storage. Its methods block; one thread at a time.

    Attributes:
        rest: the last bytes, not written yet.
    """

    def __init__(self, stages: Stages, key: str) -> None:
        self.rest: Sequence[Buffer] = ()
        self._stages = stages
        self._key = key
        self._hash = hashlib.sha256()
        self._hashed_rest = False
        self._staged: Staged | None = None

    @property
    def is_staged(self) -> bool:
        """Whether the storage holds something of it."""
        return self._staged is not None

    def write(self, batch: Sequence[Buffer]) -> None:
        """Hashes bytes and hands them to the storage, which takes the reserve into account.

        Raises:
            UnavailableError: the storage cannot take them.
        """
        for buffer in batch:
            self._hash.update(buffer)
        self._append(batch)

    def sha256(self) -> bytes:
        """Of all that was written and of the rest, 32 bytes."""
        if not self._hashed_rest:
            for buffer in self.rest:
                self._hash.update(buffer)
            self._hashed_rest = True
        return self._hash.digest()

    def write_rest(self) -> None:
        """Hands the rest to the storage; what came before is there.

        Raises:
            UnavailableError: the storage cannot take it.
        """
        self._append(self.rest)

    @property
    def staged(self) -> Staged:
        """All of it, to be published."""
        return self._open()

    def discard(self) -> None:
        """Removes every trace from the storage, published or not."""
        if self._staged is not None:
            self._staged.discard()

    def _append(self, batch: Sequence[Buffer]) -> None:
        if batch:
            self._stages.check_reserve(0)
            self._open().append(batch)

    def _open(self) -> Staged:
        if self._staged is None:
            self._staged = self._stages.store.stage(self._key)
        return self._staged


def digest_fault(claimed: bytes | None, sha256: bytes, size_bytes: int) -> Fault | None:
    """What is wrong if the caller says that a file has another SHA-256 than it has."""
    if claimed is None or claimed == sha256:
        return None
    came = f"{size_bytes} bytes came, whose SHA-256 is {sha256.hex()}"
    detail = f"{came}, not {claimed.hex()}. Compare them with the file, and send it again."
    return Fault(Why.DIGEST_MISMATCH, "file", detail)


def _retrieve(writing: asyncio.Future[None]) -> None:
    """Marks its failure as seen: whoever gives an upload up does not ask for it any more."""
    if not writing.cancelled():
        writing.exception()
