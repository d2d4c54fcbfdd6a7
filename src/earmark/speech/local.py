"""Recognition on this machine's processors, by faster-whisper."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from faster_whisper import WhisperModel
from typing_extensions import override

from earmark.model import Cause
from earmark.model.transcript import Segment, Word
from earmark.speech import (
    Identity,
    Language,
    Options,
    SpeechFailedError,
    Transcriber,
)
from earmark.speech.features import Features
from earmark.speech.guard import is_invented
from earmark.speech.models import find_model, sha256

if TYPE_CHECKING:
    from collections.abc import Iterable

    from earmark.speech import Samples

SETTINGS: dict[str, Any] = {
    "beam_size": 5,
    "condition_on_previous_text": False,
    "word_timestamps": True,
}
"""No conditioning on what was said before: a sentence that it misheard would be heard for ever
after."""

PRECISION = "int8"

_DETECTION_SEGMENTS = 1

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 8 << 20
"""What is larger goes back to the system as soon as it is free; the C library would keep it, as it
raises this bound by itself. Four minutes of speech then take 496 MB at most in place of 539, and
no more processor time; with 1 MiB, 484 MB and 7 % more time. Source: mallopt(3)."""

_UNUSABLE = "The speech model in {folder} cannot be used ({error}); install it anew."


class Local(Transcriber):
    """See Transcriber. The model is loaded when it is first needed, and stays."""

    def __init__(self, options: Options) -> None:
        """See Transcriber."""
        self._folder = find_model(options.models, options.model)
        self._threads = options.threads or os.cpu_count() or 1
        self._turn = threading.Lock()
        self.identity = Identity(
            engine="local",
            model=self._folder.name,
            model_sha256=sha256(self._folder / "model.bin"),
            settings={**SETTINGS, "precision": PRECISION},
        )

    @override
    def transcribe(self, samples: Samples, language: str) -> tuple[Segment, ...]:
        """See Transcriber.transcribe."""
        # One at a time: the model uses all threads by itself, and memory for each caller.
        with self._turn:
            found, _ = self._model.transcribe(samples, language=language, **SETTINGS)
            return tuple(_segment(segment) for segment in found if not _is_invented(segment))

    @override
    def detect(self, samples: Samples) -> Language | None:
        """See Transcriber.detect."""
        with self._turn:
            code, probability, _ = self._model.detect_language(
                audio=samples, language_detection_segments=_DETECTION_SEGMENTS
            )
        return Language(code, float(probability))

    @cached_property
    def _model(self) -> Any:
        _return_large_memory()
        try:
            model = WhisperModel(
                str(self._folder),
                device="cpu",
                compute_type=PRECISION,
                cpu_threads=self._threads,
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            message = _UNUSABLE.format(folder=self._folder.name, error=error)
            raise SpeechFailedError(Cause("speech_model_unusable", message)) from error
        model.feature_extractor = Features(**model.feat_kwargs)
        return model


def _return_large_memory() -> None:
    """Has the C library return large pieces of memory at once, where it is the GNU one."""
    with contextlib.suppress(AttributeError, OSError):  # another library has no such setting
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def _is_invented(found: Any) -> bool:
    return is_invented(found.text, silence=found.no_speech_prob, log_probability=found.avg_logprob)


def _segment(found: Any) -> Segment:
    words = _words(found.words or ())
    return Segment(
        text=found.text.strip(),
        start_seconds=words[0].start_seconds if words else float(found.start),
        end_seconds=words[-1].end_seconds if words else float(found.end),
        confidence=round(math.exp(found.avg_logprob), 4),
        words=words,
    )


def _words(found: Iterable[Any]) -> tuple[Word, ...]:
    """The words as people write them: what has no space before it belongs to the one before."""
    words: list[Word] = []
    for piece in found:
        text, sure = piece.word.strip(), round(float(piece.probability), 4)
        if words and text and not piece.word[0].isspace():
            last = words.pop()
            sure = min(last.confidence or 0.0, sure)
            words.append(Word(last.text + text, last.start_seconds, float(piece.end), sure))
        elif text:
            words.append(Word(text, float(piece.start), float(piece.end), sure))
    return tuple(words)
