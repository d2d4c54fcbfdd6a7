"""Hostile, damaged and unusual archives. Whatever comes: members, or a documented cause."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from chats import LOG, tarred, unpacked, zipped
from earmark.chat import archive, rules, tars, zips
from earmark.chat.faults import SENTENCES
from earmark.chat.rules import RULES, Entry
from earmark.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {"a.json_chat": LOG, "folder/b.txt": "x" * 2000}
SIZES = [Entry("a.json_chat", len(LOG)), Entry("folder/b.txt", 2000)]


def survey(data: bytes) -> list[Entry]:
    return archive.survey(io.BytesIO(data))


def content(data: bytes, name: str = "a.json_chat") -> bytes:
    return dict(archive.read(io.BytesIO(data), {name}))[name]


def cause(work: Callable[[], object]) -> str:
    """The code of the fault, and of an unsafe archive the rule."""
    with pytest.raises(MediaError) as caught:
        work()
    if caught.value.code != "archive_unsafe":
        return caught.value.code
    (rule,) = [rule for rule, words in RULES.items() if words in caught.value.message]
    return rule


def judged(data: bytes) -> str:
    """How the archive is refused, if it is."""
    return cause(lambda: (survey(data), content(data)))


def changed(data: bytes, at: int, form: str, *values: int) -> bytes:
    made = bytearray(data)
    struct.pack_into(form, made, at, *values)
    return bytes(made)


# What is taken


@pytest.mark.parametrize(
    "data",
    [
        zipped(FILES),
        zipped(FILES, zipfile.ZIP_STORED),
        tarred(FILES, tarfile.USTAR_FORMAT),
        tarred(FILES, tarfile.GNU_FORMAT),
        tarred(FILES, tarfile.PAX_FORMAT),
    ],
    ids=["deflated", "stored", "ustar", "gnu", "pax"],
)
def test_members_are_listed_and_read(data: bytes) -> None:
    assert survey(data) == SIZES
    assert content(data).decode() == LOG
    assert dict(archive.read(io.BytesIO(data), set())) == {}


LONG = "ñ" * 200 + "/" + "é" * 200 + ".txt"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_letters_of_any_script_are_taken(form: int) -> None:
    assert survey(tarred({LONG: "x"}, form)) == [Entry(LONG, 1)]
    assert survey(zipped({LONG: "x"})) == [Entry(LONG, 1)]


@pytest.mark.parametrize(
    "name",
    [
        "./a.txt",
        "a b.txt",
        "2026-03-18T21:52:26.txt",
        "a..b.txt",
        "...",
        "WhatsApp Chat \u2013 Zoë.txt",
    ],
)
def test_usual_names_are_taken(name: str) -> None:
    assert survey(zipped({name: "x"})) == [Entry(name, 1)]
    assert survey(tarred({name: "x"})) == [Entry(name, 1)]


def test_folders_are_no_files() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        out.mkdir("folder")
        out.writestr("folder/a.txt", "x")
    assert survey(made.getvalue()) == [Entry("folder/a.txt", 1)]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as out:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        out.addfile(folder)
        out.addfile(tarfile.TarInfo("folder/a.txt"))
    assert survey(made.getvalue()) == [Entry("folder/a.txt", 0)]


def test_a_zip_that_was_written_as_a_stream_is_taken() -> None:
    class Pipe(io.BytesIO):
        @override
        def seekable(self) -> bool:
            return False

        @override
        def tell(self) -> int:
            raise OSError

    made = Pipe()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.json_chat", LOG)
    assert content(made.getvalue()).decode() == LOG


def test_a_zip_may_have_a_comment() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        out.writestr("a.json_chat", LOG)
        out.comment = b"from the exporter" * 900
    assert content(made.getvalue()).decode() == LOG


@pytest.mark.parametrize("ending", [b"", bytes(10240), b"garbage"])
def test_what_follows_the_end_of_a_tar_is_not_looked_at(ending: bytes) -> None:
    assert survey(tarred(FILES) + ending) == SIZES


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_within_is_a_file_like_any_other(pack: Callable[..., bytes]) -> None:
    inner = zipped({"../evil": "x"})
    assert survey(pack({"inner.zip": inner})) == [Entry("inner.zip", len(inner))]


def test_an_empty_archive_has_no_members() -> None:
    assert survey(zipped({})) == []
    assert survey(tarred({})) == []


# What is none


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"no archive " * 100, b"RIFF....WAVE", b"Rar!\x1a\x07", b"MZ" + zipped(FILES)],
)
def test_what_is_no_archive_is_told(data: bytes) -> None:
    assert judged(data) == "not_archive"


@pytest.mark.parametrize(
    ("pack", "words"),
    [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")],
)
def test_a_compressed_tar_is_refused(pack: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(MediaError, match=words) as caught:
        survey(pack(tarred(FILES)))
    assert caught.value.code == "archive_compressed"


# Rules of both


@pytest.mark.parametrize(
    "name",
    [
        *("../a.txt", "a/../../b.txt", "/etc/passwd", "C:\\a.txt", "c:a.txt", "..\\a.txt"),
        *(
            "\\a.txt",
            "a\nb.txt",
            "a\x7f.txt",
            "a\x85.txt",
            "\u2025/a.txt",
            "\uff0e\uff0e/a.txt",
            "a\uff0f\u2025\uff0fb",
        ),
        "x" * 1025,
    ],
    ids=ascii,
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_name_that_is_unsafe_is_refused(pack: Callable[..., bytes], name: str) -> None:
    assert judged(pack({name: "x"})) == "name"


def test_a_name_in_a_zip_may_not_hide_behind_nul() -> None:
    data = zipped({"a.txtX../b": "x"}).replace(b"a.txtX", b"a.txt\0")
    assert judged(data) == "name"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused() -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        out.writestr("a.txt", "x")
        out.writestr("a.txt", "y")
    assert judged(made.getvalue()) == "twice"
    one = tarred({"a.txt": "x"})
    assert judged(one[:1024] + one) == "twice"


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_are_counted(pack: Callable[..., bytes]) -> None:
    names = [f"{number}.txt" for number in range(rules.MAX_ENTRIES + 1)]
    assert len(survey(pack(dict.fromkeys(names[1:], "")))) == rules.MAX_ENTRIES
    assert judged(pack(dict.fromkeys(names, ""))) == "entries"


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_the_size_of_all_members_together_is_bounded(
    pack: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pack({"a.json_chat": "x" * 600, "b.txt": "y" * 400})
    monkeypatch.setattr(rules, "MAX_TOTAL_BYTES", 1000)
    assert len(survey(data)) == 2
    monkeypatch.setattr(rules, "MAX_TOTAL_BYTES", 999)
    assert judged(data) == "total"


def test_a_gigabyte_is_the_most_that_an_archive_may_say() -> None:
    header = tarfile.TarInfo("big.bin")
    header.size = rules.MAX_TOTAL_BYTES + 1
    assert judged(header.tobuf() + bytes(1024)) == "total"
    assert rules.MAX_TOTAL_BYTES == 1 << 30


# Zip


def test_a_bomb_is_refused_by_its_ratio() -> None:
    assert judged(zipped({"a.txt": bytes(1 << 20)})) == "ratio"
    assert survey(zipped({"a.txt": bytes(rules.RATIO_FREE_BYTES)}))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip_are_refused(kind: int) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        link = zipfile.ZipInfo("a.txt")
        link.external_attr = (kind | 0o777) << 16
        out.writestr(link, "/etc/passwd")
    assert judged(made.getvalue()) == "kind"


DIRECTORY = zipped({"a.json_chat": LOG}).index(b"PK\x01\x02")


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
def test_an_encrypted_member_is_refused(flag: int) -> None:
    data = zipped({"a.json_chat": LOG})
    assert judged(changed(data, DIRECTORY + 8, "<H", flag)) == "encrypted"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_packed_in_another_way_is_refused(method: int) -> None:
    assert judged(zipped({"a.json_chat": LOG}, method)) == "method"


def end_of(data: bytes) -> int:
    return data.rindex(b"PK\x05\x06")


@pytest.mark.parametrize(
    ("at", "form", "values"),
    [(4, "<H", (1,)), (6, "<H", (1,)), (8, "<H", (2,)), (8, "<2H", (0xFFFF, 0xFFFF))],
)
def test_a_zip_of_several_parts_or_zip64_is_refused(at: int, form: str, values: tuple) -> None:
    data = zipped({"a.json_chat": LOG})
    assert judged(changed(data, end_of(data) + at, form, *values)) == "parts"


def test_a_member_on_another_disk_is_refused() -> None:
    data = zipped({"a.json_chat": LOG})
    assert judged(changed(data, DIRECTORY + 34, "<H", 1)) == "parts"


def test_a_count_of_too_many_members_is_refused_before_they_are_looked_at() -> None:
    data = zipped({"a.json_chat": LOG})
    many = rules.MAX_ENTRIES + 1
    assert judged(changed(data, end_of(data) + 8, "<2H", many, many)) == "entries"


@pytest.mark.parametrize("count", [0, 2])
def test_a_count_of_members_that_is_wrong_is_damage(count: int) -> None:
    data = zipped({"a.json_chat": LOG})
    assert judged(changed(data, end_of(data) + 8, "<2H", count, count)) == "archive_damaged"


def test_a_directory_too_large_to_hold_is_refused() -> None:
    data = zipped({"a.json_chat": LOG})
    large = changed(data, end_of(data) + 12, "<L", zips.MAX_DIRECTORY_BYTES + 1)
    assert judged(large) == "entries"


def test_something_between_or_behind_is_refused() -> None:
    data = zipped({"a.json_chat": LOG})
    assert judged(data + b"behind") == "hidden"
    end = end_of(data)
    assert judged(data[:end] + b"between" + data[end:]) == "hidden"
    assert judged(data[:DIRECTORY] + b"x" * 9 + data[DIRECTORY:]) == "hidden"


def test_something_before_the_first_member_is_refused() -> None:
    """Another zip in front, to which no directory points."""
    front = zipped({"b.txt": "hidden"})
    front = front[: front.index(b"PK\x01\x02")]
    data = zipped({"a.json_chat": LOG})
    moved = changed(data, DIRECTORY + 42, "<L", len(front))
    end = end_of(moved)
    moved = changed(moved, end + 16, "<L", DIRECTORY + len(front))
    assert judged(front + moved) == "hidden"


def overlapping() -> bytes:
    """Two names for the content of one member, as in the best packed bombs."""
    data = zipped({"a.json_chat": LOG, "b.json_chat": LOG})
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    return changed(data, second + 42, "<L", 0)


def test_members_that_overlap_are_refused() -> None:
    assert judged(overlapping()) == "overlap"


def test_a_member_that_reaches_into_the_directory_is_refused() -> None:
    data = zipped({"a.json_chat": LOG}, zipfile.ZIP_STORED)
    longer = changed(data, data.index(b"PK\x01\x02") + 20, "<2L", len(LOG) + 30, len(LOG) + 30)
    assert judged(longer) == "overlap"


@pytest.mark.parametrize("offset", [1 << 20, 0xFFFFFFFE, DIRECTORY])
def test_an_offset_out_of_the_archive_is_refused(offset: int) -> None:
    data = zipped({"a.json_chat": LOG})
    assert judged(changed(data, DIRECTORY + 42, "<L", offset)) == "overlap"


def test_an_offset_to_something_else_is_damage() -> None:
    data = zipped({"a.json_chat": LOG, "b.txt": "y" * 99})
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    at = struct.unpack_from("<L", data, second + 42)[0]
    assert judged(changed(data, second + 42, "<L", at + 1)) == "archive_damaged"


def test_content_that_does_not_match_its_checksum_is_damage() -> None:
    data = zipped({"a.json_chat": LOG}, zipfile.ZIP_STORED)
    assert judged(data.replace(b"Good morning", b"Good evening")) == "archive_damaged"


@pytest.mark.parametrize("size", [0, 2, 4, 1 << 20])
def test_a_member_is_read_to_its_size_and_not_beyond(size: int) -> None:
    stream = io.BytesIO(b"abc" + bytes(1 << 17))
    assert cause(lambda: rules.drain(stream, size)) == "archive_damaged"
    assert stream.tell() <= size + 1 or size > 1 << 17


def test_content_that_cannot_be_unpacked_is_damage() -> None:
    data = zipped({"a.json_chat": LOG})
    start = 30 + len("a.json_chat")
    assert judged(data[:start] + b"\xff" * 20 + data[start + 20 :]) == "archive_damaged"


def test_a_version_that_is_not_there_yet_is_damage() -> None:
    data = zipped({"a.json_chat": LOG})
    assert judged(changed(data, DIRECTORY + 6, "<H", 99)) == "archive_damaged"


@pytest.mark.parametrize("size", [len(LOG) - 5, len(LOG) + 5])
def test_a_size_that_is_wrong_is_damage(size: int) -> None:
    data = zipped({"a.json_chat": LOG})
    assert judged(changed(data, DIRECTORY + 24, "<L", size)) == "archive_damaged"


# Tar


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **fields: object) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    for key, value in fields.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.GNU_FORMAT)


def record(kind: bytes, data: bytes) -> bytes:
    """An extended header."""
    return header("././@LongLink", kind, len(data)) + data + bytes(-len(data) % 512)


END = bytes(1024)
ONE = header("a.json_chat", size=3) + b"abc" + bytes(509)


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"V"],
)
def test_links_devices_and_the_like_in_a_tar_are_refused(kind: bytes) -> None:
    assert judged(header("a.txt", kind, linkname="/etc/passwd") + END) == "kind"


def test_a_sparse_member_of_gnu_is_refused() -> None:
    assert judged(header("a.txt", tarfile.GNUTYPE_SPARSE) + END) == "sparse"
    data = bytearray(header("a.txt", tarfile.GNUTYPE_SPARSE))
    data[482] = 1  # its map goes on in further blocks, which are not even looked for
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data)
    assert judged(bytes(data)) == "sparse"


def pax(**values: str) -> bytes:
    lines = b""
    for key, value in values.items():
        body = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(body) + len(str(len(body) + 2))
        lines += str(length).encode() + body
    return record(tarfile.XHDTYPE, lines)


@pytest.mark.parametrize(
    "records",
    [
        {"GNU__sparse__map": "0,10", "GNU__sparse__size": "99"},
        {"GNU__sparse__size": "99", "GNU__sparse__numblocks": "1"},
    ],
)
def test_a_sparse_member_of_pax_is_refused(records: dict[str, str]) -> None:
    assert judged(pax(**records) + ONE + END) == "sparse"


def test_a_sparse_member_of_the_newest_form_is_refused() -> None:
    newest = pax(GNU__sparse__major="1", GNU__sparse__minor="0")
    data = b"1\n0\n10\n"
    member = header("a.txt", size=512) + data + bytes(512 - len(data))
    assert judged(newest + member + END) == "sparse"
    assert judged(newest + header("a.txt", size=512) + b"9" * 512 + END) == "archive_damaged"


@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
def test_a_header_record_longer_than_any_name_is_refused(kind: bytes) -> None:
    assert judged(record(kind, b"x" * (tars.MAX_RECORD_BYTES + 1)) + ONE + END) == "headers"
    assert judged(header("x", kind, 1 << 33) + ONE + END) == "headers"


def test_a_chain_of_header_records_is_refused() -> None:
    name = record(tarfile.GNUTYPE_LONGNAME, b"b.txt")
    assert survey(name * 3 + ONE + END) == [Entry("b.txt", 3)]
    assert judged(name * 9 + ONE + END) == "headers"
    assert judged(name * 5000 + ONE + END) == "headers"


@pytest.mark.parametrize(
    ("size", "how"),
    [("-1", "archive_damaged"), ("-512", "archive_damaged"), ("99999999999999999999", "total")],
)
def test_a_size_of_pax_that_cannot_be_is_refused(size: str, how: str) -> None:
    assert cause(lambda: survey(pax(size=size) + ONE + END)) == how


def test_a_negative_size_is_damage() -> None:
    data = bytearray(header("a.json_chat"))
    data[124:136] = b"\xff" * 10 + b"\xfe\x00"
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data)
    assert judged(bytes(data) + ONE + END) == "archive_damaged"


def test_a_header_that_is_broken_does_not_pass_for_the_end() -> None:
    assert judged(ONE + b"x" * 512 + END) == "archive_damaged"


@pytest.mark.parametrize("end", [b"", bytes(100)])
def test_a_tar_without_its_end_is_cut_off(end: bytes) -> None:
    assert judged(ONE + end) == "archive_damaged"


def test_a_tar_that_ends_after_a_header_record_is_cut_off() -> None:
    assert judged(record(tarfile.GNUTYPE_LONGNAME, b"b.txt") + END) == "archive_damaged"


# All


GOOD = [zipped(FILES), tarred(FILES, tarfile.GNU_FORMAT), tarred({LONG: "x", **FILES})]


@pytest.mark.parametrize("data", GOOD, ids=["zip", "gnu", "pax"])
def test_an_archive_cut_off_anywhere_is_damaged(data: bytes) -> None:
    end = len(data.rstrip(b"\0")) if data[:2] != b"PK" else len(data)
    for length in range(520, end, 13):
        assert judged(data[:length]) in {"archive_damaged", "hidden", "entries"}


class Counted(io.BytesIO):
    """Says how much of it was read."""

    total = 0

    @override
    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.total += len(found)
        return found


def harmless(data: bytes) -> None:
    """Reads it all; nothing but a documented cause may come of it, and no more is read than is."""
    file = Counted(data)
    try:
        entries = archive.survey(file)
        for _, found in archive.read(file, {one.name for one in entries}):
            assert len(found) <= rules.MAX_TOTAL_BYTES
    except MediaError as error:
        if error.code not in SENTENCES or not error.message.endswith("."):
            raise AssertionError(error.code) from error
    assert file.total <= 8 * len(data) + (1 << 18)


@given(st.binary(max_size=3000))
def test_any_bytes_are_harmless(data: bytes) -> None:
    harmless(data)
    harmless(b"PK\x03\x04" + data)
    harmless(ONE + data)


@given(data=st.sampled_from(GOOD), edits=st.data())
def test_an_archive_damaged_anywhere_is_harmless(data: bytes, edits: st.DataObject) -> None:
    made = bytearray(data)
    for _ in range(edits.draw(st.integers(1, 6))):
        at = edits.draw(st.integers(0, max(0, len(made) - 1)))
        new = edits.draw(st.binary(max_size=12))
        made[at : at + edits.draw(st.integers(0, 12))] = new
    harmless(bytes(made))


fields = st.sampled_from([0, 1, 0xFF, 0xFFFE, 0xFFFF, 1 << 20, 1 << 31, 0xFFFFFFFE, 0xFFFFFFFF])


@given(edits=st.lists(st.tuples(st.integers(0, 400), fields), min_size=1, max_size=4))
def test_a_zip_with_any_numbers_in_its_directory_is_harmless(edits: list[tuple[int, int]]) -> None:
    data = zipped(FILES)
    start = data.index(b"PK\x01\x02")
    for at, value in edits:
        data = changed(data, start + at % (len(data) - start - 4), "<L", value)
    harmless(data)


@given(edits=st.lists(st.tuples(st.integers(0, 11), st.binary(min_size=12, max_size=12))))
def test_a_tar_with_any_numbers_in_its_headers_is_harmless(edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(tarred({LONG: "x", **FILES}))
    blocks = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    for number, value in edits:
        at = blocks[number % len(blocks)]
        data[at + 124 : at + 136] = value
        data[at + 148 : at + 156] = b"        "
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    harmless(bytes(data))


class Failing(io.BytesIO):
    """A disk that fails behind the first bytes."""

    @override
    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 200:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("data", GOOD, ids=["zip", "gnu", "pax"])
def test_a_disk_that_fails_is_no_fault_of_the_archive(data: bytes) -> None:
    with pytest.raises(OSError, match="Input/output"):
        archive.survey(Failing(data))
    with pytest.raises(OSError, match="Input/output"):
        list(archive.read(Failing(data), {"a.json_chat", "folder/b.txt"}))


def test_every_rule_is_broken_by_a_test() -> None:
    """Each rule's name stands in an assertion above."""
    from pathlib import Path

    source = Path(__file__).read_text()
    assert [rule for rule in RULES if f'== "{rule}"' not in source] == []


def test_a_chat_is_read_from_a_zip_whose_other_members_are_large() -> None:
    files = {"photo.jpg": random.Random(1).randbytes(1 << 20), "a.json_chat": LOG}
    assert len(unpacked(zipped(files))[1]) == 2
