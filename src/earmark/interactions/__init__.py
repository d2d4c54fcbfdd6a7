"""What was taken in: found, read, played, deleted, processed again.

Knows database and storage; neither how interactions came in nor what processes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from earmark.database import arrivals, clients, corrections, journal, submissions
from earmark.database import interactions as stored
from earmark.database import search as searched
from earmark.errors import (
    CallerError,
    ConflictError,
    ForbiddenError,
    Invalid,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from earmark.interactions._checks import (
    MAX_LIMIT,
    arrival_faults,
    correction_faults,
    query_faults,
)
from earmark.interactions._cursors import cursor_of, position_of
from earmark.interactions._keys import (
    media_key,
    owner_of,
    sha512_key,
    transcript_key,
    waveform_key,
)
from earmark.model import (
    MAX_EXTENDED_BYTES,
    Grant,
    MediaType,
    Principal,
    Status,
    StepStatus,
    storable,
)
from earmark.model.search import matches, parse_search
from earmark.render.json import parse
from earmark.render.vcon import Conversation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from uuid import UUID

    from earmark.database import Database, Scope
    from earmark.database.interactions import Position
    from earmark.model import Accepted, ArrivalQuery, Correction, Event, Interaction, Query
    from earmark.model.search import Match, Search
    from earmark.model.transcript import Transcript
    from earmark.storage import Reading, Store

__all__ = [
    "DEFAULT_LIMIT",
    "MAX_LIMIT",
    "Interactions",
    "Media",
    "OrganizationInteractions",
    "Page",
    "Retried",
    "media_key",
    "owner_of",
    "sha512_key",
    "transcript_key",
    "waveform_key",
]

T = TypeVar("T")

TROUBLED = frozenset({StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.WAITING})
"""Where a step stands that a retry runs again."""

DEFAULT_LIMIT = 50
PAGE_CHARACTERS = 8 * 1024 * 1024
"""A page ends early once its metadata holds as many: a thousand of 256 KiB would fill memory."""

LOAD_BATCH = 50
"""Interactions loaded at once, so that a page overshoots `PAGE_CHARACTERS` by a batch at most."""

RETRY_BATCH = 50
"""Interactions put back in one transaction: on SQLite, uploads wait for it."""


@dataclass(frozen=True, slots=True)
class Page:
    """Interactions in reading order.

    Attributes:
        items: may be fewer than the limit, even where more follow.
        next_cursor: for `find` to go on; None after the last one.
        matches: where the words that were searched for stand; empty if none were.
    """

    items: tuple[Interaction, ...]
    next_cursor: str | None
    matches: Mapping[UUID, tuple[Match, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of the interactions that a bulk retry looked at.

    Attributes:
        retried: how many are processed once more.
        left: how many were left as they are, by the code that a retry of one raises; "not_found"
            for NotFoundError.
        next_cursor: to go on with; None after the last one.
    """

    retried: int
    left: Mapping[str, int]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """An interaction's media as it was uploaded.

    Attributes:
        sha256: 32 bytes.
    """

    interaction_id: UUID
    file_name: str
    size_bytes: int
    sha256: bytes
    _bound: OrganizationInteractions = field(repr=False)

    def read(self, start: int = 0, stop: int | None = None) -> Reading:
        """The bytes from `start` up to `stop` (the end, if None), in chunks.

        They are open when this returns: deleting the interaction does not end the reading.

        Raises:
            NotFoundError: the interaction was deleted meanwhile.
            UnavailableError: the storage cannot serve them, now or when a next chunk is asked; or
                the reading cannot be written down.
        """
        return self._bound.open_media(self.interaction_id, start, stop)

    def sha512(self) -> bytes:
        """Its SHA-512, 64 bytes: computed when it is first asked for, about 2 s for each GB.

        An upload computes SHA-256 alone, which processors do in hardware; this one would slow
        down every upload for the few that are taken away as vCon.

        Raises:
            NotFoundError: the interaction was deleted meanwhile.
            UnavailableError: the storage cannot serve the bytes.
        """
        return self._bound.media_sha512(self.interaction_id)


class Interactions:
    """The interactions of every organization; `for_` binds it to one."""

    def __init__(self, database: Database, store: Store) -> None:
        """Keeps its collaborators; opens nothing."""
        self.database = database
        self.store = store
        self.reads = journal.Reads(database)

    def for_(self, principal: Principal) -> OrganizationInteractions:
        """The interactions of the principal's organization."""
        return OrganizationInteractions(self, principal)

    def for_operator(self, organization_id: UUID) -> OrganizationInteractions:
        """The interactions of an organization, for whoever runs the service."""
        principal = Principal(organization_id, "", frozenset(Grant))
        return OrganizationInteractions(self, principal, actor="operator")


class OrganizationInteractions:
    """The interactions of one organization, as far as the principal's grants reach.

    Every method raises ForbiddenError where the grant is missing, and UnavailableError where
    storage or database cannot serve.
    """

    def __init__(
        self, interactions: Interactions, principal: Principal, *, actor: str = ""
    ) -> None:
        self._database = interactions.database
        self._store = interactions.store
        self._reads = interactions.reads
        self._principal = principal
        self._organization_id = principal.organization_id
        self._actor = actor or f"client:{principal.client_id}"

    def find(self, query: Query, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page:
        """A page of the interactions that the query finds, newest first.

        Args:
            query: what to find.
            limit: the most that the page may hold, 1 to `MAX_LIMIT`.
            cursor: a page's `next_cursor`, to go on after it. Pages of one query have neither
                gaps nor doubles, whatever is added or deleted meanwhile.

        Raises:
            InvalidError: a value of the query, the limit or the cursor is wrong; all of them.
        """
        self._demand(Grant.READ)
        after, search = self._checked(query, limit, cursor)
        with self._database.read(self._organization_id) as scope:
            if search is not None and query.stem:
                search = searched.with_stems(scope, search)
            found, reached = _found(scope, query, search, after, limit + 1)
            items, taken = _load(scope, found[:limit])
            shown = {} if search is None else _shown(scope, items, search)
        if any(shown.values()):
            said_in = [str(id_) for id_, lines in shown.items() if lines]
            self._tell_read(self._organization_id, "interaction.search", shown=said_in)
        last = found[taken - 1] if taken < len(found) else reached
        return Page(tuple(items), cursor_of(last) if last else None, shown)

    def get(self, interaction_id: UUID) -> Interaction:
        """One interaction, its steps with it.

        Raises:
            NotFoundError: the organization has none of this id.
        """
        self._demand(Grant.READ)
        with self._database.read(self._organization_id) as scope:
            interaction = stored.load(scope, [interaction_id]).get(interaction_id)
        if interaction is None:
            raise NotFoundError(str(interaction_id))
        return interaction

    def receipt(self, interaction_id: UUID) -> Accepted:
        """What its upload was answered, for a receipt to be made of it.

        Raises:
            NotFoundError: the organization has none of this id, or not any more.
            UnavailableError: the database cannot serve, or the reading cannot be written down.
        """
        self._demand(Grant.READ)
        with self._database.read(self._organization_id) as scope:
            accepted = submissions.accepted(scope, interaction_id)
        if accepted is None:
            raise NotFoundError(str(interaction_id))
        self._tell_read(interaction_id, "interaction.read_receipt")
        return accepted

    def list_arrivals(
        self, query: ArrivalQuery, *, after: UUID | None = None, limit: int = DEFAULT_LIMIT
    ) -> Iterator[Interaction]:
        """Interactions in the order of their arrival, oldest first; read in small batches.

        Whoever goes on after the last one that it got, deleted since or not, misses none: one
        whose upload was acknowledged late has its place after those that could be seen before it.

        Args:
            query: what to list. Its instants are those of the places: one that was seen late
                counts as arrived no earlier than those before it.
            after: the interaction to go on after; None to begin with the first.
            limit: the most to list, 1 to `MAX_LIMIT`. There are fewer only where no more follow.

        Raises:
            InvalidError: a value of the query, `after` or the limit is wrong; all of them.
        """
        self._demand(Grant.READ)
        faults = list(arrival_faults(query, limit))
        number = self._number_of(after) if after else 0
        if number is None:
            faults.append(Invalid("after", "Send the id of an interaction that you were given."))
        if faults or number is None:
            raise InvalidError(*faults)
        return self._loaded(self._arrived(query, number, limit))

    def _number_of(self, interaction_id: UUID) -> int | None:
        def look(scope: Scope) -> int | None:
            number = arrivals.number_of(scope, interaction_id)
            return number or arrivals.number_of_deleted(scope, interaction_id)

        return self._once_seen(look, lambda number: number is not None)

    def _arrived(self, query: ArrivalQuery, number: int, limit: int) -> Sequence[UUID]:
        return self._once_seen(
            lambda scope: arrivals.find(scope, query, after=number, limit=limit),
            lambda found: len(found) == limit,
        )

    def _once_seen(self, look: Callable[[Scope], T], enough: Callable[[T], bool]) -> T:
        """What is found; new arrivals get their places until it is enough, or none is left."""
        with self._database.read(self._organization_id) as scope:
            found, left = look(scope), journal.has_new_events(scope)
        while left and not enough(found):
            with self._database.write(self._organization_id) as scope:
                left = journal.number_events(scope)
                found = look(scope)
        return found

    def _loaded(self, ids: Sequence[UUID]) -> Iterator[Interaction]:
        for start in range(0, len(ids), LOAD_BATCH):
            batch = ids[start : start + LOAD_BATCH]
            with self._database.read(self._organization_id) as scope:
                loaded = stored.load(scope, batch)
            yield from (loaded[one] for one in batch if one in loaded)

    def media(self, interaction_id: UUID) -> Media:
        """The media of an interaction, to be read in ranges.

        Raises:
            NotFoundError: the organization has none of this id.
        """
        interaction = self.get(interaction_id)
        return Media(
            interaction_id=interaction.id,
            file_name=interaction.file_name,
            size_bytes=interaction.size_bytes,
            sha256=interaction.sha256,
            _bound=self,
        )

    def open_media(self, interaction_id: UUID, start: int, stop: int | None) -> Reading:
        """See Media.read."""
        self._tell_read(interaction_id, "interaction.read_media")
        return self._opened(interaction_id, start, stop)

    def _opened(self, interaction_id: UUID, start: int, stop: int | None) -> Reading:
        try:
            return self._store.read(media_key(interaction_id), start, stop)
        except NotFoundError as error:
            self.get(interaction_id)  # deleted meanwhile, most likely
            raise UnavailableError("the stored media is missing") from error

    def media_sha512(self, interaction_id: UUID) -> bytes:
        """See Media.sha512."""
        key = sha512_key(interaction_id)
        with contextlib.suppress(NotFoundError):
            return b"".join(self._store.read(key))
        digest = hashlib.sha512()
        for chunk in self._opened(interaction_id, 0, None):  # nobody is shown it
            digest.update(chunk)
        with contextlib.suppress(UnavailableError):  # a full disk: computed once more next time
            self._store.put(key, digest.digest())
        return digest.digest()

    def waveform(self, interaction_id: UUID) -> bytes:
        """The peaks of a recording: JSON of BBC audiowaveform, version 2.

        Raises:
            NotFoundError: no such interaction, or it has none: it is a chat, or its processing
                failed before there was one.
            ConflictError: `processing`: it may have one later.
        """
        interaction = self.get(interaction_id)
        if interaction.media_type is MediaType.AUDIO and interaction.status in stored.UNFINISHED:
            raise ConflictError("processing", "The interaction is still processed; ask later.")
        return b"".join(self._store.read(waveform_key(interaction_id)))

    def transcript(self, interaction_id: UUID) -> Transcript:
        """What was said or written.

        Raises:
            NotFoundError: no such interaction, or it has none: its processing failed or was
                skipped before there was one.
            ConflictError: `processing`: it may have one later.
        """
        transcript = self._transcript(self.get(interaction_id))
        if transcript is None:
            raise NotFoundError(f"{interaction_id} has no transcript")
        self._tell_read(interaction_id, "interaction.read_transcript")
        return transcript

    def conversation(self, interaction_id: UUID) -> Conversation:
        """All that is known of an interaction, to be taken away; without its media.

        Its transcript is with it, if it has one: not if its processing failed or was skipped.

        Raises:
            NotFoundError: the organization has none of this id.
            ConflictError: `processing`: it may have a transcript later.
        """
        interaction = self.get(interaction_id)
        with self._database.read(self._organization_id) as scope:
            organization = clients.own_organization(scope)
        transcript = self._transcript(interaction)
        self._tell_read(interaction_id, "interaction.export")
        return Conversation(interaction, organization, transcript)

    def delete(self, interaction_id: UUID) -> None:
        """Removes an interaction with all that belongs to it; its file name is free again.

        Raises:
            NotFoundError: the organization has none of this id.
        """
        self._demand(Grant.DELETE)
        with self._database.write(self._organization_id) as scope:
            journal.lock_arrivals(scope)
            number = arrivals.number_of(scope, interaction_id)
            if not stored.delete(scope, interaction_id):
                raise NotFoundError(str(interaction_id))
            place = {} if number is None else {"arrival": number}
            self._tell(scope, interaction_id, "delete", "deleted", **place)
        # The row is gone, so nobody reads them any more; what fails here is left to the sweeper.
        for key_of in (media_key, waveform_key, transcript_key, sha512_key):
            with contextlib.suppress(UnavailableError):
                self._store.delete(key_of(interaction_id))

    def retry(self, interaction_id: UUID) -> None:
        """Has an interaction processed once more, from the steps that are not done.

        What waits for its next attempt need not wait longer, and its attempts are counted anew.

        Raises:
            NotFoundError: the organization has none of this id.
            ConflictError: `processing`: it is under way; `nothing_to_retry`: it is ready and no
                step failed or was skipped.
        """
        self._demand(Grant.MANAGE)
        with self._database.write(self._organization_id) as scope:
            obstacle = _obstacle(scope, interaction_id)
            if obstacle is not None:
                raise obstacle
            self._put_back(scope, interaction_id)

    def retry_found(
        self,
        query: Query,
        *,
        limit: int = MAX_LIMIT,
        cursor: str | None = None,
        dry_run: bool = False,
    ) -> Retried:
        """Has those retried that the query finds and of which a step is not well, newest first.

        Doing it again does no harm: what was put back is under way then. If it is broken off,
        what was put back until then stays so.

        Args:
            query: as for `find`; of step statuses, those that it names, else all that `TROUBLED`.
            limit: the most to look at, 1 to `MAX_LIMIT`.
            cursor: of the call before, to go on after it.
            dry_run: only tell what would be done.

        Raises:
            InvalidError: a value of the query, the limit or the cursor is wrong; all of them.
        """
        self._demand(Grant.MANAGE)
        after, search = self._checked(query, limit, cursor)
        wanted = replace(query, step_statuses=query.step_statuses or TROUBLED)
        with self._database.read(self._organization_id) as scope:
            if search is not None and query.stem:
                search = searched.with_stems(scope, search)
            found, reached = _found(scope, wanted, search, after, limit + 1)
        chosen = [position.id for position in found[:limit]]
        retried = self.retry_these(chosen, dry_run=dry_run)
        last = found[limit - 1] if len(found) > limit else reached
        return replace(retried, next_cursor=cursor_of(last) if last else None)

    def retry_these(self, ids: Sequence[UUID], *, dry_run: bool = False) -> Retried:
        """Has those of these interactions retried that can be; see `retry_found`."""
        self._demand(Grant.MANAGE)
        outcomes: Counter[str] = Counter()
        waiting = iter(dict.fromkeys(ids))
        while batch := list(itertools.islice(waiting, RETRY_BATCH)):
            outcomes += self._retry_batch(batch, dry_run=dry_run)
        retried = outcomes.pop(_RETRIED, 0)
        return Retried(retried, outcomes)

    def _retry_batch(self, ids: Sequence[UUID], *, dry_run: bool) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        begin = self._database.read if dry_run else self._database.write
        with begin(self._organization_id) as scope:
            for interaction_id in sorted(ids):  # in one order: two at once do not block each other
                obstacle = _obstacle(scope, interaction_id)
                if obstacle is None and not dry_run:
                    self._put_back(scope, interaction_id)
                outcomes[_outcome(obstacle)] += 1
        return outcomes

    def _put_back(self, scope: Scope, interaction_id: UUID) -> None:
        number = stored.receive_again(scope, interaction_id)
        self._tell(scope, interaction_id, "retry", "retried", round=number)

    def correct(self, interaction_id: UUID, correction: Correction) -> Interaction:
        """Changes what is known of an interaction; returns it as it is then.

        Another locale makes what was recognized by the old one void: the interaction is processed
        once more, from the steps that depend on it, as soon as nobody works at it.

        Raises:
            InvalidError: every value that is wrong.
            NotFoundError: the organization has none of this id.
        """
        self._demand(Grant.MANAGE)
        faults = list(correction_faults(correction))
        if faults:
            raise InvalidError(*faults)
        with self._database.write(self._organization_id) as scope:
            if stored.status_of(scope, interaction_id) is None:
                raise NotFoundError(str(interaction_id))
            before = stored.load(scope, [interaction_id])[interaction_id]
            changed = corrections.changes(before, correction)
            if changed:
                self._correct(scope, before, changed)
            return stored.load(scope, [interaction_id])[interaction_id]

    def _correct(self, scope: Scope, before: Interaction, changed: dict[str, Any]) -> None:
        if _size(changed.get("extended", {})) > MAX_EXTENDED_BYTES:
            mend = f"With this it would be larger than {MAX_EXTENDED_BYTES:,} bytes of JSON."
            raise InvalidError(Invalid("extended", mend))
        corrections.write(scope, before, changed)
        self._tell(scope, before.id, "correct", "corrected", fields=sorted(changed))
        number = corrections.outdate(scope, before) if "locale" in changed else None
        if number is not None:
            self._tell(scope, before.id, "retry", "retried", round=number)

    def events(self, *, after: int = 0, limit: int = DEFAULT_LIMIT) -> Sequence[Event]:
        """What happened to the organization's interactions, in order, deleted ones included.

        Args:
            after: the position of the last event that the caller has; 0 to begin anew. Nobody
                who goes on from there misses one or gets one twice.
            limit: the most to return, 1 to `MAX_LIMIT`.
        """
        self._demand(Grant.READ)
        with self._database.read(self._organization_id) as scope:
            new = journal.has_new_events(scope)
            found = journal.events(scope, after=after, limit=limit)
        if not new or len(found) == limit:
            return found
        with self._database.write(self._organization_id) as scope:
            journal.number_events(scope)
            return journal.events(scope, after=after, limit=limit)

    def _tell_read(self, subject: UUID, action: str, **detail: Any) -> None:
        """Writes down that this is read, before it is."""
        self._reads.record(
            self._organization_id,
            actor=f"client:{self._principal.client_id}",
            action=action,
            subject=str(subject),
            detail=detail,
        )

    def _checked(
        self, query: Query, limit: int, cursor: str | None
    ) -> tuple[Position | None, Search | None]:
        """Where to go on, and what is searched for.

        Raises:
            InvalidError: see find.
        """
        faults = list(query_faults(query))
        if not 1 <= limit <= MAX_LIMIT:
            faults.append(Invalid("limit", f"Send a number from 1 to {MAX_LIMIT}."))
        after = position_of(cursor) if cursor is not None else None
        if cursor is not None and after is None:
            mend = 'Send the "next" of a page, or no cursor to begin anew.'
            faults.append(Invalid("cursor", mend))
        if query.stem and self._database.is_sqlite:
            mend = "This service runs on SQLite, which knows no stems; leave stem out."
            faults.append(Invalid("stem", mend))
        search = None
        if query.q is not None and storable(query.q):
            try:
                search = parse_search(query.q)
            except ValueError as error:
                faults.append(Invalid("q", str(error)))
        if faults:
            raise InvalidError(*faults)
        return after, search

    def _transcript(self, interaction: Interaction) -> Transcript | None:
        if interaction.transcript is None:
            if interaction.status in stored.UNFINISHED:
                raise ConflictError("processing", "The interaction is still processed; ask later.")
            return None
        return parse(b"".join(self._store.read(transcript_key(interaction.id))))

    def _demand(self, grant: Grant) -> None:
        if grant not in self._principal.grants:
            raise ForbiddenError(f"This needs the grant {grant.value}.")

    def _tell(
        self, scope: Scope, interaction_id: UUID, action: str, kind: str, **detail: Any
    ) -> None:
        journal.record(
            scope,
            actor=self._actor,
            action=f"interaction.{action}",
            subject=str(interaction_id),
            detail=detail,
        )
        journal.announce(
            scope, kind=f"interaction.{kind}", interaction_id=interaction_id, detail=detail
        )


def _load(scope: Scope, found: Sequence[Position]) -> tuple[list[Interaction], int]:
    """Loads interactions until the page is large enough; says how many positions that took."""
    items: list[Interaction] = []
    characters = taken = 0
    while taken < len(found) and characters < PAGE_CHARACTERS:
        ids = [position.id for position in found[taken : taken + LOAD_BATCH]]
        loaded = stored.load(scope, ids)
        items += [loaded[one] for one in ids if one in loaded]
        characters += sum(len(interaction.metadata_sent) for interaction in loaded.values())
        taken += len(ids)
    return items, taken


def _found(
    scope: Scope, query: Query, search: Search | None, after: Position | None, limit: int
) -> tuple[Sequence[Position], Position | None]:
    """The first after a position, and up to where was looked if that was not to the end."""
    if search is None:
        return stored.positions(scope, query, after=after, limit=limit), None
    return searched.positions(scope, query, search, after=after, limit=limit)


def _shown(
    scope: Scope, items: Iterable[Interaction], search: Search
) -> Mapping[UUID, tuple[Match, ...]]:
    said = searched.documents(scope, [interaction.id for interaction in items])
    return {id_: matches(document, search) for id_, document in said.items()}


def _obstacle(scope: Scope, interaction_id: UUID) -> CallerError | None:
    """Why an interaction cannot be retried now; None if it can, and then nobody else begins it."""
    status = stored.status_of(scope, interaction_id)
    if status is None:
        return NotFoundError(str(interaction_id))
    has_step = partial(stored.has_step, scope, interaction_id)
    waits = status is Status.RECEIVED and has_step(StepStatus.WAITING)
    if status in stored.UNFINISHED and not waits:
        return ConflictError("processing", "The interaction is still processed; wait for its end.")
    if status is Status.READY and not has_step(StepStatus.FAILED, StepStatus.SKIPPED):
        return ConflictError(
            "nothing_to_retry",
            "The interaction is ready and none of its steps failed or was skipped.",
        )
    return None


_RETRIED = "retried"


def _outcome(obstacle: CallerError | None) -> str:
    if obstacle is None:
        return _RETRIED
    return obstacle.code if isinstance(obstacle, ConflictError) else "not_found"


def _size(extended: Mapping[str, Any]) -> int:
    return len(json.dumps(extended, ensure_ascii=False).encode())
