"""The reference says what the contract says, and has a page for each error; in a wheel, too."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from contract.test_error_pages import NOT_PROVOKED as ANSWERS
from docs.test_conformance import rows
from earmark.errors import RefusedError
from earmark.web import errors, reference
from earmark.web.acxapi import documented, wire
from earmark.web.reference.bodies import bodies, varies
from earmark.web.reference.codes import Kind, meanings
from serving import ROOT
from system.test_reference_notes import NOT_PROVOKED as NOTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = ROOT / "src" / "earmark" / "web" / "reference"

SEED: dict[str, list[Any]] = {
    "FileName": ["topfolder/subfolder/subsubfolder/filename.mp3", "filename.mp3"],
    "UploadType": ["Audio", "Chat"],
    "CallDirection": ["Inbound", "Outbound"],
    "Name": ["Alice"],
    "Phone": ["800-555-5555"],
    "Email": ["alice@example.org"],  # which the page shows with its address hidden
    "AgentFirstName": ["James"],
    "AgentLastName": ["Bond"],
    "AgentCode": ["007"],
    "InteractionDate": [
        "2022-03-18T21:52:26",
        "2022-03-18T21:52:26.8816090Z",
        "2022-03-19",
        "2022-03-18T17:56:09.8683110-04:00",
    ],
    "ExtendedMetadata": [
        [{"Data": "Example Data"}, {"Data2": "Example Data 2", "ExampleKey": "Example Value"}]
    ],
    "ExtendedMetadataValues": [
        {"Data": "Example Data"},
        {"Data2": "Example Data 2"},
        {"ExampleKey": "Example Value"},
    ],
    "HierarchyId": ["00000000-0000-0000-0000-000000000002"],
    "HierarchyCode": ["Accounting"],
    "ApplyHierarchyToAgent": [True],
    "LocaleId": [1033, 2058],
    "ClientCallId": ["5CD1S"],
}
"""Every key of the page that describes Upload Media, in its order, with its examples."""

EXAMPLES = [(name, value) for name, values in SEED.items() for value in values]


def test_the_keys_and_examples_are_those_of_the_page_that_describes_upload_media():
    properties = documented.METADATA["properties"]
    assert {name: schema["examples"] for name, schema in properties.items()} == SEED
    assert list(properties) == list(SEED)


def test_the_keys_are_those_that_are_read():
    """Of every metadata key that the code names, the page tells, and of no other."""
    tree = ast.parse((PACKAGE.parent / "acxapi" / "wire.py").read_text())
    (reader,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "_Reader"
    )
    read = {
        call.args[0].value.lower()
        for method in reader.body
        if isinstance(method, ast.FunctionDef)
        and method.name in {"submission", "_media_type", "_file_name"}
        for call in ast.walk(method)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in {"self._read", "self._text", "self._values.get"}
        and isinstance(call.args[0], ast.Constant)
    }
    assert read == {name.lower() for name in documented.METADATA["properties"]}


def test_every_key_has_its_rule_in_the_table_of_conformance():
    rules = " ".join(rule for rule, _, _ in rows())
    assert [key for key in SEED if not re.search(rf"\b{key}\b", rules)] == []


@pytest.mark.parametrize(("key", "value"), EXAMPLES)
def test_every_example_is_taken(key, value):
    sent = {"FileName": "filename.mp3", "UploadType": "Audio", key: value}
    if value == "Chat":
        sent["FileName"] = "filename.zip"
    file = wire.FilePart("." + str(sent["FileName"]).rpartition(".")[2])
    taken = wire.read_submission(json.dumps(sent).encode(), file)
    assert json.loads(taken.metadata_sent)[key] == value


def test_the_required_keys_are_those_without_which_nothing_is_taken():
    whole = {key: SEED[key][0] for key in ("FileName", "UploadType")}
    for key in SEED:
        rest = {name: value for name, value in whole.items() if name != key}
        if key in documented.METADATA["required"]:
            with pytest.raises(RefusedError):
                wire.read_submission(json.dumps(rest).encode(), wire.FilePart(".mp3"))
        else:
            wire.read_submission(json.dumps(rest).encode(), wire.FilePart(".mp3"))


def test_what_has_few_values_lists_them_all():
    for key, schema in documented.METADATA["properties"].items():
        for value in schema.get("enum", []):
            test_every_example_is_taken(key, value)


# Error pages


@pytest.fixture(scope="module")
def site() -> Iterator[TestClient]:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(reference.router())
    errors.Edge(wire.refusal, []).install(app)
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("code", meanings())
def test_every_code_has_a_page_with_cause_mend_and_bodies(site, code):
    answer = site.get(f"/docs/errors/{code}")
    assert answer.status_code == 200
    shown = unescape(re.sub("<[^>]+>", "", answer.text))
    for meaning in meanings()[code]:
        for told in (meaning.cause, meaning.mend, *meaning.notes.values()):
            assert re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", told).replace("`", "") in shown
        for body in bodies(meaning):
            assert body.text in shown
            assert body.head in shown
            assert code in body.text or f"/docs/errors/{code}>" in body.head
    assert f"/docs/errors/{code}" in site.get("/docs/errors").text


def test_of_every_upload_refusal_the_sentence_is_shown_to_the_letter():
    for why, sentence in wire.SENTENCES.items():
        (meaning,) = meanings()[why.value]
        plain, quoted, problem = bodies(meaning)
        assert plain.text == sentence
        assert json.loads(quoted.text) == sentence
        assert json.loads(problem.text)["detail"] == sentence


def test_a_taken_name_shows_where_the_other_is():
    (meaning,) = meanings()["file_name_taken"]
    *_, problem = bodies(meaning)
    existing = json.loads(problem.text)["existingId"]
    assert f"Location: /v1/interactions/{existing}" in problem.head
    assert "Earmark-Duplicate: identical" in problem.head


def test_every_refused_request_has_the_status_that_its_row_says():
    for several in meanings().values():
        for meaning in several:
            if meaning.kind is Kind.REQUEST and meaning.status.isdecimal():
                assert {body.head[:3] for body in bodies(meaning)} == {meaning.status}


def test_what_no_test_brings_about_is_worded_on_its_page_as_in_the_source():
    known = [*templates()]
    seen = set()
    for code in (ANSWERS.keys() | NOTES.keys()) - {"http_error"}:  # the framework words that
        for meaning in meanings()[code]:
            for sentence in sentences(meaning):
                assert any(one.fullmatch(sentence) for one in known), (code, sentence)
                seen.add(code)
    assert seen == (ANSWERS.keys() | NOTES.keys()) - {"http_error"}


def templates() -> Iterator[re.Pattern[str]]:
    """Every text of the source that is long enough to be a sentence; its gaps fit anything."""
    for path in (ROOT / "src" / "earmark").rglob("*.py"):
        if PACKAGE in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            values = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [v.value if isinstance(v, ast.Constant) else "{}" for v in values]
            if all(isinstance(text, str) for text in texts):
                parts = re.split(r"\{[a-z_]*\}", "".join(texts))
                if max(map(len, parts)) > 10:
                    yield re.compile(".+".join(map(re.escape, parts)))


def sentences(meaning) -> Iterator[str]:
    """All that the page's fullest body says in words."""
    told = json.loads([*bodies(meaning)][-1].text)
    for one in (told.get("error", told), *told.get("faults", [])):
        yield from (one[key] for key in ("sentence", "detail", "message") if key in one)


def test_a_page_says_what_differs_in_other_answers(site):
    for code, several in meanings().items():
        shown = unescape(re.sub("<[^>]+>", "", site.get(f"/docs/errors/{code}").text))
        assert "…" not in "".join(body.text for one in several for body in bodies(one))
        for meaning in several:
            assert varies(meaning).replace("`", "") in shown
            if not varies(meaning) and meaning.kind is not Kind.STEP:
                assert "The body is always this one." in shown


def test_another_code_or_file_is_not_there(site):
    for path in ("/docs/errors/nothing", "/docs/assets/codes.py", "/docs/assets/..%2fcodes.py"):
        assert site.get(path).status_code == 404


# How it is served


def test_the_policy_lets_nothing_in_but_our_own_files(site):
    for path in ("/docs", "/docs/errors", "/docs/errors/internal", "/docs/assets/main.js"):
        answer = site.get(path)
        assert answer.headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "img-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = site.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_a_page_has_neither_script_nor_style_of_its_own_and_names_no_other_host(site):
    texts = {path.name: path.read_text() for path in (PACKAGE / "page").iterdir()}
    texts |= {code: site.get(f"/docs/errors/{code}").text for code in meanings()}
    for name, text in texts.items():
        assert not re.search(r"<script(?! type=\"module\" src=\"/docs/assets/)", text), name
        assert not re.search(r"<style| style=| on\w+=\"", text), name
        loads = re.findall(r"(?:src|href|from|import|url\()[ =(]*[\"']?(https?:|//)[^ ]*", text)
        assert loads == [], name
    assert "innerHTML" not in "".join(texts.values())


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_wheel_has_the_page_and_the_docs_it_reads(tmp_path: Path, kind):
    build = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=90)
    (made,) = tmp_path.iterdir()
    if kind == "wheel":
        with zipfile.ZipFile(made) as archive:
            archive.extractall(tmp_path)
        (package,) = tmp_path.glob("earmark/web/reference")
    else:
        with tarfile.open(made) as archive:
            archive.extractall(tmp_path, filter="data")
        (package,) = tmp_path.glob("*/src/earmark/web/reference")
    names = [
        "errors.md",
        "failures.md",
        *(f"page/{one.name}" for one in (PACKAGE / "page").iterdir()),
    ]
    for name in names:
        assert (package / name).read_bytes() == (PACKAGE / name).read_bytes(), name
