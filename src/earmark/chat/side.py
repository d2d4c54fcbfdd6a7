"""Side files of a chat log: metadata as JSON, XML or CSV. Runs in the sandbox's child only."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from earmark.chat.log import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_BYTES = 1 << 20
"""Of one side file."""

MAX_METADATA_BYTES = 256 << 10
"""Of the metadata of all side files, as JSON: as much as an upload may say."""

MAX_LEVELS = 16
"""As in the metadata of an upload."""


def parse(kind: str, text: str) -> dict[str, Any]:
    """The metadata of a side file: JSON values by key, which databases can keep.

    Args:
        kind: "json", "xml" or "csv".
        text: of the file.

    Raises:
        ValueError: it cannot be read; the message says why, in words for a person.
    """
    found = _PARSERS[kind](text)
    if _levels(found) > MAX_LEVELS:
        raise ValueError(f"more than {MAX_LEVELS} levels")
    cleaned: dict[str, Any] = _cleaned(found)
    return cleaned


def size_bytes(metadata: Mapping[str, Any]) -> int:
    """How much metadata is, as JSON."""
    return len(json.dumps(metadata, ensure_ascii=False).encode())


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - the caller knows no other
    return found


def _refuse(constant: str) -> float:
    raise ValueError(constant)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(digits)
    return number


def _csv(text: str) -> dict[str, Any]:
    """Rows of key and value; a first row that says `key,value` is a heading."""
    try:
        rows = [row for row in csv.reader(text.splitlines(), strict=True) if row]
    except csv.Error as error:
        raise ValueError("not CSV") from error
    if any(len(row) != 2 for row in rows):  # noqa: PLR2004 - a key and its value
        raise ValueError("not rows of key,value")
    if rows and [cell.strip().casefold() for cell in rows[0]] == ["key", "value"]:
        rows = rows[1:]
    return {key.strip(): value.strip() for key, value in rows if key.strip()}


class _Xml:
    """Elements as they come, each a list of its attributes, its text and its children.

    Safe by what it does not take: a document type, and with it every entity beside the five of
    XML itself, ends the reading before anything is expanded or fetched.
    """

    def __init__(self) -> None:
        self.root: _Element | None = None
        self._open: list[_Element] = []
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text

    def parse(self, text: str) -> _Element:
        # It was told this encoding, so that the text's own declaration does not count.
        self._parser.Parse(text.encode(errors="replace"), True)
        assert self.root is not None  # noqa: S101 - the parser demands one
        return self.root

    def _doctype(self, *_: object) -> None:
        raise ValueError("XML with a document type, which is not taken")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= MAX_LEVELS:
            raise ValueError(f"more than {MAX_LEVELS} levels")
        element = _Element(tag, attributes)
        if self._open:
            self._open[-1].children.append(element)
        self.root = self.root or element
        self._open.append(element)

    def _end(self, _tag: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        self._open[-1].text += text


class _Element:
    def __init__(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.key = attributes.get("key") or attributes.get("name") or tag.rpartition(":")[2]
        self.text = attributes.get("value", "")
        self.children: list[_Element] = []

    def value(self) -> Any:
        """Its text; of one with children an object, in which what comes twice is a list."""
        if not self.children:
            return self.text.strip()
        found: dict[str, Any] = {}
        for child in self.children:
            found.setdefault(child.key, []).append(child.value())
        return {key: values[0] if len(values) == 1 else values for key, values in found.items()}


def _xml(text: str) -> dict[str, Any]:
    try:
        root = _Xml().parse(text)
    except expat.ExpatError as error:
        raise ValueError("not XML") from error
    found = root.value()
    if not isinstance(found, dict):
        raise ValueError("XML without elements")  # noqa: TRY004 - as above
    return found


_PARSERS = {"json": _json, "xml": _xml, "csv": _csv}


def _levels(value: Any) -> int:
    """How deep objects and arrays lie in each other; found without going down any stack."""
    levels, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        levels += 1
        level = [child for one in level for child in _children(one)]
    return levels


def _children(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(one) for key, one in value.items()}
    return value
