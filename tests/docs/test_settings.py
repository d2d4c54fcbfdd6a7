"""docs/settings.md has every setting as it is, docs/errors.md and failures.md every code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from earmark.audio.faults import SENTENCES as MEDIA_SENTENCES
from earmark.chat.faults import SENTENCES as CHAT_SENTENCES
from earmark.config import Settings
from earmark.database.processing import WORKER_LOST
from earmark.errors import Why
from earmark.pipeline.patience import FAULTS, OUTAGES
from earmark.pipeline.run import DECODER_KILLED, INTERNAL, UNAVAILABLE
from earmark.web.acxapi.wire import SENTENCES as UPLOAD_SENTENCES
from earmark.web.oauth import OAuthError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
FAILURES = "failures.md"
GIBIBYTE, MEBIBYTE = 1024**3, 1024**2


def table(page: str, heading: str = "") -> list[list[str]]:
    """The rows under a heading of a page, or of the whole page, without the tables' heads."""
    text = (ROOT / "docs" / page).read_text()
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def shown(default: object) -> str:
    """A default as people write it."""
    if default in {"", ()}:
        return "empty"
    for unit, size in (("GiB", GIBIBYTE), ("MiB", MEBIBYTE)):
        if isinstance(default, int) and default >= size:
            return f"`{default / size:g} {unit}`"
    return f"`{default}`"


def test_every_setting_is_described_once_and_no_other():
    names = [row[0] for row in table("settings.md")]
    assert sorted(names) == sorted(f"`EARMARK_{name.upper()}`" for name in Settings.model_fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_setting_is_described_as_it_is(name):
    field = Settings.model_fields[name]
    (row,) = [row for row in table("settings.md") if row[0] == f"`EARMARK_{name.upper()}`"]
    _, default, unit, meaning = row
    assert default == shown(field.default)
    assert meaning == field.description
    measured = {"seconds": "_seconds", "bytes": "_bytes"}
    for word, ending in measured.items():
        assert (unit == word) == (
            name.endswith(ending) or (name, word) == ("disk_reserve", "bytes")
        )
    assert unit


def test_upload_refusals_are_described_in_their_order():
    codes = [row[0].strip("`") for row in table("errors.md", "Refused uploads")]
    assert codes == [why.value for why in UPLOAD_SENTENCES]
    assert set(codes) == set(Why)


def test_refused_requests_are_described():
    sources = (ROOT / "src/earmark/web").rglob("*.py")
    codes = {code for path in sources for code in first_words(path, "Answer", 1)}
    everywhere = (ROOT / "src/earmark").rglob("*.py")
    codes |= {code for path in everywhere for code in first_words(path, "ConflictError", 0)}
    assert described("Refused requests") == codes


def test_refused_tokens_are_described():
    assert described("Refused tokens") == set(
        get_args(OAuthError.model_fields["error"].annotation)
    )


def test_failed_and_skipped_steps_are_described():
    sources = (ROOT / "src/earmark").rglob("*.py")
    raised = ("Cause", "MediaError")
    causes = {code for path in sources for name in raised for code in first_words(path, name, 0)}
    known = causes | set(MEDIA_SENTENCES) | set(CHAT_SENTENCES)
    assert described("Failed and skipped steps", FAILURES) == known


def test_warnings_are_described():
    sources = (ROOT / "src/earmark").rglob("*.py")
    assert described("Warnings", FAILURES) == {
        code for path in sources for code in first_words(path, "Warn", 0)
    }


def test_a_code_stands_in_one_table_alone():
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != FAILURES]
    known = {*described("Failed and skipped steps", FAILURES), *described("Warnings", FAILURES)}
    elsewhere = {row[0].strip("`") for page in pages for row in table(page)}
    assert known & elsewhere == {"internal", "unavailable"}, "those are answers of requests, too"


def test_what_is_tried_again_is_described_as_it_is():
    rows = {row[0].strip("`"): row[3] for row in table(FAILURES, "Failed and skipped steps")}
    assert set(rows.values()) == {"no", f"{FAULTS.attempts} times", f"{OUTAGES.attempts} times"}
    assert rows[WORKER_LOST.code] == rows[INTERNAL.code] == rows[DECODER_KILLED.code]
    assert rows[INTERNAL.code] == f"{FAULTS.attempts} times"
    assert rows[UNAVAILABLE.code] == f"{OUTAGES.attempts} times"
    assert {rows[code] for code in {*MEDIA_SENTENCES, *CHAT_SENTENCES}} == {"no"}
    text = (ROOT / "docs" / FAILURES).read_text()
    waits = [OUTAGES.bound_seconds(failed) for failed in range(1, OUTAGES.attempts)]
    told = ", ".join(f"{wait:g} s" for wait in waits if wait < OUTAGES.most_seconds)
    assert f"| {OUTAGES.attempts} times | {told}, then {OUTAGES.most_seconds / 60:g} min" in text
    waits = [FAULTS.bound_seconds(failed) for failed in range(1, FAULTS.attempts)]
    assert f"| {FAULTS.attempts} times | {', '.join(f'{wait:g} s' for wait in waits)} |" in text


@pytest.mark.parametrize("page", ["settings.md", "errors.md", FAILURES])
def test_every_cell_says_something(page):
    for row in table(page):
        assert all(row), row


def test_what_the_errors_page_names_is_there():
    text = "".join((ROOT / "docs" / page).read_text() for page in ("errors.md", FAILURES))
    names = set(re.findall(r"EARMARK_(\w+)", text))
    assert names
    assert names <= {name.upper() for name in Settings.model_fields}


def described(heading: str, page: str = "errors.md") -> set[str]:
    codes = [row[0].strip("`") for row in table(page, heading)]
    assert len(codes) == len(set(codes)), "a code stands twice"
    return set(codes)


def first_words(path: Path, called: str, position: int) -> Iterator[str]:
    """The texts that stand at a position of each call of a name."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name | ast.Attribute):
            name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
            given = call.args[position : position + 1]
            if name == called and given and isinstance(given[0], ast.Constant):
                yield given[0].value
