"""Joins what was recognized block by block and channel by channel to one transcript."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from earmark.model.transcript import Segment, Speaker, Word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAUSE_SECONDS = 1.0
"""Speech with a longer pause in it is two segments: the other side may have spoken in between."""


def placed(segments: Iterable[Segment], start_seconds: float, channel: int) -> tuple[Segment, ...]:
    """The segments of a block with their times from the beginning of the recording."""
    return tuple(
        replace(
            segment,
            start_seconds=_moved(segment.start_seconds, start_seconds),
            end_seconds=_moved(segment.end_seconds, start_seconds),
            channel=channel,
            words=tuple(
                replace(
                    word,
                    start_seconds=_moved(word.start_seconds, start_seconds),
                    end_seconds=_moved(word.end_seconds, start_seconds),
                )
                for word in segment.words
            ),
        )
        for segment in segments
    )


def merge(
    segments: Iterable[Segment], *, channels: int, agent_channel: int
) -> tuple[Segment, ...]:
    """All segments in the order of time, cut at long pauses, with their speakers.

    Args:
        segments: of all blocks, with times from the beginning of the recording.
        channels: that differ; with one alone nobody knows who speaks.
        agent_channel: of a recording of two channels: the other one is the customer's.
    """
    cut = [piece for segment in segments for piece in _cut(segment)]
    labelled = [_labelled(piece, channels, agent_channel) for piece in cut]
    return tuple(sorted(labelled, key=lambda one: (one.start_seconds or 0.0, one.channel or 0)))


def _moved(seconds: float | None, by: float) -> float:
    return round((seconds or 0.0) + by, 3)


def _labelled(segment: Segment, channels: int, agent_channel: int) -> Segment:
    if channels == 1:
        return replace(segment, channel=None)
    if channels != 2:  # noqa: PLR2004 - a conference: nobody said who is on which
        return segment
    side = Speaker.AGENT if segment.channel == agent_channel else Speaker.CUSTOMER
    return replace(segment, speaker=side)


def _cut(segment: Segment) -> Iterator[Segment]:
    """A segment in pieces without long pauses; whole if its words do not tell their times."""
    runs = list(_runs(segment.words))
    if len(runs) < 2:  # noqa: PLR2004
        yield segment
        return
    for run in runs:
        yield replace(
            segment,
            text=" ".join(word.text for word in run),
            start_seconds=run[0].start_seconds,
            end_seconds=run[-1].end_seconds,
            words=run,
        )


def _runs(words: tuple[Word, ...]) -> Iterator[tuple[Word, ...]]:
    begin = 0
    for number in range(1, len(words)):
        if words[number].start_seconds - words[number - 1].end_seconds > PAUSE_SECONDS:
            yield words[begin:number]
            begin = number
    if words:
        yield words[begin:]
