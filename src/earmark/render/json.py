"""JSON with everything that is known; the form in which transcripts are stored, too."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from earmark.model.transcript import Recognition, Segment, Speaker, Transcript, Word
from earmark.render import Format

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1
"""Of the form; keys are added without a new one."""


class Json(Format):
    """See Format. Every key is always there; what is not known is null."""

    content_type = "application/json"

    @override
    def render(self, transcript: Transcript) -> bytes:
        """See Format.render."""
        return written(document(transcript))


def document(transcript: Transcript) -> dict[str, Any]:
    """The object that `Json.render` writes."""
    return {"version": VERSION, **asdict(transcript)}


def written(value: Mapping[str, Any]) -> bytes:
    """An object as JSON without spaces, in UTF-8; its instants in RFC 3339."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return text.encode()


def parse(data: bytes) -> Transcript:
    """The transcript that `Json.render` wrote.

    Raises:
        ValueError: it wrote something else, or it was a later version.
    """
    document = json.loads(data)
    if document.pop("version", None) != VERSION:
        raise ValueError("the transcript is of another version")
    recognition = document.pop("recognition")
    segments = document.pop("segments")
    return Transcript(
        segments=tuple(map(segment, segments)),
        recognition=Recognition(**recognition) if recognition else None,
        **document,
    )


def segment(told: Mapping[str, Any]) -> Segment:
    """A segment from its JSON object."""
    values = dict(told)
    at = values.pop("at")
    return Segment(
        speaker=Speaker(values.pop("speaker")),
        at=datetime.fromisoformat(at) if at else None,
        words=tuple(Word(**word) for word in values.pop("words")),
        **values,
    )


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)
