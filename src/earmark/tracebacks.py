"""What may be written down of an error: its kind and its place, never the words of others.

A message that a library or the interpreter made may quote what it stumbled over: a row, a line of
a chat, the name in it. Earmark's own messages to its operator quote nothing of the kind.
"""

from __future__ import annotations

import errno
import traceback
from typing import TYPE_CHECKING

from earmark.errors import CallerError, EarmarkError, MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_FRAMES = 40
"""Of one error, the innermost: a recursion without end has a thousand."""

MOST_ERRORS = 10
"""Of a chain and of a group."""


def named(error: BaseException) -> str:
    """The error in one line: its kind and, where it has one, its code.

    The message is told where Earmark itself wrote it for its operator. What is told to callers
    and of recordings may repeat what they sent.
    """
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    if isinstance(error, EarmarkError) and not isinstance(error, CallerError | MediaError):
        return f"{name}: {error}"
    code = _code(error)
    return f"{name} ({code})" if code else name


def outline(error: BaseException, *, frames: int = MOST_FRAMES) -> str:
    """The traceback with what led to it, without foreign messages; several lines."""
    chain = [error]
    while (before := _before(chain[-1])) is not None and before not in chain:
        chain.append(before)
    told = ["\n".join(_lines(each, frames)) for each in reversed(chain[:MOST_ERRORS])]
    return "\n\nAfter that, or because of it:\n\n".join(told)


def _before(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _lines(error: BaseException, frames: int) -> Iterator[str]:
    yield "Traceback (most recent call last):"
    for frame in traceback.format_list(traceback.extract_tb(error.__traceback__, -frames)):
        yield from frame.rstrip("\n").split("\n")
    yield named(error)
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions[:MOST_ERRORS]:
            yield from (f"  {line}" for line in _lines(inner, frames))


def _code(error: BaseException) -> str:
    """What the system or a database calls it: a word of a fixed list."""
    driver = getattr(error, "orig", None)  # SQLAlchemy's errors carry the driver's
    if isinstance(driver, BaseException):
        return named(driver)
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    return str(code or "")
