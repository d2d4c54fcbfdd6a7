"""Whatever is sent: an answer of the contract, never a failure of ours, and nothing half kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contract.forms import BOUNDARY, body, file_part, form, meta, metadata_part, part, raw_part
from contract.test_upload_precedence import SENTENCES
from earmark.model import extension, normalise_file_name

if TYPE_CHECKING:
    from contract.serving import Answer, Caller

ours = pytest.mark.origin("ours")

# The service is shared by all examples, which is the point: none may leave anything behind.
shared = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=60,
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        *("FileName", "UploadType", "CallDirection", "Name", "Phone", "Email", "AgentFirstName"),
        *("AgentLastName", "AgentCode", "InteractionDate", "ExtendedMetadata", "HierarchyId"),
        *("ExtendedMetadataValues", "HierarchyCode", "ApplyHierarchyToAgent", "LocaleId"),
        "ClientCallId",
    ]
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
PIECES = st.sampled_from(
    [
        *(b"--", b"\r\n", b"\n", b"\r", b":", b'"', b"; ", b"=", b"\0", b"\xff", b" ", b"a.wav"),
        *(BOUNDARY.encode(), b"Content-Disposition: form-data; name=", b"file", b"metadata"),
        *(
            b"filename=",
            b"filename*=utf-8''",
            b"signedUrl",
            b'{"FileName": "a.wav"}',
            b"{",
            b"%00",
        ),
    ]
)


def check(caller: Caller, sent: bytes | list[bytes]) -> Answer:
    """An answer of the contract, and nothing but whole interactions kept."""
    answer = caller.upload(sent)
    kept = caller.service.kept()
    assert answer.status in {200, 400}, answer
    assert (kept.rows, kept.staged) == (kept.objects, 0)
    if answer.status == 400:
        assert answer.text.endswith((".", "!"))
    return answer


@ours
@shared
@given(metadata=st.dictionaries(KEYS | TEXT, JSON, max_size=8))
def test_metadata_of_any_values(caller: Caller, metadata: dict[str, Any]) -> None:
    check(caller, form(json.dumps({**meta(), **metadata}).encode()))


@ours
@shared
@given(sent=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"\xef\xbb\xbf")
@example(b'{"a":' * 17)
def test_metadata_of_any_bytes(caller: Caller, sent: bytes) -> None:
    answer = check(caller, form(sent))
    assert answer.text in SENTENCES.values()


@ours
@shared
@given(pieces=st.lists(PIECES | st.binary(max_size=20), max_size=25))
def test_a_body_of_any_bytes(caller: Caller, pieces: list[bytes]) -> None:
    check(caller, pieces)


@ours
@shared
@given(st.data())
def test_a_good_form_damaged_anywhere(caller: Caller, data: st.DataObject) -> None:
    metadata = meta(FileName=f"{uuid4()}.wav")  # of one length, so that the draws are the same
    whole = form(metadata, file_first=data.draw(st.booleans()))
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 60)))
    put = data.draw(PIECES | st.binary(max_size=10))
    check(caller, [whole[:start], put, whole[stop:]])


@ours
@shared
@given(header=st.lists(TEXT | PIECES.map(lambda raw: raw.decode("latin-1")), max_size=6))
def test_a_part_header_of_any_text(caller: Caller, header: list[str]) -> None:
    line = "Content-Disposition: form-data; name=file; filename" + "".join(header)
    check(caller, body(metadata_part(meta()), raw_part(line, data=b"\x01")))


@ours
@shared
@given(name=TEXT, ending=st.sampled_from([".wav", ".MP3", ".opus"]))
@example("a\\b//c", ".wav")
@example("\u1100\u1161\u11a8", ".wav")
@example("\uff0e\uff0e/x", ".wav")
def test_a_name_is_refused_or_comes_back_in_its_one_spelling(
    caller: Caller, name: str, ending: str
) -> None:
    sent = f"{name}{ending}"
    try:
        stored = normalise_file_name(sent)
    except ValueError:
        stored = ""
    answer = check(caller, form(meta(FileName=sent), name=f"a{ending}"))
    if answer.status == 200:
        assert answer.json["fileName"] == stored
        assert caller.interaction(answer).file_name == stored
        assert normalise_file_name(stored) == stored
        assert extension(stored) == ending.lower()
    else:
        assert answer.text == SENTENCES[8 if stored else 6]


@ours
@shared
@given(content=st.binary(max_size=300), cut=st.integers(1, 400))
def test_any_content_is_kept_byte_for_byte_or_refused(
    caller: Caller, content: bytes, cut: int
) -> None:
    sent = form(meta(), content, file_first=True)
    answer = check(caller, [sent[:cut], sent[cut:]])
    if answer.status == 200:
        reader = caller.service.interactions.for_(caller.principal)
        assert b"".join(reader.media(caller.interaction(answer).id).read()) == content


@ours
@shared
@given(parts=st.permutations(["file", "metadata", "other", "signedUrl"]), url=st.booleans())
def test_the_order_of_parts_changes_nothing(caller: Caller, parts: list[str], url: bool) -> None:
    made = {
        "file": file_part(),
        "metadata": metadata_part(meta()),
        "other": part("other", b"1"),
        "signedUrl": part("signedUrl", b"https://storage.example/a.wav" if url else b""),
    }
    assert check(caller, body(*(made[name] for name in parts))).status == (400 if url else 200)
