"""What each process must not load, shown by loading it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from serving import unmeasured

# As `serve` does: the children begin as copies of what has loaded the supervisor's modules.
PROCESSES = """
import json, multiprocessing, sys
import earmark.app.serve

def tell(module):
    __import__(module)
    print(json.dumps([module, sorted(sys.modules)]), flush=True)

tell("earmark.app.serve")
for module in ("earmark.app.web_process", "earmark.app.worker_process"):
    child = multiprocessing.get_context("fork").Process(target=tell, args=(module,))
    child.start()
    child.join()
"""
HELP = "import json, sys, earmark.cli; print(json.dumps(sorted(sys.modules)))"


def said(script: str) -> list[str]:
    """The lines that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=unmeasured(),
    )
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What each process has loaded, by the name of its module in `earmark.app`."""
    told = map(json.loads, said(PROCESSES))
    return {module.rpartition(".")[2]: set(modules) for module, modules in told}


def test_a_web_process_has_neither_the_engine_nor_the_decoder(loaded):
    modules = loaded["web_process"]
    assert "earmark.web.acxapi.upload" in modules
    assert not {"dbos", "av", "numpy", "earmark.jobs", "earmark.pipeline"} & modules


def test_the_supervisor_has_no_web_framework_engine_or_decoder(loaded):
    modules = loaded["serve"]
    assert "earmark.app.parts" in modules
    assert not {"dbos", "av", "fastapi", "uvicorn"} & modules


def test_a_worker_process_has_no_web(loaded):
    modules = loaded["worker_process"]
    assert "dbos" in modules
    assert not {"fastapi", "uvicorn", "earmark.web"} & modules


def test_help_comes_without_heavy_modules():
    heavy = {"sqlalchemy", "fastapi", "pydantic", "alembic", "dbos", "av"}
    (modules,) = map(json.loads, said(HELP))
    assert "earmark.cli" in modules
    assert not heavy & set(modules)
