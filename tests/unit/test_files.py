"""A copy of a database is of one moment, and what is written anew holds nothing deleted."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from earmark import jobs
from earmark.database import files, tables
from earmark.errors import UnavailableError
from serving import unmeasured

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 3000
ROWS_AT = 10**9
WORD = b"quillfeather"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database in which rows were moved between pages, and every third was then deleted."""
    path = tmp_path / "it's mine" / "a.sqlite3"
    path.parent.mkdir()
    chance = random.Random(0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, k TEXT, v TEXT)")
        connection.execute("CREATE INDEX i ON a (k)")
        for number in range(ROWS):
            word = WORD.decode() if number % 3 == 0 else f"other{number}"
            size = chance.randrange(1, 60)
            values = (chance.randrange(10**9), f"{chance.randrange(10**6)}{word}", word * size)
            connection.execute("INSERT OR REPLACE INTO a VALUES (?, ?, ?)", values)
        connection.execute("DELETE FROM a WHERE v LIKE 'quill%'")
    return path


def held(path: Path) -> int:
    """How often the deleted word stands in what belongs to the file."""
    return sum(one.read_bytes().count(WORD) for one in files.beside(path))


def rows(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM a").fetchone()[0])


def test_what_is_written_anew_holds_nothing_deleted(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as reader:  # it keeps the log from going
        reader.execute("SELECT 1 FROM a LIMIT 1").fetchone()
        left = rows(path)
        files.empty_log(path)
        assert held(path) > 0, "nothing was left of moved rows: this test would prove nothing"
        files.rewrite(path)
        assert held(path) == 0
        assert path.with_name("a.sqlite3-wal").stat().st_size == 0
        assert rows(path) == left


def test_a_copy_holds_nothing_deleted_and_is_of_one_moment(path: Path) -> None:
    target = path.with_name("copy.sqlite3")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM a")
        files.copy(path, target)
        writer.execute("ROLLBACK")
    assert target.read_bytes().count(WORD) == 0
    assert rows(target) == rows(path) > 0


@pytest.mark.parametrize("work", [files.rewrite, files.empty_log])
def test_a_file_that_others_do_not_let_go_of_is_told(path: Path, work: object) -> None:
    assert callable(work)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM a LIMIT 1").fetchone()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("UPDATE a SET v = 'x' WHERE id = (SELECT min(id) FROM a)")
        with pytest.raises(UnavailableError, match="is read all the time"):
            work(path, patience_seconds=0.2)
        other.execute("ROLLBACK")
    work(path, patience_seconds=0.2)


def test_no_file_is_made_elsewhere(path: Path) -> None:
    """SQLite makes what is written anew in the system's folder for temporary files."""
    strace = shutil.which("strace")
    # Only what is larger than its cache is written there.
    assert strace is not None, "needs strace: sudo apt-get install -y strace"
    script = (
        "import sys; from pathlib import Path; from earmark.database import files; "
        "files.rewrite(Path(sys.argv[1]))"
    )
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        more = [(ROWS_AT + number, "k", "v" * 1000) for number in range(10_000)]
        connection.executemany("INSERT INTO a VALUES (?, ?, ?)", more)
    trace = path.with_name("trace")
    watched = [strace, "-f", "-qq", "-o", str(trace), "-e", "trace=open,openat"]
    command = [*watched, sys.executable, "-c", script, str(path)]
    subprocess.run(command, env=unmeasured(), check=True, timeout=100)
    written = [line for line in trace.read_text().splitlines() if "O_CREAT" in line]
    made = [line for line in written if "etilqs" in line]
    assert made
    assert [line for line in made if str(path.parent) not in line] == []


def test_the_engine_has_its_file_where_it_is_looked_for() -> None:
    url = sa.make_url("sqlite:////srv/data/earmark.sqlite3")
    assert str(jobs._url(str(url)).database) == f"/srv/data/{files.ENGINE_NAME}"


def test_tables_that_are_not_written_anew_are_tables() -> None:
    assert set(tables.metadata.tables) > files.PLAIN
