"""Sound in blocks, and what was recognized of them joined again."""

from __future__ import annotations

import io
import itertools
import tempfile
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from earmark import audio
from earmark.audio import _speech
from earmark.errors import MediaError
from earmark.model import AudioFacts
from earmark.model.transcript import Segment, Speaker, Word
from earmark.sandbox import Limits
from earmark.speech import (
    ENGINES,
    LANGUAGES,
    RATE_HZ,
    Options,
    SpeechMissingError,
    open_engine,
)
from earmark.speech import sound as sounds
from earmark.speech.crosstalk import silence_leaks
from earmark.speech.guard import is_invented
from earmark.speech.merge import merge, placed
from earmark.speech.sound import Block, Sound
from speaking import ROOT, pcm, tone, wav

if TYPE_CHECKING:
    from pathlib import Path


def said(text: str, start: float, *, channel: int = 0, gap: float = 0.0) -> Segment:
    """One segment, a word each half second, with a gap before the last."""
    words = [
        Word(word, start + number / 2, start + number / 2 + 0.4)
        for number, word in enumerate(text.split())
    ]
    if gap:
        last = words[-1]
        words[-1] = Word(last.text, last.start_seconds + gap, last.end_seconds + gap)
    return Segment(
        text,
        start_seconds=words[0].start_seconds,
        end_seconds=words[-1].end_seconds,
        channel=channel,
        words=tuple(words),
    )


def test_every_locale_has_its_language() -> None:
    assert LANGUAGES == {"en-US": "en", "es-MX": "es"}


def test_blocks_cover_each_channel_once_and_overlap_nowhere() -> None:
    sound = Sound(pcm(tone(700, 0.3), tone(700, 0.6)), 2)
    blocks = sound.blocks()
    for channel in (0, 1):
        mine = [block for block in blocks if block.channel == channel]
        assert mine[0].start == 0
        assert mine[-1].stop == sound.length
        assert all(a.stop == b.start for a, b in itertools.pairwise(mine))
        assert [block.seconds for block in mine] == [240, 240, 220]
    assert blocks == sorted(blocks, key=lambda block: block.start)


def test_a_block_is_cut_at_the_quietest_moment() -> None:
    samples = tone(260)
    samples[204 * RATE_HZ : 205 * RATE_HZ] *= 0.001
    first, _ = Sound(pcm(samples), 1).blocks()
    assert 204 <= first.seconds <= 205


def test_of_quiet_moments_the_last_ends_a_block() -> None:
    samples = tone(260)
    for second in (190, 210, 250):
        samples[second * RATE_HZ : (second + 1) * RATE_HZ] *= 0.001
    first, _ = Sound(pcm(samples), 1).blocks()
    assert 210 <= first.seconds <= 211


def test_a_block_lasts_as_long_as_somebody_is_heard_in_it_for_four_minutes() -> None:
    every_other = tone(900)
    for second in range(1, 900, 2):
        every_other[second * RATE_HZ : (second + 1) * RATE_HZ] *= 0.001
    first, second = Sound(pcm(every_other), 1).blocks()
    assert 470 <= first.seconds <= 480
    assert first.seconds + second.seconds == 900


def test_a_block_is_no_longer_than_eight_minutes_whatever_is_heard() -> None:
    sound = Sound(pcm(tone(1000, 0.0001)), 1)
    assert [block.seconds for block in sound.blocks()] == [480, 480, 40]
    rare = tone(1000, 0.0001)
    rare[400 * RATE_HZ : 410 * RATE_HZ] = tone(10)
    assert max(block.seconds for block in Sound(pcm(rare), 1).blocks()) <= 480


def test_a_short_recording_is_one_block() -> None:
    assert [block.seconds for block in Sound(pcm(tone(3)), 1).blocks()] == [3.0]


def test_a_recording_of_nothing_has_no_blocks() -> None:
    assert Sound(pcm(tone(0)), 1).blocks() == []


def test_a_block_is_read_as_it_was_recorded() -> None:
    left, right = tone(2, 0.2), tone(2, 0.8)
    sound = Sound(pcm(left, right), 2)
    read = sound.read(Block(1, RATE_HZ, 2 * RATE_HZ))
    assert read.dtype == np.float32
    assert np.abs(read - right[RATE_HZ:]).max() < 1e-4


def test_a_worker_that_dies_loses_five_minutes_of_one_voice_at_most() -> None:
    assert sounds.MOST_HEARD_SECONDS <= 300


def test_silence_is_told_from_sound() -> None:
    sound = Sound(pcm(tone(1, 0.0005), tone(1, 0.01)), 2)
    assert [sound.is_silent(block) for block in sound.blocks()] == [True, False]


def test_channels_that_hold_the_same_are_one() -> None:
    assert Sound(pcm(tone(2), tone(2)), 2).channels == 1


def test_channels_that_losses_made_a_little_different_are_one() -> None:
    noise = np.random.default_rng(7).normal(0, 0.002, 2 * RATE_HZ).astype(np.float32)
    assert Sound(pcm(tone(2), tone(2) + noise), 2).channels == 1


def test_channels_of_two_people_are_two() -> None:
    assert Sound(pcm(tone(2, 0.5), tone(2, 0.4)), 2).channels == 2


def test_two_silent_channels_are_one() -> None:
    assert Sound(pcm(tone(1, 0), tone(1, 0)), 2).channels == 1


@pytest.mark.parametrize(("name", "channels"), [("support-call.wav", 2), ("llamada-citas.mp3", 2)])
def test_a_recording_is_decoded_whole_for_speech(name: str, channels: int) -> None:
    path = ROOT / "samples" / name
    facts = audio.listen(path, limits=Limits()).facts
    with tempfile.TemporaryFile() as file:
        audio.decode_speech(path, facts, file, rate_hz=RATE_HZ, limits=Limits())
        sound = Sound(file, facts.channels)
        assert sound.seconds == pytest.approx(facts.duration_seconds, abs=0.01)
        assert sound.channels == channels
        assert not any(sound.is_silent(block) for block in sound.blocks())


@pytest.mark.parametrize("name", ["support-call.wav", "llamada-citas.mp3"])
def test_what_the_child_decodes_is_the_sound(name: str) -> None:
    path = ROOT / "samples" / name
    facts = audio.listen(path, limits=Limits()).facts
    with path.open("rb") as file:
        told, pieces = _speech.decode(
            file, container=facts.container, channels=facts.channels, rate_hz=RATE_HZ
        )
        data = b"".join(pieces)
    assert told is None
    sound = Sound(io.BytesIO(data), facts.channels)
    assert sound.seconds == pytest.approx(facts.duration_seconds, abs=0.01)
    with tempfile.TemporaryFile() as sink:
        audio.decode_speech(path, facts, sink, rate_hz=RATE_HZ, limits=Limits())
        sink.seek(0)
        assert sink.read() == data


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_recording_is_brought_to_the_channels_that_were_heard(channels: int) -> None:
    made = io.BytesIO(wav(tone(1, 0.5, 8000), tone(1, 0.5, 8000), rate_hz=8000))
    _, pieces = _speech.decode(made, container="wav", channels=channels, rate_hz=RATE_HZ)
    frames = len(b"".join(pieces)) / (2 * channels)
    assert frames == pytest.approx(RATE_HZ, abs=32)


def test_a_file_without_sound_is_told() -> None:
    picture = io.BytesIO()
    with av.open(picture, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        out.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        out.mux(stream.encode(None))
    _, pieces = _speech.decode(picture, container="mp4", channels=1, rate_hz=RATE_HZ)
    with pytest.raises(MediaError) as caught:
        b"".join(pieces)
    assert caught.value.code == "no_audio"


def test_a_recording_that_changes_its_form_on_the_way_keeps_its_channels(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    path.write_bytes(wav(tone(1, rate_hz=8000), tone(1, 0.2, rate_hz=8000), rate_hz=8000))
    facts = AudioFacts("wav", "pcm_s16le", 8000, 3, 1.0, 1.0)
    with tempfile.TemporaryFile() as file:
        audio.decode_speech(path, facts, file, rate_hz=RATE_HZ, limits=Limits())
        assert Sound(file, 3).seconds == pytest.approx(1.0, abs=0.01)


def voice(seed: int, seconds: float = 4.0) -> Any:
    """What is as unlike another one as two voices are: noise whose level goes up and down."""
    count = int(seconds * RATE_HZ)
    loudness = 0.6 + 0.4 * np.sin(2 * np.pi * (2 + seed / 7) * np.arange(count) / RATE_HZ)
    return (np.random.default_rng(seed).normal(0, 0.1, count) * loudness).astype(np.float32)


def delayed(sound: Any, seconds: float) -> Any:
    shift = int(seconds * RATE_HZ)
    return np.concatenate([np.zeros(shift, np.float32), sound[: sound.size - shift]])


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.2])
@pytest.mark.parametrize("leak_db", [-15, -25, -35])
def test_the_voice_of_another_channel_is_silenced(delay: float, leak_db: int) -> None:
    other = voice(1)
    leak = delayed(other, delay) * np.float32(10 ** (leak_db / 20))
    assert not silence_leaks(np.stack([leak, other]), 0).any()


def test_what_leaks_in_is_silenced_though_the_line_is_noisy() -> None:
    other, line = voice(1), voice(9) * np.float32(10 ** (-28 / 20))
    leak = other * np.float32(10 ** (-25 / 20)) + line
    assert not silence_leaks(np.stack([leak, other]), 0).any()


@pytest.mark.parametrize("quieter_db", [0, -10, -30])
def test_who_speaks_at_the_same_time_is_heard_however_quiet(quieter_db: int) -> None:
    own = voice(2) * np.float32(10 ** (quieter_db / 20))
    assert (silence_leaks(np.stack([own, voice(1)]), 0) == own).all()


def test_only_the_part_that_leaks_is_silenced() -> None:
    other, own = voice(1, 8), voice(2, 8)
    other[4 * RATE_HZ :] = 0
    own[: 4 * RATE_HZ] = other[: 4 * RATE_HZ] * np.float32(0.05)
    clear = silence_leaks(np.stack([own, other]), 0)
    assert not clear[: int(3.7 * RATE_HZ)].any()
    assert (clear[4 * RATE_HZ :] == own[4 * RATE_HZ :]).all()


def test_the_louder_channel_and_the_samples_given_stay_as_they_were() -> None:
    other = voice(1)
    channels = np.stack([other * np.float32(0.05), other])
    before = channels.copy()
    assert (silence_leaks(channels, 1) == other).all()
    silence_leaks(channels, 0)
    assert (channels == before).all()


def test_a_block_is_heard_without_what_leaks_into_it() -> None:
    other = voice(1)
    sound = Sound(pcm(other * np.float32(0.05), other), 2)
    leaking, speaking = sound.blocks()
    assert sound.read(leaking).any()
    assert not sound.read_clear(leaking).any()
    assert np.abs(sound.read_clear(speaking) - other).max() < 1e-4


def test_a_recording_of_one_channel_is_heard_as_it_is() -> None:
    sound = Sound(pcm(voice(1)), 1)
    (block,) = sound.blocks()
    assert (sound.read_clear(block) == sound.read(block)).all()


def test_a_recording_that_ends_within_a_moment_is_compared_to_its_end() -> None:
    other = voice(1, 0.1)
    assert not silence_leaks(np.stack([other * np.float32(0.05), other]), 0).any()


@pytest.mark.parametrize(
    ("text", "silence", "log_probability", "invented"),
    [
        ("Thanks for watching.", 0.7, -1.2, True),
        ("Hello.", 0.7, -0.9, False),
        ("Hello.", 0.5, -1.2, False),
        ("Hello.", None, -9.0, False),
        ("Hello.", 1.0, None, False),
        (" ", 0.0, 0.0, True),
        (" ", None, None, True),
    ],
)
def test_a_segment_that_its_engine_does_not_believe_is_invented(
    text: str, silence: float | None, log_probability: float | None, invented: bool
) -> None:
    assert is_invented(text, silence=silence, log_probability=log_probability) is invented


def test_segments_of_a_block_get_their_place_in_the_recording() -> None:
    (segment,) = placed([said("good morning", 1.0)], 100.0, 1)
    assert (segment.start_seconds, segment.end_seconds, segment.channel) == (101.0, 101.9, 1)
    assert [word.start_seconds for word in segment.words] == [101.0, 101.5]


def test_two_channels_are_merged_by_time_and_labelled() -> None:
    merged = merge(
        [said("hello", 5.0, channel=0), said("hi", 1.0, channel=1)], channels=2, agent_channel=1
    )
    assert [(one.text, one.speaker, one.channel) for one in merged] == [
        ("hi", Speaker.AGENT, 1),
        ("hello", Speaker.CUSTOMER, 0),
    ]


def test_nobody_knows_who_speaks_on_one_channel() -> None:
    (segment,) = merge([said("hello", 0.0)], channels=1, agent_channel=0)
    assert (segment.speaker, segment.channel) == (Speaker.UNKNOWN, None)


def test_nobody_knows_who_is_who_in_a_conference() -> None:
    merged = merge([said("a", 0.0, channel=2)], channels=3, agent_channel=0)
    assert (merged[0].speaker, merged[0].channel) == (Speaker.UNKNOWN, 2)


def test_speech_with_a_long_pause_is_two_segments() -> None:
    answer = said("fine", 2.0, channel=1)
    merged = merge([said("how are you", 0.0, gap=4.0), answer], channels=2, agent_channel=0)
    assert [one.text for one in merged] == ["how are", "fine", "you"]
    assert (merged[2].start_seconds, merged[2].end_seconds) == (5.0, 5.4)


def test_speech_without_word_times_stays_whole() -> None:
    whole = Segment("how are you", start_seconds=0.0, end_seconds=9.0, channel=0)
    assert merge([whole], channels=1, agent_channel=0)[0].text == "how are you"


def test_an_engine_whose_library_is_missing_tells_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faster_whisper", None)
    monkeypatch.delitem(__import__("sys").modules, "earmark.speech.local", raising=False)
    with pytest.raises(SpeechMissingError) as caught:
        open_engine("local", Options(tmp_path))
    assert caught.value.cause.code == "speech_engine_missing"
    assert "pip install 'earmark[speech]'" in caught.value.cause.message


def test_engines_are_those_of_the_settings() -> None:
    assert set(ENGINES) == {"local", "remote"}
