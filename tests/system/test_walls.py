"""Downloads in a network namespace of their own, where every connection is counted."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from counting import COUNTS

ROOT = Path(__file__).resolve().parent.parent.parent
AZURITE = ROOT / "tests" / "walled" / "azurite"
UNTESTED = "NOT TESTED HERE: that downloads stay within their walls. It needs"
MOST_SECONDS = 900
"""With the installation of Azurite, which takes one minute or two, once."""


def namespace() -> list[str]:
    """The command that runs another in a network of its own; skips, loudly, without one."""
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("mount", "mount")):
        if shutil.which(program) is None:
            pytest.skip(f"{UNTESTED} `{program}`: apt-get install {package}.")
    options = ["--net", "--mount"] + ["--map-root-user"] * (os.geteuid() != 0)
    tried = subprocess.run(
        ["unshare", *options, "ip", "link", "set", "lo", "up"],
        check=False,
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        pytest.skip(f"{UNTESTED} network namespaces: {tried.stderr.strip()}.")
    return ["unshare", *options]


def azurite() -> tuple[str, str]:
    """The path of Azurite's program, installed once into .cache; "" and why not, if it cannot."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return "", "Node and npm are not installed"
    lock = (AZURITE / "package-lock.json").read_bytes()
    folder = ROOT / ".cache" / f"azurite-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not folder.exists():
        made = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.copytree(AZURITE, made)
        shutil.copy(ROOT / ".npmrc", made)
        install = ["npm", "ci", "--ignore-scripts", "--no-progress", "--omit=optional"]
        done = subprocess.run(install, cwd=made, check=False, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(made)
            return "", f"npm ci failed: {done.stderr.strip()[-500:]}"
        made.rename(folder)
    return str(folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"), ""


@pytest.mark.timeout(MOST_SECONDS)
def test_downloads_stay_within_their_walls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    unshare = namespace()
    program, why_not = azurite()
    told = tmp_path / "summary"
    environment = {
        **os.environ,
        "EARMARK_WALLED": str(told),
        "EARMARK_AZURITE": program,
        "EARMARK_AZURITE_MISSING": why_not,
    }
    for name in ("EARMARK_TEST_DATABASE_URL", "EARMARK_TEST_DATABASE_APP_URL"):
        environment.pop(name, None)  # it is outside
    environment.pop("PYTEST_XDIST_WORKER", None)
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/walled"]
    done = subprocess.run(
        [*unshare, *pytest_],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.strip().splitlines()
    skipped = [line for line in lines if line.startswith("SKIPPED")]
    with capsys.disabled():
        print("\nWithin a network of their own:", lines[-1] if lines else done.stderr)
        print(told.read_text() if told.exists() else "It did not begin.", *skipped, sep="\n")
    assert done.returncode == 0, done.stdout + done.stderr
    request.node.user_properties.append((COUNTS, {"walled": lines[-1].strip("= ")}))
