"""Plain text: a line for each stretch of speech and each message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from earmark.render import Format
from earmark.render.timeline import line, name_of, offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from earmark.model.transcript import Transcript

_SECONDS = 60


class Text(Format):
    """See Format. `HH:MM:SS Speaker: text`, the time counted from the start."""

    content_type = "text/plain; charset=utf-8"

    @override
    def render(self, transcript: Transcript) -> bytes:
        """See Format.render."""
        return "".join(f"{told}\n" for told in told_lines(transcript)).encode()


def told_lines(transcript: Transcript) -> list[str]:
    """The lines, in the order of the segments, each without its end."""
    return [
        f"{_clock(start)} {name_of(segment)}: {line(segment.text)}"
        for segment, start in zip(transcript.segments, _starts(transcript), strict=True)
    ]


def _starts(transcript: Transcript) -> Sequence[float]:
    if transcript.chat_format is not None:
        return offsets(transcript.segments)
    return [segment.start_seconds or 0.0 for segment in transcript.segments]


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), _SECONDS)
    hours, minute = divmod(minutes, _SECONDS)
    return f"{hours:02}:{minute:02}:{second:02}"
