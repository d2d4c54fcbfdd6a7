"""A retry with an idempotency key is safe: it is kept once, and answered as the first was."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import structlog

from contract.forms import (
    WAV,
    body,
    file_part,
    form,
    meta,
    metadata_part,
    part,
    raw_part,
    wav,
)
from contract.serving import Service
from contract.test_upload_precedence import TAKEN
from earmark.database import tables
from earmark.database.idempotency import Leases
from earmark.errors import UnavailableError
from earmark.intake import OrganizationIntake, keyed
from earmark.model import Quota, Usage, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from contract.serving import Answer, Caller
    from earmark.database import Database
    from earmark.model import Accepted

ours = pytest.mark.origin("ours")

KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
PROBLEM = "application/problem+json"
IN_USE = "The first upload with this Idempotency-Key is still on its way. Retry in 2 s."
MALFORMED = "Invalid Idempotency-Key. You must send one key of at most 255 characters, or none."
MATTER = ("repr-digest", "earmark-receipt", "content-type")


@pytest.fixture
def make(database: Database, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Makes services on one database and one store: processes, as far as keys can tell."""
    made: list[Service] = []

    def new(**options: Any) -> Service:
        made.append(Service(database, tmp_path / "storage", **options))
        return made[-1]

    yield new
    for service in made:
        service.close()


@pytest.fixture
def both(make: Callable[..., Service]) -> Caller:
    """A client of an empty service on each database."""
    return make().caller()


def at(caller: Caller, service: Service) -> Caller:
    """The same client at another process."""
    return type(caller)(service, caller.principal, caller.token)


def send(caller: Caller, sent: bytes, key: str = KEY, **headers: str) -> Answer:
    return caller.upload(sent, idempotency_key=key, **headers)


def code(caller: Caller, sent: bytes, key: str = KEY) -> tuple[int, str]:
    answer = send(caller, sent, key, accept=PROBLEM)
    return answer.status, answer.json.get("code", "")


def demand_same(again: Answer, first: Answer) -> None:
    assert (again.status, again.body) == (200, first.body)
    assert [again.headers[name] for name in MATTER] == [first.headers[name] for name in MATTER]


# The same upload


@ours
@pytest.mark.parametrize("file_first", [True, False])
def test_the_same_upload_with_the_same_key_is_kept_once_and_answered_alike(
    both: Caller, file_first: bool
) -> None:
    sent = form(meta(), file_first=file_first)
    first = send(both, sent)
    kept = both.service.kept()
    for _ in range(2):
        demand_same(send(both, sent), first)
    assert both.service.kept() == kept
    assert (kept.rows, kept.objects, kept.staged) == (1, 1, 0)


@ours
def test_a_key_counts_the_same_with_and_without_quotation_marks(both: Caller) -> None:
    sent = form(meta())
    first = send(both, sent, f'"{KEY}"')
    demand_same(send(both, sent, KEY), first)
    demand_same(send(both, sent, f'  "{KEY}" '), first)


@ours
def test_metadata_that_say_the_same_are_the_same(both: Caller) -> None:
    facts = meta(AgentCode="7", InteractionDate="2022-03-18T21:52:26Z", Name="")
    facts["ExtendedMetadataValues"] = {"a": 1, "b": [2]}
    first = send(both, form(facts))
    others = {
        "uploadtype": "AUDIO",
        "extendedmetadata": [{"b": [2]}, {"a": 1}],
        "interactionDate": "2022-03-18T21:52:26.000+00:00",
        "FILENAME": "/" + facts["FileName"],
        "agentcode": 7,
        "localeId": 1033,
        "somethingElse": None,
    }
    other = json.dumps(others, indent=3).encode()
    demand_same(send(both, form(other, file_first=True)), first)


@ours
def test_another_process_answers_alike(make: Callable[..., Service]) -> None:
    caller, sent = make().caller(), form(meta())
    first = send(caller, sent)
    demand_same(send(at(caller, make()), sent), first)


@ours
@pytest.mark.parametrize("size", [0, 1, keyed.BATCH_BYTES - len(WAV), 3_000_000])
def test_a_retry_of_any_size_is_hashed_and_not_kept(both: Caller, size: int) -> None:
    whole = form(meta(), WAV + bytes(size))
    pieces = [whole[start : start + 65_536] for start in range(0, len(whole), 65_536)]
    first = both.upload(pieces, idempotency_key=KEY)
    demand_same(both.upload(pieces, idempotency_key=KEY), first)
    assert both.service.kept().staged == 0


# Another upload


@ours
@pytest.mark.parametrize("file_first", [True, False])
@pytest.mark.parametrize("content", [wav(0.005), wav(0.02), b"", WAV[:-1] + b"\0"])
def test_another_file_with_the_same_key_is_422(
    both: Caller, content: bytes, file_first: bool
) -> None:
    facts = meta()
    first = send(both, form(facts))
    kept = both.service.kept()
    sent = form(facts, content, file_first=file_first)
    assert code(both, sent) == (422, "idempotency_key_reused")
    told = send(both, sent)
    assert told.text.startswith("This Idempotency-Key was used for an upload with other metadata")
    assert both.service.kept() == kept
    demand_same(send(both, form(facts)), first)


@ours
@pytest.mark.parametrize("file_first", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{"FileName": "other.wav"}, {"Name": "Ann"}, {"ExtendedMetadataValues": {"a": "1"}}],
    ids=str,
)
def test_other_metadata_with_the_same_key_are_422(
    both: Caller, changes: dict[str, Any], file_first: bool
) -> None:
    facts = meta(ExtendedMetadataValues={"a": 1})
    assert send(both, form(facts)).status == 200
    sent = form({**facts, **changes}, file_first=file_first)
    assert code(both, sent) == (422, "idempotency_key_reused")
    assert both.service.kept().rows == 1


@ours
def test_a_longer_file_is_refused_as_soon_as_it_is_longer(both: Caller) -> None:
    facts = meta()
    assert send(both, form(facts)).status == 200
    longer = form(facts, WAV + b"\xff" * 1000)[:-200]  # cut off, so that its end is malformed
    assert code(both, longer) == (422, "idempotency_key_reused")


@ours
def test_a_retry_that_is_too_large_is_413_like_any_upload(make: Callable[..., Service]) -> None:
    caller = make(max_upload_bytes=2000).caller()
    facts = meta()
    assert send(caller, form(facts)).status == 200
    sent = form(facts, bytes(2001), file_first=True)
    assert send(caller, sent, content_length="").status == 413


@ours
def test_faults_of_the_form_are_told_before_the_key_is_compared(both: Caller) -> None:
    facts = meta()
    assert send(both, form(facts)).status == 200
    for file_first in (True, False):
        sent = form({**facts, "UploadType": "Fax"}, wav(0.02), file_first=file_first)
        assert code(both, sent) == (400, "upload_type_invalid")


# Digests


@ours
@pytest.mark.parametrize(
    ("content", "status"), [(WAV, 200), (wav(0.02), 422)], ids=["same", "other"]
)
def test_a_digest_answers_a_retry_before_its_file(
    both: Caller, content: bytes, status: int
) -> None:
    facts = metadata_part(meta())
    first = send(both, body(facts, file_part()))
    field = first.headers["repr-digest"]
    if content != WAV:
        other = send(both, form(meta(), content), "other").headers["repr-digest"]
        field = other
    header = 'Content-Disposition: form-data; name="file"; filename="sent.wav"'
    sent = body(facts, raw_part(header, f"Repr-Digest: {field}", data=content))[:-80]
    answer = send(both, sent)  # whose end is missing
    assert answer.status == status
    if status == 200:
        demand_same(answer, first)
        assert answer.headers["connection"] == "close"


@ours
def test_a_retry_whose_file_is_not_what_its_digest_says_is_told_so(both: Caller) -> None:
    facts = metadata_part(meta())
    field = send(both, body(facts, file_part())).headers["repr-digest"]
    header = 'Content-Disposition: form-data; name="file"; filename="sent.wav"'
    sent = body(raw_part(header, f"Repr-Digest: {field}", data=wav(0.02)), facts)
    assert code(both, sent) == (400, "digest_mismatch")


# While the first runs


@ours
def test_while_the_first_upload_runs_others_with_its_key_are_409(
    make: Callable[..., Service],
) -> None:
    service, other = make(), make()
    caller = service.caller()
    elsewhere, second = at(caller, other), service.caller()
    announced = {"content_length": "9000", "expect": "100-continue"}

    async def story() -> list[Answer]:
        async with service.intake.for_(caller.principal).keyed(KEY):
            return [
                await caller.uploading(b"", idempotency_key=KEY, **announced),
                await elsewhere.uploading(form(meta()), idempotency_key=KEY, accept=PROBLEM),
                await second.uploading(form(meta()), idempotency_key=KEY),
            ]

    early, there, anothers = service.runner.run(story())
    assert (early.status, early.text) == (409, IN_USE)
    assert (early.headers["retry-after"], early.headers["connection"]) == ("2", "close")
    assert (there.status, there.json["code"]) == (409, "idempotency_key_in_use")
    assert anothers.status == 200, "another client's key is another key"
    assert send(elsewhere, form(meta())).status == 200, "it is free as soon as the first ends"


@ours
def test_of_two_at_the_same_instant_in_two_processes_one_is_200_and_one_409(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, other = make(), make()
    caller = service.caller()
    elsewhere = at(caller, other)
    together = threading.Barrier(2)
    take = Leases.take

    def at_once(self: Leases, *args: Any) -> bool:
        together.wait(60)
        taken = take(self, *args)
        together.wait(60)  # or the first might be done before the other asks
        return taken

    monkeypatch.setattr(Leases, "take", at_once)
    sent = form(meta())

    async def race() -> list[Answer]:
        return await asyncio.gather(
            *(one.uploading(sent, idempotency_key=KEY) for one in (caller, elsewhere))
        )

    for _ in range(3):
        answers = sorted(service.runner.run(race()), key=lambda answer: answer.status)
        assert [answer.status for answer in answers] == [200, 409]
        assert answers[1].headers["retry-after"] == "2"
        demand_same(send(elsewhere, sent), answers[0])
        assert service.kept().rows == 1
        monkeypatch.setattr(Leases, "take", take)
        delete(caller, answers[0])
        forget(service.database)
        monkeypatch.setattr(Leases, "take", at_once)


def delete(caller: Caller, answer: Answer) -> None:
    assert caller.send("DELETE", f"/v1/interactions/{answer.json['id']}").status == 204


def forget(database: Database) -> None:
    with database.write(None) as scope:
        scope.run(sa.delete(tables.idempotency_key))


# Refusals


@ours
@pytest.mark.parametrize(
    ("refused", "options", "status"),
    [
        pytest.param({"UploadType": "None"}, {}, 400, id="metadata"),
        pytest.param({"HierarchyCode": "Nowhere"}, {}, 400, id="looked up"),
        pytest.param({"content": b""}, {}, 400, id="empty"),
        pytest.param({"content": b"<?xml version='1.0'?><Error/>"}, {}, 400, id="no media"),
        pytest.param({"cut": 30}, {}, 400, id="malformed"),
        pytest.param({"cut": 30}, {"gone": True}, 499, id="gone"),
        pytest.param({}, {"content_length": str(1 << 40)}, 413, id="too large"),
    ],
)
def test_a_refused_upload_is_not_replayed_and_frees_its_key_at_once(
    both: Caller, refused: dict[str, Any], options: dict[str, Any], status: int
) -> None:
    facts = meta()
    changes = {name: value for name, value in refused.items() if name[0].isupper()}
    sent = form({**facts, **changes}, refused.get("content", WAV))
    cut = refused.get("cut", 0)
    assert both.upload(sent[: len(sent) - cut], idempotency_key=KEY, **options).status == status
    taken = send(both, form(facts))
    assert taken.status == 200
    assert both.interaction(taken).file_name == facts["FileName"]


@ours
def test_a_taken_name_is_refused_whatever_the_key(both: Caller) -> None:
    sent = form(meta())
    assert send(both, sent).status == 200
    assert [both.upload(sent).text, send(both, sent, "another").text] == [TAKEN, TAKEN]


@ours
@pytest.mark.parametrize(
    "key",
    [
        *(" ", '""', "x" * 256, f'"{"x" * 256}"', "a,b", "a b", 'a"b', '"a', '"a" b', '"a";b'),
        *('"a\\n"', "a\\b", "caf\xe9", '"\xe9"', "a\0", '"a\x1f"', "\x7f", "a;b"),
    ],
    ids=ascii,
)
def test_a_wrong_key_is_400_and_not_repeated(both: Caller, key: str) -> None:
    answer = send(both, form(meta()), key)
    assert (answer.status, answer.text) == (400, MALFORMED)
    problem = send(both, b"", key, accept=PROBLEM, content_length="9", expect="100-continue")
    assert problem.json["code"] == "idempotency_key_malformed"
    assert problem.json["faults"][0]["field"] == "Idempotency-Key"
    assert both.service.kept().rows == 0


@ours
@pytest.mark.parametrize(
    "key", ["x" * 255, f'"{"x" * 255}"', '"a \\"b\\\\, c"', "!#$&'()*+-./:<=>"]
)
def test_any_other_key_is_one(both: Caller, key: str) -> None:
    sent = form(meta())
    first = send(both, sent, key)
    demand_same(send(both, sent, key), first)


@ours
def test_a_key_that_comes_twice_is_400(both: Caller) -> None:
    # Two names that differ in case are two headers of one name on the wire.
    answer = both.upload(form(meta()), idempotency_key=KEY, IDEMPOTENCY_KEY=KEY)
    assert (answer.status, answer.text) == (400, MALFORMED)


# Whose key it is, and for how long


@ours
def test_a_key_is_of_one_client(both: Caller) -> None:
    sent = form(meta())
    first = send(both, sent)
    colleague, stranger = both.service.caller(), both.service.caller("Second")
    assert send(colleague, sent).text == TAKEN
    theirs = send(stranger, sent)
    assert theirs.status == 200
    assert theirs.json["id"] != first.json["id"]
    other = send(colleague, form(meta()))
    assert other.status == 200
    demand_same(send(both, sent), first)


@ours
def test_what_was_deleted_is_not_brought_back_by_a_late_retry(both: Caller) -> None:
    sent = form(meta())
    delete(both, send(both, sent))
    answer = send(both, sent, accept=PROBLEM)
    assert (answer.status, answer.json["code"]) == (410, "deleted")
    assert both.service.kept().rows == 0
    assert send(both, sent, "another").status == 200


@ours
def test_after_a_day_a_key_means_nothing(both: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = meta()
    first = send(both, form(facts))
    day = timedelta(hours=24)
    monkeypatch.setattr(keyed, "now", lambda: now() + day - timedelta(minutes=1))
    keyed.forget_ended(both.service.database)
    demand_same(send(both, form(facts)), first)
    monkeypatch.setattr(keyed, "now", lambda: now() + day)
    assert send(both, form(facts)).text == TAKEN
    other = send(both, form(meta()))
    assert other.status == 200
    assert keys(both.service.database) == 1
    monkeypatch.setattr(keyed, "PURGE_BATCH", 1)
    assert send(both, form(meta()), "another").status == 200
    monkeypatch.setattr(keyed, "now", lambda: now() + 2 * day)
    keyed.forget_ended(both.service.database)
    assert keys(both.service.database) == 0


def keys(database: Database) -> int:
    with database.read(None) as scope:
        return len(scope.rows(sa.select(tables.idempotency_key)))


# Crashes


@ours
def test_a_crash_between_commit_and_answer_is_mended_by_the_retry(
    both: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = OrganizationIntake.commit

    async def crash(self: OrganizationIntake, *args: Any, **options: Any) -> Accepted:
        await commit(self, *args, **options)
        raise RuntimeError("killed")

    sent = form(meta())
    monkeypatch.setattr(OrganizationIntake, "commit", crash)
    monkeypatch.setattr(Leases, "release", lambda *_: None)  # as a dead process does
    assert send(both, sent).status == 500
    assert leases(both.service.database) == 1
    monkeypatch.undo()
    again = send(both, sent)
    assert again.status == 200
    assert both.service.kept().rows == 1
    demand_same(send(both, sent), again)


@ours
def test_a_key_is_written_by_the_transaction_that_keeps_the_upload(
    both: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> bool:
        raise RuntimeError("killed")

    sent = form(meta())
    monkeypatch.setattr("earmark.database.idempotency.put", fail)
    assert send(both, sent).status == 500
    assert both.service.kept().rows == 0, "neither without the other"
    monkeypatch.undo()
    assert send(both, sent).status == 200


@ours
def test_a_dead_process_frees_its_key_when_its_lease_is_over(
    both: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, sent = both.service.database, form(meta())
    intake = both.service.intake.for_(both.principal)

    async def die() -> None:
        await intake.keyed(KEY).__aenter__()

    both.service.runner.run(die())
    assert send(both, sent).status == 409
    expire(database)
    assert send(both, sent).status == 200
    assert leases(database) == 0


@ours
def test_a_process_that_slept_while_another_had_its_key_keeps_nothing(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, other = make(), make()
    caller = service.caller()
    elsewhere, database = at(caller, other), service.database
    commit, answers = OrganizationIntake.commit, []

    async def late(self: OrganizationIntake, *args: Any, **options: Any) -> Accepted:
        monkeypatch.setattr(OrganizationIntake, "commit", commit)
        expire(database)
        answers.append(await elsewhere.uploading(form(meta()), idempotency_key=KEY))
        return await commit(self, *args, **options)

    monkeypatch.setattr(OrganizationIntake, "commit", late)
    slept = send(caller, form(meta()))
    assert (answers[0].status, slept.status, slept.text) == (200, 409, IN_USE)
    kept = service.kept()
    assert (kept.rows, kept.objects, kept.staged) == (1, 1, 0)


@ours
def test_a_key_is_held_for_as_long_as_its_upload_lasts(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "KEEP_SECONDS", 0.01)
    service = make()
    caller, database = service.caller(), service.database
    kept = threading.Event()
    keep = Leases.keep

    def keeping(self: Leases, holders: Any) -> None:
        keep(self, holders)
        if holders:
            kept.set()

    async def story() -> None:
        async with service.intake.tended():
            async with service.intake.for_(caller.principal).keyed(KEY):
                expire(database)
                monkeypatch.setattr(Leases, "keep", keeping)
                assert await asyncio.to_thread(kept.wait, 60)
                assert (await caller.uploading(b"", idempotency_key=KEY)).status == 409
            assert leases(database) == 0

    service.runner.run(story())


@ours
def test_what_dead_processes_left_is_forgotten(
    make: Callable[..., Service],
) -> None:
    service = make()
    caller, database = service.caller(), service.database
    intake = service.intake.for_(caller.principal)

    async def story() -> None:
        await intake.keyed("dead").__aenter__()
        expire(database)
        async with intake.keyed(KEY) as living:
            Leases(database).keep([living._holder])
            assert leases(database) == 1

    service.runner.run(story())


@ours
def test_who_leaves_while_the_key_is_taken_leaves_it_free(
    both: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, freed = threading.Event(), threading.Event(), threading.Event()
    take, release = Leases.take, Leases.release

    def slow(self: Leases, *args: Any) -> bool:
        begun.set()
        go_on.wait(60)
        return take(self, *args)

    def free(self: Leases, *args: Any) -> None:
        release(self, *args)
        freed.set()

    monkeypatch.setattr(Leases, "take", slow)
    monkeypatch.setattr(Leases, "release", free)

    async def story() -> None:
        leaving = asyncio.create_task(both.uploading(form(meta()), idempotency_key=KEY))
        await asyncio.to_thread(begun.wait, 60)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        go_on.set()
        assert await asyncio.to_thread(freed.wait, 60)

    both.service.runner.run(story())
    assert leases(both.service.database) == 0


@ours
def test_who_leaves_while_another_has_the_key_takes_nothing_from_it(
    both: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, asked = threading.Event(), threading.Event(), threading.Event()
    take, end = Leases.take, keyed.KeyedUpload._end

    def slow(self: Leases, *args: Any) -> bool:
        begun.set()
        go_on.wait(60)
        return take(self, *args)

    def told(self: keyed.KeyedUpload) -> None:
        end(self)
        asked.set()

    async def story() -> None:
        async with both.service.intake.for_(both.principal).keyed(KEY):
            monkeypatch.setattr(Leases, "take", slow)
            monkeypatch.setattr(keyed.KeyedUpload, "_end", told)
            leaving = asyncio.create_task(both.uploading(form(meta()), idempotency_key=KEY))
            await asyncio.to_thread(begun.wait, 60)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            go_on.set()
            assert await asyncio.to_thread(asked.wait, 60)
            assert leases(both.service.database) == 1

    both.service.runner.run(story())


@ours
@pytest.mark.parametrize("at_look", [1, 2])
def test_a_database_that_goes_away_leaves_the_key_free(
    both: Caller, monkeypatch: pytest.MonkeyPatch, at_look: int
) -> None:
    looks = []
    find = keyed.idempotency.find

    def away(*args: Any, **options: Any) -> Any:
        looks.append(args)
        if len(looks) == at_look:
            raise UnavailableError("away")
        return find(*args, **options)

    sent = form(meta())
    monkeypatch.setattr(keyed.idempotency, "find", away)
    assert send(both, sent).status == 503
    assert leases(both.service.database) == 0
    assert send(both, sent).status == 200


@ours
def test_an_upload_that_ends_while_another_takes_its_key_is_told(
    both: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not there at the first look; the lease was free when it was asked for."""
    sent, take = form(meta()), Leases.take
    first: list[Answer] = []

    def slow(self: Leases, *args: Any) -> bool:
        monkeypatch.setattr(Leases, "take", take)
        first.append(asyncio.run(both.uploading(sent, idempotency_key=KEY)))
        return take(self, *args)

    monkeypatch.setattr(Leases, "take", slow)
    demand_same(send(both, sent), first[0])
    assert both.service.kept().rows == 1
    assert leases(both.service.database) == 0


@ours
def test_a_release_that_fails_spoils_no_upload(
    both: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise UnavailableError("away")

    sent = form(meta())
    monkeypatch.setattr(Leases, "release", away)
    first = send(both, sent)
    demand_same(send(both, sent), first)


def expire(database: Database) -> None:
    with database.unsynced.write(None) as scope:
        scope.run(sa.update(tables.idempotency_lease).values(held_until=scope.moment - 1))


def leases(database: Database) -> int:
    with database.unsynced.read(None) as scope:
        return len(scope.rows(sa.select(tables.idempotency_lease)))


# What else holds


@ours
def test_a_retry_takes_a_place_and_room_like_any_upload_and_gives_them_back(
    make: Callable[..., Service],
) -> None:
    caller = make(quota=Quota(stored_bytes=2 * len(WAV) + 600, uploads_at_once=1)).caller()
    sent = form(meta())
    first = send(caller, sent)
    for _ in range(3):
        demand_same(send(caller, sent), first)
    assert code(caller, form(meta())) == (422, "idempotency_key_reused")
    usage = caller.service.access.usage(caller.principal.organization_id)
    assert usage == Usage(len(WAV), 0, 0)
    assert leases(caller.service.database) == 0


@ours
def test_an_upload_without_a_key_asks_for_none(
    both: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "KeyedUpload", None)
    monkeypatch.setattr("earmark.intake.KeyedUpload", None)
    monkeypatch.setattr("earmark.database.idempotency.find", None)
    assert both.upload(form(meta())).status == 200


@ours
def test_the_key_is_neither_logged_nor_stored(both: Caller) -> None:
    key = "a-key-that-nobody-else-has"
    sent = form(meta())
    with structlog.testing.capture_logs() as logged:
        for one in (sent, sent, form(meta()), sent[:-30], b""):
            send(both, one, key)
        send(both, sent, f"{key}\x1f")
    assert logged
    assert key not in repr(logged)
    with both.service.database.read(None) as scope:
        rows = scope.rows(sa.select(tables.idempotency_key))
    assert len(rows) == 1
    assert key not in repr(rows)


@ours
def test_a_part_called_metadata_alone_makes_no_retry(both: Caller) -> None:
    sent = form(meta())
    assert send(both, sent).status == 200
    assert send(both, body(part("metadata", b"{}"))).status == 400
