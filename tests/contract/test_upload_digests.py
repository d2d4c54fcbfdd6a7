"""A digest that is sent with the file is verified, and tells of a taken name what it can."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from contract.forms import WAV, body, meta, metadata_part, raw_part, wav
from contract.test_upload_precedence import TAKEN

if TYPE_CHECKING:
    from contract.serving import Caller, Service

ours = pytest.mark.origin("ours")

PROBLEM = "application/problem+json"
HEADER = 'Content-Disposition: form-data; name="file"; filename="sent.wav"'
MISMATCH = "The file that was received does not match its digest. Please upload it again."
MALFORMED = (
    "Invalid digest of the file. You must upload a Repr-Digest or Content-Digest with a "
    "well-formed sha-256, or none."
)


def base64_of(content: bytes) -> str:
    return b64encode(hashlib.sha256(content).digest()).decode()


def digest(content: bytes) -> str:
    return f"sha-256=:{base64_of(content)}:"


def form(*headers: str, content: bytes = WAV, file_first: bool = False, **metadata: str) -> bytes:
    """A form whose file part has these header lines."""
    parts = [metadata_part(meta(**metadata)), raw_part(HEADER, *headers, data=content)]
    return body(*(reversed(parts) if file_first else parts))


RIGHT = [
    f"Repr-Digest: {digest(WAV)}",
    f"Content-Digest: {digest(WAV)}",
    f"repr-digest:{digest(WAV)}",
    f"Repr-Digest: {digest(WAV).rstrip(':').rstrip('=')}:",
    f"Repr-Digest: sha-512=:AAAA:, {digest(WAV)} , md5=:AAAA:",
    f"Repr-Digest: {digest(b'other')}, {digest(WAV)}",
    f"Repr-Digest: {digest(WAV)};a;b=1",
    f"Repr-Digest: {digest(WAV)}\r\nContent-Digest: {digest(WAV)}",
    "Repr-Digest: sha-512=:AAAA:, unixsum=:AAAA:",
    "Repr-Digest: ",
]


@ours
@pytest.mark.parametrize("file_first", [True, False])
@pytest.mark.parametrize("header", RIGHT)
def test_a_right_digest_is_taken_and_unknown_algorithms_are_ignored(
    caller: Caller, header: str, file_first: bool
) -> None:
    answer = caller.upload(form(*header.split("\r\n"), file_first=file_first))
    assert answer.status == 200, answer.text
    assert answer.headers["repr-digest"] == digest(WAV)


@ours
@pytest.mark.parametrize("name", ["Repr-Digest", "Content-Digest"])
@pytest.mark.parametrize("file_first", [True, False])
def test_another_file_than_the_digest_says_is_refused_and_not_kept(
    caller: Caller, wire: Service, name: str, file_first: bool
) -> None:
    before = wire.kept()
    sent = form(f"{name}: {digest(wav(0.02))}", file_first=file_first)
    assert caller.upload(sent).text == MISMATCH
    problem = caller.upload(sent, accept=PROBLEM).json
    assert problem["code"] == "digest_mismatch"
    told = f"{len(WAV)} bytes came, whose SHA-256 is {hashlib.sha256(WAV).hexdigest()}, not "
    assert problem["faults"][0]["detail"].startswith(told)
    assert wire.kept() == before


@ours
def test_what_the_file_is_comes_before_its_digest(caller: Caller) -> None:
    header = f"Repr-Digest: {digest(WAV)}"
    for content, code in (
        (b"", "file_empty"),
        (b"<?xml version='1.0'?><Error/>", "file_not_media"),
    ):
        sent = form(header, content=content, file_first=True)
        assert caller.upload(sent, accept=PROBLEM).json["code"] == code


MALFORMED_FIELDS = [
    "sha-256",
    "sha-256=",
    f"sha-256={base64_of(WAV)}",
    f'sha-256="{base64_of(WAV)}"',
    f"SHA-256=:{base64_of(WAV)}:",
    f"sha-256=:{hashlib.sha256(WAV).hexdigest()}:",
    "sha-256=:AAAA:",
    "sha-256=::",
    "sha-256=:A:",
    "sha-256=:A=A=:",
    f"{digest(WAV)} {digest(WAV)}",
    f"{digest(WAV)},",
    f"{digest(WAV)};",
    f", {digest(WAV)}",
    "nonsense",
    "sha-256=:" + "A" * 15_000,
    "a" * 15_000,
]


@ours
@pytest.mark.parametrize("file_first", [True, False])
@pytest.mark.parametrize("sent", MALFORMED_FIELDS, ids=lambda sent: f"{sent[:30]}-{sent[-9:]}")
def test_a_malformed_digest_is_refused(caller: Caller, sent: str, file_first: bool) -> None:
    answer = caller.upload(form(f"Repr-Digest: {sent}", file_first=file_first))
    assert (answer.status, answer.text) == (400, MALFORMED)
    problem = caller.upload(form(f"Content-Digest: {sent}"), accept=PROBLEM).json
    assert problem["code"] == "digest_malformed"


@ours
def test_two_digests_that_differ_are_refused(caller: Caller) -> None:
    sent = form(f"Repr-Digest: {digest(WAV)}", f"Content-Digest: {digest(b'')}")
    assert caller.upload(sent).text == MALFORMED


@ours
@pytest.mark.parametrize(
    ("content", "duplicate"), [(WAV, "identical"), (wav(0.02), "different")], ids=["same", "other"]
)
def test_a_digest_tells_of_a_taken_name_before_the_file_is_read(
    caller: Caller, content: bytes, duplicate: str
) -> None:
    name = meta()["FileName"]
    assert caller.upload(form(FileName=name)).status == 200
    sent = form(f"Repr-Digest: {digest(content)}", content=content, FileName=name)
    # Its end is missing. Who waits for 100 is judged before the bytes, however few they are.
    answer = caller.upload(sent[:-100], expect="100-continue")
    assert (answer.status, answer.text) == (400, TAKEN)
    assert answer.headers["earmark-duplicate"] == duplicate
    assert answer.headers["connection"] == "close"


@ours
@pytest.mark.parametrize(
    ("content", "duplicate"), [(WAV, "identical"), (wav(0.02), "different")], ids=["same", "other"]
)
def test_of_a_short_form_the_file_itself_tells(
    caller: Caller, content: bytes, duplicate: str
) -> None:
    name = meta()["FileName"]
    assert caller.upload(form(FileName=name)).status == 200
    sent = form(f"Repr-Digest: {digest(WAV)}", content=content, FileName=name)
    answer = caller.upload(sent)
    assert (answer.status, answer.text) == (400, TAKEN), "before what the file is"
    assert answer.headers["earmark-duplicate"] == duplicate


@ours
def test_of_a_file_that_was_read_its_bytes_tell_and_not_its_digest(caller: Caller) -> None:
    name = meta()["FileName"]
    assert caller.upload(form(FileName=name)).status == 200
    header = f"Repr-Digest: {digest(WAV)}"
    sent = form(header, content=wav(0.02), file_first=True, FileName=name)
    assert caller.upload(sent).headers["earmark-duplicate"] == "different"


@ours
def test_a_digest_of_another_part_means_nothing(caller: Caller) -> None:
    other = raw_part('Content-Disposition: form-data; name="other"', "Repr-Digest: nonsense")
    sent = body(other, metadata_part(meta()), raw_part(HEADER, data=WAV))
    assert caller.upload(sent).status == 200


@ours
def test_every_answer_that_speaks_of_the_file_has_its_digest(caller: Caller) -> None:
    answer = caller.upload(form())
    place = f"/v1/interactions/{answer.json['id']}"
    asked = [
        ("GET", place, {}),
        ("GET", f"{place}/receipt", {}),
        ("GET", f"{place}/media", {}),
        ("HEAD", f"{place}/media", {}),
        ("GET", f"{place}/media", {"range": "bytes=1-2"}),
        ("GET", f"{place}/media", {"if_none_match": "*"}),
    ]
    told = [caller.send(method, path, **headers) for method, path, headers in asked]
    assert [one.status for one in told] == [200, 200, 200, 200, 206, 304]
    assert {one.headers["repr-digest"] for one in (answer, *told)} == {digest(WAV)}
