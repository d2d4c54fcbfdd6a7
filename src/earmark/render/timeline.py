"""When and by whom: what the forms that are read along with the sound have in common."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark.model.transcript import Speaker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from earmark.model.transcript import Segment, Transcript, Word

CUE_CHARACTERS = 84
"""Two lines of 42 characters, as most rules for subtitles have it."""

SHORTEST_CUE_SECONDS = 0.5
LONGEST_MESSAGE_SECONDS = 7.0
"""How long a message stays, if the next one does not come sooner."""

UNTIMED_SECONDS = 2.0
"""From message to message of a chat that tells no times."""

_NAMES = {
    Speaker.AGENT: "Agent",
    Speaker.CUSTOMER: "Customer",
    Speaker.BOT: "Bot",
    Speaker.UNKNOWN: "Speaker",
}

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Cue:
    """A piece of text that is shown from one moment to another, in seconds from the start."""

    start_seconds: float
    end_seconds: float
    speaker: str
    text: str


def name_of(segment: Segment) -> str:
    """What the chat calls the sender, else the side that speaks."""
    return line(segment.name or "") or _NAMES[segment.speaker]


def line(text: str) -> str:
    """Text on one line, without control characters and without spaces at its ends."""
    return " ".join(_CONTROL.sub(" ", text).split())


def lines(text: str) -> list[str]:
    """The lines of a text, each as `line` has it; empty ones are left out."""
    parts = text.replace("\r", "\n").split("\n")
    return [found for part in parts if (found := line(part))]


def cues(transcript: Transcript) -> list[Cue]:
    """The whole transcript in the order of time; what has no text is left out.

    Speech is cut where its words tell their times, so that no cue is longer than
    `CUE_CHARACTERS`. Messages begin at their time after the first message.
    """
    spoken = transcript.recognition is not None or transcript.chat_format is None
    found = _spoken(transcript) if spoken else _written(transcript.segments)
    ordered = sorted(found, key=lambda cue: (cue.start_seconds, cue.end_seconds))
    return [cue for cue in ordered if cue.text]


def _spoken(transcript: Transcript) -> Iterator[Cue]:
    for segment in transcript.segments:
        name = name_of(segment)
        if len(segment.text) > CUE_CHARACTERS and segment.words:
            for words in _chunks(segment.words):
                text = line(" ".join(word.text for word in words))
                yield _cue(words[0].start_seconds, words[-1].end_seconds, name, text)
        else:
            text = "\n".join(lines(segment.text))
            yield _cue(segment.start_seconds, segment.end_seconds, name, text)


def _chunks(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """As few pieces as the limit allows, of about the same length."""
    total = sum(len(word.text) + 1 for word in words)
    share = total / -(-total // CUE_CHARACTERS)
    chunk: list[Word] = []
    length = 0
    for word in words:
        size = len(word.text) + 1
        if chunk and (length >= share or length + size > CUE_CHARACTERS):
            yield chunk
            chunk, length = [], 0
        chunk.append(word)
        length += size
    yield chunk


def _cue(start: float | None, end: float | None, name: str, text: str) -> Cue:
    begin = max(0.0, start or 0.0)
    return Cue(begin, max(end or 0.0, begin + SHORTEST_CUE_SECONDS), name, text)


def _written(segments: Sequence[Segment]) -> Iterator[Cue]:
    starts = offsets(segments)
    for segment, start, later in zip(segments, starts, _next_later(starts), strict=True):
        end = min(later, start + LONGEST_MESSAGE_SECONDS)
        yield _cue(start, end, name_of(segment), "\n".join(lines(segment.text)))


def _next_later(starts: Sequence[float]) -> list[float]:
    """For each of these times, which never fall, the next one that is later; else infinity."""
    found: list[float] = []
    later = math.inf
    for start, follower in zip(reversed(starts), [math.inf, *reversed(starts)], strict=False):
        later = follower if follower > start else later
        found.append(later)
    return found[::-1]


def offsets(segments: Sequence[Segment]) -> list[float]:
    """When each message was sent, in seconds after the first; never before the one before it.

    One that does not tell its time goes with the one before it. If none does, they follow each
    other every `UNTIMED_SECONDS`.
    """
    times = [segment.at for segment in segments]
    first = next((at for at in times if at is not None), None)
    if first is None:
        return [number * UNTIMED_SECONDS for number in range(len(segments))]
    found: list[float] = []
    reached = 0.0
    for at in times:
        if at is not None:
            reached = max(reached, (at - first).total_seconds())
        found.append(reached)
    return found


def clock(seconds: float, *, point: str = ".") -> str:
    """`HH:MM:SS.mmm`; hours have more digits where they need them."""
    milliseconds = round(seconds * 1000)
    rest, thousandths = divmod(milliseconds, 1000)
    minutes, second = divmod(rest, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}{point}{thousandths:03}"
