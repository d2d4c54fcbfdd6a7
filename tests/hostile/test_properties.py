"""Whatever comes: an answer of the contract, files in the data folder alone, bounded reading.

Usually some dozens of examples of each property; with --thorough more than 10,000 in each area.
"""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import tracemalloc
import warnings
import zipfile
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import hypothesis
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from chats import LOG, tarred, unpacked, zipped
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
)
from contract.serving import exchange
from contract.test_upload_metadata import NO_OBJECT
from contract.test_upload_names import UNSAFE
from contract.test_upload_properties import JSON, KEYS, PIECES, TEXT
from earmark.chat.faults import SENTENCES as CHAT_SENTENCES
from earmark.errors import MediaError, Why
from earmark.intake.stage import BATCH_BYTES
from earmark.web.acxapi.upload import FORM_GRACE_BYTES
from earmark.web.acxapi.wire import SENTENCES
from earmark.web.connection import DRAIN_BYTES
from hostile.watching import Watch
from hostile.world import PROBLEM
from unit.test_chat_archive import harmless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contract.serving import Answer
    from hostile.world import World

SMALL_BYTES = 64 * 1024
"""The largest file that `World.small` takes."""

CHUNK_BYTES = 64 * 1024
MOST_READ_BYTES = SMALL_BYTES + FORM_GRACE_BYTES + DRAIN_BYTES
"""Of a form, and of what follows a refusal so that its sender gets to the answer."""

CODES = {*(why.value for why in Why), "too_large", "not_multipart", "idle"}

_thorough = hypothesis.settings().max_examples >= 2000
pytestmark = pytest.mark.timeout(1800)


def tried(usual: int, thorough: int) -> hypothesis.settings:
    """How many examples; the world is shared by all of them, which is the point."""
    return hypothesis.settings(
        max_examples=thorough if _thorough else usual,
        suppress_health_check=[*HealthCheck],
        database=None,  # it would write where no file may be written
    )


class Eye:
    """Sends, and looks at what came of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.watch = Watch()
        self.examples: Counter[str] = Counter()
        self.accepted = 0

    def upload(self, area: str, sent: bytes | list[bytes], **headers: str) -> Answer:
        self.examples[area] += 1
        caller = self.world.caller
        with self.watch.watching():
            answer = caller.upload(sent, accept=PROBLEM, **headers)
        self.check(answer)
        self.accepted += answer.status == 200
        return answer

    def check(self, answer: Answer) -> None:
        assert answer.status in {200, 400, 408, 413, 415}, answer
        assert self.watch.outside(self.world.folder) == []
        for service in (self.world.service, self.world.small):
            assert not os.listdir(service.folder / "staging")  # noqa: PTH208 - no Path is needed
        told = answer.json
        if answer.status == 200:
            assert told.keys() == {"id", "fileName", "fileSizeKb"}
            return
        assert told["code"] in CODES
        assert told["detail"].endswith((".", "!"))
        if answer.status == 400:
            assert told["detail"] == SENTENCES[Why(told["code"])]
            assert [fault["code"] for fault in told["faults"]].count(told["code"]) >= 1

    def endless(self, area: str, begun: bytes, more: bytes) -> Answer:
        """A form whose end never comes; what was read of it is bounded."""
        self.examples[area] += 1
        stream = Endless(begun, more)
        headers = {
            "content_type": CONTENT_TYPE,
            "authorization": f"Bearer {self.world.caller.token}",
            "accept": PROBLEM,
            "transfer_encoding": "chunked",
        }
        small = self.world.small
        with self.watch.watching():
            answer = small.runner.run(
                exchange(small.app, "POST", "/Media/Upload", headers=headers, chunks=stream)
            )
        self.check(answer)
        assert answer.status >= 400
        return answer


class Endless:
    """Pieces without an end, which fails once more was read than may be."""

    def __init__(self, begun: bytes, more: bytes) -> None:
        self._begun = begun
        self._more = (more * (CHUNK_BYTES // len(more) + 1))[:CHUNK_BYTES]
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        yield self._take(self._begun)
        while True:
            yield self._take(self._more)

    def _take(self, piece: bytes) -> bytes:
        self.given += len(piece)
        assert self.given <= MOST_READ_BYTES + CHUNK_BYTES
        return piece


@pytest.fixture(scope="module")
def _eye(world: World) -> Eye:
    return Eye(world)


@pytest.fixture
def eye(_eye: Eye, tell: Callable[..., None]) -> Iterator[Eye]:
    """The module's, which tells at the end of a test how many examples were tried."""
    _eye.examples.clear()
    yield _eye
    assert _eye.world.service.kept().objects == _eye.accepted
    for area, count in _eye.examples.items():
        tell(area=area, examples=count)


# Names

SEGMENTS = st.sampled_from(
    [
        *("..", ".", "", "~", "C:", "con", "\0", "\n", "\x7f", "%2e%2e", "\u2025", "\uff0e\uff0e"),
        *("/", "\\", "\uff0f", "\uff3c", "\u2215", "etc", "passwd", "a" * 300, "\ud800", "é"),
        *("e\u0301", "\u0301\u0316" * 40, "\u202e", "\u200b", "\ufdfa", ".wav", ".WAV"),
    ]
)
NAMES = st.lists(SEGMENTS | TEXT, max_size=8).map("/".join) | st.text() | st.sampled_from(UNSAFE)


@tried(40, 4000)
@given(name=NAMES, ending=st.sampled_from([".wav", "", ".mp3", ".wav/", "\\.wav", ".zip"]))
def test_any_name(eye: Eye, name: str, ending: str) -> None:
    eye.upload("names", form(json.dumps(meta(FileName=name + ending)).encode()))


@tried(30, 3500)
@given(name=NAMES)
def test_any_name_of_the_file_part(eye: Eye, name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    header = f'Content-Disposition: form-data; name="file"; filename="{quoted}.wav"'
    sent = header.encode("utf-8", "replace").replace(b"\r", b"").replace(b"\n", b"")
    eye.upload("names", body(metadata_part(meta()), sent + b"\r\n\r\n" + WAV))


@tried(30, 3000)
@given(pieces=st.lists(PIECES | st.binary(max_size=12), max_size=8))
def test_any_bytes_as_a_name(eye: Eye, pieces: list[bytes]) -> None:
    head = b'{"UploadType": "Audio", "FileName": "' + uuid4().hex.encode()
    eye.upload("names", form(head + b"".join(pieces) + b'.wav"}'))


# Metadata

VALUES = JSON | st.sampled_from(
    ["\0", "\ud800", "x" * 600, "1e999", "2022-03-18", "true", [], {}, 1e300, -0.0, 10**50]
)
TOKENS = st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"NaN", b"-"),
        *(b"1e999", b"null", b"true", b'"a": 1', b'"FileName"', b"\xff", b"\xef\xbb\xbf", b"\0"),
        *(b"[" * 20, b'{"a":' * 20, b"9" * 100, b" " * 1000, b'"FILENAME": "b.wav"', b"//"),
    ]
)


@tried(40, 4000)
@given(values=st.dictionaries(KEYS | TEXT, VALUES, max_size=8))
def test_metadata_of_any_values(eye: Eye, values: dict[str, Any]) -> None:
    eye.upload("metadata", form(json.dumps({**meta(), **values}).encode("utf-8", "replace")))


@tried(30, 3500)
@given(pieces=st.lists(TOKENS | st.binary(max_size=10), max_size=20))
@example([b"[" * 100_000])
@example([b'{"FileName": ' + b'"' + b"\\u0301" * 40_000 + b'", "UploadType": "Audio"}'])
def test_metadata_of_any_text(eye: Eye, pieces: list[bytes]) -> None:
    eye.upload("metadata", form(b"".join(pieces)))


@tried(30, 3000)
@given(st.data())
def test_metadata_damaged_anywhere(eye: Eye, data: st.DataObject) -> None:
    name = f"{uuid4()}.wav"  # of one length, so that the draws are the same
    values = {"Name": "A", "ExtendedMetadataValues": {"a": [1, {"b": None}]}, "LocaleId": 1033}
    good = json.dumps(meta(FileName=name, **values)).encode()
    sent = data.draw(st.sampled_from([None, *NO_OBJECT])) or good
    eye.upload("metadata", form(damaged(data, sent, TOKENS)))


# Forms


def damaged(data: st.DataObject, whole: bytes, pieces: st.SearchStrategy[bytes]) -> bytes:
    """The bytes cut, doubled, flipped or overwritten in some places."""
    made = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(made)))
        stop = data.draw(st.integers(at, min(len(made), at + 80)))
        change = data.draw(st.sampled_from(["cut", "double", "flip", "put", "end"]))
        if change == "cut":
            del made[at:stop]
        elif change == "double":
            made[at:at] = made[at:stop]
        elif change == "flip" and at < len(made):
            made[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "put":
            made[at:stop] = data.draw(pieces | st.binary(max_size=20))
        elif change == "end":
            del made[at:]
    return bytes(made)


def pieces_of(data: st.DataObject, whole: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    return [whole[at:to] for at, to in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@tried(50, 4000)
@given(st.data())
def test_a_form_damaged_anywhere(eye: Eye, data: st.DataObject) -> None:
    name = f"{uuid4()}.wav"  # of one length, so that the draws are the same
    parts = [metadata_part(meta(FileName=name)), file_part(), part("other", b"1" * 40)]
    whole = body(*data.draw(st.permutations(parts)))
    eye.upload("forms", pieces_of(data, damaged(data, whole, PIECES)))


@tried(30, 3000)
@given(
    lines=st.lists(TEXT | st.sampled_from(["X: 1", "Content-Length: 5", " folded"]), max_size=20),
    options=st.lists(TEXT | PIECES.map(lambda raw: raw.decode("latin-1")), max_size=8),
    length=st.sampled_from([0, 1, 16_000, 17_000]),
)
@example([], ['"' + '\\"' * 8000], 0)
@example(["X: 1"] * 40, [], 0)
def test_a_part_header_of_any_text(
    eye: Eye, lines: list[str], options: list[str], length: int
) -> None:
    first = "Content-Disposition: form-data; name=file; filename" + "".join(options)
    sent = raw_part(first + "x" * length, *lines, data=WAV)
    eye.upload("forms", body(metadata_part(meta()), sent))


@tried(30, 3000)
@given(
    content_type=TEXT | st.sampled_from(["multipart/form-data", "text/plain"]),
    boundary=TEXT | st.sampled_from([BOUNDARY, BOUNDARY[:-1], "", "-", "x" * 201, '"', "a b"]),
)
def test_any_boundary(eye: Eye, content_type: str, boundary: str) -> None:
    said = f"{content_type}; boundary={boundary}".encode("latin-1", "replace").decode("latin-1")
    eye.upload("forms", form(meta()), content_type=said)


@tried(8, 300)
@given(
    begun=st.sampled_from(
        [
            *(b"", b"--", b"--" + BOUNDARY.encode(), b"--" + BOUNDARY.encode() + b"\r\n"),
            form(meta()),
            form(meta(), file_first=True)[:-4],
            form(meta())[:-6],
            body(part("other", b""))[:-6],
            body(metadata_part(b"{"))[:-8],
            b"--" + BOUNDARY.encode() + b"\r\nContent-Disposition: form-data; name=file; x=",
        ]
    ),
    more=PIECES | st.binary(min_size=1, max_size=30) | st.just(part("other", b"1")),
)
def test_a_form_without_an_end_is_read_no_further_than_its_limit(
    eye: Eye, begun: bytes, more: bytes
) -> None:
    tracemalloc.start()
    try:
        eye.endless("forms", begun, more)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 4 * BATCH_BYTES + len(begun)


# Archives

MEMBER_NAMES = st.sampled_from(
    [
        *("a.json_chat", "b.txt", "../evil", "/etc/evil", "C:\\evil", "a/../../evil", "a\nb"),
        *("\u2025/evil", "x" * 1100, "a.json_meta", "a.xml_meta", ".hidden", "a", "a/", "\udcff"),
        *("__MACOSX/a.txt", "inner.zip", "inner.tar", ""),
    ]
)
CONTENTS = (
    st.sampled_from([LOG.encode(), b"", b"Chris: hi", bytes(200_000), b"\xff\xfe\0", b"{"])
    | st.binary(max_size=60)
    | st.sampled_from([zipped({"../evil": "x"}), tarred({"../evil": "x"})])
)
MEMBERS = st.lists(st.tuples(MEMBER_NAMES, CONTENTS, st.integers(0, 9)), max_size=5)
TYPES = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)
FIELDS = st.sampled_from([0, 1, 0xFF, 0xFFFF, 1 << 20, 1 << 31, 0xFFFFFFFE, 0xFFFFFFFF])


def zip_of(members: list[tuple[str, bytes, int]]) -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as out:
        warnings.simplefilter("ignore")
        for name, content, kind in members:
            member = zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x")
            member.compress_type = zipfile.ZIP_STORED if kind % 2 else zipfile.ZIP_DEFLATED
            if kind > 7:
                member.external_attr = (stat.S_IFLNK | 0o777) << 16
            out.writestr(member, content)
    return made.getvalue()


def tar_of(members: list[tuple[str, bytes, int]]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as out:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type = TYPES[kind - 5] if kind > 5 else tarfile.REGTYPE
            member.linkname = "/etc/passwd" if kind > 6 else ""
            member.size = len(content) if member.type == tarfile.REGTYPE else 0
            out.addfile(member, io.BytesIO(content))
    return made.getvalue()


def lying(data: st.DataObject, archive: bytes) -> bytes:
    """The archive with other numbers where sizes, offsets and counts stand."""
    made = bytearray(archive)
    marks = [made.find(b"PK\x01\x02"), made.rfind(b"PK\x05\x06")]
    places = [mark for mark in marks if mark >= 0]
    for _ in range(data.draw(st.integers(0, 3))):
        if places:
            at = data.draw(st.sampled_from(places)) + data.draw(st.integers(4, 44))
            made[at : at + 4] = data.draw(FIELDS).to_bytes(4, "little")
        else:
            at = 512 * data.draw(st.integers(0, max(0, len(made) // 512 - 1)))
            made[at + 124 : at + 136] = data.draw(st.binary(min_size=12, max_size=12))
            made[at + 148 : at + 156] = b" " * 8
            made[at + 148 : at + 156] = b"%06o\0 " % sum(made[at : at + 512])
    return bytes(made)


def read(eye: Eye, data: bytes) -> None:
    """Walks over the archive and reads the chat, as the decoder's child does; writes nothing."""
    eye.examples["archives"] += 1
    with eye.watch.watching():
        harmless(data)
        ended = _cause(data)
    assert ended is None or (ended.code in CHAT_SENTENCES and ended.message.endswith("."))
    assert eye.watch.touched == []


def _cause(data: bytes) -> MediaError | None:
    try:
        unpacked(data)
    except MediaError as error:
        return error
    return None


@tried(40, 4000)
@given(members=MEMBERS, data=st.data(), pack=st.sampled_from([zip_of, tar_of]))
def test_an_archive_of_any_members_with_lying_headers(
    eye: Eye, members: list[tuple[str, bytes, int]], data: st.DataObject, pack: Any
) -> None:
    read(eye, lying(data, pack(members)))


@tried(40, 4000)
@given(members=MEMBERS, data=st.data(), pack=st.sampled_from([zip_of, tar_of]))
def test_an_archive_of_any_members_damaged_anywhere(
    eye: Eye, members: list[tuple[str, bytes, int]], data: st.DataObject, pack: Any
) -> None:
    read(eye, damaged(data, pack(members), st.binary(max_size=12)))


@tried(20, 2500)
@given(
    members=MEMBERS,
    data=st.data(),
    kind=st.sampled_from([(zip_of, ".zip"), (tar_of, ".tar"), (zip_of, ".wav"), (tar_of, ".zip")]),
)
def test_any_archive_is_kept_as_it_is_or_refused(
    eye: Eye, members: list[tuple[str, bytes, int]], data: st.DataObject, kind: Any
) -> None:
    pack, ending = kind
    content = damaged(data, pack(members), st.binary(max_size=12))
    sent = meta(FileName=new_name(ending), UploadType="Audio" if ending == ".wav" else "Chat")
    answer = eye.upload("archives", form(sent, content, name=f"sent{ending}"))
    if answer.status == 200:
        assert eye.world.caller.interaction(answer).size_bytes == len(content)
