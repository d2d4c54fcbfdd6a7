from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from earmark import directory
from earmark.database import agents as agent_rows
from earmark.database import hierarchy as node_rows
from earmark.database import submissions, tables
from earmark.directory import (
    MAX_NAME_CHARACTERS,
    AgentChange,
    Directory,
    NewAgent,
    NewNode,
    NodeChange,
    OrganizationDirectory,
)
from earmark.errors import InvalidError, NotFoundError
from earmark.model import (
    MAX_INDEXED_CHARACTERS,
    AgentSent,
    HierarchyNode,
    MediaType,
    Principal,
    Submission,
    new_id,
    now,
)

if TYPE_CHECKING:
    from uuid import UUID

    from earmark.database import Database, Scope

ADA = NewAgent("Ada", "Quill", "ada@example.org")
_numbers = count()


@pytest.fixture
def here(database: Database, principal: Principal) -> OrganizationDirectory:
    return Directory(database).for_(principal)


@pytest.fixture
def there(database: Database, other_principal: Principal) -> OrganizationDirectory:
    return Directory(database).for_(other_principal)


def upload(
    scope: Scope, code: str | None, *, node_id: UUID | None = None, apply: bool = False
) -> UUID:
    """What an upload's transaction does with the directory."""
    agent_id = directory.find_agent(scope, code)
    submission = Submission(
        f"{next(_numbers)}.wav",
        MediaType.AUDIO,
        "{}",
        agent=AgentSent(code),
        apply_hierarchy_to_agent=apply,
    )
    id_ = new_id()
    added = submissions.add(
        scope,
        submission,
        id_=id_,
        received_at=now(),
        size_bytes=1,
        sha256=bytes(32),
        agent_id=agent_id,
        node_id=node_id,
        warnings=(),
    )
    assert added
    if agent_id and node_id and apply:
        directory.apply_node_to_agent(scope, agent_id, node_id)
    return id_


def uploaded(database: Database, organization: UUID, code: str | None, **options: Any) -> UUID:
    with database.write(organization) as scope:
        return upload(scope, code, **options)


def joined_to(database: Database, organization: UUID, interaction_id: UUID) -> UUID | None:
    column = tables.interaction.c.agent_id
    with database.read(organization) as scope:
        row = scope.row(sa.select(column).where(tables.interaction.c.id == interaction_id))
    assert row is not None
    return row.agent_id


def audits(database: Database, organization: UUID) -> list[tuple[str, str, str, dict[str, Any]]]:
    with database.read(organization) as scope:
        rows = scope.rows(sa.select(tables.audit).order_by(tables.audit.c.sequence))
    return [(row.actor, row.action, row.subject, row.detail) for row in rows]


def closure(database: Database, organization: UUID) -> set[tuple[UUID, UUID, int]]:
    with database.read(organization) as scope:
        rows = scope.rows(sa.select(tables.hierarchy_closure))
    return {(row.ancestor_id, row.descendant_id, row.depth) for row in rows}


def closure_by_walking(nodes: tuple[HierarchyNode, ...]) -> set[tuple[UUID, UUID, int]]:
    parents = {node.id: node.parent_id for node in nodes}
    found = set()
    for node in nodes:
        at: UUID | None = node.id
        depth = 0
        while at is not None:
            found.add((at, node.id, depth))
            at = parents[at]
            depth += 1
        assert depth == node.depth + 1
    return found


def faulty(call: Any, *arguments: Any) -> list[str]:
    with pytest.raises(InvalidError) as caught:
        call(*arguments)
    return [fault.field for fault in caught.value.faults]


def each(wrong: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(field, value) for field, values in wrong.items() for value in values]


# Agents


def test_an_agent_is_read_back_as_it_was_created(here):
    new = replace(ADA, code="A-1", manager_id="m-7", start_date="2000-10-01T17:42:14.63798")
    created = here.create_agent(new)
    assert here.agent(created.id) == created
    assert here.agents() == (created,)
    assert (created.first_name, created.last_name, created.email) == ("Ada", "Quill", new.email)
    assert (created.code, created.manager_id, created.start_date) == (
        "A-1",
        "m-7",
        "2000-10-01T17:42:14.63798",
    )
    assert created.is_active
    assert created.user_id is None
    assert created.created_at == created.modified_at


def test_empty_optional_texts_of_a_new_agent_are_none(here):
    created = here.create_agent(replace(ADA, code="", manager_id="", start_date="", user_id=""))
    assert (created.code, created.manager_id, created.start_date) == (None, None, None)


def test_agents_without_a_code_do_not_collide(here):
    assert here.create_agent(ADA).id != here.create_agent(ADA).id


def test_agents_are_listed_oldest_first_and_by_activity(here):
    first, second = here.create_agent(ADA), here.create_agent(ADA)
    first = here.change_agent(first.id, AgentChange(is_active=False))
    assert here.agents() == (first, second)
    assert here.agents(is_active=True) == (second,)
    assert here.agents(is_active=False) == (first,)


def test_a_code_belongs_to_one_agent(here):
    other = here.create_agent(ADA)
    for code in ("A-1", "ä" * MAX_INDEXED_CHARACTERS, "\U0001f642" * MAX_INDEXED_CHARACTERS):
        here.create_agent(replace(ADA, code=code))
        assert faulty(here.create_agent, replace(ADA, code=code)) == ["code"]
        assert faulty(here.change_agent, other.id, AgentChange(code=code)) == ["code"]
    assert len(here.agents()) == 4


def test_an_agent_may_be_sent_its_own_code_again(here):
    agent = here.create_agent(replace(ADA, code="A-1"))
    assert here.change_agent(agent.id, AgentChange(code="A-1")) == agent


def test_codes_differ_by_case_and_by_bytes(here):
    for code in ("a-1", "A-1", "A-1 ", "é", "e\u0301"):
        here.create_agent(replace(ADA, code=code))
    assert len(here.agents()) == 5


def test_the_same_code_in_two_organizations_names_two_agents(here, there):
    mine, theirs = (side.create_agent(replace(ADA, code="A-1")) for side in (here, there))
    assert here.agents() == (mine,)
    assert there.agents() == (theirs,)


def test_a_change_leaves_what_it_does_not_name_and_removes_what_it_empties(here):
    new = replace(ADA, code="A-1", manager_id="m", start_date="2001-01-01")
    agent = here.create_agent(new)
    changed = here.change_agent(agent.id, AgentChange(last_name="Reed", manager_id="", code=""))
    assert changed.modified_at >= agent.modified_at
    assert changed == replace(
        agent, last_name="Reed", manager_id=None, code=None, modified_at=changed.modified_at
    )
    assert here.agent(agent.id) == changed


def test_a_change_of_nothing_changes_nothing_and_is_not_told(here, database, organization):
    agent = here.create_agent(ADA)
    before = audits(database, organization)
    assert here.change_agent(agent.id, AgentChange(first_name="Ada", node_ids=())) == agent
    assert audits(database, organization) == before


BAD_TEXT = ["a\0b", "\ud800", "x\udfffy", "x" * (MAX_NAME_CHARACTERS + 1)]


WRONG_AGENT = {
    "first_name": ["", " ", *BAD_TEXT],
    "last_name": ["", "\t", *BAD_TEXT],
    "email": ["", *BAD_TEXT],
    "code": ["a\0b", "\ud800", "x" * (MAX_INDEXED_CHARACTERS + 1)],
    "manager_id": BAD_TEXT,
    "start_date": ["yesterday", "2001-13-01", "2001-02-30T00:00:00"],
    "user_id": ["8f02de21-2d25-4a96-8973-7eb8ec9b6c1a", "someone"],
}


def test_a_wrong_value_of_an_agent_is_refused_by_name(here):
    agent = here.create_agent(ADA)
    for field, value in each(WRONG_AGENT):
        assert faulty(here.create_agent, replace(ADA, **{field: value})) == [field]
        assert faulty(here.change_agent, agent.id, AgentChange(**{field: value})) == [field]
    assert here.agents() == (agent,)


def test_every_wrong_value_is_told_at_once(here):
    wrong = NewAgent("", "", "", code="\0", user_id="x", start_date="x")
    fields = faulty(here.create_agent, wrong)
    assert set(fields) == {"first_name", "last_name", "email", "code", "user_id", "start_date"}


def test_an_unknown_agent_is_not_found_and_one_elsewhere_is_as_unknown(here, there):
    theirs = there.create_agent(replace(ADA, code="A-1"))
    for agent_id in (new_id(), theirs.id):
        for call in (
            here.agent,
            here.nodes_of,
            lambda id_: here.change_agent(id_, AgentChange(first_name="Eve")),
            lambda id_: here.change_agent(id_, AgentChange(code="A-1")),
        ):
            with pytest.raises(NotFoundError, match=r"^no such agent$"):
                call(agent_id)
    assert there.agent(theirs.id) == theirs


# Assignment


def test_an_agent_belongs_to_its_nodes_and_all_above_them(here):
    top = here.create_node(NewNode("Top"))
    middle = here.create_node(NewNode("Middle", parent_id=top.id))
    low = here.create_node(NewNode("Low", parent_id=middle.id))
    aside = here.create_node(NewNode("Aside"))
    agent = here.create_agent(replace(ADA, node_ids=(low.id, low.id)))
    assert here.nodes_of(agent.id) == {top.id, middle.id, low.id}
    here.change_agent(agent.id, AgentChange(first_name="Eve"))
    assert here.nodes_of(agent.id) == {top.id, middle.id, low.id}
    here.change_agent(agent.id, AgentChange(node_ids=(aside.id,)))
    assert here.nodes_of(agent.id) == {aside.id}
    here.change_agent(agent.id, AgentChange(node_ids=()))
    assert here.nodes_of(agent.id) == frozenset()


def test_the_parents_of_an_assigned_node_follow_its_move(here):
    top, other = here.create_node(NewNode("Top")), here.create_node(NewNode("Other"))
    low = here.create_node(NewNode("Low", parent_id=top.id))
    agent = here.create_agent(replace(ADA, node_ids=(low.id,)))
    here.change_node(low.id, NodeChange(parent_id=other.id))
    assert here.nodes_of(agent.id) == {low.id, other.id}


def test_only_nodes_of_the_organization_can_be_assigned(here, there):
    mine, theirs = here.create_node(NewNode("Mine")), there.create_node(NewNode("Theirs"))
    agent = here.create_agent(ADA)
    for node_id in (theirs.id, new_id()):
        sent = (mine.id, node_id)
        assert faulty(here.create_agent, replace(ADA, node_ids=sent)) == ["node_ids"]
        assert faulty(here.change_agent, agent.id, AgentChange(node_ids=sent)) == ["node_ids"]
    assert here.nodes_of(agent.id) == frozenset()
    assert here.agents() == (agent,)


def test_applying_a_node_twice_is_applying_it_once(here, database, organization):
    node, agent = here.create_node(NewNode("Top")), here.create_agent(ADA)
    with database.write(organization) as scope:
        assert directory.apply_node_to_agent(scope, agent.id, node.id)
        assert not directory.apply_node_to_agent(scope, agent.id, node.id)
    assert here.nodes_of(agent.id) == {node.id}


# Joining by code


def test_an_upload_finds_the_agent_of_its_code_active_or_not(here, there, database, organization):
    agent = here.create_agent(replace(ADA, code="A-1"))
    there.create_agent(replace(ADA, code="B-2"))
    here.change_agent(agent.id, AgentChange(is_active=False))
    with database.write(organization) as scope:
        assert directory.find_agent(scope, "A-1") == agent.id
        for code in (None, "", "a-1", "B-2", "A-1\0", "\ud800"):
            assert directory.find_agent(scope, code) is None


def test_waiting_interactions_are_joined_when_an_agent_of_their_code_is_created(
    here, there, database, organization, other_organization
):
    waiting = [uploaded(database, organization, "A-1") for _ in range(2)]
    others = [uploaded(database, organization, code) for code in ("a-1", None)]
    elsewhere = uploaded(database, other_organization, "A-1")
    agent = here.create_agent(replace(ADA, code="A-1"))
    assert {joined_to(database, organization, id_) for id_ in waiting} == {agent.id}
    assert {joined_to(database, organization, id_) for id_ in others} == {None}
    assert joined_to(database, other_organization, elsewhere) is None
    assert there.agents() == ()


def test_waiting_interactions_are_joined_when_an_agent_is_changed_to_their_code(
    here, database, organization
):
    agent = here.create_agent(replace(ADA, code="old"))
    earlier = uploaded(database, organization, "old")
    waiting = uploaded(database, organization, "new")
    here.change_agent(agent.id, AgentChange(code="new"))
    assert joined_to(database, organization, waiting) == agent.id
    assert joined_to(database, organization, earlier) == agent.id


def test_an_agent_that_takes_a_code_over_gets_none_of_what_was_joined_before(
    here, database, organization
):
    first = here.create_agent(replace(ADA, code="A-1"))
    early = uploaded(database, organization, "A-1")
    here.change_agent(first.id, AgentChange(code=""))
    between = uploaded(database, organization, "A-1")
    second = here.create_agent(replace(ADA, code="A-1"))
    assert joined_to(database, organization, early) == first.id
    assert joined_to(database, organization, between) == second.id


def test_late_joining_assigns_the_agent_where_the_upload_asked_for_it(
    here, database, organization
):
    top = here.create_node(NewNode("Top"))
    low = here.create_node(NewNode("Low", parent_id=top.id))
    unasked, unnamed = here.create_node(NewNode("Unasked")), here.create_node(NewNode("Unnamed"))
    for _ in range(2):
        uploaded(database, organization, "A-1", node_id=low.id, apply=True)
    uploaded(database, organization, "A-1", node_id=unasked.id)
    uploaded(database, organization, "A-1", apply=True)
    uploaded(database, organization, "B-2", node_id=unnamed.id, apply=True)
    agent = here.create_agent(replace(ADA, code="A-1"))
    assert here.nodes_of(agent.id) == {top.id, low.id}
    other = here.create_agent(ADA)
    here.change_agent(other.id, AgentChange(code="B-2", node_ids=(low.id,)))
    assert here.nodes_of(other.id) == {top.id, low.id, unnamed.id}


# Hierarchy


def test_a_node_is_read_back_as_it_was_created(here):
    top = here.create_node(NewNode("Top"))
    new = NewNode("Low", top.id, "L", ("x", "y", "x"), "Category", "Sub")
    low = here.create_node(new)
    assert here.tree() == (top, low)
    assert (low.parent_id, low.depth, low.name, low.is_active) == (top.id, 1, "Low", True)
    assert (low.code, low.codes) == ("L", ("x", "y"))
    assert (low.category, low.sub_category) == ("Category", "Sub")
    assert (top.parent_id, top.depth, top.code, top.codes) == (None, 0, None, ())


def test_empty_optional_texts_of_a_node_are_none(here):
    node = here.create_node(NewNode("Top", code="", category="", sub_category=""))
    assert (node.code, node.category, node.sub_category) == (None, None, None)
    assert here.tree() == (node,)


def test_the_tree_stands_in_order_and_begins_anew_below_what_is_left_out(here):
    a = here.create_node(NewNode("A"))
    b = here.create_node(NewNode("B"))
    a1 = here.create_node(NewNode("A1", parent_id=a.id))
    b1 = here.create_node(NewNode("B1", parent_id=b.id))
    a2 = here.create_node(NewNode("A2", parent_id=a.id))
    a11 = here.create_node(NewNode("A11", parent_id=a1.id))
    assert here.tree() == (a, a1, a11, a2, b, b1)
    assert here.tree(under=a1.id) == (a1, a11)
    a1 = here.change_node(a1.id, NodeChange(is_active=False))
    assert here.tree(is_active=False) == (a1,)
    assert here.tree(is_active=True) == (a, a2, b, b1, a11)
    assert here.tree(under=new_id()) == ()


def test_every_code_names_one_node_of_the_organization(here, there):
    first = here.create_node(NewNode("First", code="A", codes=("B", "C")))
    second = here.create_node(NewNode("Second", code="D"))
    for taken in "ABC":
        assert faulty(here.create_node, NewNode("New", code=taken)) == ["code"]
        assert faulty(here.create_node, NewNode("New", codes=("E", taken))) == ["codes"]
        assert faulty(here.change_node, second.id, NodeChange(code=taken)) == ["code"]
        assert faulty(here.change_node, second.id, NodeChange(codes=(taken,))) == ["codes"]
    with pytest.raises(InvalidError, match='"B"'):
        here.create_node(NewNode("New", code="B"))
    assert here.tree() == (first, second)
    assert there.create_node(NewNode("Theirs", code="A", codes=("B",))).code == "A"


def test_a_code_may_stand_among_the_other_codes_of_its_own_node(here, database, organization):
    node = here.create_node(NewNode("Top", code="A", codes=("B", "A")))
    assert (node.code, node.codes) == ("A", ("B", "A"))
    assert here.tree() == (node,)
    changed = here.change_node(node.id, NodeChange(code="C"))
    assert here.tree() == (changed,)
    with database.read(organization) as scope:
        assert [directory.resolve_node(scope, code=code) for code in "ABC"] == [node.id] * 3


def test_codes_that_a_node_gives_up_are_free_again(here):
    first = here.create_node(NewNode("First", code="A", codes=("B", "C")))
    first = here.change_node(first.id, NodeChange(code="", codes=("C",)))
    assert (first.code, first.codes) == (None, ("C",))
    second = here.create_node(NewNode("Second", code="B", codes=("A",)))
    first = here.change_node(first.id, NodeChange(codes=()))
    assert here.tree() == (first, second)
    assert first.codes == ()


def test_a_node_is_resolved_by_id_by_code_or_by_both(here, there, database, organization):
    node = here.create_node(NewNode("First", code="A", codes=("B",)))
    other = here.create_node(NewNode("Second", code="C"))
    theirs = there.create_node(NewNode("Theirs", code="T"))
    with database.read(organization) as scope:
        for asked in (
            {"node_id": node.id},
            {"code": "A"},
            {"code": "B"},
            {"node_id": node.id, "code": "A"},
            {"node_id": node.id, "code": "B"},
        ):
            assert directory.resolve_node(scope, **asked) == node.id
        for asked in (
            {},
            {"node_id": theirs.id},
            {"node_id": new_id()},
            {"code": "T"},
            {"code": "a"},
            {"code": ""},
            {"code": "A\0"},
            {"code": "\udfff"},
            {"node_id": other.id, "code": "A"},
            {"node_id": node.id, "code": "unknown"},
            {"node_id": new_id(), "code": "A"},
        ):
            assert directory.resolve_node(scope, **asked) is None


def test_an_inactive_node_is_not_resolved_until_it_is_active_again(here, database, organization):
    node = here.create_node(NewNode("Top", code="A"))
    low = here.create_node(NewNode("Low", parent_id=node.id, code="B"))
    interaction_id = uploaded(database, organization, None, node_id=node.id)
    here.change_node(node.id, NodeChange(is_active=False))
    with database.read(organization) as scope:
        assert directory.resolve_node(scope, node_id=node.id) is None
        assert directory.resolve_node(scope, code="A") is None
        assert directory.resolve_node(scope, code="B") == low.id
        kept = scope.row(
            sa.select(tables.interaction.c.hierarchy_node_id).where(
                tables.interaction.c.id == interaction_id
            )
        )
    assert kept == (node.id,)
    here.change_node(node.id, NodeChange(is_active=True))
    with database.read(organization) as scope:
        assert directory.resolve_node(scope, code="A") == node.id


def test_one_code_may_name_a_node_in_each_organization(
    here, there, database, organization, other_organization
):
    new = NewNode("N", code="A")
    mine, theirs = here.create_node(new), there.create_node(new)
    for owner, node in ((organization, mine), (other_organization, theirs)):
        with database.read(owner) as scope:
            assert directory.resolve_node(scope, code="A") == node.id


def test_a_code_that_is_named_twice_in_a_change_is_kept_once(here):
    node = here.create_node(NewNode("Top"))
    assert here.change_node(node.id, NodeChange(codes=("B", "A", "B"))).codes == ("B", "A")


def test_a_change_of_a_node_leaves_what_it_does_not_name(here):
    top = here.create_node(NewNode("Top"))
    node = here.create_node(NewNode("Low", top.id, "L", ("x",), "Category", "Sub"))
    changed = here.change_node(node.id, NodeChange(name="New", sub_category=""))
    assert changed == replace(node, name="New", sub_category=None, modified_at=changed.modified_at)
    assert here.tree() == (top, changed)
    assert here.change_node(node.id, NodeChange(name="New", parent_id=top.id)) == changed


def test_a_node_moves_with_all_that_stands_below_it(here, database, organization):
    a, b = here.create_node(NewNode("A")), here.create_node(NewNode("B"))
    a1 = here.create_node(NewNode("A1", parent_id=a.id))
    a11 = here.create_node(NewNode("A11", parent_id=a1.id))
    b1 = here.create_node(NewNode("B1", parent_id=b.id))
    moved = here.change_node(a1.id, NodeChange(parent_id=b1.id))
    assert (moved.parent_id, moved.depth) == (b1.id, 2)
    assert [(node.name, node.depth) for node in here.tree()] == [
        *(("A", 0), ("B", 0), ("B1", 1), ("A1", 2), ("A11", 3)),
    ]
    assert closure(database, organization) == closure_by_walking(here.tree())
    top = here.change_node(a1.id, NodeChange(to_top=True))
    assert (top.parent_id, top.depth) == (None, 0)
    assert {node.id: node.depth for node in here.tree()}[a11.id] == 1
    assert closure(database, organization) == closure_by_walking(here.tree())


def test_a_node_cannot_move_below_itself(here, database, organization):
    top = here.create_node(NewNode("Top"))
    low = here.create_node(NewNode("Low", parent_id=top.id))
    lower = here.create_node(NewNode("Lower", parent_id=low.id))
    for parent in (top, low, lower):
        change = NodeChange(parent_id=parent.id, name="Moved")
        assert faulty(here.change_node, top.id, change) == ["parent_id"]
    assert here.tree() == (top, low, lower)
    assert closure(database, organization) == closure_by_walking(here.tree())


def test_a_parent_must_be_a_node_of_the_organization(here, there):
    theirs, mine = there.create_node(NewNode("Theirs")), here.create_node(NewNode("Mine"))
    messages = set()
    for parent_id in (theirs.id, new_id()):
        for call in (
            lambda id_: here.create_node(NewNode("New", parent_id=id_)),
            lambda id_: here.change_node(mine.id, NodeChange(parent_id=id_)),
        ):
            with pytest.raises(InvalidError) as caught:
                call(parent_id)
            messages.add(str(caught.value).replace(str(parent_id), "…"))
    assert len(messages) == 1
    assert here.tree() == (mine,)


def test_an_unknown_node_is_not_found_and_one_elsewhere_is_as_unknown(here, there):
    theirs = there.create_node(NewNode("Theirs"))
    for node_id in (theirs.id, new_id()):
        with pytest.raises(NotFoundError, match=r"^no such hierarchy node$"):
            here.change_node(node_id, NodeChange(name="Mine"))
    assert here.tree(under=theirs.id) == ()
    assert here.tree() == ()
    assert there.tree() == (theirs,)


WRONG_NODE = {
    "name": ["", "  ", *BAD_TEXT],
    "category": BAD_TEXT,
    "sub_category": BAD_TEXT,
    "code": ["\0", "\ud800", "x" * (MAX_INDEXED_CHARACTERS + 1)],
    "codes": [("",), ("a\0",), ("\udc00",), ("x" * (MAX_INDEXED_CHARACTERS + 1),)],
    "contact_user_ids": [("8f02de21-2d25-4a96-8973-7eb8ec9b6c1a",)],
}


def test_a_wrong_value_of_a_node_is_refused_by_name(here):
    node = here.create_node(NewNode("Top"))
    for field, value in each(WRONG_NODE):
        assert faulty(here.create_node, replace(NewNode("New"), **{field: value})) == [field]
        assert faulty(here.change_node, node.id, NodeChange(**{field: value})) == [field]
    assert here.tree() == (node,)


MOVES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7)), max_size=12)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(moves=MOVES)
def test_the_closure_is_right_after_any_moves(database, moves):
    organization = new_id()
    with database.write(None) as scope:
        row = {"id": organization, "name": str(organization), "created_at": now()}
        scope.insert(tables.organization, row)
    tree = Directory(database).for_(Principal(organization, "c", frozenset()))
    nodes: list[UUID] = []
    for number in range(7):
        parent_id = nodes[number // 2 - 1] if number > 1 else None
        nodes.append(tree.create_node(NewNode(str(number), parent_id=parent_id)).id)
    for node, target in moves:
        to = NodeChange(to_top=True) if target == 7 else NodeChange(parent_id=nodes[target])
        try:
            tree.change_node(nodes[node], to)
        except InvalidError:
            assert nodes[node] in ancestors(tree.tree(), nodes[target])
    assert len(tree.tree()) == 7
    assert closure(database, organization) == closure_by_walking(tree.tree())


def ancestors(nodes: tuple[HierarchyNode, ...], node_id: UUID) -> set[UUID]:
    return {up for up, down, _ in closure_by_walking(nodes) if down == node_id}


def test_a_tree_may_be_deeper_than_python_recurses(here, database, organization):
    at = now()
    ids = [new_id() for _ in range(3000)]
    parents = [None, *ids]
    with database.write(organization) as scope:
        scope.insert(
            tables.hierarchy_node,
            *(
                {
                    "id": id_,
                    "parent_id": parent,
                    "name": "n",
                    "is_active": True,
                    "created_at": at,
                    "modified_at": at,
                }
                for id_, parent in zip(ids, parents, strict=False)
            ),
        )
    assert [node.id for node in here.tree()] == ids


# Audit


def test_every_change_is_told_without_values(here, database, organization, principal):
    node = here.create_node(NewNode("Secretname", code="S-1", category="Secretcategory"))
    uploaded(database, organization, "A-1", node_id=node.id, apply=True)
    agent = here.create_agent(replace(ADA, code="A-1"))
    here.change_agent(agent.id, AgentChange(email="eve@example.org", node_ids=()))
    here.change_node(node.id, NodeChange(name="Secretname 2", codes=("S-2",)))
    told = audits(database, organization)
    assert {actor for actor, *_ in told} == {f"client:{principal.client_id}"}
    assert [rest for _, *rest in told] == [
        ["hierarchy.create", str(node.id), {}],
        ["agent.create", str(agent.id), {"joined": 1, "assigned": [str(node.id)]}],
        ["agent.change", str(agent.id), {"fields": ["email", "node_ids"]}],
        ["hierarchy.change", str(node.id), {"fields": ["name", "codes"]}],
    ]


def test_what_is_refused_leaves_no_trace(here, database, organization):
    here.create_agent(replace(ADA, code="A-1"))
    here.create_node(NewNode("Top", code="N"))
    before = audits(database, organization)
    faulty(here.create_agent, replace(ADA, code="A-1"))
    faulty(here.create_node, NewNode("New", code="N"))
    assert audits(database, organization) == before


# At the same instant


def together(*calls: Any) -> list[Any]:
    """Runs the calls in threads that start at once; returns results and errors."""
    start = threading.Barrier(len(calls))

    def run(call: Any) -> Any:
        start.wait()
        try:
            return call()
        except InvalidError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_of_agents_created_with_one_code_at_once_one_stands(here):
    new = replace(ADA, code="A-1")
    other = here.create_agent(ADA)
    calls = [lambda: here.create_agent(new)] * 5
    calls += [lambda: here.change_agent(other.id, AgentChange(code="A-1"))]
    outcomes = together(*calls)
    assert sum(isinstance(outcome, InvalidError) for outcome in outcomes) == 5
    assert sum(agent.code == "A-1" for agent in here.agents()) == 1


def test_of_nodes_created_with_one_code_at_once_one_stands(here, database, organization):
    outcomes = together(*[lambda: here.create_node(NewNode("N", codes=("A",)))] * 6)
    assert sum(isinstance(outcome, InvalidError) for outcome in outcomes) == 5
    assert len(here.tree()) == 1
    assert closure(database, organization) == closure_by_walking(here.tree())


def test_moves_at_once_make_no_circle(here, database, organization):
    a, b = here.create_node(NewNode("A")), here.create_node(NewNode("B"))
    outcomes = together(
        lambda: here.change_node(a.id, NodeChange(parent_id=b.id)),
        lambda: here.change_node(b.id, NodeChange(parent_id=a.id)),
    )
    assert sum(isinstance(outcome, InvalidError) for outcome in outcomes) == 1
    assert len(here.tree()) == 2
    assert closure(database, organization) == closure_by_walking(here.tree())


@pytest.mark.parametrize("how", ["created", "changed"])
def test_an_upload_that_found_no_agent_is_joined_by_one_that_comes_before_it_commits(
    here, database, organization, how
):
    agent = here.create_agent(ADA) if how == "changed" else None
    looked, ids = threading.Event(), []

    def take() -> None:
        with database.write(organization) as scope:
            assert directory.find_agent(scope, "A-1") is None
            looked.set()
            threading.Event().wait(0.3)  # long enough for a creation that does not wait
            ids.append(upload(scope, "A-1"))

    uploading = threading.Thread(target=take)
    uploading.start()
    assert looked.wait(10)
    if agent is None:
        agent = here.create_agent(replace(ADA, code="A-1"))
    else:
        here.change_agent(agent.id, AgentChange(code="A-1"))
    uploading.join()
    assert joined_to(database, organization, ids[0]) == agent.id


def test_an_upload_waits_for_an_agent_that_is_about_to_have_its_code(here, database, organization):
    agent = here.create_agent(ADA)
    reserved, ids = threading.Event(), []

    def take() -> None:
        assert reserved.wait(10)
        ids.append(uploaded(database, organization, "A-1"))

    uploading = threading.Thread(target=take)
    uploading.start()
    with database.write(organization) as scope:
        agent_rows.reserve_code(scope, "A-1")
        assert agent_rows.join_waiting(scope, agent.id, "A-1") == 0
        reserved.set()
        threading.Event().wait(0.3)  # long enough for an upload that does not wait
        agent_rows.replace(scope, replace(agent, code="A-1"))
    uploading.join()
    assert joined_to(database, organization, ids[0]) == agent.id


def test_uploads_of_one_code_do_not_wait_for_each_other(here, database, organization):
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    here.create_agent(replace(ADA, code="A-1"))
    with database.write(organization) as scope:
        directory.find_agent(scope, "A-1")
        other = threading.Thread(target=uploaded, args=(database, organization, "A-1"))
        other.start()
        other.join(10)
        assert not other.is_alive()


def test_uploads_and_agents_at_once_miss_nothing(here, database, organization):
    codes = [f"A-{number}" for number in range(6)]
    node = here.create_node(NewNode("Top"))
    calls: list[Any] = []
    for code in codes:
        calls.append(lambda code=code: here.create_agent(replace(ADA, code=code)))
        calls += [
            lambda code=code: uploaded(database, organization, code, node_id=node.id, apply=True)
        ] * 3
    together(*calls)
    agents = {agent.code: agent.id for agent in here.agents()}
    columns = sa.select(tables.interaction.c.agent_code, tables.interaction.c.agent_id)
    with database.read(organization) as scope:
        rows = scope.rows(columns)
    assert len(rows) == 18
    assert all(row.agent_id == agents[row.agent_code] for row in rows)
    assert all(here.nodes_of(agent_id) == {node.id} for agent_id in agents.values())


def test_a_change_of_an_agent_waits_for_the_one_before_it(here, database, organization):
    agent = here.create_agent(ADA)
    change = AgentChange(email="new@example.org")
    other = threading.Thread(target=here.change_agent, args=(agent.id, change))
    with database.write(organization) as scope:
        found = agent_rows.get(scope, agent.id, lock=True)
        other.start()
        threading.Event().wait(0.3)  # long enough to read what is about to be changed
        agent_rows.replace(scope, replace(found, first_name="New"))
    other.join()
    after = here.agent(agent.id)
    assert (after.first_name, after.email) == ("New", "new@example.org")


def test_a_node_is_created_below_one_that_is_just_being_moved(here, database, organization):
    top, low = here.create_node(NewNode("Top")), here.create_node(NewNode("Low"))
    new = NewNode("New", parent_id=low.id)
    other = threading.Thread(target=here.create_node, args=(new,))
    with database.write(organization) as scope:
        node_rows.reserve(scope)
        node_rows.move(scope, low.id, parent_id=top.id)
        node_rows.replace(scope, replace(low, parent_id=top.id))
        other.start()
        threading.Event().wait(0.3)  # long enough for a creation that does not wait
    other.join()
    assert closure(database, organization) == closure_by_walking(here.tree())
