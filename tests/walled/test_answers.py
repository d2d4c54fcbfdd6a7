"""What a server answers is believed only as far as it can be: TLS, status, size, pace, rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from earmark import fetch
from walled.world import CONTENT, SIZE_LIMIT, STORE_NAME, TAG

if TYPE_CHECKING:
    import asyncio

    from walled.world import World

FAILED, TOO_LARGE, TOO_SLOW = (
    "signed_url_failed",
    "signed_url_too_large",
    "signed_url_too_slow",
)


def at(path: str, host: str = STORE_NAME) -> str:
    return f"https://{host}/{path}"


@pytest.mark.parametrize("host", ["wrong", "expired", "unknown-authority"])
def test_a_certificate_that_proves_nothing_is_a_failure(
    world: World, runner: asyncio.Runner, host: str
):
    seen = len(world.requests)
    got = runner.run(world.fetch(at("file.wav", f"{host}.example.test")))
    assert (got.code, got.content, got.connections) == (FAILED, b"", 1)
    assert len(world.requests) == seen, "the address was sent to whoever it was"


def test_an_authority_that_nobody_named_is_not_trusted(world: World, runner: asyncio.Runner):
    got = runner.run(world.fetch(at("file.wav"), world.walls(trusted=False)))
    assert got.code == FAILED


def test_the_target_is_sent_byte_for_byte_and_nothing_else_is_said(
    world: World, runner: asyncio.Runner
):
    target = (
        "/echo.wav/a//b/../%7e%2F%2f;x='(*)!$&+,=:@~|^`{}\"<>?X-Amz-Signature=a%2Bb+c%20/?=&&%"
    )
    got = runner.run(world.fetch(f"https://{STORE_NAME}{target}#fragment"))
    lines = got.content.decode().split("\r\n")
    assert lines[0] == f"GET {target} HTTP/1.1"
    assert sorted(line.lower() for line in lines[1:] if line) == [
        "accept-encoding: identity",
        "accept: */*",
        "connection: close",
        f"host: {STORE_NAME}",
        "user-agent: earmark",
    ]


def test_no_cookie_is_kept(world: World, runner: asyncio.Runner):
    got = runner.run(world.fetch(at("cookie.wav"), redirects=1))
    assert b"GET /echo.wav" in got.content
    assert b"ookie:" not in got.content


@pytest.mark.parametrize("code", [201, 204, 206, 300, 304, 400, 401, 403, 404, 410, 429, 500, 503])
def test_any_status_but_200_is_a_failure_and_told(world: World, runner: asyncio.Runner, code: int):
    got = runner.run(world.fetch(at(f"status/{code}/x.wav")))
    assert got.code == FAILED
    assert got.error is not None
    assert f"status {code}" in got.error.faults[0].detail
    assert got.error.passing == (code in {429, 500, 503})


def test_what_a_server_inside_answers_is_not_told(world: World, runner: asyncio.Runner):
    walls = world.walls(networks=["10.20.30.0/24", "10.20.31.0/24"])
    codes = [
        runner.run(world.fetch(f"https://{host}/{path}", walls)).error
        for host, path in [
            ("10.20.30.40", "status/403/x.wav"),
            ("10.20.30.40", "status/500/x.wav"),
            ("10.20.30.40", "nonsense.wav"),
            ("10.20.31.1", "file.wav"),
        ]
    ]
    assert len({str(error.faults) for error in codes if error}) == 1


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "identity, gzip", "GZIP", "x"])
def test_an_encoded_answer_is_refused(world: World, runner: asyncio.Runner, coding: str):
    got = runner.run(world.fetch(at(f"gzip.wav?as={coding.replace(' ', '%20')}")))
    assert (got.code, got.content) == (FAILED, b"")


def test_an_answer_that_says_two_things_at_once_is_refused(world: World, runner: asyncio.Runner):
    got = runner.run(world.fetch(at("double.wav")))
    assert (got.code, got.content) == (FAILED, b"")


def test_identity_is_no_encoding(world: World, runner: asyncio.Runner):
    assert runner.run(world.fetch(at("gzip.wav?as=identity"))).code == "received"


def test_a_chunked_answer_is_taken_whole(world: World, runner: asyncio.Runner):
    assert runner.run(world.fetch(at("chunked.wav"))).content == CONTENT


@pytest.mark.parametrize(
    "path", ["chunked.wav?cut=1", "unknown.wav", "twice.wav", "nonsense.wav", "huge.wav"]
)
def test_an_answer_whose_end_is_not_sure_is_a_failure(
    world: World, runner: asyncio.Runner, path: str
):
    assert runner.run(world.fetch(at(path))).code == FAILED


def test_a_file_that_says_that_it_is_too_large_is_not_read(world: World, runner: asyncio.Runner):
    got = runner.run(world.fetch(at("lying.wav")))
    assert (got.code, got.content) == (TOO_LARGE, b"")


def test_a_file_that_becomes_too_large_is_given_up(world: World, runner: asyncio.Runner):
    got = runner.run(world.fetch(at("endless.wav")))
    assert got.code == TOO_LARGE
    assert len(got.content) <= SIZE_LIMIT


def test_a_file_as_large_as_may_be_is_taken(world: World, runner: asyncio.Runner):
    assert len(runner.run(world.fetch(at("whole.wav"))).content) == SIZE_LIMIT


def test_a_download_has_an_end_in_time(world: World, runner: asyncio.Runner):
    got = runner.run(world.fetch(at("drip.wav"), seconds=0.5))
    assert got.code == TOO_SLOW
    assert got.error is not None
    assert got.error.reason == "deadline"


def test_a_download_that_drips_is_given_up(
    world: World, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetch, "RATE_WINDOW_SECONDS", 0.3)
    got = runner.run(world.fetch(at("drip.wav")))
    assert got.code == TOO_SLOW
    assert got.error is not None
    assert got.error.reason == "rate"


def test_a_server_that_says_nothing_is_given_up(
    world: World, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetch, "IDLE_SECONDS", 0.3)
    got = runner.run(world.fetch(at("silent.wav")))
    assert got.code == FAILED
    monkeypatch.setattr(fetch, "IDLE_SECONDS", 30.0)
    monkeypatch.setattr(fetch, "ANSWER_SECONDS", 0.3)
    got = runner.run(world.fetch(at("silent.wav")))
    assert got.code == TOO_SLOW
    assert got.error is not None
    assert got.error.reason == "no answer"


# Connections that are cut.


def test_a_cut_download_goes_on_where_it_was(world: World, runner: asyncio.Runner):
    got = runner.run(world.fetch(at("cut.wav")))
    assert (got.code, got.content, got.connections) == ("received", CONTENT, 2)
    head = world.requests[-1].lower()
    assert f"range: bytes={len(CONTENT) // 3}-" in head
    assert f"if-range: {TAG}" in head


@pytest.mark.parametrize(
    ("how", "connections"),
    [
        ("tag=none", 1),
        ("tag=weak", 1),
        ("then=changed", 2),
        ("then=gone", 2),
        ("then=again", 6),
        ("then=short", 6),
    ],
)
def test_a_rest_that_is_not_sure_to_be_the_same_file_is_not_taken(
    world: World,
    runner: asyncio.Runner,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    connections: int,
):
    monkeypatch.setattr(fetch, "RESUME_PAUSE_SECONDS", 0.001)
    got = runner.run(world.fetch(at(f"cut.wav?{how}")))
    assert (got.code, got.connections) == (FAILED, connections)
    assert got.error is not None
    assert got.error.passing
    assert CONTENT.startswith(got.content)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Content_Range", "bytes 0-9/10"),
        ("Content_Range", f"bytes {len(CONTENT) // 3}-{len(CONTENT) - 2}/{len(CONTENT)}"),
        ("Content_Range", f"bytes {len(CONTENT) // 3}-{len(CONTENT) - 1}/{len(CONTENT) + 1}"),
        ("Content_Range", f"bytes {len(CONTENT) // 3}-{len(CONTENT) - 1}/*"),
        ("Content_Range", ""),
        ("ETag", '"another"'),
    ],
)
def test_a_rest_of_another_range_or_file_is_not_taken(
    world: World, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, header: str, value: str
):
    from walled import world as server

    third = len(CONTENT) // 3
    right = {
        "Content_Range": f"bytes {third}-{len(CONTENT) - 1}/{len(CONTENT)}",
        "ETag": TAG,
    }

    async def rest(ask: server.Ask) -> None:
        given = {**right, header: value}
        await server._answer(ask.writer, CONTENT[third:], "206 Partial Content", **given)

    monkeypatch.setattr(world, "_file", rest)
    assert runner.run(world.fetch(at("cut.wav"))).code == FAILED
