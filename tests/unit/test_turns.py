"""Turns: places are shared out so that no organization has to wait for all of another's."""

from __future__ import annotations

import asyncio

import pytest

from earmark.intake.turns import Turns
from earmark.model import new_id

ONE, OTHER, THIRD = new_id(), new_id(), new_id()


@pytest.mark.parametrize(
    ("places", "share"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (8, 6), (64, 48)]
)
def test_of_four_places_one_is_left_to_others(places: int, share: int) -> None:
    turns = Turns(places)
    asked = [turns.ask(ONE) for _ in range(places + 1)]
    assert sum(turn.has_come.is_set() for turn in asked) == turns.share == share
    assert turns.free == places - share


def test_another_organization_has_its_turn_at_once_and_the_first_does_not_get_its_place() -> None:
    turns = Turns(4)
    waiting = [turns.ask(ONE) for _ in range(5)]
    other = turns.ask(OTHER)
    assert other.has_come.is_set()
    turns.end(other)
    assert [turn.has_come.is_set() for turn in waiting] == [True] * 3 + [False] * 2
    turns.end(waiting[0])
    assert [turn.has_come.is_set() for turn in waiting[1:]] == [True] * 3 + [False]


def test_who_has_the_fewest_is_next_and_then_who_waits_longest() -> None:
    turns = Turns(4)
    first = [turns.ask(ONE) for _ in range(3)]
    turns.ask(OTHER)
    later = [turns.ask(ONE), turns.ask(OTHER), turns.ask(THIRD), turns.ask(THIRD)]
    came = []
    for turn in first:
        turns.end(turn)
        came.append([one.has_come.is_set() for one in later])
    assert came == [
        [False, False, True, False],
        [True, False, True, False],
        [True, True, True, False],
    ]


def test_who_gives_up_waiting_takes_no_turn() -> None:
    async def story() -> None:
        turns = Turns(1)
        running = turns.ask(ONE)

        async def wait() -> None:
            async with turns.ask(ONE):
                raise AssertionError

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        turns.end(running)
        assert turns.free == 1
        async with turns.ask(OTHER):
            assert turns.free == 0

    asyncio.run(story())


def test_a_turn_ends_with_its_block_whatever_happens_there() -> None:
    async def story() -> int:
        turns = Turns(1)
        with pytest.raises(ZeroDivisionError):
            async with turns.ask(ONE):
                raise ZeroDivisionError
        return turns.free

    assert asyncio.run(story()) == 1
