"""Keeps the search index up: gives numbers to new transcripts, reads those from before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from earmark.database import search_index
from earmark.errors import NotFoundError
from earmark.interactions import transcript_key
from earmark.render.json import parse

if TYPE_CHECKING:
    from uuid import UUID

    from earmark.database import Database
    from earmark.model.transcript import Transcript
    from earmark.storage import Store

READ_AT_ONCE = search_index.INDEXED_AT_ONCE
"""Transcripts from before there was an index, when no other waits."""

_log = structlog.get_logger("earmark.worker")


class Indexer:
    """What a worker does for the search index between its jobs. Several may do it at once."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store

    def work(self) -> int:
        """Does a bounded part of what there is to do; returns how many transcripts that were.

        It can end at any point: what is done is committed, the rest is found by the next one.

        Raises:
            UnavailableError: storage or database is away.
        """
        with self._database.read(None) as scope:
            waiting = search_index.organizations_waiting(scope)
            # Not while others wait: whoever searches reads all that do.
            unread = [] if waiting else search_index.unread(scope, limit=READ_AT_ONCE)
        for organization_id, interaction_id in unread:
            self._read(organization_id, interaction_id)
        return sum(map(self._number, waiting)) + len(unread)

    def _number(self, organization_id: UUID) -> int:
        with self._database.write(organization_id) as scope:
            return search_index.index_waiting(scope)

    def _read(self, organization_id: UUID, interaction_id: UUID) -> None:
        transcript = self._stored(interaction_id)
        with self._database.write(organization_id) as scope:
            search_index.fill(scope, interaction_id, transcript)

    def _stored(self, interaction_id: UUID) -> Transcript | None:
        """The transcript; None if none can be read, which no later try would change."""
        try:
            return parse(b"".join(self._store.read(transcript_key(interaction_id))))
        except NotFoundError:
            problem = "missing"
        except (ValueError, KeyError, TypeError):
            problem = "unreadable"
        _log.warning("search.transcript_left_out", interaction_id=str(interaction_id), why=problem)
        return None
