"""Interactions found by what was said in them, newest first.

Postings tell which documents may hold what is wanted. If these are few, their dates are looked
up and sorted; if they are many, the interactions are gone through in the order of reading, which
soon meets enough of them. Neither goes on for ever: after a bounded effort a page ends early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from earmark.database import interactions as stored
from earmark.database.interactions import Position, begins_with
from earmark.database.search_index import BLOCK_DOCUMENTS, batched, bits, decoded, ones
from earmark.database.tables import search_block, search_document, search_posting
from earmark.model import Query
from earmark.model.search import holds, keys_of, with_others
from earmark.model.search import words as words_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from earmark.database.scope import Scope
    from earmark.model.search import Document, Search

WALKED_AT_MOST = 10_000
"""Interactions gone through for one page; half as many with filters, when each costs a look-up."""

READ_AT_MOST = 250
"""Transcripts read for one page, where postings alone cannot tell: neighbours in a phrase."""

LOOKED_UP_ANYHOW = 2000
"""Candidates so few that looking them up is never slow."""

LOOKED_UP_COSTS = 4
"""To look one up, against passing one."""

WAITING_AT_MOST = 250
"""Transcripts read beside these for a search, that have no number yet."""

READ_AT_ONCE = 100
FIRST_STRIDE = 250
LAST_STRIDE = 4000
FARTHER = 1.2
"""A stride goes somewhat beyond where the last hit is expected."""

LOOKED_UP_AT_ONCE = 900

STEMMERS = {"en": "english_stem", "es": "spanish_stem"}
"""PostgreSQL's own dictionaries, by language of the transcript."""

SHORT_STEM = 3
"""Of a stem this short every letter counts, or half of the vocabulary would be looked at."""

_LAST_ID = UUID(int=(1 << 128) - 1)


class Found(NamedTuple):
    """What a search found.

    Attributes:
        positions: in reading order.
        reached: up to where was searched, itself included, if the page ended early; else None.
    """

    positions: list[Position]
    reached: Position | None


def positions(
    scope: Scope, query: Query, search: Search, *, after: Position | None, limit: int
) -> Found:
    """The first `limit` interactions after a position that match both, in reading order.

    In a reader's transaction: a document that gets its number meanwhile would be missed in others.
    """
    waiting = _waiting(scope, query, search, after)
    indexed, reached = _Indexed(scope, query, search, after, limit).find()
    every = sorted([*waiting, *indexed], key=_order, reverse=True)
    if reached is not None:
        every = [position for position in every if _order(position) >= _order(reached)]
    found = every[:limit]
    return Found(found, reached if len(found) < limit else None)


def documents(scope: Scope, ids: Collection[UUID]) -> dict[UUID, Document]:
    """What was said in these interactions; those without a transcript are left out."""
    if not ids:  # or PostgreSQL would look at every document for one of none
        return {}
    columns = search_document.c
    found = sa.select(columns.interaction_id, columns.content).where(
        columns.interaction_id.in_(ids), columns.content.is_not(None)
    )
    return {row.interaction_id: decoded(row.content) for row in scope.rows(found)}


def with_stems(scope: Scope, search: Search) -> Search:
    """The search with every other form of its words that was ever said, as PostgreSQL stems."""
    wanted = search.stemmed
    stems = {language: _stems(scope, name, wanted) for language, name in STEMMERS.items()}
    beginnings = {_beginning(stem) for of in stems.values() for stem in of.values()}
    known = wanted | _vocabulary(scope, beginnings)
    return with_others(
        search,
        {language: _stems(scope, name, known) for language, name in STEMMERS.items()},
        known,
    )


def _stems(scope: Scope, dictionary: str, words: Collection[str]) -> dict[str, str]:
    """The stem of each word; of one that the dictionary leaves out, the word."""
    statement = sa.text(
        "SELECT word, (ts_lexize(CAST(:dictionary AS regdictionary), word))[1] AS stem "
        "FROM unnest(CAST(:words AS text[])) AS word"
    ).bindparams(dictionary=dictionary, words=[*words])
    return {row.word: row.stem or row.word for row in scope.rows(statement)}


def _beginning(stem: str) -> str:
    """What all words of a stem begin with: it may change the last letter, as happy and happi."""
    return stem[:-1] if len(stem) > SHORT_STEM else stem


def _vocabulary(scope: Scope, beginnings: Collection[str]) -> set[str]:
    """The words that were ever said and begin in one of these ways."""
    ways = tuple(beginnings)
    found = {
        word
        for row in scope.rows(_WAITING.limit(WAITING_AT_MOST))
        for line in decoded(row.content).lines
        for word in words_of(line.text)
        if word.startswith(ways)
    }
    for way in ways:
        keys = sa.select(search_posting.c.key).where(*begins_with(search_posting.c.key, way))
        found.update(row.key for row in scope.rows(keys.distinct()))
    return found


def _order(position: Position) -> tuple[Any, int]:
    return position.occurred_at, position.id.int


def _after(
    columns: Sequence[sa.ColumnElement[Any]], position: Position | None
) -> Iterator[sa.ColumnElement[bool]]:
    if position is not None:
        values = (
            sa.literal(value, column.type) for value, column in zip(position, columns, strict=True)
        )
        yield sa.tuple_(*columns) < sa.tuple_(*values)


_PLACE = (search_document.c.occurred_at, search_document.c.interaction_id)

_WAITING = (
    sa.select(*_PLACE, search_document.c.content)
    .where(search_document.c.number.is_(None), search_document.c.content.is_not(None))
    .order_by(search_document.c.interaction_id)
)
"""Those that get their number next come first; they are many only after an import."""


def _waiting(
    scope: Scope, query: Query, search: Search, after: Position | None
) -> Iterator[Position]:
    """Those that match among the documents that wait for their number."""
    rows = scope.rows(_WAITING.where(*_after(_PLACE, after)).limit(WAITING_AT_MOST))
    if not rows:
        return
    matching = stored.matching(scope, query, [row.interaction_id for row in rows])
    for row in rows:
        if row.interaction_id in matching and holds(decoded(row.content), search):
            yield Position(row.occurred_at, row.interaction_id)


class _Indexed:
    """One search among the documents that have their number."""

    def __init__(
        self, scope: Scope, query: Query, search: Search, after: Position | None, limit: int
    ) -> None:
        self._scope = scope
        self._query = query
        self._search = search
        self._after = after
        self._limit = limit
        self._is_filtered = query != Query(q=query.q, stem=query.stem)
        self._must_read = bool(search.others) or any(len(term.words) > 1 for term in search.terms)

    def find(self) -> tuple[list[Position], Position | None]:
        """At least `limit` positions, if there are as many; see `Found.reached`."""
        found: list[Position] = []
        read = 0
        for candidates, reached in self._candidates(_hits(self._scope, self._search)):
            found += self._held(candidates)
            read += len(candidates) * self._must_read
            if len(found) >= self._limit:
                return found, None
            if reached is not None:
                return found, reached
            if read >= READ_AT_MOST:
                return found, candidates[-1]
        return found, None

    def _held(self, some: Sequence[Position]) -> Sequence[Position]:
        """Those that hold what is wanted, where keys alone cannot tell."""
        if not self._must_read:
            return some
        said = documents(self._scope, [position.id for position in some])
        return [
            position
            for position in some
            if position.id in said and holds(said[position.id], self._search)
        ]

    def _candidates(self, hits: _Hits) -> Iterator[tuple[Sequence[Position], Position | None]]:
        """Some at a time, in reading order; and where a walk ends that has gone on long enough."""
        if not hits.count:
            return iter(())
        return self._looked_up(hits) if self._few(hits) else self._walked(hits)

    def _few(self, hits: _Hits) -> bool:
        """Whether looking candidates up costs less than walking past what lies between them.

        With filters nobody knows how much they let through.
        """
        if hits.count <= LOOKED_UP_ANYHOW or self._is_filtered:
            return hits.count <= LOOKED_UP_ANYHOW
        return hits.count * LOOKED_UP_COSTS <= self._limit * hits.span / hits.count

    def _looked_up(self, hits: _Hits) -> Iterator[tuple[Sequence[Position], None]]:
        wanted = READ_AT_MOST if self._must_read else self._limit
        numbers = [*hits.numbers()]
        found = self._placed(numbers, len(numbers) if self._is_filtered else wanted)
        matching = stored.matching(self._scope, self._query, [position.id for position in found])
        for some in batched((one for one in found if one.id in matching), READ_AT_ONCE):
            yield some, None

    def _placed(self, numbers: Sequence[int], wanted: int) -> list[Position]:
        """The first of these documents in reading order."""
        columns = search_document.c
        listed = self._scope.listed(columns.number, numbers)
        its_document = sa.and_(
            columns.organization_id == self._scope.organization_id,
            columns.number == listed.c.value,
            *_after(_PLACE, self._after),
        )
        first = (
            sa.select(*_PLACE)
            .select_from(listed.outerjoin(search_document, its_document))
            .order_by(*(column.desc().nulls_last() for column in _PLACE))
            .limit(wanted)
        )
        return [Position._make(row) for row in self._scope.rows(first) if row[0] is not None]

    def _walked(self, hits: _Hits) -> Iterator[tuple[Sequence[Position], Position | None]]:
        self._scope.read_in_order()
        after = self._first(hits)
        walked = met = 0
        most = WALKED_AT_MOST // (2 if self._is_filtered else 1)
        expected = self._limit * hits.span / hits.count
        stride = FIRST_STRIDE
        while True:
            stride = min(max(stride, round(expected * FARTHER)), LAST_STRIDE, most - walked)
            way, numbers = self._way(after, stride)
            passed = [row.number for row in self._scope.rows(numbers)]
            for some in batched(filter(hits.has, passed), READ_AT_ONCE):
                met += len(some)
                yield self._placed(some, READ_AT_ONCE), None
            if len(passed) < stride:
                return
            after = self._end_of(way, passed)
            walked += stride
            if walked >= most:
                yield (), after
                return
            expected = walked * (self._limit / met - 1) if met else 2 * stride

    def _end_of(self, way: sa.Select[Any], passed: Sequence[int | None]) -> Position:
        """Where a way ends that was gone to its end; looked up, since to go again takes longer."""
        number = passed[-1]
        if number is not None:
            (last,) = self._placed([number], 1)
            return last
        row = self._scope.row(way.offset(len(passed) - 1).limit(1))
        assert row is not None  # noqa: S101 - all is seen as it was at one moment
        return Position._make(row)

    def _first(self, hits: _Hits) -> Position:
        """Where the walk begins: no candidate is newer."""
        newest = sa.select(sa.func.max(search_block.c.newest_at).label("at"))
        row = self._scope.row(newest.where(search_block.c.block.in_(hits.blocks)))
        assert row is not None  # noqa: S101 - an aggregate has one row
        first = Position(row.at, _LAST_ID)
        return first if self._after is None else min(first, self._after, key=_order)

    def _way(self, after: Position, stride: int) -> tuple[sa.Select[Any], sa.Select[Any]]:
        """The next positions in reading order, and the numbers of what stands there, if any."""
        columns = search_document.c
        if not self._is_filtered:
            way: sa.Select[Any] = (
                sa.select(*_PLACE)
                .where(*_after(_PLACE, after))
                .order_by(columns.occurred_at.desc(), columns.interaction_id.desc())
            )
            numbers: sa.Select[Any] = way.with_only_columns(columns.number)
            return way, numbers.limit(stride)
        way = stored.in_order(self._scope, self._query, after=after, limit=stride)
        passed = way.subquery()
        mine = sa.and_(
            columns.organization_id == self._scope.organization_id,
            columns.interaction_id == passed.c.id,
        )
        numbers = (
            sa.select(columns.number)
            .select_from(passed.outerjoin(search_document, mine))
            .order_by(passed.c.occurred_at.desc(), passed.c.id.desc())
        )
        return way, numbers


@dataclass(frozen=True, slots=True)
class _Hits:
    """The documents that have every key of a search.

    Attributes:
        blocks: bit n is set for the n-th document of the block; none is 0.
        count: of all.
    """

    blocks: dict[int, int]
    count: int

    @property
    def span(self) -> int:
        """Among how many documents they lie."""
        return (max(self.blocks) + 1) * BLOCK_DOCUMENTS

    def has(self, number: int | None) -> bool:
        """Whether a document is among them."""
        if number is None:
            return False
        block, place = divmod(number, BLOCK_DOCUMENTS)
        return bool(self.blocks.get(block, 0) >> place & 1)

    def numbers(self) -> Iterator[int]:
        """All of them."""
        for block, bitmap in self.blocks.items():
            for place in ones(bitmap):
                yield block * BLOCK_DOCUMENTS + place


def _hits(scope: Scope, search: Search) -> _Hits:
    """The documents that have every key."""
    wanted: list[set[str]] = []  # of each, one key must be there
    ranges: list[str] = []
    for term in search.terms:
        keys, beginning = keys_of(term)
        wanted += ({key} for key in keys)
        if beginning:
            ranges.append(beginning)
        if not term.is_prefix and len(term.words) == 1:
            for forms in (search.others or {}).values():
                wanted[-1] |= forms.get(term.words[0], frozenset())
    postings = _postings(scope, set().union(*wanted))
    sets = [_union(postings.get(key, {}).items() for key in keys) for keys in wanted]
    sets += [_union([_of_beginning(scope, beginning)]) for beginning in ranges]
    return _all_of(sets)


def _union(parts: Iterable[Iterable[tuple[int, bytes]]]) -> dict[int, list[bytes]]:
    """By block, the postings of which a document must be in one."""
    joined: dict[int, list[bytes]] = {}
    for part in parts:
        for block, documents_ in part:
            joined.setdefault(block, []).append(documents_)
    return joined


def _all_of(sets: Sequence[dict[int, list[bytes]]]) -> _Hits:
    """What lies in every set, by block."""
    blocks = {}
    for block in set.intersection(*(set(union) for union in sets)):
        bitmap = -1
        for union in sets:
            bitmap &= _any_of(union[block])
            if not bitmap:
                break
        else:
            blocks[block] = bitmap
    return _Hits(blocks, sum(bitmap.bit_count() for bitmap in blocks.values()))


def _any_of(postings: Iterable[bytes]) -> int:
    bitmap = 0
    for documents_ in postings:
        bitmap |= bits(documents_)
    return bitmap


def _postings(scope: Scope, keys: Collection[str]) -> dict[str, dict[int, bytes]]:
    """The postings of keys, by key and block."""
    columns = search_posting.c
    found: dict[str, dict[int, bytes]] = {}
    for some in batched(sorted(keys), LOOKED_UP_AT_ONCE):
        statement = sa.select(columns.key, columns.block, columns.documents)
        for row in scope.rows(statement.where(columns.key.in_(some))):
            found.setdefault(row.key, {})[row.block] = row.documents
    return found


def _of_beginning(scope: Scope, beginning: str) -> Sequence[Any]:
    """The postings of all words with a beginning: block and documents."""
    columns = search_posting.c
    words = begins_with(columns.key, beginning)
    return scope.rows(sa.select(columns.block, columns.documents).where(*words))
