"""Earmark's own JSON: an object with messages, an array of them, or one on each line.

The transcript.json that Earmark gives is in it, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typing_extensions import override

from earmark.chat import ChatFormat
from earmark.chat.faults import fault, shown
from earmark.chat.log import clean
from earmark.model.transcript import Segment, Speaker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from earmark.chat.log import Log

_KEYS = frozenset({"text", "at", "name", "speaker"})
_OF_SPEECH = frozenset({"start_seconds", "end_seconds", "channel", "confidence", "words"})
"""What transcript.json has beyond that; empty in a chat."""


class Own(ChatFormat):
    """See ChatFormat. Strict: a key that it does not have means that another format is meant."""

    name = "earmark"
    title = "Earmark's JSON"

    @override
    def knows(self, log: Log) -> bool:
        """See ChatFormat.knows."""
        found = _messages(log)
        return found is not None and all(map(_is_message, found))

    @override
    def read(self, log: Log) -> Sequence[Segment]:
        """See ChatFormat.read."""
        found = _messages(log) or []
        return [_message(log, number, told) for number, told in enumerate(found, 1)]


def _messages(log: Log) -> list[Any] | None:
    if isinstance(log.document, dict):
        for key in ("messages", "segments"):
            found = log.document.get(key)
            if isinstance(found, list):
                return found
    return log.records or None


def _is_message(told: object) -> bool:
    return (
        isinstance(told, dict)
        and isinstance(told.get("text"), str)
        and told.keys() <= _KEYS | _OF_SPEECH
    )


def _message(log: Log, number: int, told: Mapping[str, Any]) -> Segment:
    at = log.instant(told.get("at"))
    if at is None and told.get("at") is not None:
        raise _damaged(log, number, "a time that is no ISO 8601", told["at"])
    word = told.get("speaker") or Speaker.UNKNOWN
    if word not in list(Speaker):
        raise _damaged(log, number, f"a speaker other than {', '.join(Speaker)}", word)
    if not isinstance(told.get("name", ""), str | None):
        raise _damaged(log, number, "a name that is no text", told["name"])
    name = told.get("name")
    return Segment(
        clean(told["text"]), Speaker(word), at=at, name=None if name is None else clean(name)
    )


def _damaged(log: Log, number: int, what: str, value: object) -> Exception:
    found = f"{shown(log.name)} has in message {number} {what} ({shown(str(value))})"
    return fault("chat_damaged", found=found)
