"""What every chat format keeps, run over the whole registry, and what each alone does."""

from __future__ import annotations

import base64
import codecs
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chats import LOG, MESSAGES, examples, tarred, unpacked, zipped
from earmark.chat import FORMATS, load_formats
from earmark.chat.log import Log
from earmark.errors import MediaError
from earmark.model.transcript import Segment, Speaker, Transcript
from earmark.render import FORMATS as FORMS
from earmark.render import format_named
from earmark.render.text import told_lines

EXAMPLES = examples()
BY_NAME = {form.name: form for form in load_formats()}
DAY = "2026-03-02T12:00:00+00:00"


def told(text: str, name: str = "talk.txt", **given: object) -> list[list]:
    """The messages of an archive with this log."""
    return unpacked(tarred({name: text}), **given)[1]


@pytest.fixture(params=FORMATS, ids=lambda path: path.rpartition(":")[2])
def form(request: pytest.FixtureRequest):
    (found,) = load_formats([request.param])
    return found


example = pytest.mark.parametrize(
    ("name", "file", "text"), EXAMPLES, ids=[f"{one[0]}-{one[1]}" for one in EXAMPLES]
)


def test_names_are_unique_and_every_format_has_a_title() -> None:
    assert len(BY_NAME) == len(FORMATS)
    assert all(form.title for form in BY_NAME.values())


def test_every_format_is_documented_by_an_example(form) -> None:
    assert form.name in {name for name, _, _ in EXAMPLES}


def test_no_other_format_is_documented() -> None:
    assert {name for name, _, _ in EXAMPLES} == set(BY_NAME)


@example
def test_an_example_of_the_documentation_is_read(name: str, file: str, text: str) -> None:
    value, messages = unpacked({file: text}, instant=DAY)
    assert value["format"] == name
    assert (value["logs_left_out"], value["sides_left_out"]) == ("", "")
    assert len(messages) >= 2
    for at, who, speaker, said in messages:
        assert datetime.fromisoformat(at).utcoffset() == timedelta(0)
        assert who or speaker == "bot"
        assert said.strip() == said
        assert said


@example
def test_only_one_format_knows_an_example(name: str, file: str, text: str) -> None:
    knowing = [form.name for form in BY_NAME.values() if form.knows(Log(file, text))]
    assert knowing == [name]


@example
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be"])
def test_the_encoding_changes_nothing(name: str, file: str, text: str, encoding: str) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
    data = mark.get(encoding, b"") + f"{text}\n".encode(encoding)
    assert unpacked({file: data}) == unpacked({file: text})


@example
def test_line_ends_change_nothing(name: str, file: str, text: str) -> None:
    assert unpacked({file: text.replace("\n", "\r\n")}) == unpacked({file: text})


@example
def test_a_log_that_breaks_off_anywhere_is_read_or_told(name: str, file: str, text: str) -> None:
    for end in range(0, len(text), 7):
        log = Log(file, text[:end])
        for form in BY_NAME.values():
            if form.knows(log):
                assert all(isinstance(one, Segment) for one in form.read(log))


@pytest.mark.parametrize(
    ("file", "text"), [(file, text) for _, file, text in EXAMPLES if Log(file, text).document]
)
def test_a_log_with_any_value_in_it_is_read_or_told(file: str, text: str) -> None:
    """Every value of a JSON example, at any depth, is exchanged for values of other kinds."""
    document = json.loads(text)
    for value in (None, True, -1, 1e300, "", "\ud800\0", [], {}, [[]], [None], {"a": []}):
        for changed in with_each_value_exchanged(document, value):
            read_or_told(file, json.dumps(changed))


def with_each_value_exchanged(document, value):
    if isinstance(document, dict | list):
        keys = list(document) if isinstance(document, dict) else range(len(document))
        for key in keys:
            copy = document.copy()
            copy[key] = value
            yield copy
            for inner in with_each_value_exchanged(document[key], value):
                copy = document.copy()
                copy[key] = inner
                yield copy


def read_or_told(file: str, text: str) -> None:
    for form in BY_NAME.values():
        log = Log(file, text)
        if not form.knows(log):
            continue
        try:
            messages = form.read(log)
        except MediaError:
            continue
        for one in messages:
            json.dumps([one.name, one.text], ensure_ascii=False).encode()
            assert "\0" not in f"{one.name}{one.text}"
            assert one.at is None or one.at.utcoffset() == timedelta(0)


@given(text=st.text() | st.from_regex(r"(\[?\d{1,4}[/.-]\d\d?[/.-]\d{1,4},? .{0,9}[:\]\n ]){0,4}"))
def test_any_text_is_read_told_or_not_known(text: str) -> None:
    read_or_told("any.txt", text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        *("messages", "segments", "text", "at", "name", "speaker", "dialog"),
                        *("vcon", "parties", "type", "start", "body", "Transcript", "Content"),
                        *("AbsoluteTime", "ContentType", "Type", "Participants", "ContactId"),
                    ]
                ),
                inner | st.sampled_from(["text", "MESSAGE", "text/plain", "2026-03-02"]),
                max_size=5,
            )
        ),
        max_leaves=25,
    )
)
def test_any_json_is_read_told_or_not_known(document: object) -> None:
    read_or_told("any.json", json.dumps(document))


@example
@pytest.mark.parametrize("extension", FORMS)
def test_a_chat_has_every_form(name: str, file: str, text: str, extension: str) -> None:
    rendered = format_named(extension).render(transcript_of(unpacked({file: text})[1])).decode()
    for _, who, _, said in unpacked({file: text})[1]:
        assert (who or "Bot") in rendered or extension == "json"
        assert said.split("\n")[0].split("<")[0] in rendered


def transcript_of(messages: list[list]) -> Transcript:
    segments = tuple(
        Segment(said, Speaker(side), at=datetime.fromisoformat(at) if at else None, name=who)
        for at, who, side, said in messages
    )
    return Transcript(segments, "en", chat_format="any")


# Earmark's own


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
transcripts = st.builds(
    Transcript,
    st.lists(
        st.builds(
            Segment,
            words,
            st.sampled_from(Speaker),
            at=st.none() | st.datetimes(timezones=st.just(UTC)),
            name=st.none() | words,
        ),
        min_size=1,
        max_size=6,
    ).map(tuple),
    st.just("en"),
    chat_format=st.just("whatsapp"),
)


@given(transcripts)
def test_every_transcript_of_a_chat_is_read_back_as_it_was(transcript: Transcript) -> None:
    log = Log("a.json_chat", format_named("json").render(transcript).decode())
    assert [form.name for form in BY_NAME.values() if form.knows(log)] == ["earmark"]
    assert tuple(BY_NAME["earmark"].read(log)) == transcript.segments


@pytest.mark.parametrize(
    "text", [LOG, json.dumps(MESSAGES), "\n".join(map(json.dumps, MESSAGES)) + "\n\n"]
)
def test_our_json_is_an_object_an_array_or_lines(text: str) -> None:
    assert told(text) == [
        ["2026-03-02T09:15:00+00:00", "Dana Reyes", "agent", "Good morning."],
        ["2026-03-02T09:15:20+00:00", "Chris Example", "unknown", "Hello."],
    ]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"at": "yesterday"}, "message 2 a time that is no ISO 8601 (yesterday)"),
        ({"at": 5}, "message 2 a time that is no ISO 8601 (5)"),
        ({"speaker": "boss"}, "a speaker other than agent, customer, bot, unknown (boss)"),
        ({"speaker": ["agent"]}, "a speaker other than"),
        ({"name": 7}, "a name that is no text (7)"),
    ],
)
def test_a_wrong_value_of_our_json_is_told_with_its_place(wrong: dict, says: str) -> None:
    with pytest.raises(MediaError) as caught:
        told(json.dumps([MESSAGES[0], {**MESSAGES[1], **wrong}]), "4711.json_chat")
    assert caught.value.code == "chat_damaged"
    assert f"4711.json_chat has in {says}"[:20] in caught.value.message
    assert says in caught.value.message


def test_messages_with_keys_of_another_product_are_not_taken_for_ours() -> None:
    telegram = {"messages": [{"text": "Hi", "from": "Chris", "date": "2026-03-02T09:15:00"}]}
    with pytest.raises(MediaError) as caught:
        told(json.dumps(telegram), "result.json")
    assert caught.value.code == "chat_unknown"
    assert "result.json (JSON with messages)" in caught.value.message


def test_the_text_form_of_a_transcript_is_a_plain_chat() -> None:
    lines = told_lines(transcript_of(told(LOG)))
    assert [one[1:] for one in told("\n".join(lines))] == [
        ["Dana Reyes", "unknown", "Good morning."],
        ["Chris Example", "unknown", "Hello."],
    ]


# Amazon Connect


def item(**given: object) -> dict:
    return {
        "AbsoluteTime": "2026-03-02T09:15:00.120Z",
        "Content": "Hi",
        "ContentType": "text/plain",
        "DisplayName": "Chris",
        "Id": "1",
        "ParticipantId": "c1",
        "ParticipantRole": "CUSTOMER",
        "Type": "MESSAGE",
        **given,
    }


@pytest.mark.parametrize(
    ("role", "side"),
    [
        ("AGENT", "agent"),
        ("SUPERVISOR", "agent"),
        ("CUSTOMER", "customer"),
        ("CUSTOM_BOT", "bot"),
        ("SYSTEM", "bot"),
        ("THIRD", "unknown"),
        (None, "unknown"),
    ],
)
def test_roles_of_connect(role: str | None, side: str) -> None:
    ((_, _, found, _),) = told(json.dumps([item(ParticipantRole=role)]))
    assert found == side


def test_events_of_connect_are_no_messages() -> None:
    start = "application/vnd.amazonaws.connect.event."
    events = [
        item(Type="EVENT", ContentType=f"{start}participant.joined"),
        item(ContentType=f"{start}typing"),
        item(Type="EVENT"),
        item(Type="EVENT", ContentType=f"{start}chat.ended"),
    ]
    assert [one[3] for one in told(json.dumps([*events, item()]))] == ["Hi"]
    with pytest.raises(MediaError) as caught:
        told(json.dumps(events), "only events.json")
    assert caught.value.code == "chat_empty"


def test_the_newest_first_of_connect_comes_out_in_the_order_of_time() -> None:
    items = [item(AbsoluteTime=f"2026-03-02T09:15:0{n}.000Z", Content=str(n)) for n in range(5)]
    random.Random(1).shuffle(items)
    assert [one[3] for one in told(json.dumps({"Transcript": items}))] == list("01234")


def test_attachments_of_connect_are_told_by_name() -> None:
    found = told(
        json.dumps(
            [
                item(
                    Type="ATTACHMENT",
                    Content=None,
                    Attachments=[{"AttachmentName": "map.pdf"}, {"AttachmentId": "x"}],
                )
            ]
        )
    )
    assert found[0][3] == "[Attachment: map.pdf]\n[Attachment]"


def test_an_interactive_message_of_connect_tells_its_choices() -> None:
    kind = "application/vnd.amazonaws.connect.message.interactive"
    content = {
        "templateType": "ListPicker",
        "data": {"content": {"title": "When?", "elements": [{"title": "Today"}]}},
    }
    found = told(json.dumps([item(ContentType=kind, Content=json.dumps(content))]))
    assert found[0][3] == "When?\n- Today"
    found = told(json.dumps([item(ContentType=f"{kind}.response", Content="{}")]))
    assert found[0][3] == "{}"


def test_a_participant_of_connect_lends_the_name() -> None:
    document = {
        "Participants": [{"ParticipantId": "c1", "DisplayName": "Chris"}, "odd"],
        "Transcript": [item(DisplayName=None), item(DisplayName="SYSTEM_MESSAGE")],
    }
    assert [one[1] for one in told(json.dumps(document))] == ["Chris", None]


def test_a_connect_file_without_items_is_an_empty_chat() -> None:
    with pytest.raises(MediaError) as caught:
        told(json.dumps({"ContactId": "1", "Participants": [], "Transcript": []}))
    assert caught.value.code == "chat_empty"


# vCon


def vcon(*dialog: dict, parties: object = ({"name": "A", "role": "agent"},)) -> str:
    return json.dumps({"vcon": "0.4.0", "parties": parties, "dialog": dialog})


def text_of(**given: object) -> str:
    dialog = {"type": "text", "start": "2026-03-02T09:15:41Z", "parties": 0, **given}
    ((_, _, _, said),) = told(vcon(dialog))
    return said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"body": "Hi", "encoding": "none"}, "Hi"),
        ({"body": "Hi"}, "Hi"),
        ({"body": '"Hi"', "encoding": "json"}, "Hi"),
        ({"body": '{"a": 1}', "encoding": "json"}, '{"a": 1}'),
        ({"body": "{broken", "encoding": "json"}, "{broken"),
        (
            {"body": base64.urlsafe_b64encode("¿Sí?".encode()).decode(), "encoding": "base64url"},
            "¿Sí?",
        ),
        ({"body": "_____w", "encoding": "base64url"}, "[Attachment]"),
        ({"body": "<b>", "mediatype": "text/html"}, "[Attachment: text/html]"),
        ({"mimetype": "image/png", "filename": "a.png", "body": "x"}, "[Attachment: a.png]"),
        ({"url": "https://files.example/x"}, "[Attachment]"),
    ],
)
def test_bodies_of_vcon(given: dict, said: str) -> None:
    assert text_of(**given) == said


@pytest.mark.parametrize(
    ("given", "who"),
    [
        ({"parties": [1, 0]}, "B"),
        ({"parties": [0, 1], "originator": 1}, "B"),
        ({"parties": [[1], 0]}, "B"),
        ({"parties": 1}, "B"),
        ({"parties": []}, None),
        ({"parties": 9}, None),
        ({"parties": -1}, None),
        ({}, None),
    ],
)
def test_the_sender_of_a_vcon_dialog(given: dict, who: str | None) -> None:
    parties = [{"name": "A", "role": "agent"}, {"mailto": "B", "role": "Customer"}]
    dialog = {"type": "text", "start": "2026-03-02T09:15:41Z", "body": "Hi", **given}
    ((_, name, side, _),) = told(vcon(dialog, parties=parties))
    assert (name, side) == (who, "customer" if who else "unknown")


def test_a_vcon_is_put_in_the_order_of_time_and_recordings_are_left() -> None:
    found = told(
        vcon(
            {"type": "text", "start": "2026-03-02T09:15:41Z", "body": "2"},
            {"type": "recording", "start": "2026-03-02T09:00:00Z", "body": "x"},
            {"type": "text", "start": "2026-03-02T10:15:20+02:00", "body": "1"},
        )
    )
    assert [one[3] for one in found] == ["1", "2"]
    with pytest.raises(MediaError) as caught:
        told(vcon({"type": "recording", "body": "x"}))
    assert caught.value.code == "chat_empty"


# WhatsApp


def dates(*lines: str, locale: str = "en-US") -> list[str]:
    text = "\n".join(f"{line} - Chris: hi" for line in lines)
    return [str(at)[:16] for at, *_ in told(text, locale=locale)]


def test_a_number_beyond_twelve_decides_the_order_of_a_whole_file() -> None:
    assert dates("01/02/26, 09:00", "13/02/26, 09:00") == ["2026-02-01T09:00", "2026-02-13T09:00"]
    assert dates("01/02/26, 09:00", "02/13/26, 09:00", locale="es-MX") == [
        "2026-01-02T09:00",
        "2026-02-13T09:00",
    ]


def test_time_that_never_runs_backwards_decides_where_no_number_does() -> None:
    # Month first this would go from February to January.
    assert dates("02/01/26, 09:00", "01/02/26, 09:00") == ["2026-01-02T09:00", "2026-02-01T09:00"]


@pytest.mark.parametrize(
    ("locale", "at"), [("en-US", "2026-02-03T09:00"), ("es-MX", "2026-03-02T09:00")]
)
def test_the_locale_decides_the_order_where_nothing_else_does(locale: str, at: str) -> None:
    assert dates("02/03/26, 09:00", locale=locale) == [at]


def test_dates_that_contradict_each_other_are_read_as_far_as_they_exist() -> None:
    assert dates("13/02/26, 09:00", "02/13/26, 09:00") == ["2026-02-13T09:00", "None"]


def test_the_year_may_come_first() -> None:
    assert dates("2026-03-02, 09:00", "2026-03-13, 09:00") == [
        "2026-03-02T09:00",
        "2026-03-13T09:00",
    ]


@pytest.mark.parametrize(
    ("clock", "at"),
    [
        ("9:05 AM", "09:05"),
        ("9:05\u202fPM", "21:05"),
        ("12:05\u00a0a. m.", "00:05"),
        ("12:05 p.m.", "12:05"),
        ("21.05", "21:05"),
        ("9:05:59", "09:05"),
    ],
)
def test_clocks_of_twelve_and_of_twenty_four_hours(clock: str, at: str) -> None:
    assert dates(f"13/02/26, {clock}") == [f"2026-02-13T{at}"]


def test_a_day_that_does_not_exist_is_no_time() -> None:
    assert [one[0] for one in told("31/02/2026, 09:00 - Chris: hi")] == [None]


def test_marks_and_system_lines_of_an_iphone_are_no_part_of_messages() -> None:
    text = (
        "[13/03/26, 09:14:00] Clinic: \u200eMessages and calls are end-to-end encrypted.\n"
        "[13/03/26, 09:15:00] \u202aChris\u202c: Hi \u200ethere\n\nsecond paragraph\n"
        "\u200e[13/03/26, 09:16:00] Chris: \u200e<attached: 01-PHOTO.jpg>\n"
        "\u200e[13/03/26, 09:16:30] Chris: \u200eimage omitted\n"
        "[13/03/26, 09:17:00] You created the group\n"
    )
    assert [one[1:] for one in told(text)] == [
        ["Chris", "unknown", "Hi there\n\nsecond paragraph"],
        ["Chris", "unknown", "[Attachment: 01-PHOTO.jpg]"],
        ["Chris", "unknown", "[Attachment left out]"],
    ]


def test_attachments_of_android_are_told_by_name() -> None:
    text = (
        "13/03/26, 09:15 - Chris: IMG-1.jpg (file attached)\n"
        "13/03/26, 09:16 - Chris: IMG-2.jpg (archivo adjunto)\nsee above\n"
        "13/03/26, 09:17 - Chris: <Multimedia omitido>\n"
    )
    assert [one[3] for one in told(text)] == [
        "[Attachment: IMG-1.jpg]",
        "[Attachment: IMG-2.jpg]\nsee above",
        "[Attachment left out]",
    ]


@pytest.mark.parametrize("piece", ["x", "<attached: ", "x (file attached", "a: "])
def test_a_long_line_costs_no_more_than_its_length(piece: str) -> None:
    """Else this would last for hours."""
    said = piece * (500_000 // len(piece))
    ((_, _, _, found),) = told(f"13/03/26, 09:15 - Chris: {said}")
    assert len(found) > 400_000
    if ":" not in piece:
        assert len(told(f"Chris: {said}")) == 1


def test_times_without_an_offset_are_in_that_of_the_interaction() -> None:
    for text in ("13/03/26, 09:15 - Chris: hi", "2026-03-13 09:15 Chris: hi"):
        ((at, *_),) = told(text, zone_minutes=-300)
        assert at == "2026-03-13T14:15:00+00:00"


# Plain


@pytest.mark.parametrize(
    ("line", "at"),
    [
        ("Chris: hi", None),
        ("09:15 Chris: hi", "2026-03-02T09:15:00+00:00"),
        ("9:15:07 Chris: hi", "2026-03-02T09:15:07+00:00"),
        ("[09:15:07.250] Chris: hi", "2026-03-02T09:15:07.250000+00:00"),
        ("2026-03-05 09:15:07 - Chris: hi", "2026-03-05T09:15:07+00:00"),
        ("2026-03-05T09:15:07Z Chris: hi", "2026-03-05T09:15:07+00:00"),
        ("[2026-03-05T09:15:07-04:00] Chris: hi", "2026-03-05T13:15:07+00:00"),
        ("2026-02-31 09:15 Chris: hi", None),
        ("99:15 Chris: hi", None),
    ],
)
def test_a_plain_line_may_tell_its_time(line: str, at: str | None) -> None:
    assert told(line, instant=DAY) == [[at, "Chris", "unknown", "hi"]]


def test_a_time_beyond_all_years_is_none() -> None:
    for line, minutes in (("0001-01-01 00:00 Chris: hi", 60), ("9999-12-31 23:59 Chris: hi", -60)):
        assert [one[0] for one in told(line, zone_minutes=minutes)] == [None]


DEEP = "[" * 100_000


def test_json_deeper_than_any_stack_is_no_obstacle() -> None:
    with pytest.raises(MediaError) as caught:
        told(DEEP, "deep.json")
    assert caught.value.code == "chat_unknown"
    assert "deep.json (broken JSON)" in caught.value.message
    assert text_of(body=DEEP, encoding="json") == DEEP
    kind = "application/vnd.amazonaws.connect.message.interactive"
    assert told(json.dumps([item(ContentType=kind, Content=DEEP)]))[0][3] == DEEP


def test_a_time_without_a_day_is_none() -> None:
    assert [one[0] for one in told("09:15 Chris: hi")] == [None]


def test_past_midnight_the_next_day_begins() -> None:
    text = "23:59 Chris: one\n00:01 Chris: two\n00:00 Chris: three\n13:00 Chris: four"
    assert [one[0][:16] for one in told(text, instant=DAY)] == [
        "2026-03-02T23:59",
        "2026-03-03T00:01",
        "2026-03-03T00:00",
        "2026-03-03T13:00",
    ]


def test_words_for_a_side_are_understood_in_both_languages() -> None:
    text = "Agente: a\nCliente: c\nBOT: b\nChris: u"
    assert [one[2] for one in told(text)] == ["agent", "customer", "bot", "unknown"]


@pytest.mark.parametrize(
    "text", ["Hello", "https://example.org/x", "{broken: json", "12: 13", "a=b: c", ": x", "-: x"]
)
def test_other_text_is_no_plain_chat(text: str) -> None:
    with pytest.raises(MediaError) as caught:
        told(text)
    assert caught.value.code == "chat_unknown"


def test_a_line_that_names_nobody_goes_on_with_the_message_before() -> None:
    assert told("Chris: one\n  two\n\nDana:\n\nthree\nSilent:\nSilent: ") == [
        [None, "Chris", "unknown", "one\n  two"],
        [None, "Dana", "unknown", "three"],
    ]


def test_any_zip_of_an_example_is_the_same_as_its_tar() -> None:
    for _, file, text in EXAMPLES:
        assert unpacked(tarred({file: text})) == unpacked(zipped({file: text}))
