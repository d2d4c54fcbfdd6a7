"""docs/metrics.md has every metric as it is, and no other."""

from __future__ import annotations

import re

import pytest

from earmark.telemetry.metrics import CATALOGUE
from serving import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text()
METRIC = re.compile(r"\bearmark_[a-z_]+")
ROW = re.compile(r"^\| `(earmark_\w+)` \| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)
PARTS = ("", "_bucket", "_sum", "_count")


def test_every_metric_is_described_once_and_no_other() -> None:
    described = [name for name, *_ in ROW.findall(PAGE)]
    assert sorted(described) == sorted(one.name for one in CATALOGUE)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda one: str(one.name))
def test_a_metric_is_described_as_it_is(metric) -> None:
    (row,) = [row for name, *row in ROW.findall(PAGE) if name == metric.name]
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    assert row == [metric.kind, labels, metric.meaning]
    prose = "\n".join(line for line in PAGE.splitlines() if not line.startswith("| `"))
    told = {"method", "step", "version", "python"}  # need no word
    assert [label for label in metric.labels if f"`{label}`" not in prose] == [
        label for label in metric.labels if label in told
    ]


def test_names_are_as_prometheus_has_them() -> None:
    for metric in CATALOGUE:
        assert metric.name.startswith("earmark_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.name.endswith("_duration_seconds") == (metric.kind == "histogram")
        assert not re.search(r"milli|kilo|_ms\b|_kb\b|minutes|hours", metric.name)


def test_alerts_and_examples_name_metrics_that_there_are() -> None:
    known = {f"{one.name}{part}" for one in CATALOGUE for part in PARTS}
    assert set(METRIC.findall(PAGE)) <= known
    alerts = PAGE.partition("## Alerts")[2]
    assert len(set(METRIC.findall(alerts))) >= 6


def test_no_label_could_say_whose_something_is() -> None:
    labels = {label for metric in CATALOGUE for label in metric.labels}
    assert labels == {
        "method", "route", "status", "code", "media", "outcome", "state", "step", "result",
        "kind", "error", "process", "version", "python",
    }  # fmt: skip
