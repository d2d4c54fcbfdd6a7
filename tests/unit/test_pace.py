"""How slowly a body may come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from earmark.errors import SlowError
from earmark.web.connection import RequestContext
from earmark.web.pace import Pace, Paced

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS = 0.2
"""The pace that is asked for; pieces come after a quarter of it, or never."""

NEVER = 10.0


class Sender:
    """Sends pieces, each after its wait."""

    def __init__(self, *pieces: tuple[float, int], more: bool = True) -> None:
        self.pieces = list(pieces)
        self.more = more

    async def receive(self) -> Any:
        wait, size = self.pieces.pop(0) if self.pieces else (NEVER, 0)
        await asyncio.sleep(wait)
        more = self.more or bool(self.pieces)
        return {"type": "http.request", "body": bytes(size), "more_body": more}


def read(sender: Sender, pace: Pace, *, busy: Sequence[float] = ()) -> int:
    """How many bytes came until the end; `busy`: what we do ourselves between two pieces."""

    async def reading() -> int:
        paced, came, work = Paced(sender.receive, pace), 0, list(busy)
        while True:
            message = await paced()
            came += len(message["body"])
            if not message["more_body"]:
                return came
            await asyncio.sleep(work.pop(0) if work else 0)

    return asyncio.run(reading())


def test_a_body_of_which_nothing_comes_is_given_up() -> None:
    with pytest.raises(SlowError, match=r"nothing came for 0\.2 s"):
        read(Sender((0, 10), (NEVER, 10)), Pace(SECONDS))


def test_a_body_that_comes_in_drops_is_given_up_when_a_rate_is_asked_for() -> None:
    drops = [(SECONDS / 4, 1)] * 40
    with pytest.raises(SlowError, match=r"bytes came in 0\.\d s"):
        read(Sender(*drops, more=False), Pace(SECONDS, 1000))
    assert read(Sender(*drops, more=False), Pace(SECONDS)) == 40


def test_a_body_that_once_came_fast_is_judged_anew() -> None:
    pieces = [(0, 1_000_000), *[(SECONDS / 4, 1)] * 40]
    with pytest.raises(SlowError):
        read(Sender(*pieces, more=False), Pace(SECONDS, 1000))


def test_an_end_that_has_come_is_taken_however_slowly() -> None:
    last = [(SECONDS * 0.7, 1), (SECONDS * 0.7, 1)]
    assert read(Sender(*last, more=False), Pace(SECONDS, 1000)) == 2


def test_time_that_we_take_ourselves_is_not_counted_against_the_caller() -> None:
    pieces = [(0, 10)] * 6
    busy = [SECONDS] * 6
    assert read(Sender(*pieces, more=False), Pace(SECONDS, 1_000_000), busy=busy) == 60


def test_who_is_cancelled_while_waiting_is_cancelled():
    async def cancel() -> None:
        paced = Paced(Sender((NEVER, 10)).receive, Pace(SECONDS))
        reading = asyncio.ensure_future(paced())
        await asyncio.sleep(SECONDS / 4)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(cancel())


def test_who_is_cancelled_by_both_is_cancelled():
    async def cancel() -> None:
        paced = Paced(Sender((NEVER, 10)).receive, Pace(SECONDS))
        reading = asyncio.ensure_future(paced())
        await asyncio.sleep(0)
        reading.cancel()
        paced._waiting.give_up()  # type: ignore[union-attr]
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(cancel())


def test_one_timer_serves_a_whole_body_and_is_gone_after_it():
    async def count() -> None:
        loop, timers = asyncio.get_running_loop(), []
        later = loop.call_later

        def noting(delay: float, call: Any, *args: Any) -> asyncio.TimerHandle:
            timers.append(later(delay, call, *args))
            return timers[-1]

        async def receive() -> Any:
            return {"type": "http.request", "body": b"x", "more_body": True}

        loop.call_later = noting  # type: ignore[method-assign]
        paced = Paced(receive, Pace(SECONDS))
        for _ in range(100):
            await paced()
        assert len(timers) == 1
        paced.end()
        assert timers[0].cancelled()

    asyncio.run(count())


def test_after_a_request_no_timer_is_left():
    left: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        loop = asyncio.get_running_loop()
        left.extend(handle for handle in loop._scheduled if not handle.cancelled())  # type: ignore[attr-defined]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    run(app, Sender((0, 100), more=False))
    assert [handle for handle in left if not handle.cancelled()] == []
    assert left


def run(app: Any, sender: Sender) -> list[Any]:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": "POST", "path": "/"}
    scope["headers"] = [(b"content-length", b"100")]
    asyncio.run(RequestContext(app, Pace(SECONDS))(scope, sender.receive, send))
    return sent


def test_who_reads_is_told() -> None:
    found = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        try:
            await receive()
        except SlowError as error:
            found.append(error)

    run(app, Sender())
    assert found


def test_an_answer_that_was_begun_is_not_ended_by_a_body_that_nobody_wants() -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        end = asyncio.ensure_future(receive())  # as Starlette does while it streams
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert (await end)["body"] == b"x" * 0
        await send({"type": "http.response.body", "body": b"whole"})

    sent = run(app, Sender((SECONDS * 3, 0), more=False))
    assert b"".join(message.get("body", b"") for message in sent) == b"whole"
