"""Reads every stored object again and holds it against its hash, at a rate that others can bear.

What is read is what the medium has: memory would answer for a disk that has forgotten. Where a
scrub stands is kept in a file, so that one that was broken off goes on there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from earmark.database import interactions as stored
from earmark.database import journal, upkeep
from earmark.errors import NotFoundError, UnavailableError
from earmark.interactions import media_key, transcript_key
from earmark.model import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from earmark.database import Database
    from earmark.database.upkeep import Kept
    from earmark.storage import Store

STATE_NAME = "scrub.json"

BATCH = 200
"""Interactions looked up at once."""

KEEP_SECONDS = 5.0
"""Between notes of where it stands: as much is read twice after a crash."""

MAX_FINDINGS = 10_000
"""That are remembered; more are counted, and all of them are in the audit trail and the log."""

MISSING = "missing"
UNREADABLE = "unreadable"

log = structlog.get_logger("earmark.scrub")


@dataclass(frozen=True, slots=True)
class Finding:
    """An object that is not as it was taken in.

    Attributes:
        interaction_id, organization_id: whose it is.
        key: under which the storage has it.
        expected: its SHA-256 in hex; "" where none is known.
        found: the SHA-256 of what is there, `MISSING`, or `UNREADABLE`.
    """

    interaction_id: str
    organization_id: str
    key: str
    expected: str
    found: str


@dataclass(slots=True)
class Progress:
    """Where a scrub stands.

    Attributes:
        began_at: ISO 8601.
        ended_at: the same; "" while it is under way.
        position: the id of the interaction that was looked at last; "" before the first.
        objects, size_bytes: what was read so far.
        damaged: how many findings there are; `findings` has the first `MAX_FINDINGS`.
        previous_ended_at: when the scrub before came to its end; "" if none did.
    """

    began_at: str
    ended_at: str = ""
    position: str = ""
    objects: int = 0
    size_bytes: int = 0
    damaged: int = 0
    findings: list[Finding] = field(default_factory=list)
    previous_ended_at: str = ""

    @property
    def last_ended_at(self) -> str:
        """When a scrub last came to its end; "" if none did."""
        return self.ended_at or self.previous_ended_at


class Scrubber:
    """Scrubs the storage of an installation."""

    def __init__(self, database: Database, store: Store, folder: Path) -> None:
        """Opens nothing.

        Args:
            database: which objects there are, and their hashes.
            store: where they are.
            folder: where a file says how far the scrub is.
        """
        self._database = database
        self._store = store
        self._path = folder / STATE_NAME

    def scrub(
        self,
        *,
        bytes_per_second: float,
        since: datetime | None = None,
        restart: bool = False,
        tell: Callable[[Progress, upkeep.Total], None] = lambda *_: None,
    ) -> Progress:
        """Reads on from where the last scrub was broken off, to the end.

        An interaction that is deleted meanwhile is no finding. Each finding is in the audit trail
        and in the log when this returns.

        Args:
            bytes_per_second: what it reads at most.
            since: look only at what was received then or later, from the beginning; where the
                scrub of everything stands is left alone.
            restart: begin anew.
            tell: told after each interaction how far it is, and of how much.

        Raises:
            UnavailableError: storage or database cannot serve; where it stands is kept.
        """
        progress = self._begin(since, restart=restart)
        pace = _Pace(bytes_per_second)
        after = UUID(progress.position) if progress.position else None
        with self._database.read(None) as scope:
            left = upkeep.total(scope, after=after, since=since)
        total = upkeep.Total(
            progress.objects + left.interactions, progress.size_bytes + left.size_bytes
        )
        kept_at = time.monotonic()
        try:
            for one in self._each(after, since):
                self._look(one, progress, pace)
                progress.position = str(one.id)
                tell(progress, total)
                if since is None and time.monotonic() - kept_at > KEEP_SECONDS:
                    self._keep(progress)
                    kept_at = time.monotonic()
            progress.ended_at = now().isoformat()
        finally:
            if since is None:
                self._keep(progress)
        return progress

    def _begin(self, since: datetime | None, *, restart: bool) -> Progress:
        last = None if since else progress_in(self._path.parent)
        if last is not None and not last.ended_at and not restart:
            return last
        return Progress(now().isoformat(), previous_ended_at=last.last_ended_at if last else "")

    def _each(self, after: UUID | None, since: datetime | None) -> Iterator[Kept]:
        while True:
            with self._database.read(None) as scope:
                found = upkeep.kept(scope, after=after, limit=BATCH, since=since)
            yield from found
            if len(found) < BATCH:
                return
            after = found[-1].id

    def _look(self, one: Kept, progress: Progress, pace: _Pace) -> None:
        findings = [self._media(one, progress, pace)]
        if one.has_transcript:
            findings.append(self._transcript(one, progress, pace))
        found = [finding for finding in findings if finding is not None]
        if found and self._is_kept(one):
            progress.damaged += len(found)
            progress.findings += found[: max(0, MAX_FINDINGS - len(progress.findings))]
            self._report(one, found)

    def _media(self, one: Kept, progress: Progress, pace: _Pace) -> Finding | None:
        key, expected = media_key(one.id), one.sha256.hex()
        found = self._digest(key, progress, pace)
        return None if found == expected else _finding(one, key, expected, found)

    def _transcript(self, one: Kept, progress: Progress, pace: _Pace) -> Finding | None:
        """Transcripts may be made anew, so no hash of them is kept; they must be there, whole."""
        key = transcript_key(one.id)
        found = self._digest(key, progress, pace)
        return _finding(one, key, "", found) if found in {MISSING, UNREADABLE} else None

    def _digest(self, key: str, progress: Progress, pace: _Pace) -> str:
        digest = hashlib.sha256()
        try:
            for chunk in self._store.reread(key):
                digest.update(chunk)
                progress.size_bytes += len(chunk)
                pace.spend(len(chunk))
        except NotFoundError:
            return MISSING
        except UnavailableError:
            self._store.check()  # or it is not this object alone
            return UNREADABLE
        progress.objects += 1
        return digest.hexdigest()

    def _is_kept(self, one: Kept) -> bool:
        """Whether the interaction is still there: its objects may go when it does."""
        with self._database.read(None) as scope:
            return bool(stored.existing(scope, [one.id]))

    def _report(self, one: Kept, findings: Sequence[Finding]) -> None:
        with self._database.write(one.organization_id) as scope:
            for finding in findings:
                journal.record(
                    scope,
                    actor="operator",
                    action="storage.damage",
                    subject=str(one.id),
                    detail={
                        "object": finding.key,
                        "expected": finding.expected,
                        "found": finding.found,
                    },
                )
        for finding in findings:
            log.error("object damaged", **asdict(finding))

    def _keep(self, progress: Progress) -> None:
        temporary = self._path.with_name(f"{STATE_NAME}.{os.getpid()}")
        temporary.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(progress)) + "\n", "utf-8")
        temporary.replace(self._path)


def progress_in(folder: Path) -> Progress | None:
    """Where the scrub with this folder stands or ended; None if there was none, or nobody knows.

    A file that is damaged counts as none: the scrub begins anew, and nothing is lost but time.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        told: dict[str, Any] = json.loads((folder / STATE_NAME).read_text("utf-8"))
        findings = [Finding(**each) for each in told.pop("findings")]
        return Progress(**told, findings=findings)
    return None


def _finding(one: Kept, key: str, expected: str, found: str) -> Finding:
    return Finding(str(one.id), str(one.organization_id), key, expected, found)


class _Pace:
    """Holds what is read to a rate. Time that was not used is not saved up."""

    BURST_SECONDS = 0.25

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._due = time.monotonic()

    def spend(self, count: int) -> None:
        """Waits until as many bytes more may have been read."""
        at = time.monotonic()
        self._due = max(self._due, at - self.BURST_SECONDS) + count / self._rate
        if self._due > at:
            time.sleep(self._due - at)
