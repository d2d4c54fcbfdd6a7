"""Uploads by signedUrl, from the form to what is kept: real downloads, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from structlog.testing import CapturingLogger

from contract.forms import WAV, body, file_part, meta, metadata_part, part
from contract.serving import Service
from earmark import telemetry
from earmark.access.seal import Seal
from earmark.database import downloads, submissions, tables
from earmark.errors import UnavailableError
from earmark.fetch import Fetcher, Limits
from earmark.intake import Downloading
from earmark.intake import downloads as downloading_module
from earmark.intake.downloads import SEAL_PURPOSE
from earmark.model import MediaType, Submission, new_id, now
from earmark.storage import open_store
from walled.world import CONTENT, SIZE_LIMIT, STORE_NAME

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from contract.serving import Answer, Caller
    from earmark.database import Database
    from walled.world import World

ASYNC = {"prefer": "respond-async"}
SECRET = "Signature=f1d2d2f924e986ac86fdf7b36c94bcdf32beec15"
HOLD_SECONDS = 1.0

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""What does not depend on the database."""


def at(path: str, host: str = STORE_NAME) -> str:
    return f"https://{host}/{path}"


def gate(name: str) -> str:
    return at(f"gate.wav?name={name}&{SECRET}")


def form(address: str, *more: bytes, **metadata: Any) -> bytes:
    return body(metadata_part(meta(**metadata)), part("signedUrl", address.encode()), *more)


class Made:
    """Services on one database and one store: processes, as far as downloads can tell."""

    def __init__(self, world: World, database: Database, folder: Path) -> None:
        self._world = world
        self._database = database
        self._folder = folder
        self._all: list[Service] = []

    def __call__(self, *, at_once: int = 4, key: bytes = b"k" * 32, **options: Any) -> Service:
        fetcher = Fetcher(self._world.walls(), Limits(SIZE_LIMIT, seconds=20))
        downloading = Downloading(fetcher, Seal(key, SEAL_PURPOSE), at_once, HOLD_SECONDS)
        made = Service(self._database, self._folder, downloading=downloading, **options)
        self._all.append(made)
        return made

    def close(self) -> None:
        for one in self._all:
            with contextlib.suppress(RuntimeError):
                one.close()


@pytest.fixture
def make(
    world: World, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Made]:
    monkeypatch.setattr(downloading_module, "RETRY_PAUSES_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(downloading_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(downloading_module, "KEEP_SECONDS", 0.2)
    made = Made(world, database, tmp_path / "storage")
    yield made
    made.close()


@pytest.fixture
def service(make: Made) -> Service:
    return make()


@pytest.fixture
def caller(service: Service) -> Caller:
    return service.caller()


@pytest.fixture
def name() -> str:
    return secrets.token_hex(4)


def problem(answer: Answer) -> Any:
    return json.loads(answer.body)


async def until(holds: Callable[[], Any]) -> Any:
    async with asyncio.timeout(20):
        while not (found := holds()):  # noqa: ASYNC110 - may be another thread's
            await asyncio.sleep(0.02)
        return found


async def ended(caller: Caller, location: str) -> Any:
    """The download's record once it has ended."""
    while True:
        answer = await getting(caller, location)
        assert answer.status == 200, answer.text
        if answer.json["status"] != "downloading":
            return answer.json
        await asyncio.sleep(0.02)


async def getting(caller: Caller, path: str) -> Answer:
    from contract.serving import exchange

    headers = {"authorization": f"Bearer {caller.token}"}
    return await exchange(caller.service.app, "GET", path, headers=headers)


def rows(database: Database) -> list[Any]:
    with database.read(None) as scope:
        return list(scope.rows(sa.select(tables.download).order_by(tables.download.c.id)))


def tended(*services: Service) -> contextlib.AbstractAsyncContextManager[None]:
    @contextlib.asynccontextmanager
    async def all_of_them() -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for one in services:
                await stack.enter_async_context(one.intake.tended())
            yield

    return all_of_them()


# The answer.


def test_the_file_is_downloaded_and_the_answer_is_that_of_an_upload(
    world: World, caller: Caller, database: Database
):
    before = world.listeners.total
    metadata = meta(FileName="2026/a.wav", ClientCallId="c-7")
    address = at(f"file.wav?{SECRET}")
    answer = caller.upload(body(metadata_part(metadata), part("signedUrl", address.encode())))
    assert answer.status == 200, answer.text
    kept = caller.interaction(answer)
    assert answer.json == {"id": str(kept.id), "fileName": "2026/a.wav", "fileSizeKb": 79}
    assert (kept.client_call_id, kept.metadata_sent) == ("c-7", json.dumps(metadata))
    media = caller.service.interactions.for_(caller.principal).media(kept.id)
    assert b"".join(media.read()) == CONTENT
    assert answer.headers["repr-digest"].startswith("sha-256=:")
    assert world.listeners.total - before == 1
    kept_now = caller.service.kept()
    assert (kept_now.rows, kept_now.objects, kept_now.staged) == (1, 1, 0)


@on_sqlite
def test_parts_come_in_any_order_and_a_file_part_is_not_used(world: World, caller: Caller):
    address = part("signedUrl", at("file.wav").encode())
    orders = [
        lambda m: (address, metadata_part(m)),
        lambda m: (address, metadata_part(m), file_part(WAV)),
        lambda m: (file_part(WAV), address, metadata_part(m)),
        lambda m: (metadata_part(m), file_part(WAV), address),
        lambda m: (address, file_part(b"", "x.exe"), metadata_part(m)),
    ]
    for order in orders:
        answer = caller.upload(body(*order(meta())))
        assert answer.status == 200, answer.text
        kept = caller.interaction(answer)
        assert kept.size_bytes == len(CONTENT)
    assert caller.service.kept().objects == len(orders)
    assert caller.service.kept().staged == 0


@on_sqlite
@pytest.mark.parametrize(
    "path", ["file", "file.bin", "file?name=a.mp3", "file/a.mp3/x", "", "a.WAV"]
)
def test_another_extension_of_the_path_is_not_compared(caller: Caller, path: str):
    assert caller.upload(form(at(path))).status == 200


@on_sqlite
@pytest.mark.parametrize("path", ["a.mp3", "x/a.MP3?b=c.wav", "a%2Emp3", "a.zip#x"])
def test_an_extension_of_the_eight_must_be_that_of_the_name(
    world: World, caller: Caller, path: str
):
    before = world.listeners.total
    answer = caller.upload(form(at(path)))
    told = "File extension in metadata file name and upload file must match!"
    assert (answer.status, answer.text) == (400, told)
    assert world.listeners.total == before


def test_a_taken_name_is_told_before_anything_is_dialled(world: World, caller: Caller):
    first = caller.upload(form(at("file.wav"), FileName="taken.wav"))
    before = world.listeners.total
    for address in (at("file.wav"), "https://10.0.0.5/", "nonsense"):
        answer = caller.upload(form(address, FileName="taken.wav"))
        assert answer.text == "An interaction with this file name already exists."
        assert answer.headers["location"] == f"/v1/interactions/{first.json['id']}"
    assert world.listeners.total == before


PAST = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y%m%dT%H%M%SZ")
SENTENCES = {
    "nonsense": "Invalid signed url. You must upload a valid https signed url.",
    "http://store.example.test/file.wav": (
        "Invalid signed url. You must upload a valid https signed url."
    ),
    at(f"file.wav?X-Amz-Date={PAST}&X-Amz-Expires=60"): (
        "The signed url has expired. You must upload a signed url that is still valid."
    ),
    "https://10.0.0.5/file.wav": "Downloading from this signed url is not allowed.",
    "https://nowhere.example.test/a.wav": "Downloading from this signed url is not allowed.",
    at("status/403/x"): "Unable to download the file from the signed url.",
    at("endless"): "The file at the signed url is too large.",
    at("content?name=empty"): "You must upload a file that is not empty.",
    at("content?name=error page"): "Invalid signed url. You must upload a valid https signed url.",
    at("content?name=xml"): "You must upload a file that holds audio or a chat archive.",
    at("content?name=program"): "You must upload a file that holds audio or a chat archive.",
    at("content?name=zip"): "You must upload a file that holds audio or a chat archive.",
}


@on_sqlite
@pytest.mark.parametrize("address", SENTENCES)
def test_a_refusal_is_a_sentence_and_leaves_nothing(world: World, caller: Caller, address: str):
    world.contents |= {
        "empty": b"",
        "xml": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>" * 9,
        "program": b"\x7fELF" + b"\0" * 2000,
        "zip": b"PK\x03\x04" + b"\0" * 2000,
    }
    answer = caller.upload(form(address))
    assert (answer.status, answer.text) == (400, SENTENCES[address])
    assert caller.service.kept().objects == caller.service.kept().staged == 0


@on_sqlite
def test_what_is_plainly_no_media_is_not_downloaded_to_its_end(
    world: World, caller: Caller, name: str
):
    world.contents["page"] = b"<?xml version='1.0'?><Error>" + b" " * 20_000
    answer = caller.upload(form(at(f"gate?name={name}&what=page")))  # whose gate stays shut
    assert answer.text == "You must upload a file that holds audio or a chat archive."


@on_sqlite
def test_a_failure_that_may_pass_is_tried_again(world: World, caller: Caller, name: str):
    assert caller.upload(form(at(f"flaky/{name}.wav?times=2"))).status == 200
    assert world.failures[f"/flaky/{name}.wav"] == 3
    refused = caller.upload(
        form(at(f"flaky/{name}x.wav?times=3")), accept="application/problem+json"
    )
    assert problem(refused)["code"] == "signed_url_failed"
    assert problem(refused)["faults"][0]["field"] == "signedUrl"
    assert world.failures[f"/flaky/{name}x.wav"] == 3


@on_sqlite
def test_a_failure_that_will_not_pass_is_not_tried_again(world: World, caller: Caller):
    before = world.listeners.total
    caller.upload(form(at("status/403/x")))
    assert world.listeners.total == before + 1


@on_sqlite
def test_downloads_that_are_switched_off_are_refused(database: Database, tmp_path: Path):
    service = Service(database, tmp_path / "off")
    answer = service.caller().upload(form("https://10.0.0.5/"))
    told = "Uploading by signed url is not available here. You must upload the file itself."
    assert (answer.status, answer.text) == (400, told)
    service.runner.run(_tend_for_a_moment(service))
    service.close()


async def _tend_for_a_moment(service: Service) -> None:
    async with tended(service):
        await asyncio.sleep(0.01)


# Who waits, and who does not.


def test_a_client_that_goes_away_does_not_stop_the_download(
    world: World, service: Service, caller: Caller, name: str
):
    async def story() -> None:
        request = asyncio.create_task(caller.uploading(form(gate(name), FileName="lost.wav")))
        await until(lambda: name in world.waiting)
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await request
        world.gates.add(name)
        await until(lambda: service.kept().rows)
        answer = await caller.uploading(form(gate(name), FileName="lost.wav"))
        assert answer.text == "An interaction with this file name already exists."

    service.runner.run(story())
    assert service.kept().objects == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_request_joins_the_first(world: World, make: Made, name: str, processes: int):
    services = [make() for _ in range(processes)]
    callers = [services[0].caller(), services[-1].caller()]
    before = world.listeners.total

    async def story() -> list[Answer]:
        metadata = metadata_part(meta(FileName="joined.wav"))
        forms = [
            body(metadata, part("signedUrl", f"{gate(name)}&X-Amz-Signature={n}".encode()))
            for n in range(2)
        ]
        first = asyncio.create_task(callers[0].uploading(forms[0]))
        await until(lambda: name in world.waiting)
        second = asyncio.create_task(callers[1].uploading(forms[1]))
        await asyncio.sleep(0.2)
        assert not first.done()
        assert not second.done()
        world.gates.add(name)
        return [await first, await second]

    one, other = services[0].runner.run(story())
    assert one.status == other.status == 200
    assert one.json == other.json
    assert world.listeners.total == before + 1


def test_a_second_request_with_other_content_waits_and_finds_the_name_taken(
    world: World, service: Service, caller: Caller, name: str
):
    async def story() -> list[Answer]:
        first = asyncio.create_task(caller.uploading(form(gate(name), FileName="same.wav")))
        await until(lambda: name in world.waiting)
        other = form(at("file.wav"), FileName="same.wav", ClientCallId="other")
        second = asyncio.create_task(caller.uploading(other))
        await asyncio.sleep(0.2)
        assert not second.done()
        world.gates.add(name)
        return [await first, await second]

    first, second = service.runner.run(story())
    assert first.status == 200
    assert second.text == "An interaction with this file name already exists."
    assert second.headers["location"] == f"/v1/interactions/{first.json['id']}"


def test_a_second_request_with_other_content_begins_when_the_first_has_failed(
    world: World, service: Service, caller: Caller, name: str
):
    async def story() -> list[Answer]:
        first = asyncio.create_task(caller.uploading(form(gate(name), FileName="same.wav")))
        await until(lambda: name in world.waiting)
        other = form(at("file.wav"), FileName="same.wav", ClientCallId="other")
        second = asyncio.create_task(caller.uploading(other))
        await asyncio.sleep(0.2)
        abandon(service)
        with service.database.write(None) as scope:
            downloads.leave(scope, service.intake._downloads._holder, at=now())
        return [await first, await second]

    first, second = service.runner.run(story())
    told = "The download from the signed url was interrupted. Please upload it again."
    assert first.text == told
    assert second.status == 200


def test_the_name_may_be_taken_by_an_upload_meanwhile(
    world: World, service: Service, caller: Caller, name: str
):
    async def story() -> Answer:
        slow = asyncio.create_task(caller.uploading(form(gate(name), FileName="raced.wav")))
        await until(lambda: name in world.waiting)
        whole = body(metadata_part(meta(FileName="raced.wav")), file_part(WAV))
        quick = await caller.uploading(whole)
        assert quick.status == 200
        world.gates.add(name)
        return await slow

    answer = service.runner.run(story())
    assert answer.text == "An interaction with this file name already exists."
    assert "location" in answer.headers
    assert service.kept().objects == 1


@on_sqlite
def test_no_more_run_at_once_than_are_wanted(world: World, make: Made, name: str):
    service = make(at_once=2)
    caller = service.caller()

    async def story() -> None:
        names = [f"{name}{number}" for number in range(4)]
        requests = [asyncio.create_task(caller.uploading(form(gate(one)))) for one in names]
        await until(lambda: len(world.waiting & set(names)) == 2)
        await asyncio.sleep(0.3)
        assert len(world.waiting & set(names)) == 2
        world.gates.update(names)
        for request in requests:
            assert (await request).status == 200

    service.runner.run(story())


# What is promised.


def test_a_caller_may_prefer_not_to_wait(
    world: World, service: Service, caller: Caller, name: str, database: Database
):
    async def story() -> None:
        async with tended(service):
            answer = await caller.uploading(form(gate(name), FileName="later.wav"), **ASYNC)
            assert (answer.status, answer.body) == (202, b"")
            assert answer.headers["preference-applied"] == "respond-async"
            location = answer.headers["location"]
            now_at = await getting(caller, location)
            assert now_at.json["status"] == "downloading"
            assert now_at.headers["retry-after"] == "2"
            (row,) = rows(database)
            assert row.sealed_address
            assert SECRET.encode() not in row.sealed_address
            again = await caller.uploading(form(gate(name), FileName="later.wav"), **ASYNC)
            assert again.status == 202
            world.gates.add(name)
            record = await ended(caller, location)
            assert record["status"] == "received"
            assert record["file_name"] == "later.wav"
            assert record["error"] is None
            final = await getting(caller, location)
            assert final.headers["location"] == f"/v1/interactions/{record['interaction_id']}"

    service.runner.run(story())
    for row in rows(database):
        assert (row.sealed_address, row.submission, row.fingerprint, row.holder) == (None,) * 4


@on_sqlite
def test_a_promise_is_the_answer_however_soon_the_download_ends(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    take_up = downloading_module.Downloads._take_up

    async def to_the_end(self: downloading_module.Downloads) -> None:
        await take_up(self)
        await asyncio.gather(*self._tasks.values())

    monkeypatch.setattr(downloading_module.Downloads, "_take_up", to_the_end)

    async def story() -> None:
        answer = await caller.uploading(form(at("file.wav")), **ASYNC)
        assert answer.status == 202
        assert (await ended(caller, answer.headers["location"]))["status"] == "received"

    service.runner.run(story())


@on_sqlite
def test_a_caller_may_wait_for_a_while_first(
    world: World, service: Service, caller: Caller, name: str
):
    async def story() -> None:
        async with tended(service):
            quick = await caller.uploading(form(at("file.wav")), prefer="respond-async, wait=20")
            assert quick.status == 200
            slow = await caller.uploading(form(gate(name)), prefer='wait="1",respond-async')
            assert slow.status == 202
            world.gates.add(name)
            assert (await ended(caller, slow.headers["location"]))["status"] == "received"

    service.runner.run(story())


def test_a_promised_download_that_fails_tells_its_cause(
    world: World, service: Service, caller: Caller
):
    async def story() -> Any:
        async with tended(service):
            answer = await caller.uploading(form(at("status/404/x")), **ASYNC)
            assert answer.status == 202
            return await ended(caller, answer.headers["location"])

    record = service.runner.run(story())
    assert record["status"] == "failed"
    assert record["error"]["code"] == "signed_url_failed"
    assert record["error"]["message"] == "Its server answers with status 404."
    assert record["interaction_id"] is None


@on_sqlite
def test_what_is_refused_at_once_is_not_promised(service: Service, caller: Caller):
    answer = caller.upload(form("https://10.0.0.5/x"), **ASYNC)
    assert answer.status == 400
    assert rows(service.database) == []


def test_a_download_is_seen_by_its_organization_alone(
    world: World, service: Service, caller: Caller
):
    async def story() -> None:
        async with tended(service):
            answer = await caller.uploading(form(at("file.wav")), **ASYNC)
            location = answer.headers["location"]
            await ended(caller, location)
            stranger = service.caller("Second")
            assert (await getting(stranger, location)).status == 404
            assert (await getting(caller, "/v1/downloads/x")).status == 404

    service.runner.run(story())


def test_deleting_the_interaction_forgets_its_download(
    world: World, service: Service, caller: Caller
):
    answer = caller.upload(form(at("file.wav")))
    assert len(rows(service.database)) == 1
    caller.send("DELETE", f"/v1/interactions/{answer.json['id']}")
    assert rows(service.database) == []


async def promised(caller: Caller, address: str, **metadata: Any) -> str:
    answer = await caller.uploading(form(address, **metadata), **ASYNC)
    assert answer.status == 202, answer.text
    return answer.headers["location"]


def abandon(service: Service) -> None:
    """Ends a process's downloads as its death would: nothing is written down."""
    for task in service.intake._downloads._tasks.values():
        task.cancel()


@pytest.mark.parametrize("later_promised", [False, True])
def test_what_a_dead_process_promised_another_takes_up(
    world: World, make: Made, name: str, database: Database, later_promised: bool
):
    first, second = make(), make()
    caller = first.caller()

    async def story() -> Any:
        if later_promised:
            metadata = {"FileName": "x.wav"}
            request = asyncio.create_task(caller.uploading(form(gate(name), **metadata)))
            await until(lambda: name in world.waiting)
            location = await promised(caller, gate(name), **metadata)
            request.cancel()
        else:
            location = await promised(caller, gate(name), ClientCallId="kept")
        await until(lambda: name in world.waiting)
        world.waiting.discard(name)
        abandon(first)
        async with tended(second):
            await until(lambda: name in world.waiting)
            world.gates.add(name)
            return await ended(caller, location)

    record = first.runner.run(story())
    assert record["status"] == "received"
    kept = first.kept()
    assert (kept.rows, kept.objects, kept.staged) == (1, 1, 0)
    if not later_promised:
        with database.read(None) as scope:
            row = scope.row(sa.select(tables.interaction.c.client_call_id))
        assert row is not None
        assert row[0] == "kept"


def test_a_process_that_ends_in_order_leaves_its_promises_at_once(
    world: World, make: Made, name: str
):
    first, second = make(), make()
    caller = first.caller()

    async def story() -> Any:
        async with tended(first):
            location = await promised(caller, gate(name))
            waits = asyncio.create_task(caller.uploading(form(gate(f"{name}x"))))
            await until(lambda: {name, f"{name}x"} <= world.waiting)
        (row,) = [row for row in rows(first.database) if row.sealed_address]
        assert (row.holder, row.held_until, row.attempts) == (None, None, 0)
        assert (await waits).text.startswith("The download from the signed url was interrupted")
        async with tended(second):
            world.gates.add(name)
            return await ended(caller, location)

    assert first.runner.run(story())["status"] == "received"
    assert first.kept().staged == 0


def test_what_a_dead_process_did_not_promise_has_failed(world: World, make: Made, name: str):
    first, second = make(), make()
    caller = first.caller()

    async def story() -> Answer:
        request = asyncio.create_task(caller.uploading(form(gate(name))))
        await until(lambda: name in world.waiting)
        abandon(first)
        async with tended(second):
            return await request

    answer = first.runner.run(story())
    assert (
        answer.text == "The download from the signed url was interrupted. Please upload it again."
    )


def test_a_name_that_a_dead_process_had_is_free_again(world: World, make: Made, name: str):
    first, second = make(), make()

    async def story() -> Answer:
        lost = first.caller().uploading(form(gate(name), FileName="again.wav"))
        request = asyncio.create_task(lost)
        await until(lambda: name in world.waiting)
        abandon(first)
        await asyncio.sleep(HOLD_SECONDS + 0.1)
        answer = await second.caller().uploading(form(at("file.wav"), FileName="again.wav"))
        await request
        return answer

    assert first.runner.run(story()).status == 200


def test_a_live_process_keeps_what_it_has(world: World, make: Made, name: str):
    first, second = make(), make()
    before = world.listeners.total

    async def story() -> None:
        async with tended(first, second):
            location = await promised(first.caller(), gate(name))
            await until(lambda: name in world.waiting)
            await asyncio.sleep(HOLD_SECONDS * 2)
            world.gates.add(name)
            assert (await ended(first.caller(), location))["status"] == "received"

    first.runner.run(story())
    assert world.listeners.total == before + 1


def test_of_two_that_have_one_download_one_keeps_it(world: World, make: Made, name: str):
    first, second = make(), make()
    caller = first.caller()

    async def story() -> Any:
        # Nobody tends the first, so its hold ends while it still downloads.
        location = await promised(caller, gate(name))
        await until(lambda: name in world.waiting)
        world.waiting.discard(name)
        async with tended(second):
            await until(lambda: name in world.waiting)
            world.gates.add(name)
            record = await ended(caller, location)
            await asyncio.gather(*first.intake._downloads._tasks.values())
            return record

    assert first.runner.run(story())["status"] == "received"
    assert (first.kept().rows, first.kept().objects, first.kept().staged) == (1, 1, 0)


def test_a_download_that_processes_die_of_ends(world: World, make: Made, name: str):
    service = make(at_once=1)
    caller = service.caller()

    async def story() -> Any:
        location = await promised(caller, gate(name))
        await until(lambda: name in world.waiting)
        abandon(service)
        with service.database.write(None) as scope:
            scope.run(sa.update(tables.download).values(attempts=downloading_module.MAX_ATTEMPTS))
        async with tended(make()):
            return await ended(caller, location)

    record = service.runner.run(story())
    assert record["error"]["code"] == "signed_url_interrupted"


@on_sqlite
def test_another_secret_key_cannot_open_an_address_and_says_so(
    world: World, make: Made, name: str
):
    service = make()
    caller = service.caller()

    async def story() -> Any:
        location = await promised(caller, gate(name))
        await until(lambda: name in world.waiting)
        abandon(service)
        async with tended(make(key=b"x" * 32)):
            return await ended(caller, location)

    record = service.runner.run(story())
    assert record["error"]["code"] == "signed_url_interrupted"
    assert "EARMARK_SECRET_KEY" in record["error"]["message"]


# Our own faults.


class Broken:
    """A store that cannot be written for a while."""

    def __init__(self, folder: Path) -> None:
        self._store = open_store(folder.as_uri())
        self.broken = True

    def __getattr__(self, name: str) -> Any:
        if self.broken and name == "stage":
            raise UnavailableError("the disk is away")
        return getattr(self._store, name)


def test_a_storage_that_is_away_is_503_for_who_waits_and_waited_for_by_who_was_promised(
    world: World, make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(downloading_module, "OUTAGE_RETRY_SECONDS", 0.1)
    store = Broken(tmp_path / "storage")
    service = make(store=store)
    caller = service.caller()

    async def story() -> None:
        async with tended(service):
            assert (await caller.uploading(form(at("file.wav")))).status == 503
            location = await promised(caller, at("file.wav"))
            await asyncio.sleep(0.3)
            assert (await getting(caller, location)).json["status"] == "downloading"
            store.broken = False
            assert (await ended(caller, location))["status"] == "received"

    service.runner.run(story())


def test_a_promise_does_not_wait_for_ever(
    world: World, make: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(downloading_module, "OUTAGE_RETRY_SECONDS", 0.1)
    service = make(store=Broken(tmp_path / "storage"))

    async def story() -> Any:
        async with tended(service):
            caller = service.caller()
            location = await promised(caller, at("file.wav"))
            monkeypatch.setattr(downloading_module, "OUTAGE_PATIENCE", timedelta(0))
            return await ended(caller, location)

    assert service.runner.run(story())["error"]["code"] == "unavailable"


@on_sqlite
def test_a_fault_of_ours_is_logged_and_told_without_the_address(
    world: World, service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    async def stumble(*_: object) -> None:
        raise RuntimeError("a stone")

    monkeypatch.setattr(Fetcher, "download", stumble)
    answer = caller.upload(form(at(f"file.wav?{SECRET}")))
    assert answer.status == 500
    (row,) = rows(service.database)
    assert row.error_code == "internal"


def test_ends_are_forgotten_after_a_week(world: World, service: Service, caller: Caller):
    assert caller.upload(form(at("file.wav"))).status == 200
    service.runner.run(_tend_for_a_moment(service))
    assert len(rows(service.database)) == 1
    with service.database.write(None) as scope:
        long_ago = now() - timedelta(days=8)
        scope.run(sa.update(tables.download).values(finished_at=long_ago))
    service.intake._downloads._purged_at = float("-inf")
    service.runner.run(_tend_for_a_moment(service))
    assert rows(service.database) == []


# What happens at the very moment of something else.


@on_sqlite
def test_a_download_that_ends_while_another_looks_for_it_is_no_obstacle(
    service: Service, caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    running = service.intake._downloads
    real = downloads.underway

    def begun(*, promise: bool) -> bool:
        submission = Submission("moment.wav", MediaType.AUDIO, "{}")
        bound = service.intake.for_(caller.principal)
        address = downloading_module._Address(at("file.wav"))
        order = downloading_module._Order(new_id(), bound, submission, address)
        found = running._begin(order, running._read(order), b"f" * 32, promise)
        return found.id == order.id

    def gone_when_looked_for(scope: Any, file_name: str) -> None:
        downloads.leave(scope, running._holder, at=now())

    def gone_when_promised(scope: Any, *_: object) -> bool:
        downloads.leave(scope, running._holder, at=now())
        return False

    assert begun(promise=False)
    assert not begun(promise=False)
    monkeypatch.setattr(downloads, "underway", gone_when_looked_for)
    assert begun(promise=False)
    monkeypatch.setattr(downloads, "underway", real)
    monkeypatch.setattr(downloads, "promise_too", gone_when_promised)
    assert begun(promise=True)


@on_sqlite
def test_what_was_deleted_before_the_answer_is_not_acknowledged(
    world: World, caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(submissions, "accepted", lambda *_: None)
    assert caller.upload(form(at("file.wav"))).status == 503


@on_sqlite
def test_a_database_that_is_away_is_waited_for_and_told_once(
    world: World,
    service: Service,
    caller: Caller,
    monkeypatch: pytest.MonkeyPatch,
):
    real, tries = downloads.any_unfinished, []
    log = CapturingLogger()
    monkeypatch.setattr(downloading_module, "log", log)

    def away(scope: Any) -> bool:
        tries.append(1)
        if len(tries) < 4:
            raise UnavailableError("the database is away")
        return real(scope)

    monkeypatch.setattr(downloads, "any_unfinished", away)

    async def story() -> Any:
        async with tended(service):
            await until(lambda: len(tries) > 5)
            return await ended(caller, await promised(caller, at("file.wav")))

    assert service.runner.run(story())["status"] == "received"
    assert [call.args for call in log.calls].count(("download.waits",)) == 1


# Secrets.


def on_disk(folder: Path, database: Database) -> bytes:
    """Whatever this test's processes have in files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if database.is_sqlite:
        files += Path(str(database.engine.url.database)).parent.glob("*.sqlite3*")
    return b"".join(path.read_bytes() for path in files)


def test_the_query_is_nowhere_but_on_its_way(  # noqa: PLR0917 - six fixtures
    world: World,
    make: Made,
    name: str,
    database: Database,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    service = make()
    caller = service.caller()
    told: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(self.format(record))

    root, ear = logging.getLogger(), Ear()
    before = (root.level, list(root.handlers))
    telemetry.configure(log_format="json", level="debug")
    ear.setFormatter(root.handlers[0].formatter)
    root.addHandler(ear)

    async def story() -> None:
        async with tended(service):
            location = await promised(caller, gate(name))
            await until(lambda: name in world.waiting)
            assert SECRET.encode() not in on_disk(tmp_path, database)
            assert SECRET not in str([dict(row._mapping) for row in rows(database)])
            told.append((await getting(caller, location)).text)
            world.gates.add(name)
            await ended(caller, location)
            redirected = at(f"redirect.wav?to=%2Ffile.wav%3F{SECRET}&{SECRET}")
            paths = (f"status/403/x?{SECRET}", f"nonsense?{SECRET}", f"endless?{SECRET}")
            for address in (redirected, *map(at, paths), f"https://x y/?{SECRET}"):
                for accept in ("text/plain", "application/problem+json"):
                    told.append((await caller.uploading(form(address), accept=accept)).text)

    try:
        service.runner.run(story())
        with database.read(None) as scope:
            told += [str(row) for row in scope.rows(sa.select(tables.audit))]
            told += [str(row) for row in scope.rows(sa.select(tables.event))]
            told += [str(row) for row in scope.rows(sa.select(tables.download))]
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    out, err = capfd.readouterr()
    whole = "\n".join([*told, out, err])
    assert "download.failed" in whole
    assert SECRET not in whole
    assert SECRET.partition("=")[2] not in whole
    assert STORE_NAME in whole  # the audit tells where this service connected to
