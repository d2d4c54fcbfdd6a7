"""WhatsApp's "Export chat": the texts of iPhones and of Android.

There is no specification; the forms are those seen in exports of both, in English and Spanish.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from typing_extensions import override

from earmark.chat import ChatFormat
from earmark.chat.log import clean, sender
from earmark.model.transcript import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from earmark.chat.log import Log

    Date = tuple[int, int, int]
    Order = Callable[[Date], Date]

_DATE = r"(\d{1,4})[./-](\d{1,2})[./-](\d{1,4})"
_TIME = r"(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?(?: ?([ap])\.? ?m\.?)?"
_LINE = re.compile(
    rf"(?!\[?\d{{4}}-\d\d-\d\d )(?:\[{_DATE},? {_TIME}\] |{_DATE},? {_TIME} [-\u2013] )(.*)",
    re.IGNORECASE,
)
"""The date of ISO 8601 without a comma is that of plain text."""

_NAME = re.compile(r"([^:\n]{1,256}): ?(.*)", re.DOTALL)

_MARK = "\u200e"
"""Left-to-right mark; iPhones put it before what the app and not the sender wrote."""

_ATTACHED = re.compile(
    r"<(?:attached|adjunto): ([^>\n]{1,255})>"
    r"|^(\S[^\n]{0,254}?) \((?:file attached|archivo adjunto)\)",
    re.MULTILINE,
)
"""Bounded as names of files are, or a long line would be gone through from each of its letters."""
_OMITTED = re.compile(
    r"<(?:media omitted|multimedia omitido)>"
    r"|(?:image|video|audio|sticker|GIF|document|contact card) omitted"
    r"|(?:imagen|video|audio|sticker|GIF|documento) omitid[oa]",
    re.IGNORECASE,
)
_NOTICE = re.compile(r"(?:messages and calls|los mensajes y las llamadas)\b.*", re.IGNORECASE)

_CENTURY = 2000
_MONTHS = 12
_YEAR_DIGITS = 100


class WhatsApp(ChatFormat):
    """See ChatFormat. Lines without a sender are the app's own and no messages."""

    name = "whatsapp"
    title = "WhatsApp exports"

    @override
    def knows(self, log: Log) -> bool:
        """See ChatFormat.knows."""
        first = next((line for line in log.lines if line.strip()), "")
        return _LINE.fullmatch(_plain(first)) is not None

    @override
    def read(self, log: Log) -> Sequence[Segment]:
        """See ChatFormat.read."""
        entries = list(_entries(log.lines))
        order = _order([date for date, _, _ in entries], log.locale)
        return [
            one for date, time, text in entries if (one := _message(log, order(date), time, text))
        ]


def _plain(line: str) -> str:
    """The line with usual spaces, and without the marks before its bracket."""
    return re.sub("[\u00a0\u202f]", " ", line.lstrip("\u200e\u200f\u202a\u202b\ufeff"))


def _entries(lines: Sequence[str]) -> Iterator[tuple[Date, tuple[int, int, int], str]]:
    """Date as it stands, time, and the rest with the lines that follow it."""
    entry: tuple[Date, tuple[int, int, int]] | None = None
    text: list[str] = []
    for line in lines:
        match = _LINE.fullmatch(_plain(line))
        if match is None:
            text.append(line)
            continue
        if entry:
            yield *entry, "\n".join(text)
        found = match.groups()
        date, time = (found[0:3], found[3:7]) if found[0] else (found[7:10], found[10:14])
        entry = (int(date[0]), int(date[1]), int(date[2])), _clock(*time)
        text = [found[14]]
    if entry:
        yield *entry, "\n".join(text)


def _clock(hour: str, minute: str, second: str | None, half: str | None) -> tuple[int, int, int]:
    hours = int(hour)
    if half:
        hours = hours % 12 + (12 if half in "pP" else 0)
    return hours, int(minute), int(second or 0)


def _year_first(date: Date) -> Date:
    return date


def _day_first(date: Date) -> Date:
    return _full(date[2]), date[1], date[0]


def _month_first(date: Date) -> Date:
    return _full(date[2]), date[0], date[1]


def _full(year: int) -> int:
    return year + _CENTURY if year < _YEAR_DIGITS else year


def _order(dates: Sequence[Date], locale: str) -> Order:
    """How the dates of a file are meant: one order for all of them.

    A number beyond twelve is no month. Where none is, the order in which time never runs
    backwards is meant; where both or neither do, the locale's.
    """
    if any(date[0] >= _YEAR_DIGITS for date in dates):
        return _year_first
    usual = _month_first if locale.endswith("-US") else _day_first
    orders = [usual, _day_first if usual is _month_first else _month_first]
    possible = [
        order for order in orders if all(order(date)[1] <= _MONTHS for date in dates)
    ] or orders
    forward = [order for order in possible if _runs_forward([order(date) for date in dates])]
    return (forward or possible)[0]


def _runs_forward(dates: Sequence[Date]) -> bool:
    return all(earlier <= later for earlier, later in pairwise(dates))


def _message(log: Log, date: Date, time: tuple[int, int, int], text: str) -> Segment | None:
    named = _NAME.fullmatch(text)
    if named is None:
        return None
    name, said = sender(named[1]), named[2]
    if name is None or (said.startswith(_MARK) and _NOTICE.fullmatch(said[1:])):
        return None
    try:
        at = log.local(datetime(*date, *time, tzinfo=UTC))
    except ValueError:  # there is no such day or time
        at = None
    return Segment(clean(_told(said)), at=at, name=name)


def _told(said: str) -> str:
    said = said.replace(_MARK, "").strip("\n ")
    said = _ATTACHED.sub(lambda match: f"[Attachment: {sender(match[1] or match[2])}]", said)
    return "[Attachment left out]" if _OMITTED.fullmatch(said) else said
