"""A name is taken once in an organization, and free again when its interaction is deleted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from contract.forms import WAV, form, meta, wav
from contract.test_upload_precedence import TAKEN

if TYPE_CHECKING:
    from contract.serving import Answer, Caller, Service

published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

PROBLEM = "application/problem+json"


@pytest.fixture
def both(service: Service) -> Caller:
    """A client of an empty service on each database."""
    return service.caller()


@ours
@pytest.mark.parametrize(
    ("content", "file_first", "duplicate"),
    [
        (WAV, True, "identical"),
        (wav(0.02), True, "different"),
        (WAV, False, "identical"),
        (wav(0.02), False, "different"),
        (wav(140), True, "different"),
        (wav(140), False, "unknown"),
    ],
    ids=["identical", "different", "identical short", "different short", "long", "unread"],
)
def test_a_taken_name_is_refused_and_the_answer_says_who_has_it(
    both: Caller, content: bytes, file_first: bool, duplicate: str
) -> None:
    metadata = meta()
    first = both.upload(form(metadata)).json["id"]
    before = both.service.kept()
    answer = both.upload(form(metadata, content, file_first=file_first))
    assert (answer.status, answer.text) == (400, TAKEN)
    assert answer.headers["location"] == f"/v1/interactions/{first}"
    assert answer.headers["earmark-duplicate"] == duplicate
    assert both.send("GET", answer.headers["location"]).json["id"] == first
    assert both.service.kept() == before


@ours
def test_a_taken_name_comes_before_what_the_first_bytes_of_a_short_file_say(both: Caller) -> None:
    metadata = meta()
    both.upload(form(metadata))
    page = b"<html>" + b" " * 100_000
    answer = both.upload(form(metadata, page, file_first=False))
    assert (answer.status, answer.text) == (400, TAKEN)


@ours
def test_a_problem_tells_the_existing_id(both: Caller) -> None:
    metadata = meta()
    first = both.upload(form(metadata)).json["id"]
    problem = both.upload(form(metadata), accept=PROBLEM)
    assert problem.json["code"] == "file_name_taken"
    assert problem.json["existingId"] == first
    assert problem.headers["location"].endswith(first)


@ours
def test_another_fault_bears_no_location(both: Caller) -> None:
    answer = both.upload(form(meta(LocaleId=1)))
    assert {"location", "earmark-duplicate"}.isdisjoint(answer.headers)


@ours
def test_deleting_frees_the_name(both: Caller) -> None:
    metadata = meta()
    first = both.upload(form(metadata)).json["id"]
    assert both.send("DELETE", f"/v1/interactions/{first}").status == 204
    second = both.upload(form(metadata))
    assert second.status == 200
    assert second.json["id"] != first


@published
def test_another_organization_may_have_the_same_name(both: Caller) -> None:
    other = both.service.caller("Second")
    metadata = meta()
    first, second = both.upload(form(metadata)), other.upload(form(metadata))
    assert (first.status, second.status) == (200, 200)
    again = other.upload(form(metadata))
    assert again.headers["location"] == f"/v1/interactions/{second.json['id']}"


@published
def test_two_clients_of_one_organization_share_its_names(both: Caller) -> None:
    metadata = meta()
    assert both.upload(form(metadata)).status == 200
    assert both.service.caller("First").upload(form(metadata)).text == TAKEN


@ours
@pytest.mark.parametrize("file_first", [True, False])
def test_of_equal_names_at_the_same_instant_one_is_kept(both: Caller, file_first: bool) -> None:
    async def race() -> list[Answer]:
        metadata = meta(FileName=f"{uuid4()}.wav")
        whole = form(metadata, file_first=file_first)
        pieces = [whole[at : at + 9] for at in range(0, len(whole), 9)]  # they take turns
        return await asyncio.gather(*(both.uploading(pieces) for _ in range(6)))

    for _ in range(3):
        before = both.service.kept()
        answers = asyncio.run(race())
        statuses = sorted(answer.status for answer in answers)
        assert statuses == [200, 400, 400, 400, 400, 400]
        winner = next(answer.json["id"] for answer in answers if answer.status == 200)
        for answer in answers:
            if answer.status == 400:
                assert answer.text == TAKEN
                assert answer.headers["location"] == f"/v1/interactions/{winner}"
                assert answer.headers["earmark-duplicate"] in {"identical", "unknown"}
        after = both.service.kept()
        assert (after.rows, after.objects) == (before.rows + 1, before.objects + 1)
        assert after.staged == 0
