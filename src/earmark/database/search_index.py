"""The index of what was said: what it keeps, how it grows, how it forgets.

A transcript is kept as a document in the transaction that saves it, and is found from then on. As
long as it waits for its number, whoever searches reads it; a worker gives numbers to many at
once, since a hundred documents share most of the words whose postings change.

Postings say, for a key and a block of `BLOCK_DOCUMENTS` numbers, which of these have the key. The
order of locks is everywhere: interaction, index of the organization, document.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections import defaultdict
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from earmark.database.tables import interaction, search_block, search_document, search_posting
from earmark.model.search import Document, Line, document_of, index_keys
from earmark.model.transcript import Speaker

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TypeVar
    from uuid import UUID

    from earmark.database.scope import Scope
    from earmark.model.transcript import Transcript

    T = TypeVar("T")

BLOCK_DOCUMENTS = 4096
"""A bitmap of them is 512 bytes: it fits a page of SQLite's B-tree four times and more, which a
larger one would leave, and a million documents are 245 rows of one key."""

BITMAP_BYTES = BLOCK_DOCUMENTS // 8

INDEXED_AT_ONCE = 4
"""Documents that one transaction gives numbers to: on SQLite nobody else writes meanwhile."""

_ROWS_AT_ONCE = 500
"""Keys looked up in one statement; SQLite once allowed 999 parameters."""


def put(scope: Scope, interaction_id: UUID, transcript: Transcript) -> None:
    """Keeps a transcript, in the place of any earlier one; it is found from now on.

    The caller holds the interaction's row.
    """
    if _is_kept(scope, interaction_id):
        forget(scope, interaction_id)
    row = scope.row(sa.select(interaction.c.occurred_at).where(interaction.c.id == interaction_id))
    assert row is not None  # noqa: S101 - the caller holds it
    values = {
        "interaction_id": interaction_id,
        "occurred_at": row.occurred_at,
        "content": encoded(document_of(transcript)),
    }
    scope.insert(search_document, values)


def forget(scope: Scope, interaction_id: UUID) -> None:
    """Removes every word of an interaction. The caller holds the interaction's row."""
    lock(scope)
    mine = search_document.c.interaction_id == interaction_id
    row = scope.row(sa.select(search_document.c.number, search_document.c.content).where(mine))
    if row is not None and row.number is not None:
        _withdraw(scope, row.number, index_keys(decoded(row.content)))
    scope.run(sa.delete(search_document).where(mine))


def index_waiting(scope: Scope, *, limit: int = INDEXED_AT_ONCE) -> int:
    """Gives numbers to documents of the scope's organization that wait for one; says how many."""
    lock(scope)
    columns = search_document.c
    oldest = (
        sa.select(columns.interaction_id, columns.occurred_at, columns.content)
        .where(columns.number.is_(None), columns.content.is_not(None))
        .order_by(columns.interaction_id)
        .limit(limit)
        .with_for_update()  # its date stays as it was read
    )
    rows = scope.rows(oldest)
    if rows:
        _number(scope, rows)
    return len(rows)


def organizations_waiting(scope: Scope) -> list[UUID]:
    """Organizations with documents that wait for a number."""
    columns = search_document.c
    waiting = sa.select(columns.organization_id).where(
        columns.number.is_(None), columns.content.is_not(None)
    )
    return [row.organization_id for row in scope.rows(waiting.distinct())]


def unread(scope: Scope, *, limit: int) -> list[tuple[UUID, UUID]]:
    """Transcripts from before there was an index: organizations and interactions."""
    columns = search_document.c
    found = sa.select(columns.organization_id, columns.interaction_id).where(
        columns.content.is_(None)
    )
    return [(row.organization_id, row.interaction_id) for row in scope.rows(found.limit(limit))]


def fill(scope: Scope, interaction_id: UUID, transcript: Transcript | None) -> None:
    """Keeps a transcript that was unread; forgets it if there is None to read.

    Does nothing if it was read, replaced or deleted meanwhile.
    """
    mine = (search_document.c.interaction_id == interaction_id) & (
        search_document.c.content.is_(None)
    )
    if transcript is None:
        scope.run(sa.delete(search_document).where(mine))
        return
    content = encoded(document_of(transcript))
    scope.run(sa.update(search_document).where(mine).values(content=content))


def lock(scope: Scope) -> None:
    """Waits for whoever else changes the organization's postings, until this transaction ends."""
    scope.serialise("search", str(scope.organization_id))


def encoded(document: Document) -> bytes:
    """A document as it is kept."""
    lines = [
        (
            line.text,
            line.speaker.value,
            line.start_seconds,
            line.at.isoformat() if line.at else None,
            int(line.goes_on),
        )
        for line in document.lines
    ]
    told = json.dumps((document.language, lines), ensure_ascii=False, separators=(",", ":"))
    # Half of a surrogate pair is no text, but nothing that an engine says may stop us.
    return zlib.compress(told.encode(errors="replace"))


def decoded(content: bytes) -> Document:
    """The document that `encoded` made."""
    language, lines = json.loads(zlib.decompress(content))
    return Document(
        tuple(
            Line(
                text, _SPEAKERS[speaker], start, datetime.fromisoformat(at) if at else None, on > 0
            )
            for text, speaker, start, at, on in lines
        ),
        language,
    )


_SPEAKERS = {speaker.value: speaker for speaker in Speaker}


def bits(documents: bytes) -> int:
    """The documents of a posting: bit n is set for the n-th of its block."""
    if len(documents) == BITMAP_BYTES:
        return int.from_bytes(documents, "little")
    return _bitmap(documents)


def _bitmap(places: bytes) -> int:
    bitmap = bytearray(BITMAP_BYTES)
    for at in memoryview(places).cast("H"):
        bitmap[at >> 3] |= 1 << (at & 7)
    return int.from_bytes(bitmap, "little")


def ones(bitmap: int) -> Iterator[int]:
    """The places of the bits that are set, ascending."""
    for byte, value in enumerate(bitmap.to_bytes(BITMAP_BYTES, "little")):
        if value:
            for bit in _BITS[value]:
                yield byte * 8 + bit


_BITS = [[bit for bit in range(8) if value >> bit & 1] for value in range(256)]


def batched(values: Iterable[T], count: int) -> Iterator[list[T]]:
    """The values in lists of at most `count`."""
    rest = iter(values)
    while some := list(islice(rest, count)):
        yield some


def _posting(bitmap: int) -> bytes:
    """As a list of numbers, or as a bitmap where that is no longer."""
    if bitmap.bit_count() * 2 >= BITMAP_BYTES:
        return bitmap.to_bytes(BITMAP_BYTES, "little")
    return array("H", ones(bitmap)).tobytes()  # two bytes each


def _is_kept(scope: Scope, interaction_id: UUID) -> bool:
    kept = sa.select(search_document.c.interaction_id)
    return scope.row(kept.where(search_document.c.interaction_id == interaction_id)) is not None


def _number(scope: Scope, rows: Sequence[sa.Row[Any]]) -> None:
    first = _next_number(scope)
    added: dict[int, defaultdict[str, list[int]]] = {}
    numbers = []
    for number, row in enumerate(rows, start=first):
        block, place = divmod(number, BLOCK_DOCUMENTS)
        postings = added.setdefault(block, defaultdict(list))
        for key in index_keys(decoded(row.content)):
            postings[key].append(place)
        numbers.append({"its_id": row.interaction_id, "its_number": number})
    for block, postings in added.items():
        _add(scope, block, postings, is_new=block * BLOCK_DOCUMENTS >= first)
    _note_blocks(scope, rows, first)
    statement = (
        sa.update(search_document)
        .where(
            search_document.c.organization_id == scope.organization_id,
            search_document.c.interaction_id == sa.bindparam("its_id"),
        )
        .values(number=sa.bindparam("its_number"))
    )
    scope.connection.execute(statement, numbers)


def _next_number(scope: Scope) -> int:
    last = sa.select(search_block.c.block, search_block.c.used)
    row = scope.row(last.order_by(search_block.c.block.desc()).limit(1))
    return row.block * BLOCK_DOCUMENTS + row.used if row else 0


def _note_blocks(scope: Scope, rows: Sequence[sa.Row[Any]], first: int) -> None:
    """Numbers are never given twice, so what is taken is written down, not looked up."""
    newest: dict[int, datetime] = {}
    for number, row in enumerate(rows, start=first):
        block = number // BLOCK_DOCUMENTS
        newest[block] = max(newest.get(block, row.occurred_at), row.occurred_at)
    beyond = first + len(rows)
    for block, at in newest.items():
        used = min(beyond - block * BLOCK_DOCUMENTS, BLOCK_DOCUMENTS)
        values = {"block": block, "used": used, "newest_at": at}
        if not scope.insert_if_absent(search_block, values):
            kept = search_block.c.newest_at
            later = sa.case((kept > at, kept), else_=sa.literal(at, kept.type))
            changed = sa.update(search_block).where(search_block.c.block == block)
            scope.run(changed.values(used=used, newest_at=later))


def _add(scope: Scope, block: int, added: Mapping[str, Sequence[int]], *, is_new: bool) -> None:
    """Adds documents to postings of one block; a new one has none yet."""
    kept = {} if is_new else dict(_postings(scope, block, added))
    _write(
        scope,
        block,
        {
            key: _joined(kept.get(key, b""), array("H", added[key]).tobytes())
            for key in sorted(added)  # in the order of the index
        },
    )


def _joined(kept: bytes, added: bytes) -> bytes:
    """A posting with documents added: their numbers are higher than all before."""
    if len(kept) + len(added) < BITMAP_BYTES:  # neither is a bitmap
        return kept + added
    return _posting(bits(kept) | _bitmap(added))


def _withdraw(scope: Scope, number: int, keys: Iterable[str]) -> None:
    block, place = divmod(number, BLOCK_DOCUMENTS)
    left, gone = {}, []
    for key, documents in _postings(scope, block, keys):
        bitmap = bits(documents) & ~(1 << place)
        if bitmap:
            left[key] = _posting(bitmap)
        else:
            gone.append(key)
    _write(scope, block, left)
    for some in batched(gone, _ROWS_AT_ONCE):
        scope.run(
            sa.delete(search_posting).where(
                search_posting.c.block == block, search_posting.c.key.in_(some)
            )
        )


def _postings(scope: Scope, block: int, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    columns = search_posting.c
    for some in batched(sorted(keys), _ROWS_AT_ONCE):
        found = sa.select(columns.key, columns.documents).where(
            columns.block == block, columns.key.in_(some)
        )
        for row in scope.rows(found):
            yield row.key, row.documents


def _write(scope: Scope, block: int, postings: Mapping[str, bytes]) -> None:
    """Adds or replaces postings of a block."""
    if not postings:
        return
    names = ["organization_id", "key", "block", "documents"]
    target = [search_posting.c.organization_id, search_posting.c.key, search_posting.c.block]
    if scope.is_postgresql:  # one statement: row by row took five times as long
        rows = sa.select(
            sa.literal(scope.organization_id, sa.Uuid),
            sa.func.unnest(sa.literal([*postings], postgresql.ARRAY(sa.Text))),
            sa.literal(block, sa.Integer),
            sa.func.unnest(sa.literal([*postings.values()], postgresql.ARRAY(sa.LargeBinary))),
        )
        many = postgresql.insert(search_posting).from_select(names, rows)
        newer = {"documents": many.excluded.documents}
        scope.connection.execute(many.on_conflict_do_update(index_elements=target, set_=newer))
        return
    each = sqlite.insert(search_posting)
    each = each.on_conflict_do_update(
        index_elements=target, set_={"documents": each.excluded.documents}
    )
    organization_id = scope.organization_id
    scope.connection.execute(
        each,
        [
            dict(zip(names, (organization_id, key, block, documents), strict=True))
            for key, documents in postings.items()
        ],
    )
