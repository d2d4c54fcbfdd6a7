"""Chat archives for tests: packed in memory, read with the child's half in this process."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earmark.chat import _unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = Path(__file__).parents[1] / "docs" / "chat-formats.md"

MESSAGES = [
    {
        "at": "2026-03-02T09:15:00Z",
        "name": "Dana Reyes",
        "speaker": "agent",
        "text": "Good morning.",
    },
    {"at": "2026-03-02T09:15:20Z", "name": "Chris Example", "text": "Hello."},
]
LOG = json.dumps({"messages": MESSAGES})


def zipped(files: Mapping[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A .zip; the same bytes every time."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as out:
        for name, content in files.items():
            out.writestr(zipfile.ZipInfo(name, (2026, 3, 2, 9, 0, 0)), content, method)
    return made.getvalue()


def tarred(files: Mapping[str, str | bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A .tar; the same bytes every time."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as out:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return made.getvalue()


def unpacked(
    archive: bytes | Mapping[str, str | bytes],
    *,
    locale: str = "en-US",
    zone_minutes: int = 0,
    instant: str | None = None,
) -> tuple[dict[str, Any], list[list[Any]]]:
    """What the child answers: the value, and each message as [at, name, speaker, text]."""
    data = archive if isinstance(archive, bytes) else zipped(archive)
    value, blob = _unpack.unpack(
        io.BytesIO(data), locale=locale, zone_minutes=zone_minutes, instant=instant
    )
    return json.loads(json.dumps(value)), [json.loads(line) for line in blob.splitlines()]


def examples() -> list[tuple[str, str, str]]:
    """Format, file name and text of each example log in the documentation."""
    block = r"<!-- chat: ([\w-]+), ([^>]+) -->\n```\w*\n(.*?)```"
    return re.findall(block, PAGE.read_text(), re.DOTALL)
