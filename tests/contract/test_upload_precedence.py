"""The ten sentences of `POST /Media/Upload`: their words, and which of several is said."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from contract.forms import form, meta

if TYPE_CHECKING:
    from contract.serving import Caller, Kept, Service

seed = pytest.mark.origin("seed")
published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

NO_FILE = "You must upload a file with one of the specified allowed extensions."
NO_METADATA = "You must upload metadata in the request form."
BAD_FORM = "Invalid metadata form object. Please upload metadata in the expected form."
BAD_TYPE = "Unable to properly parse metadata to chat or audio."
BAD_VALUE = "You must upload valid data in your metadata request form payload."
BAD_NAME = "You must upload a valid file name with a valid file extension."
MISMATCH = "File extension in metadata file name and upload file must match!"
TAKEN = "An interaction with this file name already exists."
BAD_LOCALE = "Unsupported locale id provided. Supported locale ids include: 1033, 2058."
BAD_HIERARCHY = (
    "Invalid Hierarchy Id/Code! You must either specify a valid hierarchy id/code from your "
    "organization or omit a hierarchy id/code entirely."
)

both_orders = pytest.mark.parametrize("file_first", [False, True], ids=["metadata", "file"])


@pytest.fixture(scope="module")
def taken(caller: Caller) -> str:
    """A name that an interaction has."""
    metadata = meta()
    assert caller.upload(form(metadata)).status == 200
    name: str = metadata["FileName"]
    return name


@pytest.fixture
def nothing_more_kept(wire: Service, taken: str) -> Any:
    before: Kept = wire.kept()
    yield
    assert wire.kept() == before


@published
@both_orders
@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (form(meta(), None), NO_FILE),
        (form(meta(), name="sent.flac"), NO_FILE),
        (form(meta(), name=""), NO_FILE),
        (form(None), NO_METADATA),
        (form(b""), NO_METADATA),
        (form(b"{"), BAD_FORM),
        (form(meta(UploadType="Video")), BAD_TYPE),
        (form(meta(CallDirection="Sideways")), BAD_VALUE),
        (form(meta(FileName="")), BAD_NAME),
        (form(meta(FileName="call.zip"), name="sent.zip"), BAD_NAME),
        (form(meta(), name="sent.mp3"), MISMATCH),
        (form(meta(LocaleId=1036)), BAD_LOCALE),
        (form(meta(HierarchyCode="Nowhere")), BAD_HIERARCHY),
    ],
)
def test_each_fault_has_its_sentence(
    caller: Caller, sent: bytes, sentence: str, file_first: bool, nothing_more_kept: None
) -> None:
    if file_first:
        head, *parts, tail = sent.split(b"------earmark-golden")
        sent = b"------earmark-golden".join([head, *reversed(parts), tail])
    answer = caller.upload(sent)
    assert (answer.status, answer.text) == (400, sentence)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@published
@both_orders
def test_a_taken_name_has_its_sentence(caller: Caller, taken: str, file_first: bool) -> None:
    answer = caller.upload(form(meta(FileName=taken), file_first=file_first))
    assert (answer.status, answer.text) == (400, TAKEN)


FAULTS: dict[int, dict[str, Any]] = {
    4: {"UploadType": "Video"},
    5: {"InteractionDate": "yesterday"},
    6: {"FileName": "../call.wav"},
    9: {"LocaleId": 1036},
    10: {"HierarchyCode": "Nowhere"},
}
SENTENCES = dict(
    enumerate(
        (
            *(NO_FILE, NO_METADATA, BAD_FORM, BAD_TYPE, BAD_VALUE),
            *(BAD_NAME, MISMATCH, TAKEN, BAD_LOCALE, BAD_HIERARCHY),
        ),
        start=1,
    )
)
TOGETHER = [
    pair
    for pair in itertools.combinations(range(1, 11), 2)
    if pair != (6, 8) and not (pair[0] in {2, 3} and pair[1] > 2)
]
"""Faults that can be there at once. What metadata says is not known where there is none."""


def with_faults(numbers: tuple[int, ...], taken: str, *, file_first: bool) -> bytes:
    metadata: Any = meta()
    for number in numbers:
        metadata |= FAULTS.get(number, {})
    if 8 in numbers:
        metadata["FileName"] = taken
    if 7 in numbers and 6 in numbers:  # both of an extension, else the unsafe name is all
        metadata["FileName"] = "call.zip"
    if 2 in numbers:
        metadata = None
    if 3 in numbers:
        metadata = json.dumps(metadata).encode() + b"}"
    name = "sent.mp3" if 7 in numbers else "sent.wav"
    content = None if 1 in numbers else b"RIFF    WAVE"
    return form(metadata, content, name=name, file_first=file_first)


@ours
@both_orders
@pytest.mark.parametrize("pair", TOGETHER, ids=str)
def test_of_two_faults_the_first_of_the_table_is_told_whatever_the_order_of_parts(
    caller: Caller, taken: str, pair: tuple[int, int], file_first: bool, nothing_more_kept: None
) -> None:
    answer = caller.upload(with_faults(pair, taken, file_first=file_first))
    assert (answer.status, answer.text) == (400, SENTENCES[pair[0]])


@ours
@both_orders
@pytest.mark.parametrize("number", [4, 5, 6, 7, 8, 9, 10])
@pytest.mark.parametrize("content", [b"", b"<html>No</html>"], ids=["empty", "markup"])
def test_content_is_judged_after_all_else(
    caller: Caller, taken: str, number: int, content: bytes, file_first: bool
) -> None:
    sent = with_faults((number,), taken, file_first=file_first)
    answer = caller.upload(sent.replace(b"RIFF    WAVE", content))
    assert (answer.status, answer.text) == (400, SENTENCES[number])


@ours
@both_orders
def test_the_refusal_comes_as_soon_as_both_are_known(caller: Caller, file_first: bool) -> None:
    whole = form(meta(UploadType="Film"), file_first=file_first)
    known = whole.rindex(b"--\r\n") if file_first else whole.rindex(b"RIFF")
    answer = caller.upload([whole[:known] + b"\r\n", b"x" * 100_000])
    assert (answer.status, answer.text) == (400, BAD_TYPE)
    assert answer.headers["connection"] == "close"


@ours
@both_orders
def test_records_are_looked_up_only_if_the_request_itself_is_well(
    caller: Caller, taken: str, file_first: bool
) -> None:
    sent = form(meta(FileName=taken, CallDirection="Up", LocaleId=1), file_first=file_first)
    answer = caller.upload(sent, accept="application/problem+json")
    assert [fault["code"] for fault in answer.json["faults"]] == ["metadata_value_invalid"]


@ours
@both_orders
def test_a_problem_tells_every_fault_found(caller: Caller, file_first: bool) -> None:
    metadata = meta(UploadType="Film", CallDirection="Up", ApplyHierarchyToAgent="perhaps")
    sent = form(metadata, name="sent.exe", file_first=file_first)
    answer = caller.upload(sent, accept="application/problem+json")
    assert answer.json["code"] == "file_missing_or_extension_not_allowed"
    assert [(fault["code"], fault["field"]) for fault in answer.json["faults"]] == [
        ("file_missing_or_extension_not_allowed", "file"),
        ("upload_type_invalid", "UploadType"),
        ("metadata_value_invalid", "CallDirection"),
        ("metadata_value_invalid", "ApplyHierarchyToAgent"),
    ]
    assert answer.json["faults"][0]["sentence"] == NO_FILE


@ours
@both_orders
def test_a_problem_tells_name_locale_and_hierarchy_together(
    caller: Caller, taken: str, file_first: bool
) -> None:
    metadata = meta(FileName=taken, LocaleId="1036", HierarchyId=str(caller.principal.client_id))
    metadata["HierarchyId"] = "00000000-0000-0000-0000-000000000002"
    answer = caller.upload(
        form(metadata, file_first=file_first), accept="application/problem+json"
    )
    assert [fault["field"] for fault in answer.json["faults"]] == [
        "FileName",
        "LocaleId",
        "HierarchyId",
    ]
