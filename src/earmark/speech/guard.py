"""What keeps engines from hearing words where nobody speaks: the same for all of them.

A recognizer that is given silence, noise or music makes words of it, wherever it runs. So it is
given speech alone, and what it says of speech is believed only while it believes it itself.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from faster_whisper.vad import SpeechTimestampsMap, VadOptions, get_speech_timestamps
from typing_extensions import override

from earmark.speech import RATE_HZ, Language, Transcriber

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from earmark.model.transcript import Segment
    from earmark.speech import Samples

VOICE = VadOptions(threshold=0.5, min_speech_duration_ms=250, min_silence_duration_ms=2000)
"""A quarter of a second is the shortest that counts as speech: clicks and keys are shorter, and
"yes" is not. A pause of up to two seconds is left in, since it tells where sentences end."""

MOST_SILENCE = 0.6
LEAST_LOG_PROBABILITY = -1.0
"""Above and below which a segment is taken for invented, where both hold: what Whisper's own
makers use. Source: https://github.com/openai/whisper, `transcribe`."""

DETECTION_SECONDS = 30
"""Of speech, in which a language is looked for: one window of the model."""


class Guarded(Transcriber):
    """Any engine, asked about speech alone; see Transcriber."""

    def __init__(self, engine: Transcriber) -> None:
        """Keeps the engine."""
        self._engine = engine
        told = {name: value for name, value in asdict(VOICE).items() if _is_plain(value)}
        identity = engine.identity
        self.identity = replace(identity, settings={**identity.settings, "voice": told})

    @override
    def transcribe(self, samples: Samples, language: str) -> tuple[Segment, ...]:
        """See Transcriber.transcribe."""
        spoken = get_speech_timestamps(samples, VOICE)
        if not spoken:
            return ()
        found = self._engine.transcribe(_joined(samples, spoken), language)
        return tuple(_restored(found, spoken))

    @override
    def detect(self, samples: Samples) -> Language | None:
        """See Transcriber.detect."""
        spoken = get_speech_timestamps(samples, VOICE)
        if not spoken:
            return None
        return self._engine.detect(_joined(samples, spoken)[: DETECTION_SECONDS * RATE_HZ])


def is_invented(text: str, *, silence: float | None, log_probability: float | None) -> bool:
    """Whether an engine does not believe in a segment itself.

    Args:
        text: of the segment.
        silence: how probable it is that nobody speaks, 0 to 1; None if the engine does not tell.
        log_probability: of the text's pieces, on average; None likewise.
    """
    if silence is None or log_probability is None:
        return not text.strip()
    silent = silence > MOST_SILENCE and log_probability < LEAST_LOG_PROBABILITY
    return silent or not text.strip()


def _is_plain(value: Any) -> bool:
    return value is not None and value != float("inf")


def _joined(samples: Samples, spoken: Iterable[dict[str, int]]) -> Samples:
    """The stretches in which somebody speaks, one after the other."""
    return np.concatenate([samples[one["start"] : one["end"]] for one in spoken])


def _restored(segments: Iterable[Segment], spoken: list[dict[str, int]]) -> Iterator[Segment]:
    """The segments with the times that they have in the sound before it was joined."""
    places = SpeechTimestampsMap(spoken, RATE_HZ, time_precision=3)
    for segment in segments:
        words = []
        for word in segment.words:
            # Both ends of a word lie in the stretch of its middle.
            stretch = places.get_chunk_index((word.start_seconds + word.end_seconds) / 2)
            start = places.get_original_time(word.start_seconds, stretch)
            end = places.get_original_time(word.end_seconds, stretch)
            words.append(replace(word, start_seconds=start, end_seconds=end))
        start = places.get_original_time(segment.start_seconds or 0.0)
        end = places.get_original_time(segment.end_seconds or 0.0, is_end=True)
        yield replace(
            segment,
            start_seconds=words[0].start_seconds if words else start,
            end_seconds=words[-1].end_seconds if words else end,
            words=tuple(words),
        )
