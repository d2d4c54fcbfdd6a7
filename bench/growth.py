"""Whether an upload costs more, and a page comes later, when five million are there already.

    ./run bench growth [ROWS] [--only sqlite|postgresql] [--rounds 5] [--folder FOLDER]

Two services run side by side, one over an empty database and one over a database with five million
interactions, each with its audit row and its event (generated in the database, names in no order).
In each round both take the same uploads of 100 KB in turn, and give the newest page of
interactions. Told are the median of the rounds' ratios, and the p99 of the page. The goal: at most
1.2 times the cost, and a page under 20 ms at the 99th percentile.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import _contenders
import httpx
import sqlalchemy as sa
from _contenders import Contender, Places
from ingest import AT_ONCE, SMALL_BYTES, SMALL_UPLOADS, _client, _content, _settle, _tell

from earmark.database import Database, migrate
from earmark.database.tables import audit, event, interaction, organization
from earmark.model import new_id, now
from postgres import Cluster, Server

if TYPE_CHECKING:
    from uuid import UUID

ROWS = 5_000_000
BYTES_PER_ROW = 3_500
PAGES = 200
PAGE = "/v1/interactions?limit=50"
ORGANIZATION = "First"
"""The one of the clients that the benchmark makes."""

TABLES = (interaction, audit, event)

# One row of each table from a number n. Names are spread by a multiplication, so that they come in
# no order, as those of many recorders do.
_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS "
    "(SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows)",
    "postgresql": "WITH numbers AS (SELECT n::bigint AS n FROM generate_series(1, :rows) AS n)",
}
_WORDS = {
    "sqlite": {
        "organization": "'{0.hex}'",
        "id": "printf('%012x7%03x8%015x', 1700000000000 + n * 1000, n % 4096, n)",
        "at": "strftime('%Y-%m-%dT%H:%M:%f', 1700000000 + n, 'unixepoch') || '000Z'",
        "name": "printf('%08x.wav', (n * 2654435761) % 4294967296)",
        "bytes": "zeroblob(32)",
        "no": "0",
        "json": "'{{}}'",
        "list": "'[]'",
    },
    "postgresql": {
        "organization": "'{0}'::uuid",
        "id": "(lpad(to_hex(1700000000000 + n * 1000), 12, '0') || '7' || lpad(to_hex(n % 4096), "
        "3, '0') || '8' || lpad(to_hex(n), 15, '0'))::uuid",
        "at": "to_timestamp(1700000000 + n)",
        "name": "lpad(to_hex((n * 2654435761) % 4294967296), 8, '0') || '.wav'",
        "bytes": "decode(repeat('00', 32), 'hex')",
        "no": "false",
        "json": "'{{}}'::jsonb",
        "list": "'[]'::jsonb",
    },
}
_ROWS = {
    "interaction": {
        "id": "id",
        "organization_id": "organization",
        "file_name": "name",
        "media_type": "'audio'",
        "status": "'ready'",
        "round": "1",
        "outdated": "no",
        "due_at": "at",
        "received_at": "at",
        "occurred_at": "at",
        "apply_hierarchy_to_agent": "no",
        "locale": "'en-US'",
        "extended": "json",
        "metadata_sent": "'{{}}'",
        "size_bytes": "100000",
        "sha256": "bytes",
        "meta": "json",
        "warnings": "list",
    },
    "audit": {
        "organization_id": "organization",
        "at": "at",
        "actor": "'client:client-abcd-efgh-ijkl-mnop'",
        "action": "'interaction.receive'",
        "subject": "id",
        "detail": "json",
    },
    "event": {
        "organization_id": "organization",
        "position": "n",
        "at": "at",
        "kind": "'interaction.received'",
        "interaction_id": "id",
        "detail": "json",
    },
}
_INDEXES = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL "
    "AND tbl_name = '{}'",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '{}' "
    "AND indexname NOT IN (SELECT conname FROM pg_constraint)",
}


@dataclass
class Seen:
    """What one service did in all rounds."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    pages: list[float] = field(default_factory=list)


def main() -> None:
    """Measures, and prints tables."""
    parser = argparse.ArgumentParser(prog="./run bench growth")
    parser.add_argument("rows", type=int, nargs="?", default=ROWS)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    asked = parser.parse_args()
    if asked.rows < ROWS:
        print(f"SCALED DOWN: {asked.rows:,} rows instead of {ROWS:,}.")
    needed, free = asked.rows * BYTES_PER_ROW, shutil.disk_usage(asked.folder).free
    if free < needed * 1.2:
        sys.exit(f"{free / 1e9:.0f} GB are free in {asked.folder}, {needed / 1e9:.0f} are needed.")
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    places = Places.of_this_machine()
    for kind in [asked.only] if asked.only else ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory(prefix="earmark-bench-", dir=asked.folder) as made:
            Path(made).chmod(0o755)
            {"sqlite": _sqlite, "postgresql": _postgresql}[kind](Path(made), places, asked)


def _sqlite(folder: Path, places: Places, asked: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        services = []
        for name in ("empty", "full"):
            (folder / name / "earmark").mkdir(parents=True)
            if name == "full":
                _fill_sqlite(folder / name / "earmark" / "earmark.sqlite3", asked.rows)
            services.append(stack.enter_context(_contenders.earmark(folder / name, places)))
        stack.enter_context(_client(places))
        _measure("SQLite", services, asked)


def _postgresql(folder: Path, places: Places, asked: argparse.Namespace) -> None:
    settings = {"shared_buffers": "1GB", "fsync": "on", "synchronous_commit": "on"}
    settings |= {"max_wal_size": "8GB", "full_page_writes": "on"}
    cluster = Cluster(folder / "cluster", settings)
    try:
        with contextlib.ExitStack() as stack:
            server = Server(*cluster.urls)
            stack.callback(server.close)
            services = []
            for name in ("empty", "full"):
                database = server.create()
                owner = Database(server.owner_url(database))
                migrate.upgrade(owner, app_role=server.app_role)
                if name == "full":
                    _fill(owner, asked.rows)
                owner.close()
                (folder / name).mkdir()
                url = server.url(database)
                started = _contenders.earmark(folder / name, places, database_url=url)
                services.append(stack.enter_context(started))
            stack.enter_context(_client(places))
            _measure("PostgreSQL", services, asked)
    finally:
        cluster.stop()


def _fill_sqlite(path: Path, rows: int) -> None:
    database = Database(sa.URL.create("sqlite", database=str(path)).render_as_string())
    migrate.upgrade(database)
    _fill(database, rows)
    database.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _fill(database: Database, rows: int) -> None:
    """Adds the rows by one statement a table, without indexes that are made anew afterwards."""
    began, id_ = time.perf_counter(), new_id()
    kind = database.engine.dialect.name
    with database.write(None) as scope:
        scope.insert(organization, {"id": id_, "name": ORGANIZATION, "created_at": now()})
    for table in TABLES:
        with database.write(None) as scope:
            run = scope.connection.exec_driver_sql
            indexes = run(_INDEXES[kind].format(table.name)).all()
            for name, _ in indexes:
                run(f"DROP INDEX {name}")
            scope.connection.execute(sa.text(_statement(table.name, id_, kind)), {"rows": rows})
            for _, definition in indexes:
                run(definition)
        took = time.perf_counter() - began
        print(f"{table.name} after {took:.0f} s", file=sys.stderr, flush=True)
    if kind == "postgresql":  # SQLite plans without statistics, as installations do
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql("VACUUM ANALYZE")
    print(f"{rows:,} rows in {time.perf_counter() - began:.0f} s", flush=True)


def _statement(table: str, organization_id: UUID, kind: str) -> str:
    words = {word: text.format(organization_id) for word, text in _WORDS[kind].items()}
    made = {name: words.get(value, value.format()) for name, value in _ROWS[table].items()}
    names, values = ", ".join(made), ", ".join(made.values())
    given = f"{_NUMBERS[kind]} INSERT INTO {table} ({names}) SELECT {values} FROM numbers"
    return given.replace(":%M:%f", "\\:%M\\:%f").replace("::", "\\:\\:")


def _measure(kind: str, services: list[Contender], asked: argparse.Namespace) -> None:
    content = _content(SMALL_BYTES)
    seen = [Seen(), Seen()]
    for number in range(asked.rounds):
        print(f"{kind}: round {number + 1} of {asked.rounds}", file=sys.stderr, flush=True)
        for one, service in zip(seen, services, strict=True):
            _settle()
            before = service.cpu_seconds()
            answers = service.upload_many(content, uploads=SMALL_UPLOADS, at_once=AT_ONCE)
            one.seconds.append(answers.seconds)
            one.cpu_seconds.append(service.cpu_seconds() - before)
            _settle()  # a page writes its audit row, and is not to wait for what was uploaded
            one.pages += _pages(service, PAGES // asked.rounds)
    print(f"\n## {kind}: an upload of 0.1 MB and a page of 50, {asked.rows:,} interactions\n")
    print("| | uploads/s | processor ms an upload | page: median ms | p99 |")
    print("| --- | --- | --- | --- | --- |")
    for name, one in zip(("empty", "full"), seen, strict=True):
        rate = SMALL_UPLOADS / statistics.median(one.seconds)
        cpu = statistics.median(one.cpu_seconds) / SMALL_UPLOADS * 1000
        p99 = sorted(one.pages)[int(len(one.pages) * 0.99)]
        print(
            f"| {name} | {rate:.0f} | {cpu:.2f} | {statistics.median(one.pages):.1f} | {p99:.1f} |"
        )
    print()
    empty, full = seen
    _tell(
        "time an upload takes, times",
        [f / e for e, f in zip(empty.seconds, full.seconds, strict=True)],
    )
    pairs = zip(empty.cpu_seconds, full.cpu_seconds, strict=True)
    _tell("processor time of the service, times", [f / e for e, f in pairs])


def _pages(service: Contender, count: int) -> list[float]:
    """Milliseconds of each look at the newest page."""
    took = []
    headers = {"Authorization": f"Bearer {service.token}"}
    base = f"http://127.0.0.1:{service.port}"
    with httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=60) as http:
        for _ in range(count):
            began = time.perf_counter()
            http.get(PAGE).raise_for_status()
            took.append((time.perf_counter() - began) * 1000)
    return took


if __name__ == "__main__":
    main()
