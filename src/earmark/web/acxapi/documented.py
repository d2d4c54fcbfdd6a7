"""How an upload is documented: every key of its metadata with examples, every sentence.

The served OpenAPI says this, and the reference page shows what that says. The order of the keys is
that of the page which describes Upload Media.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from earmark.web.acxapi import wire

if TYPE_CHECKING:
    from collections.abc import Mapping


def _key(kind: str | list[str], about: str, *examples: Any, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": about, "examples": list(examples), **more}


def _named(*names: str) -> dict[str, list[str]]:
    """What the examples are called, in their order; JSON Schema has no place for that."""
    return {"x-example-names": list(names)}


_TEXT = "string"

METADATA: Mapping[str, Any] = {
    "type": "object",
    "description": "Keys match without regard to case. Of every optional key null and empty text "
    "mean that it is absent; unknown keys are no error.",
    "required": ["FileName", "UploadType"],
    "properties": {
        "FileName": _key(
            _TEXT,
            "The path, file name and extension under which it is kept; subdirectories may stand "
            "before it. The extension is that of the file. A name is taken once in an "
            "organization.",
            "topfolder/subfolder/subsubfolder/filename.mp3",
            "filename.mp3",
            **_named("With subdirectories", "Without subdirectories"),
        ),
        "UploadType": _key(
            _TEXT,
            "Whether this is a recording or a chat archive.",
            *sorted(wire.MEDIA_TYPES.values()),
            enum=sorted(wire.MEDIA_TYPES.values()),
        ),
        "CallDirection": _key(
            _TEXT,
            "Whether the call came to the call center or went out from it.",
            *sorted(wire.DIRECTIONS.values()),
            enum=sorted(wire.DIRECTIONS.values()),
        ),
        "Name": _key(_TEXT, "Name of the customer.", "Alice"),
        "Phone": _key(_TEXT, "Phone number of the customer.", "800-555-5555"),
        "Email": _key(_TEXT, "E-mail address of the customer.", "alice@example.org"),
        "AgentFirstName": _key(_TEXT, "First name of the agent.", "James"),
        "AgentLastName": _key(_TEXT, "Last name of the agent.", "Bond"),
        "AgentCode": _key(
            _TEXT,
            "Joins the agent of exactly this code, now or when such an agent is added.",
            "007",
        ),
        "InteractionDate": _key(
            _TEXT,
            "When it took place: a calendar date of ISO 8601, with a time or without. Without an "
            "offset it is UTC.",
            "2022-03-18T21:52:26",
            "2022-03-18T21:52:26.8816090Z",
            "2022-03-19",
            "2022-03-18T17:56:09.8683110-04:00",
            **_named(
                "UTC datetime",
                "UTC datetime with fractions of a second",
                "UTC date only",
                "datetime with timezone",
            ),
        ),
        "ExtendedMetadata": _key(
            "array",
            "Objects of key/values, merged in order; the later wins. Use ExtendedMetadataValues.",
            [{"Data": "Example Data"}, {"Data2": "Example Data 2", "ExampleKey": "Example Value"}],
            items={"type": "object"},
            deprecated=True,
        ),
        "ExtendedMetadataValues": _key(
            ["object", "array"],
            "Key/values of your own; a value may be any JSON. They win over ExtendedMetadata.",
            {"Data": "Example Data"},
            {"Data2": "Example Data 2"},
            {"ExampleKey": "Example Value"},
        ),
        "HierarchyId": _key(
            _TEXT,
            "Id of an active hierarchy node, to which the interaction belongs.",
            "00000000-0000-0000-0000-000000000002",
            format="uuid",
        ),
        "HierarchyCode": _key(
            _TEXT,
            "The node's code, or any of its other codes. Given with HierarchyId, both must name "
            "one node.",
            "Accounting",
        ),
        "ApplyHierarchyToAgent": _key(
            "boolean", "Whether the agent is assigned to that node, and so to its parents.", True
        ),
        "LocaleId": _key(
            "integer",
            "The language: 1033 (English, which is meant without it) or 2058 (Spanish).",
            *sorted(wire.LOCALE_IDS.values()),
            enum=sorted(wire.LOCALE_IDS.values()),
        ),
        "ClientCallId": _key(
            _TEXT, "Your own reference of the call's telephony; need not be unique.", "5CD1S"
        ),
    },
}

FILE = (
    "The media, under its own name. Audio: .wav, .mp3, .mp4, .ogg, .opus, .m4a. Chat: .tar, .zip. "
    "Required unless signedUrl is given."
)

SIGNED_URLS = (
    "https://bucket.s3.amazonaws.com/path/to/file.mp3?X-Amz-Algorithm=...",
    "https://storage.azure.com/container/blob?sv=...",
)

SENTENCES: Mapping[str, Any] = {
    why.value: {"summary": why.value, "value": sentence}
    for why, sentence in wire.SENTENCES.items()
}
"""The examples of a 400: each code with its sentence, in their precedence."""


def with_sentences(responses: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """The same responses; the text of the 400 has each sentence as an example."""
    refused = responses[400]
    text = {**refused["content"]["text/plain"], "examples": dict(SENTENCES)}
    return {**responses, 400: {**refused, "content": {**refused["content"], "text/plain": text}}}
