"""The step that will read chat archives; until it can, it says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from earmark.model import Cause, MediaType
from earmark.pipeline import Item, Outcome, Skipped, Step, Tools

if TYPE_CHECKING:
    from earmark.pipeline.notes import Notes

NOT_READ_YET = Cause(
    "chat_not_read_yet",
    "The chat archive is kept as it was uploaded; this version of Earmark does not read it yet. "
    "Retry it after an upgrade that does.",
)


class Unpack(Step):
    """See Step."""

    name = "unpack"
    required = True

    def __init__(self, tools: Tools) -> None:
        pass

    @override
    def applies_to(self, media_type: MediaType) -> bool:
        """See Step.applies_to."""
        return media_type is MediaType.CHAT

    @override
    def run(self, item: Item, notes: Notes) -> Outcome:
        """See Step.run."""
        return Skipped(NOT_READ_YET)

    @override
    def discard(self, item: Item) -> None:
        """See Step.discard."""
