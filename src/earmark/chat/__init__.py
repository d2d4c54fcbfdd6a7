"""Chat archives become transcripts: what every chat format keeps, and who reads which log.

A format is one file here and one line in `FORMATS`. Foreign bytes are read in the sandbox alone:
this process sees what the child made of them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

from earmark import sandbox
from earmark.chat.faults import MAX_ANSWER_BYTES, fault
from earmark.chat.people import People
from earmark.model import Warn
from earmark.model.transcript import Segment, Speaker, Transcript

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from earmark.chat.log import Log
    from earmark.model import InteractionDate

FORMATS = (
    "earmark.chat.own:Own",
    "earmark.chat.connect:Connect",
    "earmark.chat.vcon:Vcon",
    "earmark.chat.whatsapp:WhatsApp",
    "earmark.chat.plain:Plain",
)
"""In the order in which they are asked, the most telling first: "module:class"."""

_ENVELOPE_BYTES = 1 << 20
"""Room in the child's answer for all that is not messages."""


class ChatFormat(Protocol):
    """A way in which chats are written down. Pure: from text to messages.

    Attributes:
        name: stable and unique; transcripts bear it.
        title: what people call it.
    """

    name: str
    title: str

    def knows(self, log: Log) -> bool:
        """Whether the log is written in this format. Never raises, whatever the log holds."""

    def read(self, log: Log) -> Sequence[Segment]:
        """The messages of a log that the format knows, in their order.

        Each has its text and, where the log tells, the instant in UTC, the sender's name and side.
        What nobody wrote, such as "Dana joined", is no message.

        Raises:
            MediaError: the log breaks off or contradicts its format.
        """


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What a chat archive holds.

    Attributes:
        metadata: of its side files, by key; JSON values that databases can keep.
        warnings: of files that were left out.
    """

    transcript: Transcript
    metadata: Mapping[str, Any]
    warnings: tuple[Warn, ...]


def load_formats(registry: Sequence[str] = FORMATS) -> tuple[ChatFormat, ...]:
    """The formats of a registry, in its order."""
    return tuple(_resolve(name)() for name in registry)


def _resolve(name: str) -> type[ChatFormat]:
    found: type[ChatFormat] = resolve_name(name)
    return found


def unpack(
    path: Path,
    *,
    limits: sandbox.Limits,
    locale: str,
    people: People | None = None,
    date: InteractionDate | None = None,
) -> Unpacked:
    """Read a whole chat archive, in a confined child process.

    Args:
        path: the file; its name does not matter.
        limits: what reading may use.
        locale: of the interaction, like "en-US": the language, and the order of day and month
            where a log leaves that open.
        people: as the upload named them; they tell the sides where a log does not.
        date: of the interaction; it tells the offset of times that have none, and the day of
            times without a date.

    Raises:
        MediaError: the file is at fault; the codes are those of `faults.SENTENCES`.
        SandboxError: the child was ended from outside, or our own code failed in it.
        OSError: the file cannot be read.
    """
    # Nothing personal goes into the arguments: every user of the machine can list them.
    minutes = (date.offset_minutes or 0) if date else 0
    arguments = {
        "locale": locale,
        "zone_minutes": minutes,
        "instant": date.instant.isoformat() if date else None,
    }
    answer = _in_sandbox(path, limits, arguments)
    messages = tuple(map(_message, answer.blob.splitlines()))
    transcript = Transcript(
        segments=(people or People()).sides(messages),
        language=re.split("[-_]", locale)[0],
        chat_format=str(answer.value["format"]),
    )
    return Unpacked(transcript, dict(answer.value["metadata"]), tuple(_warnings(answer.value)))


def _in_sandbox(path: Path, limits: sandbox.Limits, arguments: dict[str, Any]) -> sandbox.Answer:
    room = replace(limits, output_bytes=MAX_ANSWER_BYTES + _ENVELOPE_BYTES)
    function = f"{__name__}._unpack:unpack"
    try:
        return sandbox.run(function, path, limits=room, arguments=arguments)
    except sandbox.DeadlineExceededError as error:
        raise fault("chat_too_slow") from error
    except sandbox.MemoryExceededError as error:
        raise fault("chat_too_large", found="needs more memory to read than the limit") from error
    except sandbox.CrashedError as error:
        if error.by_file:
            raise fault("chat_reader_crashed") from error
        raise


def _message(line: bytes) -> Segment:
    at, name, speaker, text = json.loads(line)
    return Segment(
        text=str(text),
        speaker=Speaker(speaker),
        at=datetime.fromisoformat(at).astimezone(UTC) if at else None,
        name=None if name is None else str(name),
    )


def _warnings(told: Mapping[str, Any]) -> Iterator[Warn]:
    if told["logs_left_out"]:
        yield Warn(
            "chat_files_left_out",
            f"Files of the archive were not understood and are not in the transcript: "
            f"{told['logs_left_out']}.",
        )
    if told["sides_left_out"]:
        yield Warn(
            "chat_metadata_left_out",
            f"Side files of the archive could not be used: {told['sides_left_out']}.",
        )
