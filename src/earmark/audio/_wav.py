"""How long a WAV file says it is. FFmpeg cuts that down to the file's size and tells nobody."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

_UNKNOWN_SIZES = frozenset({0, 0xFFFFFFFF})
"""What a recorder that streams leaves as the size, since it cannot go back to fill it in."""

_CONSTANT_RATE = frozenset({1, 3, 6, 7, 0xFFFE})
"""Format tags whose byte rate is exact: PCM, float, A-law, mu-law, and the extensible PCM."""

_MOST_CHUNKS = 64
"""Recorders write notes of their own before the sound, but a handful."""


def stated_seconds(file: BinaryIO) -> float | None:
    """Read the duration from the chunk headers, or None where they do not tell it.

    Source: Multimedia Programming Interface and Data Specifications 1.0, "Waveform Audio File
    Format".
    """
    file.seek(0)
    if file.read(12)[:4] != b"RIFF":  # RIFX is big-endian, RF64 has its sizes elsewhere
        return None
    byte_rate = 0
    for _ in range(_MOST_CHUNKS):
        header = file.read(8)
        if len(header) < 8:  # noqa: PLR2004 - a name and a size
            return None
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            return size / byte_rate if byte_rate and size not in _UNKNOWN_SIZES else None
        body = file.tell()
        if name == b"fmt ":
            byte_rate = _byte_rate(file.read(12))
        file.seek(body + size + size % 2)
    return None


def _byte_rate(form: bytes) -> int:
    """Bytes a second, or 0 if the codec has no constant one or the chunk is cut off."""
    if len(form) < 12:  # noqa: PLR2004 - tag, channels, sample rate, byte rate
        return 0
    tag, _channels, _rate, byte_rate = struct.unpack("<HHII", form)
    return byte_rate if tag in _CONSTANT_RATE else 0
