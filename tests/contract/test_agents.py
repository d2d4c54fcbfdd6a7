"""`/Agent` on the wire: request in; status, headers, body out."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa

from acx import Caller, Served
from earmark.database import tables
from earmark.model import Grant
from earmark.web.acxapi.body import MAX_BODY_BYTES

if TYPE_CHECKING:
    from earmark.database import Database

on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
"""Where the database has no part in what is shown."""

published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

ADA = {"firstName": "Ada", "lastName": "Quill", "agentEmail": "ada@example.org"}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


@pytest.fixture
def served(database: Database) -> Served:
    return Served(database)


@pytest.fixture
def caller(served: Served) -> Caller:
    return served.caller("First")


@pytest.fixture
def stranger(served: Served) -> Caller:
    return served.caller("Second")


def created(caller: Caller, **values: Any) -> dict[str, Any]:
    answer = caller.post("/Agent", {**ADA, **values})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def node(caller: Caller) -> str:
    answer = caller.post("/Hierarchy", {"name": "Team"})
    node_id: str = answer.json()["id"]
    return node_id


@published
def test_a_created_agent_is_answered_whole_and_found_again(caller: Caller) -> None:
    sent = {
        **ADA,
        "agentCode": "007",
        "osms": [node(caller)],
        "managerId": "m-1",
        "startDate": "2000-10-01T17:42:14.63798",
    }
    answer = caller.post("/Agent", sent)
    body = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert UUID(body["id"])
    assert INSTANT.fullmatch(body["createdOn"])
    assert body == {
        "id": body["id"],
        "userId": None,
        "firstName": "Ada",
        "firstInitial": "A",
        "lastName": "Quill",
        "agentEmail": "ada@example.org",
        "agentCode": "007",
        "createdOn": body["createdOn"],
        "modifiedOn": body["createdOn"],
        "isActive": True,
        "managerId": "m-1",
        "startDate": "2000-10-01T17:42:14.63798",
    }
    assert caller.get(f"/Agent/{body['id']}").json() == body
    assert caller.get("/Agent/All").json() == [body]


@published
def test_an_update_changes_what_is_given_and_answers_the_agent(caller: Caller) -> None:
    before = created(caller, agentCode="007", managerId="m-1")
    sent = {"lastName": "Reed", "agentCode": None, "isActive": False, "userId": None}
    answer = caller.put(f"/Agent/{before['id']}", sent)
    after = answer.json()
    assert answer.status_code == 200
    assert after == {
        **before,
        "lastName": "Reed",
        "isActive": False,
        "modifiedOn": after["modifiedOn"],
    }
    assert caller.get(f"/Agent/{before['id']}").json() == after


@published
def test_the_word_remove_unlinks_manager_and_user(caller: Caller) -> None:
    before = created(caller, managerId="m-1")
    answer = caller.put(f"/Agent/{before['id']}", {"managerId": "remove", "userId": "Remove"})
    assert (answer.status_code, answer.json()["managerId"]) == (200, None)


@published
def test_osms_replace_all_assignments_and_are_kept_if_absent(
    caller: Caller, database: Database
) -> None:
    first, second = node(caller), node(caller)
    agent = created(caller, osms=[first])

    def nodes() -> set[str]:
        with database.read(caller.client.organization_id) as scope:
            return {str(row.node_id) for row in scope.rows(sa.select(tables.agent_node))}

    assert nodes() == {first}
    caller.put(f"/Agent/{agent['id']}", {"firstName": "Eve"})
    assert nodes() == {first}
    assert caller.put(f"/Agent/{agent['id']}", {"osms": [second]}).status_code == 200
    assert nodes() == {second}


@published
def test_agents_are_filtered_by_activity_and_an_empty_list_is_404(caller: Caller) -> None:
    assert caller.get("/Agent/All").status_code == 404
    active, inactive = created(caller), created(caller)
    assert caller.get("/Agent/All?IsActive=false").status_code == 404
    caller.put(f"/Agent/{inactive['id']}", {"isActive": False})

    def ids(query: str) -> list[str]:
        return [agent["id"] for agent in caller.get(f"/Agent/All{query}").json()]

    assert ids("") == ids("?IsActive=") == ids("?other=1") == [active["id"], inactive["id"]]
    assert ids("?isactive=True") == [active["id"]]
    assert ids("?ISACTIVE=false") == [inactive["id"]]
    assert caller.get("/Agent/All?IsActive=1").status_code == 400


@on_sqlite
@ours
def test_paths_and_keys_are_matched_without_regard_to_case(caller: Caller) -> None:
    sent = {key.upper(): value for key, value in ADA.items()}
    answer = caller.post("/agent", {**sent, "agentcode": "007", "unknown": {"a": [1]}})
    body = answer.json()
    assert (answer.status_code, body["agentCode"]) == (200, "007")
    assert caller.get("/AGENT/all").json() == [body]
    assert caller.get(f"/agent/{body['id'].upper()}").json() == body
    assert caller.put(f"/aGENT/{body['id']}", {"FIRSTNAME": "Eve"}).json()["firstName"] == "Eve"


@ours
def test_a_code_that_another_agent_has_is_refused(caller: Caller) -> None:
    created(caller, agentCode="007")
    other = created(caller)
    sentence = "agentCode: Another agent has this code already; send another."
    for answer in (
        caller.post("/Agent", {**ADA, "agentCode": "007"}),
        caller.put(f"/Agent/{other['id']}", {"agentCode": "007"}),
    ):
        assert (answer.status_code, answer.text) == (400, sentence)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@on_sqlite
@published
def test_a_user_id_is_refused_since_there_are_no_users(caller: Caller) -> None:
    agent = created(caller)
    user = {"userId": str(uuid4())}
    for answer in (
        caller.post("/Agent", {**ADA, **user}),
        caller.put(f"/Agent/{agent['id']}", user),
    ):
        assert answer.status_code == 400
        assert answer.text.startswith("userId: No such active user exists")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"firstName": ""}, "firstName"),
    ({"lastName": " "}, "lastName"),
    ({"agentEmail": None}, "agentEmail"),
    ({"agentEmail": "x" * 513}, "agentEmail"),
    ({"agentCode": 7}, "agentCode"),
    ({"agentCode": "x\0"}, "agentCode"),
    ({"agentCode": "x" * 513}, "agentCode"),
    ({"firstName": ["Ada"]}, "firstName"),
    ({"osms": "x"}, "osms"),
    ({"osms": {}}, "osms"),
    ({"osms": ["x"]}, "osms.0"),
    ({"osms": [7]}, "osms.0"),
    ({"osms": [str(uuid4())]}, "osms"),
    ({"startDate": "soon"}, "startDate"),
    ({"startDate": 20001001}, "startDate"),
    ({"managerId": True}, "managerId"),
]


@on_sqlite
@ours
def test_a_wrong_value_is_a_400_that_names_it(caller: Caller) -> None:
    agent = created(caller)
    problem = {"Accept": "application/problem+json"}
    for values, field in WRONG:
        answer = caller.post("/Agent", {**ADA, **values}, headers=problem)
        assert answer.status_code == 400
        assert [error["field"] for error in answer.json()["errors"]] == [field]
        answer = caller.put(f"/Agent/{agent['id']}", values)
        assert answer.status_code == (200 if None in values.values() else 400)
    assert caller.get("/Agent/All").json() == [agent]


@on_sqlite
@ours
def test_isactive_of_an_update_is_a_boolean(caller: Caller) -> None:
    agent = created(caller)
    for value in ("false", 0, [], "yes"):
        answer = caller.put(f"/Agent/{agent['id']}", {"isActive": value})
        assert answer.status_code == 400
        assert answer.text.startswith("isActive: ")


BAD_BODIES = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"\xff\xfe",
    b'{"firstName": NaN}',
    b'{"firstName": ' + b"9" * 5000 + b"}",
    b'{"firstName": "\\ud800", "lastName": "x", "agentEmail": "x"}',
    b'{"firstName": "a", "FIRSTNAME": "b", "lastName": "x", "agentEmail": "x"}',
    b'{"osms": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
]


@on_sqlite
@ours
def test_a_body_that_is_no_such_object_is_a_400(caller: Caller) -> None:
    agent = created(caller)
    for body in BAD_BODIES:
        for answer in (caller.post("/Agent", body), caller.put(f"/Agent/{agent['id']}", body)):
            assert answer.status_code == 400, body[:40]
            assert len(answer.text) > 10
    assert caller.get("/Agent/All").json() == [agent]


@on_sqlite
@ours
def test_a_body_may_have_256_kib(caller: Caller) -> None:
    body = b'{"firstName":"A","lastName":"B","agentEmail":"C"}'
    assert caller.post("/Agent", body.ljust(MAX_BODY_BYTES)).status_code == 200
    assert caller.post("/Agent", body.ljust(MAX_BODY_BYTES + 1)).status_code == 413


@on_sqlite
@ours
def test_a_body_that_ends_early_creates_nothing(caller: Caller) -> None:
    assert asyncio.run(hang_up(caller, json.dumps(ADA).encode())) == 400
    assert caller.get("/Agent/All").status_code == 404


async def hang_up(caller: Caller, body: bytes) -> int | None:
    """Sends a part of a body and goes away; returns the status that nobody reads."""
    messages = iter(
        [{"type": "http.request", "body": body, "more_body": True}, {"type": "http.disconnect"}]
    )
    status = None

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    request = httpx.Request("POST", "http://test/Agent", headers=caller.headers)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/Agent",
        "raw_path": b"/Agent",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }
    await caller.app(scope, receive, send)
    return status


@published
def test_an_unknown_agent_is_404_and_one_of_another_organization_answers_the_same(
    caller: Caller, stranger: Caller
) -> None:
    theirs = created(stranger, agentCode="007")
    answers = set()
    for agent_id in (theirs["id"], str(uuid4()), "x", "7"):
        for answer in (
            caller.get(f"/Agent/{agent_id}"),
            caller.put(f"/Agent/{agent_id}", {"firstName": "Eve"}),
        ):
            answers.add((answer.status_code, answer.text, answer.headers["content-type"]))
    assert len(answers) == 1
    assert answers.pop()[0] == 404
    assert caller.get("/Agent/All").status_code == 404
    assert stranger.get("/Agent/All").json() == [theirs]


@ours
def test_nodes_of_another_organization_cannot_be_assigned(
    caller: Caller, stranger: Caller
) -> None:
    agent = created(caller)
    texts = set()
    for node_id in (node(stranger), str(uuid4())):
        for answer in (
            caller.post("/Agent", {**ADA, "osms": [node_id]}),
            caller.put(f"/Agent/{agent['id']}", {"osms": [node_id]}),
        ):
            assert answer.status_code == 400
            texts.add(answer.text.replace(node_id, "…"))
    assert len(texts) == 1


@ours
def test_two_organizations_may_use_one_code(caller: Caller, stranger: Caller) -> None:
    assert created(caller, agentCode="007")["id"] != created(stranger, agentCode="007")["id"]


@on_sqlite
@ours
def test_reading_needs_read_and_changing_needs_manage(served: Served) -> None:
    reader = served.caller("First", [Grant.READ])
    manager = served.caller("First", [Grant.MANAGE])
    agent = created(manager)
    path = f"/Agent/{agent['id']}"
    assert reader.get(path).status_code == reader.get("/Agent/All").status_code == 200
    for answer in (
        reader.post("/Agent", ADA),
        reader.put(path, {"firstName": "Eve"}),
        manager.get(path),
        manager.get("/Agent/All"),
    ):
        assert answer.status_code == 403
        assert "insufficient_scope" in answer.headers["www-authenticate"]
    anonymous = {"Authorization": ""}
    for answer in (
        reader.get(path, headers=anonymous),
        reader.get("/Agent/All", headers=anonymous),
        reader.post("/Agent", "{", headers=anonymous),
        reader.put(path, "{", headers=anonymous),
    ):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


@on_sqlite
@ours
def test_other_methods_are_405(caller: Caller) -> None:
    for method, path in (
        ("GET", "/Agent"),
        ("PUT", "/Agent/All"),
        ("DELETE", f"/Agent/{uuid4()}"),
    ):
        answer = caller.send(method, path)
        assert (answer.status_code, bool(answer.headers["allow"])) == (405, True)
