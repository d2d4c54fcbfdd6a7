"""For how long the clock has run evenly."""

from __future__ import annotations

import math

import pytest
from structlog.testing import capture_logs

from earmark.app.steadiness import JUMP_SECONDS, Steadiness


class Hands:
    """A clock of the day and a steady one, both moved by hand."""

    def __init__(self) -> None:
        self.day, self.steady = 1_000_000.0, 50.0

    def run(self, seconds: float, *, gained: float = 0.0) -> None:
        self.day += seconds + gained
        self.steady += seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def steadiness(hands: Hands) -> Steadiness:
    return Steadiness(clock=lambda: hands.day, timer=lambda: hands.steady)


def test_without_a_jump_it_has_always_run_evenly(hands: Hands, steadiness: Steadiness) -> None:
    assert steadiness.seconds() == math.inf
    hands.run(300)
    assert steadiness.seconds() == math.inf


@pytest.mark.parametrize("gained", [7200, -7200, JUMP_SECONDS + 1])
def test_a_jump_in_either_direction_begins_anew_and_is_told_once(
    hands: Hands, steadiness: Steadiness, gained: float
) -> None:
    hands.run(300)
    with capture_logs() as logs:
        hands.run(300, gained=gained)
        assert steadiness.seconds() == 0
        hands.run(60)
        assert steadiness.seconds() == 60
    assert [(line["event"], line["seconds"]) for line in logs] == [("clock jumped", gained)]


def test_a_clock_that_is_set_right_gently_does_not_jump(
    hands: Hands, steadiness: Steadiness
) -> None:
    for _ in range(100):
        hands.run(300, gained=0.15)
        steadiness.seconds()
    assert steadiness.seconds() == math.inf
