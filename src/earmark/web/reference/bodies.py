"""What an answer with a given code looks like, made by what makes the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from earmark.errors import Why
from earmark.model import StepStatus
from earmark.web import errors
from earmark.web.api.records import NoteShape, StepShape
from earmark.web.oauth import TokenRefusedError
from earmark.web.reference.codes import Kind
from earmark.web.reference.examples import NOTES, TOKENS, refused_request, refused_upload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.responses import Response

    from earmark.web.reference.codes import Meaning
    from earmark.web.reference.examples import Example

_BEGUN = datetime(2022, 3, 18, 21, 52, 26, tzinfo=UTC)
_ENDED = datetime(2022, 3, 18, 21, 52, 27, tzinfo=UTC)

_ASKED = {
    "text/plain": "From the Upload Media API",
    "application/json": "With Accept: application/json",
    errors.PROBLEM: "From /v1, and with Accept: application/problem+json",
}
"""Each form of a sentence, and who gets it."""


@dataclass(frozen=True, slots=True)
class Body:
    """One form of an answer.

    Attributes:
        asked: how to get it, in words.
        head: its status and headers, as HTTP has them; empty for what stands in a record.
    """

    asked: str
    head: str
    text: str


def bodies(meaning: Meaning) -> Iterator[Body]:
    """A whole answer in each form in which a code is told."""
    if meaning.kind in {Kind.STEP, Kind.WARNING}:
        yield _record(meaning)
    elif meaning.kind is Kind.TOKEN:
        yield _token(meaning)
    else:
        yield from _answers(_example(meaning))


def varies(meaning: Meaning) -> str:
    """What differs in another answer of this code, in words; empty if nothing does."""
    if meaning.kind in {Kind.STEP, Kind.WARNING}:
        return NOTES[meaning.code].varies
    if meaning.kind is Kind.TOKEN:
        return TOKENS[meaning.code][2]
    return _example(meaning).varies


def _example(meaning: Meaning) -> Example:
    if meaning.kind is Kind.UPLOAD:
        return refused_upload(Why(meaning.code))
    return refused_request(meaning.code)


def _answers(example: Example) -> Iterator[Body]:
    if example.problem_only:
        yield _shown("From /v1", errors.Problem(example.answer))
        return
    for media_type, words in _ASKED.items():
        yield _shown(words, errors.sentence(example.answer, media_type))


def _token(meaning: Meaning) -> Body:
    description, headers, _ = TOKENS[meaning.code]
    status = int(meaning.status)
    refused = TokenRefusedError(meaning.code, description, status=status, headers=headers)
    return _shown("From /connect/token", refused.answer())


def _shown(asked: str, made: Response) -> Body:
    return Body(asked, _head(made), bytes(made.body).decode())


def _head(answer: Response) -> str:
    lines = [f"{answer.status_code} {HTTPStatus(answer.status_code).phrase}"]
    for name, value in answer.headers.items():
        if name != "content-length":
            lines.append(f"{name.title()}: {value}")
    return "\n".join(lines)


def _record(meaning: Meaning) -> Body:
    """The element of the record in which the code stands, whole."""
    note = NOTES[meaning.code]
    told = NoteShape(code=meaning.code, message=note.message)
    if meaning.kind is Kind.WARNING:
        place = "An element of the warnings"
        text = told.model_dump_json()
    else:
        place = "An element of the steps"
        text = StepShape(
            name=note.step,
            status=StepStatus(note.status),
            attempts=1,
            started_at=_BEGUN,
            finished_at=_ENDED,
            error=told,
            next_attempt_at=None,
            progress=None,
        ).model_dump_json()
    return Body(f"{place} of GET /v1/interactions/{{interaction_id}}", "", text)
