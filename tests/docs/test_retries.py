"""The examples of docs/retries.md do what it says, against a real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from serving import ROOT, Server, environment, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (ROOT / "docs" / "retries.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the examples expect in the environment."""
    with serving(Server(tmp_path_factory.mktemp("retries") / "data"), worker=False) as server:
        made = server.create_client()
        grant = {
            "grant_type": "client_credentials",
            "client_id": made.client.id,
            "client_secret": made.secret,
        }
        token = httpx.post(f"{server.base}/connect/token", data=grant).json()["access_token"]
        commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield {**environment(), "EARMARK": server.base, "TOKEN": token, "PATH": commands}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the examples are run; the samples are there."""
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    return tmp_path


def example(kind: str) -> str:
    """The code block that stands under `<!-- runs: kind -->`."""
    found = re.search(rf"<!-- runs: {kind} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def run(command: list[str], variables: dict[str, str], folder: Path) -> str:
    """What an example prints, once it ended well."""
    done = subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_example_is_kept_once_and_its_receipt_verified(
    variables: dict[str, str], folder: Path
) -> None:
    script = example("curl") + example("verify")
    printed = run(["bash", "-euo", "pipefail", "-c", script], variables, folder)
    first, second, told = re.findall(r"\{.*?\}|This .*", printed, re.DOTALL)
    assert json.loads(first) == json.loads(second)
    assert json.loads(first)["fileName"] == "retries/call.wav"
    assert told.startswith(f"This receipt is genuine: {variables['EARMARK']} kept this upload.")
    assert told.endswith("samples/support-call.wav is that file.\n")
    assert json.loads(first)["id"] in told


def test_the_python_example_gets_the_same_answer_twice(
    variables: dict[str, str], folder: Path
) -> None:
    assert run([sys.executable, "-c", example("python")], variables, folder) == "True 2\n"
