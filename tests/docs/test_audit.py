"""The licences of what Earmark depends on are known and allowed, and `./run audit` cannot be calm
about what it did not look at."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import Distribution
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from serving import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "earmark_audit", ROOT / "tools" / "audit.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # where its dataclasses look
    specification.loader.exec_module(module)
    return module


def test_every_dependency_is_under_a_licence_that_is_allowed_or_was_weighed(audit):
    found = audit.licences(audit.LOCK.read_text())
    assert len(found) > 60
    assert [one for one in found if one.fault] == []


def test_every_exception_is_weighed_in_the_decisions(audit):
    page = (ROOT / "docs" / "decisions.md").read_text()
    section = page.partition(": licences\n")[2].partition("\n## ")[0]
    assert section
    for package in (*audit.EXCEPTIONS, "PyAV"):
        assert package in section, package


def test_the_licences_alone_need_no_network(audit, monkeypatch, capsys):
    monkeypatch.setattr(audit, "subprocess", None)
    assert audit.main(["licences"]) == 0
    told = capsys.readouterr().out
    assert "psycopg              LGPL-3.0-only" in told
    assert "take the wheel as GPL" in told
    assert "not looked at here: colorama" in told


@pytest.mark.parametrize(
    ("lock", "fault"),
    [
        ("not-there==1.0 \\\n    --hash=sha256:0\n", "is not installed"),
        ("hypothesis==6.0 \\\n    --hash=sha256:0\n", "is under no licence that is allowed"),
    ],
)
def test_a_new_licence_and_an_unknown_package_are_faults(audit, monkeypatch, lock, fault):
    monkeypatch.setattr(audit, "EXCEPTIONS", {})
    (one,) = audit.licences(lock)
    assert fault in one.fault


def test_an_exception_holds_for_its_licence_and_for_as_long_as_it_is_needed(audit, monkeypatch):
    monkeypatch.setattr(audit, "EXCEPTIONS", {"psycopg": "LGPL-2.1-only", "left": "GPL-3.0-only"})
    changed, stale = audit.licences("psycopg==3.0\n")
    assert changed.fault == "was LGPL-2.1-only when weighed"
    assert stale.fault == "is an exception, but no dependency any more"


def test_faults_of_licences_fail_the_audit_and_are_told(audit, monkeypatch, capsys):
    monkeypatch.setattr(audit, "ALLOWED", frozenset())
    assert audit.main(["licences"]) == 1
    assert "FAIL  fastapi" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("expression", "is_allowed"),
    [
        ("MIT", True),
        ("MIT AND PSF-2.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND MIT", False),
        ("", False),
    ],
)
def test_an_expression_is_allowed_if_it_leaves_a_choice(audit, expression, is_allowed):
    assert audit.allowed(expression) == is_allowed


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ("License-Expression: ISC\nLicense: other", "ISC"),
        ("License: 3-Clause BSD License", "BSD-3-Clause"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
        ("Classifier: Typing :: Typed", ""),
    ],
)
def test_a_licence_is_told_in_spdx(audit, tmp_path: Path, metadata, name):
    (tmp_path / "METADATA").write_text(f"Metadata-Version: 2.4\nName: x\n{metadata}\n")
    assert audit.declared(Distribution.at(tmp_path)) == name


def answered(audit: Any, monkeypatch: Any, packages: Any, status: int) -> int:
    """The exit status of the audit when pip-audit answers this."""
    told = packages if isinstance(packages, str) else json.dumps({"dependencies": packages})
    done = SimpleNamespace(stdout=told, stderr="it said why", returncode=status)
    monkeypatch.setattr(audit, "subprocess", SimpleNamespace(run=lambda *_, **__: done))
    ended: int = audit.main([])
    return ended


GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNMENDED = {"name": "worse", "version": "2", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
SKIPPED = {"name": "gone", "skip_reason": "not found"}


@pytest.mark.parametrize(
    "case",
    [
        (([GOOD], 0), 0, "1 packages were looked at"),
        (([GOOD, BAD], 1), 1, "bad 2: CVE-1; mended in 3"),
        (([UNMENDED], 1), 1, "worse 2: CVE-2; mended in no version"),
        (([GOOD, SKIPPED], 0), 1, "gone WAS NOT LOOKED AT: not found"),
        (([SKIPPED], 0), 1, "NOTHING WAS LOOKED AT"),
        (([], 0), 1, "NOTHING WAS LOOKED AT"),
        (("no JSON", 1), 1, "it said why"),
        (([GOOD], 1), 1, "pip-audit ended with status 1 and named nothing"),
    ],
)
def test_what_was_not_looked_at_is_loud_and_fails(audit, monkeypatch, capsys, case):
    answer, ended, told = case
    assert answered(audit, monkeypatch, *answer) == ended
    assert told in capsys.readouterr().out


def test_other_words_are_explained(audit, capsys):
    assert audit.main(["nonsense"]) == 2
    assert "./run audit licences" in capsys.readouterr().out
