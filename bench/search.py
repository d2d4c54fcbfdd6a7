"""How long a search takes among a million transcripts, on both databases.

    ./run bench search [TRANSCRIPTS] [--only sqlite|postgresql] [--keep FOLDER]

Each transcript has 200 words whose frequencies are like those of a language. The first half comes
in no order, as when an archive is imported; the second by date, as calls do. They go into the
index by the code that workers run. Everything is removed at the end, unless it is to be kept: the
next run with the same folder finds it filled.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from earmark.database import Database, search_index, tables
from earmark.database.migrate import upgrade
from earmark.interactions import Interactions
from earmark.model import DEFAULT_GRANTS, Principal, Query, new_id, now
from earmark.model.search import document_of
from earmark.model.transcript import Segment, Speaker, Transcript
from earmark.storage.local import LocalStore
from postgres import Cluster, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

TRANSCRIPTS = 1_000_000
WORDS = 200
SEGMENT_WORDS = 10
VOCABULARY = 50_000
EXPONENT = 1.0
AGENTS = 500
NODES = 20
DAYS = 730
RUNS = 200

BYTES_PER_TRANSCRIPT = 8_000
"""Disk that each database takes at its largest, generously."""

START = datetime(2024, 1, 1, tzinfo=UTC)


class Corpus:
    """Generated speech. The same seed gives the same."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.random = np.random.default_rng(7)
        self.words = np.array(sorted(_vocabulary(), key=lambda word: (len(word), word)))
        self.random.shuffle(self.words[100:])
        weights = 1 / np.arange(1, VOCABULARY + 1) ** EXPONENT
        self.cumulated = np.cumsum(weights) / weights.sum()
        self.agents = [new_id() for _ in range(AGENTS)]
        self.nodes = [new_id() for _ in range(NODES)]
        days = self.random.random(count) * DAYS
        days[count // 2 :] = np.sort(days[count // 2 :])
        self.days = days

    def texts(self, size: int, first: int) -> Iterator[list[str]]:
        """Transcripts as their segments."""
        ranks = np.searchsorted(self.cumulated, self.random.random((size, WORDS)))
        for at, row in enumerate(self.words[np.minimum(ranks, VOCABULARY - 1)]):
            said = row.tolist()
            side = self.random.random()
            said[3] = "invoices" if side < 0.5 else "symptoms"
            if side < 0.0001:
                said[9] = "symptoms"
            if self.days[first + at] < DAYS / 10:
                said[12] = "yesteryear"
            if (first + at) % 50_000 == 7:
                said[20:23] = ["seldom", "heard", "phrase"]
            yield [" ".join(said[i : i + SEGMENT_WORDS]) for i in range(0, WORDS, SEGMENT_WORDS)]

    def transcript(self, texts: list[str]) -> Transcript:
        sides = (Speaker.AGENT, Speaker.CUSTOMER)
        return Transcript(
            tuple(
                Segment(text, sides[i % 2], 4.0 * i, 4.0 * i + 3.5, channel=i % 2)
                for i, text in enumerate(texts)
            ),
            "en",
        )


def _vocabulary() -> set[str]:
    chance = random.Random(5)
    made: set[str] = set()
    while len(made) < VOCABULARY:
        syllables = chance.choice((1, 2, 2, 3, 3, 4))
        made.add(
            "".join(
                chance.choice("bcdfghlmnprstv") + chance.choice("aeiou") for _ in range(syllables)
            )
            + chance.choice(("", "", "n", "s"))
        )
    return made


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("transcripts", type=int, nargs="?", default=TRANSCRIPTS)
    asked.add_argument("--only", choices=["sqlite", "postgresql"])
    asked.add_argument("--keep", type=Path, metavar="FOLDER")
    given = asked.parse_args()
    if given.transcripts < TRANSCRIPTS:
        print(f"SCALED DOWN: {given.transcripts:,} transcripts instead of {TRANSCRIPTS:,}.")
    folder = given.keep or Path(tempfile.mkdtemp(prefix="earmark-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # the server runs as somebody else
    _demand_disk(folder, given.transcripts)
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    try:
        if given.only != "postgresql":
            measure(Database(f"sqlite:///{folder}/earmark.sqlite3"), given.transcripts)
        if given.only != "sqlite":
            _measure_postgresql(folder / "postgresql", given.transcripts)
    finally:
        if given.keep is None:
            shutil.rmtree(folder)


def _measure_postgresql(folder: Path, count: int) -> None:
    cluster = Cluster(folder, {"shared_buffers": "1GB"})
    try:
        server = Server(*cluster.urls)
        name = folder / "name"
        if not name.exists():
            name.write_text(server.create())
        measure(Database(server.owner_url(name.read_text())), count)
        server.close()
    finally:
        cluster.stop()


def _demand_disk(folder: Path, count: int) -> None:
    needed = count * BYTES_PER_TRANSCRIPT
    free = shutil.disk_usage(folder).free
    if free < needed * 1.2 and not any(folder.iterdir()):
        sys.exit(
            f"{free / 1e9:.0f} GB are free in {folder}, {needed / 1e9:.0f} GB are needed. "
            "Name another place with --keep, or fewer transcripts as an argument."
        )


def measure(database: Database, count: int) -> None:
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    print(f"\n## {kind}, {count:,} transcripts of {WORDS} words\n", flush=True)
    upgrade(database)
    corpus = Corpus(count)
    organization_id = _kept(database, corpus)
    if organization_id is None:
        organization_id = new_id()
        began = time.perf_counter()
        _add_directory(database, organization_id, corpus)
        _fill(database, organization_id, corpus)
        took = time.perf_counter() - began
        print(f"\nfilled in {took:.0f} s; load average {os.getloadavg()[0]:.1f}")
        _settle(database)
    _tell_size(database, count)
    _tell_cost(database, organization_id, corpus)
    gc.collect()
    gc.freeze()  # as `earmark serve` does with what is there before the first request
    with tempfile.TemporaryDirectory() as folder:
        everyone = Interactions(database, LocalStore(Path(folder) / "objects"))
        _tell_latencies(
            everyone.for_(Principal(organization_id, "bench", DEFAULT_GRANTS)).find, corpus
        )
    database.close()


def _kept(database: Database, corpus: Corpus) -> UUID | None:
    """The organization of an earlier run, whose agents and nodes the corpus then has."""
    with database.read(None) as scope:
        row = scope.row(sa.select(tables.organization.c.id))
        if row is None:
            return None
        count = scope.row(sa.select(sa.func.max(tables.search_document.c.number)))
        assert count is not None
        if count[0] < corpus.count - 1:
            sys.exit("What is kept there is not complete; remove it.")
        agents = scope.rows(sa.select(tables.agent.c.id, tables.agent.c.code))
        corpus.agents = [id_ for id_, _ in sorted(agents, key=lambda one: int(one.code))]
        nodes = scope.rows(sa.select(tables.hierarchy_node.c.id).order_by("created_at", "id"))
        corpus.nodes = [one.id for one in nodes]
    return row.id


def _add_directory(database: Database, organization_id: UUID, corpus: Corpus) -> None:
    at = {"created_at": START, "modified_at": START}
    with database.write(None) as scope:
        scope.insert(
            tables.organization, {"id": organization_id, "name": "Bench", "created_at": START}
        )
    with database.write(organization_id) as scope:
        person = {"first_name": "", "last_name": "", "email": "", "is_active": True} | at
        agents = [{"id": id_, "code": str(i)} | person for i, id_ in enumerate(corpus.agents)]
        scope.insert(tables.agent, *agents)
        for id_ in corpus.nodes:
            node = {"id": id_, "name": "Site", "is_active": True} | at
            scope.insert(tables.hierarchy_node, node)
            closure = {"ancestor_id": id_, "descendant_id": id_, "depth": 0}
            scope.insert(tables.hierarchy_closure, closure)


def _fill(database: Database, organization_id: UUID, corpus: Corpus) -> None:
    size = search_index.BLOCK_DOCUMENTS
    for first in range(0, corpus.count, size):
        some = min(size, corpus.count - first)
        _add(database, organization_id, corpus, first, some)
        with database.write(organization_id) as scope:
            search_index.index_waiting(scope, limit=size)
        if first % (size * 16) == 0:
            print(f"\r{first + some:,}", end="", flush=True)


def _add(
    database: Database, organization_id: UUID, corpus: Corpus, first: int, count: int
) -> None:
    interactions, documents = [], []
    for at, texts in enumerate(corpus.texts(count, first), start=first):
        id_ = new_id()
        occurred = START + timedelta(days=float(corpus.days[at]))
        row = {
            "id": id_,
            "file_name": f"calls/{id_}.wav",
            "media_type": "audio",
            "status": "ready",
            "round": 1,
            "received_at": START,
            "occurred_at": occurred,
            "interaction_at": occurred,
            "direction": ("inbound", "outbound")[at % 2],
            "agent_id": corpus.agents[at * 31 % AGENTS],
            "hierarchy_node_id": corpus.nodes[at * 17 % NODES],
            "apply_hierarchy_to_agent": False,
            "locale": "en-US",
            "extended": {},
            "metadata_sent": "{}",
            "size_bytes": 1,
            "sha256": bytes(32),
            "warnings": [],
        }
        interactions.append(row)
        content = search_index.encoded(document_of(corpus.transcript(texts)))
        documents.append({"interaction_id": id_, "occurred_at": occurred, "content": content})
    with database.write(organization_id) as scope:
        scope.insert(tables.interaction, *interactions)
        scope.insert(tables.search_document, *documents)


def _settle(database: Database) -> None:
    if database.is_sqlite:
        with database.engine.connect() as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.exec_driver_sql("BEGIN")
        return
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def _tell_size(database: Database, count: int) -> None:
    names = ("interaction", "search_document", "search_posting")
    with database.read(None) as scope:
        if database.is_sqlite:
            sizes = dict.fromkeys(names, 0)
            size = Path(str(database.engine.url.database)).stat().st_size
            print(f"\nfile: {size / 1e9:.2f} GB, {size / count:,.0f} bytes a transcript")
            postings = sa.select(sa.func.sum(sa.func.length(tables.search_posting.c.documents)))
            total = scope.row(postings.add_columns(sa.func.count()))
            assert total is not None
            print(f"postings: {total[1]:,} rows, {total[0] / count:,.0f} bytes a transcript")
            return
        sizes = {
            name: scope.rows(sa.text(f"SELECT pg_total_relation_size('{name}')"))[0][0]
            for name in names
        }
    for name, size in sizes.items():
        print(f"{name}: {size / 1e9:.2f} GB, {size / count:,.0f} bytes a transcript")


def _tell_cost(database: Database, organization_id: UUID, corpus: Corpus) -> None:
    """What a new transcript costs: its own transaction, and its share of the indexer's."""
    size, rounds = search_index.INDEXED_AT_ONCE, 10
    corpus.days = np.append(corpus.days, np.full(size * rounds, float(DAYS)))
    seconds = []
    for at in range(rounds):
        _add(database, organization_id, corpus, corpus.count + at * size, size)
        began = time.perf_counter()
        with database.write(organization_id) as scope:
            assert search_index.index_waiting(scope) == size
        seconds.append(time.perf_counter() - began)
    middle = statistics.median(seconds)
    print(f"indexing {size}: median {middle * 1000:.0f} ms, {middle / size * 1000:.1f} ms each")


def _tell_latencies(find: Callable[..., Any], corpus: Corpus) -> None:
    chance = random.Random(3)
    words = corpus.words.tolist()
    agent, node = corpus.agents[3], frozenset(corpus.nodes[:2])

    def among(low: int, high: int) -> str:
        return str(words[chance.randrange(low, high)])

    kinds: dict[str, Callable[[], Query]] = {
        "the commonest word": lambda: Query(q=words[0]),
        "one of the 100 commonest words": lambda: Query(q=among(0, 100)),
        "a word in about 1 of 100": lambda: Query(q=among(1000, 2000)),
        "a rare word": lambda: Query(q=among(20_000, VOCABULARY)),
        "a word that is not there": lambda: Query(q="zzyzx"),
        "two common words": lambda: Query(q=f"{among(0, 100)} {among(0, 100)}"),
        "two words of half of all that seldom meet": lambda: Query(q="invoices symptoms"),
        "a common word with a rare one": lambda: Query(
            q=f"{words[0]} {among(20_000, VOCABULARY)}"
        ),
        "a word of the oldest tenth": lambda: Query(q="yesteryear"),
        "a phrase of two common words": lambda: Query(q=f'"{among(0, 50)} {among(0, 50)}"'),
        "a phrase of three common words": lambda: Query(
            q=f'"{among(0, 20)} {among(0, 20)} {among(0, 20)}"'
        ),
        "a phrase of middling words": lambda: Query(q=f'"{among(100, 300)} {among(100, 300)}"'),
        "a phrase that is rare": lambda: Query(q='"seldom heard phrase"'),
        "a prefix of one letter": lambda: Query(q=f"{chance.choice('bcdfgmpst')}*"),
        "a prefix of three letters": lambda: Query(q=f"{among(0, VOCABULARY)[:3]}*"),
        "a prefix of four letters": lambda: Query(q=f"{among(2000, VOCABULARY)[:4]}*"),
        "a common word, one agent": lambda: Query(q=words[0], agent_id=agent),
        "a word in 1 of 100, one agent": lambda: Query(q=among(1000, 2000), agent_id=agent),
        "a rare word, one agent": lambda: Query(q=among(20_000, VOCABULARY), agent_id=agent),
        "a common word, two of twenty sites": lambda: Query(q=words[0], hierarchy_ids=node),
        "a word in 1 of 100, two sites": lambda: Query(q=among(1000, 2000), hierarchy_ids=node),
        "a common word, one month": lambda: Query(
            q=words[0], since=START + timedelta(300), until=START + timedelta(330)
        ),
    }
    print("\n| search | median ms | p99 ms | own CPU ms | found |")
    print("| --- | --- | --- | --- | --- |")
    for name, query in kinds.items():
        seconds, found = [], 0
        used = time.process_time()
        for _ in range(RUNS):
            asked = query()
            began = time.perf_counter()
            page = find(asked)
            seconds.append(time.perf_counter() - began)
            found += len(page.items)
        _tell_row(name, seconds, time.process_time() - used, found)
    _tell_pages(find, words[0])
    print(f"\nload average at the end: {os.getloadavg()[0]:.1f}; {now():%Y-%m-%d}")


def _tell_pages(find: Callable[..., Any], word: str) -> None:
    cursor, seconds, found = None, [], 0
    used = time.process_time()
    for _ in range(RUNS):
        began = time.perf_counter()
        page = find(Query(q=word), cursor=cursor)
        seconds.append(time.perf_counter() - began)
        found += len(page.items)
        cursor = page.next_cursor
        if cursor is None:
            break
    _tell_row("its next pages", seconds, time.process_time() - used, found)


def _tell_row(name: str, seconds: list[float], used: float, found: int) -> None:
    """One line of the table; `used` is what this process worked, the rest is waiting."""
    count = len(seconds)
    seconds.sort()
    last = seconds[max(0, int(count * 0.99) - 1)]
    cells = (f"{1e3 * value:.1f}" for value in (seconds[count // 2], last, used / count))
    print(f"| {name} | {' | '.join(cells)} | {found / count:.1f} |", flush=True)


if __name__ == "__main__":
    main()
