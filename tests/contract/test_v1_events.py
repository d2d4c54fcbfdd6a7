"""Events on the wire: page by page, and as they happen."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from earmark.database import journal
from earmark.model import Grant, new_id
from earmark.web.api import events as wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from contract.serving import Caller, Service
    from earmark.database import Database

pytestmark = pytest.mark.origin("ours")


@pytest.fixture
def caller(service: Service) -> Caller:
    return service.caller()


@pytest.fixture
def tell(database: Database, caller: Caller) -> Callable[..., UUID]:
    def told(kind: str = "interaction.ready", organization: UUID | None = None) -> UUID:
        interaction_id = new_id()
        with database.write(organization or caller.principal.organization_id) as scope:
            journal.announce(scope, kind=kind, interaction_id=interaction_id, detail={"round": 1})
        return interaction_id

    return told


def read(caller: Caller, query: str = "") -> Any:
    answer = caller.send("GET", f"/v1/events{query}")
    assert answer.status == 200, answer.text
    return answer.json


def test_events_are_read_in_pages(caller: Caller, tell: Callable[..., UUID]) -> None:
    ids = [tell() for _ in range(3)]
    first = read(caller, "?limit=2")
    second = read(caller, f"?after={first['next']}&limit=2")
    found = [*first["items"], *second["items"]]
    assert [event["interaction_id"] for event in found] == [str(id_) for id_ in ids]
    assert [event["id"] for event in found] == [1, 2, 3]
    assert set(found[0]) == {"id", "at", "kind", "interaction_id", "detail"}
    assert read(caller, f"?after={second['next']}") == {"items": [], "next": second["next"]}


@pytest.mark.parametrize(
    "query", ["?after=-1", "?after=x", f"?after={2**63}", "?limit=0", "?limit=1001", "?since=1"]
)
def test_a_wrong_query_is_refused(caller: Caller, query: str) -> None:
    answer = caller.send("GET", f"/v1/events{query}")
    assert (answer.status, answer.json["status"]) == (400, 400)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/stream"])
def test_events_need_the_grant_to_read(service: Service, path: str) -> None:
    assert service.caller(grants=[Grant.INGEST]).send("GET", path).status == 403


def follow(caller: Caller, query: str = "", *, enough: int = 1, **headers: str) -> list[Any]:
    """The events of a stream until there are enough; then the caller goes away."""
    sent: list[bytes] = []

    async def go() -> None:
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] == 200
                told = dict(message["headers"])
                assert told[b"content-type"].startswith(b"text/event-stream")
            sent.append(message.get("body", b""))
            if b"".join(sent).count(b"data:") >= enough:
                gone.set()

        given = {"authorization": f"Bearer {caller.token}", **headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/v1/events/stream",
            "raw_path": b"/v1/events/stream",
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (name.replace("_", "-").encode(), value.encode()) for name, value in given.items()
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("earmark.example", 80),
            "state": {},
        }
        await asyncio.wait_for(caller.service.app(scope, receive, send), 20)

    asyncio.run(go())
    return parsed(b"".join(sent).decode())


def parsed(stream: str) -> list[dict[str, Any]]:
    """The events of a stream, as its standard has them read."""
    found = []
    for block in stream.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if "data" in fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "POLL_SECONDS", 0.02)


def test_a_stream_tells_what_was_and_goes_on(caller: Caller, tell: Callable[..., UUID]) -> None:
    ids = [tell("interaction.received"), tell("interaction.ready")]
    found = follow(caller, enough=2)
    assert [event["id"] for event in found] == ["1", "2"]
    assert [event["event"] for event in found] == ["interaction.received", "interaction.ready"]
    assert [event["data"]["interaction_id"] for event in found] == [str(id_) for id_ in ids]


def test_a_stream_tells_what_happens_while_it_is_open(
    caller: Caller, tell: Callable[..., UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = iter([None, tell])

    async def nap(_seconds: float) -> None:
        if act := next(naps, None):
            await asyncio.to_thread(act)

    monkeypatch.setattr(wire.asyncio, "sleep", nap)
    (event,) = follow(caller)
    assert event["id"] == "1"


@pytest.mark.parametrize(
    ("query", "headers"),
    [("after=1", {}), ("", {"last_event_id": "1"}), ("after=0", {"last_event_id": "1"})],
)
def test_a_stream_goes_on_after_the_last_event(
    caller: Caller, tell: Callable[..., UUID], query: str, headers: dict[str, str]
) -> None:
    tell()
    second = tell()
    (event,) = follow(caller, query, **headers)
    assert event["data"]["interaction_id"] == str(second)


def test_a_stream_tells_nothing_of_another_organization(
    service: Service, caller: Caller, tell: Callable[..., UUID]
) -> None:
    stranger = service.caller("Second")
    tell()
    theirs = tell(organization=stranger.principal.organization_id)
    (event,) = follow(stranger)
    assert event["data"]["interaction_id"] == str(theirs)


def test_a_quiet_stream_is_kept_open_by_pings(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "PING_SECONDS", 0.0)
    monkeypatch.setattr(wire, "STREAM_SECONDS", 0.2)
    answer = caller.send("GET", "/v1/events/stream")
    assert answer.text.startswith("retry: 2000\n\n: ping\n\n")


def test_a_stream_ends_after_its_time(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "STREAM_SECONDS", 0.1)
    assert caller.send("GET", "/v1/events/stream").text == "retry: 2000\n\n"


def test_there_are_only_so_many_streams(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_STREAMS", 0)
    answer = caller.send("GET", "/v1/events/stream")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
