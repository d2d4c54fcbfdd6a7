"""Amazon Connect: chat transcripts as its storage keeps them, and items of GetTranscript.

Sources: https://docs.aws.amazon.com/connect/latest/APIReference/API_connect-participant_Item.html,
https://docs.aws.amazon.com/connect/latest/adminguide/contact-lens-example-output-files-chat.html
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from earmark.chat import ChatFormat
from earmark.chat.log import clean, sender
from earmark.model.transcript import Segment, Speaker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from earmark.chat.log import Log

_ROLES = {
    "AGENT": Speaker.AGENT,
    "SUPERVISOR": Speaker.AGENT,
    "CUSTOMER": Speaker.CUSTOMER,
    "CUSTOM_BOT": Speaker.BOT,
    "SYSTEM": Speaker.BOT,
}
_NO_NAME = frozenset({"SYSTEM_MESSAGE", *_ROLES})
"""Display names that Connect itself puts where there is none."""

_LAST = datetime.max.replace(tzinfo=UTC)


class Connect(ChatFormat):
    """See ChatFormat. Events such as joining and leaving are no messages."""

    name = "amazon-connect"
    title = "Amazon Connect transcripts"

    @override
    def knows(self, log: Log) -> bool:
        """See ChatFormat.knows."""
        found = _items(log)
        if found == []:
            return "ContactId" in log.document and "Participants" in log.document
        return found is not None and all(map(_is_item, found))

    @override
    def read(self, log: Log) -> Sequence[Segment]:
        """See ChatFormat.read. In the order of time: GetTranscript gives either order."""
        names = dict(_names(log.document))
        items = [item for item in _items(log) or [] if item.get("Type") != "EVENT"]
        found = [_message(log, item, names) for item in items if not _is_event(item)]
        return sorted((one for one in found if one.text), key=lambda one: one.at or _LAST)


def _items(log: Log) -> list[Any] | None:
    if isinstance(log.document, dict):
        found = log.document.get("Transcript")
        if isinstance(found, list):
            return found
    return log.records or None


def _is_item(told: object) -> bool:
    return (
        isinstance(told, dict)
        and isinstance(told.get("AbsoluteTime"), str)
        and isinstance(told.get("ContentType", told.get("Type")), str)
    )


def _is_event(item: Mapping[str, Any]) -> bool:
    return str(item.get("ContentType")).startswith("application/vnd.amazonaws.connect.event.")


def _names(document: object) -> Iterator[tuple[str, Any]]:
    """What the file calls its participants, by their ids."""
    found = document.get("Participants") if isinstance(document, dict) else None
    for one in found if isinstance(found, list) else []:
        if isinstance(one, dict):
            yield str(one.get("ParticipantId")), one.get("DisplayName")


def _message(log: Log, item: Mapping[str, Any], names: Mapping[str, Any]) -> Segment:
    name = sender(item.get("DisplayName") or names.get(str(item.get("ParticipantId"))))
    return Segment(
        text=clean(_text(item)),
        speaker=_ROLES.get(str(item.get("ParticipantRole")).upper(), Speaker.UNKNOWN),
        at=log.instant(item["AbsoluteTime"]),
        name=None if name in _NO_NAME else name,
    )


def _text(item: Mapping[str, Any]) -> str:
    parts = [_content(item), *_attachments(item.get("Attachments"))]
    return "\n".join(part for part in parts if part)


def _content(item: Mapping[str, Any]) -> str:
    content = item.get("Content")
    if not isinstance(content, str):
        return ""
    if "interactive" in str(item.get("ContentType")):
        return _choices(content) or content
    return content


def _choices(content: str) -> str:
    """The words of an interactive message: what it asks, and the answers that it offers."""
    try:
        found = json.loads(content)["data"]["content"]
        offered = [one["title"] for one in found.get("elements", [])]
        return "\n".join([found["title"], *(f"- {title}" for title in offered)])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""


def _attachments(found: object) -> Iterator[str]:
    for one in found if isinstance(found, list) else []:
        name = one.get("AttachmentName") if isinstance(one, dict) else None
        yield f"[Attachment: {sender(name)}]" if sender(name) else "[Attachment]"
