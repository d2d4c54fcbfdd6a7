"""The threats in `docs/security.md` are held by tests that there are."""

from __future__ import annotations

import ast
import re

from serving import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
ROW = re.compile(r"^\| (.+?) \| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)
NAME = re.compile(r"`(test_\w+)`")
MENTIONED = re.compile(r"`((?:tests|src)/[\w/.]+)`")


def threats() -> list[tuple[str, ...]]:
    section = PAGE.partition("\n## Threats\n")[2].partition("\n## ")[0]
    return [row for row in ROW.findall(section) if row[0] not in {"who", "---"}]


def known() -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").glob("*/test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_threat_is_held_by_tests() -> None:
    assert len(threats()) >= 15
    assert [row for row in threats() if not NAME.search(row[3])] == []


def test_every_test_that_is_named_exists() -> None:
    assert set(NAME.findall(PAGE)) - known() == set()


def test_every_file_that_is_named_exists() -> None:
    named = MENTIONED.findall(PAGE)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_it_says_what_is_not_defended_and_how_to_report() -> None:
    scope = PAGE.partition("\n## Out of scope, plainly\n")[2].partition("\n## ")[0]
    for word in ("Encryption at rest", "LUKS", "EARMARK_SECRET_KEY", "PostgreSQL"):
        assert word in scope
    report = (ROOT / "SECURITY.md").read_text()
    assert "security advisory of this repository" in report
    assert "@" not in report
