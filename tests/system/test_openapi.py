"""Every operation does what the served OpenAPI says of it, and keeps organizations apart."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import hypothesis
import pytest
import requests
import schemathesis
import sqlalchemy as sa
import uvicorn
from schemathesis import checks

from earmark.app.parts import Parts
from earmark.config import Settings
from earmark.database import downloads, tables
from earmark.model import Grant, new_id, now
from earmark.web import Heart, create_app
from earmark.web.api import events
from serving import RECORDING, SECRET_KEY, form, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from fastapi import FastAPI

    from earmark.database import Database

UNKNOWN = "018f0000-0000-7000-8000-000000000000"
BODIES: dict[str, Any] = {
    "/Agent/{AgentId}": {"firstName": "Ana"},
    "/Hierarchy/{HierarchyId}": {"name": "Desk"},
    "/Metadata/{id}": {"phone": "1"},
}
METHODS = ("get", "head", "post", "put", "patch", "delete")


@pytest.fixture
def app(database_url: str, tmp_path: Path) -> Iterator[FastAPI]:
    """The app over an empty database and a store of its own."""
    settings = Settings(
        data=tmp_path / "data",
        database_url=database_url,
        secret_key=SECRET_KEY,
        disk_reserve=0,
        rate_limit="1000000/s",
    )
    parts = Parts(settings, issuer="http://testserver")
    parts.prepare()
    heart = Heart(
        parts.access, parts.intake, parts.interactions, parts.directory, parts.readiness, 60
    )
    made = create_app(heart)
    made.state.parts = parts
    with listening(made) as made.state.base:
        yield made
    parts.database.close()


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Serves an app in a thread; the address."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        until(lambda: server.started, "served")
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def token(app: FastAPI, organization: str) -> str:
    access = app.state.parts.access
    made = access.create_client(
        organization=organization, create_organization=True, grants=frozenset(Grant), name="t"
    )
    granted: str = access.grant_token(made.client.id, made.secret).access_token
    return granted


def signed_in(app: FastAPI, organization: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token(app, organization)}"}
    return httpx.Client(base_url=app.state.base, headers=headers, trust_env=False, timeout=60)


@pytest.fixture
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with signed_in(app, "First") as made:
        yield made


def upload(client: httpx.Client, name: str) -> httpx.Response:
    parts = form({"FileName": name, "UploadType": "Audio"}, RECORDING.read_bytes(), name)
    return client.post("/Media/Upload", **parts)


def operations(app: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of each."""
    return [
        (path, method, operation)
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_every_operation_has_an_id_a_summary_and_says_how_to_sign_in(app):
    found = operations(app)
    ids = [operation["operationId"] for _, _, operation in found]
    assert len(set(ids)) == len(ids)
    for path, method, operation in found:
        made_up = operation["operationId"].replace("_", " ").title()
        assert operation["summary"] != made_up, f"{path} has FastAPI's own title"
        assert "__" not in operation["operationId"]
        assert not operation["operationId"].endswith(f"_{method}"), "FastAPI's own id"
        assert operation["description"].endswith("."), path
        for told in told_of(app, operation):
            assert told.get("description") or told.get("$ref"), (path, told)
        free = path.startswith(("/health/", "/.well-known/", "/connect/"))
        assert bool(operation.get("security")) != free, (path, method)
        assert free or {"401", "403", "429", "503"} <= set(operation["responses"]), path


def told_of(app: FastAPI, operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that an operation takes: parameters, and the keys and parts of its body."""
    yield from operation.get("parameters", [])
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = content["schema"]
        if "$ref" in schema:
            schema = app.openapi()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        yield from schema.get("properties", {}).values()


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_every_operation_answers_as_documented(app, client, monkeypatch):
    """Made-up requests, good and bad: no failure of ours, no status or body undocumented."""
    monkeypatch.setattr(events, "STREAM_SECONDS", 0.05)  # or nobody would wait for its end
    monkeypatch.setattr(events, "POLL_SECONDS", 0.01)
    assert upload(client, "there.wav").status_code == 200
    schema = schemathesis.openapi.from_dict(app.openapi())
    asked = []

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=12,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(data=hypothesis.strategies.data())
    def ask(operation: Any, data: hypothesis.strategies.DataObject) -> None:
        mode = data.draw(hypothesis.strategies.sampled_from(schemathesis.GenerationMode))
        case = data.draw(operation.as_strategy(generation_mode=mode))
        headers = {"Authorization": client.headers["Authorization"]}
        answer = case.call(base_url=app.state.base, headers=headers, session=session)
        asked.append(answer.status_code)
        case.validate_response(
            answer,
            checks=[
                checks.not_a_server_error,
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
            headers=headers,
        )

    with requests.Session() as session:
        session.trust_env = False  # looking for a proxy and a password took a tenth of the time
        for result in schema.get_all_operations():
            ask(result.ok())
    assert {200, 400, 404} <= set(asked)


def test_another_organizations_ids_are_answered_as_unknown_ones(app, client):
    ids = made_by(app, client)
    tried = set()
    with signed_in(app, "Second") as other:
        for template, method, _ in operations(app):
            path = template.replace("{extension}", "txt")  # that one is no id
            for name in re.findall(r"\{(\w+)\}", path):
                theirs, unknown = (
                    answer(other, method, path.replace(f"{{{name}}}", id_), BODIES.get(path))
                    for id_ in (ids[name], UNKNOWN)
                )
                assert theirs == unknown, path
                assert theirs[0] == 404, (path, theirs)
                tried.add(name)
        assert other.get("/v1/interactions").json()["items"] == []
        assert other.get("/Metadata").json() == []
        for name, parameter in (("agent", "AgentId"), ("hierarchy", "HierarchyId")):
            found = other.get("/v1/interactions", params={name: ids[parameter]})
            unknown = other.get("/v1/interactions", params={name: UNKNOWN})
            assert (found.status_code, found.content) == (unknown.status_code, unknown.content)
        assert tried == set(ids)
        refused = [
            other.post(
                "/Media/Upload",
                **form(
                    {"FileName": "o.wav", "UploadType": "Audio", "HierarchyId": id_},
                    RECORDING.read_bytes(),
                    "o.wav",
                ),
            )
            for id_ in (ids["HierarchyId"], UNKNOWN)
        ]
        assert refused[0].status_code == 400
        assert refused[0].content == refused[1].content
    for path, method, _ in operations(app):
        processed = any(word in path for word in ("waveform", "transcript", "vcon"))
        if method == "get" and "{" in path and not processed:
            mine = answer(client, method, fill(path, ids), None)
            assert mine[0] == 200, path  # nothing was changed, and the ids were right


def made_by(app: FastAPI, client: httpx.Client) -> dict[str, str]:
    """Something of each kind; its id by the name of the path's parameter."""
    node = client.post("/Hierarchy", json={"name": "Desk", "code": "D"})
    agent = client.post(
        "/Agent", json={"firstName": "A", "lastName": "B", "agentEmail": "a@example.org"}
    )
    taken = upload(client, "mine.wav")
    for one in (node, agent, taken):
        assert one.status_code == 200, one.text
    return {
        "HierarchyId": node.json()["id"],
        "AgentId": agent.json()["id"],
        "interaction_id": taken.json()["id"],
        "id": taken.json()["id"],
        "conversationId": taken.json()["id"],
        "download_id": str(download(app)),
    }


def download(app: FastAPI) -> UUID:
    """The id of a download that waits to be taken up."""
    database: Database = app.state.parts.database
    first = sa.select(tables.organization.c.id).where(tables.organization.c.name == "First")
    with database.read(None) as scope:
        row = scope.row(first)
    assert row is not None
    id_ = new_id()
    with database.write(row.id) as scope:
        downloads.begin(
            scope,
            id_,
            client_id="t",
            file_name="later.wav",
            fingerprint=b"f" * 32,
            hold=None,
            promise=downloads.Promise(b"sealed", "{}"),
            at=now(),
        )
    return id_


def fill(path: str, ids: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], path)


def answer(client: httpx.Client, method: str, path: str, body: Any) -> tuple[int, Any, bytes]:
    """An answer without what differs in every answer."""
    got = client.request(method, path, json=body)
    varying = {"x-request-id", "date", "ratelimit"}
    headers = {key: value for key, value in got.headers.items() if key not in varying}
    return got.status_code, headers, got.content
