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

from earmark.errors import Fault, Invalid, InvalidError, RefusedError, Why
from earmark.model import (
    DEFAULT_LOCALE,
    EXTENSIONS,
    MAX_INDEXED_CHARACTERS,
    META,
    AgentSent,
    ArrivalQuery,
    Correction,
    Customer,
    Direction,
    InteractionDate,
    MediaType,
    Status,
    Submission,
    extension,
    normalise_file_name,
    parse_interaction_date,
)
from earmark.web.errors import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

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
    Why.DIGEST_MISMATCH: (
        "The file that was received does not match its digest. Please upload it again."
    ),
    Why.DIGEST_MALFORMED: (
        "Invalid digest of the file. You must upload a Repr-Digest or Content-Digest with a "
        "well-formed sha-256, or none."
    ),
    Why.KEY_MALFORMED: (
        "Invalid Idempotency-Key. You must send one key of at most 255 characters, or none."
    ),
    Why.TOO_MANY_PARTS: "Too many parts in the request form. Please upload only the named parts.",
    Why.FORM_MALFORMED: "Malformed multipart form. Please upload a well-formed request form.",
}
"""Each reason's sentence, which clients may match; the order is the precedence."""

_PRECEDENCE = {why: rank for rank, why in enumerate(SENTENCES)}

_NUMERIC = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)

_LOCALES: Mapping[str, str] = {"1033": "en-US", "2058": "es-MX"}

LOCALE_IDS: Mapping[str, int] = {locale: int(number) for number, locale in _LOCALES.items()}

STATUS: Mapping[Status, str] = {
    Status.RECEIVED: "Processing",
    Status.PROCESSING: "Processing",
    Status.READY: "ReadyToSample",
    Status.FAILED: "FailedToProcess",
}

MEDIA_TYPES: Mapping[MediaType, str] = {MediaType.AUDIO: "Audio", MediaType.CHAT: "Chat"}

NEVER_FOUND = ("Email", "Video", "Live", "Metadata", "ProcessedChat", "MetadataExtended")
"""Kinds of media that the published API knows beside those that can be uploaded here."""

DIRECTIONS: Mapping[Direction, str] = {
    Direction.INBOUND: "Inbound",
    Direction.OUTBOUND: "Outbound",
}

DEFAULT_PAGE_SIZE = 100

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


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list of metadata asks for.

    Attributes:
        query: None if it asks for media of a kind that is never here.
    """

    query: ArrivalQuery | None
    after: UUID | None
    limit: int


def read_listing(sent: Mapping[str, Any], *, required: Sequence[str] = ()) -> Listing:
    """Reads what a list of metadata asks for.

    Args:
        sent: the values by their keys in lower case; lists as such, or as text with commas.
        required: keys that must be there.

    Raises:
        InvalidError: every value that is wrong.
    """
    faults: list[Fault] = []
    reader = _Reader(sent, faults)
    absent = [key for key in required if sent.get(key.lower()) is None or sent[key.lower()] == ""]
    faults += [Fault(Why.VALUE, key, "This is required.") for key in absent]
    listing = reader.listing()
    _demand_none(faults)
    return listing


def read_correction(body: bytes) -> Correction:
    """Reads what is to be changed of an interaction; what is absent or null stays as it is.

    Raises:
        InvalidError: no JSON object, or every value that is wrong.
    """
    faults: list[Fault] = []
    correction = _Reader(read_object(body), faults).correction()
    _demand_none(faults)
    return correction


def _demand_none(faults: Sequence[Fault]) -> None:
    if faults:
        raise InvalidError(*(Invalid(fault.field, fault.detail) for fault in faults))


def texts(extended: Mapping[str, Any]) -> dict[str, str]:
    """Extended metadata as this API has it: text throughout."""
    return {key: text_of(value) for key, value in extended.items()}


def text_of(value: Any) -> str:
    """Text as it is, nothing as empty text, anything else as its JSON text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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

_MEDIA_TYPES = {media_type.value: media_type for media_type in MediaType}


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

    def listing(self) -> Listing:
        """What a list of metadata asks for; whatever is at fault asks for nothing."""
        kind = self._read("mediaType", _kind)
        size = self._read("pageSize", _whole)
        query = ArrivalQuery(
            since=self._read("startDate", _instant),
            until=self._read("endDate", _instant),
            media_type=MediaType(kind) if kind and kind in MEDIA_TYPES else None,
            client_call_ids=frozenset(
                self._read("clientCallId", _codes) or self._read("clientCallIds", _codes) or ()
            ),
            hierarchy_ids=frozenset(self._read("hierarchyIds", _uuids) or ()),
        )
        return Listing(
            query=query if kind in {None, *MEDIA_TYPES} else None,
            after=self._read("lastId", _uuid),
            limit=DEFAULT_PAGE_SIZE if size is None else size,
        )

    def correction(self) -> Correction:
        """What is to be changed of an interaction."""
        meta = {key: self._given(key, _any_text) for key in META}
        return Correction(
            interaction_date=self._demanding("timestamp", _date),
            direction=self._demanding("callDirection", _direction),
            phone=self._given("phone", _text),
            client_call_id=self._given("clientCallId", _code),
            locale=self._demanding("localeId", _known_locale),
            extended=self._demanding("extendedMetadata", _object) or {},
            meta={key: text for key, text in meta.items() if text is not None},
        )

    def _given(self, key: str, convert: Callable[[Any], T]) -> T | None:
        """The value of a key, which may be empty text; None if it is absent, null or at fault."""
        value = self._values.get(key.lower())
        return convert(value) if value == "" else self._read(key, convert)

    def _demanding(self, key: str, convert: Callable[[Any], T]) -> T | None:
        """The value of a key, which empty text is not; None if absent, null or at fault."""
        if self._values.get(key.lower()) == "":
            self._faults.append(Fault(Why.VALUE, key, "Send a value, or null to keep this."))
            return None
        return self._read(key, convert)

    def _media_type(self) -> MediaType | None:
        sent = self._values.get("uploadtype")
        found = _MEDIA_TYPES.get(sent.casefold()) if isinstance(sent, str) else None
        if found is not None:
            return found
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


def _instant(value: Any) -> datetime:
    """An instant; a plus that a query has made a space is one again."""
    return _date(_text(value).replace(" ", "+")).instant


def _kind(value: Any) -> str:
    """A kind of media, or the word for one that is never here."""
    kinds: dict[str, str] = {word.lower(): kind for kind, word in MEDIA_TYPES.items()}
    found = kinds | {word.lower(): word for word in NEVER_FOUND}
    try:
        return found[_text(value).lower()]
    except KeyError:
        listed = ", ".join([*MEDIA_TYPES.values(), *NEVER_FOUND])
        raise ValueError(f"Send one of: {listed}.") from None


def _several(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [part.strip() for part in _text(value).split(",") if part.strip()]


def _codes(value: Any) -> list[str]:
    return [_code(one) for one in _several(value)]


def _uuids(value: Any) -> list[UUID]:
    return [_uuid(one) for one in _several(value)]


def _whole(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[+-]?\d{1,9}", value, re.ASCII):
        raise ValueError("Send a whole number.")
    return int(value)


def _known_locale(value: Any) -> str:
    locale = _locale(value)
    if locale not in LOCALE_IDS:
        raise ValueError(SENTENCES[Why.LOCALE])
    return locale


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("Send an object.")  # noqa: TRY004
    return _merged([value])


def _any_text(value: Any) -> str:
    """A text as it is, a number as it was written, anything else as its JSON text."""
    return _text(value if isinstance(value, str) else text_of(_json(value)))


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


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object, its own keys in lower case and its numbers as text.

    Raises:
        InvalidError: it is none, too large, too deep, or names a key twice.
    """
    try:
        return _parse(body)
    except json.JSONDecodeError:
        raise InvalidError(Invalid("body", "The body is not JSON.")) from None
    except ValueError as error:
        message = str(error).replace("metadata", "body")
        raise InvalidError(Invalid("body", message)) from None


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
