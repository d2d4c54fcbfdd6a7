"""The multipart form: read in any pieces, from clients of many kinds, and nothing half kept."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from contract.forms import (
    BOUNDARY,
    CONTENT_TYPE,
    WAV,
    body,
    file_part,
    form,
    meta,
    metadata_part,
    new_name,
    part,
    raw_part,
    single_bytes,
)
from contract.test_upload_precedence import BAD_NAME, NO_FILE, NO_METADATA

if TYPE_CHECKING:
    from contract.serving import Answer, Caller, Kept, Service

seed = pytest.mark.origin("seed")
published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

MALFORMED = "Malformed multipart form. Please upload a well-formed request form."
TOO_MANY = "Too many parts in the request form. Please upload only the named parts."
NO_SIGNED_URL = "Uploading by signed url is not available here. You must upload the file itself."

both_orders = pytest.mark.parametrize("file_first", [False, True], ids=["metadata", "file"])


def is_malformed(answer: Answer) -> bool:
    return (answer.status, answer.text) == (400, MALFORMED)


@pytest.fixture
def nothing_more_kept(wire: Service) -> Any:
    before: Kept = wire.kept()
    yield
    assert wire.kept() == before


# Pieces. The reader is shown every cut and every end (tests/unit/test_multipart.py); the route,
# which costs a hundred times as much, a spread of them.

APART = 11


@ours
@both_orders
def test_a_form_in_two_pieces_is_taken_whole(caller: Caller, file_first: bool) -> None:
    content = WAV + b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\r\n-\r\n"
    stem = new_name("")

    async def cuts() -> None:
        length = len(form(meta(FileName=f"{stem}-0000.wav"), content))
        for place in [*range(1, length, APART), length - 1]:
            metadata = meta(FileName=f"{stem}-{place:04}.wav")
            whole = form(metadata, content, file_first=file_first)
            answer = await caller.uploading([whole[:place], whole[place:]])
            assert answer.status == 200, place
            taken.append(answer.json["id"])

    taken: list[str] = []
    asyncio.run(cuts())
    kept = caller.service.interactions.for_(caller.principal)
    assert {kept.get(UUID(id_)).sha256 for id_ in taken} == {hashlib.sha256(content).digest()}


@ours
@both_orders
def test_the_form_may_come_byte_by_byte(caller: Caller, file_first: bool) -> None:
    content = WAV + b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r"
    answer = caller.upload(single_bytes(form(meta(), content, file_first=file_first)))
    kept = caller.service.interactions.for_(caller.principal)
    assert b"".join(kept.media(caller.interaction(answer).id).read()) == content


@ours
@both_orders
def test_a_form_that_ends_early_is_malformed(
    caller: Caller, file_first: bool, nothing_more_kept: None
) -> None:
    async def ends() -> None:
        whole = form(meta(), file_first=file_first)
        for end in [*range(0, len(whole) - 4, APART), len(whole) - 4]:
            answer = await caller.uploading([whole[:end]])
            assert is_malformed(answer), end

    asyncio.run(ends())


@ours
@both_orders
def test_a_client_that_goes_away_leaves_nothing(
    caller: Caller, file_first: bool, nothing_more_kept: None
) -> None:
    def descriptors() -> int:
        return len([*Path("/proc/self/fd").iterdir()])

    async def all_ends() -> None:
        whole = form(meta(), file_first=file_first)
        await caller.uploading([whole[:100]], gone=True)
        before = descriptors()
        for end in range(0, len(whole), 7):
            answer = await caller.uploading([whole[:end]], gone=True)
            assert answer.status == 499
        answer = await caller.uploading([whole], gone=True)
        assert answer.status == 499
        assert descriptors() <= before

    asyncio.run(all_ends())


@ours
@pytest.mark.parametrize("preamble", [b"", b"\r\n", b"To whom it may concern\r\n", b"x\n\r\n"])
@pytest.mark.parametrize("epilogue", [b"", b"\r\n", b"\r\nfarewell", b"  junk\r\n--x", b"\r"])
def test_what_stands_around_the_form_is_ignored(
    caller: Caller, preamble: bytes, epilogue: bytes
) -> None:
    whole = preamble + form(meta()).removesuffix(b"\r\n")
    assert caller.upload(whole + epilogue).status == 200
    whole = whole.replace(b"call-", b"c-")
    assert caller.upload([whole, epilogue] if epilogue else [whole]).status == 200


DAMAGE = [
    lambda whole: whole.removesuffix(b"--\r\n"),
    lambda whole: whole.removesuffix(b"--\r\n") + b"\r\n",
    lambda whole: whole.replace(b"\r\n", b"\n"),
    lambda whole: b"junk" + whole,
    lambda whole: whole.replace(BOUNDARY.encode(), b"another"),
    lambda whole: whole.replace(b"--\r\n", b"xx\r\n"),
    lambda whole: whole.replace(b"form-data", b"attachment"),
    lambda whole: whole.replace(b"Content-Disposition:", b"Content-Disposition"),
    lambda whole: whole.replace(b"Content-Type: audio/wav", b"Content-Length: 5"),
    lambda whole: whole.replace(b"Content-Type: audio/wav", b"Content-Length: 50000"),
    lambda whole: whole.replace(b"Content-Type", b"\xff\xfe"),
    lambda _whole: b"",
    lambda _whole: b"--" + BOUNDARY.encode() + b"\r\n",
]


@ours
@pytest.mark.parametrize(
    "damage",
    DAMAGE,
    ids=range(13),
)
def test_a_damaged_form_is_malformed(caller: Caller, damage: Any, nothing_more_kept: None) -> None:
    answer = caller.upload(damage(form(meta(), file_first=True)))
    assert is_malformed(answer)


@published
def test_an_empty_form_has_no_file(caller: Caller) -> None:
    assert caller.upload(f"--{BOUNDARY}--\r\n".encode()).text == NO_FILE


# Parts


@ours
@pytest.mark.parametrize(
    "parts",
    [
        (metadata_part(meta()), file_part(), file_part()),
        (file_part(), file_part(), metadata_part(meta())),
        (metadata_part(meta()), metadata_part(meta()), file_part()),
        (file_part(), metadata_part(meta()), metadata_part(meta())),
        (metadata_part(meta()), part("METADATA", b"{}"), file_part()),
        (part("signedUrl", b""), part("signedURL", b""), metadata_part(meta()), file_part()),
        (file_part(b"", ""), metadata_part(meta()), file_part()),
    ],
    ids=range(7),
)
def test_a_part_that_comes_twice_is_malformed(
    caller: Caller, parts: tuple[bytes, ...], nothing_more_kept: None
) -> None:
    answer = caller.upload(body(*parts))
    expected = NO_FILE if parts[0].count(b'filename=""') else MALFORMED
    assert (answer.status, answer.text) == (400, expected)


@ours
def test_thirty_two_parts_are_taken_and_no_more(caller: Caller) -> None:
    other = part("other", b"1")
    parts = [other] * 30
    assert caller.upload(body(*parts, metadata_part(meta()), file_part())).status == 200
    answer = caller.upload(body(*parts, other, metadata_part(meta()), file_part()))
    assert (answer.status, answer.text) == (400, TOO_MANY)


NAMELESS = [
    "Content-Disposition: form-data",
    'Content-Disposition: form-data; name=""',
    'Content-Disposition: form-data; filename="a.wav"',
    'Content-Disposition: form-data; name="fi\0le"; filename="a.wav"',
    'Content-Disposition: form-data; name="file"; filename="a\0.wav"',
    "Content-Disposition: form-data; name=\"file\"; filename*=utf-8''a%00.wav",
    'Content-Disposition: attachment; name="file"; filename="a.wav"',
    "Content-Type: audio/wav",
    "Content-Disposition: form-data; name=file; filename*=utf-8''a%ff.wav",
    "Content-Disposition: form-data; name=file; filename*=no-such-charset''a%ff.wav",
    "Content-Disposition: form-data; name=file; filename*=idna''a%ff.wav",
    "Content-Disposition: form-data; name=file; filename*=a\0b''a%ff.wav",
]


@ours
@pytest.mark.parametrize(
    "header",
    NAMELESS,
    ids=ascii,
)
def test_a_part_without_a_proper_name_is_malformed(
    caller: Caller, header: str, nothing_more_kept: None
) -> None:
    sent = body(metadata_part(meta()), raw_part(header, data=WAV))
    assert is_malformed(caller.upload(sent))


@ours
@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        (["X-Padding: " + "x" * 16_000], True),
        (["X-Padding: " + "x" * 17_000], False),
        (["X-Endless: " + "x" * 100_000], False),
        ([f"X-{number}: 1" for number in range(15)], True),
        ([f"X-{number}: 1" for number in range(16)], False),
        (["X-Folded: a", " b"], True),
        ([" folded"], True),
    ],
    ids=range(7),
)
def test_the_header_of_a_part_is_bounded(caller: Caller, headers: list[str], taken: bool) -> None:
    disposition = 'Content-Disposition: form-data; name="file"; filename="a.wav"'
    sent = body(metadata_part(meta()), raw_part(disposition, *headers, data=WAV))
    answer = caller.upload([sent[at : at + 10_000] for at in range(0, len(sent), 10_000)])
    assert answer.status == 200 if taken else is_malformed(answer)


@ours
@pytest.mark.parametrize(
    "name", ["file", '"file"', "FILE", '"File"'], ids=["bare", "quoted", "upper", "mixed"]
)
def test_a_part_name_may_be_bare_or_quoted(caller: Caller, name: str) -> None:
    header = f"Content-Disposition: form-data; name={name}; filename=a.wav"
    assert caller.upload(body(metadata_part(meta()), raw_part(header, data=WAV))).status == 200


@ours
@pytest.mark.parametrize(
    "options",
    [
        # .NET's HttpClient
        "name=file; filename=\"=?utf-8?B?bcOpLndhdg==?=\"; filename*=utf-8''m%C3%A9.wav",
        # urllib3 before 2
        "name=\"file\"; filename*=utf-8''m%C3%A9.wav",
        "name=\"file\"; FILENAME*=UTF-8'en'm%C3%A9.wav",
        "name=\"file\"; filename* = ''m.wav",
        'name="file"; filename*=iso-8859-1\'\'m%E9.wav; filename="m.exe"',
        "filename*=utf-8''m.wav; name=\"file\"",
        # browsers, curl, urllib3 since 2
        'name="file"; filename="mé.wav"',
        'name="file"; filename="a; filename*=utf-8\'\'b.exe; c.wav"',
        'name="file"; filename="a\\"b.wav"',
        'name="file"; filename="a%22b.wav"',
        'name="file"; filename=a.wav',
        'name="file";filename="a.wav"',
    ],
    ids=range(12),
)
def test_the_file_name_is_read_in_every_form_that_clients_use(
    caller: Caller, options: str
) -> None:
    header = f"Content-Disposition: form-data; {options}"
    answer = caller.upload(body(metadata_part(meta()), raw_part(header, data=WAV)))
    assert answer.status == 200, answer.text


@ours
def test_the_extended_file_name_counts_before_the_plain_one(caller: Caller) -> None:
    header = "Content-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.exe"
    answer = caller.upload(body(metadata_part(meta()), raw_part(header, data=WAV)))
    assert answer.text == NO_FILE


@ours
@pytest.mark.parametrize(
    "content_type",
    [
        f'multipart/form-data; boundary="{BOUNDARY}"',
        f"Multipart/Form-Data;Boundary={BOUNDARY}",
        f"multipart/form-data; charset=utf-8; boundary={BOUNDARY}",
        f"multipart/form-data;  boundary={BOUNDARY} ",
    ],
    ids=range(4),
)
def test_the_boundary_may_be_quoted_and_stand_anywhere(caller: Caller, content_type: str) -> None:
    assert caller.upload(form(meta()), content_type=content_type).status == 200


@ours
@pytest.mark.parametrize("boundary", ["x", "a b:c", "'()+_,-./:=?", "y" * 70, "z" * 200])
def test_any_boundary_is_understood(caller: Caller, boundary: str) -> None:
    sent = body(metadata_part(meta()), file_part(), boundary=boundary)
    content_type = f'multipart/form-data; boundary="{boundary}"'
    assert caller.upload(sent, content_type=content_type).status == 200


NO_FORM = [
    "",
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    'multipart/form-data; boundary=""',
    f"multipart/mixed; boundary={BOUNDARY}",
    f"multipart/form-datax; boundary={BOUNDARY}",
    "multipart/form-data; boundary=" + "x" * 201,
    "audio/wav",
]


@ours
@pytest.mark.parametrize(
    "content_type",
    NO_FORM,
    ids=ascii,
)
def test_anything_but_a_form_with_a_boundary_is_415(caller: Caller, content_type: str) -> None:
    answer = caller.upload(form(meta()), content_type=content_type)
    assert answer.status == 415
    assert answer.text == "Send the request as multipart/form-data with a boundary."
    assert answer.headers["accept-post"] == "multipart/form-data"


@ours
def test_a_boundary_that_no_parser_takes_is_malformed(caller: Caller) -> None:
    content_type = CONTENT_TYPE.replace(BOUNDARY, '"a\nb"')
    assert is_malformed(caller.upload(form(meta()), content_type=content_type))


@ours
@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "BASE64", "gzip"])
@pytest.mark.parametrize("name", ["file", "metadata", "other"])
def test_a_part_encoded_for_transfer_is_refused(
    caller: Caller, name: str, encoding: str, nothing_more_kept: None
) -> None:
    header = f'Content-Disposition: form-data; name="{name}"; filename="a.wav"'
    sent = raw_part(header, f"Content-Transfer-Encoding: {encoding}", data=b"UklGRg==")
    assert is_malformed(caller.upload(body(sent, metadata_part(meta()), file_part())))


@ours
@pytest.mark.parametrize("encoding", ["binary", "8bit", "7BIT", ""])
def test_an_encoding_that_changes_nothing_is_taken(caller: Caller, encoding: str) -> None:
    header = 'Content-Disposition: form-data; name="file"; filename="a.wav"'
    sent = raw_part(header, f"Content-Transfer-Encoding: {encoding}", data=WAV)
    assert caller.upload(body(metadata_part(meta()), sent)).status == 200


# signedUrl


@published
@pytest.mark.parametrize("url", [b"", b"  ", b"\r\n"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_empty_signed_url_counts_as_absent(caller: Caller, url: bytes, place: int) -> None:
    parts = [metadata_part(meta()), file_part()]
    parts.insert(place, part("signedUrl", url))
    assert caller.upload(body(*parts)).status == 200


@published
@pytest.mark.parametrize("url", [b"", b" "])
def test_an_empty_signed_url_is_no_file(caller: Caller, url: bytes) -> None:
    assert caller.upload(body(part("signedUrl", url), metadata_part(meta()))).text == NO_FILE


@ours
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("with_file", [True, False])
def test_a_signed_url_is_refused_where_that_is_switched_off(
    caller: Caller, place: int, with_file: bool, nothing_more_kept: None
) -> None:
    parts = [metadata_part(meta()), *([file_part()] if with_file else [])]
    parts.insert(place, part("signedUrl", b"https://storage.example/a.wav?sig=1"))
    answer = caller.upload(body(*parts))
    assert (answer.status, answer.text) == (400, NO_SIGNED_URL)


@ours
def test_a_signed_url_does_not_go_before_the_ten_sentences(caller: Caller) -> None:
    url = part("signedUrl", b"https://storage.example/a.wav")
    assert caller.upload(body(url)).text == NO_METADATA
    assert caller.upload(body(url, metadata_part(meta(FileName="a")))).text == BAD_NAME
