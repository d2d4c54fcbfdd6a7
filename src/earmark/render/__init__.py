"""Conversations in the forms in which people take them away. Pure functions, from facts to bytes.

A form of transcripts is one file here and one line in `FORMATS`. `vcon` is no such form: it tells
a whole interaction, its media included.
"""

from __future__ import annotations

from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from earmark.model.transcript import Transcript

FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "json": "earmark.render.json:Json",
        "vtt": "earmark.render.vtt:WebVtt",
        "srt": "earmark.render.srt:SubRip",
        "txt": "earmark.render.text:Text",
    }
)
"""By extension, the first being the usual one: "module:class", resolved on use."""


class Format(Protocol):
    """A form of transcripts.

    Attributes:
        content_type: its media type, with the charset where it has one.
    """

    content_type: str

    def render(self, transcript: Transcript) -> bytes:
        """The transcript in this form. Any transcript can be said in it, an empty one too."""


def format_named(extension: str) -> Format:
    """The form of that extension.

    Raises:
        KeyError: there is none.
    """
    found: type[Format] = resolve_name(FORMATS[extension])
    return found()
