"""Servers to be killed, what callers know of them, and the summary of what was tried."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from faults.copies import Copies
from faults.ledger import Ledger
from faults.summary import FAULTS

# The fixtures that make servers; whoever asks for one asks for those that it asks for.
from system.conftest import new_server, postgres_served, sqlite_served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.mutants import Mutant
    from serving import Server

SHOWN_CHARACTERS = 50

__all__ = ["new_server", "postgres_served", "sqlite_served"]


@pytest.fixture
def thorough(pytestconfig: pytest.Config) -> bool:
    """Whether it may take long."""
    return bool(pytestconfig.getoption("--thorough"))


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Tells what was tried for the summary; see `summary`."""
    return lambda **facts: request.node.user_properties.append((FAULTS, facts))


@pytest.fixture
def ledger(tell: Callable[..., None]) -> Iterator[Ledger]:
    """What callers know, told at the end, also of a test that fails."""
    ledger = Ledger()
    yield ledger
    tell(what=ledger.what, **ledger.counts)


@pytest.fixture
def new_copies(new_server: Callable[..., Server]) -> Iterator[Callable[..., Copies]]:
    """Makes servers of copies that are not started yet, each with an empty database of a kind."""
    made: list[Copies] = []

    def make(kind: str, **facts: object) -> Copies:
        server = new_server(kind)
        made.append(Copies(server.data, server.database_url, **facts))
        return made[-1]

    yield make
    for copies in made:
        copies.end()
        shutil.rmtree(copies.data, ignore_errors=True)


@pytest.fixture
def catch(tell: Callable[..., None]) -> Callable[..., None]:
    """Tells a row of the table, and fails if the mutant was not caught."""

    def told(mutant: Mutant, by: str, after: str, breaches: list[str]) -> None:
        print(*breaches, sep="\n")
        first = breaches[0][:SHOWN_CHARACTERS] if breaches else ""
        tell(mutant=mutant.name, by=by, caught=f"{after}: {first}" if breaches else "")
        assert breaches, f"{mutant.name} was not caught"

    return told
