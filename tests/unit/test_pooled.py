"""No pooled connection outlives its file, or an error that spoils it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from earmark.database import Database, Piece
from earmark.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from postgres import Server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "words.sqlite3"


@pytest.fixture
def words(file: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{file}")
    with database.write(None) as scope:
        scope.run(sa.text("CREATE TABLE word (said TEXT)"))
    yield database
    database.close()


def say(words: Database, said: str) -> None:
    with words.write(None) as scope:
        scope.run(sa.text("INSERT INTO word VALUES (:said)").bindparams(said=said))


def heard(file: Path) -> list[str]:
    with sqlite3.connect(file) as connection:
        return [row[0] for row in connection.execute("SELECT said FROM word")]


def test_what_is_written_goes_into_the_file_that_is_there_now(words: Database, file: Path) -> None:
    say(words, "before")
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copyfile(file, file.with_name("copy"))
    for more in ("-wal", "-shm", ""):
        file.with_name(f"{file.name}{more}").rename(file.with_name(f"old{more}"))
    file.with_name("copy").rename(file)
    with capture_logs() as logs:
        say(words, "after")
        say(words, "again")
    assert heard(file) == ["before", "after", "again"]
    told = [(line["event"], line["there"]) for line in logs]
    assert told == [("database file replaced", True)]


def test_without_a_file_nothing_is_taken(words: Database, file: Path) -> None:
    say(words, "before")
    file.parent.rename(file.parent.with_name("away"))
    with pytest.raises(UnavailableError):
        say(words, "meanwhile")
    file.parent.with_name("away").rename(file.parent)
    say(words, "after")
    assert heard(file) == ["before", "after"]


def test_a_piece_of_work_that_loses_its_connection_is_unavailable_with_all_others(
    words: Database,
) -> None:
    def fail(scope: object) -> None:
        scope.connection.invalidate()  # type: ignore[attr-defined]
        raise UnavailableError("its connection is gone")

    piece = Piece(None, fail)
    words.share([piece])
    with pytest.raises(UnavailableError):
        piece.result()
    say(words, "after")


def committing(database: Database) -> set[str]:
    """What `synchronous_commit` is in each transaction of every pooled connection."""
    shown = sa.text("SHOW synchronous_commit")
    with ExitStack() as stack:
        scopes = [stack.enter_context(database.write(None)) for _ in range(3)]
        scopes += [stack.enter_context(database.read(None)) for _ in range(3)]
        return {str(scope.connection.execute(shown).scalar_one()) for scope in scopes}


@pytest.mark.parametrize(
    ("server", "ours"),
    [("off", "on"), *((value,) * 2 for value in ("local", "remote_write", "on", "remote_apply"))],
)
def test_a_commit_on_postgresql_waits_for_the_disk_at_least(
    postgres_server: Server, server: str, ours: str
) -> None:
    name = postgres_server.create()
    owner = Database(postgres_server.owner_url(name))
    with owner.write(None) as scope:
        scope.run(sa.text(f'ALTER DATABASE "{name}" SET synchronous_commit = {server}'))
    owner.close()
    database = Database(postgres_server.url(name))
    assert [committing(database) for _ in range(2)] == [{ours}, {ours}]
    database.close()
    postgres_server.drop(name)
