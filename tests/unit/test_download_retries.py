"""Idempotency keys of uploads whose file is downloaded."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from contract.forms import WAV, body, file_part, meta, metadata_part, part
from contract.serving import Service
from contract.test_upload_precedence import TAKEN
from earmark.access.seal import Seal
from earmark.database import tables
from earmark.errors import Why
from earmark.fetch import FetchError
from earmark.intake import Downloading, OrganizationIntake
from earmark.intake import downloads as downloading_module
from earmark.intake.downloads import SEAL_PURPOSE
from unit.test_download_quotas import Store, record, run, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from contract.serving import Answer, Caller
    from earmark.database import Database
    from earmark.intake.keyed import KeyedUpload

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
PROBLEM = "application/problem+json"
NOW = "respond-async, wait=0"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def make(
    database: Database, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Service]]:
    """Makes services on one database and one store: processes, as far as keys can tell."""
    monkeypatch.setattr(downloading_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(downloading_module, "RETRY_PAUSES_SECONDS", ())
    made: list[Service] = []

    def new() -> Service:
        downloading = Downloading(store, Seal(b"k" * 32, SEAL_PURPOSE), 4)
        made.append(Service(database, tmp_path / "storage", downloading=downloading))
        return made[-1]

    yield new
    for service in made:
        service.close()


@pytest.fixture
def caller(make: Callable[..., Service]) -> Caller:
    return make().caller()


def form(metadata: dict[str, Any], path: str = "free-0", query: str = "") -> bytes:
    address = f"https://store.example/{path}{query}".encode()
    return body(metadata_part(metadata), part("signedUrl", address))


async def send(caller: Caller, sent: bytes, **headers: str) -> Answer:
    return await caller.uploading(sent, idempotency_key=KEY, **headers)


def demand_same(again: Answer, first: Answer) -> None:
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["earmark-receipt"] == first.headers["earmark-receipt"]


def test_a_retry_is_answered_as_the_first_and_downloads_nothing(
    caller: Caller, store: Store
) -> None:
    facts = meta()

    async def story() -> None:
        first = await send(caller, form(facts, query="?n=-0"))
        assert first.status == 200
        # Signed anew, and its time over: what is kept needs no address.
        expired = "?X-Amz-Date=20200101T000000Z&X-Amz-Expires=60"
        for query in ("?n=-1", expired, "#x"):
            demand_same(await send(caller, form(facts, query=query)), first)
        assert store.sent == 1
        told = await send(caller, form(facts), prefer=NOW)
        demand_same(told, first)
        without = await caller.uploading(form(facts))
        assert without.text == TAKEN

    run(caller.service, story)


@pytest.mark.parametrize(
    "other",
    [
        lambda facts: form({**facts, "Name": "Ann"}),
        lambda facts: form(facts, "free-1"),
        lambda facts: body(metadata_part(facts), file_part(WAV)),
    ],
    ids=["metadata", "address", "a file"],
)
def test_another_upload_with_the_key_is_422(caller: Caller, other: Any) -> None:
    facts = meta()

    async def story() -> None:
        assert (await send(caller, form(facts))).status == 200
        answer = await send(caller, other(facts), accept=PROBLEM)
        assert (answer.status, answer.json["code"]) == (422, "idempotency_key_reused")

    run(caller.service, story)


def test_while_the_first_request_waits_others_with_its_key_are_409(
    make: Callable[..., Service], store: Store
) -> None:
    service, other = make(), make()
    caller = service.caller()
    elsewhere = type(caller)(other, caller.principal, caller.token)
    sent = form(meta(), "held-0")

    async def story() -> None:
        first = asyncio.create_task(send(caller, sent))
        await until(lambda: bool(store.under_way))
        for one in (caller, elsewhere):
            answer = await send(one, sent)
            assert (answer.status, answer.headers["retry-after"]) == (409, "2")
        store.open.set()
        demand_same(await send_until_taken(elsewhere, sent), await first)

    run(service, story)


async def send_until_taken(caller: Caller, sent: bytes) -> Answer:
    answer = await send(caller, sent)
    while answer.status == 409:
        answer = await send(caller, sent)
    return answer


def test_a_retry_joins_the_download_that_is_under_way_and_may_promise_it(
    caller: Caller, store: Store
) -> None:
    facts = meta()
    again = body(  # the same, written differently
        metadata_part(json.dumps(facts, indent=2).encode()),
        part("signedUrl", b"https://store.example/held-0?anew"),
    )

    async def story() -> None:
        first = await send(caller, form(facts, "held-0"), prefer=NOW)
        assert first.status == 202
        second = await send(caller, again, prefer=NOW)
        assert second.headers["location"] == first.headers["location"]
        waiting = asyncio.create_task(send(caller, again))
        await until(lambda: bool(store.under_way))
        store.open.set()
        taken = await waiting
        assert taken.status == 200
        assert (await record(caller, first))["interaction_id"] == taken.json["id"]
        demand_same(await send(caller, again, prefer=NOW), taken)
        assert store.sent == 1

    run(caller.service, story)


def test_a_download_that_is_under_way_is_another_uploads_too(caller: Caller, store: Store) -> None:
    facts = meta()

    async def story() -> None:
        first = await send(caller, form(facts, "held-0"), prefer=NOW)
        assert first.status == 202
        answer = await send(caller, form({**facts, "Name": "Ann"}, "held-0"))
        assert answer.status == 422
        store.open.set()
        assert (await send(caller, form(facts, "held-0"))).status == 200

    run(caller.service, story)


def test_who_joins_a_download_without_a_key_has_the_key_become_it(
    caller: Caller, store: Store
) -> None:
    sent = form(meta(), "held-0")

    async def story() -> None:
        first = await caller.uploading(sent, prefer=NOW)
        second = await send(caller, sent, prefer=NOW)
        assert first.headers["location"] == second.headers["location"]
        store.open.set()
        taken = await send(caller, sent)
        demand_same(await send(caller, sent), taken)

    run(caller.service, story)


def test_a_download_that_failed_is_not_replayed(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = form(meta())
    download = Store.download

    async def fail(*_: Any, **__: Any) -> None:
        raise FetchError(Why.SIGNED_URL_FAILED, "status")

    async def story() -> None:
        monkeypatch.setattr(Store, "download", fail)
        for _ in range(2):
            assert (await send(caller, sent)).status == 400
        monkeypatch.setattr(Store, "download", download)
        first = await send(caller, sent)
        assert first.status == 200
        demand_same(await send(caller, sent), first)

    run(caller.service, story)


def test_what_was_downloaded_and_deleted_is_410(caller: Caller) -> None:
    sent = form(meta())

    async def story() -> Answer:
        return await send(caller, sent)

    first = run(caller.service, story)
    assert caller.send("DELETE", f"/v1/interactions/{first.json['id']}").status == 204
    answer = run(caller.service, story)
    assert answer.status == 410


def test_a_download_that_ends_while_a_retry_begins_is_told_and_not_begun_anew(
    caller: Caller, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry saw it under way; when it is about to join, it is done."""
    sent = form(meta(), "held-0")
    began = OrganizationIntake.download

    async def late(self: Any, *args: Any, keyed: KeyedUpload, **options: Any) -> Any:
        assert not keyed.is_first
        store.open.set()
        await until(lambda: kept(caller))
        return await began(self, *args, keyed=keyed, **options)

    async def story() -> None:
        first = await send(caller, sent, prefer=NOW)
        await until(lambda: bool(store.under_way))
        monkeypatch.setattr(OrganizationIntake, "download", late)
        for prefer in ("", NOW):
            answer = await send(caller, sent, prefer=prefer)
            assert answer.status == 200
        assert (await record(caller, first))["interaction_id"] == answer.json["id"]
        assert store.sent == 1

    run(caller.service, story)


def kept(caller: Caller) -> bool:
    return caller.service.kept().rows == 1


def test_two_keys_of_one_download_are_both_good(caller: Caller, store: Store) -> None:
    sent = form(meta(), "held-0")

    async def story() -> None:
        assert (await send(caller, sent, prefer=NOW)).status == 202
        other = await caller.uploading(sent, idempotency_key="another", prefer=NOW)
        assert other.status == 202
        store.open.set()
        first = await send(caller, sent)
        demand_same(await caller.uploading(sent, idempotency_key="another"), first)

    run(caller.service, story)
    with caller.service.database.read(None) as scope:
        assert len(scope.rows(sa.select(tables.idempotency_key))) == 2
