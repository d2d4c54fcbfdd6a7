"""Who did what: read, sealed into a chain, and verified.

Each seal is a keyed hash over its row and the seal before, so that without the operator's secret
key nobody can make a changed row fit. The head says where the chain ends; copies of it outside
the database (a file beside each worker, and what `earmark audit head` prints) show a cut end even
to those who fear for the database itself.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

import structlog
from typing_extensions import override

from earmark.database import trail
from earmark.database.trail import AuditRow
from earmark.errors import Invalid, InvalidError, ServiceError
from earmark.model import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Database, Scope
    from earmark.database.trail import Head, Seal, Unsealed

BATCH = 1000
"""Rows of one transaction."""

SETTLED_SECONDS = 120.0
"""A row that is committed this long after its number was drawn is still found by the next look.
Transactions take seconds at most. One that took longer is never overlooked by `verify`."""

LATE_SECONDS = 60.0
"""Rows that wait this long for their seal are a finding: no worker runs, or somebody meddled."""

ANCHOR_NAME = "audit-head.json"

MAX_FAULTS = 100
"""Findings that are told one by one."""

__all__ = ["Anchor", "Audit", "AuditRow", "BrokenTrailError", "Report", "canonical"]

log = structlog.get_logger("earmark.audit")


class BrokenTrailError(ServiceError):
    """The audit trail is not as it was sealed; nothing more is until somebody has looked."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A head as somebody kept it outside the database.

    Attributes:
        number: of the last seal.
        hash: its hash, 32 bytes.
    """

    number: int
    hash: bytes

    @override
    def __str__(self) -> str:
        """As people keep it: number and hash."""
        return f"{self.number}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """Reads what `str` wrote.

        Raises:
            InvalidError: it is another text.
        """
        number, _, digest = text.strip().partition(":")
        if not re.fullmatch(r"[1-9][0-9]{0,17}", number, re.ASCII) or not re.fullmatch(
            r"[0-9a-f]{64}", digest
        ):
            mend = "Give what `earmark audit head` printed, like 1207:5f3a and so on."
            raise InvalidError(Invalid("head", mend))
        return cls(int(number), bytes.fromhex(digest))


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found.

    Attributes:
        faults: what is not as it was sealed, each in a sentence; at most `MAX_FAULTS`.
        head: the end of the chain; None if nothing is sealed.
        unsealed: what no seal covers yet, and so nobody can vouch for.
        late: whether some of that has waited longer than a living worker lets it.
    """

    faults: Sequence[str]
    head: Anchor | None
    unsealed: Unsealed
    late: bool


class Audit:
    """The audit trail of all organizations. Safe among threads and processes."""

    def __init__(
        self,
        database: Database,
        *,
        key: bytes,
        folder: Path | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        """Opens nothing yet.

        Args:
            database: where the trail is.
            key: 32 bytes that only the service and its operator know.
            folder: where a copy of the head is kept and held against the database; None for none.
            clock: the present instant.
        """
        self._database = database
        self._key = key
        self._anchor_path = None if folder is None else folder / ANCHOR_NAME
        self._clock = clock

    def rows(
        self,
        organization_id: UUID | None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        subject: str | None = None,
    ) -> Iterator[AuditRow]:
        """The acts in an organization, or all acts for None, in the order of their numbers."""
        after = 0
        while True:
            with self._database.read(organization_id) as scope:
                found = trail.rows(
                    scope, since=since, until=until, subject=subject, after=after, limit=BATCH
                )
            yield from found
            if len(found) < BATCH:
                return
            after = found[-1].sequence

    def organization_names(self) -> dict[UUID, str]:
        """The name of each organization."""
        with self._database.read(None) as scope:
            return trail.organization_names(scope)

    def seal(self) -> int:
        """Seals every row that waits for it; says how many. Workers call it each second.

        Raises:
            BrokenTrailError: the end of the chain is not as it was left.
            UnavailableError: the database cannot serve.
        """
        sealed = 0
        while count := self._seal_batch():
            sealed += count
            if count < BATCH:
                break
        return sealed

    def head(self) -> Anchor | None:
        """The end of the chain, for the operator to keep; None if nothing is sealed.

        Raises:
            BrokenTrailError: it was not written with the key.
        """
        with self._database.read(None) as scope:
            found = trail.head(scope)
        if found is None:
            return None
        self._check_mac(found)
        return Anchor(found.number, found.hash)

    def verify(self, anchor: Anchor | None = None) -> Report:
        """Looks at every row and seal.

        Args:
            anchor: a head that was kept elsewhere; the chain must have gone on from there.
        """
        faults: list[str] = []
        with self._database.read(None) as scope:
            found = trail.head(scope)
        if found is not None and not self._is_genuine(found):
            faults.append("The head was not written with this secret key.")
        self._walk(found, faults)
        with self._database.read(None) as scope:
            faults += _end_faults(scope)
            for kept in (anchor, self._kept_anchor()):
                faults += _anchor_faults(scope, kept)
            unsealed = trail.count_unsealed(scope)
        head = None if found is None else Anchor(found.number, found.hash)
        return Report(faults[:MAX_FAULTS], head, unsealed, self._is_late(unsealed))

    def _is_late(self, unsealed: Unsealed) -> bool:
        oldest = unsealed.oldest_at
        return oldest is not None and self._clock() - oldest > timedelta(seconds=LATE_SECONDS)

    def _seal_batch(self) -> int:
        with self._database.read(None) as scope:
            known = trail.head(scope)
            if not trail.unsealed(scope, after=known.settled if known else 0, limit=1):
                return 0
        with self._database.write(None) as scope:
            trail.serialise_sealing(scope)
            before = trail.head(scope)
            self._check_end(scope, before)
            rows = trail.unsealed(scope, after=before.settled if before else 0, limit=BATCH)
            if not rows:
                return 0  # another worker was first
            seals = self._link(before, rows)
            trail.add_seals(scope, seals)
            after = self._head(scope, before, seals[-1], rows[-1].sequence)
            trail.put_head(scope, after)
        self._keep_anchor(Anchor(after.number, after.hash))
        return len(rows)

    def _link(self, before: Head | None, rows: Sequence[AuditRow]) -> list[Seal]:
        number, last = (0, b"") if before is None else (before.number, before.hash)
        made: list[Seal] = []
        for number_, row in enumerate(rows, start=number + 1):
            last = self._hash(number_, last, row)
            made.append(trail.Seal(number_, row.sequence, last))
        return made

    def _head(self, scope: Scope, before: Head | None, last: Seal, up_to: int) -> Head:
        moment = self._clock()
        settled = trail.settled_before(
            scope,
            after=0 if before is None else before.settled,
            up_to=up_to,
            moment=moment - timedelta(seconds=SETTLED_SECONDS),
        )
        made = trail.Head(last.number, last.hash, settled, moment, b"")
        return trail.Head(last.number, last.hash, settled, moment, self._mac(made))

    def _check_end(self, scope: Scope, before: Head | None) -> None:
        """Refuses to go on from an end that is not as it was left, or it would be made good."""
        faults = list(_end_faults(scope))
        if before is not None:
            self._check_mac(before)
            last = trail.seal_at(scope, before.number)
            if last is None or last.hash != before.hash:
                faults.append(f"Seal {before.number} is not the one that the head tells of.")
        faults += _anchor_faults(scope, self._kept_anchor())
        if faults:
            raise BrokenTrailError(f"{faults[0]} Run `earmark audit verify`.")

    def _walk(self, head: Head | None, faults: list[str]) -> None:
        number, last = 0, b""
        up_to = 0 if head is None else head.number
        while number < up_to:
            with self._database.read(None) as scope:
                found = trail.seals(scope, after=number, limit=BATCH)
            if not found:
                return  # the end is told of elsewhere
            for seal in found:
                if seal.number > up_to:
                    return
                faults += self._seal_faults(seal, number + 1, last)
                number, last = seal.number, seal.hash
        if head is not None and last != head.hash:
            faults.append(f"Seal {number} is not the one that the head tells of.")

    def _seal_faults(self, seal: Seal, expected: int, before: bytes) -> Iterator[str]:
        if seal.number != expected:
            yield f"Seals {expected} to {seal.number - 1} are missing."
        if seal.row is None:
            yield f"Row {seal.sequence}, sealed as {seal.number}, is missing."
        elif seal.number == expected and self._hash(seal.number, before, seal.row) != seal.hash:
            yield f"Row {seal.sequence}, sealed as {seal.number}, or its seal was changed."

    def _hash(self, number: int, before: bytes, row: AuditRow) -> bytes:
        return self._keyed(b"row", number.to_bytes(8, "big"), before, canonical(row))

    def _mac(self, head: Head) -> bytes:
        told = [head.number, head.settled, _instant(head.sealed_at)]
        return self._keyed(b"head", json.dumps(told).encode(), head.hash)

    def _is_genuine(self, head: Head) -> bool:
        return hmac.compare_digest(self._mac(head), head.mac)

    def _check_mac(self, head: Head) -> None:
        if not self._is_genuine(head):
            raise BrokenTrailError("The head of the audit trail was not written with this key.")

    def _keyed(self, *parts: bytes) -> bytes:
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._key, framed, "sha256")

    def _kept_anchor(self) -> Anchor | None:
        if self._anchor_path is None:
            return None
        try:
            return Anchor.parse(str(json.loads(self._anchor_path.read_text("utf-8"))["head"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, InvalidError) as error:
            raise BrokenTrailError(
                f"{self._anchor_path} cannot be read; look into it, and remove it if need be."
            ) from error

    def _keep_anchor(self, anchor: Anchor) -> None:
        if self._anchor_path is None:
            return
        # Of a name of its own: several workers may share the folder.
        temporary = self._anchor_path.with_name(f"{ANCHOR_NAME}.{os.getpid()}")
        try:
            temporary.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"head": str(anchor)}) + "\n", "utf-8")
            temporary.replace(self._anchor_path)
        except OSError as error:
            # The row is sealed all the same; the next one tries again.
            log.warning("audit head not kept", path=str(self._anchor_path), error=str(error))
            with contextlib.suppress(OSError):
                temporary.unlink()


def canonical(row: AuditRow) -> bytes:
    """A row as it is hashed: one form, whatever database it comes from."""
    organization = None if row.organization_id is None else str(row.organization_id)
    told = [
        row.sequence,
        organization,
        _instant(row.at),
        row.actor,
        row.action,
        row.subject,
        row.request_id,
        row.address,
        dict(row.detail),
    ]
    return json.dumps(told, sort_keys=True, separators=(",", ":")).encode()


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _end_faults(scope: Scope) -> Iterator[str]:
    last, told = trail.ends(scope)
    if last < told:
        yield f"The end is missing: the head tells of seal {told}, the last one is {last}."
    elif last > told:
        yield f"The head is gone or old: it tells of seal {told}, the last one is {last}."


def _anchor_faults(scope: Scope, anchor: Anchor | None) -> Iterator[str]:
    if anchor is None:
        return
    seal = trail.seal_at(scope, anchor.number)
    if seal is None:
        yield f"The end is missing: the kept head tells of seal {anchor.number}."
    elif seal.hash != anchor.hash:
        yield f"Seal {anchor.number} is not the one that the kept head tells of."
