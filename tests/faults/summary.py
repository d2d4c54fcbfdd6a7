"""What was tried against the promise that nothing acknowledged is lost, printed at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

FAULTS = "faults"
"""The name under which a test tells its own; reports carry them from every process."""

WORDS = {
    "rounds": "rounds",
    "windows": "windows",
    "missed": "calls that did not come again",
    "interrupted": "uploads interrupted",
    "acknowledged": "acknowledged",
    "recognized": "kept without an answer",
    "orphans": "orphans swept",
    "lost": "lost",
}
"""The numbers that are added up, in this order, and what each is called."""


class FaultSummary:
    """Adds up what tests told."""

    def __init__(self) -> None:
        self._trials: dict[str, Counter[str]] = {}
        self._notes: list[str] = []
        self._mutants: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes what a test told, at its very end."""
        if report.when == "teardown":
            for name, facts in report.user_properties:
                if name == FAULTS and isinstance(facts, dict):
                    self._take(facts)

    def _take(self, facts: dict[str, Any]) -> None:
        if "mutant" in facts:
            self._mutants.append(facts)
        elif "note" in facts:
            self._notes.append(facts["note"])
        else:
            numbers = {name: facts.get(name, 0) for name in WORDS}
            self._trials.setdefault(facts["what"], Counter()).update(numbers)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints it, if there is anything."""
        if lines := [*self._lines()]:
            terminalreporter.section("nothing acknowledged is lost")
            terminalreporter.write("\n".join(lines) + "\n")

    def _lines(self) -> list[str]:
        lines = [f"{what}: {_told(counts)}" for what, counts in sorted(self._trials.items())]
        if len(lines) > 1:
            lines += [f"all: {_told(sum(self._trials.values(), Counter()))}"]
        return lines + sorted(self._notes) + self._table()

    def _table(self) -> list[str]:
        if not self._mutants:
            return []
        every = {one["mutant"] for one in self._mutants}
        caught = every - {one["mutant"] for one in self._mutants if not one["caught"]}
        rows = [("mutant", "caught by", "after"), *map(_row, sorted(self._mutants, key=_row))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            f"{len(caught)} of {len(every)} mutants caught, in {len(self._mutants)} trials:",
            *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
        ]


def _row(facts: dict[str, str]) -> tuple[str, str, str]:
    return facts["mutant"], facts["by"], facts["caught"] or "NOT CAUGHT"


def _told(counts: Counter[str]) -> str:
    shown = [name for name in WORDS if counts[name] or name == "lost"]
    return ", ".join(f"{counts[name]} {WORDS[name]}" for name in shown)
