"""The lines of docs/operations.md do what it says, one after the other, beside a real server."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving import EARMARK, RECORDING, ROOT, Server, serving, unmeasured

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- runs: ([\w-]+) -->\n```sh\n(.*?)```", PAGE, re.DOTALL))

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the lines are typed; a service with one recording runs over `earmark-data` in it."""
    folder = tmp_path_factory.mktemp("operations")
    with serving(Server(folder / "earmark-data"), worker=True) as server:
        caller = server.caller()
        sent = caller.upload("one.wav", RECORDING.read_bytes())
        assert caller.processed(sent.json()["id"])["status"] == "ready"
        gone = caller.upload("gone.wav", RECORDING.read_bytes()).json()["id"]
        assert caller.processed(gone)["status"] == "ready"
        assert caller.http.delete(f"/v1/interactions/{gone}").status_code == 204
        yield folder


def run(lines: str, folder: Path) -> str:
    """What they print, once each ended well."""
    (folder / "backups").mkdir(exist_ok=True)
    given = unmeasured()
    given["PATH"] = f"{Path(EARMARK).parent}:{given['PATH']}"
    given["BACKUPS"] = str(folder / "backups")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_backup_verify_and_restore_as_written(folder: Path) -> None:
    made = re.search(r"^earmark backup-key .*$", PAGE, re.MULTILINE)
    assert made is not None
    run(made[0], folder)
    assert "1 interactions, " in run(BLOCKS["backup"], folder)
    (file,) = (folder / "backups").iterdir()
    assert re.fullmatch(r"earmark-\d{4}-\d\d-\d\d\.age", file.name)
    assert "can be restored from it" in run(BLOCKS["verify"], folder)
    restored = run(BLOCKS["restore"], folder)
    assert "1 interactions and 2 objects" in restored
    assert "ok    1 objects" in restored


def test_scrub_sweep_and_purge_as_written(folder: Path) -> None:
    assert run(BLOCKS["scrub"], folder).count("are as they were taken in") == 3
    swept = run(BLOCKS["sweep"], folder)
    assert swept.startswith("0 orphans, 0 uploads that were left in the middle, 0 objects")
    assert "earmark.sqlite3 written anew" in run(BLOCKS["purge"], folder)


def test_every_block_is_run_by_a_test() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert {name for name in BLOCKS if f'BLOCKS["{name}"]' not in source} == set()
    assert len(BLOCKS) == 6


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target
