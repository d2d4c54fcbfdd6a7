"""`model`: names, dates and ids, by their own rules."""

from __future__ import annotations

import time
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from earmark.model import (
    EXTENSIONS,
    LONGEST_SENT_BYTES,
    MAX_FILE_NAME_BYTES,
    MediaType,
    clean_file_name,
    extension,
    new_id,
    normalise_file_name,
    now,
    parse_interaction_date,
    stem,
)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("a.wav", "a.wav"),
        ("//a\\\\b/\\c.wav", "a/b/c.wav"),
        ("e\u0301.wav", "\u00e9.wav"),
        ("2022-03-18T21:52:26.wav", "2022-03-18T21:52:26.wav"),
        ("x" * 1020 + ".wav", "x" * 1020 + ".wav"),
        ("a.", "a."),
        ("a", "a"),
    ],
    ids=range(7),
)
def test_a_name_has_one_spelling(sent: str, stored: str) -> None:
    assert normalise_file_name(sent) == clean_file_name(sent) == stored


LONGEST_THAT_FITS = [
    "\u1fbe\u0308\u0301" * 510 + ".wav",  # the most that NFC is known to save: 7 bytes become 2
    "\u1112\u1161\u11ab" * 340 + ".wav",
    "//" * 100_000 + "a.wav",
]


@pytest.mark.parametrize("sent", LONGEST_THAT_FITS, ids=range(3))
def test_a_name_is_measured_as_it_is_stored(sent: str) -> None:
    assert len(normalise_file_name(sent).encode()) <= MAX_FILE_NAME_BYTES


def test_what_no_name_can_be_made_of_is_not_put_in_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take half a minute, for which everybody waits."""
    asked: list[int] = []

    def normalize(form: str, text: str) -> str:
        asked.append(len(text.encode()))
        return text

    standin = SimpleNamespace(normalize=normalize, category=unicodedata.category)
    monkeypatch.setattr("earmark.model.unicodedata", standin)
    for sent in ("\u0301" * 64_000 + "\u0316" * 64_000, "x" * (LONGEST_SENT_BYTES + 1)):
        with pytest.raises(ValueError, match="longer than"):
            normalise_file_name(sent)
        assert clean_file_name(sent) == sent
    assert not asked


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("", "nothing before its extension"),
        ("/", "nothing before its extension"),
        ("a/.wav", "nothing before its extension"),
        ("./a.wav", '"." or ".." segment'),
        ("a\\..\\b.wav", '"." or ".." segment'),
        ("\uff0e\uff0e/a.wav", '"." or ".." segment'),
        ("x\uff0f..\uff0fa.wav", '"." or ".." segment'),
        ("x\uff3c..\uff3ca.wav", '"." or ".." segment'),
        ("\u2025", '"." or ".." segment'),
        ("a\0.wav", "control character"),
        ("a\x9f.wav", "control character"),
        ("\ud800.wav", "surrogate"),
        ("x" * 1021 + ".wav", "longer than 1,024 bytes"),
    ],
    ids=range(13),
)
def test_an_unsafe_name_is_refused_with_its_reason(sent: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        normalise_file_name(sent)


@given(st.text())
def test_a_name_that_is_taken_is_safe_and_stays_as_it_is(sent: str) -> None:
    try:
        name = normalise_file_name(sent)
    except ValueError:
        return
    assert normalise_file_name(name) == name
    assert unicodedata.is_normalized("NFC", name)
    assert len(name.encode()) <= MAX_FILE_NAME_BYTES
    assert not name.startswith("/")
    assert "\\" not in name
    assert {"", ".", ".."}.isdisjoint(name.split("/")[:-1])


@pytest.mark.parametrize(
    ("name", "ending", "before"),
    [
        ("a.wav", ".wav", "a"),
        ("A.WAV", ".wav", "A"),
        ("a.b.Opus", ".opus", "a.b"),
        ("x.y/a", "", "a"),
        ("x.y/a.z", ".z", "a"),
        (".wav", ".wav", ""),
        ("a.", ".", "a"),
        ("a", "", "a"),
        ("", "", ""),
        ("x/", "", ""),
    ],
)
def test_a_name_has_an_extension_and_what_stands_before(
    name: str, ending: str, before: str
) -> None:
    assert (extension(name), stem(name)) == (ending, before)


def test_no_extension_is_of_both_media_types() -> None:
    assert EXTENSIONS[MediaType.AUDIO].isdisjoint(EXTENSIONS[MediaType.CHAT])


FIRST = datetime.fromisoformat("0001-01-02")
LAST = datetime.fromisoformat("9999-12-30")


@given(
    st.datetimes(min_value=FIRST, max_value=LAST),
    st.none() | st.integers(-840, 840),
    st.integers(0, 9),
)
def test_every_date_of_the_contract_is_read(
    local: datetime, offset: int | None, digits: int
) -> None:
    sent = local.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    fraction = f"{local.microsecond:06}999"[:digits]
    sent += f".{fraction}" if digits else ""
    if offset is not None:
        hours, minutes = divmod(abs(offset), 60)
        sent += f"{'-' if offset < 0 else '+'}{hours:02}:{minutes:02}"
    date = parse_interaction_date(sent)
    kept = local.replace(microsecond=int(fraction.ljust(6, "0")[:6] or 0) if digits else 0)
    zone = timezone(timedelta(minutes=offset or 0))
    assert date.instant == kept.replace(tzinfo=zone)
    assert date.instant.tzinfo is UTC
    assert (date.offset_minutes, date.sent) == (offset, sent)


@pytest.mark.parametrize("sent", ["2022-03-19", "2022-03-19T00:00:00", "2022-03-19T00:00:00Z"])
def test_a_day_begins_at_midnight_in_utc(sent: str) -> None:
    date = parse_interaction_date(sent)
    assert date.instant == datetime(2022, 3, 19, tzinfo=UTC)
    assert date.offset_minutes == (0 if sent.endswith("Z") else None)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ("2022-03-18T21:52", "Send a date like"),
        ("2022-03-18T21:52:26.1234567890", "Send a date like"),
        ("2022-W11-5", "Send a date like"),
        ("2022-02-30", "day is out of range"),
        ("2022-03-18T00:00:00+14:01", "offset lies outside"),
        ("2022-03-18T00:00:00-00:60", "offset lies outside"),
        ("9999-12-31T23:59:59-00:01", "outside the years"),
        ("0001-01-01T00:00:00+00:01", "outside the years"),
    ],
)
def test_any_other_date_is_refused_with_its_reason(sent: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_interaction_date(sent)


@given(st.text("0123456789-:.TZ+ W", max_size=36))
def test_what_is_read_is_what_was_sent(sent: str) -> None:
    try:
        date = parse_interaction_date(sent)
    except ValueError:
        return
    assume(date)
    assert date.sent == sent


def test_ids_are_version_7_and_in_order_of_time() -> None:
    first = new_id()
    time.sleep(0.002)
    second = new_id()
    assert (first.version, second.version) == (7, 7)
    assert first.variant == second.variant
    assert first < second
    assert len({new_id() for _ in range(1000)}) == 1000


def test_the_present_is_in_utc() -> None:
    assert now().tzinfo is UTC
