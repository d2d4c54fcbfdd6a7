"""How long a backup takes, and a restore: minutes for each 100 GB.

    ./run bench backup [GB] [--folder FOLDER] [--size MB]

Fills a data folder with recordings of the size of a usual call, and has `earmark backup`,
`earmark backup --verify` and `earmark restore` run over it as commands. It needs three times as
much free disk as it measures; with less it measures less, and says so. A copy of the same objects
by the same system (`cp -r`, synced) shows what the disk can do.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from books import Books
from earmark.database import Database, tables
from earmark.database.migrate import upgrade
from earmark.interactions import media_key, waveform_key
from earmark.model import Status, new_id, now
from earmark.storage.local import LocalStore
from serving import EARMARK, run, unmeasured

GIGABYTE, MEGABYTE = 10**9, 10**6
COPIES = 3
"""Of the data at once: the installation, the backup, what is restored or copied."""

RESERVE_BYTES = 2 * GIGABYTE
WAVEFORM_BYTES = 8_000


def main() -> int:
    """Measures and prints; 1 if a command failed."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="earmark-bench-", dir=options.folder) as made:
        folder = Path(made)
        wanted = int(options.gigabytes * GIGABYTE)
        room = (shutil.disk_usage(folder).free - RESERVE_BYTES) // COPIES
        if room < wanted:
            print(f"NOT AS ASKED: the disk has room for {room / GIGABYTE:.1f} GB only.")
        whole = min(wanted, room)
        count = max(1, whole // (options.size * MEGABYTE))
        print(f"{count} recordings of {options.size} MB: {count * options.size / 1000:.1f} GB")
        _fill(folder / "data", count, options.size * MEGABYTE)
        key = str(folder / "key")
        run("backup-key", key)
        target = str(folder / "backup.age")
        commands = {
            "backup": ("backup", target, "--key-file", key, "--data", str(folder / "data")),
            "verify": ("backup", target, "--verify", "--key-file", key),
            "restore": ("restore", target, "--key-file", key, "--data", str(folder / "new")),
        }
        size = count * options.size * MEGABYTE
        _tell("cp -r, then sync", size, _copied(folder))
        return max(_measured(name, words, size) for name, words in commands.items())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench backup", description=__doc__)
    parser.add_argument("gigabytes", nargs="?", type=float, default=4.0)
    parser.add_argument("--folder", default=None, help="on the disk that is measured")
    parser.add_argument("--size", type=int, default=2, help="of a recording, in MB")
    return parser.parse_args()


def _fill(data: Path, count: int, size: int) -> None:
    data.mkdir()
    content = bytearray(os.urandom(size))
    store = LocalStore(data / "storage")
    with closing(Database(f"sqlite:///{data / 'earmark.sqlite3'}")) as database:
        upgrade(database)
        organization = new_id()
        with database.write(None) as scope:
            row = {"id": organization, "name": "Bench", "created_at": now()}
            scope.insert(tables.organization, row)
        books = Books(database, organization)
        for number in range(count):
            content[:8] = number.to_bytes(8, "big")
            id_ = books.receive(size_bytes=size, status=Status.READY)
            books.change(id_, sha256=hashlib.sha256(content).digest())
            store.put(media_key(id_), bytes(content))
            store.put(waveform_key(id_), content[:WAVEFORM_BYTES])


def _copied(folder: Path) -> float:
    os.sync()
    began = time.monotonic()
    subprocess.run(
        ["cp", "-r", str(folder / "data" / "storage"), str(folder / "copy")], check=True
    )
    os.sync()
    took = time.monotonic() - began
    shutil.rmtree(folder / "copy")
    return took


def _measured(name: str, words: tuple[str, ...], size: int) -> int:
    began = time.monotonic()
    done = subprocess.run([EARMARK, *words], env=unmeasured(), check=False)
    _tell(name, size, time.monotonic() - began)
    return done.returncode


def _tell(name: str, size: int, seconds: float) -> None:
    rate = size / seconds
    minutes = 100 * GIGABYTE / rate / 60
    print(
        f"{name:18} {seconds:7.1f} s  {rate / MEGABYTE:6.0f} MB/s  {minutes:5.1f} min per 100 GB"
    )


if __name__ == "__main__":
    sys.exit(main())
