"""The only way in: check what an upload says, stage its bytes, and commit to keeping it.

The promise is made by `commit` and by nothing else: once it returns, the bytes and the row that
claims their processing are durable. Until then an upload can vanish without a trace. A crash
leaves at most bytes that no row claims, which `upkeep.sweep` moves aside.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from earmark import directory
from earmark.database import Piece, journal, submissions
from earmark.errors import Fault, RefusedError, TooLargeError, Why
from earmark.intake.commits import Commit, Commits
from earmark.intake.downloads import Downloading, Downloads
from earmark.intake.keyed import Comparison, KeyedUpload, KeyedUploads
from earmark.intake.reservations import Reservation, Reservations
from earmark.intake.stage import Limits, Stage, Stages
from earmark.model import LOCALES, Accepted, Quota, now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from uuid import UUID

    from earmark.database import Database, Scope
    from earmark.database.submissions import Holder
    from earmark.model import Download, Principal, Submission, Warn
    from earmark.storage import Store

__all__ = [
    "Accepted",
    "Comparison",
    "Downloading",
    "Intake",
    "KeyedUpload",
    "Limits",
    "OrganizationIntake",
    "Reservation",
    "Stage",
]


class Intake:
    """Takes uploads for every organization; `for_` binds it to one."""

    def __init__(
        self,
        database: Database,
        store: Store,
        *,
        limits: Limits,
        pool: Executor,
        writers: Executor | None = None,
        quota: Callable[[UUID], Quota] = lambda _organization_id: Quota(),
        known_quota: Callable[[UUID], Quota | None] = lambda _organization_id: None,
        downloading: Downloading | None = None,
    ) -> None:
        """Keeps its collaborators; opens nothing.

        Args:
            database: where the promise is written.
            store: where the bytes go.
            limits: what is taken.
            pool: where what blocks runs. Its size bounds how many syncs and commits run at
                once, so that many uploads that end together do not starve other calls.
            writers: where bytes are hashed and written as they come, which takes processors more
                than it waits; None is the pool.
            quota: what an organization may use; it may block.
            known_quota: the same from memory, or None; it never blocks.
            downloading: how files are downloaded; None refuses that.
        """
        self._database = database
        self._stages = Stages(store, limits, pool, writers or pool)
        self._reservations = Reservations(database, pool, quota, known_quota)
        self._commits = Commits(database, self._stages)
        self._keyed = KeyedUploads(database, self._stages)
        self._downloads = Downloads(database, self._stages, downloading, self.for_)

    def for_(self, principal: Principal) -> OrganizationIntake:
        """The intake of the principal's organization."""
        return OrganizationIntake(
            self._database,
            self._stages,
            self._reservations,
            commits=self._commits,
            keyed=self._keyed,
            downloads=self._downloads,
            principal=principal,
        )

    @asynccontextmanager
    async def tended(self) -> AsyncIterator[None]:
        """While its block runs, leases last, and what other processes left is taken up.

        At its end this process leaves its downloads: what was promised to others, in order.
        """
        async with (
            self._reservations.tended(),
            self._keyed.tended(),
            self._downloads.tended(),
        ):
            yield


class OrganizationIntake:
    """Takes uploads for one organization."""

    def __init__(
        self,
        database: Database,
        stages: Stages,
        reservations: Reservations,
        *,
        commits: Commits,
        keyed: KeyedUploads,
        downloads: Downloads,
        principal: Principal,
    ) -> None:
        self.principal = principal
        self._database = database
        self._stages = stages
        self._reservations = reservations
        self._commits = commits
        self._keyed = keyed
        self._downloads = downloads

    @property
    def max_upload_bytes(self) -> int:
        """The largest file taken."""
        return self._stages.limits.upload_bytes

    async def admit(self, least_bytes: int | None, most_bytes: int | None = None) -> Reservation:
        """Judges an upload before its first byte is read.

        Args:
            least_bytes: as many will come, as far as the caller announced it; or None.
            most_bytes: no more will, likewise.

        Returns:
            the part of the organization's quota that the upload takes until it ends: an
            asynchronous context manager, to be entered at once.

        Raises:
            TooLargeError: more than is taken.
            TooManyUploadsError: the organization has too many uploads on their way.
            StorageQuotaError: it has no room for as many bytes.
            UnavailableError: storage or database cannot serve, or the reserve would be touched.
        """
        limit = self._stages.limits.upload_bytes
        if least_bytes is not None and least_bytes > limit:
            raise TooLargeError(limit)
        self._reservations.repeat_refusal(self.principal.organization_id, least_bytes or 1)
        reservation = self._reservations.of(self.principal.organization_id)
        can_serve = self._database.served_lately() and self._stages.has_room(least_bytes or 0)
        if can_serve and reservation.begin_unlimited():
            return reservation  # all of it is known, so no thread has to be asked
        admitting = self._stages.submit(self._admit, reservation, least_bytes or 0, most_bytes)
        try:
            await asyncio.wrap_future(admitting)
        except asyncio.CancelledError:
            admitting.add_done_callback(lambda _: reservation.end())
            raise
        return reservation

    async def check(self, submission: Submission, stage: Stage | None = None) -> None:
        """Looks up what only the organization's own records can tell.

        Args:
            submission: whose own rules hold already.
            stage: its bytes; if all were read, or the caller told their digest, a taken name is
                compared with them.

        Raises:
            RefusedError: the name is taken, or locale or hierarchy are unknown; all that apply.
            UnavailableError: the database cannot serve.
        """
        await self._stages.run(self._check, submission, stage)

    def keyed(self, key: str) -> KeyedUpload:
        """One upload with an idempotency key of the client, which has yet to begin."""
        return KeyedUpload(self._keyed, self.principal, key)

    def stage(
        self,
        extension: str,
        reservation: Reservation | None = None,
        claimed: bytes | None = None,
    ) -> Stage:
        """A place for the bytes of one upload.

        Args:
            extension: in which the name of its file part ends.
            reservation: what they take of the quota; None is for what no quota holds.
            claimed: the SHA-256 that they have as the caller says, 32 bytes.
        """
        return Stage(self._stages, extension, reservation, claimed)

    async def commit(
        self,
        stage: Stage,
        submission: Submission,
        *,
        also: Callable[[Scope], None] = lambda _scope: None,
    ) -> Accepted:
        """Makes the promise. Once begun it runs to its end, even if the caller stops waiting.

        Args:
            stage: finished; it is used up.
            submission: whose own rules hold already.
            also: what the same transaction does at its end; a CallerError of it undoes all.

        Raises:
            RefusedError: as `check`, or the content is empty, plainly no media, or not what the
                caller's digest says.
            UnavailableError: nothing was promised. If the database went away while it was
                committing, nobody can know: a retry then learns it by the name.
        """
        if stage.fault is not None:
            await self.check(submission, stage)  # what it says comes before what it holds
            raise RefusedError([stage.fault])
        committing = self._commits.keep(self._commit(stage, submission, also))
        committing.add_done_callback(lambda _: stage.let_go())
        return await asyncio.shield(committing)

    async def download(
        self,
        submission: Submission,
        address: str,
        *,
        promise: bool = False,
        patience_seconds: float | None = None,
        keyed: KeyedUpload | None = None,
    ) -> Accepted | Download:
        """Has the file downloaded and taken in; goes on when the caller stops waiting.

        One download of a name runs at a time. A second request for the same joins it; one with
        other content waits for its end, and then stands like any upload.

        Args:
            submission: whose own rules hold already.
            address: signed; a credential.
            promise: once this returns, the download ends in one of the two ways, whatever
                crashes; until then the address is kept, sealed.
            patience_seconds: how long to wait for the end; None means until it comes.
            keyed: begun, if the upload has an idempotency key.

        Returns:
            Accepted, as `commit`; or the download, if patience ended first.

        Raises:
            RefusedError: as `check` and `commit`, or the address is refused, or it failed.
            KeyReusedError: the key was used for another upload.
            DeletedError: what became of the key was deleted at this moment.
            UnavailableError: nothing was promised.
        """
        if keyed is not None:
            keyed.demand_same(submission, address=address)
            if keyed.accepted is not None:
                return keyed.accepted
        if keyed is None or keyed.is_first:
            await self.check(submission)
        return await self._downloads.take_in(
            self,
            submission,
            address,
            promise=promise,
            patience_seconds=patience_seconds,
            keyed=keyed,
        )

    async def find_download(self, download_id: UUID) -> Download:
        """How a download of the organization stands; remembered for a week after its end.

        Raises:
            NotFoundError: there is none, or what it became was deleted.
            UnavailableError: the database cannot serve.
        """
        return await self._downloads.find(self, download_id)

    def _admit(self, reservation: Reservation, least_bytes: int, most_bytes: int | None) -> None:
        self._stages.check_reserve(least_bytes)
        with self._database.read(self.principal.organization_id):
            pass  # a database that cannot even begin cannot keep a promise
        reservation.begin(least_bytes, most_bytes)

    def _check(self, submission: Submission, stage: Stage | None) -> None:
        with self._database.read(self.principal.organization_id) as scope:
            holder = submissions.holder(scope, submission.file_name)
            _node_id, faults = _looked_up(scope, submission)
        if holder is not None:
            raise _taken(holder, stage.sha256() if stage else None, faults)
        if faults:
            raise RefusedError(faults)

    def _commit(
        self, stage: Stage, submission: Submission, also: Callable[[Scope], None]
    ) -> Commit:
        content = stage.hand_over()

        def check() -> None:
            mismatch = stage.mismatch(content.sha256())
            if mismatch is not None:
                self._check(submission, stage)  # what it says comes before what it holds
                raise RefusedError([mismatch])

        def rows(scope: Scope) -> Accepted:
            size, sha256 = stage.size_bytes, content.sha256()
            accepted = Accepted(stage.id, submission.file_name, size, sha256, now())
            self._promise(scope, accepted, stage.warnings, submission)
            also(scope)
            return accepted

        return Commit(content, check, Piece(self.principal.organization_id, rows))

    def _promise(
        self,
        scope: Scope,
        accepted: Accepted,
        warnings: Sequence[Warn],
        submission: Submission,
    ) -> None:
        """The one transaction: the row that is the outbox, its audit row and its event."""
        node_id, faults = _looked_up(scope, submission)
        agent_id = directory.find_agent(scope, submission.agent.code)
        added = not faults and submissions.add(
            scope,
            submission,
            id_=accepted.id,
            received_at=accepted.received_at,
            size_bytes=accepted.size_bytes,
            sha256=accepted.sha256,
            agent_id=agent_id,
            node_id=node_id,
            warnings=warnings,
        )
        if not added:
            holder = submissions.holder(scope, submission.file_name)
            if faults and holder is None:
                raise RefusedError(faults)
            raise _taken(holder, accepted.sha256, faults)
        facts = {"size_bytes": accepted.size_bytes, "sha256": accepted.sha256.hex()}
        self._record(scope, "interaction.receive", accepted.id, facts)
        journal.announce(
            scope, kind="interaction.received", interaction_id=accepted.id, detail=facts
        )
        if not (agent_id and node_id and submission.apply_hierarchy_to_agent):
            return
        if directory.apply_node_to_agent(scope, agent_id, node_id):
            self._record(scope, "agent.assign", agent_id, {"node_id": str(node_id)})

    def _record(
        self, scope: Scope, action: str, subject: UUID, detail: Mapping[str, object]
    ) -> None:
        journal.record(
            scope,
            actor=f"client:{self.principal.client_id}",
            action=action,
            subject=str(subject),
            detail=detail,
        )


def _looked_up(scope: Scope, submission: Submission) -> tuple[UUID | None, list[Fault]]:
    """The hierarchy node that the submission names, if it names one, and what does not exist."""
    faults = [] if submission.locale in LOCALES else [_locale_fault()]
    id_, code = submission.hierarchy_id, submission.hierarchy_code
    node_id = directory.resolve_node(scope, node_id=id_, code=code)
    if node_id is None and (id_ is not None or code is not None):
        field = "hierarchy_id" if code is None else "hierarchy_code"
        detail = "No active hierarchy node of your organization has this id or code."
        faults.append(Fault(Why.HIERARCHY, field, detail))
    return node_id, faults


def _locale_fault() -> Fault:
    return Fault(Why.LOCALE, "locale", "Send one of the supported locales, or none.")


def _taken(
    holder: Holder | None, sha256: bytes | None, others: Sequence[Fault] = ()
) -> RefusedError:
    """The refusal of a taken name, telling how the bytes compare where both are known."""
    duplicate = "unknown"
    if holder is not None and sha256 is not None:
        duplicate = "identical" if holder.sha256 == sha256 else "different"
    fault = Fault(Why.NAME_TAKEN, "file_name", "Choose another name, or delete the other one.")
    return RefusedError(
        [fault, *others], existing_id=holder.id if holder else None, duplicate=duplicate
    )
