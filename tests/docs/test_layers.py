"""What a web process must not load, shown by loading it."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = "import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"


def loaded(module: str) -> set[str]:
    """What a fresh interpreter has loaded after importing a module."""
    command = [sys.executable, "-c", SCRIPT.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_a_web_process_has_neither_the_engine_nor_the_decoder():
    modules = loaded("earmark.app.web_process")
    assert "earmark.web.acxapi.upload" in modules
    assert not {"dbos", "av", "numpy", "earmark.jobs", "earmark.pipeline"} & modules


def test_the_supervisor_has_no_web_framework_engine_or_decoder():
    modules = loaded("earmark.app.serve")
    assert not {"dbos", "av", "fastapi", "uvicorn"} & modules


def test_a_worker_process_has_no_web():
    modules = loaded("earmark.app.worker_process")
    assert "dbos" in modules
    assert not {"fastapi", "uvicorn", "earmark.web"} & modules


def test_help_comes_without_heavy_modules():
    heavy = {"sqlalchemy", "fastapi", "pydantic", "alembic", "dbos", "av"}
    assert not heavy & loaded("earmark.cli")
