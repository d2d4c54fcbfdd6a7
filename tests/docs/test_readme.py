"""The README's examples do what it says, against a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import vcons
from serving import ROOT, Server, environment, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the examples expect in the environment."""
    with serving(Server(tmp_path_factory.mktemp("readme") / "data"), worker=True) as server:
        made = server.create_client()
        yield {
            **environment(),
            "EARMARK": server.base,
            "CLIENT_ID": made.client.id,
            "CLIENT_SECRET": made.secret,
        }


def example(kind: str) -> str:
    """The code block that stands under `<!-- runs: kind -->`."""
    found = re.search(rf"<!-- runs: {kind} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


def run(command: list[str], variables: dict[str, str]) -> str:
    """What an example prints, once it ended well."""
    done = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_example_uploads_and_finds_the_recording(variables: dict[str, str]) -> None:
    uploaded, found = run(["bash", "-euo", "pipefail", "-c", example("curl")], variables).split(
        "}{", 1
    )
    assert json.loads(uploaded + "}")["fileName"] == "2026/support-call.wav"
    names = [item["file_name"] for item in json.loads("{" + found)["items"]]
    assert "2026/support-call.wav" in names


def test_a_vcon_follows_the_curl_example(variables: dict[str, str]) -> None:
    # Under another name, since the example above has taken its own.
    first = example("curl").replace("2026/support-call.wav", "2026/support-call-2.wav")
    printed = run(["bash", "-euo", "pipefail", "-c", first + example("vcon")], variables)
    found = vcons.checked(printed[printed.index("{\n") :].encode(), secure=False)
    assert found["subject"].startswith("2026/support-call")
    assert found["dialog"][0]["mediatype"] == "audio/x-wav"


def test_the_python_example_uploads_and_waits_for_the_audio_facts(
    variables: dict[str, str],
) -> None:
    assert re.fullmatch(
        r"ready \d+\.\d+ seconds of mp3\n",
        run([sys.executable, "-c", example("python")], variables),
    )


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_somewhere(target: str) -> None:
    place: Path = ROOT / target
    assert target.startswith("https://") or place.exists()
