"""Downloads count like uploads, and those of one organization leave room for others'.

The store is a stand-in: what it sends, and when, is what the tests are about.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from typing_extensions import override

from contract.forms import WAV, body, meta, metadata_part, part
from contract.serving import Service, exchange
from earmark.access.seal import Seal
from earmark.egress import Walls
from earmark.fetch import Fetcher, Limits
from earmark.intake import Downloading
from earmark.intake import downloads as downloading_module
from earmark.intake import reservations as intake_reservations
from earmark.intake.downloads import SEAL_PURPOSE
from earmark.model import MediaType, Quota, Submission, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from contract.serving import Answer, Caller
    from earmark.database import Database
    from earmark.egress import Destination

ASYNC = {"prefer": "respond-async"}
SUBMISSION = Submission(file_name="x.wav", media_type=MediaType.AUDIO, metadata_sent="{}")


class Store(Fetcher):
    """Holds each download until it is let go; sends as many bytes as its host's name says."""

    def __init__(self) -> None:
        super().__init__(Walls(), Limits(1 << 40))
        self.under_way: list[str] = []
        self.sent = 0
        self.open = asyncio.Event()

    @override
    async def download(
        self,
        destination: Destination,
        sink: Callable[[bytes], Awaitable[None]],
        *,
        sized: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        path = destination.target.decode()
        self.under_way.append(path)
        if path.startswith("/held"):
            await self.open.wait()
        if path.startswith("/sized") and sized is not None:
            await sized(len(WAV) + 1000 * int(path.rpartition("-")[2]))
        self.sent += 1
        await sink(WAV)
        for _ in range(int(path.rpartition("-")[2])):
            await sink(bytes(1000))
        self.under_way.remove(path)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def make(
    database: Database, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Service]]:
    monkeypatch.setattr(downloading_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(intake_reservations, "STEP_BYTES", 1000)
    made: list[Service] = []

    def new(*, at_once: int = 4, **options: Any) -> Service:
        downloading = Downloading(store, Seal(b"k" * 32, SEAL_PURPOSE), at_once)
        folder = tmp_path / "storage"
        made.append(Service(database, folder, downloading=downloading, **options))
        return made[-1]

    yield new
    for service in made:
        service.close()


def form(path: str) -> bytes:
    address = f"https://store.example/{path}".encode()
    return body(metadata_part(meta()), part("signedUrl", address))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - may be another task's
            await asyncio.sleep(0.01)


async def record(caller: Caller, answer: Answer) -> Any:
    headers = {"authorization": f"Bearer {caller.token}"}
    while True:
        found = await exchange(
            caller.service.app, "GET", answer.headers["location"], headers=headers
        )
        if found.json["status"] != "downloading":
            return found.json
        await asyncio.sleep(0.01)


def usage(caller: Caller) -> Usage:
    return caller.service.access.usage(caller.principal.organization_id)


def run(service: Service, story: Callable[[], Any]) -> Any:
    async def tended() -> Any:
        async with service.intake.tended():
            return await story()

    return service.runner.run(tended())


def test_a_download_that_grows_over_the_quota_fails_and_keeps_nothing(
    make: Callable[..., Service],
) -> None:
    service = make(quota=Quota(stored_bytes=5000))
    caller = service.caller()

    async def story() -> tuple[Answer, Any, Answer]:
        refused = await caller.uploading(form("free-5"))
        later = await caller.uploading(
            form("free-5"),
            **ASYNC,
        )
        return refused, await record(caller, later), await caller.uploading(form("free-4"))

    refused, failed, taken = run(service, story)
    assert refused.status == 507
    assert refused.text.startswith("Your organization has no room left for this upload.")
    assert failed["error"]["code"] == "storage_quota_reached"
    assert taken.status == 200
    assert usage(caller) == Usage(len(WAV) + 4000, 0, 0)
    assert service.kept().staged == 0


def test_a_download_that_says_how_large_it_is_fails_before_its_first_byte(
    make: Callable[..., Service], store: Store
) -> None:
    service = make(quota=Quota(stored_bytes=5000))
    caller = service.caller()
    assert caller.upload(form("sized-5")).status == 507
    assert store.sent == 0
    assert caller.upload(form("sized-4")).status == 200


def test_a_request_for_a_download_is_refused_at_once_if_there_is_no_room_at_all(
    make: Callable[..., Service], store: Store
) -> None:
    caller = make(quota=Quota(stored_bytes=len(WAV))).caller()
    file = part("file", WAV, file_name="a.wav")
    assert caller.upload(body(metadata_part(meta()), file)).status == 200
    assert caller.upload(form("held-0"), **ASYNC).status == 507
    assert not store.under_way


def test_downloads_count_among_the_uploads_at_once_and_wait_for_their_place(
    make: Callable[..., Service], store: Store
) -> None:
    service = make(quota=Quota(uploads_at_once=1))
    caller = service.caller()

    async def story() -> None:
        sent = await caller.uploading(form("held-0"), prefer="respond-async, wait=0")
        await until(lambda: bool(store.under_way))
        refused = await caller.uploading(form("free-0"))
        assert (refused.status, refused.text[:34]) == (429, "Your organization has as many uplo")
        store.open.set()
        assert (await record(caller, sent))["status"] == "received"
        await until(lambda: usage(caller).uploads == 0)  # its place is given back after its end
        assert (await caller.uploading(form("free-0"))).status == 200

    run(service, story)
    assert usage(caller).uploads == 0


def test_a_download_without_a_place_waits_and_does_not_hold_up_others(
    make: Callable[..., Service], store: Store
) -> None:
    service = make(at_once=1, quota=Quota(uploads_at_once=1))
    caller, other = service.caller(), service.caller("Second")
    intake = service.intake.for_(caller.principal)

    async def story() -> None:
        async with await intake.admit(None):
            address = "https://store.example/free-1"
            held = asyncio.create_task(intake.download(SUBMISSION, address))
            assert (await other.uploading(form("free-0"))).status == 200
            await asyncio.sleep(0.1)
            assert not held.done()
        await held

    run(service, story)


def test_a_download_that_waits_for_a_place_has_no_turn_meanwhile(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading_module, "LOOK_SECONDS", 3600)
    service = make(at_once=1, quota=Quota(uploads_at_once=1))
    caller, other = service.caller(), service.caller("Second")
    intake, downloads = service.intake.for_(caller.principal), service.intake._downloads

    async def story() -> None:
        async with await intake.admit(None), asyncio.timeout(20):
            waiting = asyncio.create_task(
                intake.download(SUBMISSION, "https://store.example/free-1")
            )
            await until(lambda: bool(downloads._begun))
            await until(lambda: downloads._turns.free == 1)
            assert (await other.uploading(form("free-0"))).status == 200
            waiting.cancel()

    run(service, story)


@pytest.mark.parametrize("headers", [{}, ASYNC], ids=["waiting", "promised"])
def test_many_downloads_of_one_organization_do_not_take_the_places_of_all(
    make: Callable[..., Service], store: Store, headers: dict[str, str]
) -> None:
    service = make(at_once=4)
    caller, other = service.caller(), service.caller("Second")

    async def story() -> None:
        many = [
            asyncio.create_task(caller.uploading(form(f"held/{number}-0"), **headers))
            for number in range(9)
        ]
        await until(lambda: len(store.under_way) == 3)
        await asyncio.sleep(0.1)
        assert len(store.under_way) == 3
        begun = service.intake._downloads._tasks
        assert len(begun) == (3 if headers else 9), "others are left to other processes"
        answer = await other.uploading(form("free-0"), **headers)
        if headers:
            assert (await record(other, answer))["status"] == "received"
        else:
            assert answer.status == 200
        store.open.set()
        for answer in await asyncio.gather(*many):
            assert answer.status == (202 if headers else 200)
        await until(lambda: not service.intake._downloads._tasks and not store.under_way)

    run(service, story)
    assert not service.intake._downloads._begun
