"""Whether a vCon is as the drafts have it: a JSON Schema that we wrote from their tables.

The schema is stricter than what the working group publishes: it knows every key and refuses any
other, and it demands what the prose demands. Source: draft-ietf-vcon-vcon-core-03 (unsigned form)
and draft-ietf-vcon-cc-extension.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import jsonschema_rs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TEXT = {"type": "string"}
INDEX = {"type": "integer", "minimum": 0}
INDICES = {"anyOf": [INDEX, {"type": "array", "items": INDEX, "minItems": 1}]}
DATE = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.(?!0+[Z+-])\d+)?(Z|[+-]\d\d:\d\d)$",
}
UUID = {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}
MEDIATYPE = {"type": "string", "pattern": r"^[a-z]+/[A-Za-z0-9][A-Za-z0-9.+-]*$"}
SHA512 = {"type": "string", "pattern": "^sha512-[A-Za-z0-9_-]{86}$"}
HASH = {"type": "string", "pattern": "^[a-z0-9]+-[A-Za-z0-9_-]+$"}
CONTENT_HASH = {"anyOf": [SHA512, {"type": "array", "items": HASH, "contains": SHA512}]}

FILE = {
    "mediatype": MEDIATYPE,
    "filename": TEXT,
    "body": {},
    "encoding": {"enum": ["base64url", "json", "none"]},
    "url": {"type": "string", "pattern": "^https://"},
    "content_hash": CONTENT_HASH,
}
ENCODED = {
    "if": {"required": ["encoding"], "properties": {"encoding": {"const": "base64url"}}},
    "then": {"properties": {"body": {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"}}},
    "else": {
        "if": {"required": ["encoding"], "properties": {"encoding": {"const": "none"}}},
        "then": {"properties": {"body": TEXT}},
    },
}
WHOLE = {
    "dependentRequired": {
        "body": ["encoding", "mediatype"],
        "encoding": ["body"],
        "url": ["content_hash"],
        "content_hash": ["url"],
    },
    "not": {"required": ["body", "url"]},
    "allOf": [ENCODED],
}

PARTY = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(("tel", "sip", "stir", "mailto", "name", "did", "validation"), TEXT),
        **dict.fromkeys(("gmlpos", "uuid", "org", "dept", "role", "contact_list"), TEXT),
        "civicaddress": {"type": "object", "additionalProperties": TEXT},
        "type": {"enum": ["person", "bot", "organization"]},
    },
    "dependentRequired": {"name": ["validation"]},
}

CHANNEL = {"anyOf": [INDEX, {"type": "array", "items": INDEX, "minItems": 1}, {"type": "null"}]}

DIALOG = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "start"],
    "properties": {
        "type": {"enum": ["recording", "text"]},
        "start": DATE,
        "duration": {"type": "number", "minimum": 0},
        "parties": {"anyOf": [INDEX, {"type": "array", "items": CHANNEL, "minItems": 1}]},
        "originator": INDEX,
        "recording_set": INDEX,
        **FILE,
        **dict.fromkeys(("application", "message_id"), TEXT),
        **dict.fromkeys(("campaign", "interaction_type", "interaction_id", "skill"), TEXT),
    },
    **WHOLE,
}

ATTACHMENT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["start", "party", "dialog"],
    "properties": {"purpose": TEXT, "start": DATE, "party": INDEX, "dialog": INDEX, **FILE},
    **WHOLE,
}

ANALYSIS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "vendor"],
    "anyOf": [{"required": ["dialog"]}, {"required": ["attachment"]}],
    "properties": {
        "type": {"enum": ["report", "sentiment", "summary", "transcript", "translation", "tts"]},
        "dialog": INDICES,
        "attachment": INDICES,
        **dict.fromkeys(("vendor", "product", "schema"), TEXT),
        **FILE,
    },
    **WHOLE,
}

VCON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "additionalProperties": False,
    "required": ["vcon", "uuid", "created_at", "parties"],
    "properties": {
        "vcon": {"const": "0.4.0"},
        "uuid": UUID,
        "extensions": {"type": "array", "items": TEXT, "uniqueItems": True},
        "critical": {"type": "array", "items": TEXT},
        "created_at": DATE,
        "updated_at": DATE,
        "subject": TEXT,
        "parties": {"type": "array", "items": PARTY},
        "dialog": {"type": "array", "items": DIALOG},
        "analysis": {"type": "array", "items": ANALYSIS},
        "attachments": {"type": "array", "items": ATTACHMENT},
    },
}

_VALIDATOR = jsonschema_rs.Draft202012Validator(VCON)

EXTENDED = {"role", "contact_list", "campaign", "interaction_type", "interaction_id", "skill"}


def faults(vcon: Any) -> list[str]:
    """Everything about a vCon that is not as the drafts have it."""
    found = [f"{error.instance_path}: {error.message}" for error in _VALIDATOR.iter_errors(vcon)]
    return found or list(_cross_faults(vcon))


def _cross_faults(vcon: Any) -> Iterator[str]:
    """What no schema can tell: an index of nothing, and an extension that is not named."""
    parties, dialogs = len(vcon["parties"]), len(vcon.get("dialog", ()))
    for dialog in vcon.get("dialog", ()):
        named = [*_flat(dialog.get("parties", ())), dialog.get("originator", 0)]
        if not all(index < parties for index in named):
            yield f"no such party: {named}"
        if dialog.get("originator") in named[:1]:
            yield "the first party is the originator and is named as such"
    for attachment in vcon.get("attachments", ()):
        if attachment["party"] >= parties or attachment["dialog"] >= dialogs:
            yield f"an attachment of nothing: {attachment}"
    for analysis in vcon.get("analysis", ()):
        if not all(index < dialogs for index in _flat(analysis.get("dialog", ()))):
            yield f"an analysis of nothing: {analysis['dialog']}"
    keys = {key for part in (*vcon["parties"], *vcon.get("dialog", ())) for key in part}
    if keys & EXTENDED and "CC" not in vcon.get("extensions", ()):
        yield "an extension is used that is not named"


def _flat(value: Any) -> Iterable[int]:
    if isinstance(value, int):
        return [value]
    return [index for one in value if one is not None for index in _flat(one)]


def checked(body: bytes, *, secure: bool = True) -> Any:
    """A vCon that is as it should be; of a server without TLS, but for that."""
    vcon = json.loads(body)
    judged = body if secure else body.replace(b'"http://', b'"https://')
    assert faults(json.loads(judged)) == []
    return vcon


def decoded(body: str) -> bytes:
    """The file that stands within, in base64url without padding."""
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
