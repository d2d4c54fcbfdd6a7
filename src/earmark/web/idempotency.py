"""The `Idempotency-Key` of a request.

Source: draft-ietf-httpapi-idempotency-key-header-07, which has a String of RFC 9651 in quotation
marks. Most clients in use send the key bare, so that is taken too: `"a"` and `a` are one key.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from earmark.errors import Fault, RefusedError, Why

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = "Idempotency-Key"
MAX_CHARACTERS = 255
"""Each is one byte."""

_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*+)"', re.ASCII)
"""A String. Source: RFC 9651 section 3.3.3."""

_ESCAPED = re.compile(r"\\(.)")

_BARE = re.compile(r"[!#-+\--:<-\[\]-~]*+", re.ASCII)
"""What is visible, without what separates or quotes: `"`, `,`, `;` and the backslash."""


def key_of(sent: Sequence[str]) -> str | None:
    """The key of a request, as text without its quotation marks; None if it has none.

    Args:
        sent: the value of each field of that name.

    Raises:
        RefusedError: it is malformed, empty, too long, or comes twice. The key is not repeated.
    """
    if not sent:
        return None
    if len(sent) > 1:
        raise _malformed("The header comes twice.")
    text = sent[0].strip(" \t")
    quoted = _QUOTED.fullmatch(text)
    if quoted is None and _BARE.fullmatch(text) is None:
        raise _malformed("Write visible ASCII in quotation marks, without anything behind them.")
    key = text if quoted is None else _ESCAPED.sub(r"\1", quoted[1])
    if not key:
        raise _malformed("The key is empty.")
    if len(key) > MAX_CHARACTERS:
        raise _malformed(f"The key is longer than {MAX_CHARACTERS} characters.")
    return key


def _malformed(detail: str) -> RefusedError:
    return RefusedError([Fault(Why.KEY_MALFORMED, HEADER, detail)])
