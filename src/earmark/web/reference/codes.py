"""What each error code means: read from docs/errors.md and docs/failures.md.

Tests hold those pages to the code. They stand in this package as links, so that a wheel has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Kind(StrEnum):
    """Where a code is told; also how its page calls that."""

    UPLOAD = "Refused upload"
    REQUEST = "Refused request"
    TOKEN = "Refused token"  # noqa: S105 - a heading
    STEP = "Failed or skipped step of processing"
    WARNING = "Warning of processing"


@dataclass(frozen=True, slots=True)
class Meaning:
    """One row of the docs, in their own words; in these, backquotes mark code.

    Attributes:
        status: of the answer; empty where the code stands in a record instead.
        notes: further columns by their heading.
    """

    code: str
    kind: Kind
    status: str
    cause: str
    mend: str
    notes: Mapping[str, str] = field(default_factory=dict)


_TABLES: Mapping[tuple[str, str], Kind] = {
    ("errors.md", "Refused uploads"): Kind.UPLOAD,
    ("errors.md", "Refused requests"): Kind.REQUEST,
    ("errors.md", "Refused tokens"): Kind.TOKEN,
    ("failures.md", "Failed and skipped steps"): Kind.STEP,
    ("failures.md", "Warnings"): Kind.WARNING,
}
"""Page and heading → what the table under it tells."""

_CAUSE, _MEND = {"Cause", "What happened"}, {"Mend", "What to do"}
_KNOWN = {"Code", "Status", *_CAUSE, *_MEND}


def meanings() -> Mapping[str, Sequence[Meaning]]:
    """Every code in the order of the docs; one that is told in two places has both meanings."""
    found: dict[str, list[Meaning]] = {}
    for (page, heading), kind in _TABLES.items():
        text = files(__package__).joinpath(page).read_text("utf-8")
        for row in _rows(text.split(f"\n## {heading}\n")[1].split("\n## ")[0]):
            meaning = _meaning(kind, row)
            found.setdefault(meaning.code, []).append(meaning)
    return found


def _meaning(kind: Kind, row: Mapping[str, str]) -> Meaning:
    (cause,) = (row[name] for name in _CAUSE if name in row)
    (mend,) = (row[name] for name in _MEND if name in row)
    return Meaning(
        code=row["Code"].strip("`"),
        kind=kind,
        status=row.get("Status", "400" if kind is Kind.UPLOAD else ""),
        cause=cause,
        mend=mend,
        notes={name: value for name, value in row.items() if name not in _KNOWN},
    )


def _rows(text: str) -> Iterator[Mapping[str, str]]:
    """The rows of the one table of a text, by the headings of its columns."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    for cells in lines[2:]:
        yield dict(zip(lines[0], cells, strict=True))
