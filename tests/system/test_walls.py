"""Downloads in a network namespace of their own, where every connection is counted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MISSING = "NOT TESTED HERE: whether downloads stay within their walls. It needs"


def _unshare() -> list[str]:
    """The command that runs another in a network of its own; skips, loudly, where there is none."""
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            pytest.skip(f"{MISSING} `{program}` (apt-get install {package}).")
    options = ["--net", "--mount"] if os.geteuid() == 0 else ["--net", "--mount", "--map-root-user"]
    tried = subprocess.run(["unshare", *options, "ip", "link"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip(f"{MISSING} network namespaces: {tried.stderr.decode().strip()}")
    return ["unshare", *options]


@pytest.mark.timeout(600)
def test_downloads_stay_within_their_walls(
    tmp_path: Path, record_testsuite_property: object, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "summary"
    environment = os.environ | {"EARMARK_WALLED": str(told), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [*_unshare(), sys.executable, "-m", "pytest", "-q", "tests/walled", "-p", "no:randomly"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    with capsys.disabled():
        print(f"\nwithin a network of their own: {done.stdout.strip().splitlines()[-1]}")
        print(told.read_text() if told.exists() else "no summary")
    assert done.returncode == 0, done.stdout + done.stderr
