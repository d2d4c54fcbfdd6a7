"""The step that reads a chat archive: its log becomes the transcript, its side files metadata."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import override

from earmark import chat
from earmark.chat.people import People
from earmark.database import processing
from earmark.interactions import media_key, transcript_key
from earmark.model import ChatFacts, MediaType
from earmark.pipeline import Done, Item, Outcome, Step, Tools
from earmark.pipeline.facts import facts
from earmark.render.json import Json

if TYPE_CHECKING:
    from earmark.database.scope import Scope
    from earmark.model.transcript import Transcript
    from earmark.pipeline.notes import Notes


class Unpack(Step):
    """See Step. The transcript becomes an object beside the media, facts and metadata the row."""

    name = "unpack"
    required = True

    def __init__(self, tools: Tools) -> None:
        self._store = tools.store
        self._limits = tools.limits

    @override
    def applies_to(self, media_type: MediaType) -> bool:
        """See Step.applies_to."""
        return media_type is MediaType.CHAT

    @override
    def run(self, item: Item, notes: Notes) -> Outcome:
        """See Step.run."""
        with self._store.local_path(media_key(item.interaction_id)) as path:
            found = chat.unpack(
                path,
                limits=self._limits,
                locale=item.locale,
                people=People(item.customer, item.agent.first_name, item.agent.last_name),
                date=item.date,
            )
        key = transcript_key(item.interaction_id)
        self._store.put(key, Json().render(found.transcript))
        return Done(partial(_save, item=item, found=found))

    @override
    def discard(self, item: Item) -> None:
        """See Step.discard."""
        self._store.delete(transcript_key(item.interaction_id))


def _save(scope: Scope, *, item: Item, found: chat.Unpacked) -> None:
    processing.save_transcript(
        scope,
        item.interaction_id,
        facts(found.transcript),
        transcript=found.transcript,
        chat=_chat_facts(found.transcript),
        extended=found.metadata,
        warnings=found.warnings,
    )


def _chat_facts(transcript: Transcript) -> ChatFacts:
    times = [one.at for one in transcript.segments if one.at]
    return ChatFacts(
        message_count=len(transcript.segments),
        first_at=min(times, default=None),
        last_at=max(times, default=None),
    )
