"""What a file is, judged by its first bytes alone. Knows no decoder and opens no file."""

from __future__ import annotations

import re
from enum import StrEnum

HEAD_BYTES = 4096
"""How much of a file's beginning `sniff` looks at; a tar header alone takes 512."""


class Category(StrEnum):
    """What intake needs to know of a kind."""

    AUDIO = "audio"
    ARCHIVE = "archive"
    FOREIGN = "foreign"
    """Plainly no media: refused at upload."""
    UNKNOWN = "unknown"
    """Accepted at upload, and left to processing to judge."""


class Kind(StrEnum):
    """What the first bytes say a file is; for audio, its container."""

    WAV = "wav"
    MP3 = "mp3"
    MP4 = "mp4"
    OGG = "ogg"
    FLAC = "flac"
    AAC = "aac"
    AMR = "amr"
    AIFF = "aiff"
    AU = "au"
    CAF = "caf"
    MATROSKA = "matroska"
    ASF = "asf"
    MPEG_TS = "mpegts"
    TAR = "tar"
    ZIP = "zip"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    XZ = "xz"
    SEVEN_ZIP = "7z"
    RAR = "rar"
    MARKUP = "markup"
    EXECUTABLE = "executable"
    SCRIPT = "script"
    PDF = "pdf"
    IMAGE = "image"
    JSON = "json"
    UNKNOWN = "unknown"

    @property
    def category(self) -> Category:
        """Audio, archive, plainly foreign, or unknown."""
        return _CATEGORIES.get(self, Category.AUDIO)

    @property
    def words(self) -> str:
        """The kind in words, with its article, to stand in a sentence."""
        return _WORDS.get(self, f"{self.value} audio")


_CATEGORIES = {
    **dict.fromkeys(
        (Kind.TAR, Kind.ZIP, Kind.GZIP, Kind.BZIP2, Kind.XZ, Kind.SEVEN_ZIP, Kind.RAR),
        Category.ARCHIVE,
    ),
    **dict.fromkeys(
        (Kind.MARKUP, Kind.EXECUTABLE, Kind.SCRIPT, Kind.PDF, Kind.IMAGE), Category.FOREIGN
    ),
    # A client may have its reasons to send JSON; the contract does not count it as no media.
    **dict.fromkeys((Kind.JSON, Kind.UNKNOWN), Category.UNKNOWN),
}

_WORDS = {
    Kind.TAR: "a tar archive",
    Kind.ZIP: "a zip archive",
    Kind.GZIP: "gzip-compressed data",
    Kind.BZIP2: "bzip2-compressed data",
    Kind.XZ: "xz-compressed data",
    Kind.SEVEN_ZIP: "a 7z archive",
    Kind.RAR: "a rar archive",
    Kind.MARKUP: "an XML or HTML page",
    Kind.EXECUTABLE: "a program",
    Kind.SCRIPT: "a script or playlist",
    Kind.PDF: "a PDF document",
    Kind.IMAGE: "a picture",
    Kind.JSON: "JSON text",
    Kind.UNKNOWN: "bytes of no known kind",
}


def sniff(head: bytes) -> Kind:
    """Tell what a file is from its first `HEAD_BYTES` bytes, or from fewer if it is shorter.

    Source: the magic numbers of each format's specification; for MPEG audio ISO/IEC 11172-3
    section 2.4.2.3 and ID3v2.4 section 3.1, for tar POSIX.1 `pax`.
    """
    head = head[:HEAD_BYTES]
    return _by_magic(head) or _by_structure(head) or _by_text(head) or Kind.UNKNOWN


def container_of_extension(extension: str) -> Kind:
    """Name the container that a file name's extension, such as ".m4a", promises."""
    return _EXTENSIONS.get(extension.lower(), Kind.UNKNOWN)


_EXTENSIONS = {
    ".wav": Kind.WAV,
    ".mp3": Kind.MP3,
    ".mp4": Kind.MP4,
    ".m4a": Kind.MP4,
    ".ogg": Kind.OGG,
    ".opus": Kind.OGG,
    ".tar": Kind.TAR,
    ".zip": Kind.ZIP,
}

_MAGIC = (
    # AMR stands before "#!", with which it begins (RFC 4867 section 5).
    (Kind.AMR, (b"#!AMR\n", b"#!AMR-WB\n", b"#!AMR_MC1.0\n", b"#!AMR-WB_MC1.0\n")),
    (Kind.OGG, (b"OggS",)),
    (Kind.FLAC, (b"fLaC",)),
    (Kind.AU, (b".snd",)),
    (Kind.CAF, (b"caff\x00\x01",)),
    (Kind.MATROSKA, (b"\x1a\x45\xdf\xa3",)),
    (Kind.ASF, (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",)),
    (Kind.ZIP, (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")),
    (Kind.GZIP, (b"\x1f\x8b",)),
    (Kind.BZIP2, tuple(b"BZh%d1AY&SY" % level for level in range(1, 10))),
    (Kind.XZ, (b"\xfd7zXZ\x00",)),
    (Kind.SEVEN_ZIP, (b"7z\xbc\xaf\x27\x1c",)),
    (Kind.RAR, (b"Rar!\x1a\x07",)),
    (Kind.EXECUTABLE, (b"\x7fELF", b"MZ", b"\xca\xfe\xba\xbe", b"\x00asm")),
    (Kind.EXECUTABLE, (b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf")),  # Mach-O, and little-endian:
    (Kind.EXECUTABLE, (b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe")),
    (Kind.PDF, (b"%PDF-",)),
    (Kind.IMAGE, (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")),
)


def _by_magic(head: bytes) -> Kind | None:
    return next((kind for kind, magics in _MAGIC if head.startswith(magics)), None)


_MP4_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
"""What an ISO base media file begins with; all but the first are older QuickTime's."""


def _by_structure(head: bytes) -> Kind | None:
    if head[:4] in {b"RIFF", b"RIFX", b"RF64", b"BW64"} and head[8:12] == b"WAVE":
        return Kind.WAV
    if head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"}:
        return Kind.AIFF
    if head[4:8] in _MP4_BOXES:
        return Kind.MP4
    if _is_tar(head):
        return Kind.TAR
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G":
        return Kind.MPEG_TS
    return _behind_tag(head) if head.startswith(b"ID3") else _mpeg_frame(head)


def _is_tar(head: bytes) -> bool:
    """Whether the header's checksum holds: tar files from before POSIX carry no magic."""
    header = head[:512]
    if len(header) < 512 or not header[0]:  # noqa: PLR2004 - one tar block
        return False
    digits = header[148:156].strip(b" \x00")
    if not re.fullmatch(rb"[0-7]+", digits):
        return False
    return int(digits, 8) == sum(header[:148]) + 8 * ord(" ") + sum(header[156:])


def _behind_tag(head: bytes) -> Kind:
    """See what an ID3 tag stands before: MP3 unless a frame of something else is in sight."""
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    behind = head[10 + size :]
    return Kind.FLAC if behind.startswith(b"fLaC") else _mpeg_frame(behind) or Kind.MP3


def _mpeg_frame(head: bytes) -> Kind | None:
    """MP3 (layers II and III) or AAC, if a sound frame header stands here."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:  # noqa: PLR2004
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:  # ADTS: 12 bits of sync, so that the version's upper bit is 1
        return Kind.AAC if version & 2 and head[2] >> 2 & 15 < 13 else None  # noqa: PLR2004
    bit_rate, sample_rate = head[2] >> 4, head[2] >> 2 & 3
    valid = version != 1 and layer != 3 and bit_rate not in {0, 15} and sample_rate != 3  # noqa: PLR2004
    return Kind.MP3 if valid else None


_MARKUP = re.compile(rb"<(?:[a-z][a-z0-9:_-]*[\s/>]|!doctype|!--|\?xml)", re.IGNORECASE)
_SCRIPT = re.compile(rb"#!|#EXTM3U|ffconcat version|\[playlist\]", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def _by_text(head: bytes) -> Kind | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", errors="replace").encode(errors="replace")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _SCRIPT.match(text):
        return Kind.SCRIPT
    if _CONTROL.search(text):
        return None
    if _MARKUP.match(text):
        return Kind.MARKUP
    return Kind.JSON if re.match(rb'[{\[]\s*["{\[\]}]', text) else None
