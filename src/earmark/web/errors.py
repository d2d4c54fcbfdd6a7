"""Errors become responses here, and only here.

`ANSWERS` says which status each error has. Two ways to word them: RFC 9457 for `/v1`, and for
the Upload Media API the sentence alone, as text, JSON string or RFC 9457 by what `Accept` prefers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from earmark import errors
from earmark.web.negotiation import preferred
from earmark.web.routing import methods_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.routing import Route

PROBLEM = "application/problem+json"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an error says to the caller.

    Attributes:
        code: stable, for programs; the error pages in the docs are named after it.
        sentence: for a person, with the mend.
        extra: further members of the problem object.
    """

    status: int
    code: str
    sentence: str
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


class Problem(Response):
    """An RFC 9457 problem."""

    media_type = PROBLEM

    def __init__(self, answer: Answer) -> None:
        body = {
            "type": f"urn:earmark:error:{answer.code}",
            "title": HTTPStatus(answer.status).phrase,
            "status": answer.status,
            "detail": answer.sentence,
            "code": answer.code,
            **answer.extra,
        }
        super().__init__(json.dumps(body, ensure_ascii=False), answer.status, dict(answer.headers))


_FORMS = ("text/plain", "application/json", PROBLEM)
"""In which a sentence can be told, the usual one first."""


def sentence(answer: Answer, accept: str) -> Response:
    """The sentence alone, as the `Accept` header prefers it; the first listed wins a tie."""
    form = preferred(accept, _FORMS) or "text/plain"
    if form == PROBLEM:
        return Problem(answer)
    body = answer.sentence
    if form == "application/json":
        body = json.dumps(body, ensure_ascii=False)
    return Response(body, answer.status, dict(answer.headers), form)


def describe(error: errors.EarmarkError) -> Answer:
    """What an error says, except an upload's refusal, whose words live with the upload."""
    for kind, tell in ANSWERS.items():
        if isinstance(error, kind):
            return tell(error)
    return _internal(error)


def _invalid(error: errors.InvalidError) -> Answer:
    faults = [{"field": fault.field, "message": fault.message} for fault in error.faults]
    return Answer(400, "invalid_value", str(error), extra={"errors": faults})


def _refused(error: errors.RefusedError) -> Answer:
    first = error.faults[0]
    return Answer(400, first.why.value, first.detail or "The upload was refused.")


def _unauthenticated(error: errors.UnauthenticatedError) -> Answer:
    challenge = 'Bearer error="invalid_token"' if error.presented else "Bearer"
    return Answer(401, "unauthenticated", str(error), {"WWW-Authenticate": challenge})


def _forbidden(error: errors.ForbiddenError) -> Answer:
    challenge = 'Bearer error="insufficient_scope"'
    return Answer(403, "insufficient_scope", str(error), {"WWW-Authenticate": challenge})


def _rate_limited(error: errors.RateLimitedError) -> Answer:
    seconds = max(1, math.ceil(error.retry_after_seconds))
    sentence = f"Too many requests. Retry in {seconds} s."
    return Answer(429, "rate_limited", sentence, {"Retry-After": str(seconds)})


def _too_large(error: errors.TooLargeError) -> Answer:
    sentence = f"This is too large. At most {error.limit_bytes:,} bytes are taken."
    return Answer(413, "too_large", sentence)


def _slow(_error: errors.SlowError) -> Answer:
    sentence = "The body came too slowly, so it was given up. Send it again."
    return Answer(408, "idle", sentence)


def _unavailable(error: errors.UnavailableError) -> Answer:
    seconds = error.retry_after_seconds
    sentence = f"The service cannot take this now. Retry in {seconds} s."
    return Answer(503, "unavailable", sentence, {"Retry-After": str(seconds)})


def _not_found(_error: errors.EarmarkError) -> Answer:
    return Answer(404, "not_found", "Nothing is here under this address.")


def _conflict(error: errors.ConflictError) -> Answer:
    return Answer(409, error.code, str(error))


def _internal(_error: Exception) -> Answer:
    sentence = "Something went wrong on our side. Retry, and tell the operator the X-Request-Id."
    return Answer(500, "internal", sentence)


ANSWERS: Mapping[type[errors.EarmarkError], Callable[[Any], Answer]] = {
    errors.RefusedError: _refused,
    errors.InvalidError: _invalid,
    errors.UnauthenticatedError: _unauthenticated,
    errors.ForbiddenError: _forbidden,
    errors.NotFoundError: _not_found,
    errors.ConflictError: _conflict,
    errors.TooLargeError: _too_large,
    errors.SlowError: _slow,
    errors.RateLimitedError: _rate_limited,
    errors.UnavailableError: _unavailable,
    errors.EarmarkError: _internal,
}
"""Every error's answer, the special before the general. A test holds it to the error tree."""


def _http(error: HTTPException, methods: Sequence[str]) -> Answer:
    """What the framework itself refuses: an unknown address or method."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return _not_found(errors.EarmarkError())
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(methods)
        sentence = f"This address takes {allowed} only."
        return Answer(405, "method_not_allowed", sentence, {"Allow": allowed})
    return Answer(error.status_code, "http_error", str(error.detail), dict(error.headers or {}))


def respond(request: Request, answer: Answer) -> Response:
    """Words an answer for the API that was called."""
    if request.url.path.startswith(("/v1/", "/health/")):
        return Problem(answer)
    return sentence(answer, ",".join(request.headers.getlist("accept")))


def install(
    app: FastAPI, refusal: Callable[[errors.RefusedError], Answer], routes: Sequence[Route]
) -> None:
    """Makes the app answer every error; `refusal` words those of uploads."""

    async def earmark_error(request: Request, error: Any) -> Response:
        if isinstance(error, errors.ServiceError):
            log.warning("request failed", error=str(error), cause=error.__cause__)
        upload = isinstance(error, errors.RefusedError)
        return respond(request, refusal(error) if upload else describe(error))

    async def http_error(request: Request, error: Any) -> Response:
        return respond(request, _http(error, methods_of(request.scope["path"], routes)))

    async def validation_error(request: Request, error: Any) -> Response:
        faults = [
            errors.Invalid(".".join(str(part) for part in fault["loc"][1:]), str(fault["msg"]))
            for fault in error.errors()
        ]
        return respond(request, _invalid(errors.InvalidError(*faults)))

    async def unexpected(request: Request, error: Exception) -> Response:
        return respond(request, _internal(error))

    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
        errors.EarmarkError: earmark_error,
        HTTPException: http_error,
        RequestValidationError: validation_error,
        Exception: unexpected,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
