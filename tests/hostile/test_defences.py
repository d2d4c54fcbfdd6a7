"""Each hostile case is refused, and gets through once that which stops it is switched off."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from earmark import audio
from earmark.chat import faults as chat_faults
from earmark.chat.rules import RULES
from earmark.errors import Why
from hostile.cases import TOKENS, Case, cases
from hostile.switching import Refusals
from hostile.world import World, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hostile.switching import Refusal

DEFENDED = (
    *(
        "model",
        "web.acxapi.wire",
        "web.multipart",
        "web.pace",
        "web.acxapi.upload",
        "web.body",
        "web.oauth",
        "web.digests",
        "web.idempotency",
    ),
    *(
        "web.security",
        "intake",
        "intake.stage",
        "intake.downloads",
        "intake.keyed",
        "audio",
        "audio._decode",
    ),
    *("chat", "chat.archive", "chat.rules", "chat.tars", "chat.zips", "chat._unpack"),
    *("chat.log", "chat.own", "chat.side", "egress.address", "egress.walls", "fetch"),
    *("access", "access.tokens", "access.rate", "sandbox"),
)
"""Modules that judge what comes from outside: each refusal in them must stop a case."""

BEHIND = ("interactions",)
"""Further walls, which those who get past the first may meet."""

NO_DEFENCE = {
    "web.pace:Paced._judge": (
        "raise SlowError",
        "takes time: test_a_body_that_comes_in_drops_is_given_up_when_a_rate_is_asked_for",
    ),
    "web.pace:_Wait.": ("raise RuntimeError", "a bug of ours, not the caller's"),
    "web.multipart:parts": (
        "raise ClientDisconnect",
        "nobody is there: test_a_caller_that_goes_away_is_told_apart",
    ),
    "web.acxapi.upload:_Upload.": ("raise RuntimeError", "a bug of ours, not the caller's"),
    "intake.stage:Stage.hand_over": ("raise RuntimeError", "a bug of ours, not the caller's"),
    "intake:OrganizationIntake._promise": (
        "raise _taken",
        "a race: test_of_two_uploads_of_one_name_at_once_one_wins_and_the_others_bytes_go",
    ),
    "intake.keyed:KeyedUpload._put": (
        "raise KeyInUseError",
        "a race: test_a_process_that_slept_while_another_had_its_key_keeps_nothing",
    ),
    "intake.downloads:Downloads.find": ("raise NotFoundError", "a look-up"),
    "intake.downloads:Downloads._outcome": ("raise", "tells what was refused before"),
    "intake.downloads:Downloads._accepted": ("raise", "tells what became of it"),
    "intake.downloads:Downloads._once.": ("raise", "in a network of its own: tests/walled"),
    "chat.rules:told_as_damage": ("raise one", "the disk's own error goes on"),
    "chat.side:_csv": ("not rows of key,value", "words what could not be read either"),
    "egress.walls:_Dialler.connect_tcp": ("raise failure", "nobody is there"),
    **dict.fromkeys(
        (
            *("access:Access.create_client", "access:Access.rotate_secret"),
            *("access:Access.finish_rotation", "access:Access._demand_client"),
            *("access:_organization", "access:_check_names", "access.rate:parse_rate"),
            "access:_check_quota",
        ),
        ("raise", "a command or a setting of the operator"),
    ),
    "web.security:uploader": (
        "raise UploadRateError",
        "a quota: test_uploads_of_an_organization_have_a_rate_beside_that_of_the_client",
    ),
    "access:_external_principal": ("raise", "test_access_issuer has another issuer"),
    "sandbox:_collect": ("did not end", "test_a_child_past_its_deadline_is_killed"),
}
"""Where a refusal begins so, and has these words → why it stops nobody, or who tries it."""

ELSEWHERE = {
    "signed_url_interrupted": "test_what_a_dead_process_did_not_promise_has_failed",
}
"""A code that nothing hostile brings about → the test that does."""

CASES = cases()
MOST_TRIED = 6
"""Cases of one refusal that are tried to find one which it decides alone."""

MOST_WALLS = 6
"""One behind the other that stop a case; whoever gets past the first meets the next."""


@pytest.fixture(scope="module")
def refusals() -> Iterator[Refusals]:
    made = Refusals((*DEFENDED, *BEHIND))
    with made.watched():
        yield made


def stopped_by(case: Case, world: World, refusals: Refusals) -> tuple[str, list[Refusal]]:
    """How the case ends with all defences up, and which it reaches."""
    refusals.fallen.clear()
    refusals.reached.clear()
    return outcome(case.attempt, world), [*refusals.reached]


def get_through(case: Case, world: World, refusals: Refusals) -> str:
    """How the case ends once whatever stops it is switched off."""
    if case.defence is not None:
        with case.defence.switched_off():
            return stopped_by(case, world, refusals)[0]
    ended = case.code
    for _ in range(MOST_WALLS):
        refusals.fallen |= set(refusals.reached)
        refusals.reached.clear()
        ended = outcome(case.attempt, world)
        if ended != case.code:
            break
    return ended


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_stopped_and_gets_through_without_what_stops_it(
    case: Case, world: World, refusals: Refusals, tell: Callable[..., None]
) -> None:
    ended, reached = stopped_by(case, world, refusals)
    assert ended == case.code
    assert reached or case.defence
    assert get_through(case, world, refusals) != case.code, "nothing seems to stop it"
    names = [case.defence.place] if case.defence else map(str, reached)
    tell(area=case.area, cases=1, fallen=sorted(set(names)))


def test_every_refusal_in_the_source_stops_a_case(
    world: World, refusals: Refusals, tell: Callable[..., None]
) -> None:
    stopped: dict[Refusal, list[Case]] = {}
    for case in CASES.values():
        if case.defence is None:
            for refusal in stopped_by(case, world, refusals)[1]:
                stopped.setdefault(refusal, []).append(case)
    defences = [one for one in refusals.all if not _passes_for_none(one)]
    missing = [one for one in defences if one not in stopped]
    deciding = [
        one
        for one, by in stopped.items()
        if one in defences
        and any(_decides(one, case, world, refusals) for case in by[:MOST_TRIED])
    ]
    placed = {case.defence.place for case in CASES.values() if case.defence}
    tell(
        defences=len(defences) + len(placed),
        deciding=len(deciding) + len(placed),
        missing=len(missing),
    )
    assert missing == []


def _decides(refusal: Refusal, case: Case, world: World, refusals: Refusals) -> bool:
    """Whether the case ends otherwise once this one alone is switched off."""
    refusals.fallen = {refusal}
    return outcome(case.attempt, world) != case.code


def _passes_for_none(refusal: Refusal) -> bool:
    if refusal.place.partition(":")[0] in BEHIND:
        return True
    return any(
        refusal.place.startswith(place) and words in refusal.text
        for place, (words, _) in NO_DEFENCE.items()
    )


def test_whatever_is_said_to_be_no_defence_is_there(refusals: Refusals) -> None:
    for place, (words, _) in NO_DEFENCE.items():
        there = [one for one in refusals.all if one.place.startswith(place) and words in one.text]
        assert there, (place, words)


def test_every_code_of_a_refusal_is_that_of_a_case() -> None:
    codes = {
        *Why,
        *audio.SENTENCES,
        *(code for code in chat_faults.SENTENCES if code != "archive_unsafe"),
        *(f"archive_unsafe: {rule}" for rule in RULES),
    }
    assert codes - {case.code for case in CASES.values()} == ELSEWHERE.keys()


def test_every_test_that_is_named_instead_is_there() -> None:
    files = [*Path(__file__).parents[1].glob("*/test_*.py")]
    known = {path.stem for path in files}
    known |= {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}
    named = [*ELSEWHERE.values(), *(why for _, why in NO_DEFENCE.values())]
    assert {name for words in named for name in re.findall(r"test_\w+", words)} <= known


def test_every_bad_token_is_tried(world: World) -> None:
    assert {*TOKENS} == {name for name, _ in world.bad_tokens()}
