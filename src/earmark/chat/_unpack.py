"""Read one chat archive: choose logs and side files, read them, join them. The child's half."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from earmark.chat import archive, load_formats, side
from earmark.chat.faults import MAX_ANSWER_BYTES, fault, listed, shown
from earmark.chat.log import Log, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import BinaryIO

    from earmark.chat import ChatFormat
    from earmark.chat.rules import Entry
    from earmark.model.transcript import Segment

MAX_LOG_BYTES = 32 << 20
"""Of all logs of an archive together: months of somebody's messages, attachments apart."""

MAX_MESSAGES = 100_000

MAX_SIDES = 32
"""Side files that are read; a log has one or two."""

_SIDE = re.compile(r"(?P<stem>.+)\.(?P<kind>json|xml|csv)_meta(?:_ext)?", re.IGNORECASE)
_CALLED_CHAT = re.compile(r".+\.[a-z0-9]+_chat|(?:.*/)?_chat\.txt", re.IGNORECASE)
_MAY_BE_CHAT = re.compile(r".+\.(?:json|jsonl|ndjson|vcon|txt|log)", re.IGNORECASE)
_HIDDEN = re.compile(r"(?:^|/)(?:\.(?!/)|__MACOSX/)")
"""What systems put beside the files that people see."""

_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files of an archive that are read."""

    logs: tuple[Entry, ...]
    sides: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one log: the format and its messages, or why it was left out."""

    name: str
    format: ChatFormat | None = None
    messages: Sequence[Segment] = ()
    why: str = ""
    encoded: bool = True


def unpack(
    file: BinaryIO, *, locale: str, zone_minutes: int, instant: str | None
) -> tuple[dict[str, Any], bytes]:
    """Read all of an archive.

    Args:
        file: binary and seekable.
        locale: of the interaction.
        zone_minutes: east of UTC, of times without an offset.
        instant: of the interaction, ISO 8601.

    Returns:
        `format`, `metadata`, and what was left out in words; and the messages, a JSON array
        `[at, name, speaker, text]` on each line.

    Raises:
        MediaError: the archive is at fault.
    """
    chosen = choose(archive.survey(file))
    small = [one for one in chosen.sides if one.size_bytes <= side.MAX_BYTES][:MAX_SIDES]
    contents = dict(archive.read(file, {one.name for one in (*chosen.logs, *small)}))
    make = partial(
        Log,
        locale=locale,
        zone_minutes=zone_minutes,
        instant=datetime.fromisoformat(instant) if instant else None,
    )
    formats = load_formats()
    found = [_examined(one.name, contents.pop(one.name), make, formats) for one in chosen.logs]
    known = _demand_known(found, formats)
    metadata, left_out = _metadata(chosen, contents, [one.name for one in known])
    value = {
        "format": "+".join(dict.fromkeys(one.format.name for one in known if one.format)),
        "metadata": metadata,
        "logs_left_out": _told(one for one in found if one.format is None),
        "sides_left_out": listed(left_out),
    }
    return value, _answer(joined([one.messages for one in known]))


def choose(entries: Sequence[Entry]) -> Chosen:
    """Which files are logs and side files, by their names.

    If any is called a chat (`.json_chat`, WhatsApp's `_chat.txt`), those alone are the logs.

    Raises:
        MediaError: there is no log, or they are too large.
    """
    seen = [one for one in entries if not _HIDDEN.search(one.name)]
    if not seen:
        raise fault("archive_empty")
    logs = [one for one in seen if _CALLED_CHAT.fullmatch(one.name)]
    logs = logs or [one for one in seen if _MAY_BE_CHAT.fullmatch(one.name)]
    if not logs:
        raise fault("chat_missing", found=listed([one.name for one in seen]))
    if sum(one.size_bytes for one in logs) > MAX_LOG_BYTES:
        raise fault("chat_too_large", found=f"logs have more than {MAX_LOG_BYTES >> 20} MiB")
    return Chosen(tuple(logs), tuple(one for one in seen if _SIDE.fullmatch(one.name)))


def joined(logs: Iterable[Sequence[Segment]]) -> list[Segment]:
    """The messages of all logs in the order of time, each log's own order kept.

    A message that tells no time goes with the one before it; a log that tells none comes last.
    """
    timed = [one for log in logs for one in _in_time(log)]
    return [message for _, message in sorted(timed, key=lambda one: one[0])]


def _in_time(log: Sequence[Segment]) -> Iterator[tuple[datetime, Segment]]:
    reached = _FIRST if any(one.at for one in log) else _LAST
    for message in log:
        reached = max(reached, message.at or reached)
        yield reached, message


def _examined(
    name: str, data: bytes, make: Callable[[str, str], Log], formats: Iterable[ChatFormat]
) -> Found:
    try:
        log = make(name, decode(data))
    except ValueError:
        return Found(name, why="neither UTF-8 nor UTF-16 with a mark", encoded=False)
    for form in formats:
        if form.knows(log):
            return Found(name, form, form.read(log))
    return Found(name, why=_described(log))


def _described(log: Log) -> str:
    if isinstance(log.document, dict):
        return f"JSON with {shown(listed(list(log.document))) or 'nothing in it'}"
    if log.document is not None:
        return "JSON"
    if not log.text.strip():
        return "empty"
    return "broken JSON" if log.text.lstrip().startswith(("{", "[")) else "other text"


def _demand_known(found: Sequence[Found], formats: Iterable[ChatFormat]) -> list[Found]:
    known = [one for one in found if one.format]
    if not known and not any(one.encoded for one in found):
        raise fault("chat_encoding", found=listed([one.name for one in found]))
    if not known:
        understood = ", ".join(form.title for form in formats)
        raise fault("chat_unknown", found=_told(found), formats=understood)
    if not any(one.messages for one in known):
        raise fault("chat_empty", found=listed([one.name for one in known]))
    return known


def _told(found: Iterable[Found]) -> str:
    """Files and what is wrong with each."""
    first = [f"{shown(one.name)} ({one.why})" for one in found]
    most = 10
    more = f", and {len(first) - most} more" if len(first) > most else ""
    return ", ".join(first[:most]) + more


def _metadata(
    chosen: Chosen, contents: dict[str, bytes], logs: Iterable[str]
) -> tuple[dict[str, Any], list[str]]:
    """What the side files of these logs say, the later one winning, and those of no use."""
    stems = {name.rpartition(".")[0] for name in logs}
    metadata: dict[str, Any] = {}
    left_out: list[str] = []
    for name in sorted(one.name for one in chosen.sides):
        match = _SIDE.fullmatch(name)
        try:
            if match is None or match["stem"] not in stems:
                raise ValueError("no log of this name")  # noqa: TRY301 - told like the others
            if name not in contents:
                raise ValueError("too large, or one too many")  # noqa: TRY301
            merged = metadata | side.parse(match["kind"].lower(), decode(contents[name]))
            if side.size_bytes(merged) > side.MAX_METADATA_BYTES:
                raise ValueError("too much metadata")  # noqa: TRY301
        except ValueError as error:
            why = "not UTF-8" if isinstance(error, UnicodeError) else error
            left_out.append(f"{shown(name)} ({why})")
            continue
        metadata = merged
    return metadata, left_out


def _answer(messages: Sequence[Segment]) -> bytes:
    if len(messages) > MAX_MESSAGES:
        raise fault("chat_too_large", found=f"has more than {MAX_MESSAGES} messages")
    lines: list[bytes] = []
    total = 0
    for one in messages:
        at = one.at.isoformat() if one.at else None
        told = [at, one.name, one.speaker, one.text]
        lines.append(json.dumps(told, ensure_ascii=False).encode() + b"\n")
        total += len(lines[-1])
        if total > MAX_ANSWER_BYTES:
            raise fault("chat_too_large", found="has more text than fits into a transcript")
    return b"".join(lines)
