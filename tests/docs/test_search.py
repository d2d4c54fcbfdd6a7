"""The examples of docs/search.md find what the page says."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from books import NOON, Books
from earmark.interactions import Interactions
from earmark.model import Query, Status
from earmark.model.search import MATCH_CHARACTERS, MAX_MATCHES
from earmark.storage.local import LocalStore
from saying import say, transcript

if TYPE_CHECKING:
    from uuid import UUID

    from earmark.database import Database
    from earmark.model import Principal

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")


def rows(name: str) -> list[tuple[str, str]]:
    found = re.search(rf"<!-- {name} -->\n((\|.*\n)+)", PAGE)
    assert found is not None
    return re.findall(r"^\| (.+) \| (.+) \|$", found[1], re.MULTILINE)[1 + (name == "queries") :]


@pytest.fixture
def said(database: Database, organization: UUID) -> dict[str, UUID]:
    books = Books(database, organization)
    ids = {}
    for number, (name, line) in enumerate(rows("transcripts")):
        ids[name] = books.receive(at=NOON + timedelta(days=number), status=Status.READY)
        say(database, organization, ids[name], transcript(line))
    return ids


def test_every_query_of_the_page_finds_what_it_says(
    database: Database, principal: Principal, said: dict[str, UUID], tmp_path: Path
) -> None:
    mine = Interactions(database, LocalStore(tmp_path)).for_(principal)
    queries = rows("queries")
    assert (len(said), len(queries)) == (5, 14)
    for q, finds in queries:
        names = [] if finds == "nothing" else finds.split(", ")
        found = {item.id for item in mine.find(Query(q=q.strip("`"))).items}
        assert found == {said[name] for name in names}, q


def test_the_bounds_of_the_page_are_those_in_force() -> None:
    assert f"of one longer than {MATCH_CHARACTERS} characters" in PAGE
    assert MAX_MATCHES == 5
    assert "at most five lines" in PAGE
