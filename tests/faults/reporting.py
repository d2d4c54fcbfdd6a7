"""The table of faults that the suite prints: what callers saw, what was kept, what was caught.

Rows travel as properties of the tests' reports, which reach the terminal from every process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ("fault", "answers", "kept", "mutant")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints one line for each fault that a test saw, and for each mutant."""
    rows = sorted({*_rows(terminalreporter)})
    if not rows:
        return
    widths = [max(len(line[place]) for line in [COLUMNS, *rows]) for place in range(len(COLUMNS))]
    terminalreporter.section("faults")
    for line in [COLUMNS, *rows]:
        words = (word.ljust(width) for word, width in zip(line, widths, strict=True))
        terminalreporter.write_line("  ".join(words).rstrip())
    caught = sum(bool(row[3]) for row in rows)
    terminalreporter.write_line(f"{len(rows) - caught} faults, {caught} mutants caught")


def _rows(terminalreporter: Any) -> Iterator[tuple[str, ...]]:
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "fault":
                yield tuple(value)
