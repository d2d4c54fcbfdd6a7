"""What an answer with a given code looks like, made by what makes the real ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from uuid import UUID

from starlette.exceptions import HTTPException

from earmark.errors import (
    ConflictError,
    DeletedError,
    EarmarkError,
    Fault,
    ForbiddenError,
    Invalid,
    InvalidError,
    KeyInUseError,
    KeyReusedError,
    NotFoundError,
    RateLimitedError,
    RefusedError,
    SlowError,
    StorageQuotaError,
    TooLargeError,
    TooManyUploadsError,
    UnauthenticatedError,
    UnavailableError,
    UploadRateError,
    Why,
)
from earmark.model import Grant
from earmark.web import errors
from earmark.web.acxapi import upload, wire
from earmark.web.reference.codes import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.responses import Response

    from earmark.web.reference.codes import Meaning

VARIES = "…"
"""Stands where an answer tells what was wrong with one request, or a number of its own."""


@dataclass(frozen=True, slots=True)
class Body:
    """One form of an answer.

    Attributes:
        asked: how to get it, in words.
        head: its status and headers, as HTTP has them; empty for what stands in a record.
    """

    asked: str
    head: str
    text: str


def bodies(meaning: Meaning) -> Iterator[Body]:
    """Each form in which a code is told; `VARIES` stands for what differs from time to time."""
    if meaning.kind in {Kind.STEP, Kind.WARNING}:
        yield _record(meaning)
    elif meaning.kind is Kind.TOKEN:
        text = json.dumps({"error": meaning.code, "error_description": VARIES}, ensure_ascii=False)
        made = errors.Refusal(meaning.code, text, int(meaning.status), {}, "application/json")
        yield Body("From /connect/token", _head(made), text)
    else:
        yield from _answers(_answer(meaning))


def _answers(answer: errors.Answer) -> Iterator[Body]:
    asked = {
        "text/plain": "From the Upload Media API",
        "application/json": "With Accept: application/json",
        errors.PROBLEM: "From /v1, and with Accept: application/problem+json",
    }
    for media_type, words in asked.items():
        made = errors.sentence(answer, media_type)
        yield Body(words, _head(made), bytes(made.body).decode())


def _head(answer: Response) -> str:
    lines = [f"{answer.status_code} {HTTPStatus(answer.status_code).phrase}"]
    for name, value in answer.headers.items():
        if name != "content-length":
            lines.append(f"{name.title()}: {value}")
    return "\n".join(lines)


def _record(meaning: Meaning) -> Body:
    note = {"code": meaning.code, "message": VARIES}
    if meaning.kind is Kind.WARNING:
        told: Mapping[str, Any] = {"warnings": [note]}
    else:
        told = {"steps": [{"status": "failed", "error": note}]}
    text = json.dumps(told, ensure_ascii=False)
    return Body("In GET /v1/interactions/{interaction_id}", "", text)


def _answer(meaning: Meaning) -> errors.Answer:
    code = meaning.code
    if meaning.kind is Kind.UPLOAD:
        faults = [Fault(Why(code), VARIES, VARIES)]
        return wire.refusal(RefusedError(faults, existing_id=UUID(int=0)))
    if code in _RAISED:
        return errors.describe(_RAISED[code])
    if code in _WORDED:
        return _WORDED[code]
    # What is left is worded where it arises; its status and its form are the same everywhere.
    return errors.Answer(int(meaning.status) if meaning.status.isdecimal() else 400, code, VARIES)


_RAISED: Mapping[str, EarmarkError] = {
    "invalid_value": InvalidError(Invalid(VARIES, VARIES)),
    "unauthenticated": UnauthenticatedError("The access token has expired.", presented=True),
    "insufficient_scope": ForbiddenError(f"This needs the grant {Grant.INGEST.value}."),
    "not_found": NotFoundError(),
    "processing": ConflictError("processing", "The interaction is still processed; ask later."),
    "nothing_to_retry": ConflictError(
        "nothing_to_retry",
        "The interaction is ready and none of its steps failed or was skipped.",
    ),
    "idle": SlowError(),
    "idempotency_key_in_use": KeyInUseError(1),
    "idempotency_key_reused": KeyReusedError(),
    "deleted": DeletedError(),
    "too_large": TooLargeError(5 * 1024**3 // 2),
    "rate_limited": RateLimitedError(1),
    "upload_rate_limited": UploadRateError(1),
    "too_many_uploads": TooManyUploadsError(1),
    "internal": EarmarkError(),
    "unavailable": UnavailableError(""),
    "storage_quota_reached": StorageQuotaError(),
}
"""An error of each code that the heart raises, with one of its sentences where it has several."""

_WORDED: Mapping[str, errors.Answer] = {
    "not_multipart": upload.NOT_MULTIPART,
    "method_not_allowed": errors.of_http(HTTPException(405), ["POST"]),
}
"""What is refused before the heart is asked."""
