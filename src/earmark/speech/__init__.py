"""Speech becomes text: the engines that do it, and what every one of them keeps.

An engine is one file here and one line in `ENGINES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from earmark.errors import EarmarkError
from earmark.model import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from earmark.model.transcript import Segment

    Samples = NDArray[np.float32]

ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "local": "earmark.speech.local:Local",
        "remote": "earmark.speech.remote:Remote",
    }
)
"""By the name in the settings: "module:class", resolved by the worker that uses it."""

_GUARD = "earmark.speech.guard:Guarded"

RATE_HZ = 16_000
"""Of all sound that engines hear: what every usual model was trained on."""

LANGUAGES: Mapping[str, str] = MappingProxyType({"en-US": "en", "es-MX": "es"})
"""Locale → the language that is recognized, ISO 639-1."""

_NO_ENGINE = Cause(
    "speech_engine_missing",
    "What recognizes speech is not installed here. Install it with "
    "`pip install 'earmark[speech]'`, then retry.",
)


class SpeechMissingError(EarmarkError):
    """Speech cannot be recognized here; the cause says what to install or to set."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.message)
        self.cause = cause


class SpeechFailedError(EarmarkError):
    """The engine did not do it this time; the cause says why, for a person."""

    def __init__(self, cause: Cause, *, final: bool = False) -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.final = final


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator decides about recognition; each engine takes what it needs.

    Attributes:
        models: folder in which models are installed.
        model: name of an installed model or path of a CTranslate2 folder; for a remote engine
            the name that its server knows. "" is the usual one.
        url: base address of a remote engine, like http://127.0.0.1:8000/v1.
        key: that the remote engine asks for; "" if none.
        threads: of a local engine; 0 means one per processor.
    """

    models: Path
    model: str = ""
    url: str = ""
    key: str = ""
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What recognized, so that a result can be judged and had again; see `Recognition`."""

    engine: str
    model: str
    model_sha256: str | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Language:
    """A language that was found, ISO 639-1, and how sure the engine is, 0 to 1."""

    code: str
    probability: float


class Transcriber(Protocol):
    """An engine. One serves every thread of a worker.

    The class of an engine may take it that somebody speaks in all of the sound it is given:
    `open_engine` puts a guard before it, which keeps the rest from it.

    Attributes:
        identity: known as soon as the engine was made.
    """

    identity: Identity

    def __init__(self, options: Options) -> None:
        """Makes it ready, as far as that is quick.

        Raises:
            SpeechMissingError: something is not installed or not set.
        """

    def transcribe(self, samples: Samples, language: str) -> tuple[Segment, ...]:
        """What is said in a piece of sound of one channel.

        Args:
            samples: at 16 kHz, -1 to 1; at most a few minutes of it.
            language: that is spoken, ISO 639-1.

        Returns:
            Segments in the order of time, with text, times from the beginning of the samples,
            words and confidence; none where nobody speaks.

        Raises:
            SpeechFailedError: it could not; another attempt may, unless it is final.
        """

    def detect(self, samples: Samples) -> Language | None:
        """Which language is spoken in a piece of sound; None if nobody speaks or nobody knows.

        Raises:
            SpeechFailedError: as `transcribe`.
        """


def open_engine(name: str, options: Options) -> Transcriber:
    """The engine of that name, guarded: it hears no words where nobody speaks.

    Raises:
        SpeechMissingError: something is not installed or not set.
        KeyError: there is no such engine.
    """
    path = ENGINES[name]
    try:
        engine: type[Transcriber] = resolve_name(path)
        guarded: Callable[[Transcriber], Transcriber] = resolve_name(_GUARD)
    except ModuleNotFoundError as error:
        raise SpeechMissingError(_NO_ENGINE) from error
    return guarded(engine(options))
