"""Taking uploads in: counted, hashed and written as they come, and promised at the end."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import override

from earmark import telemetry
from earmark.database import core, tables
from earmark.directory import Directory, NewAgent, NewNode
from earmark.errors import Fault, RefusedError, TooLargeError, UnavailableError, Why
from earmark.intake import Intake, Limits, commits
from earmark.intake import stage as staging
from earmark.model import AgentSent, MediaType, Quota, Submission
from earmark.storage.local import LocalStore
from processing import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from pathlib import Path

    from earmark.storage import Staged

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(1000)
MEBIBYTE = 1024 * 1024
LIMITS = Limits(upload_bytes=8 * MEBIBYTE, reserve_bytes=0, buffer_bytes=64 * MEBIBYTE)


class Watched(LocalStore):
    """A local store whose writes can be held up or made to fail, and are counted."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        self.hold = threading.Event()
        self.hold.set()
        self.writing = threading.Event()
        self.failing: BaseException | None = None
        self.free: int | None = None
        self.on_publish = lambda: None
        self.on_stage = lambda: None
        self.descriptors: list[int] = []
        self.batches: list[int] = []

    @override
    def stage(self, key: str) -> Staged:
        self.on_stage()
        staged, store = super().stage(key), self
        self.descriptors.append(staged._descriptor)
        append = staged.append

        def watched_append(batch: Sequence[Any]) -> None:
            store.writing.set()
            assert store.hold.wait(20)
            if store.failing:
                raise store.failing
            append(batch)

        staged.append = watched_append  # type: ignore[method-assign]
        return staged

    @override
    def publish(self, batch: Sequence[Staged]) -> list[UnavailableError | None]:
        self.batches.append(len(batch))
        try:
            self.on_publish()
        except UnavailableError as error:
            return [error] * len(batch)
        return super().publish(batch)

    @override
    def free_bytes(self) -> int | None:  # type: ignore[override]
        return super().free_bytes() if self.free is None else self.free

    def staged_files(self) -> list[Path]:
        return [*(self.root / "staging").iterdir()]

    def objects(self) -> list[str]:
        return [*self.keys(older_than_seconds=-60)]


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "storage")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.fixture
def make(database, store, pool, principal):
    """Makes the intake of the first organization, with other limits if wanted."""

    def made(**limits: int) -> Any:
        return Intake(database, store, limits=replace(LIMITS, **limits), pool=pool).for_(principal)

    return made


def submission(name: str = "call.wav", **values: Any) -> Submission:
    facts = {"file_name": name, "media_type": MediaType.AUDIO, "metadata_sent": "{}"}
    return Submission(**{**facts, **values})


async def send(intake: Any, content: bytes, sent: Submission, extension: str = ".wav") -> Any:
    async with intake.stage(extension) as stage:
        await stage.append(content)
        await stage.finish()
        await intake.check(sent, stage)
        return await intake.commit(stage, sent)


def count(database: Any, table: sa.Table) -> int:
    with database.read(None) as scope:
        return scope.row(sa.select(sa.func.count()).select_from(table))[0]


@contextmanager
def refused(*reasons: Why) -> Iterator[Any]:
    with pytest.raises(RefusedError) as caught:
        yield caught
    assert [fault.why for fault in caught.value.faults] == list(reasons)


# Promises


def test_a_committed_upload_has_its_row_its_bytes_its_audit_row_and_its_event(
    make, store, database
):
    accepted = asyncio.run(send(make(), WAV, submission()))
    assert accepted.sha256 == hashlib.sha256(WAV).digest()
    assert accepted.size_bytes == len(WAV)
    assert b"".join(store.read(str(accepted.id))) == WAV
    assert not store.staged_files()
    with database.read(None) as scope:
        row = scope.row(sa.select(tables.interaction))
        assert (row.id, row.status, row.sha256) == (accepted.id, "received", accepted.sha256)
        assert scope.row(sa.select(tables.audit)).actor == "client:first-client"
        assert scope.row(sa.select(tables.event)).kind == "interaction.received"


def test_the_agent_and_the_node_are_joined_and_the_agent_assigned(make, database, principal):
    directory = Directory(database).for_(principal)
    node = directory.create_node(NewNode(name="Desk", code="D"))
    agent = directory.create_agent(
        NewAgent(first_name="A", last_name="B", email="a@example.org", code="7")
    )
    sent = submission(hierarchy_code="D", agent=AgentSent(code="7"), apply_hierarchy_to_agent=True)
    asyncio.run(send(make(), WAV, sent))
    with database.read(None) as scope:
        row = scope.row(sa.select(tables.interaction))
        assert (row.agent_id, row.hierarchy_node_id) == (agent.id, node.id)
        assert scope.row(sa.select(tables.agent_node)).node_id == node.id


# Refusals


def test_everything_that_the_records_tell_is_refused_at_once(make):
    intake = make()

    async def twice() -> None:
        await send(intake, WAV, submission())
        wrong = submission(locale="fr-FR", hierarchy_id=uuid4())
        with refused(Why.NAME_TAKEN, Why.LOCALE, Why.HIERARCHY):
            await intake.check(wrong)
        with refused(Why.LOCALE, Why.HIERARCHY):
            await intake.check(replace(wrong, file_name="free.wav", hierarchy_code="x"))

    asyncio.run(twice())


@pytest.mark.parametrize(
    ("content", "duplicate"), [(WAV, "identical"), (WAV + b"!", "different"), (None, "unknown")]
)
def test_a_taken_name_tells_who_has_it_and_how_the_bytes_compare(make, content, duplicate):
    intake = make()

    async def twice() -> None:
        first = await send(intake, WAV, submission())
        with refused(Why.NAME_TAKEN) as caught:
            if content is None:
                await intake.check(submission())
            else:
                await send(intake, content, submission())
        assert caught.value.existing_id == first.id
        assert caught.value.duplicate == duplicate

    asyncio.run(twice())


def test_of_two_uploads_of_one_name_at_once_one_wins_and_the_others_bytes_go(
    make, store, database
):
    intake = make()

    async def both() -> None:
        async with intake.stage(".wav") as one, intake.stage(".wav") as other:
            for stage in (one, other):
                await stage.append(WAV)
                await stage.finish()
                await intake.check(submission(), stage)
            first = await intake.commit(one, submission())
            with refused(Why.NAME_TAKEN) as caught:
                await intake.commit(other, submission())
            assert caught.value.existing_id == first.id
            assert store.objects() == [str(first.id)]

    asyncio.run(both())
    assert count(database, tables.interaction) == count(database, tables.event) == 1
    assert not store.staged_files()


@pytest.mark.parametrize(
    ("content", "extension", "why"),
    [
        (b"", ".wav", Why.EMPTY_FILE),
        (b"<?xml version='1.0'?><Error/>" * 200, ".wav", Why.NOT_MEDIA),
        (b"<html>", ".mp3", Why.NOT_MEDIA),
        (b"PK\x03\x04" + bytes(5000), ".mp3", Why.NOT_MEDIA),
    ],
)
def test_content_that_is_no_media_is_not_committed(make, store, database, content, extension, why):  # noqa: PLR0917 - fixtures
    with refused(why):
        asyncio.run(send(make(), content, submission(), extension))
    assert not store.staged_files()
    assert not store.objects()
    assert count(database, tables.interaction) == 0


def test_another_container_than_the_name_says_is_taken_with_a_warning(make, database):
    asyncio.run(send(make(), WAV * 10, submission("call.mp3"), ".mp3"))
    with database.read(None) as scope:
        (warning,) = scope.row(sa.select(tables.interaction)).warnings
    assert warning["code"] == "container_differs"


@pytest.mark.parametrize(
    ("content", "extension"), [(bytes(range(256)) * 40, ".wav"), (b"PK\x03\x04" * 9, ".zip")]
)
def test_unknown_content_and_archives_named_so_are_taken(make, content, extension):
    accepted = asyncio.run(send(make(), content, submission(f"x{extension}"), extension))
    assert accepted.size_bytes == len(content)


# Before the first byte


def test_an_announced_size_over_the_limit_is_refused(make):
    intake = make(upload_bytes=10)
    assert intake.max_upload_bytes == 10
    with pytest.raises(TooLargeError, match="more than 10 bytes"):
        asyncio.run(intake.admit(11))
    asyncio.run(intake.admit(10))
    asyncio.run(intake.admit(None))


def test_an_upload_that_would_touch_the_reserve_is_refused(make, store):
    store.free = 1000
    intake = make(reserve_bytes=900)
    asyncio.run(intake.admit(100))
    with pytest.raises(UnavailableError) as caught:
        asyncio.run(intake.admit(101))
    assert caught.value.retry_after_seconds == staging.FULL_RETRY_SECONDS


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_an_upload_is_refused_while_the_database_is_away(make, database, monkeypatch):
    def away(*_: Any) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(database, "read", away)
    with pytest.raises(UnavailableError):
        asyncio.run(make().admit(1))


# While bytes come


sqlite_alone = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@sqlite_alone
def test_a_file_over_the_limit_is_refused_as_it_comes(make, store):
    async def much() -> None:
        async with make(upload_bytes=100).stage(".wav") as stage:
            await stage.append(bytes(100))
            await stage.append(b"")
            with pytest.raises(TooLargeError):
                await stage.append(b"!")

    asyncio.run(much())
    assert not store.staged_files()


@sqlite_alone
def test_the_reserve_is_looked_at_again_in_the_middle_of_an_upload(make, store):
    async def fill() -> None:
        async with make(reserve_bytes=1000).stage(".wav") as stage:
            store.free = 999
            await stage.append(bytes(MEBIBYTE))
            with pytest.raises(UnavailableError, match="no room"):
                await stage.finish()

    asyncio.run(fill())
    assert not store.staged_files()


@sqlite_alone
def test_what_was_found_a_moment_ago_admits_without_a_thread(
    database, store, principal, monkeypatch
):
    """And everything else asks again: a quota, a reserve that is near, what is old."""
    quota = Quota()
    pool = ThreadPoolExecutor(1)
    limits = replace(LIMITS, reserve_bytes=1000)
    made = Intake(database, store, limits=limits, pool=pool, known_quota=lambda _: quota)
    intake, stages = made.for_(principal), made._stages
    store.free = 5000
    asked: list[object] = []
    check = stages.check_reserve

    def checking(size_bytes: int) -> None:
        asked.append(size_bytes)
        check(size_bytes)

    monkeypatch.setattr(stages, "check_reserve", checking)

    def admit(least_bytes: int) -> int:
        """How often the storage was asked."""
        asked.clear()
        asyncio.run(intake.admit(least_bytes))
        return len(asked)

    assert admit(10) == 1
    assert admit(10) == 0
    assert admit(4000) == 1, "it may not fit"
    quota = Quota(uploads_at_once=3)
    assert admit(10) == 1
    quota = None
    assert admit(10) == 1
    quota = Quota()
    assert admit(10) == 0
    monkeypatch.setattr(staging, "ROOM_SECONDS", 0.0)
    assert admit(10) == 1
    monkeypatch.setattr(staging, "ROOM_SECONDS", 60.0)
    assert admit(10) == 0
    monkeypatch.setattr(core, "LATELY_SECONDS", 0.0)
    assert admit(10) == 1
    pool.shutdown()


@sqlite_alone
def test_a_store_that_offers_no_measure_has_no_reserve(make, store, monkeypatch):
    monkeypatch.setattr(store, "free_bytes", lambda: None)
    asyncio.run(make(reserve_bytes=1 << 60).admit(1 << 20))


@sqlite_alone
def test_what_all_uploads_hold_in_memory_is_bounded(make, store):
    """With the storage held up, no upload gets more than the budget and its own last chunk in."""
    budget, chunk, uploads = 2 * MEBIBYTE, 64 * 1024, 8
    intake = make(buffer_bytes=budget)
    stages = intake._stages
    most = 0

    async def feed() -> None:
        nonlocal most
        async with intake.stage(".wav") as stage:
            for _ in range(24):
                await stage.append(bytes(chunk))
                most = max(most, stages.held_bytes)
            await stage.finish()

    async def all_of_them() -> None:
        store.hold.clear()
        feeding = [asyncio.ensure_future(feed()) for _ in range(uploads)]
        await asyncio.sleep(0.5)
        assert budget < stages.held_bytes <= budget + uploads * chunk
        store.hold.set()
        await asyncio.gather(*feeding)

    asyncio.run(all_of_them())
    assert most <= budget + uploads * chunk
    assert stages.held_bytes == 0


@sqlite_alone
def test_bytes_are_written_while_more_come_and_stay_in_order(make, store):
    content = b"".join(bytes([number]) * 100_000 for number in range(40))

    async def overlap() -> Any:
        intake = make()
        async with intake.stage(".wav") as stage:
            store.hold.clear()
            await stage.append(content[:2_000_000])
            await asyncio.to_thread(store.writing.wait, 20)
            await stage.append(content[2_000_000:2_500_000])  # taken while the others are written
            store.hold.set()
            await stage.append(content[2_500_000:])
            await stage.finish()
            return await intake.commit(stage, submission())

    accepted = asyncio.run(overlap())
    assert b"".join(store.read(str(accepted.id))) == content


@sqlite_alone
def test_a_failing_storage_is_told_and_leaves_nothing(make, store):
    intake = make()

    async def fail() -> None:
        store.failing = UnavailableError("full", retry_after_seconds=60)
        async with intake.stage(".wav") as stage:
            await stage.append(bytes(2 * MEBIBYTE))
            with pytest.raises(UnavailableError, match="full"):
                await stage.finish()

    asyncio.run(fail())
    assert not store.staged_files()
    assert intake._stages.held_bytes == 0


@sqlite_alone
@pytest.mark.parametrize("failing", [None, UnavailableError("full")])
def test_a_cancelled_upload_waits_for_its_write_and_leaves_nothing(make, store, failing):
    intake = make()

    async def upload() -> None:
        async with intake.stage(".wav") as stage:
            await stage.append(bytes(2 * MEBIBYTE))
            await stage.append(bytes(1000))
            await stage.finish()

    async def cancel() -> None:
        store.hold.clear()
        store.failing = failing
        uploading = asyncio.ensure_future(upload())
        await asyncio.to_thread(store.writing.wait, 20)
        uploading.cancel()
        await asyncio.sleep(0.05)
        assert store.staged_files()
        store.hold.set()
        with pytest.raises(asyncio.CancelledError):
            await uploading

    asyncio.run(cancel())
    assert not store.staged_files()
    assert intake._stages.held_bytes == 0


@sqlite_alone
@pytest.mark.parametrize("failing", [None, UnavailableError("full")])
def test_an_upload_that_is_cancelled_while_its_file_is_opened_leaves_nothing(
    database, store, principal, failing
):
    opening = threading.Event()

    def open_slowly() -> None:
        opening.set()
        assert store.hold.wait(20)
        if failing:
            raise failing

    async def upload(intake: Any) -> None:
        async with intake.stage(".wav") as stage:
            await stage.append(bytes(MEBIBYTE))
            await stage.finish()

    async def cancel(intake: Any) -> None:
        store.hold.clear()
        store.on_stage = open_slowly
        uploading = asyncio.ensure_future(upload(intake))
        await asyncio.to_thread(opening.wait, 20)
        uploading.cancel()
        await asyncio.sleep(0)
        store.hold.set()
        with pytest.raises(asyncio.CancelledError):
            await uploading

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(cancel(Intake(database, store, limits=LIMITS, pool=pool).for_(principal)))
    assert not store.staged_files()
    assert len(store.descriptors) == (0 if failing else 1)
    for descriptor in store.descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@sqlite_alone
def test_an_upload_that_the_process_itself_cancels_at_its_end_leaves_nothing(make, store):
    async def upload() -> None:
        async with make().stage(".wav") as stage:
            await stage.append(bytes(MEBIBYTE))
            await stage.finish()
            await asyncio.sleep(60)

    async def end() -> None:
        uploading = asyncio.ensure_future(upload())
        while not store.staged_files():  # noqa: ASYNC110 - another thread's work
            await asyncio.sleep(0.01)
        uploading.cancel()
        await asyncio.sleep(0)  # and asyncio.run cancels everything once more

    asyncio.run(end())
    wait_until(lambda: not store.staged_files())


@sqlite_alone
def test_a_write_that_the_loop_itself_cancels_is_no_failure_nobody_saw(make, store, caplog):
    async def upload() -> None:
        async with make().stage(".wav") as stage:
            await stage.append(bytes(2 * MEBIBYTE))
            await asyncio.to_thread(store.writing.wait, 20)
            assert stage._writing is not None
            stage._writing.cancel()
            await asyncio.sleep(0)
            store.hold.set()
            raise KeyError

    store.hold.clear()
    with pytest.raises(KeyError):
        asyncio.run(upload())
    assert not caplog.records


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    chunks=st.lists(
        st.binary(max_size=3000) | st.integers(1, 40).map(lambda n: bytes([n]) * n * 9000)
    ),
    budget=st.sampled_from([1, 5000, MEBIBYTE, 64 * MEBIBYTE]),
)
@sqlite_alone
def test_whatever_the_chunks_the_bytes_kept_are_those_that_came(make, store, chunks, budget):
    content = WAV + b"".join(chunks)

    async def upload() -> Any:
        intake = make(buffer_bytes=budget)
        async with intake.stage(".wav") as stage:
            for chunk in (WAV, *chunks):
                await stage.append(chunk)
            await stage.finish()
            return await intake.commit(stage, submission(f"{stage.id}.wav"))

    accepted = asyncio.run(upload())
    assert b"".join(store.read(str(accepted.id))) == content
    assert accepted.sha256 == hashlib.sha256(content).digest()
    assert accepted.size_bytes == len(content)


# At the end


@sqlite_alone
def test_a_stage_is_committed_once_and_only_when_it_is_finished(make):
    async def wrong() -> None:
        intake = make()
        async with intake.stage(".wav") as stage:
            await stage.append(WAV)
            with pytest.raises(RuntimeError):
                await intake.commit(stage, submission())
            assert stage.sha256() is None
            await stage.finish()
            await intake.commit(stage, submission())
            with pytest.raises(RuntimeError):
                await intake.commit(stage, submission())

    asyncio.run(wrong())


@sqlite_alone
def test_what_is_shorter_than_a_batch_meets_the_storage_only_when_it_is_committed(make, store):
    async def upload() -> None:
        intake = make()
        async with intake.stage(".wav") as stage:
            await stage.append(WAV)
            await stage.finish()
            assert intake._stages.held_bytes == len(WAV)
            assert not store.staged_files()
            assert stage.sha256() == hashlib.sha256(WAV).digest()
            await intake.commit(stage, submission())
            assert intake._stages.held_bytes == 0
        async with intake.stage(".wav") as stage:
            await stage.append(WAV)
        assert intake._stages.held_bytes == 0

    asyncio.run(upload())
    assert len(store.objects()) == 1


@sqlite_alone
def test_nothing_stays_if_the_object_cannot_be_published(make, store, database):
    def broken() -> None:
        raise UnavailableError("broken")

    store.on_publish = broken
    with pytest.raises(UnavailableError):
        asyncio.run(send(make(), WAV, submission()))
    assert not store.staged_files()
    assert not store.objects()
    assert count(database, tables.interaction) == 0


def test_if_the_database_goes_away_at_the_commit_the_object_is_left_to_the_sweeper(
    make, store, database, monkeypatch
):
    """Nobody can know whether the commit happened: the bytes may be promised."""
    real = database.share

    def away(*args: Any) -> None:
        real(*args)
        raise UnavailableError("away")

    monkeypatch.setattr(database, "share", away)
    with pytest.raises(UnavailableError):
        asyncio.run(send(make(), WAV, submission()))
    assert len(store.objects()) == 1
    assert count(database, tables.interaction) == 1


def test_a_commit_runs_to_its_end_when_its_caller_is_cancelled(make, store, database):
    publishing, go = threading.Event(), threading.Event()

    def slow() -> None:
        publishing.set()
        assert go.wait(20)

    store.on_publish = slow

    async def cancel() -> None:
        uploading = asyncio.ensure_future(send(make(), WAV, submission()))
        await asyncio.to_thread(publishing.wait, 20)
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
        go.set()
        while not count(database, tables.interaction):  # noqa: ASYNC110 - another thread's work
            await asyncio.sleep(0.01)

    asyncio.run(cancel())
    (key,) = store.objects()
    assert b"".join(store.read(key)) == WAV


@sqlite_alone
def test_a_commit_that_waits_for_a_thread_runs_too_when_its_caller_is_cancelled(
    make, store, database, pool
):
    async def cancel() -> None:
        intake, go = make(), threading.Event()
        async with intake.stage(".wav") as stage:
            await stage.append(WAV)
            await stage.finish()
            busy = [pool.submit(go.wait, 20) for _ in range(4)]
            committing = asyncio.ensure_future(intake.commit(stage, submission()))
            await asyncio.sleep(0.05)
            committing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await committing
            go.set()
            while not count(database, tables.interaction):
                assert all(one.result(20) for one in busy)
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(cancel(), 20))
    assert len(store.objects()) == 1


@sqlite_alone
def test_a_node_that_went_away_after_the_check_refuses_the_commit(make, store):
    async def late() -> None:
        intake = make()
        async with intake.stage(".wav") as stage:
            await stage.append(WAV)
            await stage.finish()
            with refused(Why.HIERARCHY) as caught:
                await intake.commit(stage, submission(hierarchy_code="gone"))
            assert isinstance(caught.value.faults[0], Fault)

    asyncio.run(late())
    assert not store.objects()


# What waits is kept together


class Held:
    """Holds up whatever is being published, and then lets all of it go on."""

    def __init__(self, store: Watched) -> None:
        self.entered = 0
        self.go = threading.Event()
        store.on_publish = self.wait

    def wait(self) -> None:
        self.entered += 1
        assert self.go.wait(20)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for another thread's work."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def crowd(intake: Any, held: Held, *uploads: Coroutine[Any, Any, Any]) -> list[Any]:
    """What becomes of uploads that wait while two others are published."""
    before = []
    for number, name in enumerate("ab", start=1):
        before.append(asyncio.ensure_future(send(intake, WAV, submission(f"{name}.wav"))))
        await until(lambda number=number: held.entered == number)
    sending = [asyncio.ensure_future(upload) for upload in uploads]
    await until(lambda: len(intake._commits._waiting) == len(uploads))
    held.go.set()
    return await asyncio.gather(*before, *sending, return_exceptions=True)


async def named_crowd(intake: Any, held: Held) -> list[str]:
    sending = (send(intake, WAV, submission(name)) for name in NAMES[2:])
    return [kept.file_name for kept in await crowd(intake, held, *sending)]


NAMES = [f"{letter}.wav" for letter in "abcdefg"]


@sqlite_alone
def test_what_waits_is_kept_together(make, store, database):
    assert asyncio.run(named_crowd(make(), Held(store))) == NAMES
    assert sorted(store.batches) == [1, 1, 5]
    assert len(store.objects()) == count(database, tables.interaction) == 7


@sqlite_alone
def test_but_no_more_than_a_bunch_at_a_time(make, store, monkeypatch):
    monkeypatch.setattr(commits, "TOGETHER", 3)
    assert asyncio.run(named_crowd(make(), Held(store))) == NAMES
    assert sorted(store.batches) == [1, 1, 2, 3]


def test_many_at_once_are_all_kept(make, store, database):
    """Where each has a transaction of its own, none waits for another."""

    async def at_once() -> list[Any]:
        intake = make()
        return await asyncio.gather(*(send(intake, WAV, submission(name)) for name in NAMES))

    assert [one.file_name for one in asyncio.run(at_once())] == NAMES
    assert sum(store.batches) == 7
    assert database.is_sqlite or store.batches == [1] * 7


@sqlite_alone
def test_of_what_is_kept_together_each_fails_by_itself(make, store, database, monkeypatch):
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if os.stat(descriptor).st_size == 50:
            raise OSError(errno.EIO, "input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)

    async def another_digest(intake: Any) -> Any:
        async with intake.stage(".wav", claimed=bytes(32)) as stage:
            await stage.append(WAV)
            await stage.finish()
            return await intake.commit(stage, submission("digest.wav"))

    async def mixed() -> list[Any]:
        intake = make()
        uploads = (
            send(intake, WAV, submission("good.wav")),
            another_digest(intake),
            send(intake, WAV[:50], submission("unsynced.wav")),
            send(intake, WAV, submission("good.wav")),
            send(intake, WAV, submission("last.wav")),
        )
        return (await crowd(intake, Held(store), *uploads))[2:]

    good, digest, unsynced, twice, last = asyncio.run(mixed())
    assert (good.file_name, last.file_name) == ("good.wav", "last.wav")
    assert [fault.why for fault in digest.faults] == [Why.DIGEST_MISMATCH]
    assert isinstance(unsynced, UnavailableError)
    assert [fault.why for fault in twice.faults] == [Why.NAME_TAKEN]
    assert len(store.objects()) == count(database, tables.interaction) == 4
    assert not store.staged_files()


@sqlite_alone
def test_what_nobody_expected_is_told_to_all_and_ends_nothing_else(make, store, monkeypatch):
    def broken() -> None:
        raise ZeroDivisionError

    async def meet_it() -> Any:
        intake = make()
        store.on_publish = broken
        sending = (send(intake, WAV, submission(name)) for name in NAMES)
        told = await asyncio.gather(*sending, return_exceptions=True)
        assert [type(one) for one in told] == [ZeroDivisionError] * 7
        store.on_publish = lambda: None
        return await send(intake, WAV, submission("next.wav"))

    assert asyncio.run(meet_it()).file_name == "next.wav"


def test_what_waited_when_a_thread_died_is_kept_with_the_next(make):
    async def die_once() -> list[Any]:
        intake = make()
        following = intake._commits._next

        def die() -> None:
            intake._commits._next = following
            raise MemoryError

        intake._commits._next = die
        first = asyncio.ensure_future(send(intake, WAV, submission("first.wav")))
        await until(lambda: intake._commits._next == following)
        await until(lambda: not intake._commits._running)
        return await asyncio.gather(first, send(intake, WAV, submission("next.wav")))

    kept = asyncio.run(die_once())
    assert [one.file_name for one in kept] == ["first.wav", "next.wav"]


def test_what_no_thread_can_take_is_not_kept_later(make, database, pool, monkeypatch):
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def refuse_once() -> None:
        intake = make()
        async with intake.stage(".wav") as stage:
            await stage.append(WAV)
            await stage.finish()
            with monkeypatch.context() as patch:
                patch.setattr(pool, "submit", refuse)
                with pytest.raises(RuntimeError, match="new thread"):
                    await intake.commit(stage, submission("refused.wav"))
        await send(intake, WAV, submission("next.wav"))

    asyncio.run(refuse_once())
    assert count(database, tables.interaction) == 1


def test_a_thread_that_serves_many_speaks_for_none_and_each_row_for_its_own(make, store, database):
    told: list[telemetry.Origin] = []
    store.on_publish = lambda: told.append(telemetry.origin.get())

    async def upload(intake: Any, name: str) -> None:
        telemetry.origin.set(telemetry.Origin(name))
        await send(intake, WAV, submission(name))

    async def both() -> None:
        intake = make()
        await asyncio.gather(*(upload(intake, name) for name in NAMES[:2]))

    asyncio.run(both())
    assert set(told) == {telemetry.Origin()}
    with database.read(None) as scope:
        rows = scope.rows(sa.select(tables.audit.c.request_id))
    assert {row.request_id for row in rows} == set(NAMES[:2])


def test_uploads_whose_loop_is_gone_are_kept_all_the_same(make, store, database):
    """Those, too, that wait for others."""
    held = Held(store)

    async def leave() -> None:
        intake, sending = make(), []
        for number in (1, 2, 3):
            upload = send(intake, WAV, submission(f"{number}.wav"))
            sending.append(asyncio.ensure_future(upload))
            await until(lambda begun=number: held.entered + len(intake._commits._waiting) == begun)
        for one in sending:
            one.cancel()

    asyncio.run(leave())
    held.go.set()
    wait_until(lambda: count(database, tables.interaction) == 3)
    wait_until(lambda: not store.staged_files())
