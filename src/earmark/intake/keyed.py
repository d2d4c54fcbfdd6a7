"""Uploads with an idempotency key: one is kept, and those that follow are told what it became.

A key is of one client. While an upload with it is on its way, it has a lease on the key, as on
its part of a quota. What it became is written by the transaction that keeps it, and remembered
for a day. Of a refused upload nothing is remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from earmark.database import idempotency
from earmark.errors import (
    DeletedError,
    KeyInUseError,
    KeyReusedError,
    TooLargeError,
    UnavailableError,
)
from earmark.intake import holding
from earmark.intake.stage import BATCH_BYTES, digest_fault
from earmark.model import now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime
    from types import TracebackType
    from uuid import UUID

    from earmark.database import Database, Scope
    from earmark.database.idempotency import First
    from earmark.errors import Fault
    from earmark.intake.stage import Stages
    from earmark.model import Accepted, Principal, Submission

KEEP_SECONDS = idempotency.HOLD_SECONDS / 3
"""How often the end of a lease is put off."""

REMEMBERED = timedelta(hours=24)
"""How long it is known what became of a key. The contract says so."""

PURGE_BATCH = 1000

RETRY_SECONDS = 2.0
"""When to ask again while another upload has the key: how long that takes is known to nobody."""


class KeyedUploads:
    """The uploads with a key of one process."""

    def __init__(self, database: Database, stages: Stages) -> None:
        """Opens nothing yet."""
        self.database = database
        self.stages = stages
        self.leases = idempotency.Leases(database)
        self.held = holding.Held()

    @contextlib.asynccontextmanager
    async def tended(self) -> AsyncIterator[None]:
        """While the block runs, leases do not end before their uploads."""
        async with holding.kept(
            self.stages.pool, self._keep, every_seconds=KEEP_SECONDS, what="idempotency keys"
        ):
            yield

    def _keep(self) -> None:
        if held := self.held.all():
            self.leases.keep(held)


class KeyedUpload:
    """One upload with a key; an asynchronous context manager, in which it has the key.

    Attributes:
        accepted: what the first upload with the key was answered; None if this is the first, or
            if the first is still downloaded.
    """

    def __init__(self, uploads: KeyedUploads, principal: Principal, key: str) -> None:
        self.accepted: Accepted | None = None
        self._uploads = uploads
        self._organization_id = principal.organization_id
        self._key = key
        self._hash = _hash(b"key", principal.client_id, key)
        self._holder = uuid4()
        self._first: First | None = None

    async def __aenter__(self) -> Self:
        """Takes the key, unless an upload with it was kept.

        Raises:
            KeyInUseError: another upload has it.
            DeletedError: what it became was deleted.
            UnavailableError: the database cannot serve.
        """
        beginning = self._uploads.stages.submit(self._begin)
        try:
            await asyncio.wrap_future(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(lambda _: self._end())
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the key back, even while the caller is being cancelled."""
        if self._holder in self._uploads.held:
            await holding.run(self._uploads.stages.pool, self._end)

    @property
    def is_first(self) -> bool:
        """Whether nothing became of an upload with this key yet."""
        return self._first is None

    def demand_same(
        self, submission: Submission, *, address: str = "", sha256: bytes | None = None
    ) -> None:
        """Compares an upload with the first one of the key, as far as it is known.

        Raises:
            KeyReusedError: it is another one.
        """
        first = self._first
        if first is not None and first.fingerprint != self._fingerprint(submission, address):
            raise KeyReusedError
        if self.accepted is not None and sha256 not in {None, self.accepted.sha256}:
            raise KeyReusedError

    def comparison(self, accepted: Accepted, claimed: bytes | None) -> Comparison:
        """For the bytes of an upload that is to be the same as an accepted one."""
        return Comparison(self._uploads.stages, accepted, claimed)

    def kept_as(self, interaction_id: UUID, submission: Submission) -> Callable[[Scope], None]:
        """What the transaction has to do that keeps the upload."""
        fingerprint = self._fingerprint(submission, "")

        def write(scope: Scope) -> None:
            self._put(scope, fingerprint, interaction_id=interaction_id)

        return write

    def join(self, scope: Scope, submission: Submission, address: str) -> UUID | None:
        """The download that is under way or done for this key already.

        Raises:
            KeyReusedError: that is of another upload.
            DeletedError: what it became was deleted.
        """
        self._first = self._find(scope)
        if self._first is None:
            return None
        self.demand_same(submission, address=address)
        return self._first.download_id

    def downloaded_by(
        self, scope: Scope, download_id: UUID, submission: Submission, address: str
    ) -> None:
        """Has the key become what a download becomes; for the transaction that begins that."""
        self._put(scope, self._fingerprint(submission, address), download_id=download_id)

    def _begin(self) -> None:
        if self._is_known():
            return
        uploads = self._uploads
        if not uploads.leases.take(self._organization_id, self._hash, self._holder):
            raise KeyInUseError(RETRY_SECONDS)
        uploads.held.hold(self._holder)
        try:
            known = self._is_known()  # once more: the one before may have ended between the two
        except BaseException:
            self._end()
            raise
        if known:
            self._end()

    def _end(self) -> None:
        uploads = self._uploads
        if self._holder in uploads.held:
            uploads.held.drop(self._holder)
            with contextlib.suppress(UnavailableError):  # then it ends when its time is over
                uploads.leases.release(self._organization_id, self._holder)

    def _is_known(self) -> bool:
        """Looks up what became of the key; whether an upload was kept."""
        with self._uploads.database.read(self._organization_id) as scope:
            self._first = self._find(scope)
        self.accepted = None if self._first is None else self._first.accepted
        return self.accepted is not None

    def _find(self, scope: Scope) -> First | None:
        found = idempotency.find(scope, self._hash, at=now())
        if found is not None and found.is_deleted:
            raise DeletedError
        return found

    def _put(
        self,
        scope: Scope,
        fingerprint: bytes,
        *,
        interaction_id: UUID | None = None,
        download_id: UUID | None = None,
    ) -> None:
        at = now()
        added = idempotency.put(
            scope,
            self._hash,
            fingerprint,
            interaction_id=interaction_id,
            download_id=download_id,
            at=at,
            expires_at=at + REMEMBERED,
        )
        if not added:  # this process slept for so long that another took the key
            raise KeyInUseError(RETRY_SECONDS)

    def _fingerprint(self, submission: Submission, address: str) -> bytes:
        """The same for uploads that say the same, however they write it.

        The key is part of it: nobody who has the database can guess metadata by it. Of an
        address that counts which does not change when it is signed anew.
        """
        facts = asdict(submission)
        del facts["metadata_sent"]
        if submission.interaction_date is not None:
            del facts["interaction_date"]["sent"]
        said = json.dumps(facts, sort_keys=True, default=str)
        place = address.partition("#")[0].partition("?")[0]
        return _hash(b"upload", self._key, said, place)


class Comparison:
    """The bytes of an upload whose like is kept already: counted, hashed, and not kept."""

    def __init__(self, stages: Stages, accepted: Accepted, claimed: bytes | None) -> None:
        self._stages = stages
        self._accepted = accepted
        self._claimed = claimed
        self._size_bytes = 0
        self._hash = hashlib.sha256()
        self._buffer: list[bytes | bytearray] = []
        self._buffered_bytes = 0
        self._finished = False

    @property
    def fault(self) -> Fault | None:
        """What is wrong with the bytes themselves."""
        if not self._finished or self._claimed is None:
            return None
        return digest_fault(self._claimed, self._hash.digest(), self._size_bytes)

    @property
    def differs(self) -> bool:
        """Whether they are others than those that are kept, as far as they came."""
        if self._finished:
            return self._hash.digest() != self._accepted.sha256
        return self._size_bytes > self._accepted.size_bytes

    async def append(self, chunk: bytes | bytearray) -> None:
        """Adds bytes.

        Raises:
            TooLargeError: they are more than is taken.
        """
        self._size_bytes += len(chunk)
        limit = self._stages.limits.upload_bytes
        if self._size_bytes > limit:
            raise TooLargeError(limit)
        self._buffer.append(chunk)
        self._buffered_bytes += len(chunk)
        if self._buffered_bytes >= BATCH_BYTES:
            await self._flush()

    async def finish(self) -> None:
        """Says that no byte follows."""
        await self._flush()
        self._finished = True

    async def _flush(self) -> None:
        batch, self._buffer, self._buffered_bytes = self._buffer, [], 0
        await asyncio.wrap_future(self._stages.writers.submit(self._update, batch))

    def _update(self, batch: list[bytes | bytearray]) -> None:
        for chunk in batch:
            self._hash.update(chunk)


def forget_ended(database: Database) -> None:
    """Forgets keys whose time is over, a part at a time: on SQLite, uploads wait for each."""
    at = now()
    while over := _ended(database, at):
        with database.write(None) as scope:
            idempotency.forget(scope, over, at=at)


def _ended(database: Database, at: datetime) -> Sequence[bytes]:
    with database.read(None) as scope:
        return idempotency.ended(scope, at=at, limit=PURGE_BATCH)


def _hash(purpose: bytes, *texts: str) -> bytes:
    """SHA-256 of texts, such that no two lists of them are the same."""
    parts = [purpose, *(text.encode() for text in texts)]
    return hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).digest()
