"""Text dialogs of a vCon. Source: draft-ietf-vcon-vcon-core, sections on Party and Dialog."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from earmark.chat import ChatFormat
from earmark.chat.log import clean, sender
from earmark.chat.people import side_of
from earmark.model.transcript import Segment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from earmark.chat.log import Log

_LAST = datetime.max.replace(tzinfo=UTC)


class Vcon(ChatFormat):
    """See ChatFormat. Dialogs of other types, such as recordings, are no messages."""

    name = "vcon"
    title = "vCon text dialogs"

    @override
    def knows(self, log: Log) -> bool:
        """See ChatFormat.knows."""
        return (
            isinstance(log.document, dict)
            and isinstance(log.document.get("vcon"), str)
            and isinstance(log.document.get("dialog"), list)
        )

    @override
    def read(self, log: Log) -> Sequence[Segment]:
        """See ChatFormat.read. In the order of time, since the file need not be."""
        parties = log.document.get("parties")
        known = parties if isinstance(parties, list) else []
        found = [
            _message(log, one, known)
            for one in log.document["dialog"]
            if isinstance(one, dict) and one.get("type") == "text"
        ]
        return sorted((one for one in found if one.text), key=lambda one: one.at or _LAST)


def _message(log: Log, dialog: Mapping[str, Any], parties: list[Any]) -> Segment:
    party = _party(dialog, parties)
    called = next((party[key] for key in ("name", "mailto", "tel", "sip") if party.get(key)), None)
    return Segment(
        text=clean(_text(dialog)),
        speaker=side_of(str(party.get("role", ""))),
        at=log.instant(dialog.get("start")),
        name=sender(called),
    )


def _party(dialog: Mapping[str, Any], parties: list[Any]) -> Mapping[str, Any]:
    """Who wrote it: the originator if one is named, else the first of the dialog's parties."""
    index = dialog.get("originator", dialog.get("parties"))
    while isinstance(index, list):
        index = index[0] if index else None
    inside = isinstance(index, int) and 0 <= index < len(parties)
    found = parties[index] if inside else None
    return found if isinstance(found, dict) else {}


def _text(dialog: Mapping[str, Any]) -> str:
    kind = str(dialog.get("mediatype") or dialog.get("mimetype") or "text/plain")
    if not kind.startswith(("text/plain", "text/markdown")):
        return f"[Attachment: {sender(dialog.get('filename')) or sender(kind)}]"
    body = dialog.get("body")
    if body is None:
        return "[Attachment]" if dialog.get("url") else ""
    return _decoded(body, dialog.get("encoding")).strip("\r\n")


def _decoded(body: object, encoding: object) -> str:
    if encoding == "base64url":
        try:
            padded = str(body).encode() + b"=="
            return base64.urlsafe_b64decode(padded).decode("utf-8-sig")
        except ValueError:
            return "[Attachment]"
    if encoding == "json" and isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return str(body)
    return body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
