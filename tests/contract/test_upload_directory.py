"""Agents and hierarchy on uploads, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import sqlalchemy as sa

from contract.forms import form, meta
from contract.test_upload_precedence import BAD_HIERARCHY
from earmark.database.tables import audit
from earmark.directory import AgentChange, NewAgent, NewNode, NodeChange

if TYPE_CHECKING:
    from uuid import UUID

    from contract.serving import Answer, Caller, Service
    from earmark.model import Agent, HierarchyNode

seed = pytest.mark.origin("seed")
published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")


@pytest.fixture
def both(service: Service) -> Caller:
    """A client of an empty service on each database."""
    return service.caller()


def agent(caller: Caller, code: str | None) -> Agent:
    return caller.directory.create_agent(NewAgent("Ada", "Quill", "ada@example.org", code=code))


def node(
    caller: Caller, name: str, parent: HierarchyNode | None = None, *codes: str
) -> HierarchyNode:
    new = NewNode(name, parent_id=parent.id if parent else None, code=name, codes=codes)
    return caller.directory.create_node(new)


def upload(caller: Caller, **metadata: object) -> Answer:
    return caller.upload(form(meta(**metadata)))


def agent_of(caller: Caller, answer: Answer) -> UUID | None:
    return caller.interaction(answer).agent_id


@seed
@pytest.mark.parametrize("sent", ["007", 7], ids=ascii)
def test_the_code_joins_the_agent_that_is_in_the_system(both: Caller, sent: object) -> None:
    known = agent(both, str(sent))
    assert agent_of(both, upload(both, AgentCode=sent)) == known.id


@ours
def test_the_code_is_matched_exactly(both: Caller) -> None:
    agent(both, "ab7")
    agent(both, "7")
    for other in ("AB7", "ab7 ", "07"):
        assert agent_of(both, upload(both, AgentCode=other)) is None


@seed
def test_an_unknown_code_is_kept_and_joined_when_the_agent_is_added(both: Caller) -> None:
    answer = upload(both, AgentCode="late")
    assert agent_of(both, answer) is None
    assert both.interaction(answer).agent.code == "late"
    known = agent(both, "late")
    assert agent_of(both, answer) == known.id


@ours
def test_an_agent_of_another_organization_is_not_joined(both: Caller) -> None:
    other = both.service.caller("Second")
    agent(other, "007")
    answer = upload(both, AgentCode="007")
    agent(other, "008")
    assert agent_of(both, answer) is None


@ours
def test_a_later_change_of_the_code_leaves_earlier_joins(both: Caller) -> None:
    known = agent(both, "old")
    answer = upload(both, AgentCode="old")
    both.directory.change_agent(known.id, AgentChange(code="new"))
    assert agent_of(both, answer) == known.id
    assert agent_of(both, upload(both, AgentCode="old")) is None
    assert agent_of(both, upload(both, AgentCode="new")) == known.id


@seed
def test_a_node_is_named_by_its_id_its_code_or_any_of_its_codes(both: Caller) -> None:
    named = node(both, "Accounting", None, "acc-1", "acc-2")
    for sent in (
        {"HierarchyId": str(named.id)},
        {"HierarchyId": str(named.id).upper()},
        {"HierarchyCode": "Accounting"},
        {"HierarchyCode": "acc-1"},
        {"HierarchyCode": "acc-2"},
        {"HierarchyId": str(named.id), "HierarchyCode": "acc-2"},
    ):
        hierarchy = both.interaction(upload(both, **sent)).hierarchy
        assert hierarchy is not None
        assert (hierarchy.id, hierarchy.code) == (named.id, "Accounting")


@ours
def test_a_numeric_code_is_its_text(both: Caller) -> None:
    named = node(both, "Desk", None, "1.50")
    raw = b'{"FileName": "n.wav", "UploadType": "Audio", "HierarchyCode": 1.50}'
    hierarchy = both.interaction(both.upload(form(raw))).hierarchy
    assert hierarchy is not None
    assert hierarchy.id == named.id


@published
def test_a_node_that_is_not_there_is_refused(both: Caller) -> None:
    one, two = node(both, "One"), node(both, "Two")
    foreign = node(both.service.caller("Second"), "Foreign")
    inactive = node(both, "Closed", None, "closed-1")
    both.directory.change_node(inactive.id, NodeChange(is_active=False))
    for sent in (
        {"HierarchyId": str(uuid4())},
        {"HierarchyId": str(foreign.id)},
        {"HierarchyId": str(inactive.id)},
        {"HierarchyCode": "Nowhere"},
        {"HierarchyCode": "one"},
        {"HierarchyCode": "Foreign"},
        {"HierarchyCode": "Closed"},
        {"HierarchyCode": "closed-1"},
        {"HierarchyId": str(one.id), "HierarchyCode": "Two"},
        {"HierarchyId": str(one.id), "HierarchyCode": "Nowhere"},
        {"HierarchyId": str(uuid4()), "HierarchyCode": "Two"},
    ):
        answer = upload(both, **sent)
        assert (answer.status, answer.text) == (400, BAD_HIERARCHY), sent
    assert both.service.kept().rows == 0
    assert upload(both, HierarchyId=str(two.id)).status == 200


@seed
@pytest.mark.parametrize("apply", [True, "true", False, None], ids=ascii)
def test_apply_assigns_the_agent_to_the_node_and_so_to_its_parents(
    both: Caller, apply: object
) -> None:
    top = node(both, "Top")
    middle = node(both, "Middle", top)
    leaf = node(both, "Leaf", middle)
    node(both, "Beside", top)
    known = agent(both, "007")
    answer = upload(both, AgentCode="007", HierarchyCode="Leaf", ApplyHierarchyToAgent=apply)
    assert answer.status == 200
    assigned = {leaf.id, middle.id, top.id} if apply else set()
    assert both.directory.nodes_of(known.id) == assigned


@ours
def test_apply_is_done_for_an_agent_that_is_added_later(both: Caller) -> None:
    top = node(both, "Top")
    leaf = node(both, "Leaf", top)
    upload(both, AgentCode="late", HierarchyId=str(leaf.id), ApplyHierarchyToAgent=True)
    known = agent(both, "late")
    assert both.directory.nodes_of(known.id) == {leaf.id, top.id}


@ours
def test_apply_without_a_hierarchy_or_an_agent_is_no_error(both: Caller) -> None:
    node(both, "Top")
    known = agent(both, "007")
    assert upload(both, AgentCode="007", ApplyHierarchyToAgent=True).status == 200
    assert upload(both, HierarchyCode="Top", ApplyHierarchyToAgent=True).status == 200
    assert both.directory.nodes_of(known.id) == frozenset()


@ours
def test_apply_twice_assigns_once(both: Caller) -> None:
    top = node(both, "Top")
    known = agent(both, "007")
    for _ in range(2):
        sent = {"AgentCode": "007", "HierarchyCode": "Top", "ApplyHierarchyToAgent": True}
        assert upload(both, **sent).status == 200
    assert both.directory.nodes_of(known.id) == {top.id}
    with both.service.database.read(both.principal.organization_id) as scope:
        rows = scope.rows(sa.select(audit).where(audit.c.action == "agent.assign"))
    assert [(row.subject, row.detail) for row in rows] == [
        (str(known.id), {"node_id": str(top.id)})
    ]


@ours
def test_a_refused_upload_assigns_nobody(both: Caller) -> None:
    node(both, "Top")
    known = agent(both, "007")
    sent = {"AgentCode": "007", "HierarchyCode": "Top", "ApplyHierarchyToAgent": True}
    assert upload(both, **sent, UploadType="Film").status == 400
    assert both.directory.nodes_of(known.id) == frozenset()
