"""What an upload over a quota of its organization gets, and that nothing of it stays taken."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from contract.forms import WAV, body, file_part, meta, metadata_part
from contract.serving import Service
from earmark.access import parse_rate
from earmark.database.reservations import Reservations
from earmark.intake import reservations as intake_reservations
from earmark.model import Quota, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from contract.serving import Answer, Caller
    from earmark.database import Database

ours = pytest.mark.origin("ours")

FULL = "Your organization has no room left for this upload."
MEBIBYTE = 1024 * 1024


@pytest.fixture
def make(database: Database, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes services on one database and one store: processes, as far as quotas can tell."""
    made: list[Service] = []

    def new(**options: Any) -> Service:
        made.append(Service(database, tmp_path / "storage", **options))
        return made[-1]

    yield new
    for service in made:
        service.close()


def form(content: bytes = WAV, **metadata: Any) -> bytes:
    return body(metadata_part(meta(**metadata)), file_part(content))


def usage(caller: Caller) -> Usage:
    return caller.service.access.usage(caller.principal.organization_id)


def sized(size_bytes: int) -> bytes:
    return WAV + bytes(size_bytes - len(WAV))


def delete(caller: Caller, answer: Answer) -> None:
    assert caller.send("DELETE", f"/v1/interactions/{answer.json['id']}").status == 204


# Uploads per minute


@ours
def test_uploads_of_an_organization_have_a_rate_beside_that_of_the_client(
    make: Callable[..., Service],
) -> None:
    service = make(rate=parse_rate("100/s"), quota=Quota(uploads_per_minute=2))
    one, two, other = service.caller(), service.caller(), service.caller("Second")
    first, second, third = one.upload(form()), two.upload(form()), one.upload(form())
    assert [first.status, second.status, third.status] == [200, 200, 429]
    assert first.headers["ratelimit-policy"] == '"client";q=100;w=1, "uploads";q=2;w=60'
    assert re.fullmatch(r'"client";r=99;t=1, "uploads";r=1;t=\d+', first.headers["ratelimit"])
    assert re.fullmatch(r'"client";r=\d+;t=1, "uploads";r=0;t=\d+', third.headers["ratelimit"])
    assert 25 <= int(third.headers["retry-after"]) <= 30
    cause = "Your organization begins more uploads in a minute than it may."
    assert third.text == f"{cause} Retry in {third.headers['retry-after']} s."
    assert other.upload(form()).status == 200
    assert one.send("GET", "/v1/interactions").status == 200, "only uploads are counted"


@ours
def test_the_rate_of_uploads_holds_for_all_processes_and_is_told_before_the_form(
    make: Callable[..., Service],
) -> None:
    quota = Quota(uploads_per_minute=1)
    one, other = make(quota=quota).caller(), make(quota=quota).caller()
    assert one.upload(form()).status == 200
    refused = other.upload(b"", content_type="text/plain", accept="application/problem+json")
    assert (refused.status, refused.json["code"]) == (429, "upload_rate_limited")
    assert "client" not in refused.headers["ratelimit-policy"]


# Uploads at once


@ours
def test_one_upload_too_many_at_once_is_429_and_closes_the_connection(
    make: Callable[..., Service],
) -> None:
    service = make(quota=Quota(uploads_at_once=1))
    caller, other = service.caller(), service.caller("Second")
    intake = service.intake.for_(service.caller().principal)

    async def story() -> tuple[Answer, Answer]:
        async with await intake.admit(None):
            return await caller.uploading(form()), await other.uploading(form())

    refused, taken = service.runner.run(story())
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    cause = "Your organization has as many uploads on their way as it may at once."
    assert refused.text == f"{cause} Retry in 1 s."
    assert refused.headers["connection"] == "close"
    assert taken.status == 200
    assert caller.upload(form()).status == 200


@ours
@pytest.mark.parametrize(
    ("sent", "options", "status"),
    [
        pytest.param(form(), {}, 200, id="taken"),
        pytest.param(form(UploadType="None"), {}, 400, id="refused"),
        pytest.param(form(b"<?xml version='1.0'?><Error/>" + b" " * 1000), {}, 400, id="no media"),
        pytest.param(form(b""), {}, 400, id="empty"),
        pytest.param(form()[:-30], {}, 400, id="malformed"),
        pytest.param(form()[:-30], {"gone": True}, 499, id="gone"),
        pytest.param(form(), {"content_type": "text/plain"}, 415, id="no form"),
        pytest.param(form(), {"content_length": str(1 << 40)}, 413, id="too large"),
        pytest.param(form(bytes(70 * MEBIBYTE)), {"content_length": ""}, 413, id="grew too large"),
    ],
)
def test_an_upload_gives_its_place_and_its_room_back_however_it_ends(
    make: Callable[..., Service], sent: bytes, options: dict[str, Any], status: int
) -> None:
    caller = make(quota=Quota(stored_bytes=1 << 40, uploads_at_once=1)).caller()
    assert caller.upload(sent, **options).status == status
    kept = len(WAV) if status == 200 else 0
    assert usage(caller) == Usage(kept, 0, 0)
    assert caller.upload(form()).status == 200


@ours
def test_an_upload_that_the_storage_cannot_take_gives_its_place_back(
    make: Callable[..., Service],
) -> None:
    quota = Quota(uploads_at_once=1)
    full, caller = make(quota=quota, reserve_bytes=1 << 60).caller(), make(quota=quota).caller()
    assert [full.upload(form()).status, full.upload(form()).status] == [503, 503]
    assert caller.upload(form()).status == 200


# Bytes stored


@ours
def test_what_has_no_room_is_507_until_something_is_deleted(make: Callable[..., Service]) -> None:
    service = make(quota=Quota(stored_bytes=2500))
    caller, other = service.caller(), service.caller("Second")
    first, second = caller.upload(form(sized(1000))), caller.upload(form(sized(1000)))
    refused = caller.upload(form(sized(501)))
    assert [first.status, second.status, refused.status] == [200, 200, 507]
    assert refused.text == f"{FULL} Delete interactions, or ask the operator for more."
    assert other.upload(form(sized(2500))).status == 200
    assert caller.upload(form(sized(500))).status == 200, "it fits to the last byte"
    delete(caller, first)
    assert usage(caller) == Usage(1500, 0, 0)
    assert caller.upload(form(sized(1000))).status == 200


@ours
@pytest.mark.parametrize(
    ("accept", "told"),
    [
        ("text/plain", lambda answer: answer.text),
        ("application/json", lambda answer: answer.json),
        ("application/problem+json", lambda answer: answer.json["detail"]),
    ],
)
def test_a_full_organization_is_told_in_each_form(
    make: Callable[..., Service], accept: str, told: Callable[[Answer], str]
) -> None:
    caller = make(quota=Quota(stored_bytes=1)).caller()
    answer = caller.upload(form(), accept=accept)
    assert answer.status == 507
    assert told(answer).startswith(FULL)
    if accept == "application/problem+json":
        assert json.loads(answer.body)["code"] == "storage_quota_reached"


@ours
def test_what_cannot_fit_is_refused_before_its_body_and_closes_the_connection(
    make: Callable[..., Service],
) -> None:
    service = make(quota=Quota(stored_bytes=1000))
    caller = service.caller()
    length = str(MEBIBYTE + 1001)
    refused = caller.upload(b"", content_length=length, expect="100-continue")
    assert refused.status == 507
    assert refused.headers["connection"] == "close"
    assert service.kept().staged == 0
    fits = caller.upload(form(sized(1000)), content_length=str(MEBIBYTE + 1000))
    assert fits.status == 200
    full = caller.upload(b"", content_length="1000", expect="100-continue")
    assert full.status == 507, "a full organization has no room for any upload"


@ours
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
def test_what_grows_over_the_quota_is_refused_while_it_comes(
    make: Callable[..., Service], announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_reservations, "STEP_BYTES", 1000)
    service = make(quota=Quota(stored_bytes=10_000))
    caller = service.caller()
    length = {} if announced else {"content_length": ""}
    sent = form(sized(10_001))
    chunks = [sent[start : start + 500] for start in range(0, len(sent), 500)]
    refused = caller.upload(chunks, **length)
    assert refused.status == 507
    assert service.kept() == type(service.kept())(0, 0, 0)
    assert usage(caller) == Usage(0, 0, 0)
    sent = form(sized(10_000))
    chunks = [sent[start : start + 500] for start in range(0, len(sent), 500)]
    assert caller.upload(chunks, **length).status == 200


@ours
def test_uploads_that_come_at_once_together_take_no_more_than_there_is(
    make: Callable[..., Service],
) -> None:

    quota = Quota(stored_bytes=510_000)  # on their way, the forms around the files count too
    processes = [make(quota=quota) for _ in range(2)]
    caller = processes[0].caller()
    other = type(caller)(processes[1], caller.principal, caller.token)

    async def story() -> list[int]:
        sent = [one.uploading(form(sized(100_000))) for one in (caller, other) for _ in range(6)]
        return [answer.status for answer in await asyncio.gather(*sent)]

    statuses = processes[0].runner.run(story())
    assert sorted(statuses) == [200] * 5 + [507] * 7
    assert usage(caller) == Usage(500_000, 0, 0)


# Whose quota


@ours
def test_what_is_said_of_an_organization_wins_over_the_settings_on_every_process(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earmark.access.revision.POLL_SECONDS", 0)
    service, other = make(quota=Quota(stored_bytes=1)), make(quota=Quota(stored_bytes=1))
    caller = service.caller()
    assert caller.upload(form()).status == 507
    other.access.set_quota("First", stored_bytes=0)
    assert caller.upload(form()).status == 200
    other.access.set_quota("First", stored_bytes=None)
    assert caller.upload(form()).status == 507


@ours
def test_without_a_quota_nothing_is_reserved(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = make().caller()
    monkeypatch.setattr(
        "earmark.database.reservations.Reservations.reserve", lambda *_, **__: 1 / 0
    )
    answer = caller.upload(form())
    assert answer.status == 200
    assert "ratelimit" not in answer.headers
    assert usage(caller) == Usage(len(WAV), 0, 0)


@ours
@pytest.mark.parametrize(
    ("quota", "status"),
    [
        pytest.param(Quota(stored_bytes=1), 507, id="bytes"),
        pytest.param(Quota(uploads_at_once=1), 429, id="at once"),
    ],
)
def test_a_flood_of_refused_uploads_does_not_ask_the_database(
    make: Callable[..., Service],
    quota: Quota,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake_reservations, "REFUSED_SECONDS", 60)
    service = make(quota=quota)
    caller, other = service.caller(), service.caller("Second")
    length = str(2 * MEBIBYTE)
    asked: list[object] = []
    reserve = Reservations.reserve

    def watched(self: Reservations, *args: Any, **facts: Any) -> int:
        asked.append(args)
        return reserve(self, *args, **facts)

    monkeypatch.setattr(Reservations, "reserve", watched)

    async def story() -> None:
        upload = {"content_length": length, "expect": "100-continue"}
        async with AsyncExitStack() as stack:
            if quota.uploads_at_once:
                intake = service.intake.for_(caller.principal)
                await stack.enter_async_context(await intake.admit(None))
            asked.clear()
            for _ in range(5):
                assert (await caller.uploading(b"", **upload)).status == status
            assert len(asked) == 1
            assert (await other.uploading(form(b""))).status in {400, 507}
            assert len(asked) == 2
            monkeypatch.setattr(intake_reservations, "REFUSED_SECONDS", 0)
        service.intake._reservations._refusals.forget(caller.principal.organization_id)
        await asyncio.gather(*(caller.uploading(b"", **upload) for _ in range(3)))
        assert len(asked) == 5, "soon it is asked again"

    service.runner.run(story())


@ours
def test_what_is_refused_for_its_size_says_nothing_of_smaller_uploads(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_reservations, "REFUSED_SECONDS", 60)
    caller = make(quota=Quota(stored_bytes=5000)).caller()
    large = {"content_length": str(3 * MEBIBYTE), "expect": "100-continue"}
    assert [caller.upload(b"", **large).status for _ in range(2)] == [507, 507]
    assert caller.upload(form()).status == 200
