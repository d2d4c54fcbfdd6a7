"""SubRip, by the `srt` library."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import srt
from typing_extensions import override

from earmark.render import Format
from earmark.render.timeline import cues

if TYPE_CHECKING:
    from earmark.model.transcript import Transcript
    from earmark.render.timeline import Cue


class SubRip(Format):
    """See Format. The text of each cue begins with its speaker."""

    content_type = "application/x-subrip; charset=utf-8"

    @override
    def render(self, transcript: Transcript) -> bytes:
        """See Format.render."""
        text: str = srt.compose(map(_subtitle, cues(transcript)))
        return text.encode()


def _rounded(seconds: float) -> timedelta:
    """To whole milliseconds: what is finer the library would cut off."""
    return timedelta(milliseconds=round(seconds * 1000))


def _subtitle(cue: Cue) -> srt.Subtitle:
    # "-->" within a text is taken for another cue by many players.
    text = f"{cue.speaker}: {cue.text}".replace("-->", "->")
    return srt.Subtitle(
        None,
        _rounded(cue.start_seconds),
        _rounded(cue.end_seconds),
        text,
    )
