"""Uploads whose file is downloaded: from the request to the commit, whoever goes away meanwhile.

A download belongs to no request. It is a task of this process and a row that says so; a request
starts one or joins the one that runs, and waits. Every name of an organization has one at a time,
in all processes together. One that was promised outlives its process: its address and submission
stand in its row, and whichever process has room takes it up. The row is ended by the transaction
that commits the interaction, so none is taken in twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from pydantic import TypeAdapter

from earmark.database import downloads, journal, submissions
from earmark.errors import (
    CallerError,
    Fault,
    NotFoundError,
    RefusedError,
    SettingsError,
    StorageQuotaError,
    TooManyUploadsError,
    UnavailableError,
    Why,
)
from earmark.fetch import FetchError
from earmark.intake.turns import Turns
from earmark.model import Cause, DownloadStatus, Principal, Submission, extension, new_id, now
from earmark.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from uuid import UUID

    from earmark.access.seal import Seal
    from earmark.database import Database, Scope
    from earmark.egress import Destination
    from earmark.fetch import Fetcher
    from earmark.intake import OrganizationIntake
    from earmark.intake.keyed import KeyedUpload
    from earmark.intake.reservations import Reservation
    from earmark.intake.stage import Stages
    from earmark.intake.turns import Turn
    from earmark.model import Accepted, Download

RETRY_PAUSES_SECONDS = (1.0, 4.0)
"""Before the second and the third try, where a failure may pass."""

MAX_ATTEMPTS = 5
"""Of a promised download, over processes that died with it: it may be what they die of."""

OUTAGE_RETRY_SECONDS = 30.0
OUTAGE_PATIENCE = timedelta(hours=24)
"""How long a promised download waits for our own storage or database."""

HOLD_SECONDS = 15.0
KEEP_SECONDS = 5.0
"""How long a process holds a download, and how often it puts that off: busy is not dead."""

LOOK_SECONDS = 1.0
"""Between looks for what was left, and for how a download in another process stands."""

REMEMBERED = timedelta(days=7)
"""How long the end of a download can be asked for."""

PURGE_SECONDS = 3600.0

SEAL_PURPOSE = "signed address v1"

NO_ROOM_CODE = "storage_quota_reached"
"""As the edge calls StorageQuotaError."""

_UNREADABLE = Cause(
    Why.SIGNED_URL_INTERRUPTED.value,
    "EARMARK_SECRET_KEY was changed before the download ended. Send the upload again.",
)
_INTERNAL = Cause("internal", "Earmark has a fault; the log has the details under this id.")
_NO_ROOM = Cause(
    NO_ROOM_CODE,
    "The organization has no room left for this upload. Delete interactions, or ask the operator "
    "for more.",
)
_UNAVAILABLE = Cause("unavailable", "Storage or database could not serve. Send the upload again.")

_CODES = frozenset(why.value for why in Why)
_SUBMISSION = TypeAdapter(Submission)
_OFF = Fault(Why.SIGNED_URL_OFF, "signedUrl", "Send the file in the part file.")

log = structlog.get_logger("earmark.download")


@dataclass(frozen=True, slots=True)
class Downloading:
    """What downloads need beside what every upload needs.

    Attributes:
        at_once: downloads of one process.
        hold_seconds: see `HOLD_SECONDS`.
    """

    fetcher: Fetcher
    seal: Seal
    at_once: int
    hold_seconds: float = HOLD_SECONDS


@dataclass(frozen=True, slots=True)
class _Order:
    """One download to be made. It prints without its address."""

    id: UUID
    intake: OrganizationIntake
    submission: Submission
    address: _Address
    keyed: KeyedUpload | None = None

    @property
    def organization_id(self) -> UUID:
        return self.intake.principal.organization_id

    @property
    def client_id(self) -> str:
        return self.intake.principal.client_id


class _Address:
    """A credential; only `text` shows it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Downloads:
    """The downloads of one process, on one event loop."""

    def __init__(
        self,
        database: Database,
        stages: Stages,
        settings: Downloading | None,
        bind: Callable[[Principal], OrganizationIntake],
    ) -> None:
        """Starts nothing yet.

        Args:
            database: where downloads are written down.
            stages: for their bytes.
            settings: None refuses every download.
            bind: the intake of a principal.
        """
        self._database = database
        self._stages = stages
        self._settings = settings
        self._bind = bind
        self._holder = uuid4()
        self._turns = Turns(settings.at_once if settings else 0)
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._begun: Counter[UUID] = Counter()
        self._taking_up = asyncio.Lock()
        self._kept_at = self._purged_at = float("-inf")

    async def take_in(
        self,
        intake: OrganizationIntake,
        submission: Submission,
        address: str,
        *,
        promise: bool,
        patience_seconds: float | None,
        keyed: KeyedUpload | None = None,
    ) -> Accepted | Download:
        """See OrganizationIntake.download; the submission was checked."""
        order = _Order(new_id(), intake, submission, _Address(address), keyed)
        destination = self._read(order)
        fingerprint = _fingerprint(destination, submission)
        while True:
            found = await self._stages.run(self._begin, order, destination, fingerprint, promise)
            if found.id == order.id and not promise:
                self._start(order)
            elif promise and patience_seconds != 0:
                await self._take_up()
            same = found.fingerprint == fingerprint
            ended = await self._end(found.id, intake, patience_seconds if same else None)
            if promise and patience_seconds == 0:  # the answer is the promise, whatever follows
                await self._take_up()
            if same and ended is not None:
                return await self._outcome(ended, intake, submission)
            # The name was another upload's, or was freed at this very moment.
            await intake.check(submission)

    async def find(self, intake: OrganizationIntake, id_: UUID) -> Download:
        """See OrganizationIntake.find_download."""
        found = await self._stages.run(self._find, intake, id_)
        if found is None:
            raise NotFoundError(str(id_))
        return found

    @asynccontextmanager
    async def tended(self) -> AsyncIterator[None]:
        """While the block runs, what other processes left is taken up; at its end all is left."""
        if self._settings is None:
            yield
            return
        tending = asyncio.create_task(self._tend())
        try:
            yield
        finally:
            await _cancel(tending, *self._tasks.values())
            with suppress(UnavailableError):  # then others see it when the time is over
                await self._stages.run(self._leave)

    # Requests.

    def _read(self, order: _Order) -> Destination:
        try:
            return self._fetching.fetcher.read(order.address.text)
        except FetchError as error:
            log.info("download.refused", client=order.client_id, reason=error.reason)
            metrics.DOWNLOADS.add(error.faults[0].why.value)
            raise

    @property
    def _fetching(self) -> Downloading:
        if self._settings is None:
            raise RefusedError([_OFF])
        return self._settings

    def _begin(
        self, order: _Order, destination: Destination, fingerprint: bytes, promise: bool
    ) -> downloads.Underway:
        """Writes a download down, or finds the one of the same name that is under way."""
        promised = self._promise(order) if promise else None
        with self._database.write(order.organization_id) as scope:
            name = order.submission.file_name
            downloads.fail_abandoned(scope, at=now(), file_name=name)
            joined = self._joined(scope, order)
            if joined is not None:
                if promised is not None:
                    downloads.promise_too(scope, joined, self._promise(order, joined))
                return downloads.Underway(joined, fingerprint)
            while True:
                added = downloads.begin(
                    scope,
                    order.id,
                    client_id=order.client_id,
                    file_name=name,
                    fingerprint=fingerprint,
                    hold=None if promise else self._hold(),
                    promise=promised,
                    at=now(),
                )
                if added:
                    self._record(scope, order, destination)
                    self._attach(scope, order, order.id)
                    return downloads.Underway(order.id, fingerprint)
                found = downloads.underway(scope, name)
                if found is None:
                    continue  # it ended between the two
                if found.fingerprint != fingerprint:
                    return found
                if promised is None or downloads.promise_too(
                    scope, found.id, self._promise(order, found.id)
                ):
                    self._attach(scope, order, found.id)
                    return found

    def _joined(self, scope: Scope, order: _Order) -> UUID | None:
        """The download that the idempotency key of an order has already."""
        if order.keyed is None:
            return None
        return order.keyed.join(scope, order.submission, order.address.text)

    def _attach(self, scope: Scope, order: _Order, id_: UUID) -> None:
        """Has the idempotency key of an order, if it has one, become what a download becomes."""
        if order.keyed is not None:
            order.keyed.downloaded_by(scope, id_, order.submission, order.address.text)

    def _promise(self, order: _Order, id_: UUID | None = None) -> downloads.Promise:
        owner = (id_ or order.id).bytes
        sealed = self._fetching.seal.close(order.address.text.encode(), owner)
        return downloads.Promise(sealed, _SUBMISSION.dump_json(order.submission).decode())

    def _record(self, scope: Scope, order: _Order, destination: Destination) -> None:
        journal.record(
            scope,
            actor=f"client:{order.client_id}",
            action="download.begin",
            subject=str(order.id),
            detail={"host": destination.host},
        )

    async def _end(
        self, id_: UUID, intake: OrganizationIntake, patience_seconds: float | None
    ) -> Download | None:
        """How a download stands once it has ended or patience has; None if it is gone."""
        deadline = None if patience_seconds is None else time.monotonic() + patience_seconds
        while True:
            found = await self._stages.run(self._find, intake, id_)
            if found is None or found.status is not DownloadStatus.DOWNLOADING:
                return found
            left = LOOK_SECONDS
            if deadline is not None:
                left = min(left, deadline - time.monotonic())
                if left <= 0:
                    return found
            task = self._tasks.get(id_)
            if task is None:
                await asyncio.sleep(left)
            else:
                await asyncio.wait([task], timeout=left)

    def _find(self, intake: OrganizationIntake, id_: UUID) -> Download | None:
        with self._database.read(intake.principal.organization_id) as scope:
            return downloads.find(scope, id_)

    async def _outcome(
        self, ended: Download, intake: OrganizationIntake, submission: Submission
    ) -> Accepted | Download:
        if ended.status is DownloadStatus.DOWNLOADING:
            return ended
        if ended.interaction_id is not None:
            return await self._stages.run(self._accepted, intake, ended.interaction_id)
        cause = ended.cause or _INTERNAL
        if cause.code == _UNAVAILABLE.code:
            raise UnavailableError("a download could not be kept")
        if cause.code == _NO_ROOM.code:
            raise StorageQuotaError
        if cause.code == Why.NAME_TAKEN:
            await intake.check(submission)  # tells who has it
        if cause.code not in _CODES:
            raise RuntimeError(f"download {ended.id} failed")  # the log has told why
        raise RefusedError([Fault(Why(cause.code), "signedUrl", cause.message)])

    def _accepted(self, intake: OrganizationIntake, interaction_id: UUID) -> Accepted:
        with self._database.read(intake.principal.organization_id) as scope:
            found = submissions.accepted(scope, interaction_id)
        if found is None:
            raise UnavailableError("the interaction was deleted at this moment")
        return found

    # Downloads.

    def _start(self, order: _Order) -> None:
        task = asyncio.create_task(self._run(order, self._turns.ask(order.organization_id)))
        self._tasks[order.id] = task
        self._begun[order.organization_id] += 1

        def end(_task: asyncio.Task[None]) -> None:
            self._tasks.pop(order.id, None)
            self._begun -= Counter([order.organization_id])  # one that has none left is dropped

        task.add_done_callback(end)

    async def _run(self, order: _Order, turn: Turn) -> None:
        """A download to its end, whatever that is."""
        began = time.monotonic()
        failure = await self._failure(order, turn)
        metrics.DOWNLOAD_DURATION.took(time.monotonic() - began)
        if failure is not None:
            metrics.DOWNLOADS.add(failure.code)
            with suppress(UnavailableError):  # then others see it when the time is over
                await self._stages.run(self._give_up, order, failure)

    async def _failure(self, order: _Order, turn: Turn) -> Cause | None:
        """Downloads; returns why that failed. The edge of its task: no error leaves it."""
        try:
            await self._in_turn(order, turn)
        except UnavailableError:
            return _UNAVAILABLE
        except StorageQuotaError:
            return _NO_ROOM
        except RefusedError as error:
            fault = error.faults[0]
            reason = error.reason if isinstance(error, FetchError) else fault.why.value
            log.info("download.failed", download=str(order.id), reason=reason)
            return Cause(fault.why.value, fault.detail)
        except _LostError:
            log.warning("download.lost", download=str(order.id))
            metrics.DOWNLOADS.add("lost")
        except Exception:
            log.exception("download.failed", download=str(order.id))
            return _INTERNAL
        return None

    async def _in_turn(self, order: _Order, turn: Turn) -> None:
        """Downloads once it has its turn here, and its organization may have one more upload."""
        while True:
            async with turn:
                with suppress(TooManyUploadsError):
                    async with await order.intake.admit(None) as reservation:
                        return await self._try(order, reservation)
            await asyncio.sleep(LOOK_SECONDS)  # meanwhile it is another's turn
            turn = self._turns.ask(order.organization_id)

    async def _try(self, order: _Order, reservation: Reservation) -> None:
        for pause in RETRY_PAUSES_SECONDS:
            try:
                await self._once(order, reservation)
            except FetchError as error:
                if not error.passing:
                    raise
                await asyncio.sleep(pause)
            else:
                return
        await self._once(order, reservation)

    async def _once(self, order: _Order, reservation: Reservation) -> None:
        destination = self._fetching.fetcher.read(order.address.text)  # it may have expired
        named = extension(order.submission.file_name)
        async with order.intake.stage(named, reservation) as stage:

            async def sink(chunk: bytes) -> None:
                await stage.append(chunk)
                if stage.fault is not None:
                    raise RefusedError([stage.fault])

            await self._fetching.fetcher.download(destination, sink, sized=reservation.cover)
            await stage.finish()

            def end(scope: Scope) -> None:
                if not downloads.receive(scope, order.id, self._holder, stage.id, at=now()):
                    raise _LostError

            await order.intake.commit(stage, order.submission, also=end)
        log.info("download.received", download=str(order.id), host=destination.host)
        metrics.DOWNLOADS.add("received")

    def _give_up(self, order: _Order, cause: Cause) -> None:
        at = now()
        with self._database.write(order.organization_id) as scope:
            if cause is _UNAVAILABLE and self._may_wait(scope, order.id):
                later = at + timedelta(seconds=OUTAGE_RETRY_SECONDS)
                if downloads.release(scope, order.id, self._holder, until=later):
                    return
            downloads.fail(scope, order.id, self._holder, cause, at=at)

    def _may_wait(self, scope: Scope, id_: UUID) -> bool:
        found = downloads.find(scope, id_)
        return found is not None and now() - found.created_at < OUTAGE_PATIENCE

    # What processes leave to each other.

    async def _tend(self) -> None:
        away = False
        while True:
            try:
                if await self._stages.run(self._look):
                    await self._take_up()
                away = False
            except UnavailableError as error:
                if not away:
                    log.warning("download.waits", error=str(error))
                away = True
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> bool:
        """Keeps what this process holds and ends what is lost; whether anything is unfinished."""
        moment, at = time.monotonic(), now()
        if moment - self._purged_at >= PURGE_SECONDS:
            with self._database.write(None) as scope:
                downloads.purge(scope, before=at - REMEMBERED)
            self._purged_at = moment
        with self._database.read(None) as scope:
            if not downloads.any_unfinished(scope):
                return False
        if moment - self._kept_at >= KEEP_SECONDS:
            with self._database.write(None) as scope:
                downloads.keep(scope, self._hold())
                downloads.fail_abandoned(scope, at=at)
            self._kept_at = moment
        return True

    async def _take_up(self) -> None:
        """Begins promised downloads that nobody holds, as far as there is room."""
        async with self._taking_up:  # or several would fill the same room
            while self._turns.free:
                crowded = {one for one, begun in self._begun.items() if begun >= self._turns.share}
                claimed = await self._stages.run(self._claim, crowded)
                if claimed is None:
                    return
                order = await self._stages.run(self._opened, claimed)
                if order is not None:
                    self._start(order)

    def _claim(self, crowded: Collection[UUID]) -> downloads.Claimed | None:
        with self._database.write(None) as scope:
            return downloads.claim(scope, self._hold(), at=now(), without=crowded)

    def _opened(self, claimed: downloads.Claimed) -> _Order | None:
        """The order of a claimed download; None, and it has ended, if it cannot be made."""
        cause = downloads.INTERRUPTED
        if claimed.attempts <= MAX_ATTEMPTS:
            try:
                sealed = claimed.promise.sealed_address
                address = self._fetching.seal.open(sealed, claimed.id.bytes).decode()
            except SettingsError:
                cause = _UNREADABLE
            else:
                submission = _SUBMISSION.validate_json(claimed.promise.submission)
                who = Principal(claimed.organization_id, claimed.client_id, frozenset())
                return _Order(claimed.id, self._bind(who), submission, _Address(address))
        with self._database.write(claimed.organization_id) as scope:
            downloads.fail(scope, claimed.id, self._holder, cause, at=now())
        return None

    def _hold(self) -> downloads.Hold:
        seconds = self._fetching.hold_seconds
        return downloads.Hold(self._holder, now() + timedelta(seconds=seconds))

    def _leave(self) -> None:
        with self._database.write(None) as scope:
            downloads.leave(scope, self._holder, at=now())


class _LostError(CallerError):
    """Another process has this download now; ours is void."""


def _fingerprint(destination: Destination, submission: Submission) -> bytes:
    """The same for requests that mean the same, however often their address was signed anew."""
    path = destination.target.partition(b"?")[0]
    parts = (destination.host.encode(), path, submission.metadata_sent.encode())
    lengths = b"".join(len(part).to_bytes(8, "big") for part in parts)
    return hashlib.sha256(lengths + b"".join(parts)).digest()


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
