"""What is written down of an error: kind, place and code, and no message of others."""

from __future__ import annotations

import errno
import sqlite3
from typing import Any

import pytest
import sqlalchemy as sa

from earmark.errors import Invalid, InvalidError, MediaError, UnavailableError
from earmark.tracebacks import MOST_ERRORS, named, outline


def caught(act: Any) -> BaseException:
    """What it raises."""
    with pytest.raises(BaseException) as info:  # noqa: PT011 - whatever it is
        act()
    return info.value


def with_code(name: str) -> sqlite3.Error:
    error = sqlite3.IntegrityError("Ana")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("Ana"), "ValueError"),
        (OSError(errno.ENOSPC, "Ana", "Ana.wav"), "OSError (ENOSPC)"),
        (OSError(99999, "Ana"), "OSError (99999)"),
        (OSError("Ana"), "OSError"),
        (with_code("SQLITE_CONSTRAINT"), "sqlite3.IntegrityError (SQLITE_CONSTRAINT)"),
        (
            sa.exc.IntegrityError("INSERT", {"name": "Ana"}, with_code("SQLITE_BUSY")),
            "sqlalchemy.exc.IntegrityError (sqlite3.IntegrityError (SQLITE_BUSY))",
        ),
        (
            UnavailableError("the disk is full"),
            "earmark.errors.UnavailableError: the disk is full",
        ),
        (InvalidError(Invalid("name", "Ana")), "earmark.errors.InvalidError"),
        (MediaError("no_audio", "Ana"), "earmark.errors.MediaError"),
    ],
)
def test_an_error_is_named_by_kind_and_code(error, told):
    assert named(error) == told


def test_a_traceback_has_frames_and_all_that_led_to_it():
    def inner() -> None:
        int("Ana")

    def outer() -> None:
        try:
            inner()
        except ValueError as error:
            raise LookupError("Ana") from error

    def outermost() -> None:
        try:
            outer()
        except LookupError:
            raise TypeError(repr("Ana"))  # noqa: B904 - the context is what is tested

    told = outline(caught(outermost))
    kinds = [
        line for line in told.splitlines() if line in {"ValueError", "LookupError", "TypeError"}
    ]
    assert kinds == ["ValueError", "LookupError", "TypeError"]
    assert told.count("Traceback (most recent call last):") == 3
    for name in ("inner", "outer", "outermost"):
        assert f"in {name}\n" in told
    assert "invalid literal" not in told


def test_what_was_left_aside_is_not_told():
    def act() -> None:
        try:
            {}["Ana"]
        except KeyError:
            raise ValueError("Ana") from None

    assert "KeyError\n" not in outline(caught(act))


def test_a_group_tells_each_error():
    group = ExceptionGroup("Ana", [ValueError("Ana"), ExceptionGroup("Ana", [OSError("Ana")])])
    told = outline(group)
    assert "  ValueError" in told
    assert "    OSError" in told
    assert "Ana" not in told


def test_a_chain_and_a_recursion_without_end_are_told_in_bounds():
    def deep() -> None:
        deeper()

    def deeper() -> None:
        deep()

    assert len(outline(caught(deep)).splitlines()) < 200
    chain = error = ValueError()
    for _ in range(100):
        error.__cause__ = error = ValueError()
    assert outline(chain).count("Traceback") == MOST_ERRORS
    round_trip = ValueError()
    round_trip.__context__ = other = KeyError()
    other.__context__ = round_trip
    assert outline(round_trip).count("Traceback") == 2
