"""`web.multipart`: the stream of parts, whatever the pieces it comes in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import ClientDisconnect, Request

from contract.forms import (
    BOUNDARY,
    CONTENT_TYPE,
    body,
    file_part,
    form,
    metadata_part,
    part,
    raw_part,
    single_bytes,
)
from earmark.errors import RefusedError, TooLargeError, Why
from earmark.web import multipart
from earmark.web.multipart import (
    MAX_BOUNDARY_CHARACTERS,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_PARTS,
    Part,
    boundary_of,
    parts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTENT = b"RIFF\r\n--" + BOUNDARY.encode()[:-1] + b"\r\r\n\r"
METADATA = {"FileName": "a.wav", "UploadType": "Audio"}
WHOLE = form(METADATA, CONTENT)


def read(
    chunks: Iterable[bytes], *, max_bytes: int = 1 << 30, end: str = "whole"
) -> list[tuple[Part, bytes]]:
    """Each part with its bytes; `end` is "whole" or "gone"."""
    return asyncio.run(reading(chunks, max_bytes=max_bytes, end=end))


async def reading(
    chunks: Iterable[bytes], *, max_bytes: int = 1 << 30, end: str = "whole"
) -> list[tuple[Part, bytes]]:
    """As `read`."""
    incoming: list[Any] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]

    async def receive() -> Any:
        if incoming:
            return incoming.pop(0)
        if end == "gone":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    request = Request({"type": "http", "headers": []}, receive)
    found: list[tuple[Part, bytearray]] = []
    ended = True
    stream = parts(request, BOUNDARY, max_bytes=max_bytes)
    async for event in stream:
        if isinstance(event, Part):
            assert ended
            found.append((event, bytearray()))
            ended = False
        elif event is None:
            ended = True
        else:
            assert not ended
            found[-1][1].extend(event)
    assert ended
    return [(each, bytes(data)) for each, data in found]


def refused(chunks: Iterable[bytes]) -> tuple[Why, str]:
    return asyncio.run(refusal(chunks))


async def refusal(chunks: Iterable[bytes]) -> tuple[Why, str]:
    with pytest.raises(RefusedError) as caught:
        await reading(chunks)
    (fault,) = caught.value.faults
    return fault.why, fault.detail


EXPECTED = [
    (Part("metadata", None), b'{"FileName": "a.wav", "UploadType": "Audio"}'),
    (Part("file", "sent.wav"), CONTENT),
]


both_orders = pytest.mark.parametrize("file_first", [False, True], ids=["metadata", "file"])


@both_orders
@pytest.mark.parametrize("around", [(b"", b""), (b"\r\n", b"\r\n"), (b"hello\r\n", b"\r\nbye")])
def test_the_parts_are_the_same_wherever_the_form_is_cut(
    around: tuple[bytes, bytes], *, file_first: bool
) -> None:
    before, after = around
    whole = before + form(METADATA, CONTENT, file_first=file_first) + after
    expected = EXPECTED[::-1] if file_first else EXPECTED

    async def every_cut() -> None:
        assert await reading([whole]) == expected
        assert await reading(single_bytes(whole)) == expected
        for place in range(len(whole)):
            head, one, tail = whole[:place], whole[place : place + 1], whole[place + 1 :]
            assert await reading([head, one + tail]) == expected
            assert await reading([head, b"", one, tail]) == expected

    asyncio.run(every_cut())


@both_orders
def test_a_form_that_ends_anywhere_before_its_last_boundary_is_malformed(
    *, file_first: bool
) -> None:
    whole = form(METADATA, CONTENT, file_first=file_first)

    async def every_end() -> None:
        for end in range(len(whole) - 2):
            why, detail = await refusal([whole[:end]])
            assert why is Why.FORM_MALFORMED
            assert detail.endswith(".")

    asyncio.run(every_end())


def test_a_caller_that_goes_away_is_told_apart() -> None:
    with pytest.raises(ClientDisconnect):
        read([WHOLE[:200]], end="gone")


def test_more_bytes_than_the_limit_are_too_many() -> None:
    assert read(single_bytes(WHOLE), max_bytes=len(WHOLE)) == EXPECTED
    with pytest.raises(TooLargeError) as caught:
        read(single_bytes(WHOLE), max_bytes=len(WHOLE) - 1)
    assert caught.value.limit_bytes == len(WHOLE) - 1


def test_as_many_parts_are_read_as_the_limit_says() -> None:
    other = part("other", b"")
    assert len(read([body(*([other] * MAX_PARTS))])) == MAX_PARTS
    assert refused([body(*([other] * (MAX_PARTS + 1)))]) == (
        Why.TOO_MANY_PARTS,
        f"Send at most {MAX_PARTS} parts.",
    )


def test_a_header_line_has_a_limit() -> None:
    line = "X: ".ljust(MAX_HEADER_BYTES, "x")
    disposition = "Content-Disposition: form-data; name=a"
    assert read([body(raw_part(disposition, line))])
    assert refused([body(raw_part(disposition, line + "x"))])[0] is Why.FORM_MALFORMED


def test_a_part_has_a_limit_of_header_lines() -> None:
    lines = ["Content-Disposition: form-data; name=a", *(["X: 1"] * (MAX_HEADERS - 1))]
    assert read([body(raw_part(*lines))])
    assert refused([body(raw_part(*lines, "X: 1"))])[0] is Why.FORM_MALFORMED


def names(disposition: str) -> Part:
    ((found, _),) = read([body(raw_part(f"Content-Disposition: form-data; {disposition}"))])
    return found


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [
        ("name=File", Part("file", None)),
        ('name="FILE"; filename="A.wav"', Part("file", "A.wav")),
        ('name="file"; filename=""', Part("file", "")),
        ("name=file; filename*=utf-8''m%C3%A9.wav", Part("file", "mé.wav")),
        ("name=file; filename*=ISO-8859-1'en'm%E9.wav", Part("file", "mé.wav")),
        ("name=file; filename*=''m%C3%A9.wav", Part("file", "mé.wav")),
        ("name=file; filename*=utf-8''a.wav; filename=b.wav", Part("file", "a.wav")),
        ("name=file; filename=b.wav; filename*=utf-8''", Part("file", "")),
        ("name=file; filename=b.wav; filename*=no-quotes", Part("file", "b.wav")),
        ("name=file; filename=\"x; filename*=utf-8''y\"", Part("file", "x; filename*=utf-8''y")),
        (
            'name=file; filename="a\\"; filename*=utf-8\'\'y"',
            Part("file", "a\"; filename*=utf-8''y"),
        ),
    ],
    ids=range(11),
)
def test_names_are_read_in_every_form(disposition: str, expected: Part) -> None:
    assert names(disposition) == expected


@pytest.mark.parametrize("ending", ["", "\\", '"'])
def test_quoted_text_without_an_end_is_read_in_one_pass(ending: str) -> None:
    """Or it would take an hour, for which everybody waits."""
    assert multipart._QUOTED.sub("", '"' + '\\"' * 500_000 + ending) == ""


@pytest.mark.parametrize(
    ("disposition", "detail"),
    [
        ("x=1", "A part has no name."),
        ('name=""', "A part has no name."),
        ("name=file; filename*=utf-8''%ff", "in the character set it says"),
        ("name=file; filename*=klingon''%ff", "in the character set it says"),
        ("name=file; filename*=idna''%ff", "in the character set it says"),
        ("name=file; filename*=a\0b''%ff", "in the character set it says"),
        ('name="fi\0le"', "holds a NUL"),
        ("name=file; filename*=utf-8''%00", "holds a NUL"),
    ],
    ids=range(8),
)
def test_a_part_whose_name_cannot_be_read_is_malformed(disposition: str, detail: str) -> None:
    why, told = refused([body(raw_part(f"Content-Disposition: form-data; {disposition}"))])
    assert why is Why.FORM_MALFORMED
    assert detail in told


@pytest.mark.parametrize(
    ("encoding", "taken"),
    [("", True), ("binary", True), (" 8BIT ", True), ("7bit", True), ("base64", False)],
)
def test_an_encoding_is_taken_if_it_changes_no_byte(encoding: str, taken: bool) -> None:
    lines = ["Content-Disposition: form-data; name=a", f"Content-Transfer-Encoding: {encoding}"]
    sent = [body(raw_part(*lines))]
    if taken:
        assert read(sent)
    else:
        assert "encoded for transfer" in refused(sent)[1]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (CONTENT_TYPE, BOUNDARY),
        ('MULTIPART/form-data; charset=utf-8; boundary="a b"', "a b"),
        ("multipart/form-data; boundary=" + "x" * MAX_BOUNDARY_CHARACTERS, "x" * 200),
        ("multipart/form-data; boundary=" + "x" * (MAX_BOUNDARY_CHARACTERS + 1), None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data", None),
        ("multipart/mixed; boundary=a", None),
        ("", None),
    ],
    ids=range(8),
)
def test_the_boundary_is_found_in_the_content_type(
    content_type: str, expected: str | None
) -> None:
    assert boundary_of(content_type) == expected


def test_a_boundary_that_no_parser_takes_is_malformed() -> None:
    async def first() -> None:
        request = Request({"type": "http", "headers": []})
        await anext(parts(request, "a\nb", max_bytes=1))

    with pytest.raises(RefusedError):
        asyncio.run(first())


def test_metadata_may_come_after_the_file() -> None:
    sent = body(file_part(CONTENT), metadata_part(b"{}"))
    assert [each.name for each, _ in read([sent])] == ["file", "metadata"]
