"""Why a chat archive cannot be processed: every code with its sentence, cause and mend."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from earmark.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_ANSWER_BYTES = 24 << 20
"""Of all messages together, as they come out of the child: a few thousand pages of text."""

MAX_SHOWN = 10
MAX_SHOWN_CHARACTERS = 80
"""Of files in a message for people: how many, and of each name how much."""

_EXPORT = "Export the chat again and upload that."
_PACK = "Pack the chat's files into a plain .tar or a .zip and upload that."

SENTENCES = MappingProxyType(
    {
        "not_archive": f"The file holds {{found}}, not a .tar or .zip archive. {_PACK}",
        "archive_compressed": f"The file holds {{found}}; a .tar must not be compressed. {_PACK}",
        "archive_unsafe": (
            f"The archive breaks a rule that keeps this service safe: {{rule}}. {_PACK}"
        ),
        "archive_damaged": f"The archive is damaged or cut off. {_EXPORT}",
        "archive_empty": "The archive holds no files. Check the export and upload it again.",
        "chat_missing": (
            "The archive holds no chat log, only: {found}. "
            "Add the log, such as chat.json_chat or chat.txt, and upload the archive again."
        ),
        "chat_unknown": (
            "The archive holds no chat in a format that is understood. Found: {found}. "
            "Understood: {formats}. Export the chat in one of them and upload that."
        ),
        "chat_encoding": (
            "The chat log is neither UTF-8 nor UTF-16 with a byte order mark: {found}. "
            "Save it as UTF-8 and upload the archive again."
        ),
        "chat_damaged": f"The chat log {{found}}. {_EXPORT}",
        "chat_empty": "The chat log holds no message: {found}. Check the export.",
        "chat_too_large": (
            "The chat {found}. Split it into several archives, or leave out what is no message."
        ),
        "chat_too_slow": (
            "Reading the archive took longer than the limit. If it is sound and simply large, "
            "split it or ask the operator for a higher limit."
        ),
        "chat_reader_crashed": (
            f"The reader crashed on the archive, which is probably damaged. {_EXPORT}"
        ),
    }
)
"""Sentence by code; the words in braces are filled in."""


def fault(code: str, **words: object) -> MediaError:
    """Make the error of a code, its sentence filled in."""
    return MediaError(code, SENTENCES[code].format(**words))


def shown(name: str) -> str:
    """A foreign word so that it can stand in a sentence: short, and nothing invisible in it."""
    visible = "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in name[:400])
    if len(visible) > MAX_SHOWN_CHARACTERS:
        return f"{visible[: MAX_SHOWN_CHARACTERS - 1]}…"
    return visible


def listed(names: Collection[str]) -> str:
    """Some foreign words, shown one after the other, and how many more there are."""
    first = [shown(name) for name in list(names)[:MAX_SHOWN]]
    more = len(names) - len(first)
    return ", ".join([*first, f"and {more} more"] if more else first)
