"""Counts of what was tried against the defences, printed at the end of a run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

COUNTS = "hostile counts"
"""The name under which a test tells its own; reports carry them from every process."""


class HostileCounts:
    """Adds up what tests told."""

    def __init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._cases: Counter[str] = Counter()
        self._examples: Counter[str] = Counter()
        self._fallen: set[str] = set()
        self._walled: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes the counts of a test, which it may tell at its very end."""
        if report.when == "teardown":
            for name, counts in report.user_properties:
                if name == COUNTS and isinstance(counts, dict):
                    self._take(counts)

    def _take(self, counts: dict[str, Any]) -> None:
        for name in ("defences", "deciding", "missing"):
            self._numbers[name] += counts.get(name, 0)
        self._cases[counts.get("area", "")] += counts.get("cases", 0)
        self._examples[counts.get("area", "")] += counts.get("examples", 0)
        self._fallen |= set(counts.get("fallen", ()))
        self._walled += [counts["walled"]] if "walled" in counts else []

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints them, if there are any."""
        lines = [*self._lines()]
        if lines:
            terminalreporter.section("hostile cases")
            terminalreporter.write("\n".join(lines) + "\n")

    def _lines(self) -> list[str]:
        lines = []
        if cases := self._cases.total():
            lines += [f"{cases} cases tried: {_listed(self._cases)}"]
        if self._fallen:
            lines += [f"{len(self._fallen)} defences switched off, each caught by its cases"]
        if known := self._numbers["defences"]:
            alone, missing = self._numbers["deciding"], self._numbers["missing"]
            told = f"{alone} decide alone, {known - alone - missing} have another behind them"
            lines += [f"{known} defences in the source: {told}, {missing} missing"]
        if examples := self._examples.total():
            lines += [f"{examples} generated examples: {_listed(self._examples)}"]
        return lines + [f"within a network of their own: {told}" for told in self._walled]


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{area} {count}" for area, count in sorted(counts.items()) if count)
