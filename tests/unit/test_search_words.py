"""What a word is, how queries are read, and which lines are shown."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark.database.search_index import decoded, encoded
from earmark.model import search
from earmark.model.search import (
    Search,
    Term,
    document_of,
    holds,
    index_keys,
    keys_of,
    matches,
    parse_search,
    placed_words,
    words,
)
from earmark.model.transcript import Segment, Speaker, Transcript
from saying import transcript


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, WORLD!", ["hello", "world"]),
        ("José llamó a Müller y Zoë", ["jose", "llamo", "a", "muller", "y", "zoe"]),
        ("Jose\u0301", ["jose"]),
        ("año ANO mañana", ["ano", "ano", "manana"]),
        ("don't don\u2019t don\u02bct 'quoted'", ["dont", "dont", "dont", "quoted"]),
        ("e-mail check-in", ["e", "mail", "check", "in"]),
        ("2,500.00 555-1234 3pm", ["2", "500", "00", "555", "1234", "3pm"]),
        ("ﬁnance ① ½ \uff11\uff12", ["finance", "1", "1", "2", "12"]),
        ("Straße İstanbul", ["strasse", "istanbul"]),
        ("snake_case a/b", ["snake", "case", "a", "b"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]),
        ("你好 世界", ["你", "好", "世", "界"]),
        ("カタカナ", ["カ", "タ", "カ", "ナ"]),
        ("😀 👩‍👩‍👧 !? \0 \ud800", []),
        ("Привет Ёлка", ["привет", "елка"]),
        ("x" * 100, ["x" * 64]),
        ("", []),
    ],
)
def test_words_are_without_case_accents_and_signs(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text())
def test_any_text_has_words_and_each_stands_where_it_is_said_to_stand(text: str) -> None:
    placed = list(placed_words(text))
    assert [word for word, _, _ in placed] == words(text)
    end = 0
    for word, start, stop in placed:
        assert end <= start < stop <= len(text) or start == end - 1
        end = stop
        assert word in words(text[start:stop])


@given(st.text(st.characters(max_codepoint=0x24F)))
def test_words_do_not_depend_on_how_accents_are_coded(text: str) -> None:
    import unicodedata

    assert words(unicodedata.normalize("NFC", text)) == words(unicodedata.normalize("NFD", text))


@given(st.text())
def test_words_of_words_are_the_same(text: str) -> None:
    assert words(" ".join(words(text))) == words(text)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("refund", [Term(("refund",))]),
        ("Refund, PLEASE!", [Term(("refund",)), Term(("please",))]),
        ('"Good morning" sir', [Term(("good", "morning")), Term(("sir",))]),
        ("“good morning” «buenos días»", [Term(("good", "morning")), Term(("buenos", "dias"))]),
        ("cancel*", [Term(("cancel",), is_prefix=True)]),
        ('"to cancel* "', [Term(("to", "cancel"), is_prefix=True)]),
        ("e-mai*", [Term(("e", "mai"), is_prefix=True)]),
        ("don't", [Term(("dont",))]),
        ("well - ok -- … 😀", [Term(("well",)), Term(("ok",))]),
        ("a OR b", [Term(("a",)), Term(("or",)), Term(("b",))]),
        ("twice twice", [Term(("twice",))]),
        ("你好", [Term(("你", "好"))]),
        ('say"hi there"', [Term(("say",)), Term(("hi", "there"))]),
    ],
)
def test_a_query_is_words_phrases_and_beginnings(sent: str, expected: list[Term]) -> None:
    assert parse_search(sent) == Search(tuple(expected))


@given(st.text(max_size=60) | st.text('"*-ab ', max_size=30))
def test_any_query_is_read_or_refused_with_a_sentence(sent: str) -> None:
    try:
        found = parse_search(sent)
    except ValueError as error:
        mend = str(error)
    else:
        mend = "."
        assert all(term.words for term in found.terms)
    assert mend.endswith(".")


WORD = st.sampled_from(["a", "ab", "abc", "abcd", "b", "ba", "bad"])


@given(
    lines=st.lists(st.lists(WORD, max_size=6).map(" ".join), max_size=4),
    said=st.lists(WORD, min_size=1, max_size=3),
    is_prefix=st.booleans(),
    apart=st.booleans(),
)
def test_what_holds_a_term_has_all_its_keys_and_a_line_to_show(
    lines: list[str], said: list[str], is_prefix: bool, apart: bool
) -> None:
    document = document_of(transcript(*lines, apart=apart))
    term = Term(tuple(said), is_prefix=is_prefix)
    asked = Search((term,))
    keys, beginning = keys_of(term)
    present = index_keys(document)
    assert bool(matches(document, asked)) == holds(document, asked)
    if holds(document, asked):
        assert set(keys) <= present
        assert any(key.startswith(beginning) for key in present)
    elif len(said) == 1:
        has_beginning = beginning and any(key.startswith(beginning) for key in present)
        assert not (set(keys) <= present and (has_beginning or not beginning))


def test_few_lines_are_shown_and_one_of_each_term_among_them() -> None:
    said = [f"yes number {i}" for i in range(9)] + ["no"]
    found = matches(document_of(transcript(*said)), parse_search("yes no"))
    assert [match.text for match in found] == [*said[:4], "no"]
    alone = matches(document_of(transcript(*said, apart=False)), parse_search("yes"))
    assert [match.text for match in alone] == said[:5]


def test_of_a_long_line_the_part_around_the_first_hit_is_shown() -> None:
    text = "before " * 50 + "the Needle and a needle " + "after " * 50
    (match,) = matches(document_of(transcript(text)), parse_search("needle"))
    assert len(match.text) < search.MATCH_CHARACTERS + 20
    assert match.text[0] == match.text[-1] == "…"
    assert match.text[1:7] == "before"
    assert [match.text[start:stop] for start, stop in match.ranges] == ["Needle", "needle"]
    (match,) = matches(document_of(transcript("x" * 60 + "," + "y" * 200)), parse_search("y*"))
    assert match.ranges[0][1] <= len(match.text)
    unbroken = "z," * 100 + "needle"
    (match,) = matches(document_of(transcript(unbroken)), parse_search("needle"))
    assert [match.text[start:stop] for start, stop in match.ranges] == ["needle"]


def test_a_document_is_kept_whole() -> None:
    at = datetime(2024, 1, 2, tzinfo=UTC)
    said = Transcript(
        (
            Segment("Hi.", Speaker.AGENT, 0.5, 1.0, channel=0),
            Segment("there", Speaker.AGENT, 1.5, 2.0, channel=0),
            Segment("ñ 😀", Speaker.BOT, at=at, name="Bot"),
            Segment("again", Speaker.BOT, at=at, name="Bot"),
        ),
        "es",
    )
    document = document_of(said)
    assert [line.goes_on for line in document.lines] == [False, True, False, False]
    assert decoded(encoded(document)) == document
    half = document_of(transcript("half \ud800 pair"))
    assert decoded(encoded(half)).lines[0].text == "half ? pair"


def test_a_transcript_without_words_is_no_trouble() -> None:
    for said in (transcript(), transcript(""), transcript("…", "!")):
        assert index_keys(document_of(said)) == set()
        assert not holds(document_of(said), parse_search("word"))
        assert matches(document_of(said), parse_search("word")) == ()
