"""`/Hierarchy` on the wire: request in; status, headers, body out."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from acx import Caller, Served
from earmark.model import Grant, HierarchyNode, new_id, now
from earmark.web.acxapi.body import MAX_BODY_BYTES
from earmark.web.acxapi.hierarchy import HierarchyAnswer, render

if TYPE_CHECKING:
    from earmark.database import Database

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""Where the database has no part in what is shown."""

published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
CONTACTS = (
    "administrativeContactsUserIds",
    "escalationContactsUserIds",
    "managerContactsUserIds",
)


@pytest.fixture
def served(database: Database) -> Served:
    return Served(database)


@pytest.fixture
def caller(served: Served) -> Caller:
    return served.caller("First")


@pytest.fixture
def stranger(served: Served) -> Caller:
    return served.caller("Second")


def created(caller: Caller, name: str, **values: Any) -> dict[str, Any]:
    answer = caller.post("/Hierarchy", {"name": name, **values})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def names(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    return {node["name"]: names(node["children"]) for node in nodes}


@published
def test_a_created_node_is_answered_whole_and_found_again(caller: Caller) -> None:
    sent = {
        "name": "Sales",
        "category": "Category",
        "subCategory": "Sub",
        "code": "007",
        "hierarchyCodes": ["Code1", "CodeABC"],
        **{key: [] for key in CONTACTS},
    }
    answer = caller.post("/Hierarchy", sent)
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert UUID(body["id"])
    assert INSTANT.fullmatch(body["modifiedOn"])
    assert body == {
        "id": body["id"],
        "isActive": True,
        "name": "Sales",
        "structureLevelName": "Level 1",
        "category": "Category",
        "subCategory": "Sub",
        "code": "007",
        "modifiedOn": body["modifiedOn"],
        "administrativeContacts": [],
        "escalationContacts": [],
        "managerContacts": [],
        "hierarchyCodes": ["Code1", "CodeABC"],
        "children": [],
    }
    assert caller.get("/Hierarchy/All").json() == [body]


@published
def test_the_tree_nests_children_and_names_levels_by_depth(caller: Caller) -> None:
    top, other = created(caller, "Top"), created(caller, "Other")
    middle = created(caller, "Middle", parentId=top["id"])
    low = created(caller, "Low", parentId=middle["id"])
    second = created(caller, "Second", parentId=top["id"])
    assert (middle["structureLevelName"], low["structureLevelName"]) == ("Level 2", "Level 3")
    tree = caller.get("/Hierarchy/All").json()
    assert names(tree) == {"Top": {"Middle": {"Low": {}}, "Second": {}}, "Other": {}}
    assert tree == [
        {**top, "children": [{**middle, "children": [low]}, second]},
        other,
    ]


@published
def test_nodes_are_filtered_by_activity_and_an_empty_tree_is_404(caller: Caller) -> None:
    assert caller.get("/Hierarchy/All").status_code == 404
    top = created(caller, "Top")
    low = created(caller, "Low", parentId=top["id"])
    assert caller.get("/Hierarchy/All?IsActive=false").status_code == 404
    inactive = caller.put(f"/Hierarchy/{top['id']}", {"isActive": False}).json()
    assert inactive["isActive"] is False
    assert inactive["children"] == [low]
    assert caller.get("/Hierarchy/All").json() == [inactive]
    assert caller.get("/Hierarchy/All?isActive=True").json() == [low]
    assert caller.get("/Hierarchy/All?ISACTIVE=false").json() == [{**inactive, "children": []}]
    assert caller.get("/Hierarchy/All?IsActive=maybe").status_code == 400


@published
def test_an_update_changes_what_is_given_and_answers_the_node_with_its_children(
    caller: Caller,
) -> None:
    before = created(caller, "Top", code="007", category="C", hierarchyCodes=["a"])
    low = created(caller, "Low", parentId=before["id"])
    answer = caller.put(
        f"/Hierarchy/{before['id']}", {"name": "New", "code": None, "hierarchyCodes": ["b", "c"]}
    )
    after = answer.json()
    assert answer.status_code == 200
    assert after == {
        **before,
        "name": "New",
        "hierarchyCodes": ["b", "c"],
        "modifiedOn": after["modifiedOn"],
        "children": [low],
    }
    assert caller.get("/Hierarchy/All").json() == [after]


@published
def test_a_node_moves_to_a_new_parent_and_to_the_top(caller: Caller) -> None:
    top, node = created(caller, "Top"), created(caller, "Node")
    created(caller, "Low", parentId=node["id"])
    path = f"/Hierarchy/{node['id']}"
    assert caller.put(path, {"newParentId": top["id"]}).json()["structureLevelName"] == "Level 2"
    assert names(caller.get("/Hierarchy/All").json()) == {"Top": {"Node": {"Low": {}}}}
    assert caller.put(path, {"newParentId": None, "name": "Node"}).status_code == 200
    assert names(caller.get("/Hierarchy/All").json()) == {"Top": {"Node": {"Low": {}}}}
    assert caller.put(path, {"newParentId": "Remove"}).json()["structureLevelName"] == "Level 1"
    assert names(caller.get("/Hierarchy/All").json()) == {"Top": {}, "Node": {"Low": {}}}


@ours
def test_a_node_cannot_move_below_itself(caller: Caller) -> None:
    top = created(caller, "Top")
    low = created(caller, "Low", parentId=top["id"])
    for parent in (top, low):
        answer = caller.put(f"/Hierarchy/{top['id']}", {"newParentId": parent["id"]})
        assert answer.status_code == 400
        assert answer.text.startswith("newParentId: A node cannot stand below itself")
    assert names(caller.get("/Hierarchy/All").json()) == {"Top": {"Low": {}}}


@ours
def test_one_code_names_one_node(caller: Caller) -> None:
    created(caller, "Top", code="007", hierarchyCodes=["x"])
    other = created(caller, "Other")
    path = f"/Hierarchy/{other['id']}"
    for key, field, code in (("code", "code", "x"), ("hierarchyCodes", "hierarchyCodes", "007")):
        value = code if key == "code" else ["y", code]
        for answer in (
            caller.post("/Hierarchy", {"name": "New", key: value}),
            caller.put(path, {key: value}),
        ):
            assert answer.status_code == 400
            sentence = f'{field}: The code "{code}" names another hierarchy node already.'
            assert answer.text == sentence


@on_sqlite
@published
def test_contacts_are_refused_since_there_are_no_users(caller: Caller) -> None:
    node = created(caller, "Top")
    for key in CONTACTS:
        value = {key: [str(uuid4())]}
        for answer in (
            caller.post("/Hierarchy", {"name": "New", **value}),
            caller.put(f"/Hierarchy/{node['id']}", value),
        ):
            assert answer.status_code == 400
            assert answer.text.startswith("contactsUserIds: No such active user exists")


@on_sqlite
@ours
def test_paths_and_keys_are_matched_without_regard_to_case(caller: Caller) -> None:
    body = caller.post("/hierarchy", {"NAME": "Top", "hierarchycodes": ["x"]}).json()
    assert body["hierarchyCodes"] == ["x"]
    assert caller.get("/HIERARCHY/all").json() == [body]
    path = f"/hierarchy/{body['id'].upper()}"
    assert caller.put(path, {"Name": "New", "NEWPARENTID": "remove"}).json()["name"] == "New"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "\0"}, "name"),
    ({"name": 7}, "name"),
    ({"name": None}, "name"),
    ({"name": "x" * 513}, "name"),
    ({"category": []}, "category"),
    ({"subCategory": "x" * 513}, "subCategory"),
    ({"code": 7}, "code"),
    ({"code": "\ud800"}, "code"),
    ({"hierarchyCodes": "x"}, "hierarchyCodes"),
    ({"hierarchyCodes": [7]}, "hierarchyCodes.0"),
    ({"hierarchyCodes": [""]}, "hierarchyCodes"),
    ({"managerContactsUserIds": "x"}, "managerContactsUserIds"),
]


@on_sqlite
@ours
def test_a_wrong_value_is_a_400_that_names_it(caller: Caller) -> None:
    node = created(caller, "Top")
    problem = {"Accept": "application/problem+json"}
    for values, field in WRONG:
        answer = caller.post("/Hierarchy", {"name": "New", **values}, headers=problem)
        assert answer.status_code == 400
        assert [error["field"] for error in answer.json()["errors"]] == [field]
        answer = caller.put(f"/Hierarchy/{node['id']}", values)
        assert answer.status_code == (200 if None in values.values() else 400)
    assert caller.get("/Hierarchy/All").json() == [node]


@on_sqlite
@ours
def test_a_parent_that_is_no_node_is_a_400(caller: Caller) -> None:
    node = created(caller, "Top")
    for parent in ("", "x", 7, str(uuid4())):
        answer = caller.post("/Hierarchy", {"name": "New", "parentId": parent})
        assert answer.status_code == 400
        assert answer.text.startswith("parentId: ")
        answer = caller.put(f"/Hierarchy/{node['id']}", {"newParentId": parent})
        assert answer.status_code == 400
        assert answer.text.startswith("newParentId: ")


@on_sqlite
@ours
def test_a_body_that_is_no_object_or_too_large_is_refused(caller: Caller) -> None:
    node = created(caller, "Top")
    for body, status in ((b"", 400), (b"[]", 400), (b"{}".ljust(MAX_BODY_BYTES + 1), 413)):
        assert caller.post("/Hierarchy", body).status_code == status
        assert caller.put(f"/Hierarchy/{node['id']}", body).status_code == status
    assert caller.get("/Hierarchy/All").json() == [node]


@published
def test_an_unknown_node_is_404_and_one_of_another_organization_answers_the_same(
    caller: Caller, stranger: Caller
) -> None:
    theirs = created(stranger, "Theirs", code="007")
    answers = set()
    for node_id in (theirs["id"], str(uuid4()), "x"):
        answer = caller.put(f"/Hierarchy/{node_id}", {"name": "Mine"})
        answers.add((answer.status_code, answer.text, answer.headers["content-type"]))
    assert len(answers) == 1
    assert answers.pop()[0] == 404
    assert caller.get("/Hierarchy/All").status_code == 404
    assert stranger.get("/Hierarchy/All").json() == [theirs]
    assert created(caller, "Mine", code="007")["code"] == "007"


@ours
def test_a_parent_of_another_organization_is_as_unknown(caller: Caller, stranger: Caller) -> None:
    mine = created(caller, "Mine")
    texts = set()
    for parent_id in (created(stranger, "Theirs")["id"], str(uuid4())):
        for answer in (
            caller.post("/Hierarchy", {"name": "New", "parentId": parent_id}),
            caller.put(f"/Hierarchy/{mine['id']}", {"newParentId": parent_id}),
        ):
            assert answer.status_code == 400
            texts.add(answer.text.replace(parent_id, "…").replace("newParentId", "parentId"))
    assert len(texts) == 1


@on_sqlite
@ours
def test_reading_needs_read_and_changing_needs_manage(served: Served) -> None:
    reader = served.caller("First", [Grant.READ])
    manager = served.caller("First", [Grant.MANAGE])
    path = f"/Hierarchy/{created(manager, 'Top')['id']}"
    assert reader.get("/Hierarchy/All").status_code == 200
    for answer in (
        reader.post("/Hierarchy", {"name": "New"}),
        reader.put(path, {"name": "New"}),
        manager.get("/Hierarchy/All"),
    ):
        assert answer.status_code == 403
    anonymous = {"Authorization": ""}
    for answer in (
        reader.get("/Hierarchy/All", headers=anonymous),
        reader.post("/Hierarchy", "{", headers=anonymous),
        reader.put(path, "{", headers=anonymous),
    ):
        assert answer.status_code == 401


@on_sqlite
@ours
def test_other_methods_are_405(caller: Caller) -> None:
    for method, path in (
        ("GET", "/Hierarchy"),
        ("PUT", "/Hierarchy/All"),
        ("GET", f"/Hierarchy/{uuid4()}"),
    ):
        assert caller.send(method, path).status_code == 405


@ours
def test_a_tree_deeper_than_any_encoder_goes_is_written() -> None:
    at, ids = now(), [new_id() for _ in range(5000)]
    nodes = [
        HierarchyNode(id_, parent, "N", None, (), None, None, True, depth, at, at)
        for depth, (id_, parent) in enumerate(zip(ids, [None, *ids], strict=False))
    ]
    text = render(nodes)
    assert text.count("{") == text.count("}") == 5000
    assert text.endswith("]}" * 5000 + "]")
    assert len(json.loads(render(nodes[:100]))) == 1


@ours
def test_children_stand_last_in_a_node_so_that_it_can_be_written_piece_by_piece() -> None:
    assert list(HierarchyAnswer.model_fields)[-1] == "children"


@published
def test_other_codes_that_an_update_does_not_name_stay(caller: Caller) -> None:
    before = created(caller, "Top", hierarchyCodes=["a", "b"])
    for kept in ({}, {"hierarchyCodes": None}):
        answer = caller.put(f"/Hierarchy/{before['id']}", {"name": "New", **kept})
        assert answer.json()["hierarchyCodes"] == ["a", "b"]
