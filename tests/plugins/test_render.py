"""What every form of a transcript keeps, run over the whole registry, and what each alone does."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
import srt
import webvtt
from hypothesis import given
from hypothesis import strategies as st

from earmark.model.transcript import Recognition, Segment, Speaker, Transcript, Word
from earmark.render import FORMATS, format_named
from earmark.render.json import parse
from earmark.render.timeline import CUE_CHARACTERS, cues

NOON = datetime(2026, 3, 18, 12, tzinfo=UTC)
RECOGNITION = Recognition("local", "base", "0" * 64, {"beam_size": 5}, "en", "es", 0.7)


def spoken(*segments: Segment) -> Transcript:
    return Transcript(segments, "en", duration_seconds=7200.0, recognition=RECOGNITION)


def written(*segments: Segment) -> Transcript:
    return Transcript(segments, "en", chat_format="plain")


def words(text: str, start: float = 0.0) -> tuple[Word, ...]:
    return tuple(
        Word(word, start + number, start + number + 0.5, 0.9)
        for number, word in enumerate(text.split())
    )


CALL = spoken(
    Segment("Good morning.", Speaker.AGENT, 0.0, 1.5, channel=0, words=words("Good morning.")),
    Segment("Hello <b> & --> you", Speaker.CUSTOMER, 1.0, 2.0, channel=1),
    Segment("Later.", Speaker.AGENT, 7199.25, 7200.0),
)
CHAT = written(
    Segment("Hi\n\nthere", Speaker.CUSTOMER, at=NOON, name="Zoë <x>"),
    Segment("Hello!", Speaker.BOT, at=NOON + timedelta(seconds=3)),
    Segment("¿Sí? שלום 👋", at=NOON + timedelta(hours=30)),
)

text = st.text(max_size=300)
times = st.floats(0, 1e5, allow_nan=False)
segments = st.builds(
    Segment,
    text=text.filter(lambda value: value.isprintable()) | text,
    speaker=st.sampled_from(Speaker),
    start_seconds=st.none() | times,
    end_seconds=st.none() | times,
    at=st.none() | st.datetimes(timezones=st.just(UTC)),
    name=st.none() | text,
    channel=st.none() | st.integers(0, 7),
    confidence=st.none() | st.floats(0, 1),
    words=st.lists(st.builds(Word, text=text, start_seconds=times, end_seconds=times)).map(tuple),
)
transcripts = st.builds(
    Transcript,
    segments=st.lists(segments, max_size=6).map(tuple),
    language=st.sampled_from(["en", "es"]),
    duration_seconds=st.none() | times,
    recognition=st.none() | st.just(RECOGNITION),
    chat_format=st.none() | st.just("plain"),
)


def render(extension: str, transcript: Transcript) -> str:
    return format_named(extension).render(transcript).decode()


@pytest.mark.parametrize("extension", FORMATS)
@given(transcript=transcripts)
def test_every_transcript_has_every_form(extension: str, transcript: Transcript) -> None:
    assert render(extension, transcript) == render(extension, transcript)


@pytest.mark.parametrize("extension", FORMATS)
def test_a_form_says_what_was_said_and_by_whom(extension: str) -> None:
    told = render(extension, CALL)
    assert "Good morning." in told
    assert "agent" in told.lower()
    assert "customer" in told.lower()


@pytest.mark.parametrize("extension", FORMATS)
def test_a_form_keeps_letters_of_every_script(extension: str) -> None:
    assert "¿Sí? שלום 👋" in render(extension, CHAT)


@pytest.mark.parametrize("extension", FORMATS)
def test_a_form_has_a_content_type(extension: str) -> None:
    assert "/" in format_named(extension).content_type


@given(transcripts)
def test_json_is_read_back_as_it_was(transcript: Transcript) -> None:
    assert parse(format_named("json").render(transcript)) == transcript


def test_json_of_a_later_version_is_not_misread() -> None:
    with pytest.raises(ValueError, match="version"):
        parse(b'{"version":2}')


@given(transcripts)
def test_another_reader_finds_the_cues_of_webvtt(transcript: Transcript) -> None:
    read = webvtt.from_buffer(io.StringIO(render("vtt", transcript))).captions
    expected = cues(transcript)
    assert [cue.start_in_seconds for cue in read] == [
        int(round(cue.start_seconds * 1000) / 1000) for cue in expected
    ]
    assert len(read) == len(expected)


def test_webvtt_is_escaped_and_names_voices() -> None:
    assert render("vtt", CALL) == (
        "WEBVTT\n"
        "\n00:00:00.000 --> 00:00:01.500\n<v Agent>Good morning.\n"
        "\n00:00:01.000 --> 00:00:02.000\n<v Customer>Hello &lt;b&gt; &amp; --&gt; you\n"
        "\n01:59:59.250 --> 02:00:00.000\n<v Agent>Later.\n"
    )


def test_messages_are_cues_that_last_until_the_next() -> None:
    assert render("vtt", CHAT) == (
        "WEBVTT\n"
        "\n00:00:00.000 --> 00:00:03.000\n<v Zoë &lt;x&gt;>Hi\nthere\n"
        "\n00:00:03.000 --> 00:00:10.000\n<v Bot>Hello!\n"
        "\n30:00:00.000 --> 30:00:07.000\n<v Speaker>¿Sí? שלום 👋\n"
    )


def test_messages_without_times_follow_each_other() -> None:
    chat = written(Segment("one"), Segment("two"), Segment("three"))
    assert [cue.start_seconds for cue in cues(chat)] == [0.0, 2.0, 4.0]


def test_a_message_that_tells_no_time_goes_with_the_one_before() -> None:
    chat = written(
        Segment("zero"),
        Segment("one", at=NOON),
        Segment("two"),
        Segment("early", at=NOON - timedelta(hours=1)),
        Segment("three", at=NOON + timedelta(seconds=5)),
    )
    assert [cue.start_seconds for cue in cues(chat)] == [0.0, 0.0, 0.0, 0.0, 5.0]


def test_long_speech_is_cut_at_its_words() -> None:
    said = " ".join(f"word{number}" for number in range(60))
    found = cues(spoken(Segment(said, Speaker.AGENT, 0.0, 60.0, words=words(said))))
    assert all(0 < len(cue.text) <= CUE_CHARACTERS for cue in found)
    assert " ".join(cue.text for cue in found) == said
    assert [cue.start_seconds for cue in found][:2] == [0.0, float(len(found[0].text.split()))]
    assert max(len(cue.text) for cue in found) - min(len(cue.text) for cue in found) < 30


def test_long_speech_whose_words_tell_no_times_stays_whole() -> None:
    said = "word " * 60
    (cue,) = cues(spoken(Segment(said, Speaker.AGENT, 0.0, 60.0)))
    assert (cue.text, cue.end_seconds) == (said.strip(), 60.0)


@given(transcripts)
def test_subrip_is_read_back_with_its_times(transcript: Transcript) -> None:
    read = list(srt.parse(render("srt", transcript)))
    assert [sub.start / timedelta(milliseconds=1) for sub in read] == [
        round(cue.start_seconds * 1000) for cue in cues(transcript)
    ]


def test_subrip_names_speakers_and_holds_no_arrow() -> None:
    assert render("srt", CALL).startswith(
        "1\n00:00:00,000 --> 00:00:01,500\nAgent: Good morning.\n\n"
        "2\n00:00:01,000 --> 00:00:02,000\nCustomer: Hello <b> & -> you\n\n"
    )


@given(transcripts)
def test_text_has_one_line_for_each_segment(transcript: Transcript) -> None:
    assert render("txt", transcript).count("\n") == len(transcript.segments)


def test_text_tells_time_and_speaker() -> None:
    assert render("txt", CALL) == (
        "00:00:00 Agent: Good morning.\n"
        "00:00:01 Customer: Hello <b> & --> you\n"
        "01:59:59 Agent: Later.\n"
    )
    assert render("txt", CHAT) == (
        "00:00:00 Zoë <x>: Hi there\n00:00:03 Bot: Hello!\n30:00:00 Speaker: ¿Sí? שלום 👋\n"
    )
