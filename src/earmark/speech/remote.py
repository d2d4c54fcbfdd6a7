"""Recognition by a server that speaks the widespread `/v1/audio/transcriptions`.

Source: https://platform.openai.com/docs/api-reference/audio/createTranscription, `verbose_json`.
"""

from __future__ import annotations

import io
import math
import wave
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from typing_extensions import override

from earmark import egress
from earmark.model import Cause
from earmark.model.transcript import Segment, Word
from earmark.speech import (
    RATE_HZ,
    Identity,
    Language,
    Options,
    SpeechFailedError,
    SpeechMissingError,
    Transcriber,
)
from earmark.speech.guard import is_invented

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from earmark.speech import Samples

USUAL_MODEL = "whisper-1"

ANSWER_SECONDS = 60.0
"""For the answer to a short block: of a server that has to load its model first."""

ANSWER_FACTOR = 2.5
"""For as many times as long as the sound lasts, if that is more: a slow, busy server."""

MOST_BYTES = 16 << 20
"""Of an answer: the words of a block are a few kilobytes."""

_FULL_SCALE = 32768.0
_PASSING = frozenset({408, 409, 425, 429})
"""Client errors that pass by themselves."""

_NO_URL = Cause(
    "speech_url_missing",
    "EARMARK_SPEECH_ENGINE is remote, but EARMARK_SPEECH_URL names no server. Set it, then retry.",
)
_NAMES = {"english": "en", "spanish": "es"}
"""Some servers answer with names of languages."""


class Remote(Transcriber):
    """See Transcriber. The server hears each block as a WAV file."""

    def __init__(self, options: Options) -> None:
        """See Transcriber."""
        if not options.url:
            raise SpeechMissingError(_NO_URL)
        self._model = options.model or USUAL_MODEL
        headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
        base = options.url.rstrip("/").removesuffix("/audio/transcriptions")
        self._client = egress.open_client(base_url=base, read_seconds=ANSWER_SECONDS)
        self._client.headers.update(headers)
        self.identity = Identity("remote", self._model, None, {"url": base})

    @override
    def transcribe(self, samples: Samples, language: str) -> tuple[Segment, ...]:
        """See Transcriber.transcribe."""
        answer = self._ask(samples, language=language)
        return _segments(answer)

    @override
    def detect(self, samples: Samples) -> Language | None:
        """See Transcriber.detect. The server does not tell how sure it is."""
        answer = self._ask(samples)
        told = str(answer.get("language") or "").lower()
        said = str(answer.get("text") or "").strip()
        return Language(_NAMES.get(told, told[:2]), 1.0) if told and said else None

    def _ask(self, samples: Samples, **fields: str) -> Mapping[str, Any]:
        form = {
            "model": self._model,
            "response_format": "verbose_json",
            "temperature": "0",
            "timestamp_granularities[]": ["word", "segment"],
            **fields,
        }
        files = {"file": ("block.wav", _wav(samples), "audio/wav")}
        seconds = max(ANSWER_SECONDS, ANSWER_FACTOR * len(samples) / RATE_HZ)
        timeout = httpx.Timeout(seconds, connect=self._client.timeout.connect)
        try:
            with self._client.stream(
                "POST", "/audio/transcriptions", data=form, files=files, timeout=timeout
            ) as answer:
                return _judged(answer)
        except httpx.HTTPError as error:
            raise _unreachable(str(error) or type(error).__name__) from error


def _judged(answer: httpx.Response) -> Mapping[str, Any]:
    body = bytearray()
    for chunk in answer.iter_bytes():
        body += chunk
        if len(body) > MOST_BYTES:
            raise _unreachable(f"it answers more than {MOST_BYTES} bytes")
    status = answer.status_code
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in _PASSING:
        raise _unreachable(f"it answers {status}")
    if status != httpx.codes.OK:
        raise SpeechFailedError(
            Cause(
                "speech_refused",
                f"The speech server refused the recording with status {status}. Check "
                "EARMARK_SPEECH_URL, EARMARK_SPEECH_KEY and EARMARK_SPEECH_MODEL, then retry.",
            ),
            final=True,
        )
    try:
        told = httpx.Response(status, content=bytes(body)).json()
        _segments(told)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreachable("its answer is not that of a transcription") from error
    found: Mapping[str, Any] = told
    return found


def _unreachable(reason: str) -> SpeechFailedError:
    return SpeechFailedError(
        Cause(
            "speech_unreachable",
            f"The speech server did not serve ({reason}). Retry when it does.",
        )
    )


def _segments(answer: Mapping[str, Any]) -> tuple[Segment, ...]:
    words = [
        Word(str(word["word"]).strip(), float(word["start"]), float(word["end"]))
        for word in answer.get("words") or ()
    ]
    return tuple(
        _segment(segment, words)
        for segment in answer.get("segments") or ()
        if not _is_invented(segment)
    )


def _is_invented(told: Mapping[str, Any]) -> bool:
    """See is_invented. Servers that do not tell how sure they are send zeros or nothing."""
    silence, sure = told.get("no_speech_prob"), told.get("avg_logprob")
    return is_invented(
        str(told["text"]),
        silence=None if silence is None else float(silence),
        log_probability=None if sure is None else float(sure),
    )


def _segment(told: Mapping[str, Any], words: Sequence[Word]) -> Segment:
    start, end = float(told["start"]), float(told["end"])
    sure = told.get("avg_logprob")
    return Segment(
        text=str(told["text"]).strip(),
        start_seconds=start,
        end_seconds=end,
        confidence=None if sure is None else round(math.exp(min(0.0, float(sure))), 4),
        words=tuple(word for word in words if start <= word.start_seconds < end),
    )


def _integers(samples: Samples) -> NDArray[np.int16]:
    """What was decoded from 16-bit samples becomes the same again."""
    scaled = np.rint(samples * _FULL_SCALE)
    whole: NDArray[np.int16] = np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    return whole


def _wav(samples: Samples) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE_HZ)
        out.writeframes(_integers(samples).tobytes())
    return file.getvalue()
