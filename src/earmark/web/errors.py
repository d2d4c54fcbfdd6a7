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
from typing_extensions import override

from earmark import errors
from earmark.web.negotiation import preferred
from earmark.web.routing import methods_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send

PROBLEM = "application/problem+json"

_NO_THREAD = "can't start new thread"
"""All that CPython tells of it, in a RuntimeError."""

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


class Refusal(Response):
    """An answer that refuses, and links to the page of its code.

    The code is told to whoever counts answers, too, in the scope's state.
    """

    def __init__(
        self, code: str, body: str, status: int, headers: Mapping[str, str], media_type: str
    ) -> None:
        # Source: RFC 8288 section 3.3; `help` is of its registry.
        link = {"Link": f'</docs/errors/{code}>; rel="help"'}
        super().__init__(body, status, {**headers, **link}, media_type)
        self._code = code

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See Response."""
        scope.setdefault("state", {})["code"] = self._code
        await super().__call__(scope, receive, send)


class Problem(Refusal):
    """An RFC 9457 problem."""

    def __init__(self, answer: Answer) -> None:
        body = {
            "type": f"urn:earmark:error:{answer.code}",
            "title": HTTPStatus(answer.status).phrase,
            "status": answer.status,
            "detail": answer.sentence,
            "code": answer.code,
            **answer.extra,
        }
        text = json.dumps(body, ensure_ascii=False)
        super().__init__(answer.code, text, answer.status, answer.headers, PROBLEM)


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
    return Refusal(answer.code, body, answer.status, answer.headers, form)


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
    headers = _retry_after(error)
    sentence = f"Too many requests. Retry in {headers['Retry-After']} s."
    return Answer(429, "rate_limited", sentence, headers)


def _upload_rate(error: errors.UploadRateError) -> Answer:
    headers = _retry_after(error)
    cause = "Your organization begins more uploads in a minute than it may."
    sentence = f"{cause} Retry in {headers['Retry-After']} s."
    return Answer(429, "upload_rate_limited", sentence, headers)


def _too_many_uploads(error: errors.TooManyUploadsError) -> Answer:
    headers = _retry_after(error)
    cause = "Your organization has as many uploads on their way as it may at once."
    sentence = f"{cause} Retry in {headers['Retry-After']} s."
    return Answer(429, "too_many_uploads", sentence, headers)


def _retry_after(error: errors.RateLimitedError | errors.KeyInUseError) -> Mapping[str, str]:
    return {"Retry-After": str(max(1, math.ceil(error.retry_after_seconds)))}


def _no_room(_error: errors.StorageQuotaError) -> Answer:
    # Source: RFC 4331 section 6, which gives 507 to quotas. Not 413: the upload itself may be
    # small. Not 403: the client may upload, and the same upload is taken once there is room.
    mend = "Delete interactions, or ask the operator for more."
    sentence = f"Your organization has no room left for this upload. {mend}"
    return Answer(507, "storage_quota_reached", sentence)


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


def _key_in_use(error: errors.KeyInUseError) -> Answer:
    headers = _retry_after(error)
    cause = "The first upload with this Idempotency-Key is still on its way."
    sentence = f"{cause} Retry in {headers['Retry-After']} s."
    return Answer(409, "idempotency_key_in_use", sentence, headers)


def _key_reused(_error: errors.KeyReusedError) -> Answer:
    # Source: draft-ietf-httpapi-idempotency-key-header-07 section 2.7.
    cause = "This Idempotency-Key was used for an upload with other metadata or another file."
    return Answer(422, "idempotency_key_reused", f"{cause} Send this one with a key of its own.")


def _deleted(_error: errors.DeletedError) -> Answer:
    cause = "What was uploaded with this Idempotency-Key was kept, and has been deleted since."
    return Answer(410, "deleted", f"{cause} To keep it again, send it with a new key.")


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
    errors.KeyInUseError: _key_in_use,
    errors.KeyReusedError: _key_reused,
    errors.DeletedError: _deleted,
    errors.TooLargeError: _too_large,
    errors.StorageQuotaError: _no_room,
    errors.UploadRateError: _upload_rate,
    errors.TooManyUploadsError: _too_many_uploads,
    errors.SlowError: _slow,
    errors.RateLimitedError: _rate_limited,
    errors.UnavailableError: _unavailable,
    errors.EarmarkError: _internal,
}
"""Every error's answer, the special before the general. A test holds it to the error tree."""


def of_http(error: HTTPException, methods: Sequence[str]) -> Answer:
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


class Edge:
    """Where every error becomes an answer."""

    def __init__(
        self, refusal: Callable[[errors.RefusedError], Answer], routes: Sequence[Route]
    ) -> None:
        """`refusal` words those of uploads."""
        self._refusal = refusal
        self._routes = routes

    def install(self, app: FastAPI) -> None:
        """Makes the app answer every error so."""

        async def answer(request: Request, error: Exception) -> Response:
            return self.answer(request, error)

        for kind in (*EXPECTED, Exception):
            app.add_exception_handler(kind, answer)

    def answer(self, request: Request, error: Exception) -> Response:
        """The answer to an error. What is not `EXPECTED` has to be raised further, for the log."""
        if isinstance(error, errors.EarmarkError):
            return respond(request, self._ours(error))
        if isinstance(error, HTTPException):
            methods = methods_of(request.scope["path"], self._routes)
            return respond(request, of_http(error, methods))
        if isinstance(error, RequestValidationError):
            return respond(request, _malformed(error))
        if isinstance(error, MemoryError) or str(error) == _NO_THREAD:
            log.warning("request failed", error="not enough memory")
            return respond(request, _unavailable(errors.UnavailableError("not enough memory")))
        return respond(request, _internal(error))

    def _ours(self, error: errors.EarmarkError) -> Answer:
        if isinstance(error, errors.ServiceError):
            log.warning("request failed", error=str(error), cause=error.__cause__)
        if isinstance(error, errors.RefusedError):
            return self._refusal(error)
        return describe(error)


EXPECTED: tuple[type[Exception], ...] = (
    errors.EarmarkError,
    HTTPException,
    RequestValidationError,
    MemoryError,
)
"""Errors that are no surprise: their answer is all that there is to say."""


def _malformed(error: RequestValidationError) -> Answer:
    """What the framework finds wrong with the values of a request."""
    faults = [
        errors.Invalid(".".join(str(part) for part in fault["loc"][1:]), str(fault["msg"]))
        for fault in error.errors()
    ]
    return _invalid(errors.InvalidError(*faults))
