"""Sees which files this process makes, changes and removes, by Python's own audit events."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_CHANGES = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), 2),
}
"""Events that change files → how many of their arguments are paths."""


class Watch:
    """The paths that were touched while `watching`; hooks cannot be taken away again."""

    def __init__(self) -> None:
        self.touched: list[str] = []
        self._watching = False
        sys.addaudithook(self._see)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.touched.clear()
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def outside(self, *folders: Path) -> list[str]:
        """Those that lie in none of the folders."""
        inside = tuple(f"{os.path.realpath(folder)}/" for folder in folders)
        return [path for path in self.touched if not _place(path).startswith(inside)]

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
            self._touch(arguments[0])
        for path in arguments[: _CHANGES.get(event, 0)]:
            self._touch(path)

    def _touch(self, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            self.touched.append(os.fsdecode(path))


def _place(path: str) -> str:
    """Where it lies, whatever links lead there; the last part may be one itself."""
    folder, name = os.path.split(os.path.abspath(path))  # noqa: PTH100 - of no file that is there
    return f"{os.path.realpath(folder)}/{name}"
