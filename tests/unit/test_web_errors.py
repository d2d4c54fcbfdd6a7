"""`web.errors` and `web.connection`: every error has its answer; early answers end well."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import structlog
from fastapi import FastAPI, HTTPException
from starlette.responses import Response
from starlette.routing import Route

from earmark import errors
from earmark.web import connection
from earmark.web import errors as web_errors
from earmark.web.connection import DRAIN_BYTES, RequestContext
from earmark.web.errors import ANSWERS, Answer, Edge, describe, sentence
from earmark.web.pace import Pace


def every(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(every(below) for below in kind.__subclasses__()))


def test_every_error_of_the_tree_has_an_answer() -> None:
    tree = {kind for kind in every(errors.EarmarkError) if kind.__module__ == "earmark.errors"}
    generic = {errors.CallerError, errors.ServiceError, errors.MediaError, errors.SettingsError}
    assert tree - generic == set(ANSWERS)


def test_the_special_stands_before_the_general() -> None:
    kinds = [*ANSWERS]
    for place, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[place + 1 :])


PACE = Pace(60)
FAULT = errors.Fault(errors.Why.VALUE, "Name", "Send text.")


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (errors.RefusedError([FAULT]), 400, "metadata_value_invalid", {}),
        (errors.InvalidError(errors.Invalid("a", "Wrong.")), 400, "invalid_value", {}),
        (
            errors.UnauthenticatedError("x", presented=False),
            401,
            "unauthenticated",
            {"WWW-Authenticate": "Bearer"},
        ),
        (
            errors.UnauthenticatedError("x", presented=True),
            401,
            "unauthenticated",
            {"WWW-Authenticate": 'Bearer error="invalid_token"'},
        ),
        (
            errors.ForbiddenError("x"),
            403,
            "insufficient_scope",
            {"WWW-Authenticate": 'Bearer error="insufficient_scope"'},
        ),
        (errors.NotFoundError("x"), 404, "not_found", {}),
        (errors.ConflictError("busy", "It is busy."), 409, "busy", {}),
        (errors.TooLargeError(5), 413, "too_large", {}),
        (errors.RateLimitedError(0.001), 429, "rate_limited", {"Retry-After": "1"}),
        (errors.RateLimitedError(1.2), 429, "rate_limited", {"Retry-After": "2"}),
        (errors.UnavailableError("x"), 503, "unavailable", {"Retry-After": "5"}),
        (errors.SettingsError("x"), 500, "internal", {}),
        (errors.EarmarkError("x"), 500, "internal", {}),
    ],
    ids=range(13),
)
def test_each_error_has_its_status_code_and_headers(
    error: errors.EarmarkError, status: int, code: str, headers: dict[str, str]
) -> None:
    answer = describe(error)
    assert (answer.status, answer.code, answer.headers) == (status, code, headers)
    assert answer.sentence.endswith((".", "x", "Wrong."))


def test_a_refusal_without_a_detail_still_says_something() -> None:
    answer = describe(errors.RefusedError([errors.Fault(errors.Why.VALUE)]))
    assert answer.sentence == "The upload was refused."


def test_what_is_no_error_of_ours_is_internal() -> None:
    assert describe(ValueError("x")).status == 500  # type: ignore[arg-type]


def test_a_sentence_beyond_ascii_is_utf_8_in_every_form() -> None:
    answer = Answer(400, "x", "Größe “1”")
    plain = sentence(answer, "*/*")
    assert plain.body == "Größe “1”".encode()
    assert json.loads(sentence(answer, "application/json").body) == "Größe “1”"
    assert json.loads(sentence(answer, web_errors.PROBLEM).body)["detail"] == "Größe “1”"


# The handlers, in an app


def app() -> FastAPI:
    made = FastAPI()

    @made.get("/fail/{kind}")
    @made.get("/v1/fail/{kind}")
    def fail(kind: str, number: int = 0) -> None:
        raise {
            "refused": errors.RefusedError([FAULT]),
            "missing": errors.NotFoundError("x"),
            "down": errors.UnavailableError("the database is down"),
            "teapot": HTTPException(418, "Short and stout.", {"X-Pot": "1"}),
            "bug": ZeroDivisionError(),
            "memory": MemoryError(),
            "thread": RuntimeError("can't start new thread"),
        }[kind]

    routes = [route for route in made.routes if isinstance(route, Route)]
    Edge(lambda error: Answer(400, "refused", str(error)), routes).install(made)
    return made


def get(path: str, query: bytes = b"", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "headers": [],
    }
    asyncio.run(RequestContext(app(), PACE)(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, sent[1]["body"]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/fail/refused", 400, b"metadata_value_invalid"),
        ("/fail/missing", 404, b"Nothing is here under this address."),
        ("/fail/down", 503, b"The service cannot take this now. Retry in 5 s."),
        ("/fail/teapot", 418, b"Short and stout."),
        ("/nowhere", 404, b"Nothing is here under this address."),
    ],
)
def test_the_published_paths_are_answered_with_the_sentence_alone(
    path: str, status: int, body: bytes
) -> None:
    with structlog.testing.capture_logs():
        told, headers, text = get(path)
    assert (told, text) == (status, body)
    assert headers["content-type"] == "text/plain; charset=utf-8"


def test_headers_of_the_framework_are_kept() -> None:
    assert get("/fail/teapot")[1]["x-pot"] == "1"


def test_another_method_is_told_which_there_are() -> None:
    status, headers, body = get("/fail/missing", method="DELETE")
    assert (status, headers["allow"]) == (405, "GET")
    assert body == b"This address takes GET only."


def test_our_own_paths_are_answered_with_a_problem() -> None:
    status, headers, body = get("/v1/fail/missing")
    assert (status, headers["content-type"]) == (404, "application/problem+json")
    assert json.loads(body) == {
        "type": "urn:earmark:error:not_found",
        "title": "Not Found",
        "status": 404,
        "detail": "Nothing is here under this address.",
        "code": "not_found",
    }


def test_a_parameter_that_is_no_value_is_told_by_name() -> None:
    status, _, body = get("/v1/fail/missing", b"number=seven")
    problem = json.loads(body)
    assert (status, problem["code"]) == (400, "invalid_value")
    assert [fault["field"] for fault in problem["errors"]] == ["number"]


def test_a_failure_of_the_service_is_told_once_with_its_cause() -> None:
    with structlog.testing.capture_logs() as told:
        assert get("/fail/down")[0] == 503
    assert [line["event"] for line in told] == ["request failed", "request"]
    assert told[0]["error"] == "the database is down"


def test_a_fault_of_the_caller_is_no_failure() -> None:
    with structlog.testing.capture_logs() as told:
        get("/fail/missing")
    assert [line["event"] for line in told] == ["request"]


def test_a_bug_is_500_and_told_once() -> None:
    with structlog.testing.capture_logs() as told:
        status, headers, body = get("/fail/bug")
    assert status == 500
    assert b"X-Request-Id" in body
    assert len(headers["x-request-id"]) == 32
    assert [line["event"] for line in told] == ["request failed", "request"]


# Early answers


class Connection:
    """A caller that sends `messages`; an app that answers without reading."""

    def __init__(self, *messages: Any, **headers: str) -> None:
        self.incoming = [*messages]
        self.sent: list[Any] = []
        self.headers = headers

    async def receive(self) -> Any:
        if not self.incoming:
            await asyncio.sleep(60)
        return self.incoming.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append((message, len(self.incoming)))

    def run(self, *, reads: int = 0) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            for _ in range(reads):
                await receive()
            await Response("No.", 400)(scope, receive, send)

        scope: Any = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "headers": [
                (name.replace("_", "-").encode(), value.encode())
                for name, value in self.headers.items()
            ],
        }
        asyncio.run(RequestContext(app, PACE)(scope, self.receive, self.send))

    @property
    def closes(self) -> bool:
        return (b"connection", b"close") in self.sent[0][0]["headers"]


def chunk(size: int, *, more: bool = True) -> Any:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


def test_the_answer_is_on_its_way_before_the_rest_is_read() -> None:
    caller = Connection(chunk(10), chunk(10, more=False), content_length="20")
    caller.run()
    bodies = [(message["body"], left) for message, left in caller.sent[1:]]
    assert bodies == [(b"No.", 2), (b"", 0)]
    assert caller.sent[1][0]["more_body"]
    assert caller.closes


def test_a_body_that_was_read_whole_leaves_the_connection_open() -> None:
    caller = Connection(chunk(10), chunk(10, more=False), content_length="20")
    caller.run(reads=2)
    assert not caller.closes
    assert [message["type"] for message, _ in caller.sent] == [
        "http.response.start",
        "http.response.body",
    ]


@pytest.mark.parametrize("headers", [{}, {"content_length": "0"}])
def test_a_request_without_a_body_leaves_the_connection_open(headers: dict[str, str]) -> None:
    caller = Connection(**headers)
    caller.run()
    assert not caller.closes


def test_a_chunked_body_may_be_there() -> None:
    caller = Connection(chunk(5, more=False), transfer_encoding="chunked")
    caller.run()
    assert caller.closes
    assert caller.incoming == []


def test_a_caller_that_waits_for_100_is_not_read_from() -> None:
    caller = Connection(chunk(5), content_length="20", expect="100-Continue")
    caller.run()
    assert caller.closes
    assert len(caller.incoming) == 1


def test_a_caller_that_was_told_to_continue_is_read_from() -> None:
    messages = (chunk(5), chunk(5), chunk(5, more=False))
    caller = Connection(*messages, content_length="20", expect="100-continue")
    caller.run(reads=1)
    assert caller.incoming == []


def test_a_caller_that_leaves_ends_the_reading() -> None:
    caller = Connection(chunk(5), {"type": "http.disconnect"}, chunk(5), content_length="20")
    caller.run()
    assert len(caller.incoming) == 1


def test_no_more_than_the_limit_is_read() -> None:
    large = chunk(DRAIN_BYTES // 2)
    caller = Connection(large, large, large, content_length="20")
    caller.run()
    assert len(caller.incoming) == 1


def test_a_caller_that_sends_nothing_more_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "DRAIN_SECONDS", 0.05)
    caller = Connection(chunk(5), content_length="20")
    caller.run()
    assert caller.sent[-1][0]["body"] == b""


def test_what_is_no_http_is_passed_on() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(RequestContext(app, PACE)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


@pytest.mark.parametrize("short_of", ["memory", "thread"])
def test_what_the_machine_is_short_of_is_no_fault_of_ours(short_of: str) -> None:
    status, headers, body = get(f"/fail/{short_of}")
    assert (status, headers["retry-after"]) == (503, "5")
    assert b"Retry in 5 s." in body
