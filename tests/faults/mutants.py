"""Earmark without one part of its durability, to see that the proofs notice.

A mutant is a copy of the package in which exact texts are replaced by others; its server is given
the copy first on its path. Nothing in the package knows of it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import earmark

PACKAGE = Path(earmark.__file__).parent


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is taken out: in `file`, each text of `changes` becomes the other."""

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]

    def made(self, folder: Path) -> Path:
        """The package with it, in a folder."""
        copy = folder / "earmark"
        shutil.copytree(PACKAGE, copy)  # compiled files too, which know their source by its time
        place = copy / self.file
        source = place.read_text()
        for text, instead in self.changes:
            assert source.count(text) == 1, f"{self.file} has not once `{text}`: {CHANGE_IT}"
            source = source.replace(text, instead)
        place.write_text(source)
        return copy


CHANGE_IT = "change the mutant in tests/faults/mutants.py as the source was changed"

_ACCEPTED = "Accepted(stage.id, submission.file_name, stage.size_bytes, bytes(32), now())"
_BEGUN = "committing = self._commits.keep(self._commit(stage, submission, also))"
_BEGUN_LATER = (
    "commit = self._commit(stage, submission, also)\n"
    "        committing = commit.accepted\n"
    "        asyncio.get_running_loop().call_later(0.05, self._commits.keep, commit)"
)
ACKNOWLEDGED_EARLY = Mutant(
    "acknowledge before commit",
    "intake/__init__.py",
    (
        (_BEGUN, _BEGUN_LATER),  # or else it is a race, which the commit may win
        ("return await asyncio.shield(committing)", f"return {_ACCEPTED}"),
    ),
)
DATA_UNSYNCED = Mutant(
    "no data fsync", "storage/local.py", (("os.fsync(self._descriptor)", "pass"),)
)
FOLDER_UNSYNCED = Mutant(
    "no directory fsync", "storage/local.py", (("_sync_folder(self._folder)", "pass"),)
)
COMMIT_UNSYNCED = Mutant(
    "synchronous=NORMAL", "database/core.py", (("'FULL' if synced", "'NORMAL' if synced"),)
)
_WAITED_FOR = "await asyncio.shield(committing)"
SHARED_COMMIT_UNAWAITED = Mutant(
    "a shared commit is not awaited",
    "intake/__init__.py",
    (
        (
            f"return {_WAITED_FOR}",
            f"return {_ACCEPTED} if self._commits._waiting else {_WAITED_FOR}",
        ),
    ),
)
_PUBLISH, _WRITE_ROWS = "self._publish(_good(batch))", "self._write_rows(_good(batch))"
_BETWEEN = "\n            "
ROW_FIRST = Mutant(
    "row before file",
    "intake/commits.py",
    ((_PUBLISH + _BETWEEN + _WRITE_ROWS, _WRITE_ROWS + _BETWEEN + _PUBLISH),),
)
UNSWEPT = Mutant("sweeper off", "app/worker_process.py", (("parts.sweeper.sweep(", "dict("),))
