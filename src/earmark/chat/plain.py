"""Plain text: `Name: text` on each line, with a time before it or without."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from typing_extensions import override

from earmark.chat import ChatFormat
from earmark.chat.log import clean, sender
from earmark.chat.people import side_of
from earmark.model.transcript import Segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from earmark.chat.log import Log

_TIME = (
    r"(?:(?P<date>\d{4}-\d\d-\d\d)[T ])?(?P<clock>\d\d?:\d\d(?::\d\d(?:\.\d{1,6})?)?)"
    r"(?P<zone>Z|[+-]\d\d:\d\d)?"
)
_LINE = re.compile(
    rf"(?:\[?{_TIME}\]?[ \t]+(?:[-\u2013][ \t]+)?)?"
    r"(?P<name>[^\W\d_][^:\[\]{}<>\"=/\\]{0,63}):(?:[ \t]+(?P<text>.*))?"
)

_SLACK = timedelta(hours=1)
"""How far clocks may run backwards before that means another day: messages cross on their way."""

_DAY = timedelta(days=1)


class Plain(ChatFormat):
    """See ChatFormat. The last to be asked, since it knows much.

    A line that names nobody goes on with the message before it. Where the first line tells its
    time, a line that does not is such a line, too.
    """

    name = "plain"
    title = "lines of `Name: text`"

    @override
    def knows(self, log: Log) -> bool:
        """See ChatFormat.knows."""
        first = next((line for line in log.lines if line.strip()), "")
        return log.document is None and _LINE.fullmatch(first.strip()) is not None

    @override
    def read(self, log: Log) -> Sequence[Segment]:
        """See ChatFormat.read."""
        found: list[Segment] = []
        clock = _Clock(log)
        for match, text in _entries(log.lines):
            name = sender(match["name"])
            said = clean(text.strip())
            at = clock.instant(match)
            if said and name:
                found.append(Segment(said, side_of(name), at=at, name=name))
        return found


def _entries(lines: Sequence[str]) -> Iterator[tuple[re.Match[str], str]]:
    entry: re.Match[str] | None = None
    text: list[str] = []
    timed: bool | None = None
    for line in lines:
        match = _LINE.fullmatch(line.strip())
        if match is None or (timed and not match["clock"]):
            text.append(line.rstrip())
            continue
        if entry:
            yield entry, "\n".join(text)
        entry, text = match, [match["text"] or ""]
        timed = bool(match["clock"]) if timed is None else timed
    if entry:
        yield entry, "\n".join(text)


class _Clock:
    """Reads the times of a log one after the other; past midnight the next day begins."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._last: datetime | None = None

    def instant(self, match: re.Match[str]) -> datetime | None:
        """When the message was sent; None where line and interaction tell no day."""
        if not match["clock"]:
            return None
        date, zone = match["date"], match["zone"] or ""
        hour, rest = match["clock"].split(":", 1)
        rest = rest if ":" in rest else f"{rest}:00"
        day = date or self._log.day
        at = self._log.instant(f"{day}T{int(hour):02}:{rest}{zone}")  # no day is no date
        if at and not date:
            at = self._after_midnight(at)
        return at

    def _after_midnight(self, at: datetime) -> datetime:
        if self._last is not None:
            while self._last - at > _SLACK:
                at += _DAY
        self._last = at
        return at
