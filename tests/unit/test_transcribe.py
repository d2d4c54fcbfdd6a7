"""The step that transcribes, with an engine that is told what to hear."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from earmark.errors import MediaError
from earmark.interactions import media_key, transcript_key
from earmark.model import AudioFacts, Cause, MediaType
from earmark.model.transcript import Speaker, Transcript
from earmark.pipeline import Done, Item, Skipped, Tools, TransientError
from earmark.pipeline.transcribe import OFF, Transcribe
from earmark.render.json import parse
from earmark.sandbox import Limits
from earmark.speech import Language, SpeechFailedError, SpeechMissingError
from earmark.storage import Store, open_store
from earmark.telemetry import metrics
from processing import Remembered, load, receive
from speaking import Scripted, tone, wav

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Database

LONG_SECONDS = 250
"""Two blocks of each channel."""


class Call:
    """A recording in a store, and an engine for it."""

    def __init__(self, store: Store, interaction_id: UUID, organization: UUID) -> None:
        self.store = store
        self.engine = Scripted()
        facts = AudioFacts("wav", "pcm_s16le", 16_000, 2, LONG_SECONDS, None)
        self.item = Item(
            organization, interaction_id, MediaType.AUDIO, ".wav", "en-US", 0, audio=facts
        )

    def record(self, *channels: Any) -> None:
        self.store.put(media_key(self.item.interaction_id), wav(*channels))
        facts = self.item.audio
        assert facts
        self.item = replace(self.item, audio=replace(facts, channels=len(channels)))

    def run(self, notes: Remembered | None = None, engine: Callable[[], Any] | None = None) -> Any:
        tools = Tools(self.store, Limits(), engine or (lambda: self.engine))
        return Transcribe(tools).run(self.item, notes or Remembered())

    def transcript(self) -> Transcript:
        return parse(b"".join(self.store.read(transcript_key(self.item.interaction_id))))


@pytest.fixture
def call(tmp_path: Path, database: Database, organization: UUID) -> Call:
    store = open_store(f"file:{tmp_path}/objects")
    made = Call(store, receive(database, organization), organization)
    made.record(tone(LONG_SECONDS, 0.25), tone(LONG_SECONDS, 0.75))
    return made


def test_both_channels_are_heard_and_labelled(call: Call) -> None:
    assert isinstance(call.run(), Done)
    transcript = call.transcript()
    told = [(one.start_seconds, one.speaker, one.text) for one in transcript.segments]
    assert told[:2] == [(0.5, Speaker.AGENT, "25"), (0.5, Speaker.CUSTOMER, "75")]
    assert len(told) == len(call.engine.heard) == 4
    assert transcript.duration_seconds == LONG_SECONDS


def test_which_channel_is_the_agents_is_the_organizations_to_say(call: Call) -> None:
    call.item = replace(call.item, agent_channel=1)
    call.run()
    assert call.transcript().segments[0].speaker is Speaker.CUSTOMER


def test_two_equal_channels_are_heard_once(call: Call) -> None:
    call.record(tone(3), tone(3))
    call.run()
    (segment,) = call.transcript().segments
    assert (segment.speaker, segment.channel) == (Speaker.UNKNOWN, None)


def test_a_silent_channel_is_not_listened_to(call: Call) -> None:
    call.record(tone(3), tone(3, 0.0))
    call.run()
    assert len(call.engine.heard) == 1


def test_sound_and_work_are_counted_block_by_block(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[float]] = {"sound": [], "work": []}
    for name, metric in (
        ("sound", metrics.TRANSCRIBED_SECONDS),
        ("work", metrics.TRANSCRIPTION_SECONDS),
    ):
        note = partial(lambda told, amount: told.append(amount), seen[name])
        monkeypatch.setattr(metric, "add", note)
    call.engine.before = lambda _number: time.sleep(0.01)
    call.run()
    assert len(seen["sound"]) == len(seen["work"]) == 4
    assert sum(seen["sound"]) == pytest.approx(2 * LONG_SECONDS, abs=0.1)
    assert all(seconds >= 0.01 for seconds in seen["work"])


def test_progress_grows_to_the_whole(call: Call) -> None:
    notes = Remembered()
    call.run(notes)
    assert notes.progress == sorted(notes.progress)
    assert notes.progress[-1] == pytest.approx(1.0)
    assert len(notes.progress) == 4


def test_blocks_that_were_recognized_are_not_recognized_again(call: Call) -> None:
    def die(number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    notes = Remembered()
    call.engine.before = die
    with pytest.raises(KeyboardInterrupt):
        call.run(notes)
    call.engine.before = lambda _: None
    call.run(notes)
    assert len(call.engine.heard) == 4
    resumed = call.transcript()
    call.run()
    assert call.transcript() == resumed


def test_what_another_model_recognized_is_not_used(call: Call) -> None:
    notes = Remembered()
    call.run(notes)
    call.engine = Scripted(model="two")
    call.run(notes)
    assert len(call.engine.heard) == 4


def test_the_transcript_tells_how_it_was_made(call: Call) -> None:
    call.run()
    recognition = call.transcript().recognition
    assert recognition
    assert (recognition.engine, recognition.model) == ("scripted", "one")
    assert recognition.model_sha256 == "0" * 64
    assert (recognition.language, recognition.detected_language) == ("en", "en")


def test_facts_and_warning_are_saved_with_the_outcome(
    call: Call, database: Database, organization: UUID
) -> None:
    call.engine.language = Language("es", 0.9)
    outcome = call.run()
    with database.write(organization) as scope:
        outcome.save(scope)
    found = load(database, call.item.interaction_id)
    assert found.transcript
    assert (found.transcript.segment_count, found.transcript.word_count) == (4, 4)
    assert (found.transcript.engine, found.transcript.detected_language) == ("scripted", "es")
    assert [warning.code for warning in found.warnings] == ["language_mismatch"]
    assert "English" in found.warnings[0].message
    assert "Spanish" in found.warnings[0].message


@pytest.mark.parametrize("language", [None, Language("es", 0.5), Language("en", 1.0)])
def test_nobody_is_warned_of_a_language_that_is_not_sure(
    call: Call, database: Database, organization: UUID, language: Language | None
) -> None:
    call.engine.language = language
    outcome = call.run()
    with database.write(organization) as scope:
        outcome.save(scope)
    assert load(database, call.item.interaction_id).warnings == ()


def test_without_an_engine_the_step_is_skipped_and_says_so(call: Call) -> None:
    outcome = Transcribe(Tools(call.store, Limits())).run(call.item, Remembered())
    assert outcome == Skipped(OFF)


def test_without_a_model_the_step_is_skipped_with_what_to_do(call: Call) -> None:
    cause = Cause("speech_model_missing", "Install one.")

    def missing() -> Scripted:
        raise SpeechMissingError(cause)

    assert call.run(engine=missing) == Skipped(cause)


@pytest.mark.parametrize(("final", "error"), [(True, MediaError), (False, TransientError)])
def test_an_engine_that_fails_is_told_by_its_cause(
    call: Call, final: bool, error: type[Exception]
) -> None:
    def fail(_: int) -> None:
        raise SpeechFailedError(Cause("speech_unreachable", "It is away."), final=final)

    call.engine.before = fail
    with pytest.raises(error, match="It is away"):
        call.run()


def test_a_recording_that_was_not_listened_to_is_our_fault(call: Call) -> None:
    call.item = replace(call.item, audio=None)
    with pytest.raises(RuntimeError):
        call.run()


def test_discarding_takes_the_transcript_away(call: Call) -> None:
    call.run()
    Transcribe(Tools(call.store, Limits())).discard(call.item)
    assert set(call.store.keys(older_than_seconds=-1)) == {media_key(call.item.interaction_id)}
