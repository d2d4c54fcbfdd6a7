"""What a transcript is without its words, for the steps that make one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earmark.model import TranscriptFacts

if TYPE_CHECKING:
    from earmark.model.transcript import Transcript


def facts(transcript: Transcript) -> TranscriptFacts:
    """What the interaction's row holds of a transcript."""
    recognition = transcript.recognition
    return TranscriptFacts(
        language=transcript.language,
        segment_count=len(transcript.segments),
        word_count=sum(len(one.text.split()) for one in transcript.segments),
        engine=recognition.engine if recognition else None,
        model=recognition.model if recognition else None,
        detected_language=recognition.detected_language if recognition else None,
    )
