"""`docs/conformance.md` names every golden test of uploads, and only tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "conformance.md"

ROW = re.compile(r"^\| (?P<rule>.+) \| (?P<origin>\S+) \| (?P<held>.+) \|$", re.MULTILINE)
NAME = re.compile(r"`(test_\w+)`")


def rows() -> list[tuple[str, str, str]]:
    found = [match.group("rule", "origin", "held") for match in ROW.finditer(PAGE.read_text())]
    return [row for row in found if row[1] not in {"origin", "---"}]


def marked(pattern: str) -> dict[str, set[str]]:
    """Each test's name with the origins that it is marked with, by whatever alias."""
    found: dict[str, set[str]] = {}
    for path in TESTS.glob(pattern):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = {mark.id for mark in node.decorator_list if isinstance(mark, ast.Name)}
                found.setdefault(node.name, set()).update(marks & {"seed", "published", "ours"})
    return found


def test_every_row_has_an_origin_and_is_held_or_marked() -> None:
    assert len(rows()) > 80
    for rule, origin, held in rows():
        assert origin in {"seed", "published", "ours"}, rule
        assert NAME.search(held) or "*not yet*" in held, rule


def test_every_test_that_is_named_exists() -> None:
    named = {name for _, _, held in rows() for name in NAME.findall(held)}
    assert named - set(marked("*/test_*.py")) == set()


def test_every_golden_test_of_uploads_is_named_and_says_its_origin() -> None:
    page = PAGE.read_text()
    golden = marked("contract/test_upload_*.py")
    assert [name for name in golden if f"`{name}`" not in page] == []
    assert [name for name, origins in golden.items() if len(origins) != 1] == []
