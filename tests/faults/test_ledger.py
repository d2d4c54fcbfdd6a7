"""The check of all these tests itself: whatever may go wrong with an upload, it says so."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from earmark.model import new_id
from faults.copies import Copies
from faults.ledger import Ledger, orphans, unswept
from faults.media import media

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from serving import Caller, Server

KEPT, OTHER = "kept.wav", "other.wav"
CONTENT = media(KEPT, random.Random(1), 50_000)


@pytest.fixture(scope="module")
def server(new_server: Callable[..., Server]) -> Iterator[Copies]:
    made = Copies(new_server("sqlite").data, arguments=("--no-worker",))
    yield made.start()
    made.end()


@pytest.fixture
def caller(server: Copies, request: pytest.FixtureRequest) -> Caller:
    """Of an organization of this test's own."""
    return server.caller(request.node.name)


@pytest.fixture
def kept(caller: Caller) -> Ledger:
    """One upload that was acknowledged, and nothing else."""
    ledger = Ledger()
    ledger.upload(caller.http, KEPT, CONTENT)
    assert ledger.breaches(caller) == []
    return ledger


def test_nothing_is_said_where_all_is_well(kept, caller):
    assert kept.breaches(caller) == []
    assert (kept.counts["acknowledged"], kept.counts["lost"]) == (1, 0)


def test_a_lost_row_is_seen(kept, caller):
    assert caller.http.delete(f"/v1/interactions/{kept.promised[KEPT]}").status_code == 204
    assert_said(kept, caller, f"{KEPT}: lost")
    assert kept.counts["lost"] == 1


def test_a_lost_object_is_seen(kept, caller, server):
    object_of(server, kept).unlink()
    assert_said(kept, caller, f"{KEPT}: not readable")


def test_a_changed_byte_is_seen(kept, caller, server):
    place = object_of(server, kept)
    place.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    assert_said(kept, caller, f"{KEPT}: corrupt")


def test_an_object_cut_short_is_seen(kept, caller, server):
    object_of(server, kept).write_bytes(CONTENT[:-1])
    assert_said(kept, caller, f"{KEPT}: not readable")


def test_what_nobody_sent_is_seen(kept, caller):
    assert caller.upload(OTHER, CONTENT).status_code == 200
    assert_said(kept, caller, f"{OTHER}: visible")


def test_what_was_never_sent_whole_is_seen(kept, caller):
    assert caller.upload(OTHER, CONTENT).status_code == 200
    kept.contents[OTHER] = CONTENT
    kept.open.add(OTHER)
    assert_said(kept, caller, f"{OTHER}: visible")


def test_two_promises_of_one_name_are_seen(kept, caller):
    kept.note(KEPT, caller.upload(OTHER, CONTENT))
    assert_said(kept, caller, f"{KEPT}: promised as")


def test_a_name_that_another_content_took_is_seen(kept, caller):
    kept.contents[KEPT] = CONTENT + b"."
    assert_said(kept, caller, f"{KEPT}: corrupt")


def test_an_answer_that_is_neither_is_seen(kept, caller):
    kept.note(OTHER, caller.upload("other", CONTENT))
    assert_said(kept, caller, f"{OTHER}: answered 400")


def test_what_stays_open_is_seen(kept, caller, monkeypatch):
    kept.contents[OTHER] = CONTENT
    kept.open.add(OTHER)
    monkeypatch.setattr(kept, "upload", lambda *_: None)
    assert_said(kept, caller, f"{OTHER}: open after a retry")


def test_a_retry_of_what_was_kept_without_an_answer_is_recognized(caller):
    ledger = Ledger(contents={KEPT: CONTENT}, open={KEPT}, whole={KEPT})
    assert caller.upload(KEPT, CONTENT).status_code == 200
    assert ledger.breaches(caller) == []
    assert ledger.counts["recognized"] == 1


def test_a_503_promises_nothing(caller):
    ledger = Ledger(contents={KEPT: CONTENT}, open={KEPT})
    ledger.note(KEPT, httpx.Response(503, text="Later."))
    assert ledger.open == {KEPT}
    assert ledger.breaches(caller) == []
    assert ledger.promised


@pytest.mark.parametrize("place", ["objects/ab", "staging"])
def test_an_orphan_that_no_sweep_found_is_seen(place, server):
    stray = server.data / "storage" / place / f"{new_id()}"
    stray.write_bytes(b"stray")
    assert orphans(server) == [stray.name]
    os.utime(stray, (time.time() + 3600,) * 2)  # as young as can be, so it is left alone
    try:
        assert unswept(server, 5) == [f"orphan: {stray.name}"]
    finally:
        server.kill()
        stray.unlink()
        server.start()


def test_what_cannot_be_processed_is_seen(kept, caller, server):
    kept.upload(caller.http, OTHER, b"RIFF\0\0\0\0WAVE" + bytes(1000))
    server.begin("worker")
    (said,) = kept.unprocessed(caller)
    assert said.startswith(f"{OTHER}: failed")


def assert_said(ledger: Ledger, caller: Caller, start: str) -> None:
    found = ledger.breaches(caller)
    assert [one for one in found if one.startswith(start)], found


def object_of(server: Copies, ledger: Ledger) -> Path:
    key = ledger.promised[KEPT]
    return server.data / "storage" / "objects" / key[-2:] / key
