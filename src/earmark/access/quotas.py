"""What each organization may use: as its operator said, or else as the settings do for all."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from earmark.access.cache import Cache
from earmark.access.rate import Limiter, Rate
from earmark.database import clients as queries

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from earmark.access.revision import Revision
    from earmark.database import Database
    from earmark.model import Quota

CACHED_ORGANIZATIONS = 10_000
"""Organizations remembered at once, about 300 bytes each."""


class Quotas:
    """The quotas of all organizations. Safe among threads.

    A quota that was changed is seen so within `POLL_SECONDS`, like a client.
    """

    def __init__(
        self,
        database: Database,
        defaults: Quota,
        *,
        revision: Revision,
        limiter: Callable[[Rate], Limiter],
    ) -> None:
        """Reads nothing yet.

        Args:
            database: where organizations are.
            defaults: of those of whom nothing is said.
            revision: tells when what is remembered is old.
            limiter: makes that of a rate; its buckets are the organizations'.
        """
        self._database = database
        self._defaults = defaults
        self._revision = revision
        self._make_limiter = limiter
        self._known: Cache[UUID, tuple[int, Quota]] = Cache(CACHED_ORGANIZATIONS)
        self._limiters: dict[int, Limiter] = {}
        self._lock = threading.Lock()

    def recall(self, organization_id: UUID) -> Quota | None:
        """As `of`, from memory alone; None if that does not suffice."""
        return self._remembered(organization_id, self._revision.recent())

    def of(self, organization_id: UUID) -> Quota:
        """The quota of an organization.

        Raises:
            UnavailableError: the database cannot serve.
        """
        revision = self._revision.current()
        found = self._remembered(organization_id, revision)
        if found is None:
            with self._database.read(None) as scope:
                found = queries.quota(scope, organization_id).or_else(self._defaults)
            self._known.put(organization_id, (revision, found))
        return found

    def limiter(self, quota: Quota) -> Limiter | None:
        """What counts the uploads of organizations with this quota; None if they are not."""
        count = quota.uploads_per_minute
        if not count:
            return None
        with self._lock:
            if count not in self._limiters:
                self._limiters[count] = self._make_limiter(Rate(count, 60))
            return self._limiters[count]

    def _remembered(self, organization_id: UUID, revision: int | None) -> Quota | None:
        known = self._known.get(organization_id)
        return known[1] if known and known[0] == revision else None
