"""Builds multipart/form-data bodies byte by byte, so that a test says exactly what is sent."""

from __future__ import annotations

import itertools
import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BOUNDARY = "----earmark-golden"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"

_numbers = itertools.count(1)


def wav(seconds: float = 0.01) -> bytes:
    """Silence: mu-law, 8 kHz, one channel, with the smallest header there is."""
    samples = b"\xff" * int(8000 * seconds)
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, 7, 1, 8000, 8000, 1, 8)
    chunks += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


WAV = wav()


def new_name(ending: str = ".wav") -> str:
    """A file name that no other test uses."""
    return f"call-{next(_numbers)}{ending}"


def meta(**changes: Any) -> dict[str, Any]:
    """The smallest metadata, under a name of its own; `changes` add to it or take its place."""
    return {"FileName": new_name(), "UploadType": "Audio", **changes}


def part(
    name: str, data: bytes, *, file_name: str | None = None, headers: Sequence[str] = ()
) -> bytes:
    """A part as most clients write it."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if file_name is not None:
        disposition += f'; filename="{file_name}"'
    return raw_part(disposition, *headers, data=data)


def raw_part(*headers: str, data: bytes = b"") -> bytes:
    """A part with exactly these header lines."""
    return "".join(f"{line}\r\n" for line in headers).encode() + b"\r\n" + data


def body(*parts: bytes, boundary: str = BOUNDARY) -> bytes:
    """A whole form of these parts, in this order."""
    line = b"--" + boundary.encode()
    return b"".join(line + b"\r\n" + each + b"\r\n" for each in parts) + line + b"--\r\n"


def metadata_part(metadata: Mapping[str, Any] | bytes) -> bytes:
    """The `metadata` part, of JSON or of exactly these bytes."""
    sent = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    return part("metadata", sent)


def file_part(content: bytes = WAV, name: str = "sent.wav") -> bytes:
    """The `file` part."""
    return part("file", content, file_name=name, headers=["Content-Type: audio/wav"])


def form(
    metadata: Mapping[str, Any] | bytes | None,
    content: bytes | None = WAV,
    *,
    name: str = "sent.wav",
    file_first: bool = False,
) -> bytes:
    """A form with a metadata part and a file part; None leaves one out."""
    parts = [] if metadata is None else [metadata_part(metadata)]
    if content is not None:
        parts.insert(0 if file_first else len(parts), file_part(content, name))
    return body(*parts)


def single_bytes(whole: bytes) -> list[bytes]:
    """The whole, byte by byte."""
    return [whole[place : place + 1] for place in range(len(whole))]
