"""Objects that no interaction claims: found, moved aside, put back, removed for good.

They are moved aside first, since what looks like an orphan may be the only copy of a recording:
after its database was restored to an earlier time, every later recording looks like one. Objects
of an interaction that was deleted are removed at once: somebody was told that it is gone. So is
what was staged and left alone, since nobody was promised anything for it.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from earmark.database import interactions as stored
from earmark.database import journal, upkeep
from earmark.errors import Invalid, InvalidError, NotFoundError
from earmark.interactions import owner_of
from earmark.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from earmark.database import Database
    from earmark.storage import Quarantined, Store

GRACE_SECONDS = 3600.0
"""What is younger may belong to an upload whose row is about to be committed."""

KEEP_SECONDS = 7 * 86_400.0
"""For how long what was moved aside can be put back."""

BATCH = 500
"""Objects looked up at once: one query each, and no more keys in memory."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """An object that no interaction claims.

    Attributes:
        was_deleted: whether it belonged to an interaction that was deleted.
    """

    key: str
    was_deleted: bool


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did, in objects.

    Attributes:
        set_aside: moved to the quarantine.
        deleted: removed, since their interaction was deleted.
        expired: removed, since they were in the quarantine long enough.
        put_back: from the quarantine, since an interaction claims them.
        staged: what was staged and left alone, removed.
    """

    set_aside: int = 0
    deleted: int = 0
    expired: int = 0
    put_back: int = 0
    staged: int = 0


class Sweeper:
    """Looks after the objects of all organizations. Safe beside uploads and other sweepers."""

    def __init__(self, database: Database, store: Store, *, actor: str = "worker") -> None:
        """Opens nothing.

        Args:
            database: which objects are claimed.
            store: where they are.
            actor: who sweeps, for the audit trail.
        """
        self._database = database
        self._store = store
        self._actor = actor

    def orphans(self, *, grace_seconds: float = GRACE_SECONDS) -> Iterator[Orphan]:
        """Objects older than `grace_seconds` that no interaction claims.

        Objects under keys that are no interaction's are none.

        Raises:
            UnavailableError: storage or database cannot serve.
        """
        return self._among(self._store.keys(older_than_seconds=grace_seconds))

    def staged(self, *, grace_seconds: float = GRACE_SECONDS) -> int:
        """How much was staged and left alone for that long."""
        return self._store.staged_alone(older_than_seconds=grace_seconds)

    def quarantined(self) -> Sequence[Quarantined]:
        """What stands in the quarantine, the oldest first."""
        return sorted(self._store.quarantined(), key=lambda one: (one.since, one.key))

    def sweep(
        self, *, grace_seconds: float = GRACE_SECONDS, keep_seconds: float = KEEP_SECONDS
    ) -> Swept:
        """Moves orphans aside, and removes what has been there for `keep_seconds`.

        Raises:
            UnavailableError: storage or database cannot serve; what was done stays done.
        """
        staged = self._store.sweep_staging(older_than_seconds=grace_seconds)
        put_back, expired = self._empty(keep_seconds)
        set_aside = deleted = 0
        for orphan in self.orphans(grace_seconds=grace_seconds):
            if orphan.was_deleted:
                self._store.delete(orphan.key)
                deleted += 1
            else:
                self._store.quarantine(orphan.key)
                set_aside += 1
        return self._told(Swept(set_aside, deleted, expired, put_back, staged))

    def remove_deleted(self) -> int:
        """Removes objects of deleted interactions wherever they stand; says how many.

        No age spares them: an id never comes back.

        Raises:
            UnavailableError: storage or database cannot serve; what was done stays done.
        """
        removed = 0
        for orphan in self.orphans(grace_seconds=0):
            if orphan.was_deleted:
                self._store.delete(orphan.key)
                removed += 1
        aside = {one.key for one in self._store.quarantined()}
        for orphan in self._among(aside):
            if orphan.was_deleted:
                self._store.remove_quarantined(orphan.key)
                removed += 1
        return self._told(Swept(deleted=removed)).deleted

    def restore(self, key: str) -> None:
        """Puts an object back from the quarantine.

        Raises:
            InvalidError: none of this key is there, or another stands in its place.
            UnavailableError: storage or database cannot serve.
        """
        if self._stands(key):
            raise InvalidError(Invalid("key", "An object stands in its place; look at it first."))
        try:
            self._store.restore(key)
        except NotFoundError:
            mend = "Nothing of this key is in the quarantine; `earmark sweep` lists what is."
            raise InvalidError(Invalid("key", mend)) from None
        with self._database.write(None) as scope:
            journal.record(scope, actor=self._actor, action="storage.restore", subject=key)

    def empty(self) -> Swept:
        """Removes all that is in the quarantine, but puts back what an interaction claims.

        Raises:
            UnavailableError: storage or database cannot serve; what was done stays done.
        """
        put_back, expired = self._empty(0)
        return self._told(Swept(expired=expired, put_back=put_back))

    def _empty(self, keep_seconds: float) -> tuple[int, int]:
        """How many were put back, and how many removed."""
        aside: dict[str, float] = {}
        for one in self._store.quarantined():
            aside[one.key] = max(one.since, aside.get(one.key, one.since))
        unclaimed = {orphan.key for orphan in self._among(aside)}
        limit = time.time() - keep_seconds
        put_back = expired = 0
        for key, since in aside.items():
            if key in unclaimed and since <= limit:
                self._store.remove_quarantined(key)
                expired += 1
            elif key not in unclaimed and not self._stands(key):
                with contextlib.suppress(NotFoundError):  # another sweeper was first
                    self._store.restore(key)
                    put_back += 1
        return put_back, expired

    def _stands(self, key: str) -> bool:
        try:
            self._store.read(key)
        except NotFoundError:
            return False
        return True

    def _among(self, keys: Iterable[str]) -> Iterator[Orphan]:
        waiting = iter(keys)
        while batch := list(itertools.islice(waiting, BATCH)):
            yield from self._orphans(batch)

    def _orphans(self, keys: Iterable[str]) -> list[Orphan]:
        owners = {key: owner for key in keys if (owner := owner_of(key))}
        ids = set(owners.values())
        with self._database.read(None) as scope:
            lost = ids - stored.existing(scope, ids)
            gone = upkeep.deleted(scope, lost)
        return [Orphan(key, owner in gone) for key, owner in owners.items() if owner in lost]

    def _told(self, swept: Swept) -> Swept:
        """Counts and writes down what was done, if anything was."""
        done = {one.name: getattr(swept, one.name) for one in fields(swept)}
        done = {name: count for name, count in done.items() if count}
        for name, count in done.items():
            metrics.SWEPT.add(name, amount=count)
        if done:
            with self._database.write(None) as scope:
                journal.record(
                    scope, actor=self._actor, action="storage.sweep", subject="", detail=done
                )
        return swept
