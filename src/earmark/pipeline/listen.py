"""The step that decodes a recording once: what it is, how long it is, how it looks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import override

from earmark import audio
from earmark.database import processing
from earmark.interactions import media_key, waveform_key
from earmark.model import MediaType
from earmark.pipeline import Done, Item, Outcome, Step, Tools

if TYPE_CHECKING:
    from earmark.database.scope import Scope
    from earmark.pipeline.notes import Notes


class Listen(Step):
    """See Step. The waveform becomes an object beside the media, the facts go to the row."""

    name = "listen"
    required = True

    def __init__(self, tools: Tools) -> None:
        self._store = tools.store
        self._limits = tools.limits

    @override
    def applies_to(self, media_type: MediaType) -> bool:
        """See Step.applies_to."""
        return media_type is MediaType.AUDIO

    @override
    def run(self, item: Item, notes: Notes) -> Outcome:
        """See Step.run."""
        with self._store.local_path(media_key(item.interaction_id)) as path:
            heard = audio.listen(path, limits=self._limits, extension=item.extension)
        self._store.put(waveform_key(item.interaction_id), heard.waveform.to_json())
        return Done(partial(_save, item=item, heard=heard))

    @override
    def discard(self, item: Item) -> None:
        """See Step.discard."""
        self._store.delete(waveform_key(item.interaction_id))


def _save(scope: Scope, *, item: Item, heard: audio.Listening) -> None:
    processing.save_audio(scope, item.interaction_id, heard.facts, heard.warnings)
