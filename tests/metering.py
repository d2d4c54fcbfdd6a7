"""Metrics as Prometheus reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterator


class Series(NamedTuple):
    """One line: its name, its labels and its value."""

    name: str
    labels: dict[str, str]
    value: float


class Metrics:
    """All lines of one answer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {one.name: one for one in text_string_to_metric_families(text)}
        self.all = [
            Series(one.name, one.labels, one.value)
            for family in self.families.values()
            for one in family.samples
        ]

    def of(self, name: str, **labels: str) -> Iterator[Series]:
        """The lines of a name that have these labels, and maybe others."""
        wanted = labels.items()
        return (one for one in self.all if one.name == name and wanted <= one.labels.items())

    def sum(self, name: str, **labels: str) -> float:
        """What they come to; 0 without any."""
        return sum(one.value for one in self.of(name, **labels))

    def told(self, name: str, label: str) -> dict[str, float]:
        """The values of a name by those of one of its labels."""
        values = {one.labels[label] for one in self.of(name)}
        return {value: self.sum(name, **{label: value}) for value in values}


def scraped(port: int) -> Metrics:
    """What a service tells at a port of this machine."""
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    return Metrics(answer.text)
