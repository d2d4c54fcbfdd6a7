"""WebVTT. Source: https://www.w3.org/TR/webvtt1/."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from typing_extensions import override

from earmark.render import Format
from earmark.render.timeline import clock, cues

if TYPE_CHECKING:
    from earmark.model.transcript import Transcript
    from earmark.render.timeline import Cue


class WebVtt(Format):
    """See Format. Each cue names its speaker by a voice tag."""

    content_type = "text/vtt; charset=utf-8"

    @override
    def render(self, transcript: Transcript) -> bytes:
        """See Format.render."""
        blocks = ["WEBVTT", *map(_block, cues(transcript))]
        return ("\n\n".join(blocks) + "\n").encode()


def _block(cue: Cue) -> str:
    voice, text = escape(cue.speaker, quote=False), escape(cue.text, quote=False)
    return f"{clock(cue.start_seconds)} --> {clock(cue.end_seconds)}\n<v {voice}>{text}"
