"""What is served has the shapes that are published; they are told without the sentences."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acx import Served
from earmark.database import Database
from published import PUBLISHED, REFERENCE, facts

NOT_SERVED = {("/TextMedia/Upload", "post")}
"""The contract leaves it out."""

DOCUMENT = json.loads(PUBLISHED.read_text())
OPERATIONS = [
    (path, method)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if (path, method) not in NOT_SERVED
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document that Earmark serves."""
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('shapes')}/never-opened")
    document: dict[str, Any] = Served(database).app.built.openapi()
    return document


def test_the_facts_are_those_of_the_reference() -> None:
    if not REFERENCE.exists():
        pytest.skip(f"NOT COMPARED with the publisher's own file, which is not at {REFERENCE}")
    assert facts(json.loads(REFERENCE.read_text())) == DOCUMENT


def test_the_facts_hold_no_sentences() -> None:
    assert facts(DOCUMENT) == DOCUMENT
    told = json.dumps(DOCUMENT)
    assert "://" not in told
    assert not [value for value in _texts(DOCUMENT) if value.count(" ") > 1]


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for one in inner for text in _texts(one)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_an_operation_is_served_under_its_address_with_its_parameters(
    served: dict[str, Any], path: str, method: str
) -> None:
    ours = served["paths"][path][method]
    theirs = DOCUMENT["paths"][path][method]
    named = {(one["in"], one["name"]) for one in ours.get("parameters", ())}
    assert named >= {(one["in"], one["name"]) for one in theirs.get("parameters", ())}
    assert set(theirs["responses"]) - {"500"} <= set(ours["responses"])


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_a_body_and_an_answer_have_the_published_keys(
    served: dict[str, Any], path: str, method: str
) -> None:
    ours, theirs = served["paths"][path][method], DOCUMENT["paths"][path][method]
    answers = [
        _shape(document, _content(one["responses"]["200"]))
        for document, one in ((served, ours), (DOCUMENT, theirs))
    ]
    assert answers[0] == answers[1]
    if "requestBody" in theirs:
        sent, published = (
            _shape(document, _content(one["requestBody"]))
            for document, one in ((served, ours), (DOCUMENT, theirs))
        )
        assert sent == published


EXTRA = {"message"}
"""What is answered beyond the published keys."""


def _content(described: dict[str, Any]) -> dict[str, Any]:
    kinds = described["content"]
    chosen: dict[str, Any] = kinds.get("application/json") or kinds["multipart/form-data"]
    return chosen["schema"]


def _shape(document: dict[str, Any], schema: dict[str, Any], above: tuple[str, ...] = ()) -> Any:
    """The names and kinds of values, whatever the form in which a schema says them."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found = document["components"]["schemas"].get(name) or schema
        key = tuple(sorted(found.get("properties", {})))
        return "the same" if key in above else _shape(document, found, (*above, *[key]))
    kinds = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    if kinds:
        return _shape(document, kinds[0], above)
    if schema.get("type") == "array":
        return [_shape(document, schema["items"], above)]
    if "properties" in schema:
        return {
            name: _shape(document, one, above)
            for name, one in schema["properties"].items()
            if name not in EXTRA
        }
    if schema.get("type") == "object":
        return "object"
    return schema.get("type", "any")
