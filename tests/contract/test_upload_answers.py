"""Statuses, their order, and the form of every answer to `POST /Media/Upload`."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from contract.forms import CONTENT_TYPE, WAV, form, meta
from contract.serving import Caller, Service, exchange
from contract.test_upload_precedence import BAD_TYPE
from earmark.access import parse_rate
from earmark.database import Database
from earmark.errors import UnavailableError
from earmark.model import Grant
from earmark.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from contract.serving import Answer

seed = pytest.mark.origin("seed")
published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

PLAIN, JSON, PROBLEM = "text/plain; charset=utf-8", "application/json", "application/problem+json"

FAULTY = form(meta(UploadType="Film"))


@pytest.fixture
def make(sqlite_url: str, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes an empty service with limits of its own."""
    database = Database(sqlite_url)
    made: list[Service] = []

    def new(**options: Any) -> Service:
        made.append(Service(database, tmp_path / "storage", **options))
        return made[-1]

    yield new
    for service in made:
        service.close()
    database.close()


# The form of an error


@published
@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/plain", PLAIN),
        ("text/*", PLAIN),
        ("text/html", PLAIN),
        ("application/json", JSON),
        ("APPLICATION/JSON; charset=utf-8", JSON),
        ("application/*", JSON),
        ("text/json, application/json", JSON),
        ("application/problem+json", PROBLEM),
        ("application/json, text/plain, */*", JSON),
        ("text/plain, application/json", PLAIN),
        ("application/problem+json, application/json", PROBLEM),
        ("application/json, application/problem+json", JSON),
        ("*/*, application/json", PLAIN),
        ("application/json;q=0.5, text/plain;q=0.9", PLAIN),
        ("text/plain;q=0.5, application/json;q=0.9", JSON),
        ("text/plain;q=0.5,application/json;q=0.5", PLAIN),
        ("application/json;q=0, */*;q=0.1", PLAIN),
        ("application/json;q=0", PLAIN),
        ("application/json;q=0.001", JSON),
        ("text/plain;q=0.9, application/problem+json", PROBLEM),
        ("application/json;q=nan, application/problem+json;q=0.1", PROBLEM),
        ("application/json;q=2, application/problem+json;q=0.1", PROBLEM),
        ("application/json;q=-1, application/problem+json;q=0.1", PROBLEM),
        ("application/json;q=high, application/problem+json;q=0.1", PROBLEM),
        ("application/json ; Q=0.2 , text/plain; q=0.1", JSON),
        ("image/png, image/*;q=0.8", PLAIN),
        (",,;;q=,", PLAIN),
    ],
)
def test_the_error_is_worded_as_accept_prefers(
    caller: Caller, accept: str, content_type: str
) -> None:
    answer = caller.upload(FAULTY, accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (400, content_type)
    if content_type == PROBLEM:
        assert answer.json["detail"] == BAD_TYPE
    else:
        assert answer.text == (json.dumps(BAD_TYPE) if content_type == JSON else BAD_TYPE)


@ours
def test_several_accept_headers_are_one_list(caller: Caller) -> None:
    answer = caller.upload(FAULTY, accept="text/plain;q=0.1", Accept="application/problem+json")
    assert answer.headers["content-type"] == PROBLEM


@ours
def test_a_problem_has_its_members(caller: Caller) -> None:
    answer = caller.upload(FAULTY, accept=PROBLEM)
    assert answer.json == {
        "type": "urn:earmark:error:upload_type_invalid",
        "title": "Bad Request",
        "status": 400,
        "detail": BAD_TYPE,
        "code": "upload_type_invalid",
        "faults": [
            {
                "code": "upload_type_invalid",
                "sentence": BAD_TYPE,
                "field": "UploadType",
                "detail": "Send Audio or Chat.",
            }
        ],
    }


# X-Request-Id


@ours
@pytest.mark.parametrize("sent", ["a", "x" * 128, "2022-03:18.T/+=@_A9"])
@pytest.mark.parametrize("whole", [FAULTY, b"", form(meta())], ids=["400", "malformed", "any"])
def test_the_callers_request_id_comes_back(caller: Caller, sent: str, whole: bytes) -> None:
    assert caller.upload(whole, x_request_id=sent).headers["x-request-id"] == sent


@ours
@pytest.mark.parametrize(
    "sent", ["", "x" * 129, "two words", "é", "a;b", 'a"b', "<b>", "a,b"], ids=ascii
)
def test_another_request_id_takes_the_place_of_an_unsafe_one(caller: Caller, sent: str) -> None:
    answer = caller.upload(FAULTY, x_request_id=sent)
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["x-request-id"] != caller.upload(FAULTY).headers["x-request-id"]


@ours
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/Nowhere", 404),
        ("GET", "/Media/Upload", 405),
        ("GET", "/health/live", 200),
        ("GET", "/v1/interactions", 200),
    ],
)
def test_every_answer_bears_a_request_id(
    caller: Caller, method: str, path: str, status: int
) -> None:
    answer = caller.send(method, path, x_request_id="mine")
    assert (answer.status, answer.headers["x-request-id"]) == (status, "mine")


# Statuses


@seed
@pytest.mark.parametrize("path", ["/Media/Upload", "/media/upload", "/MEDIA/UPLOAD"])
def test_the_path_is_matched_without_regard_to_case(caller: Caller, path: str) -> None:
    answer = asyncio.run(
        exchange(
            caller.service.app,
            "POST",
            path,
            headers={"authorization": f"Bearer {caller.token}", "content_type": CONTENT_TYPE},
            chunks=[form(meta())],
        )
    )
    assert answer.status == 200


@ours
@pytest.mark.parametrize(
    "path", ["/Media/Uploads", "/Media", "/Media/Upload/", "/v1/Media/Upload"]
)
def test_another_path_is_404(wire: Service, path: str) -> None:
    answer = asyncio.run(exchange(wire.app, "POST", path, headers={}))
    assert answer.status == 404


@ours
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_another_method_is_405_even_without_a_token(wire: Service, method: str) -> None:
    answer = asyncio.run(exchange(wire.app, method, "/media/upload", headers={}))
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.text == "This address takes POST only."


@published
@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        ("", "Bearer"),
        ("Basic YTpi", "Bearer"),
        ("Bearer", "Bearer"),
        ("Bearer nonsense", 'Bearer error="invalid_token"'),
    ],
)
def test_a_missing_or_bad_token_is_401(caller: Caller, authorization: str, challenge: str) -> None:
    answer = caller.upload(b"", authorization=authorization, content_type="text/plain")
    assert (answer.status, answer.headers["www-authenticate"]) == (401, challenge)


@published
def test_the_word_bearer_is_matched_without_regard_to_case(caller: Caller) -> None:
    authorization = f"bearer {caller.token}"
    assert caller.upload(form(meta()), authorization=authorization).status == 200


@ours
def test_a_client_without_the_grant_is_403(wire: Service) -> None:
    reader = wire.caller(grants=[Grant.READ, Grant.MANAGE, Grant.DELETE])
    answer = reader.upload(form(meta()), content_type="text/plain")
    assert answer.status == 403
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope"'
    problem = reader.upload(form(meta()), accept=PROBLEM)
    assert problem.json["code"] == "insufficient_scope"


@ours
def test_one_request_too_many_is_429_before_the_form_is_looked_at(
    make: Callable[..., Service],
) -> None:
    caller = make(rate=parse_rate("2/min")).caller()
    first, second = caller.upload(form(meta())), caller.upload(b"", content_type="text/plain")
    third = caller.upload(b"", content_type="text/plain")
    assert [first.status, second.status, third.status] == [200, 415, 429]
    assert first.headers["ratelimit-policy"] == '"client";q=2;w=60'
    assert re.fullmatch(r'"client";r=1;t=\d+', first.headers["ratelimit"])
    assert third.headers["ratelimit-policy"] == '"client";q=2;w=60'
    assert re.fullmatch(r'"client";r=0;t=\d+', third.headers["ratelimit"])
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert third.text == f"Too many requests. Retry in {third.headers['retry-after']} s."


@ours
def test_the_rate_of_another_client_is_its_own(make: Callable[..., Service]) -> None:
    service = make(rate=parse_rate("1/h"))
    one, two = service.caller(), service.caller()
    statuses = [each.upload(form(meta())).status for each in (one, one, two)]
    assert statuses == [200, 429, 200]


@ours
def test_no_form_is_told_before_too_large(make: Callable[..., Service]) -> None:
    caller = make(max_upload_bytes=1000).caller()
    answer = caller.upload(b"", content_type="text/plain", content_length="99999999")
    assert answer.status == 415


MEBIBYTE = 1024 * 1024


@published
def test_content_length_over_the_limit_is_413_before_the_body(
    make: Callable[..., Service],
) -> None:
    service = make(max_upload_bytes=1000)
    caller = service.caller()
    whole = form(meta())
    at_limit = caller.upload(whole, content_length=str(1000 + MEBIBYTE))
    over = caller.upload(whole, content_length=str(1001 + MEBIBYTE))
    assert (at_limit.status, over.status) == (200, 413)
    assert over.text == "This is too large. At most 1,000 bytes are taken."
    assert over.headers["connection"] == "close"


@ours
def test_too_large_is_told_before_a_full_disk(make: Callable[..., Service]) -> None:
    caller = make(max_upload_bytes=1000, reserve_bytes=1 << 62).caller()
    assert caller.upload(b"", content_length=str(10 * MEBIBYTE)).status == 413


@published
@pytest.mark.parametrize("file_first", [False, True])
def test_a_file_over_the_limit_is_413_when_nothing_was_announced(
    make: Callable[..., Service], file_first: bool
) -> None:
    service = make(max_upload_bytes=len(WAV))
    caller = service.caller()
    headers = {"content_length": "", "transfer_encoding": "chunked"}
    fits = caller.upload(form(meta(), WAV, file_first=file_first), **headers)
    over = caller.upload(form(meta(), WAV + b"x", file_first=file_first), **headers)
    assert (fits.status, over.status) == (200, 413)
    assert (service.kept().rows, service.kept().staged) == (1, 0)


@ours
def test_a_form_that_is_endless_beside_its_file_is_413(make: Callable[..., Service]) -> None:
    caller = make(max_upload_bytes=1000).caller()
    headers = {"content_length": "", "transfer_encoding": "chunked"}
    chunks = [form(meta(), WAV), *([b" " * 64 * 1024] * 40)]
    answer = caller.upload(chunks, **headers)
    assert answer.status == 413
    endless = [b"--", *([b" " * 64 * 1024] * 40)]
    assert caller.upload(endless, **headers).status == 413


@ours
def test_a_disk_without_room_is_503(make: Callable[..., Service]) -> None:
    service = make(reserve_bytes=1 << 62)
    answer = service.caller().upload(form(meta()))
    assert (answer.status, answer.headers["retry-after"]) == (503, "60")
    assert answer.text == "The service cannot take this now. Retry in 60 s."
    assert service.kept().staged == 0


@ours
def test_what_was_announced_counts_for_the_reserve(
    make: Callable[..., Service], tmp_path: Path
) -> None:
    free = open_store((tmp_path / "storage").as_uri()).free_bytes()
    assert free is not None
    service = make(reserve_bytes=free // 2, max_upload_bytes=free)
    caller = service.caller()
    assert caller.upload(form(meta())).status == 200
    assert caller.upload(form(meta()), content_length=str(free * 3 // 4)).status == 503


@ours
def test_a_storage_that_fails_is_503_and_leaves_nothing(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()
    caller = service.caller()

    def broken(key: str) -> None:
        raise UnavailableError("the storage is broken")

    monkeypatch.setattr(service.store, "stage", broken)
    answer = caller.upload(form(meta()))
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert service.kept().rows == 0


@ours
def test_a_database_that_fails_is_503(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()
    caller = service.caller()
    assert caller.upload(form(meta())).status == 200

    def broken(_organization_id: object) -> None:
        raise UnavailableError("the database is broken")

    monkeypatch.setattr(service.database, "read", broken)
    answer = caller.upload(form(meta()), accept=PROBLEM)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "5"


@ours
def test_a_database_that_fails_at_the_commit_is_503(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()
    caller = service.caller()

    def broken(*_: object) -> None:
        raise UnavailableError("the database is broken")

    monkeypatch.setattr(service.database, "share", broken)
    answer = caller.upload(form(meta()))
    assert answer.status == 503
    assert (service.kept().rows, service.kept().staged) == (0, 0)


@ours
def test_an_upload_that_stands_still_is_given_up(make: Callable[..., Service]) -> None:
    service = make(idle_seconds=0.05)
    caller = service.caller()

    async def stalled() -> Answer:
        whole = form(meta())
        given = {"authorization": f"Bearer {caller.token}", "content_type": CONTENT_TYPE}
        return await exchange(
            service.app, "POST", "/Media/Upload", headers=given, chunks=[whole[:-20]], idle=True
        )

    answer = asyncio.run(stalled())
    assert answer.status == 408
    assert (service.kept().rows, service.kept().staged) == (0, 0)


@ours
def test_a_fault_of_ours_is_500_with_the_request_id(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()
    caller = service.caller()
    monkeypatch.setattr(service.store, "stage", lambda _key: 1 / 0)
    with structlog.testing.capture_logs() as told:
        answer = caller.upload(form(meta()), x_request_id="mine")
    assert [line["event"] for line in told] == ["request failed", "request"]
    assert (answer.status, answer.headers["x-request-id"]) == (500, "mine")
    assert answer.text == (
        "Something went wrong on our side. Retry, and tell the operator the X-Request-Id."
    )


@ours
@pytest.mark.parametrize(
    ("refused", "closed"),
    [(b"x" * 300_000, True), (FAULTY + b"\r\n", False)],
    ids=["early", "end"],
)
def test_an_early_refusal_closes_the_connection(
    caller: Caller, refused: bytes, closed: bool
) -> None:
    if closed:
        early = [FAULTY[:-40], refused]
        answer = caller.upload(early)
        assert answer.headers["connection"] == "close"
    else:
        assert "connection" not in caller.upload(form(meta())).headers


@ours
def test_when_the_rate_is_free_again_is_told_in_whole_seconds_and_not_too_early(
    make: Callable[..., Service],
) -> None:
    caller = make(rate=parse_rate("50/s")).caller()
    assert caller.upload(FAULTY).headers["ratelimit"] == '"client";r=49;t=1'


@ours
def test_what_is_plainly_no_media_is_refused_without_waiting_for_its_end(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earmark.web.connection.DRAIN_SECONDS", 0.01)
    service = make(idle_seconds=0.5)
    caller = service.caller()
    begun = form(meta(), b"\x7fELF" + bytes(300_000))[:-100_000]
    given = {"authorization": f"Bearer {caller.token}", "content_type": CONTENT_TYPE}
    answer = asyncio.run(
        exchange(service.app, "POST", "/Media/Upload", headers=given, chunks=[begun], idle=True)
    )
    assert answer.status == 400
    assert answer.text == "You must upload a file that holds audio or a chat archive."


@ours
def test_a_missing_grant_is_told_before_the_rate_and_costs_none_of_it(
    make: Callable[..., Service],
) -> None:
    reader = make(rate=parse_rate("1/h")).caller(grants=[Grant.READ])
    assert [reader.upload(form(meta())).status for _ in range(3)] == [403, 403, 403]
