"""docs/settings.md has every setting as it is, and docs/errors.md every code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from earmark.audio.faults import SENTENCES as MEDIA_SENTENCES
from earmark.chat.faults import SENTENCES as CHAT_SENTENCES
from earmark.config import Settings
from earmark.errors import Why
from earmark.web.acxapi.wire import SENTENCES as UPLOAD_SENTENCES
from earmark.web.oauth import OAuthError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
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
    causes = {code for path in sources for code in first_words(path, "Cause", 0)}
    known = causes | set(MEDIA_SENTENCES) | set(CHAT_SENTENCES)
    assert described("Failed and skipped steps") == known


def test_warnings_are_described():
    sources = (ROOT / "src/earmark").rglob("*.py")
    assert described("Warnings") == {
        code for path in sources for code in first_words(path, "Warn", 0)
    }


@pytest.mark.parametrize("page", ["settings.md", "errors.md"])
def test_every_cell_says_something(page):
    for row in table(page):
        assert all(row), row


def test_what_the_errors_page_names_is_there():
    text = (ROOT / "docs" / "errors.md").read_text()
    names = set(re.findall(r"EARMARK_(\w+)", text))
    assert names
    assert names <= {name.upper() for name in Settings.model_fields}


def described(heading: str) -> set[str]:
    return {row[0].strip("`") for row in table("errors.md", heading)}


def first_words(path: Path, called: str, position: int) -> Iterator[str]:
    """The texts that stand at a position of each call of a name."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name | ast.Attribute):
            name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
            given = call.args[position : position + 1]
            if name == called and given and isinstance(given[0], ast.Constant):
                yield given[0].value
