"""Waits between attempts: they grow, are bounded, and no two are alike."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as some

from earmark.jobs import UnfinishedError
from earmark.pipeline.patience import FAULTS, LEAST_SHARE, OUTAGES, Patience
from earmark.pipeline.turnstile import Turnstile
from processing import wait_until

PATIENCES = some.builds(
    Patience,
    attempts=some.integers(1, 50),
    first_seconds=some.floats(0.1, 60),
    growth=some.floats(1, 10),
    most_seconds=some.floats(0.1, 3600),
)


@given(PATIENCES, some.integers(1, 60))
def test_a_wait_lies_between_its_bound_and_half_of_it(patience: Patience, failed: int) -> None:
    bound = patience.bound_seconds(failed)
    assert LEAST_SHARE * bound <= patience.wait_seconds(failed) <= bound


@given(PATIENCES, some.integers(1, 60))
def test_waits_grow_up_to_their_bound(patience: Patience, failed: int) -> None:
    assert patience.bound_seconds(failed) <= patience.bound_seconds(failed + 1)
    assert patience.bound_seconds(failed) <= patience.most_seconds


def test_what_failed_together_is_not_tried_again_together() -> None:
    assert len({OUTAGES.wait_seconds(3) for _ in range(100)}) == 100


def test_the_waits_are_those_that_are_documented() -> None:
    def waits(patience: Patience) -> list[float]:
        return [patience.bound_seconds(failed) for failed in range(1, patience.attempts)]

    assert waits(FAULTS) == [2, 10]
    assert waits(OUTAGES) == [2, 6, 18, 54, 162, 486, 900, 900, 900]


# Who may be in at the same time.


def go_on() -> None:
    """The worker does not stop."""


def test_a_place_is_given_back_once() -> None:
    turnstile = Turnstile(go_on)
    with turnstile.enter(alone=False) as give_back:
        give_back()
        give_back()
        with turnstile.enter(alone=True) as give_back_alone:
            give_back_alone()
    assert (turnstile._inside, turnstile._is_alone, turnstile._wanted) == (0, False, 0)


def test_two_that_want_to_be_alone_follow_each_other() -> None:
    turnstile, inside, most = Turnstile(go_on), [0], [0]

    def pass_through(_: int) -> None:
        with turnstile.enter(alone=True):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(pass_through, range(50)))
    assert most == [1]


@pytest.mark.parametrize("alone", [True, False])
def test_who_waits_leaves_when_the_worker_stops(*, alone: bool) -> None:
    stopping = threading.Event()

    def leave_if_stopping() -> None:
        if stopping.is_set():
            raise UnfinishedError

    turnstile = Turnstile(leave_if_stopping)

    def enter() -> str:
        try:
            with turnstile.enter(alone=alone):
                return "entered"
        except UnfinishedError:
            return "left"

    with turnstile.enter(alone=not alone), ThreadPoolExecutor() as pool:
        waiting = pool.submit(enter)
        if alone:
            wait_until(lambda: turnstile._wanted)
        stopping.set()
        assert waiting.result(10) == "left"
    with turnstile.enter(alone=False):
        assert turnstile._wanted == 0
