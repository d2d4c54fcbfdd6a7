"""The world that hostile cases are tried on: one for each test module."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from counting import COUNTS
from hostile.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module", autouse=True)
def _plain_log(plain_log: None) -> None:
    """A line for each request."""


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Tells counts of what was tried; see `counting`."""
    return lambda **counts: request.node.user_properties.append((COUNTS, counts))


@pytest.fixture(scope="module")
def world(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """On SQLite, as what goes over the wire depends on no database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        made = World(sqlite_template, tmp_path_factory.mktemp("hostile"))
        yield made
        made.close()
