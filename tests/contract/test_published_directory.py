"""Every property that the published `/Agent` and `/Hierarchy` have, taken and told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from acx import Caller, Served

if TYPE_CHECKING:
    from earmark.database import Database

pytestmark = [
    pytest.mark.origin("published"),
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
]

TEXT, FLAG, TEXTS, NODES = "string", "boolean", "array of string", "array of object"

AGENT = dict.fromkeys(("firstName", "lastName", "agentEmail", "agentCode"), TEXT)
AGENT |= {**dict.fromkeys(("userId", "managerId", "startDate"), TEXT), "osms": TEXTS}
NODE = dict.fromkeys(("name", "category", "subCategory", "code"), TEXT)
CONTACTS = ("administrativeContacts", "escalationContacts", "managerContacts")
NODE |= dict.fromkeys([*(f"{name}UserIds" for name in CONTACTS), "hierarchyCodes"], TEXTS)

BODIES = {
    ("post", "/Agent"): (AGENT, {"firstName", "lastName", "agentEmail"}),
    ("put", "/Agent/{AgentId}"): ({**AGENT, "isActive": FLAG}, set()),
    ("post", "/Hierarchy"): ({**NODE, "parentId": TEXT}, {"name"}),
    ("put", "/Hierarchy/{HierarchyId}"): ({**NODE, "newParentId": TEXT, "isActive": FLAG}, set()),
}
"""What a body may hold, and what it must."""

AGENT_ANSWER = {
    **dict.fromkeys(("id", "userId", "firstName", "firstInitial", "lastName"), TEXT),
    **dict.fromkeys(("agentEmail", "agentCode", "managerId", "startDate"), TEXT),
    **dict.fromkeys(("createdOn", "modifiedOn"), TEXT),
    "isActive": FLAG,
}
NODE_ANSWER = {
    **dict.fromkeys(("id", "name", "structureLevelName", "category", "subCategory"), TEXT),
    **dict.fromkeys(("code", "modifiedOn"), TEXT),
    **dict.fromkeys((*CONTACTS, "children"), NODES),
    "hierarchyCodes": TEXTS,
    "isActive": FLAG,
}
ANSWERS = {"AgentAnswer": AGENT_ANSWER, "HierarchyAnswer": NODE_ANSWER}
ANSWERS |= {"Contact": {"userName": TEXT, "userId": TEXT}}

VALUES: dict[str, Any] = {
    "firstName": "Ada",
    "lastName": "Quill",
    "agentEmail": "ada@example.org",
    "agentCode": "007",
    "osms": [],
    "managerId": "m-1",
    "startDate": "2000-10-01T17:42:14.63798",
    "isActive": False,
    "name": "Desk",
    "category": "Category",
    "subCategory": "Sub",
    "code": "D1",
    "hierarchyCodes": ["Code1", "CodeABC"],
    "newParentId": "remove",
    **{f"{name}UserIds": [] for name in CONTACTS},
}


@pytest.fixture
def served(database: Database) -> Served:
    return Served(database)


@pytest.fixture
def caller(served: Served) -> Caller:
    return served.caller("First")


def kind(schema: dict[str, Any]) -> str:
    """The type of a schema that may allow null besides, with that of its items."""
    schema = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    if "$ref" in schema:
        return "object"
    return f"array of {kind(schema['items'])}" if "items" in schema else schema["type"]


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_every_published_property_of_a_body_is_documented_with_its_type(
    served: Served, method: str, path: str
) -> None:
    operation = served.app.built.openapi()["paths"][path][method]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    properties, required = BODIES[method, path]
    assert {name: kind(one) for name, one in schema["properties"].items()} == properties
    assert set(schema.get("required", ())) == required


@pytest.mark.parametrize("name", ANSWERS)
def test_every_published_property_of_an_answer_is_documented_with_its_type(
    served: Served, name: str
) -> None:
    schema = served.app.built.openapi()["components"]["schemas"][name]
    found = {key: kind(one) for key, one in schema["properties"].items()}
    assert found == ANSWERS[name]
    assert set(schema["required"]) == set(ANSWERS[name])


def paths(caller: Caller) -> dict[str, str]:
    """Where an agent and a node can be changed, by their path as published."""
    ids = [
        caller.post(path, {key: VALUES[key] for key in BODIES["post", path][1]}).json()["id"]
        for path in ("/Agent", "/Hierarchy")
    ]
    names = ("/Agent/{AgentId}", "/Hierarchy/{HierarchyId}")
    return {name: f"{name.partition('{')[0]}{id_}" for name, id_ in zip(names, ids, strict=True)}


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_every_published_property_of_a_body_is_taken_alone_and_as_null(
    caller: Caller, method: str, path: str
) -> None:
    where = {"/Agent": "/Agent", "/Hierarchy": "/Hierarchy"} | paths(caller)
    parent = where["/Hierarchy/{HierarchyId}"].rpartition("/")[2]
    values = {**VALUES, "parentId": parent, "userId": "remove" if method == "put" else ""}
    properties, required = BODIES[method, path]
    least = {name: VALUES[name] for name in required}
    for name in properties:
        answer = caller.send(method.upper(), where[path], json={**least, name: values[name]})
        assert answer.status_code == 200, (name, answer.text)
        if name in answer.json() and name != "userId":
            assert answer.json()[name] == values[name]
        if values[name] and name in ("agentCode", "code", "hierarchyCodes"):  # of one thing only
            empty = [] if name == "hierarchyCodes" else ""
            made = f"{path.partition('{')[0].rstrip('/')}/{answer.json()['id']}"
            assert caller.put(made, {name: empty}).status_code == 200
        answer = caller.send(method.upper(), where[path], json={**least, name: None})
        assert answer.status_code == (400 if name in required else 200), name


def test_what_is_answered_has_the_published_types(caller: Caller) -> None:
    where = paths(caller)
    agent = caller.get(where["/Agent/{AgentId}"]).json()
    assert {key: type(value) for key, value in agent.items()} == {
        **dict.fromkeys(AGENT_ANSWER, str),
        **dict.fromkeys(("userId", "agentCode", "managerId", "startDate"), type(None)),
        "isActive": bool,
    }
    (node,) = caller.get("/Hierarchy/All").json()
    assert {key: type(value) for key, value in node.items()} == {
        **dict.fromkeys(NODE_ANSWER, str),
        **dict.fromkeys((*CONTACTS, "children", "hierarchyCodes"), list),
        **dict.fromkeys(("category", "subCategory", "code"), type(None)),
        "isActive": bool,
    }


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("2000-10-01T17:42:14.63798", "2000-10-01T17:42:14.63798"),
        ("2000-10-01T17:42:14Z", "2000-10-01T17:42:14Z"),
        ("2000-10-01", "2000-10-01T00:00:00"),
    ],
)
def test_the_start_date_is_answered_as_a_date_time(
    caller: Caller, sent: str, answered: str
) -> None:
    body = {name: VALUES[name] for name in BODIES["post", "/Agent"][1]}
    made = caller.post("/Agent", {**body, "startDate": sent}).json()
    assert made["startDate"] == answered
    assert caller.get(f"/Agent/{made['id']}").json()["startDate"] == answered


def test_isactive_is_the_one_filter_and_leaving_it_out_asks_for_all(
    served: Served, caller: Caller
) -> None:
    where = paths(caller)
    for collection, one in (
        ("/Agent/All", "/Agent/{AgentId}"),
        ("/Hierarchy/All", "/Hierarchy/{HierarchyId}"),
    ):
        documented = served.app.built.openapi()["paths"][collection]["get"]["parameters"]
        assert [(each["name"], each["in"], each["required"]) for each in documented] == [
            ("IsActive", "query", False)
        ]
        assert documented[0]["schema"]["type"] == FLAG
        assert caller.put(where[one], {"isActive": False}).status_code == 200
        assert [each["isActive"] for each in caller.get(collection).json()] == [False]
        assert caller.get(f"{collection}?IsActive=true").status_code == 404
        assert len(caller.get(f"{collection}?IsActive=false").json()) == 1


def test_osms_name_nodes_of_the_organization(caller: Caller) -> None:
    where = paths(caller)
    node = where["/Hierarchy/{HierarchyId}"].rpartition("/")[2]
    assert caller.put(where["/Agent/{AgentId}"], {"osms": [node]}).status_code == 200
    assert caller.put(where["/Agent/{AgentId}"], {"osms": [str(uuid4())]}).status_code == 400
