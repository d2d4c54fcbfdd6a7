"""`web.acxapi.wire`: what the request itself tells, judged without app, database or form."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark.errors import Fault, RefusedError, Why
from earmark.intake import Accepted
from earmark.model import EXTENSIONS, MediaType, now
from earmark.web.acxapi import upload, wire
from earmark.web.acxapi.wire import FilePart, file_part, read_submission, refusal

WAV = FilePart(".wav")


def sent(**values: Any) -> bytes:
    return json.dumps({"FileName": "a.wav", "UploadType": "Audio", **values}).encode()


def whys(metadata: bytes | None, file: FilePart | None = WAV, url: str = "") -> list[Why]:
    with pytest.raises(RefusedError) as caught:
        read_submission(metadata, file, url)
    return [fault.why for fault in caught.value.faults]


def test_every_reason_has_a_sentence_and_the_ten_of_the_contract_come_first() -> None:
    assert set(wire.SENTENCES) == set(Why)
    assert [*wire.SENTENCES][:10] == [
        Why.NO_FILE,
        Why.NO_METADATA,
        Why.METADATA_FORM,
        Why.MEDIA_TYPE,
        Why.VALUE,
        Why.FILE_NAME,
        Why.EXTENSION_MISMATCH,
        Why.NAME_TAKEN,
        Why.LOCALE,
        Why.HIERARCHY,
    ]
    assert len({*wire.SENTENCES.values()}) == len(Why)


@pytest.mark.parametrize("why", [*Why])
def test_a_sentence_is_one_for_a_person(why: Why) -> None:
    sentence = wire.SENTENCES[why]
    assert sentence[0].isupper()
    assert sentence[-1] in ".!"
    assert "\n" not in sentence


@pytest.mark.parametrize("first", [*Why])
@pytest.mark.parametrize("second", [*Why])
def test_the_first_by_precedence_is_told_in_whatever_order_they_were_found(
    first: Why, second: Why
) -> None:
    order = [*wire.SENTENCES]
    expected = min(first, second, key=order.index)
    answer = refusal(RefusedError([Fault(first), Fault(second)]))
    assert (answer.status, answer.code) == (400, expected.value)
    assert answer.sentence == wire.SENTENCES[expected]
    assert len(answer.extra["faults"]) == 2


def test_the_holder_of_a_name_is_told_only_where_the_name_is_what_is_told() -> None:
    holder = uuid4()
    taken = Fault(Why.NAME_TAKEN, "file_name")
    told = refusal(RefusedError([taken], existing_id=holder, duplicate="identical"))
    assert told.headers == {
        "Location": f"/v1/interactions/{holder}",
        "Earmark-Duplicate": "identical",
    }
    assert told.extra["existingId"] == str(holder)
    assert refusal(RefusedError([taken])).headers == {}
    other = refusal(RefusedError([taken, Fault(Why.VALUE)], existing_id=holder))
    assert (other.headers, "existingId" in other.extra) == ({}, False)


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("file_name", "FileName"),
        ("locale", "LocaleId"),
        ("hierarchy_id", "HierarchyId"),
        ("hierarchy_code", "HierarchyCode"),
        ("CallDirection", "CallDirection"),
        ("", ""),
    ],
)
def test_fields_are_shown_by_the_callers_names(field: str, shown: str) -> None:
    answer = refusal(RefusedError([Fault(Why.VALUE, field, "Mend it.")]))
    assert answer.extra["faults"][0] == {
        "code": "metadata_value_invalid",
        "sentence": wire.SENTENCES[Why.VALUE],
        "field": shown,
        "detail": "Mend it.",
    }


@pytest.mark.parametrize(
    ("size", "kilobytes"), [(1, 1), (1024, 1), (1025, 2), (2684354560, 2621440)]
)
def test_the_200_speaks_in_kilobytes(size: int, kilobytes: int) -> None:
    id_ = UUID(int=7)
    body = wire.accepted(Accepted(id_, "a.wav", size, b"", now()))
    assert body == {"id": str(id_), "fileName": "a.wav", "fileSizeKb": kilobytes}


def test_all_faults_of_a_request_are_found() -> None:
    metadata = sent(UploadType="Film", FileName="../x", CallDirection=1, LocaleId=True, Name=[])
    assert whys(metadata, None) == [
        Why.NO_FILE,
        Why.MEDIA_TYPE,
        Why.FILE_NAME,
        Why.VALUE,
        Why.VALUE,
        Why.VALUE,
    ]


@pytest.mark.parametrize("metadata", [None, b""])
def test_no_metadata_is_told_beside_no_file(metadata: bytes | None) -> None:
    assert whys(metadata, None) == [Why.NO_FILE, Why.NO_METADATA]
    assert whys(metadata) == [Why.NO_METADATA]


def test_a_bad_form_is_told_beside_no_file() -> None:
    assert whys(b"{", None) == [Why.NO_FILE, Why.METADATA_FORM]


def test_a_signed_url_is_used_instead_of_the_file() -> None:
    url = "https://storage.example/a"
    assert read_submission(sent(), None, url).file_name == "a.wav"
    assert read_submission(sent(FileName="a.mp3"), WAV, url).file_name == "a.mp3"
    assert read_submission(sent(), FilePart(".exe"), url).file_name == "a.wav"


@pytest.mark.parametrize(
    ("path", "compared"),
    [
        ("/a.mp3", True),
        ("/x/a.MP3?sig=b.wav", True),
        ("/a%2Emp3#a.wav", True),
        ("/a.zip", True),
        ("/a.WAV", False),
        ("/a.bin", False),
        ("/a?name=b.mp3", False),
        ("/a.mp3/b", False),
        ("/", False),
        ("", False),
        (".mp3", False),
    ],
)
def test_the_extension_of_a_signed_url_is_compared_if_it_is_one_of_the_eight(
    path: str, compared: bool
) -> None:
    url = f"https://storage.example{path}"
    if compared:
        assert whys(sent(), None, url) == [Why.EXTENSION_MISMATCH]
    else:
        assert read_submission(sent(), None, url).file_name == "a.wav"


def test_the_extension_of_a_bad_file_is_not_compared() -> None:
    assert whys(sent(), FilePart(".exe")) == [Why.NO_FILE]


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.WAV", ".wav"),
        ("C:\\x.y\\a", ""),
        ("x.y/a", ""),
        ("", ""),
        (".mp3", ".mp3"),
        ("a.", "."),
    ],
)
def test_only_the_extension_of_the_file_part_is_known(name: str, extension: str) -> None:
    assert file_part(name).extension == extension


def test_the_eight_extensions_are_allowed() -> None:
    allowed = EXTENSIONS[MediaType.AUDIO] | EXTENSIONS[MediaType.CHAT]
    assert {each for each in allowed if FilePart(each).allowed} == allowed
    assert len(allowed) == 8
    assert not FilePart("").allowed


KEYS = [
    *("CallDirection", "Name", "Phone", "Email", "AgentFirstName", "AgentLastName", "AgentCode"),
    *("InteractionDate", "ExtendedMetadata", "ExtendedMetadataValues", "HierarchyId"),
    *("HierarchyCode", "ApplyHierarchyToAgent", "LocaleId", "ClientCallId"),
]


@pytest.mark.parametrize("nothing", [None, ""])
def test_null_and_empty_text_mean_absent_for_every_optional_key(nothing: Any) -> None:
    bare = read_submission(sent(), WAV)
    same = sent(**dict.fromkeys(KEYS, nothing))
    submission = read_submission(same, WAV)
    assert submission.metadata_sent == same.decode()
    assert repr(submission).replace(repr(same.decode()), "") == repr(bare).replace(
        repr(bare.metadata_sent), ""
    )


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_is_kept_as_its_json_text(number: float) -> None:
    text = json.dumps(number)
    code = read_submission(sent(AgentCode=number), WAV).agent.code
    assert code == text
    assert type(code) is str


@given(st.integers(-(10**60), 10**60) | st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_in_extended_values_is_that_number(number: float) -> None:
    extended = read_submission(sent(ExtendedMetadataValues={"n": number}), WAV).extended
    assert extended["n"] == number
    assert type(extended["n"]) is type(number)


@given(st.text())
def test_any_text_is_kept_or_refused_as_a_value(text: str) -> None:
    keepable = "\0" not in text and not any(0xD800 <= ord(each) < 0xE000 for each in text)
    if keepable:
        assert read_submission(sent(Name=text), WAV).customer.name == (text or None)
    else:
        assert whys(sent(Name=text)) == [Why.VALUE]


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(metadata: bytes) -> None:
    assert set(whys(metadata)) & {Why.NO_METADATA, Why.METADATA_FORM, Why.MEDIA_TYPE}


@pytest.mark.parametrize("levels", [16, 17])
def test_depth_counts_brackets_outside_text_only(levels: int) -> None:
    inner = "[" * (levels - 1) + '"]}[{\\"[\\\\"' + "]" * (levels - 1)
    metadata = f'{{"FileName": "a.wav", "UploadType": "Audio", "x": {inner}}}'.encode()
    if levels == 16:
        assert read_submission(metadata, WAV).file_name == "a.wav"
    else:
        assert whys(metadata) == [Why.METADATA_FORM]


def test_a_fault_never_repeats_what_was_sent() -> None:
    secret = "J4ne-D03"
    values = {key: [secret] for key in KEYS}
    with pytest.raises(RefusedError) as caught:
        read_submission(sent(**values, UploadType=secret, FileName=f"../{secret}"), WAV)
    assert secret not in repr(caught.value.faults)


def test_an_upload_that_was_not_judged_is_never_committed() -> None:
    absent: Any = None
    made = upload._Upload(absent, absent, absent, keyed=None, is_short=True)
    with pytest.raises(RuntimeError):
        asyncio.run(made.commit())
