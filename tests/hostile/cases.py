"""The hostile cases: what is tried, and with which code it must be refused.

Tables that other tests have are taken from there. Which refusal stops a case is not written down:
it is seen while the case is tried, so that each is known to stand for itself.
"""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import warnings
import zipfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpcore2
import pytest

from chats import LOG, tarred, zipped
from contract import test_upload_content as content
from contract import test_upload_digests as digests
from contract import test_upload_form as forms
from contract import test_upload_metadata as metadata
from contract import test_upload_names as names
from contract.forms import (
    BOUNDARY,
    WAV,
    body,
    file_part,
    form,
    meta,
    metadata_part,
    new_name,
    part,
    raw_part,
    wav,
)
from contract.test_upload_metadata import raw
from earmark import sandbox
from earmark.audio import Category, _decode
from earmark.chat import _unpack, rules, side, tars, zips
from earmark.egress import BarredError
from earmark.model import MAX_INDEXED_CHARACTERS
from earmark.web.acxapi import wire
from earmark.web.acxapi.upload import FORM_GRACE_BYTES, SHORT_FORM_BYTES
from earmark.web.oauth import TOKEN_PATH
from hostile.switching import Put
from hostile.world import FORM, PROBLEM, STORE, TAKEN, FakeAnswer, World, told
from unit import test_audio as recorded
from unit import test_chat_archive as archives
from walled.test_reach import NOT_PUBLIC, UNFIT, host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    Attempt = Callable[[World], str]


CORRECTED = "/Metadata/00000000-0000-0000-0000-000000000002"
"""Nothing is there, which is told after all that is wrong."""


@dataclass(frozen=True)
class Case:
    """One hostile thing.

    Attributes:
        area: what it is tried on.
        code: with which it must be refused.
        attempt: tells how it ended.
        defence: what stops it, where that is no statement that refuses.
    """

    area: str
    name: str
    code: str
    attempt: Attempt
    defence: Put | None = None

    def __str__(self) -> str:
        return ascii(f"{self.area}: {self.name}")[1:-1].replace("\\", "")[:60]


def cases() -> dict[str, Case]:
    """All of them, by names that are told of failures."""
    found = (
        *_names(),
        *_metadata(),
        *_forms(),
        *_contents(),
        *_uploads(),
        *_retries(),
        *_archives(),
        *_chats(),
        *_recordings(),
        *_addresses(),
        *_downloads(),
        *_callers(),
        *_children(),
    )
    return {f"{number} {case}": case for number, case in enumerate(found)}


def _table(area: str, code: str, attempts: Mapping[str, Attempt]) -> Iterator[Case]:
    for name, attempt in attempts.items():
        yield Case(area, name[:60], code, attempt)


def _each(
    area: str, code: str, sent: Iterable[Any], attempt: Callable[[World, Any], str]
) -> Iterator[Case]:
    """A case for each thing that is sent, named by its beginning."""
    for one in sent:
        yield Case(area, repr(one)[:60], code, partial(_send, attempt, one))


def _send(attempt: Callable[[World, Any], str], one: Any, world: World) -> str:
    return attempt(world, one)


# Uploads

LONG = forms.WAV + bytes(SHORT_FORM_BYTES)
"""A file that is looked up before it came; shorter ones are when they are committed."""


def _names() -> Iterator[Case]:
    def named(world: World, name: str) -> str:
        return world.upload(form(meta(FileName=name)))

    yield from _each("names", "file_name_invalid", names.UNSAFE, named)

    def escaped(world: World, name: str) -> str:
        sent = f'{{"FileName": "{name}.wav", "UploadType": "Audio"}}'
        return world.upload(form(sent.encode()))

    halves = ["\\ud83d", "\\ude00", "\\ude00\\ud83d"]
    yield from _each("names", "file_name_invalid", halves, escaped)
    long = ["\u0301" * 3000 + ".wav", "a/" * 512 + ".wav"]
    yield from _each("names", "file_name_invalid", long, named)
    yield from _table(
        "names",
        "file_extension_mismatch",
        {"other extension": lambda world: world.upload(form(meta(), name="a.mp3"))},
    )

    def taken(world: World) -> str:
        sent = form(meta())
        world.upload(sent)
        return world.upload(sent)

    def taken_unread(world: World) -> str:
        """The first is refused before its second megabyte."""
        metadata = meta()
        world.upload(form(metadata))
        return world.upload(form(metadata, LONG))

    yield Case("names", "taken", "file_name_taken", taken)
    yield Case("names", "taken, long", "file_name_taken", taken_unread)
    yield from _each(
        "names",
        "file_missing_or_extension_not_allowed",
        ["a.flac", "a.wav.exe", "a", "", "a.wav/"],
        lambda world, name: world.upload(form(meta(), name=name)),
    )


def _metadata() -> Iterator[Case]:
    def sent(world: World, data: bytes) -> str:
        return world.upload(form(data))

    def written(world: World, text: str) -> str:
        return world.upload(form(raw(text)))

    deep = f'"Name": "\\\\", "Other": {"[" * 17}{"]" * 17}'
    texts = [
        *(f'"Other": {{"a": {number}}}' for number in ("NaN", "Infinity", "-Infinity")),
        *('"OTHER": 1, "other": 2', '"Other": {"a": 1, "a": 2}', deep),
        f'"Other": {"[" * 99_000}',
    ]
    large = json.dumps(meta()).encode().ljust(wire.MAX_METADATA_BYTES + 1)
    yield from _each("metadata", "metadata_malformed", [*metadata.NO_OBJECT, large], sent)
    yield from _each("metadata", "metadata_malformed", texts, written)
    values = {
        "CallDirection": metadata.NO_DIRECTION,
        "ApplyHierarchyToAgent": metadata.NO_BOOLEAN,
        "InteractionDate": metadata.NO_DATE,
        "ExtendedMetadata": metadata.NO_EXTENDED,
        "HierarchyId": metadata.NO_UUID,
        "HierarchyCode": ["x" * (MAX_INDEXED_CHARACTERS + 1)],
        "FileName": [True, ["a.wav"]],
    }
    for key, wrong in values.items():
        for one in wrong:
            attempt = partial(_send, sent, json.dumps(meta(**{key: one})).encode())
            yield Case("metadata", f"{key} {one!r}"[:60], "metadata_value_invalid", attempt)
    members = [
        *(f'"Name": {text}' for text in metadata.NO_TEXT),
        *(f'"LocaleId": {text}' for text in metadata.NO_LOCALE),
        *(f'"ExtendedMetadataValues": {text}' for text in metadata.NO_VALUES),
    ]
    yield from _each("metadata", "metadata_value_invalid", members, written)
    others = [f'"LocaleId": {text}' for text in metadata.OTHER_LOCALE]
    yield from _each("metadata", "locale_unsupported", others, written)
    attempts: dict[str, Attempt] = {
        "upload_type_invalid": lambda world: world.upload(form(meta(UploadType="Video"))),
        "hierarchy_invalid": lambda world: world.upload(form(meta(HierarchyCode="Nowhere"))),
        "metadata_missing": lambda world: world.upload(form(None)),
    }
    for code, attempt in attempts.items():
        yield Case("metadata", code, code, attempt)

    def nowhere_unread(world: World) -> str:
        return world.upload(form(meta(HierarchyCode="Nowhere"), LONG))

    yield Case("metadata", "hierarchy, long", "hierarchy_invalid", nowhere_unread)
    # The same reader takes corrections and listings, which have no form.
    corrections: list[Any] = [
        *(
            b"{",
            b"[]",
            b'{"a": ' * 17 + b"1" + b"}" * 17,
            {"phone": "1", "localeId": 1},
            {"phone": "1", "timestamp": ""},
        ),
        *({"phone": "1", "extendedMetadata": [1]}, {"phone": "1", "clientCallId": "\0"}),
    ]
    yield from _each(
        "metadata",
        "invalid_value",
        corrections,
        lambda world, one: world.ask("PATCH", CORRECTED, one),
    )
    listings = ["mediaType=Fax", "pageSize=many", "startDate=now&endDate=now"]
    yield from _each(
        "metadata",
        "invalid_value",
        listings,
        lambda world, query: world.ask("GET", f"/Metadata?{query}"),
    )


def _forms() -> Iterator[Case]:
    """Forms, byte by byte."""

    def damaged(world: World, number: int) -> str:
        return world.upload(forms.DAMAGE[number](form(meta(), file_first=True)))

    def headed(world: World, header: str) -> str:
        sent = body(metadata_part(meta()), raw_part(header, data=WAV))
        return world.upload(sent)

    named = 'Content-Disposition: form-data; name="file"; filename="a.wav"'
    headers = [
        *forms.NAMELESS,
        f"{named}\r\nContent-Transfer-Encoding: base64",
        f"{named}\r\nX-Padding: " + "x" * 17_000,
        f"{named}" + "\r\nX: 1" * 16,
    ]
    yield from _each("forms", "form_malformed", range(len(forms.DAMAGE)), damaged)
    yield from _each("forms", "form_malformed", headers, headed)
    twice: dict[str, Attempt] = {
        "file twice": lambda world: world.upload(
            body(file_part(), metadata_part(meta()), file_part())
        ),
        "metadata twice": lambda world: world.upload(
            body(metadata_part(meta()), metadata_part(meta()), file_part())
        ),
    }
    yield from _table("forms", "form_malformed", twice)

    def many(world: World) -> str:
        return world.upload(body(*[part("other", b"1")] * 31, metadata_part(meta()), file_part()))

    yield Case("forms", "33 parts", "form_too_many_parts", many)
    for content_type in forms.NO_FORM:
        attempt = partial(_of_type, content_type)
        defence = Put("web.acxapi.upload:boundary_of", lambda _: BOUNDARY)
        yield Case("forms", content_type[:60], "not_multipart", attempt, defence)


def _of_type(content_type: str, world: World) -> str:
    return world.upload(form(meta()), content_type=content_type)


def _contents() -> Iterator[Case]:
    """Polyglots: what a file holds beside what it is called."""
    for ending in (".mp3", ".zip"):
        for data, sentence in content.NO_MEDIA:
            code = "file_empty" if sentence is content.EMPTY else "file_not_media"
            name = f"{data[:4]!r} as {ending}"
            yield Case("polyglots", name, code, partial(_with_content, data, ending))
    for head, kind in recorded.FIRST_BYTES:
        if kind.category in {Category.FOREIGN, Category.ARCHIVE}:
            attempt = partial(_with_content, head, ".wav")
            yield Case("polyglots", f"{kind} {head[:20]!r}", "file_not_media", attempt)

    def unread(world: World) -> str:
        """Refused by its first bytes; what follows is no form any more."""
        whole = form(meta(), b"<html>" + b" " * 100_000)
        return world.upload([whole[:50_000], b"x" * 50_000])

    yield Case("polyglots", "page without an end", "file_not_media", unread)


def _with_content(data: bytes, ending: str, world: World) -> str:
    upload_type = "Chat" if ending == ".zip" else "Audio"
    sent = meta(FileName=new_name(ending), UploadType=upload_type)
    return world.upload(form(sent, data, name=f"sent{ending}"))


def _uploads() -> Iterator[Case]:
    """Sizes, time, room."""
    over = b"\x01" * (64 * 1024 + 1)

    def announced(world: World) -> str:
        length = str(3 * 1024 * 1024)
        return _told(world, world.small, form(meta()), content_length=length)

    def unannounced(world: World) -> str:
        return _told(world, world.small, form(meta(), over), content_length="")

    def beside(world: World) -> str:
        other = part("other", b" " * (65_536 + FORM_GRACE_BYTES))
        sent = body(other, metadata_part(meta()), file_part())
        pieces = [sent[at : at + 65_536] for at in range(0, len(sent), 65_536)]
        return _told(world, world.small, pieces, content_length="")

    yield Case("limits", "announced too large", "too_large", announced)
    yield Case("limits", "file too large", "too_large", unannounced)
    yield Case("limits", "form too large", "too_large", beside)
    yield Case("limits", "form without an end", "idle", lambda world: world.idle(form(meta())[:9]))
    reserve: Attempt = lambda world: _told(world, world.full, form(meta()))  # noqa: E731
    yield Case("limits", "no room beyond the reserve", "unavailable", reserve)
    off = lambda world: world.upload(  # noqa: E731
        body(metadata_part(meta()), part("signedUrl", b"https://store.example.test/a.wav"))
    )
    yield Case("limits", "download switched off", "signed_url_off", off)
    large = {"text": "x" * 300_000}
    correction: Attempt = lambda world: world.ask("PATCH", CORRECTED, large)  # noqa: E731
    yield Case("limits", "body too large", "too_large", correction)
    cut = {"invalid_value": (CORRECTED, "application/json"), "invalid_request": (TOKEN_PATH, FORM)}
    for code, (path, content_type) in cut.items():
        attempt = partial(World.leave, path=path, content_type=content_type)
        yield Case("limits", f"body of {path} cut off", code, attempt)


def _retries() -> Iterator[Case]:
    """Idempotency keys and digests."""

    def with_key(world: World, key: str) -> str:
        return world.upload(form(meta()), idempotency_key=key)

    keys = [" ", '""', "x" * 256, f'"{"x" * 256}"', "a,b", 'a"b', '"a" b', "caf\xe9", "a\x1f"]
    yield from _each("retries", "idempotency_key_malformed", keys, with_key)
    twice: dict[str, Attempt] = {
        "key twice": lambda world: world.upload(
            form(meta()), idempotency_key="a", IDEMPOTENCY_KEY="a"
        )
    }
    yield from _table("retries", "idempotency_key_malformed", twice)

    def again(other: Callable[[Mapping[str, Any]], Any], world: World) -> str:
        facts, key = meta(), str(uuid4())
        world.upload(form(facts), idempotency_key=key)
        return world.upload(other(facts), idempotency_key=key)

    longer = wav(0.02)
    reused: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "other metadata": lambda facts: form({**facts, "Name": "Ann"}),
        "another file": lambda facts: form(facts, longer[: len(WAV)]),
        "another file, read first": lambda facts: form(facts, wav(0.005), file_first=True),
        "a longer file without an end": lambda facts: form(facts, longer)[:-90],
        "another digest": lambda facts: digests.form(
            f"Repr-Digest: {digests.digest(longer)}", content=longer, **facts
        ),
    }
    for name, other in reused.items():
        yield Case("retries", name, "idempotency_key_reused", partial(again, other))
    large: Callable[[Mapping[str, Any]], Any] = lambda facts: form(  # noqa: E731
        facts, b"\x01" * (64 * 1024 + 1), file_first=True
    )
    yield Case("retries", "too large", "too_large", partial(World.retry_small, other=large))
    for code, attempt in {
        "idempotency_key_in_use": World.retry_at_once,
        "deleted": World.retry_deleted,
    }.items():
        yield Case("retries", code, code, attempt)

    def digested(world: World, sent: str) -> str:
        return world.upload(digests.form(f"Repr-Digest: {sent}"))

    yield from _each("retries", "digest_malformed", digests.MALFORMED_FIELDS, digested)
    differ = [f"Repr-Digest: {digests.digest(one)}" for one in (WAV, longer)]
    differ[1] = differ[1].replace("Repr", "Content")
    mismatch = f"Repr-Digest: {digests.digest(longer)}"
    kept = f"Repr-Digest: {digests.digest(WAV)}"
    others: dict[str, tuple[str, Attempt]] = {
        "two that differ": (
            "digest_malformed",
            lambda world: world.upload(digests.form(*differ)),
        ),
        "another file": (
            "digest_mismatch",
            lambda world: world.upload(digests.form(mismatch)),
        ),
        "another file in a retry": (
            "digest_mismatch",
            partial(
                again,
                lambda facts: digests.form(kept, content=longer, file_first=True, **facts),
            ),
        ),
    }
    for name, (code, attempt) in others.items():
        yield Case("retries", f"digest: {name}", code, attempt)


def _told(world: World, service: Any, sent: Any, **headers: str) -> str:
    return told(world.at(service).upload(sent, accept=PROBLEM, **headers))


# Archives and chats

_LINK = zipfile.ZipInfo("a.txt")
_LINK.external_attr = (stat.S_IFLNK | 0o777) << 16


def _zip_of(*members: tuple[zipfile.ZipInfo | str, str]) -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as out:
        warnings.simplefilter("ignore")
        for member, data in members:
            out.writestr(member, data)
    return made.getvalue()


def _broken_archives() -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """Archives by the rule that each breaks, or by their code."""
    plain, stored = zipped({"a.json_chat": LOG}), zipped({"a.json_chat": LOG}, zipfile.ZIP_STORED)
    at, end = archives.DIRECTORY, archives.end_of(plain)
    one, last, header = archives.ONE, archives.END, archives.header
    changed = partial(archives.changed, plain)
    name = archives.record(tarfile.GNUTYPE_LONGNAME, b"b.txt")
    long = archives.record(tarfile.XHDTYPE, b"x" * (tars.MAX_RECORD_BYTES + 1))
    count = rules.MAX_ENTRIES + 1
    big = header("big.bin", size=rules.MAX_TOTAL_BYTES + 1)
    two = zipped({"a.json_chat": LOG, "b.txt": "y" * 99})
    second = two.index(b"PK\x01\x02", two.index(b"PK\x01\x02") + 4)
    start = int.from_bytes(two[second + 42 : second + 46], "little")
    return {
        "name": [
            pack({unsafe: "x"})
            for unsafe in ("../a", "/etc/passwd", "C:\\a", "a\nb", "\u2025/a", "x" * 1025)
            for pack in (zipped, tarred)
        ],
        "twice": [_zip_of(("a.txt", "x"), ("a.txt", "y")), tarred({"a": "x"})[:1024] * 2 + last],
        "entries": [
            changed(end + 8, "<2H", count, count),
            changed(end + 12, "<L", zips.MAX_DIRECTORY_BYTES + 1),
            tarred(dict.fromkeys(map(str, range(count)), "")),
        ],
        "total": [big + last],
        "ratio": [zipped({"a.txt": bytes(1 << 20)})],
        "kind": [
            _zip_of((_LINK, "/etc/passwd")),
            *(
                header("a.txt", kind, linkname="/etc/passwd") + last
                for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
            ),
        ],
        "sparse": [
            header("a.txt", tarfile.GNUTYPE_SPARSE) + last,
            archives.pax(GNU__sparse__map="0,10", GNU__sparse__size="99") + one + last,
        ],
        "headers": [long + one + last, name * 9 + one + last],
        "encrypted": [changed(at + 8, "<H", flag) for flag in (0x1, 0x40, 0x2000)],
        "method": [zipped({"a.json_chat": LOG}, zipfile.ZIP_BZIP2)],
        "overlap": [
            archives.overlapping(),
            archives.changed(
                stored, stored.index(b"PK\x01\x02") + 20, "<2L", *[len(LOG) + 30] * 2
            ),
            changed(at + 42, "<L", 0xFFFFFFFE),
        ],
        "parts": [changed(end + 4, "<H", 1), changed(at + 34, "<H", 1)],
        "hidden": [plain + b"behind", plain[:at] + b"x" * 9 + plain[at:], _prefixed(plain)],
    }, {
        "archive_compressed": [b"\x1f\x8b\x08" + bytes(600), b"BZh9" + bytes(600)],
        "not_archive": [b"", b"MZ" + plain, b"RIFF....WAVE"],
        "archive_damaged": [
            changed(end + 8, "<2H", 2, 2),
            plain[:end],
            archives.changed(two, second + 42, "<L", start + 1),
            stored.replace(b"Good morning", b"Good evening"),
            changed(at + 24, "<L", len(LOG) + 5),
            changed(at + 24, "<L", len(LOG) - 5),
            one + b"x" * 512 + last,
            one,
            archives.pax(size="-1") + one + last,
            name + last,
        ],
    }


def _prefixed(plain: bytes) -> bytes:
    """A zip in front of the first member, to which no directory points."""
    front = zipped({"b.txt": "hidden"})
    front = front[: front.index(b"PK\x01\x02")]
    moved = archives.changed(plain, archives.DIRECTORY + 42, "<L", len(front))
    at = archives.end_of(moved) + 16
    return front + archives.changed(moved, at, "<L", archives.DIRECTORY + len(front))


def _archives() -> Iterator[Case]:
    by_rule, by_code = _broken_archives()
    wanted = {f"archive_unsafe: {rule}": broken for rule, broken in by_rule.items()} | by_code
    for code, broken in wanted.items():
        for number, data in enumerate(broken):
            attempt = partial(_send, World.archive, data)
            yield Case("archives", f"{code} {number}", code, attempt)


def _chats() -> Iterator[Case]:
    deep = "[" * (side.MAX_LEVELS + 1) + "]" * (side.MAX_LEVELS + 1)
    tags = "<a>" * (side.MAX_LEVELS + 1) + "</a>" * (side.MAX_LEVELS + 1)
    sides = {
        "json_meta": ["{", "[1]", '{"a": NaN}', '{"a": 1e999}', f'{{"a": {deep}}}'],
        "xml_meta": [
            '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a><c>&b;</c></a>',
            *("<a>", "<a>text</a>", tags),
        ],
        "csv_meta": ['"'],
    }
    for kind, texts in sides.items():
        for text in texts:
            attempt = partial(_send, World.chat, {"a.json_chat": LOG, f"a.{kind}": text})
            yield Case("chats", f"{kind} {text[:40]}", "chat_metadata_left_out", attempt)
    others: dict[str, Any] = {
        "no log of the side file": {"a.json_chat": LOG, "b.json_meta": "{}"},
        "33 side files": {
            "a.json_chat": LOG,
            **{f"{number:02}.json_chat": LOG for number in range(33)},
            **{f"{number:02}.json_meta": "{}" for number in range(33)},
        },
        "too much metadata": {
            "a.json_chat": LOG,
            "b.json_chat": LOG,
            "a.json_meta": json.dumps({"a": "x" * (side.MAX_METADATA_BYTES * 2 // 3)}),
            "b.json_meta": json.dumps({"b": "x" * (side.MAX_METADATA_BYTES * 2 // 3)}),
        },
    }
    for name, files in others.items():
        attempt = partial(_chat_stored, files)
        yield Case("chats", name, "chat_metadata_left_out", attempt)
    refused: dict[str, list[Any]] = {
        "archive_empty": [{}, {".hidden.txt": "Chris: hi"}],
        "chat_missing": [{"photo.jpg": "x"}],
        "chat_unknown": [{"result.json": '{"name": "x"}'}],
        "chat_encoding": [
            {"a.txt": "Zoë: hi".encode("latin-1")},
            {"a.txt": "Chris: hi".encode("utf-32")},
            {"a.txt": b"a\0b"},
        ],
        "chat_empty": [{"a.json_chat": '{"messages": []}'}],
        "chat_damaged": [
            {"a.json_chat": json.dumps({"messages": [{"text": "x", **wrong}]})}
            for wrong in ({"at": "noon"}, {"speaker": "nobody"}, {"name": 7})
        ],
    }
    for code, several in refused.items():
        for number, files in enumerate(several):
            attempt = partial(_chat_stored, files)
            yield Case("chats", f"{code} {number}", code, attempt)

    for bound in ("MAX_LOG_BYTES", "MAX_MESSAGES", "MAX_ANSWER_BYTES"):
        yield Case("chats", bound, "chat_too_large", partial(_beyond, bound))


def _beyond(bound: str, world: World) -> str:
    """A chat that is larger than a bound, which is small enough to be tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_unpack, bound, 1)
        return world.chat({"a.json_chat": LOG})


def _chat_stored(files: Mapping[str, str | bytes], world: World) -> str:
    return world.chat(zipped(files, zipfile.ZIP_STORED))


# Recordings


def _recordings() -> Iterator[Case]:
    scripts = [
        b"ffconcat version 1.0\nfile 'secret.wav'\n",
        b"PK\x03\x04" + bytes(100),
        b"<?xml version='1.0'?><Error/>",
        b"",
    ]
    yield from _each("decoder", "not_audio", scripts, World.recording)
    made: dict[str, Callable[[Path], Path]] = {
        "no_audio": lambda path: recorded.movie(path.with_suffix(".mp4"), sound=False),
        "too_many_channels": lambda path: recorded.wide_wav(path.with_suffix(".wav"), 17),
        "unsupported_codec": _odd_wav,
    }
    for code, make in made.items():
        yield Case("decoder", code, code, partial(_made, make))
    cut: dict[str, Attempt] = {
        "unreadable": lambda world: world.recording(b"RIFX\x24\x00\x00\x00WAVE"),
        "no_audio_decoded": lambda world: world.recording(
            WAV[: WAV.index(b"data") + 4] + bytes(4)
        ),
        "not_audio": lambda world: world.recording(b"\x00" + bytes(range(1, 256)) * 900, ".mp3"),
    }
    for code, attempt in cut.items():
        yield Case("decoder", f"damaged: {code}", code, attempt)
    yield Case("decoder", "a second file", "raised PermissionError", _open_second)
    broken = {
        "too_slow": sandbox.DeadlineExceededError(""),
        "out_of_memory": sandbox.MemoryExceededError(""),
        "crashed": sandbox.CrashedError(11, ""),
    }
    audio_codes = ("decode_too_slow", "decoder_out_of_memory", "decoder_crashed")
    chat_codes = ("chat_too_slow", "chat_too_large", "chat_reader_crashed")
    for (name, error), code, other in zip(broken.items(), audio_codes, chat_codes, strict=True):
        yield Case(
            "decoder", f"recording: {name}", code, partial(World.break_decoder, error=error)
        )
        yield Case("decoder", f"chat: {name}", other, partial(World.break_reader, error=error))


def _open_second(_world: World) -> str:
    """What FFmpeg would call for a playlist, if one came so far."""
    _decode._refuse("http://127.0.0.1/secret.ts")
    return TAKEN


def _made(make: Callable[[Path], Path], world: World) -> str:
    return world.recording(make(world.folder / "made").read_bytes())


def _odd_wav(path: Path) -> Path:
    """A codec of games, which no telephone uses."""
    data = bytearray(WAV)
    data[20:22] = b"\x69\x00"  # Xbox ADPCM
    path.write_bytes(data)
    return path


# What the service is told to fetch


def _addresses() -> Iterator[Case]:
    yield from _each("addresses", "signed_url_invalid", UNFIT, World.fetch)
    yield from _each(
        "addresses",
        "signed_url_refused",
        NOT_PUBLIC,
        lambda world, address: world.fetch(f"https://{host_of(address)}/file.wav"),
    )
    several = [[address] for address in NOT_PUBLIC]
    several += [["93.184.216.34", "10.0.0.5"], ["10.0.0.5", "93.184.216.34"], []]
    several += [[f"93.184.217.{number}" for number in range(17)], ["nonsense"]]
    yield from _each(
        "addresses",
        "signed_url_refused",
        several,
        lambda world, answers: world.fetch(
            "https://name.example.test/", names={"name.example.test": answers}
        ),
    )
    other: dict[str, Attempt] = {
        "not among the hosts": lambda world: world.fetch(
            f"https://{STORE}/", hosts=["other.example.test"]
        ),
        "no such name": lambda world: world.fetch("https://nowhere.example.test/"),
    }
    yield from _table("addresses", "signed_url_refused", other)
    signed = f"https://{STORE}/a.wav?X-Amz-Date=20200101T000000Z&X-Amz-Expires=60"
    yield Case("addresses", "expired", "signed_url_expired", lambda world: world.fetch(signed))
    dialled = {
        "another end": ({"end": ("10.0.0.5", 443)}, {}),
        "another host": ({}, {"host": "other.example.test"}),
        "another port": ({}, {"port": 80}),
        "a socket": ({}, {"path": "/run/docker.sock"}),
    }
    for name, (network, where) in dialled.items():
        attempt = partial(World.dial, network=network, where=where)
        yield Case("addresses", name, "barred", attempt)


def _downloads() -> Iterator[Case]:
    """What a store answers."""
    cut = httpcore2.ReadError("cut")
    tag = '"abc"'
    begun = FakeAnswer([b"RI", cut], content_length="4", etag=tag)
    answers: dict[str, tuple[str, list[FakeAnswer]]] = {
        "too large, said": ("too_large", [FakeAnswer(content_length="1001")]),
        "too large, not said": (
            "too_large",
            [FakeAnswer([b"x" * 900] * 2, transfer_encoding="chunked")],
        ),
        "status": ("failed", [FakeAnswer(status=403, content_length="4")]),
        "encoded": ("failed", [FakeAnswer(content_encoding="gzip", content_length="4")]),
        "length unknown": ("failed", [FakeAnswer()]),
        "redirect": ("failed", [FakeAnswer(status=302, location="/b.wav")]),
        "redirect to nothing": ("failed", [FakeAnswer(status=302, location="//10.0.0.5/")]),
        "two lengths": ("failed", [FakeAnswer(content_length="4", Content_Length="5")]),
        "no answer": ("failed", [FakeAnswer(fails=httpcore2.ConnectError(""))]),
        "no answer any more": ("failed", [begun, *[FakeAnswer(fails=cut)] * 9]),
        "another end": ("refused", [FakeAnswer(fails=BarredError("other end"))]),
        "cut without a tag": ("failed", [FakeAnswer([b"RI", cut], content_length="4")]),
        "shorter than said": ("failed", [FakeAnswer([b"RI"], content_length="4")]),
        "another range": (
            "failed",
            [begun, FakeAnswer([b"FF"], status=206, content_range="bytes 0-1/4", etag=tag)],
        ),
        "changed meanwhile": (
            "failed",
            [begun, FakeAnswer([b"FF"], status=206, content_range="bytes 2-3/4", etag='"x"')],
        ),
    }
    for name, (end, several) in answers.items():
        yield Case("downloads", name, f"signed_url_{end}", partial(_fetched, several))
    slow: dict[str, Attempt] = {
        "past its deadline": lambda world: world.fetch(
            f"https://{STORE}/a.wav",
            FakeAnswer([b"RI", 9.0, b"FF"], content_length="4"),
            seconds=0.05,
        ),
        "below the least rate": World.fetch_slowly,
        "no head of an answer": World.fetch_headless,
    }
    yield from _table("downloads", "signed_url_too_slow", slow)


def _fetched(answers: list[FakeAnswer], world: World) -> str:
    return world.fetch(f"https://{STORE}/a.wav", *answers)


# Who calls


def _callers() -> Iterator[Case]:
    for name in TOKENS:
        attempt = partial(World.bad_token, name=name)
        yield Case("tokens", name, "unauthenticated", attempt)
    unscoped = partial(World.forge, claims={"scope": "other"})
    none: dict[str, Attempt] = {
        "for no client": partial(World.forge, claims={"client_id": None}),
        "no token": lambda world: world.bearer(),
        "two tokens": lambda world: world.bearer(*[f"Bearer {world.caller.token}"] * 2),
    }
    yield from _table("tokens", "unauthenticated", none)
    yield Case("tokens", "without the grant", "insufficient_scope", World.overreach)
    yield Case("tokens", "without the scope", "insufficient_scope", unscoped)
    yield Case("secrets", "wrong", "invalid_client", World.guess)
    yield Case("secrets", "of a disabled client", "invalid_client", World.sign_in_disabled)
    yield Case("secrets", "guessed at", "too_many_requests", World.guess_on)
    right = {"grant_type": "client_credentials"}
    fields: list[Any] = [b"\xff", b"a=1&a=2", b"x" * 9000]
    yield from _each("secrets", "invalid_request", fields, World.token)
    yield Case("secrets", "none", "invalid_client", lambda world: world.token(right))
    signed_in: dict[str, tuple[str, dict[str, str]]] = {
        "no grant": ("invalid_request", {"grant_type": ""}),
        "another grant": ("unsupported_grant_type", {"grant_type": "password"}),
        "another scope": ("invalid_scope", {"scope": "all"}),
        "Basic and form": ("invalid_request", {"authorization": "Basic eDp5"}),
        "Basic twice": ("invalid_request", dict.fromkeys(("authorization", "AUTHORIZATION"), "x")),
        "no Basic": ("invalid_client", {"authorization": "Basic x", "client_id": ""}),
        "no form": ("invalid_request", {"content_type": "application/json"}),
    }
    for name, (code, changes) in signed_in.items():
        yield Case("secrets", name, code, partial(World.sign_in, **changes))
    yield Case("rates", "one request too many", "rate_limited", World.hurry)
    unbound = Put("database.scope:Scope._bound", lambda _self, statement: statement)
    for method, path in FOREIGN:
        attempt = partial(World.trespass, method=method, path=path)
        yield Case("organizations", f"{method} {path}", "not_found", attempt, unbound)
    for how, check in {
        "row changed": Put("audit:Audit._seal_faults", lambda *_: iter(())),
        "row removed": Put("audit:Audit._seal_faults", lambda *_: iter(())),
        "head written by another": Put("audit:Audit._is_genuine", lambda *_: True),
    }.items():
        yield Case("audit", how, "noticed", partial(World.tamper, how=how), check)


TOKENS = (
    *("signed by nobody", "of another service", "expired", "not yet issued", "without expiry"),
    *("other audience", "other issuer", "other type", "no type", "unknown key", "no key id"),
    *(f"public key as secret: {key}" for key in ("PEM", "PEM without its end", "JWK", "nothing")),
    *(
        f"alg {none!r}{more}"
        for none in ("none", "None", "NONE", "")
        for more in ("", " with a signature")
    ),
    *("key in the header", "key address in the header", "critical extension"),
    *("header names alg twice", "header names alg twice, signed", "other claims"),
    *("no signature", "two parts", "five parts", "no token", "zero signature", "oversized"),
    *("oversized header", "unknown client", "other organization"),
)
"""Those of `forging.hostile`, which needs a service to make them; a test compares."""

FOREIGN = (
    ("GET", "/v1/interactions/{id}"),
    ("GET", "/v1/interactions/{id}/media"),
    ("GET", "/v1/interactions/{id}/transcript"),
    ("GET", "/v1/interactions/{id}/receipt"),
    ("POST", "/v1/interactions/{id}/retry"),
    ("DELETE", "/v1/interactions/{id}"),
)
"""What a stranger tries on an interaction of somebody else's."""


# The decoder's child


def _children() -> Iterator[Case]:
    tight = {
        "MemoryExceededError": ("swell", {"memory_bytes": 300 << 20}, {"megabytes": 1024}),
        "DeadlineExceededError": ("spin", {"cpu_seconds": 1}, {}),
        "CrashedError": ("die", {}, {"number": 11}),
        "ChildFailedError": ("echo", {"output_bytes": 1 << 20}, {"times": 1 << 20}),
    }
    for code, (function, limits, arguments) in tight.items():
        attempt = partial(World.suffer, function=function, limits=limits, arguments=arguments)
        yield Case("sandbox", function, code, attempt)
    failing = {"refuse": "no_audio", "stumble": "ChildFailedError", "leave": "ChildFailedError"}
    for function, code in failing.items():
        attempt = partial(World.suffer, function=function, limits={}, arguments={})
        yield Case("sandbox", function, code, attempt)
    late = partial(
        World.suffer, function="echo", limits={"wall_seconds": 0.02}, arguments={"times": 1}
    )
    yield Case("sandbox", "past its deadline", "DeadlineExceededError", late)
    walls = Put("sandbox:_WALLS", ())
    for way in ("files", "network", "processes"):
        yield Case("sandbox", f"reach {way}", "kept in", partial(World.escape, way=way), walls)
    environment = Put("sandbox:_environment", lambda: dict(os.environ))
    yield Case("sandbox", "read our environment", "kept in", World.spy, environment)
