"""A disk that loses its power: ext4 in a file, whose unwritten part is dropped at a word.

The word is FS_IOC_SHUTDOWN of Linux with EXT4_GOING_FLAGS_NOLOGFLUSH: nothing more is written, the
journal neither, as if the plug was pulled; everything then fails with EIO. What was not synced by
then is gone after the next mount, which replays the journal. Needs root and loop devices.

Source: the kernel's fs/ext4/ioctl.c, ext4_force_shutdown; include/uapi/linux/fs.h.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
SIZE_BYTES = 512 * 1024**2
"""Of the file, of which only what is used is there."""

NEEDED = {"mkfs.ext4": "e2fsprogs", "mount": "mount", "umount": "mount"}


@dataclass(frozen=True, slots=True)
class Disk:
    """One ext4 in a file, mounted on a folder."""

    image: Path
    folder: Path

    def mount(self) -> None:
        """Replays the journal, if there is something in it."""
        _run("mount", "-o", "loop", str(self.image), str(self.folder))

    def unmount(self) -> None:
        """Detaches it; the loop device goes with it."""
        _run("umount", str(self.folder))

    def sync(self) -> None:
        """Has everything written that was written so far."""
        _run("sync", "--file-system", str(self.folder))

    def lose_power(self) -> None:
        """Drops what was not written, now."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A new disk, mounted at the beginning and gone at the end; skips loudly without the means."""
    if os.geteuid() != 0:
        pytest.skip("NOT SHOWN: to mount a disk whose power can be cut needs root")
    for program, package in NEEDED.items():
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            pytest.skip(f"NOT SHOWN: {program} of {package} is not installed")
    made = Disk(folder / "disk.ext4", folder / "disk")
    made.folder.mkdir()
    with made.image.open("wb") as image:
        image.truncate(SIZE_BYTES)
    _run("mkfs.ext4", "-q", "-F", str(made.image))
    try:
        made.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"NOT SHOWN: no loop device can be mounted here: {error.stderr.strip()}")
    try:
        yield made
    finally:
        if os.path.ismount(made.folder):  # a test that failed may have left a process on it
            _run("umount", "--lazy", str(made.folder))
        made.image.unlink()


def _run(*command: str) -> None:
    given = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    subprocess.run(command, check=True, capture_output=True, text=True, env=given)
