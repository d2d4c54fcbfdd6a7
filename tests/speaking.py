"""What tests of speech share: a real model, sounds made to order, an engine that is told."""

from __future__ import annotations

import fcntl
import io
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from earmark.model.transcript import Segment, Word
from earmark.speech import RATE_HZ, Identity, Language, Transcriber
from earmark.speech.models import install

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark.speech import Samples

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / ".cache" / "models"


def installed_models() -> Path:
    """The folder with the base model, fetched once for all runs; fails loudly if it cannot be."""
    MODELS.mkdir(parents=True, exist_ok=True)
    with (MODELS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of the tests ask at once
        install(MODELS, "base", print)
    return MODELS


class Scripted(Transcriber):
    """An engine that hears one word in each piece of sound: how loud it is, in percent."""

    def __init__(self, before: Callable[[int], None] = lambda _: None, model: str = "one") -> None:
        self.identity = Identity("scripted", model, "0" * 64, {})
        self.before = before
        self.heard: list[float] = []
        self.language: Language | None = Language("en", 0.99)

    @override
    def transcribe(self, samples: Samples, language: str) -> tuple[Segment, ...]:
        self.before(len(self.heard))
        self.heard.append(samples.size / RATE_HZ)
        loudness = f"{round(float(np.abs(samples).max()) * 100)}"
        word = Word(loudness, 0.5, 1.0, 0.9)
        return (Segment(loudness, start_seconds=0.5, end_seconds=1.0, words=(word,)),)

    @override
    def detect(self, samples: Samples) -> Language | None:
        return self.language


def tone(seconds: float, level: float = 0.5, rate_hz: int = RATE_HZ) -> Any:
    """A tone of 440 Hz."""
    moments = np.arange(int(seconds * rate_hz)) / rate_hz
    return (np.sin(2 * np.pi * 440 * moments) * level).astype(np.float32)


def wav(*channels: Any, rate_hz: int = RATE_HZ) -> bytes:
    """A WAV file of these channels."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(len(channels))
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes((np.stack(channels, axis=1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def pcm(*channels: Any) -> io.BytesIO:
    """The samples of these channels as `audio.decode_speech` writes them."""
    return io.BytesIO((np.stack(channels, axis=1) * 32767).astype("<i2").tobytes())
