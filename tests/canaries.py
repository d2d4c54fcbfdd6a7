"""Words that are found again wherever they went, and the places to look for them."""

from __future__ import annotations

import base64
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy as sa

from earmark.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from serving import Server

WORD = "quillfeather"
"""Stands in every personal value that the tests send, and nowhere else."""

DIGITS = "5550199317731"
"""Stands in every phone number."""

SHATTER = "shatter"
"""What the parts that `BREAKING` broke stumble over."""

BREAKING = f"""
import threading
from earmark.chat.people import People
from earmark.cli import main
from earmark.interactions import OrganizationInteractions

def stumble(whole, told):
    def broken(self, first, *args, **named):
        first = tuple(first) if told is repr else first
        if "{SHATTER}" in repr(first):
            thread = threading.Thread(target=lambda: int(repr(first)))
            thread.start()
            thread.join()
            try:
                raise LookupError(repr(first))
            except LookupError as error:
                raise ValueError(repr(first)) from error
        return whole(self, first, *args, **named)
    return broken

People.sides = stumble(People.sides, repr)
OrganizationInteractions.find = stumble(OrganizationInteractions.find, str)
main()
"""
"""`earmark` with two parts that fail with what they were given in their errors' messages: the one
that tells the sides of a chat, in the worker, and the one that finds interactions, in the web."""

PROGRAM = (sys.executable, "-c", BREAKING)


def needles(secrets: Iterable[str], *, personal: bool = True) -> dict[str, bytes]:
    """What to look for, by what it is: as it is, and as base64 and percent-encoding hide it."""
    sought = [*secrets, *((WORD, DIGITS) if personal else ())]
    found = {each: each.lower().encode() for each in sought}
    found |= {f"{each} quoted": quote(each, safe="").lower().encode() for each in sought}
    for each in sought:
        for shift in range(3):
            whole = base64.b64encode(b"-" * shift + each.encode())
            found[f"{each} in base64"] = whole[4:-4].lower()
    return found


def seen(where: str, content: bytes | str, sought: dict[str, bytes]) -> list[str]:
    """What of it stands in a text, and where; letters' case does not matter."""
    raw = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    lower = raw.lower()
    return [f"{what!r} in {where}" for what, needle in sought.items() if needle in lower]


def tables(server: Server) -> Iterator[tuple[str, str]]:
    """Every table of ours and of the engine, by name, with all its rows as text."""
    with closing(Database(server.settled().database_address)) as database:
        if database.is_sqlite:
            yield from _sqlite_tables(server.data)
            return
        listed = sa.text(
            "SELECT schemaname || '.' || tablename AS name FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        with database.read(None) as scope:
            names = [row.name for row in scope.rows(listed)]
        for name in names:
            with database.read(None) as scope:
                rows = scope.rows(sa.text(f"SELECT t::text AS told FROM {name} AS t"))
                yield name.removeprefix("public."), "\n".join(_plain(row.told) for row in rows)


def _plain(told: str) -> str:
    r"""With bytes (`\x68…`) as text beside them, in which something could be hidden."""
    words = [word.strip('"(),') for word in told.split(",")]
    hidden = [word.lstrip("\\")[1:] for word in words if word.lstrip("\\").startswith("x")]
    decoded = []
    for word in hidden:
        try:
            decoded.append(bytes.fromhex(word).decode("latin-1"))
        except ValueError:
            continue
    return told + " ".join(decoded)


def _sqlite_tables(data: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(data.glob("*.sqlite3")):
        engine = sa.create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            names = connection.exec_driver_sql(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            )
            for (name,) in names.all():
                rows = connection.exec_driver_sql(f'SELECT * FROM "{name}"').all()
                told = "\n".join(_value(value) for row in rows for value in row)
                prefix = "" if path.name == "earmark.sqlite3" else f"{path.stem}."
                yield f"{prefix}{name}", told
        engine.dispose()


def _value(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class Watch(threading.Thread):
    """Looks at every process of the machine, again and again, until it is told to stop.

    Attributes:
        lines: every command line that was seen.
        children: the environment of every process in which foreign bytes are read.
    """

    PAUSE_SECONDS = 0.05

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.lines: set[bytes] = set()
        self.children: set[bytes] = set()
        self._over = threading.Event()

    def run(self) -> None:
        """See threading.Thread."""
        while not self._over.wait(self.PAUSE_SECONDS):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    line = (process / "cmdline").read_bytes()
                    self.lines.add(line)
                    if b"sandbox/_child.py" in line:
                        self.children.add((process / "environ").read_bytes())
                except OSError:  # it ended meanwhile
                    continue

    def stop(self) -> None:
        """Ends it."""
        self._over.set()
        self.join()
