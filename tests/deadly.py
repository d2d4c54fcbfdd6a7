"""`earmark`, with one more step of processing: some recordings end the worker that works at them.

What a file does to a worker for want of a defence, it does here by its content: a WAV file has a
chunk of the name `kill`, and the process that reads it gets SIGKILL, as from the kernel when
memory ends.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import override

from earmark import pipeline
from earmark.interactions import media_key
from earmark.model import MediaType
from earmark.pipeline import STEPS, Done, Item, Outcome, Step, Tools, patience

if TYPE_CHECKING:
    from earmark.pipeline.notes import Notes

CHUNK = b"kill\x04\x00\x00\x00now!"
"""At the end of a WAV file, where players pass it over."""


class Deadly(Step):
    """Reads the file in the worker itself."""

    name = "deadly"
    required = True

    def __init__(self, tools: Tools) -> None:
        self._store = tools.store

    @override
    def applies_to(self, media_type: MediaType) -> bool:
        return media_type is MediaType.AUDIO

    @override
    def run(self, item: Item, notes: Notes) -> Outcome:
        with self._store.local_path(media_key(item.interaction_id)) as path:
            if path.read_bytes().endswith(CHUNK):
                os.kill(os.getpid(), signal.SIGKILL)
        return Done()

    @override
    def discard(self, item: Item) -> None:
        """Stored nothing."""


def main() -> None:
    """Registers the step, shortens the waits, then is `earmark`."""
    patience.FAULTS = replace(patience.FAULTS, first_seconds=0.5)
    load = pipeline.load_steps
    # Called by the worker, which begins as a copy of this process.
    pipeline.load_steps = lambda tools: load(tools, ("deadly:Deadly", *STEPS))
    from earmark.cli import main as earmark

    earmark()


if __name__ == "__main__":
    main()
