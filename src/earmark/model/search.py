"""What a word is, what may be asked for, and where in a transcript it stands.

Both databases, and a plain reading of a transcript, go by what is said here and nothing else.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from earmark.model.transcript import Speaker, Transcript

MAX_QUERY_CHARACTERS = 500
MAX_QUERY_WORDS = 16

MAX_WORD_CHARACTERS = 64
"""Longer words count by so many of their first: nobody says them, and indexes have bounds."""

INDEXED_PREFIX = 3
"""Beginnings of words up to this length are indexed as such. Few words share a longer one."""

PAIRS = 4096
"""Kinds of neighbouring words that the index tells apart, in two ways; see `pair_keys`."""

MAX_MATCHES = 5
"""Lines shown of one interaction."""

MATCH_CHARACTERS = 160
"""Of a line, about; a message of a chat may fill pages."""

_REMEMBERED = 100_000
"""Words whose keys are not made anew: what people say is mostly the same few thousand."""

_REMEMBERED_PHRASES = 1000

_LEAD_CHARACTERS = 50
"""Shown before the first hit where a line is cut."""


class _Folding(dict[int, str]):
    """By code point: the letter without case, accents and variants of form; "" if it is none.

    Apostrophes are within words and count for nothing: `don't` is `dont`. So do marks that
    combine with the letter before them, and characters of format such as the soft hyphen.
    """

    def __missing__(self, point: int) -> str:
        plain = unicodedata.normalize("NFKD", chr(point)).casefold()
        split = unicodedata.normalize("NFKD", plain)
        self[point] = folded = "".join(filter(_counts, split))
        return folded


def _counts(character: str) -> bool:
    marks = "\u0300" <= character <= "\u036f" or unicodedata.category(character) == "Cf"
    return not marks and character not in _APOSTROPHES


_APOSTROPHES = "'\u2018\u2019\u02bc\u02b9\uff07"
_FOLDING = _Folding()

# Scripts that put no spaces between words: each character is a word, and several are a phrase.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The words of a text in their order, as they are indexed and compared."""
    return [word[:MAX_WORD_CHARACTERS] for word in _WORD.findall(text.translate(_FOLDING))]


def placed_words(text: str) -> Iterator[tuple[str, int, int]]:
    """The same words, each with its first character in the text and the one after its last."""
    if text.isascii() and "'" not in text:  # each character stays one
        for match in _WORD.finditer(text.lower()):
            yield match[0][:MAX_WORD_CHARACTERS], match.start(), match.end()
        return
    origin = [at for at, character in enumerate(text) for _ in _FOLDING[ord(character)]]
    for match in _WORD.finditer(text.translate(_FOLDING)):
        stop = origin[match.end() - 1] + 1
        while stop < len(text) and unicodedata.combining(text[stop]):
            stop += 1
        yield match[0][:MAX_WORD_CHARACTERS], origin[match.start()], stop


@dataclass(frozen=True, slots=True)
class Term:
    """Words that must stand one after the other; often it is one.

    Attributes:
        words: as `words` has them; never empty.
        is_prefix: whether the last one is only the beginning of a word.
    """

    words: tuple[str, ...]
    is_prefix: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """What to find: transcripts that hold every term.

    Attributes:
        others: further forms of single words, which count as they do; by language.
    """

    terms: tuple[Term, ...]
    others: Mapping[str, Mapping[str, frozenset[str]]] | None = None

    @property
    def stemmed(self) -> frozenset[str]:
        """The words that other forms may stand for: single ones, and no prefixes."""
        return frozenset(
            term.words[0] for term in self.terms if len(term.words) == 1 and not term.is_prefix
        )


def parse_search(sent: str) -> Search:
    """Reads words, "phrases" and prefixes*, of which all must be there.

    Raises:
        ValueError: it cannot be read, or names no word; the message tells the mend.
    """
    if len(sent) > MAX_QUERY_CHARACTERS:
        raise ValueError(f"Send at most {MAX_QUERY_CHARACTERS} characters.")
    parts = sent.translate(_QUOTES).split('"')
    if len(parts) % 2 == 0:
        raise ValueError(
            'A quotation mark has no partner; close the phrase, as in "good morning".'
        )
    texts = [(part, i % 2 == 1) for i, part in enumerate(parts)]
    found = [
        term
        for text, quoted in texts
        for piece in ([text] if quoted else text.split())
        if (term := _term(piece, quoted=quoted))
    ]
    if not found:
        raise ValueError("Send at least one word; signs alone are not searched for.")
    if sum(len(term.words) for term in found) > MAX_QUERY_WORDS:
        raise ValueError(f"Send at most {MAX_QUERY_WORDS} words.")
    return Search(tuple(dict.fromkeys(found)))


_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»\uff02", '"'))


def _term(text: str, *, quoted: bool) -> Term | None:
    bare = text.rstrip() if quoted else text
    is_prefix = bare.endswith("*")
    bare = bare.removesuffix("*")
    found = tuple(words(bare))
    if "*" in bare or (is_prefix and not (found and _ends_in_word(bare))):
        raise ValueError(
            "An asterisk stands at the end of a word and nowhere else, as in cancel*."
        )
    if not found:
        return None
    if not quoted and bare.startswith("-"):
        raise ValueError("Words cannot be excluded; remove the - before the word.")
    return Term(found, is_prefix)


def _ends_in_word(text: str) -> bool:
    return bool(_WORD.fullmatch(text.translate(_FOLDING)[-1:]))


class Line(NamedTuple):
    """A segment of a transcript as far as searching needs it.

    Attributes:
        start_seconds: from the beginning of the recording; None in a chat.
        at: when a message was sent; None in a recording.
        goes_on: whether it goes on with what the line before it began: a phrase may span both.
    """

    text: str
    speaker: Speaker
    start_seconds: float | None
    at: datetime | None
    goes_on: bool


@dataclass(frozen=True, slots=True)
class Document:
    """A transcript as far as searching needs it."""

    lines: tuple[Line, ...]
    language: str

    @property
    def runs(self) -> Iterator[list[Line]]:
        """The lines, those together that go on with one another."""
        run: list[Line] = []
        for line in self.lines:
            if run and not line.goes_on:
                yield run
                run = []
            run.append(line)
        if run:
            yield run


@dataclass(frozen=True, slots=True)
class Match:
    """A line in which something was found.

    Attributes:
        text: the line, or the part of a long one around its first hit, with … where it is cut.
        ranges: of each hit in the text: its first character, and the one after its last.
    """

    text: str
    ranges: tuple[tuple[int, int], ...]
    speaker: Speaker
    start_seconds: float | None
    at: datetime | None


def document_of(transcript: Transcript) -> Document:
    """What is searched of a transcript.

    In a recording the engine cuts where somebody breathes, so what one speaker says without
    another between is one run; in a chat each message stands alone.
    """
    lines = []
    before: tuple[object, ...] | None = None
    for segment in transcript.segments:
        voice = (segment.speaker, segment.channel, segment.name)
        goes_on = segment.start_seconds is not None and voice == before
        lines.append(
            Line(segment.text, segment.speaker, segment.start_seconds, segment.at, goes_on)
        )
        before = voice
    return Document(tuple(lines), transcript.language)


def index_keys(document: Document) -> set[str]:
    """What the index notes of a document, so that it finds candidates without reading them.

    Each word, each short beginning of one, and of each two neighbours the kind of pair that they
    are: a phrase of common words would else have most documents for candidates.
    """
    keys: set[str] = set()
    for run in document.runs:
        said = [word for line in run for word in words(line.text)]
        keys.update(said)
        keys.update(pair_keys(said))
    return keys.union(*map(_beginnings, [key for key in keys if key[0] != PAIR_MARK]))


PREFIX_MARK, PAIR_MARK = "*", "+"
"""Keys that are no words begin with a sign that no word has."""

_FIRST_KEYS = [f"{PAIR_MARK}{kind:x}" for kind in range(PAIRS)]
_SECOND_KEYS = [f"{PAIR_MARK}{PAIR_MARK}{kind:x}" for kind in range(PAIRS)]


def pair_keys(said: Sequence[str]) -> Iterator[str]:
    """The keys of the kinds of pair that neighbours are, two for each pair.

    Of documents with 200 words one in 20 has a kind by chance, and one in 400 both.
    """
    sums = [_checksum(word) for word in said]
    for one, following in pairwise(sums):
        mixed = one * 0x9E3779B1 ^ following * 0x85EBCA6B
        yield _FIRST_KEYS[(mixed >> 8) % PAIRS]
        yield _SECOND_KEYS[(mixed >> 20) % PAIRS]


@lru_cache(_REMEMBERED)
def _checksum(word: str) -> int:
    return zlib.crc32(word.encode(errors="replace"))


@lru_cache(_REMEMBERED)
def _beginnings(word: str) -> tuple[str, ...]:
    return tuple(PREFIX_MARK + word[:end] for end in range(1, min(len(word), INDEXED_PREFIX) + 1))


def keys_of(term: Term) -> tuple[list[str], str]:
    """The keys that each document with the term has; and how a further one begins, or ""."""
    *whole, last = term.words
    if not term.is_prefix:
        return [*term.words, *pair_keys(term.words)], ""
    keys = [*whole, *pair_keys(whole)]
    if len(last) <= INDEXED_PREFIX:
        return [*keys, PREFIX_MARK + last], ""
    return keys, last


def holds(document: Document, search: Search) -> bool:
    """Whether a document holds every term."""
    if not _may_hold(document, search):
        return False
    missing = list(search.terms)
    for run in document.runs:
        said = [word for line in run for word in words(line.text)]
        missing = [
            term for term in missing if next(_found(said, term, search, document), None) is None
        ]
        if not missing:
            return True
    return False


def _may_hold(document: Document, search: Search) -> bool:
    """Whether the words of each phrase stand next to each other somewhere, lines not regarded.

    Most documents that only may hold a phrase fail this, a fifth of the work of finding their
    words.
    """
    phrases = [term for term in search.terms if len(term.words) > 1]
    if not phrases:
        return True
    text = " ".join(line.text for line in document.lines).translate(_FOLDING)
    return all(_neighbours(term.words).search(text) for term in phrases)


@lru_cache(_REMEMBERED_PHRASES)
def _neighbours(said: tuple[str, ...]) -> re.Pattern[str]:
    """Finds these words with no other between; the last may be the beginning of one."""
    cut = (re.escape(word) + r"\w*" * (len(word) == MAX_WORD_CHARACTERS) for word in said)
    return re.compile(r"[\W_]*".join(cut))


def matches(document: Document, search: Search) -> tuple[Match, ...]:
    """The lines to show, in their order: one of each term if there is room, then the first."""
    seen: set[Term] = set()
    firsts: list[tuple[int, Match]] = []
    more: list[tuple[int, Match]] = []
    number = 0
    for run in document.runs:
        for match, terms in _matched(run, search, document):
            chosen = more if terms <= seen else firsts
            seen |= terms
            chosen.append((number, match))
            number += 1
        if len(seen) == len(search.terms) and number >= MAX_MATCHES:
            break
    shown = sorted((firsts + more)[:MAX_MATCHES], key=lambda one: one[0])
    return tuple(match for _, match in shown)


def _matched(
    run: Sequence[Line], search: Search, document: Document
) -> Iterator[tuple[Match, frozenset[Term]]]:
    """The lines of a run that have hits, with the terms that begin in them."""
    said = [(i, j, word) for i, line in enumerate(run) for j, word in enumerate(words(line.text))]
    spoken = [word for _, _, word in said]
    hits: dict[int, set[int]] = {}
    begun: dict[int, set[Term]] = {}
    for term in search.terms:
        for at in _found(spoken, term, search, document):
            begun.setdefault(said[at][0], set()).add(term)
            for i, j, _ in said[at : at + len(term.words)]:
                hits.setdefault(i, set()).add(j)
    for i in sorted(hits):
        placed = list(placed_words(run[i].text))
        ranges = [placed[j][1:] for j in sorted(hits[i])]
        yield _shown(run[i], ranges), frozenset(begun.get(i, ()))


def _shown(line: Line, ranges: Sequence[tuple[int, int]]) -> Match:
    first, stop = 0, len(line.text)
    if stop > MATCH_CHARACTERS:
        first = max(0, ranges[0][0] - _LEAD_CHARACTERS)
        if first:  # at a space, if there is one
            first = line.text.find(" ", first, ranges[0][0]) + 1 or first
        stop = min(stop, max(first + MATCH_CHARACTERS, ranges[0][1]))
    before, after = "…" * (first > 0), "…" * (stop < len(line.text))
    shift = len(before) - first
    inside = tuple((one + shift, other + shift) for one, other in ranges if other <= stop)
    text = f"{before}{line.text[first:stop]}{after}"
    return Match(text, inside, line.speaker, line.start_seconds, line.at)


def _found(said: Sequence[str], term: Term, search: Search, document: Document) -> Iterator[int]:
    """Where in the words that were said the term begins."""
    others = (search.others or {}).get(document.language, {})
    if len(term.words) == 1 and not term.is_prefix:
        wanted = {term.words[0], *others.get(term.words[0], ())}
        yield from (at for at, word in enumerate(said) if word in wanted)
        return
    *whole, last = term.words
    for at in range(len(said) - len(whole)):
        final = said[at + len(whole)]
        if not (final.startswith(last) if term.is_prefix else final == last):
            continue
        if all(said[at + i] == word for i, word in enumerate(whole)):
            yield at


def with_others(
    search: Search, stems: Mapping[str, Mapping[str, str]], vocabulary: Iterable[str]
) -> Search:
    """The search with the words of a vocabulary that have the stem of a wanted one.

    Args:
        search: the search.
        stems: by language, the stem of each wanted word and of each of the vocabulary.
        vocabulary: the words that there are.
    """
    known: Collection[str] = set(vocabulary)
    others = {
        language: {
            word: frozenset(one for one in known if of[one] == of[word]) for word in search.stemmed
        }
        for language, of in stems.items()
    }
    return replace(search, others=others)
