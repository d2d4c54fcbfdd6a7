"""What was said or written in an interaction, by whom and when: one form for calls and chats."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class Speaker(StrEnum):
    """Which side a segment comes from."""

    AGENT = "agent"
    CUSTOMER = "customer"
    BOT = "bot"
    UNKNOWN = "unknown"
    """A mono recording, or a chat that does not tell."""


@dataclass(frozen=True, slots=True)
class Word:
    """One recognized word.

    Attributes:
        text: without spaces around it, its punctuation with it.
        start_seconds: from the beginning of the recording.
        end_seconds: likewise.
        confidence: 0 to 1, as the engine gave it; None if it gives none.
    """

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one speaker's speech, or one message of a chat.

    Attributes:
        text: what was said or written; a message may have several lines.
        start_seconds: from the beginning of the recording; None in a chat.
        end_seconds: likewise.
        at: when a message was sent, in UTC; None in a recording, or if the chat does not tell.
        name: what the chat calls the sender.
        channel: of the recording, from 0; None if it has but one, and in a chat.
        confidence: 0 to 1, as the engine gave it; None if it gives none.
        words: of a recording, in order; empty if the engine gives none.
    """

    text: str
    speaker: Speaker = Speaker.UNKNOWN
    start_seconds: float | None = None
    end_seconds: float | None = None
    at: datetime | None = None
    name: str | None = None
    channel: int | None = None
    confidence: float | None = None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Recognition:
    """How a recording became text, so that the result can be judged and had again.

    Attributes:
        engine: as in the settings: "local", "remote".
        model: its name.
        model_sha256: of the model's weights, in hexadecimal; None where it cannot be known.
        settings: of the engine, such as beam size and precision.
        language: that was recognized, ISO 639-1; it follows the interaction's locale.
        detected_language: that the recording seems to be in; None if too little is said.
        detected_probability: of the detected language, 0 to 1.
    """

    engine: str
    model: str
    model_sha256: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    language: str = "en"
    detected_language: str | None = None
    detected_probability: float | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """The words of an interaction.

    Attributes:
        segments: in the order of time; one may begin before the one before it has ended.
        language: of the words, ISO 639-1.
        duration_seconds: of the recording; None for a chat.
        recognition: None for a chat.
        chat_format: the name of the format in which the chat was found; None for a recording.
    """

    segments: tuple[Segment, ...]
    language: str
    duration_seconds: float | None = None
    recognition: Recognition | None = None
    chat_format: str | None = None
