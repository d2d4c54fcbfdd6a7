"""What every store promises. To stand in `storage.SCHEMES` is to be tested here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from earmark.errors import NotFoundError, SettingsError
from earmark.storage import READ_CHUNK_BYTES, SCHEMES, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from earmark.storage import Store

URLS: dict[str, Callable[[Path], str]] = {"file": lambda folder: (folder / "store").as_uri()}
"""Scheme → the URL of an empty store in a folder of the test."""

KEY = "018f0000-0000-7000-8000-0123456789ab"


def test_every_scheme_is_tested_here():
    assert set(URLS) == set(SCHEMES)


@pytest.fixture(params=sorted(SCHEMES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(URLS[request.param](tmp_path))


def whole(chunks: Iterator[bytes]) -> bytes:
    return b"".join(chunks)


def everything(store: Store) -> set[str]:
    return set(store.keys(older_than_seconds=-60))


def test_an_object_appears_whole_when_it_is_published_and_not_before(store):
    staged = store.stage(KEY)
    staged.append([b"one", bytearray(b"two"), memoryview(b"three")])
    staged.append([])
    staged.append([b"", b"four"])
    with pytest.raises(NotFoundError):
        store.read(KEY)
    assert everything(store) == set()
    staged.publish()
    assert whole(store.read(KEY)) == b"onetwothreefour"
    assert everything(store) == {KEY}


def test_a_batch_of_more_buffers_than_the_system_takes_at_once_is_kept_in_order(store):
    staged = store.stage(KEY)
    staged.append([bytes([number % 256]) * (number % 7) for number in range(3000)])
    staged.publish()
    expected = b"".join(bytes([number % 256]) * (number % 7) for number in range(3000))
    assert whole(store.read(KEY)) == expected


def test_an_empty_object_is_an_object(store):
    store.put(KEY, b"")
    assert whole(store.read(KEY)) == b""


def test_discarding_leaves_nothing_however_often(store):
    staged = store.stage(KEY)
    staged.append([b"some"])
    staged.discard()
    staged.discard()
    assert everything(store) == set()
    assert store.sweep_staging(older_than_seconds=-60) == 0


def test_several_appear_together(store):
    keys = [f"{KEY[:-1]}{number}" for number in range(5)]
    staged = [store.stage(key) for key in keys]
    for key, one in zip(keys, staged, strict=True):
        one.append([key.encode()])
    assert list(store.publish(staged)) == [None] * 5
    assert everything(store) == set(keys)
    assert [whole(store.read(key)) for key in keys] == [key.encode() for key in keys]
    assert list(store.publish([])) == []


def test_discarding_removes_what_was_published_too(store):
    staged = store.stage(KEY)
    staged.append([b"some"])
    staged.publish()
    staged.discard()
    staged.discard()
    with pytest.raises(NotFoundError):
        store.read(KEY)


def test_put_takes_the_place_of_what_stood_there(store):
    store.put(KEY, b"old")
    reading = store.read(KEY)
    store.put(KEY, b"new")
    assert whole(store.read(KEY)) == b"new"
    assert whole(reading) == b"old"


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        *((0, None), (0, 0), (1, 2), (5, None), (0, 10**9), (10**6, None)),
        (READ_CHUNK_BYTES - 1, READ_CHUNK_BYTES + 1),
        (0, READ_CHUNK_BYTES),
        (READ_CHUNK_BYTES, 2 * READ_CHUNK_BYTES),
    ],
)
def test_a_range_is_read_as_a_slice_in_bounded_chunks(store, start, stop):
    content = bytes(range(256)) * 2500
    store.put(KEY, content)
    chunks = list(store.read(KEY, start, stop))
    assert b"".join(chunks) == content[start:stop]
    assert all(0 < len(chunk) <= READ_CHUNK_BYTES for chunk in chunks)


def test_reading_goes_on_when_the_object_is_deleted_meanwhile(store):
    store.put(KEY, bytes(3 * READ_CHUNK_BYTES))
    reading = store.read(KEY)
    store.delete(KEY)
    assert len(whole(reading)) == 3 * READ_CHUNK_BYTES
    with pytest.raises(NotFoundError):
        store.read(KEY)


def test_deleting_what_is_not_there_is_no_error(store):
    store.delete(KEY)
    store.put(KEY, b"x")
    store.delete(KEY)
    store.delete(KEY)
    assert everything(store) == set()


def test_an_object_is_a_file_while_the_block_lasts(store):
    store.put(KEY, b"content")
    with store.local_path(KEY) as path:
        assert path.read_bytes() == b"content"
    with pytest.raises(NotFoundError), store.local_path("other"):
        pass


def test_keys_are_those_published_long_enough_ago(store):
    keys = {f"{number:032x}" for number in range(300)} | {f"{KEY}.waveform"}
    for key in keys:
        store.put(key, b"x")
    assert everything(store) == keys
    assert set(store.keys(older_than_seconds=60)) == set()
    time.sleep(1.1)
    store.put(KEY, b"young")
    assert set(store.keys(older_than_seconds=1)) == keys


def test_sweeping_removes_what_was_left_in_the_middle_and_old_alone(store):
    left = store.stage(KEY)
    left.append([b"left alone"])
    assert store.staged_alone(older_than_seconds=60) == 0
    assert store.sweep_staging(older_than_seconds=60) == 0
    time.sleep(1.1)
    young = store.stage(KEY)
    assert store.staged_alone(older_than_seconds=1) == 1
    assert store.sweep_staging(older_than_seconds=1) == 1
    assert store.staged_alone(older_than_seconds=1) == 0
    young.append([b"young"])
    young.publish()
    assert whole(store.read(KEY)) == b"young"
    left.discard()


def test_what_is_read_again_is_all_of_it_and_stays_open(store):
    content = bytes(range(256)) * 2500
    store.put(KEY, content)
    reading = store.reread(KEY)
    store.delete(KEY)
    chunks = list(reading)
    assert b"".join(chunks) == content
    assert all(0 < len(chunk) <= READ_CHUNK_BYTES for chunk in chunks)
    with pytest.raises(NotFoundError):
        store.reread(KEY)


def test_an_object_that_is_moved_aside_is_read_by_nobody_and_can_be_put_back(store):
    store.put(KEY, b"content")
    store.put(f"{KEY}.waveform", b"other")
    before = time.time()
    store.quarantine(KEY)
    assert everything(store) == {f"{KEY}.waveform"}
    with pytest.raises(NotFoundError):
        store.read(KEY)
    (aside,) = store.quarantined()
    assert (aside.key, aside.size_bytes) == (KEY, 7)
    assert before - 1 <= aside.since <= time.time()
    store.restore(KEY)
    assert whole(store.read(KEY)) == b"content"
    assert list(store.quarantined()) == []


def test_what_was_moved_aside_last_is_put_back_first(store, monkeypatch):
    began = time.time()
    for number, content in enumerate((b"old", b"new")):
        monkeypatch.setattr(time, "time", lambda at=began + 100 * number: at)
        store.put(KEY, content)
        store.quarantine(KEY)
    store.restore(KEY)
    assert whole(store.read(KEY)) == b"new"
    (aside,) = store.quarantined()
    assert aside.since == pytest.approx(began, abs=1)


def test_removing_what_was_moved_aside_spares_what_stands(store):
    store.put(KEY, b"old")
    store.quarantine(KEY)
    store.put(KEY, b"new")
    store.put(f"{KEY}.waveform", b"other")
    store.quarantine(f"{KEY}.waveform")
    store.remove_quarantined(KEY)
    store.remove_quarantined(KEY)
    assert [one.key for one in store.quarantined()] == [f"{KEY}.waveform"]
    assert whole(store.read(KEY)) == b"new"
    with pytest.raises(NotFoundError):
        store.restore(KEY)


def test_moving_aside_what_is_not_there_is_no_error(store):
    store.quarantine(KEY)
    assert list(store.quarantined()) == []


def test_what_stands_aside_is_there_when_the_store_is_opened_again(tmp_path, store, request):
    store.put(KEY, b"kept")
    store.quarantine(KEY)
    again = open_store(URLS[request.node.callspec.params["store"]](tmp_path))
    assert [one.key for one in again.quarantined()] == [KEY]
    again.restore(KEY)
    assert whole(again.read(KEY)) == b"kept"


def test_a_store_opened_again_has_what_was_published(tmp_path, store, request):
    store.put(KEY, b"kept")
    scheme = request.node.callspec.params["store"]
    assert whole(open_store(URLS[scheme](tmp_path)).read(KEY)) == b"kept"


def test_checking_leaves_nothing_and_free_room_is_told(store):
    store.check()
    assert everything(store) == set()
    free = store.free_bytes()
    assert free is None or free > 0


def test_a_scheme_that_nobody_knows_is_named():
    with pytest.raises(SettingsError, match="must start with one of: file:"):
        open_store("gopher://host/path")
