"""Events: every one is told, once, in an order that does not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from earmark.database import journal
from earmark.errors import ForbiddenError
from earmark.interactions import Interactions, OrganizationInteractions
from earmark.model import Grant, Principal, new_id
from earmark.storage import open_store

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from earmark.database import Database, Scope


def announce(scope: Scope, kind: str = "interaction.received") -> UUID:
    interaction_id = new_id()
    journal.announce(scope, kind=kind, interaction_id=interaction_id, detail={"round": 1})
    return interaction_id


def tell(database: Database, organization: UUID, kind: str = "interaction.received") -> UUID:
    with database.write(organization) as scope:
        return announce(scope, kind)


@pytest.fixture
def interactions(database: Database, tmp_path: Path) -> Interactions:
    return Interactions(database, open_store(f"file:{tmp_path}/objects"))


@pytest.fixture
def mine(interactions: Interactions, principal: Principal) -> OrganizationInteractions:
    return interactions.for_(principal)


def test_events_are_told_in_their_order_without_gaps(
    mine: OrganizationInteractions, database: Database, organization: UUID
) -> None:
    told = [tell(database, organization, kind) for kind in ("a.received", "a.ready", "a.deleted")]
    found = mine.events()
    assert [(event.position, event.kind) for event in found] == [
        (1, "a.received"),
        (2, "a.ready"),
        (3, "a.deleted"),
    ]
    assert [event.interaction_id for event in found] == told
    assert found[0].detail == {"round": 1}


def test_who_goes_on_after_the_last_gets_what_came_since(
    mine: OrganizationInteractions, database: Database, organization: UUID
) -> None:
    tell(database, organization)
    (first,) = mine.events()
    assert mine.events(after=first.position) == []
    new = tell(database, organization)
    (second,) = mine.events(after=first.position)
    assert (second.interaction_id, second.position) == (new, 2)


def test_pages_follow_each_other(
    mine: OrganizationInteractions, database: Database, organization: UUID
) -> None:
    told = [tell(database, organization) for _ in range(5)]
    found, after = [], 0
    while page := mine.events(after=after, limit=2):
        assert len(page) <= 2
        found += [event.interaction_id for event in page]
        after = page[-1].position
    assert found == told


def test_a_long_backlog_is_told_to_its_end(
    mine: OrganizationInteractions,
    database: Database,
    organization: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "NUMBERED_AT_ONCE", 2)
    told = [tell(database, organization) for _ in range(5)]
    found, after = [], 0
    while page := mine.events(after=after):
        found += [event.interaction_id for event in page]
        after = page[-1].position
    assert found == told


def test_another_organization_hears_nothing(
    interactions: Interactions,
    database: Database,
    organization: UUID,
    other_principal: Principal,
) -> None:
    tell(database, organization)
    other = tell(database, other_principal.organization_id)
    (event,) = interactions.for_(other_principal).events()
    assert (event.interaction_id, event.position) == (other, 1)


def test_events_need_the_grant_to_read(interactions: Interactions, organization: UUID) -> None:
    uploader = Principal(organization, "uploader", frozenset({Grant.INGEST}))
    with pytest.raises(ForbiddenError):
        interactions.for_(uploader).events()


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)  # SQLite: one writer
def test_one_that_is_committed_late_is_not_missed(
    mine: OrganizationInteractions, database: Database, organization: UUID
) -> None:
    with database.write(organization) as slow:
        late = announce(slow)
        early = tell(database, organization)
        (first,) = mine.events()
        assert first.interaction_id == early
    (second,) = mine.events(after=first.position)
    assert second.interaction_id == late
