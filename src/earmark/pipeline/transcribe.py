"""The step that turns what was said in a recording into a transcript, block by block."""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from earmark import audio
from earmark.database import processing
from earmark.errors import MediaError
from earmark.interactions import media_key, transcript_key
from earmark.model import Cause, MediaType, Warn
from earmark.model.transcript import Recognition, Transcript
from earmark.pipeline import Done, Item, Outcome, Skipped, Step, Tools, TransientError
from earmark.pipeline.facts import facts
from earmark.render.json import Json, segment
from earmark.speech import LANGUAGES, RATE_HZ, SpeechFailedError, SpeechMissingError
from earmark.speech.merge import merge, placed
from earmark.speech.sound import Sound
from earmark.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from earmark.database.scope import Scope
    from earmark.model.transcript import Segment
    from earmark.pipeline.notes import Notes
    from earmark.speech import Language, Transcriber
    from earmark.speech.sound import Block

OFF = Cause(
    "speech_off",
    "Speech recognition is switched off by EARMARK_SPEECH_ENGINE. Switch it on, then retry.",
)

DETECTION_SECONDS = 60.0
"""A language is looked for in the first block in which somebody speaks, in no more than this."""

SURE = 0.6
"""How probable another language must be, before a person is told of it."""

_NAMES = {"en": "English", "es": "Spanish"}


class Transcribe(Step):
    """See Step. The transcript becomes an object beside the media, its facts go to the row.

    Every block that was recognized is kept at once, so that a worker that dies costs a few
    minutes of a long call and not all of it.
    """

    name = "transcribe"
    required = True

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    @override
    def applies_to(self, media_type: MediaType) -> bool:
        """See Step.applies_to."""
        return media_type is MediaType.AUDIO

    @override
    def run(self, item: Item, notes: Notes) -> Outcome:
        """See Step.run."""
        if self._tools.transcriber is None:
            return Skipped(OFF)
        try:
            transcriber = self._tools.transcriber()
            with self._sound(item) as sound:
                work = _Work(transcriber, sound, LANGUAGES[item.locale])
                heard = work.resume(notes)
        except SpeechMissingError as error:
            return Skipped(error.cause)
        except SpeechFailedError as error:
            if error.final:
                raise MediaError(error.cause.code, error.cause.message) from error
            raise TransientError(error.cause) from error
        transcript = work.transcript(heard, item.agent_channel)
        self._tools.store.put(transcript_key(item.interaction_id), Json().render(transcript))
        return Done(partial(_save, item=item, transcript=transcript))

    @override
    def discard(self, item: Item) -> None:
        """See Step.discard."""
        self._tools.store.delete(transcript_key(item.interaction_id))

    @contextmanager
    def _sound(self, item: Item) -> Iterator[Sound]:
        """The recording, decoded to a file that has no name and goes when this ends."""
        if item.audio is None:
            raise RuntimeError("the recording was not listened to before")
        with tempfile.TemporaryFile() as file:
            with self._tools.store.local_path(media_key(item.interaction_id)) as path:
                limits = self._tools.limits
                audio.decode_speech(path, item.audio, file, rate_hz=RATE_HZ, limits=limits)
            yield Sound(file, item.audio.channels)


class _Work:
    """One recording on its way through an engine."""

    def __init__(self, transcriber: Transcriber, sound: Sound, language: str) -> None:
        self._transcriber = transcriber
        self._sound = sound
        self._language = language
        self._blocks = sound.blocks()

    def resume(self, notes: Notes) -> list[Mapping[str, Any]]:
        """Recognizes what is not recognized yet; returns the parts of all blocks."""
        parts = list(notes.parts())
        if any(part["key"] != self._key(block) for part, block in self._pairs(parts)):
            notes.begin_anew()  # of another engine, model or language
            parts = []
        done = sum(block.seconds for _, block in self._pairs(parts))
        for block in self._blocks[len(parts) :]:
            began = time.monotonic()
            part = self._part(block, detect=not any(part["detected"] for part in parts))
            metrics.TRANSCRIPTION_SECONDS.add(amount=time.monotonic() - began)
            metrics.TRANSCRIBED_SECONDS.add(amount=block.seconds)
            done += block.seconds
            parts.append(part)
            notes.keep(part, progress=done / (self._sound.seconds * self._sound.channels))
        return parts

    def transcript(self, parts: Sequence[Mapping[str, Any]], agent_channel: int) -> Transcript:
        """What the parts make together."""
        found = [segment(told) for part in parts for told in part["segments"]]
        detected = next((part["detected"] for part in parts if part["detected"]), (None, None))
        identity = self._transcriber.identity
        return Transcript(
            segments=merge(found, channels=self._sound.channels, agent_channel=agent_channel),
            language=self._language,
            duration_seconds=round(self._sound.seconds, 3),
            recognition=Recognition(
                engine=identity.engine,
                model=identity.model,
                model_sha256=identity.model_sha256,
                settings=identity.settings,
                language=self._language,
                detected_language=detected[0],
                detected_probability=detected[1],
            ),
        )

    def _pairs(self, parts: Sequence[Any]) -> Iterator[tuple[Any, Block]]:
        return zip(parts, self._blocks, strict=False)

    def _part(self, block: Block, *, detect: bool) -> dict[str, Any]:
        samples = self._sound.read_clear(block)
        found: tuple[Segment, ...] = ()
        if not self._sound.is_silent(block):
            found = self._transcriber.transcribe(samples, self._language)
        detected: Language | None = None
        if found and detect:
            detected = self._transcriber.detect(samples[: int(DETECTION_SECONDS * RATE_HZ)])
        return {
            "key": self._key(block),
            "detected": (detected.code, round(detected.probability, 4)) if detected else None,
            "segments": [asdict(one) for one in placed(found, block.start_seconds, block.channel)],
        }

    def _key(self, block: Block) -> list[Any]:
        identity = self._transcriber.identity
        made = [identity.engine, identity.model, identity.model_sha256, self._language]
        return [*made, block.channel, block.start, block.stop]


def _save(scope: Scope, *, item: Item, transcript: Transcript) -> None:
    processing.save_transcript(
        scope,
        item.interaction_id,
        facts(transcript),
        transcript=transcript,
        warnings=_warnings(transcript),
    )


def _warnings(transcript: Transcript) -> Iterator[Warn]:
    recognition = transcript.recognition
    if recognition is None or (recognition.detected_probability or 0.0) < SURE:
        return
    said, detected = transcript.language, recognition.detected_language or ""
    if detected != said:
        yield Warn(
            "language_mismatch",
            f"The locale says {_NAMES.get(said, said)}, but the recording sounds like "
            f"{_NAMES.get(detected, detected)}; its transcript may be wrong.",
        )
