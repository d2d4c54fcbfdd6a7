"""These tests run in a network namespace, which tests/system/test_walls.py makes for them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from walled.world import World

if "EARMARK_WALLED" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The namespace's network, its name server and its web server."""
    from walled.world import World

    made = World(tmp_path_factory.mktemp("world"))
    made.start()
    yield made
    Path(os.environ["EARMARK_WALLED"]).write_text(made.summary())


@pytest.fixture(scope="session")
def s3(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real S3 server, of which the web server of the namespace is the outside."""
    from walled.s3 import serve

    yield from serve(world, tmp_path_factory.mktemp("seaweedfs"))


@pytest.fixture(scope="session", autouse=True)
def _plain_log() -> Iterator[None]:
    """What is logged where nothing was configured: a plain line."""
    usual = structlog.get_config()
    plain = structlog.processors.KeyValueRenderer(["event"])
    structlog.configure(processors=[structlog.processors.format_exc_info, plain])
    yield
    structlog.configure(**usual)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all."""
    with asyncio.Runner() as made:
        yield made
