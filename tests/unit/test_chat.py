"""What is chosen in an archive, joined and told; side files; who is who; the child for real."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chats import LOG, MESSAGES, PAGE, tarred, unpacked, zipped
from earmark import chat, sandbox
from earmark.chat import _unpack, people, side
from earmark.chat.faults import SENTENCES, listed, shown
from earmark.chat.people import People, side_of
from earmark.errors import MediaError
from earmark.model import parse_interaction_date, storable
from earmark.model.transcript import Segment, Speaker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LIMITS = sandbox.Limits(cpu_seconds=20, wall_seconds=60.0)


def fault(files: Mapping[str, str | bytes]) -> MediaError:
    with pytest.raises(MediaError) as caught:
        unpacked(files)
    return caught.value


# Which files


def test_if_a_file_is_called_a_chat_no_other_is_looked_at() -> None:
    value, messages = unpacked({"readme.txt": "Note: hello", "a.json_chat": LOG, "b.json": "{}"})
    assert len(messages) == 2
    assert value["logs_left_out"] == ""
    assert len(unpacked({"readme.txt": "Note: x", "_chat.txt": "Chris: hi"})[1]) == 1


def test_what_no_format_knows_is_left_out_and_told() -> None:
    value, messages = unpacked(
        {
            "a.json": LOG,
            "b.json": "{broken",
            "c.txt": b"\xff\xfe\0\0",
            "d.txt": "\n",
            "e.json": "5",
        }
    )
    assert len(messages) == 2
    assert value["logs_left_out"] == (
        "b.json (broken JSON), c.txt (neither UTF-8 nor UTF-16 with a mark), "
        "d.txt (empty), e.json (JSON)"
    )


@pytest.mark.parametrize(
    "name", [".hidden.txt", "folder/.a.txt", "__MACOSX/a.txt", "x/__MACOSX/._a.txt"]
)
def test_hidden_files_are_passed_over(name: str) -> None:
    assert fault({name: "Chris: hi"}).code == "archive_empty"
    assert len(unpacked({f"./x/a{name[-4:]}": "Chris: hi"})[1]) == 1


def test_an_archive_without_a_log_says_what_it_holds() -> None:
    error = fault({"photo.jpg": "x", "notes\u202edoc.pdf": "x", "a.json_meta": "{}"})
    assert error.code == "chat_missing"
    assert "photo.jpg, notes\\u202edoc.pdf, a.json_meta" in error.message


def test_an_empty_archive_is_told() -> None:
    assert fault({}).code == "archive_empty"


def test_an_unknown_format_is_told_with_what_was_found_and_what_is_understood() -> None:
    error = fault({"result.json": '{"name": "x", "chats": []}', "b.txt": "Hello"})
    assert error.code == "chat_unknown"
    assert "result.json (JSON with name, chats), b.txt (other text)" in error.message
    assert "Amazon Connect transcripts, vCon text dialogs, WhatsApp exports" in error.message


def test_what_was_found_is_told_in_bounds() -> None:
    files = {f"{number:02}{'x' * 500}.json": json.dumps({"k" * 900: 1}) for number in range(50)}
    error = fault(files)
    assert len(error.message) < 3000
    assert "and 40 more" in error.message


def test_text_in_another_encoding_is_told() -> None:
    for data in ("Zoë: hi".encode("latin-1"), "Chris: hi".encode("utf-16-le")):
        error = fault({"a.txt": data})
        assert (error.code, "a.txt" in error.message) == ("chat_encoding", True)
    for data in ("Chris: hi".encode("utf-32"), b"\xff\xfeC"):
        assert fault({"a.txt": data}).code == "chat_encoding"


def test_a_log_without_messages_is_told() -> None:
    error = fault({"a.json_chat": '{"messages": []}'})
    assert (error.code, "a.json_chat" in error.message) == ("chat_empty", True)


def test_logs_that_are_too_large_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unpack, "MAX_LOG_BYTES", 2 * len(LOG))
    assert len(unpacked({"a.json": LOG, "b.json": LOG})[1]) == 4
    error = fault({"a.json": LOG, "b.json": LOG, "c.txt": "x"})
    assert error.code == "chat_too_large"


def test_too_many_messages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unpack, "MAX_MESSAGES", 1)
    assert fault({"a.json": LOG}).code == "chat_too_large"


def test_too_much_text_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unpack, "MAX_ANSWER_BYTES", 100)
    assert fault({"a.json": LOG}).code == "chat_too_large"


# Several logs


def log(*messages: tuple[str | None, str]) -> str:
    made = [{"text": text, "at": f"2026-03-02T09:{at}Z" if at else None} for at, text in messages]
    return json.dumps(made)


def texts(files: Mapping[str, str | bytes]) -> str:
    return "".join(one[3] for one in unpacked(files)[1])


def test_several_logs_are_joined_in_the_order_of_time() -> None:
    assert texts({"a.json": log(("20:00", "2")), "b.json": log(("10:00", "1"))}) == "12"
    two = {
        "a.json": log(("10:00", "1"), ("30:00", "4")),
        "b.json": log(("20:00", "2"), ("25:00", "3")),
    }
    assert texts(two) == "1234"


def test_each_log_keeps_its_own_order() -> None:
    two = {
        "a.json": log((None, "1"), ("10:00", "3"), (None, "4"), ("05:00", "5")),
        "b.json": log(("08:00", "2")),
    }
    assert texts(two) == "12345"


def test_a_log_without_times_comes_last() -> None:
    assert texts({"a.json": log((None, "2"), (None, "3")), "b.json": log(("10:00", "1"))}) == "123"


def test_logs_of_several_formats_name_them_all() -> None:
    value, _ = unpacked({"a.txt": "Chris: hi", "b.json": LOG, "c.json": LOG})
    assert value["format"] == "plain+earmark"


# Side files


def metadata(files: Mapping[str, str | bytes]) -> tuple[dict, str]:
    value, _ = unpacked(tarred({"x/4711.json_chat": LOG, **files}))
    return value["metadata"], value["sides_left_out"]


@pytest.mark.parametrize("kind", ["json", "xml", "csv"])
def test_the_examples_of_the_documentation_are_read(kind: str) -> None:
    block = PAGE.read_text().split(f"<!-- side: {kind} -->\n```{kind}\n")[1].split("```")[0]
    found, left_out = metadata({f"x/4711.{kind}_meta_ext": block})
    assert found == {"queue": "appointments", "csat": 5 if kind == "json" else "5"}
    assert left_out == ""


def test_the_later_side_file_wins() -> None:
    files = {
        "x/4711.json_meta": '{"a": 1.5, "b": 1}',
        "x/4711.csv_meta": "a,0\nc,0",
        "x/4711.xml_meta_ext": "<m><b>2</b></m>",
    }
    assert metadata(files) == ({"a": 1.5, "b": "2", "c": "0"}, "")


def test_a_side_file_of_no_log_is_left_out_and_told() -> None:
    assert metadata({"4711.json_meta": '{"a": 1}', "x/4712.JSON_META": '{"a": 1}'}) == (
        {},
        "4711.json_meta (no log of this name), x/4712.JSON_META (no log of this name)",
    )


def test_a_side_file_goes_with_any_name_of_a_log() -> None:
    for name in ("_chat.txt", "talk.txt"):
        value, _ = unpacked({name: "Chris: hi", f"{name[:-4]}.json_meta": '{"a": 1}'})
        assert value["metadata"] == {"a": 1}


BOMB = '<!ENTITY a0 "lol">' + "".join(
    f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("json", "{", "not JSON"),
        ("json", "[1]", "not a JSON object"),
        ("json", '{"a": NaN}', "not JSON"),
        ("json", '{"a": 1e999}', "not JSON"),
        ("json", '{"a": ' * 100_000, "not JSON"),
        ("json", '{"a": ' * 17 + "1" + "}" * 17, "more than 16 levels"),
        ("json", '{"a": "' + "x" * (260 << 10) + '"}', "too much metadata"),
        ("json", " " * (2 << 20), "too large, or one too many"),
        ("json", b"\xff", "not UTF-8"),
        ("csv", "a,b,c", "not rows of key,value"),
        ("csv", 'a,"b', "not CSV"),
        ("xml", "<a>", "not XML"),
        ("xml", "", "not XML"),
        ("xml", "<a>text</a>", "XML without elements"),
        ("xml", "<a>" * 17 + "</a>" * 17, "more than 16 levels"),
        ("xml", "<a>" * 100_000, "more than 16 levels"),
        ("xml", f"<!DOCTYPE x [{BOMB}]><x><y>&a9;</y></x>", "XML with a document type"),
        (
            "xml",
            '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><x><y>&f;</y></x>',
            "XML with a document type",
        ),
        (
            "xml",
            '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd"><x><y>1</y></x>',
            "XML with a document type",
        ),
        (
            "xml",
            '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><x/>',
            "XML with a document type",
        ),
        ("xml", "<x><y>&f;</y></x>", "not XML"),
    ],
)
def test_a_side_file_that_cannot_be_used_is_left_out(
    name: str, content: str | bytes, why: str
) -> None:
    found, left_out = metadata({f"x/4711.{name}_meta": content, "x/4711.csv_meta_ext": "k,v"})
    assert found == {"k": "v"}
    assert left_out.startswith(f"x/4711.{name}_meta ({why}")


def test_sixteen_levels_of_metadata_are_taken() -> None:
    text = '{"a": ' * 15 + "[1]" + "}" * 15
    assert metadata({"x/4711.json_meta": text})[1] == ""


def test_at_most_so_many_side_files_are_read() -> None:
    files = {f"x/4711.{'json' if n % 2 else 'JSON'}_meta": "{}" for n in range(2)}
    many = {"x/4711.json_chat": LOG} | files
    for number in range(40):
        many |= {f"{number}.json_chat": LOG, f"{number}.csv_meta": f"k{number},v"}
    value, _ = unpacked(many)
    assert len(value["metadata"]) == _unpack.MAX_SIDES - 2
    assert "too large, or one too many" in value["sides_left_out"]


def test_xml_is_read_as_objects_lists_and_texts() -> None:
    text = (
        '<?xml version="1.0" encoding="utf-16"?><!-- c --><m:meta xmlns:m="urn:x">'
        "<m:a> 1 &amp; 2 </m:a><tag>x</tag><tag>y</tag>"
        '<field name="b" value="v"/><field key="c"><d>e</d></field></m:meta>'
    )
    assert side.parse("xml", text) == {
        "a": "1 & 2",
        "tag": ["x", "y"],
        "b": "v",
        "c": {"d": "e"},
    }


def test_values_that_databases_cannot_keep_are_made_so() -> None:
    assert side.parse("json", '{"a\\u0000": ["\\ud800", 1, null]}') == {
        "a\ufffd": ["\ufffd", 1, None]
    }


@given(kind=st.sampled_from(["json", "xml", "csv"]), text=st.text())
def test_any_side_file_is_read_or_told(kind: str, text: str) -> None:
    try:
        found = side.parse(kind, text)
    except ValueError:
        return
    assert storable(json.dumps(found, ensure_ascii=False))


# Words for people


def test_foreign_words_are_shown_short_and_visible() -> None:
    assert shown("a\n\x1b[31mb\u202e\ud800") == "a\\u000a\\u001b[31mb\\u202e\\ud800"
    assert shown("ñ🎉 ok") == "ñ🎉 ok"
    assert len(shown("x" * 500)) == 80
    assert listed([str(n) for n in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 2 more"


def test_every_sentence_ends_as_one() -> None:
    assert all(sentence.endswith(".") for sentence in SENTENCES.values())


# Who is who


@pytest.mark.parametrize(
    ("name", "side_found"),
    [
        *(("Dana Reyes", "agent"), ("DANA  reyes", "agent"), ("Reyes, Dana", "agent")),
        *(("Reyes Dana", "agent"), ("Dana", "agent"), ("Reyes", "unknown")),
        *(("Chris Example", "customer"), ("chris", "customer"), ("Example", "unknown")),
        *(("\uff23hris", "customer"), ("Someone", "unknown")),
    ],
)
def test_names_of_the_upload_tell_the_side(name: str, side_found: str) -> None:
    people = People("Chris Example", "Dana", "Reyes")
    (found,) = people.sides([Segment("hi", name=name)])
    assert found.speaker == side_found


def test_a_side_that_the_format_tells_stays() -> None:
    people = People("Chris Example", "Dana", "Reyes")
    message = Segment("hi", Speaker.BOT, name="Dana")
    assert people.sides([message, Segment("hi")]) == (message, Segment("hi"))


def test_one_name_of_both_sides_tells_nothing() -> None:
    people = People("Dana Example", "Dana", "Reyes")
    found = people.sides([Segment("hi", name="Dana"), Segment("hi", name="Dana Reyes")])
    assert [one.speaker for one in found] == ["unknown", "agent"]


def test_without_names_nobody_is_known() -> None:
    assert People().sides([Segment("hi", name=",")])[0].speaker is Speaker.UNKNOWN
    assert side_of("") is Speaker.UNKNOWN


def test_of_a_name_without_end_its_beginning_is_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To put all of it in form would take half a minute."""
    asked: list[int] = []

    def normalize(_form: str, text: str) -> str:
        asked.append(len(text))
        return text

    monkeypatch.setattr(people, "unicodedata", SimpleNamespace(normalize=normalize))
    known = People("x" * 100_000, "Dana")
    told = known.sides([Segment("hi", name=known.customer), Segment("hello", name="Dana")])
    assert [one.speaker for one in told] == [Speaker.CUSTOMER, Speaker.AGENT]
    assert max(asked) < 1000


# The child


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[bytes], Path]:
    def put(data: bytes) -> Path:
        path = tmp_path / "media"
        path.write_bytes(data)
        return path

    return put


def test_an_archive_becomes_a_transcript_in_the_sandbox(packed: Callable[[bytes], Path]) -> None:
    files = {
        "a.txt_chat": "09:15 Dana: ¿Sí? 👋\n09:16 Chris: no",
        "a.json_meta": '{"queue": "x"}',
        "b.json_meta": "{}",
        "c.json_chat": "nothing",
    }
    found = chat.unpack(
        packed(tarred(files)),
        limits=LIMITS,
        locale="es-MX",
        people=People("Chris", "Dana"),
        date=parse_interaction_date("2026-03-02T23:00:00-05:00"),
    )
    assert found.transcript.segments == (
        Segment(
            "¿Sí? 👋", Speaker.AGENT, at=datetime(2026, 3, 2, 14, 15, tzinfo=UTC), name="Dana"
        ),
        Segment("no", Speaker.CUSTOMER, at=datetime(2026, 3, 2, 14, 16, tzinfo=UTC), name="Chris"),
    )
    assert (found.transcript.language, found.transcript.chat_format) == ("es", "plain")
    assert found.metadata == {"queue": "x"}
    assert [warning.code for warning in found.warnings] == [
        "chat_files_left_out",
        "chat_metadata_left_out",
    ]
    assert "c.json_chat (other text)" in found.warnings[0].message
    assert "b.json_meta (no log of this name)" in found.warnings[1].message


def test_a_fault_comes_out_of_the_sandbox_with_its_words(packed: Callable[[bytes], Path]) -> None:
    with pytest.raises(MediaError, match=r"photo\\u202e\.jpg") as caught:
        chat.unpack(packed(zipped({"photo\u202e.jpg": "x"})), limits=LIMITS, locale="en-US")
    assert caught.value.code == "chat_missing"


def test_a_log_that_needs_too_much_memory_is_told(packed: Callable[[bytes], Path]) -> None:
    limits = sandbox.Limits(memory_bytes=160 << 20, cpu_seconds=60)
    data = tarred({"a.json_chat": "[" + "[]," * (7 << 20) + "[]]"})
    with pytest.raises(MediaError) as caught:
        chat.unpack(packed(data), limits=limits, locale="en-US")
    assert caught.value.code == "chat_too_large"


def test_nothing_personal_is_in_the_process_list(
    packed: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict] = []

    def run(*_: object, arguments: dict, **__: object) -> sandbox.Answer:
        seen.append(arguments)
        value = {"format": "plain", "metadata": {}, "logs_left_out": "", "sides_left_out": ""}
        return sandbox.Answer(value, b"")

    monkeypatch.setattr(sandbox, "run", run)
    people = People("Chris Example", "Dana", "Reyes")
    chat.unpack(packed(b""), limits=LIMITS, locale="en-US", people=people)
    assert seen == [{"locale": "en-US", "zone_minutes": 0, "instant": None}]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (sandbox.DeadlineExceededError("slow"), "chat_too_slow"),
        (sandbox.MemoryExceededError("large"), "chat_too_large"),
        (sandbox.CrashedError(signal.SIGSEGV, ""), "chat_reader_crashed"),
        (sandbox.CrashedError(signal.SIGKILL, ""), None),
        (sandbox.ChildFailedError("ours"), None),
    ],
)
def test_what_ends_the_child_is_told(
    packed: Callable[[bytes], Path],
    monkeypatch: pytest.MonkeyPatch,
    error: sandbox.SandboxError,
    code: str | None,
) -> None:
    def run(*_: object, **__: object) -> sandbox.Answer:
        raise error

    monkeypatch.setattr(sandbox, "run", run)
    with pytest.raises(MediaError if code else type(error)) as caught:
        chat.unpack(packed(b""), limits=LIMITS, locale="en-US")
    if isinstance(caught.value, MediaError):
        assert caught.value.code == code


def test_the_largest_answer_fits(packed: Callable[[bytes], Path]) -> None:
    """Just below the bound of all text, whatever the operator's own bound of answers."""
    many = [{**MESSAGES[0], "text": "\x01" * 100_000} for _ in range(39)]
    limits = sandbox.Limits(output_bytes=1000, cpu_seconds=60)
    found = chat.unpack(
        packed(tarred({"a.json": json.dumps(many)})), limits=limits, locale="en-US"
    )
    assert len(found.transcript.segments) == 39
