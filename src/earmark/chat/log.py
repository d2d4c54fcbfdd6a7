"""One log of a chat archive as chat formats see it, and what they read times and names with."""

from __future__ import annotations

import codecs
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from earmark.model import parse_interaction_date, storable

if TYPE_CHECKING:
    from datetime import date

MAX_NAME_CHARACTERS = 256

_NEW_LINE = re.compile(r"\r\n|\r|\n")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_MARKS = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Marks of direction and width, which programs put around names."""


class Log:
    """The text of a log, and what is known beside it.

    Attributes:
        name: of the file, within the archive.
        text: all of it.
        locale: of the interaction, like "en-US".
    """

    def __init__(
        self,
        name: str,
        text: str,
        *,
        locale: str = "en-US",
        zone_minutes: int = 0,
        instant: datetime | None = None,
    ) -> None:
        """Keeps what it is given.

        Args:
            name: of the file.
            text: of the log.
            locale: of the interaction.
            zone_minutes: east of UTC, of times without an offset.
            instant: of the interaction: the day of times without a date.
        """
        self.name = name
        self.text = text
        self.locale = locale
        self._zone = timezone(timedelta(minutes=zone_minutes))
        self._instant = instant

    @cached_property
    def lines(self) -> list[str]:
        """Its lines, without their ends."""
        return _NEW_LINE.split(self.text)

    @cached_property
    def document(self) -> Any:
        """What it holds as one JSON document; None if it is none."""
        return _json(self.text)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Its JSON objects, of one array or one on each line; none if it holds anything else."""
        found = self.document
        if found is None and self.text.lstrip().startswith("{"):
            found = [_json(line) for line in self.lines if line.strip()]
        if isinstance(found, list) and all(isinstance(one, dict) for one in found):
            return found
        return []

    @property
    def day(self) -> date | None:
        """On which the interaction began, where it did."""
        return self._instant.astimezone(self._zone).date() if self._instant else None

    def instant(self, sent: object) -> datetime | None:
        """The instant that an ISO 8601 text means, in UTC; None of anything else."""
        if not isinstance(sent, str):
            return None
        try:
            told = parse_interaction_date(sent.strip().replace(" ", "T", 1))
        except ValueError:
            return None
        if told.offset_minutes is not None:
            return told.instant
        return self.local(told.instant)

    def local(self, moment: datetime) -> datetime | None:
        """The instant at which clocks of the interaction show what those of UTC show at a moment.

        None beyond all years.
        """
        try:
            return moment.replace(tzinfo=self._zone).astimezone(UTC)
        except OverflowError:
            return None


def decode(data: bytes) -> str:
    """The text of a log or side file.

    Raises:
        ValueError: it is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise ValueError("UTF-32")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    text = data.decode("utf-8-sig")
    if "\0" in text:  # no text has it, and UTF-16 without a mark is full of it
        raise ValueError("NUL")
    return text


def clean(text: str) -> str:
    """The text, what databases cannot keep replaced."""
    return text if storable(text) else _UNSTORABLE.sub("\ufffd", text)


def sender(name: object) -> str | None:
    """What a log calls a sender, on one line and of bounded length; None if nothing is left."""
    if not isinstance(name, str):
        return None
    plain = " ".join(_MARKS.sub("", clean(name)).split())
    return plain[:MAX_NAME_CHARACTERS] or None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
