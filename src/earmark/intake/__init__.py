"""The only way in: check what an upload says, stage its bytes, and commit to keeping it.

The promise is made by `commit` and by nothing else: once it returns, the bytes and the row that
claims their processing are durable. Until then an upload can vanish without a trace. A crash
leaves at most bytes that no row claims, which `interactions.sweep` removes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark import directory
from earmark.database import journal, submissions
from earmark.errors import Fault, RefusedError, TooLargeError, Why
from earmark.intake.stage import Limits, Stage, Stages
from earmark.model import LOCALES, now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor
    from datetime import datetime
    from uuid import UUID

    from earmark.database import Database, Scope
    from earmark.database.submissions import Holder
    from earmark.model import Principal, Submission, Warn
    from earmark.storage import Staged, Store

__all__ = ["Accepted", "Intake", "Limits", "OrganizationIntake", "Stage"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """An acknowledged upload.

    Attributes:
        sha256: 32 bytes, of the file.
    """

    id: UUID
    file_name: str
    size_bytes: int
    sha256: bytes
    received_at: datetime


class Intake:
    """Takes uploads for every organization; `for_` binds it to one."""

    def __init__(
        self, database: Database, store: Store, *, limits: Limits, pool: Executor
    ) -> None:
        """Keeps its collaborators; opens nothing.

        Args:
            database: where the promise is written.
            store: where the bytes go.
            limits: what is taken.
            pool: where everything that blocks runs. Its size bounds how many syncs and commits
                run at once, so that many uploads that end together do not starve other calls.
        """
        self._database = database
        self._stages = Stages(store, limits, pool)

    def for_(self, principal: Principal) -> OrganizationIntake:
        """The intake of the principal's organization."""
        return OrganizationIntake(self._database, self._stages, principal)


class OrganizationIntake:
    """Takes uploads for one organization."""

    def __init__(self, database: Database, stages: Stages, principal: Principal) -> None:
        self._database = database
        self._stages = stages
        self._principal = principal

    @property
    def max_upload_bytes(self) -> int:
        """The largest file taken."""
        return self._stages.limits.upload_bytes

    async def admit(self, size_bytes: int | None) -> None:
        """Judges an upload before its first byte is read.

        Args:
            size_bytes: what the caller announced, or None.

        Raises:
            TooLargeError: more than is taken.
            UnavailableError: storage or database cannot serve, or the reserve would be touched.
        """
        limit = self._stages.limits.upload_bytes
        if size_bytes is not None and size_bytes > limit:
            raise TooLargeError(limit)
        await self._stages.run(self._admit, size_bytes or 0)

    async def check(self, submission: Submission, stage: Stage | None = None) -> None:
        """Looks up what only the organization's own records can tell.

        Args:
            submission: whose own rules hold already.
            stage: its bytes; if all were read, a taken name is compared with them.

        Raises:
            RefusedError: the name is taken, or locale or hierarchy are unknown; all that apply.
            UnavailableError: the database cannot serve.
        """
        await self._stages.run(self._check, submission, stage.sha256 if stage else None)

    def stage(self, extension: str) -> Stage:
        """A place for the bytes of one upload whose file part's name ends in `extension`."""
        return Stage(self._stages, extension)

    async def commit(self, stage: Stage, submission: Submission) -> Accepted:
        """Makes the promise. Once begun it runs to its end, even if the caller stops waiting.

        Args:
            stage: finished; it is used up.
            submission: checked.

        Raises:
            RefusedError: as `check`, or the content is empty or plainly no media.
            UnavailableError: nothing was promised. If the database went away while it was
                committing, nobody can know: a retry then learns it by the name.
        """
        if stage.fault is not None:
            raise RefusedError([stage.fault])
        staged, sha256 = stage.hand_over()
        commit = self._stages.run(self._commit, stage, staged, sha256, submission)
        return await asyncio.shield(commit)

    def _admit(self, size_bytes: int) -> None:
        self._stages.check_reserve(size_bytes)
        with self._database.read(self._principal.organization_id):
            pass  # a database that cannot even begin cannot keep a promise

    def _check(self, submission: Submission, sha256: bytes | None) -> None:
        faults = []
        with self._database.read(self._principal.organization_id) as scope:
            holder = submissions.holder(scope, submission.file_name)
            if submission.locale not in LOCALES:
                faults.append(_locale_fault())
            try:
                _node(scope, submission)
            except RefusedError as error:
                faults.extend(error.faults)
        if holder is not None:
            raise _taken(holder, sha256, faults)
        if faults:
            raise RefusedError(faults)

    def _commit(
        self, stage: Stage, staged: Staged, sha256: bytes, submission: Submission
    ) -> Accepted:
        accepted = Accepted(stage.id, submission.file_name, stage.size_bytes, sha256, now())
        try:
            staged.publish()
        except BaseException:
            staged.discard()
            raise
        try:
            with self._database.write(self._principal.organization_id) as scope:
                self._promise(scope, accepted, stage.warnings, submission)
        except RefusedError:
            # Only here is it certain that no row claims the bytes. After any other failure the
            # commit may have happened all the same, so the bytes are left to the sweeper.
            staged.discard()
            raise
        return accepted

    def _promise(
        self,
        scope: Scope,
        accepted: Accepted,
        warnings: Sequence[Warn],
        submission: Submission,
    ) -> None:
        """The one transaction: the row that is the outbox, its audit row and its event."""
        node_id = _node(scope, submission)
        agent_id = directory.find_agent(scope, submission.agent.code)
        added = submissions.add(
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
            raise _taken(submissions.holder(scope, submission.file_name), accepted.sha256)
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
            actor=f"client:{self._principal.client_id}",
            action=action,
            subject=str(subject),
            detail=detail,
        )


def _node(scope: Scope, submission: Submission) -> UUID | None:
    """The hierarchy node that the submission names, if it names one.

    Raises:
        RefusedError: no active node of the organization has that id or code, or they differ.
    """
    id_, code = submission.hierarchy_id, submission.hierarchy_code
    if id_ is None and code is None:
        return None
    node_id = directory.resolve_node(scope, node_id=id_, code=code)
    if node_id is None:
        field = "hierarchy_id" if code is None else "hierarchy_code"
        detail = "No active hierarchy node of your organization has this id or code."
        raise RefusedError([Fault(Why.HIERARCHY, field, detail)])
    return node_id


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
