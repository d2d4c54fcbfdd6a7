"""The wire format of the Upload Media API: its keys, its numbers, its sentences and their order.

Nothing outside `web` knows these words. `read_submission` judges everything that the request
itself can tell; what only the organization's records tell is judged by `intake`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import unquote
from uuid import UUID

from earmark.errors import Fault, RefusedError, Why
from earmark.model import (
    DEFAULT_LOCALE,
    EXTENSIONS,
    MAX_INDEXED_CHARACTERS,
    AgentSent,
    Customer,
    Direction,
    InteractionDate,
    MediaType,
    Submission,
    extension,
    normalise_file_name,
    parse_interaction_date,
)
from earmark.web.errors import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from earmark.model import Accepted

MAX_METADATA_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_NUMBER_CHARACTERS = 64
"""Longer numbers mean nothing that a reader could use, and cost quadratic time to convert."""

ALLOWED_EXTENSIONS = frozenset().union(*EXTENSIONS.values())
LISTED = ", ".join(sorted(ALLOWED_EXTENSIONS))

SENTENCES: Mapping[Why, str] = {
    Why.NO_FILE: "You must upload a file with one of the specified allowed extensions.",
    Why.NO_METADATA: "You must upload metadata in the request form.",
    Why.METADATA_FORM: (
        "Invalid metadata form object. Please upload metadata in the expected form."
    ),
    Why.MEDIA_TYPE: "Unable to properly parse metadata to chat or audio.",
    Why.VALUE: "You must upload valid data in your metadata request form payload.",
    Why.FILE_NAME: "You must upload a valid file name with a valid file extension.",
    Why.EXTENSION_MISMATCH: "File extension in metadata file name and upload file must match!",
    Why.NAME_TAKEN: "An interaction with this file name already exists.",
    Why.LOCALE: ("Unsupported locale id provided. Supported locale ids include: 1033, 2058."),
    Why.HIERARCHY: (
        "Invalid Hierarchy Id/Code! You must either specify a valid hierarchy id/code from your "
        "organization or omit a hierarchy id/code entirely."
    ),
    Why.SIGNED_URL_OFF: (
        "Uploading by signed url is not available here. You must upload the file itself."
    ),
    Why.SIGNED_URL_INVALID: "Invalid signed url. You must upload a valid https signed url.",
    Why.SIGNED_URL_EXPIRED: (
        "The signed url has expired. You must upload a signed url that is still valid."
    ),
    Why.SIGNED_URL_REFUSED: "Downloading from this signed url is not allowed.",
    Why.SIGNED_URL_FAILED: "Unable to download the file from the signed url.",
    Why.SIGNED_URL_TOO_SLOW: "Unable to download the file from the signed url in time.",
    Why.SIGNED_URL_TOO_LARGE: "The file at the signed url is too large.",
    Why.SIGNED_URL_INTERRUPTED: (
        "The download from the signed url was interrupted. Please upload it again."
    ),
    Why.EMPTY_FILE: "You must upload a file that is not empty.",
    Why.NOT_MEDIA: "You must upload a file that holds audio or a chat archive.",
    Why.TOO_MANY_PARTS: "Too many parts in the request form. Please upload only the named parts.",
    Why.FORM_MALFORMED: "Malformed multipart form. Please upload a well-formed request form.",
}
"""Each reason's sentence, which clients may match; the order is the precedence."""

_PRECEDENCE = {why: rank for rank, why in enumerate(SENTENCES)}

_NUMERIC = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)

_LOCALES: Mapping[str, str] = {"1033": "en-US", "2058": "es-MX"}

_FIELDS: Mapping[str, str] = {
    "file_name": "FileName",
    "locale": "LocaleId",
    "hierarchy_id": "HierarchyId",
    "hierarchy_code": "HierarchyCode",
}
"""The fields of Submission that are looked up → the metadata keys they came from."""


@dataclass(frozen=True, slots=True)
class FilePart:
    """What the header of the `file` part, or its absence, tells."""

    extension: str

    @property
    def allowed(self) -> bool:
        """Whether the extension is one of the eight."""
        return self.extension in ALLOWED_EXTENSIONS


def refusal(error: RefusedError) -> Answer:
    """The answer to a refused upload: the first sentence by precedence, and every fault found."""
    faults = sorted(error.faults, key=lambda fault: _PRECEDENCE[fault.why])
    headers = {}
    extra: dict[str, Any] = {"faults": [_fault(fault) for fault in faults]}
    if faults[0].why is Why.NAME_TAKEN and error.existing_id is not None:
        headers["Location"] = f"/v1/interactions/{error.existing_id}"
        headers["Earmark-Duplicate"] = error.duplicate
        extra["existingId"] = str(error.existing_id)
    first = faults[0].why
    return Answer(400, first.value, SENTENCES[first], headers, extra)


def _fault(fault: Fault) -> Mapping[str, str]:
    return {
        "code": fault.why.value,
        "sentence": SENTENCES[fault.why],
        "field": _FIELDS.get(fault.field, fault.field),
        "detail": fault.detail,
    }


def accepted(upload: Accepted) -> Mapping[str, Any]:
    """The body of the 200, exactly as published."""
    return {
        "id": str(upload.id),
        "fileName": upload.file_name,
        "fileSizeKb": math.ceil(upload.size_bytes / 1024),
    }


def read_submission(
    metadata: bytes | None, file: FilePart | None, signed_url: str = ""
) -> Submission:
    """Reads and judges the metadata together with the file part's name.

    Args:
        metadata: the part as sent; None if there is none.
        file: None if there is none.
        signed_url: used instead of the file, unless it is empty. Of it only the extension is
            judged here, if it has one of the eight.

    Raises:
        RefusedError: every fault that the request itself shows.
    """
    faults: list[Fault] = []
    if signed_url:
        file = url_part(signed_url)
    elif file is None or not file.allowed:
        faults.append(Fault(Why.NO_FILE, "file", f"Send a file whose name ends in {LISTED}."))
    if not metadata:
        faults.append(Fault(Why.NO_METADATA, "metadata", "Send a metadata part with JSON text."))
        raise RefusedError(faults)
    try:
        reader = _Reader(_parse(metadata), faults)
    except ValueError as error:
        raise RefusedError([*faults, Fault(Why.METADATA_FORM, "metadata", str(error))]) from None
    submission = reader.submission(metadata.decode(), file)
    if submission is None or faults:
        raise RefusedError(faults)
    return submission


class _Number(str):
    """A JSON number as its text, so that `007.10` or a phone number is kept as sent."""

    __slots__ = ()


T = TypeVar("T")


class _Reader:
    """Reads typed values out of the metadata; collects a fault for each that it cannot."""

    def __init__(self, values: Mapping[str, Any], faults: list[Fault]) -> None:
        self._values = values
        self._faults = faults

    def submission(self, sent: str, file: FilePart | None) -> Submission | None:
        """The submission; None if what it cannot be without is at fault."""
        media_type = self._media_type()
        file_name = self._file_name(media_type, file)
        submission = Submission(
            file_name=file_name or "",
            media_type=media_type or MediaType.AUDIO,
            metadata_sent=sent,
            direction=self._read("CallDirection", _direction),
            customer=Customer(self._text("Name"), self._text("Phone"), self._text("Email")),
            agent=AgentSent(
                self._read("AgentCode", _code),
                self._text("AgentFirstName"),
                self._text("AgentLastName"),
            ),
            interaction_date=self._read("InteractionDate", _date),
            extended={
                **(self._read("ExtendedMetadata", _merged) or {}),
                **(self._read("ExtendedMetadataValues", _merged_or_object) or {}),
            },
            hierarchy_id=self._read("HierarchyId", _uuid),
            hierarchy_code=self._read("HierarchyCode", _code),
            apply_hierarchy_to_agent=self._read("ApplyHierarchyToAgent", _boolean) or False,
            locale=self._read("LocaleId", _locale) or DEFAULT_LOCALE,
            client_call_id=self._read("ClientCallId", _code),
        )
        return submission if media_type and file_name else None

    def _media_type(self) -> MediaType | None:
        sent = self._values.get("uploadtype")
        for media_type in MediaType:
            if isinstance(sent, str) and sent.casefold() == media_type.value:
                return media_type
        self._faults.append(Fault(Why.MEDIA_TYPE, "UploadType", "Send Audio or Chat."))
        return None

    def _file_name(self, media_type: MediaType | None, file: FilePart | None) -> str | None:
        sent = self._values.get("filename")
        if not isinstance(sent, str | None):
            self._faults.append(Fault(Why.VALUE, "FileName", "Send text."))
            return None
        try:
            name = normalise_file_name(sent or "")
        except ValueError as error:
            self._faults.append(Fault(Why.FILE_NAME, "FileName", str(error)))
            return None
        ending = extension(name)
        allowed = EXTENSIONS[media_type] if media_type else ALLOWED_EXTENSIONS
        if ending not in allowed:
            detail = f"End the name in one of: {', '.join(sorted(allowed))}."
            self._faults.append(Fault(Why.FILE_NAME, "FileName", detail))
        elif file is not None and file.allowed and ending != file.extension:
            detail = f"The name ends in {ending}, the file in {file.extension}."
            self._faults.append(Fault(Why.EXTENSION_MISMATCH, "FileName", detail))
        return name

    def _text(self, key: str) -> str | None:
        return self._read(key, _text)

    def _read(self, key: str, convert: Callable[[Any], T]) -> T | None:
        """The value of an optional key; None if it is absent, null, empty or at fault."""
        value = self._values.get(key.lower())
        if value is None or (isinstance(value, str) and not value):
            return None
        try:
            return convert(value)
        except ValueError as error:
            self._faults.append(Fault(Why.VALUE, key, str(error)))
            return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("Send text.")  # noqa: TRY004 - a fault of the caller, not a bug
    if "\0" in value:
        raise ValueError("The text holds a NUL character; remove it.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("The text holds half of a surrogate pair; send it whole.") from None
    return str(value)


def _code(value: Any) -> str:
    text = _text(value)
    if len(text) > MAX_INDEXED_CHARACTERS:
        raise ValueError(f"Send at most {MAX_INDEXED_CHARACTERS} characters.")
    return text


def _direction(value: Any) -> Direction:
    try:
        return Direction(_text(value).casefold())
    except ValueError:
        raise ValueError("Send Inbound or Outbound.") from None


def _date(value: Any) -> InteractionDate:
    return parse_interaction_date(_text(value))


def _uuid(value: Any) -> UUID:
    try:
        return UUID(_text(value))
    except ValueError:
        raise ValueError("Send a UUID.") from None


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = _text(value).casefold()
    if text not in {"true", "false"}:
        raise ValueError("Send true or false.")
    return text == "true"


def _locale(value: Any) -> str:
    """Our locale for its number; an unknown number stays as it is, for intake to refuse."""
    text = _text(value).strip()
    if not _NUMERIC.fullmatch(text):
        raise ValueError("Send 1033, 2058 or no locale id.")
    number = float(text)
    whole = str(int(number)) if number.is_integer() else text
    return _LOCALES.get(whole, whole)


def _merged(value: Any) -> dict[str, Any]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("Send an array of objects.")
    return {_text(key): _json(item) for each in value for key, item in each.items()}


def _merged_or_object(value: Any) -> dict[str, Any]:
    return _merged([value] if isinstance(value, dict) else value)


def _json(value: Any) -> Any:
    """A JSON value with its numbers made numbers again, and only text that can be stored."""
    if isinstance(value, _Number):
        return _number(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {_text(key): _json(item) for key, item in value.items()}
    return value


def _number(text: str) -> int | float:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise ValueError("A number is too long.")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("A number is too large.")
    return number if set(text) & set(".eE") else int(text)


def _parse(metadata: bytes) -> dict[str, Any]:
    """The metadata's own object, its keys in lower case.

    Raises:
        ValueError: it is no JSON object, too large, too deep, or names a key twice.
    """
    if len(metadata) > MAX_METADATA_BYTES:
        raise ValueError(f"The metadata is larger than {MAX_METADATA_BYTES:,} bytes.")
    try:
        text = metadata.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("The metadata is not UTF-8 text.") from None
    _check_depth(text)
    parsed = json.loads(
        text,
        object_pairs_hook=_once,
        parse_int=_Number,
        parse_float=_Number,
        parse_constant=_no_constant,
    )
    if not isinstance(parsed, dict):
        raise ValueError("The metadata is not a JSON object.")  # noqa: TRY004
    return _once((key.lower(), value) for key, value in parsed.items())


def _once(pairs: Sequence[tuple[str, Any]] | Iterator[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError("The metadata names a key twice.")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value.")


def _check_depth(text: str) -> None:
    """Before parsing, since the parser recurses. Brackets within text do not count."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return
    depth, quoted, escaped = 0, False, False
    for character in text:
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"The metadata is deeper than {MAX_DEPTH} levels.")
        elif character in "}]":
            depth -= 1


def file_part(name: str) -> FilePart:
    """What a file part of this name is; only the extension matters."""
    return FilePart(extension(name.replace("\\", "/")))


def url_part(signed_url: str) -> FilePart:
    """What a file at this address would be; only the extension of its path matters."""
    place = re.split(r"[?#]", signed_url, maxsplit=1)[0]
    path = place.partition("://")[2].partition("/")[2]
    return FilePart(extension(unquote(path)))
