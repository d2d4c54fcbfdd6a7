"""The error pages, written as HTML: one for each code, and a list of all.

They need no script. All text is escaped; the docs' backquotes become code, their links text.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from earmark.web.reference.bodies import bodies, varies
from earmark.web.reference.codes import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from earmark.web.reference.codes import Meaning

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · Earmark API</title>
<link rel="icon" href="/docs/assets/icon.svg">
<link rel="stylesheet" href="/docs/assets/style.css">
</head>
<body class="text">
<header><p><a href="/docs">Earmark API</a> · <a href="/docs/errors">All errors</a></p></header>
<main>
{content}
</main>
</body>
</html>
"""

_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_CODE = re.compile(r"`([^`]+)`")


def error_page(meanings: Sequence[Meaning]) -> str:
    """The page of one code, with all that it can mean."""
    code = meanings[0].code
    content = f"<h1><code>{escape(code)}</code></h1>\n" + "".join(map(_section, meanings))
    return _PAGE.format(title=escape(code), content=content)


def error_list(known: Mapping[str, Sequence[Meaning]]) -> str:
    """Every code, by what it is told of."""
    by_kind: dict[str, list[Meaning]] = {}
    for meaning in (one for several in known.values() for one in several):
        by_kind.setdefault(meaning.kind.value, []).append(meaning)
    tables = "".join(_table(kind, several) for kind, several in by_kind.items())
    lead = "<p>Programs read the code, people the sentence. Each code has a page.</p>\n"
    return _PAGE.format(title="Errors", content=f"<h1>Errors</h1>\n{lead}{tables}")


def _section(meaning: Meaning) -> str:
    told = f"{meaning.kind.value}, status {meaning.status}" if meaning.status else meaning.kind
    notes = "".join(f"<dt>{escape(k)}</dt><dd>{_inline(v)}</dd>" for k, v in meaning.notes.items())
    forms = "".join(
        f"<h3>{escape(body.asked)}</h3>\n{_pre(body.head, 'head')}{_pre(body.text, 'body')}"
        for body in bodies(meaning)
    )
    return (
        f'<section>\n<p class="kind">{escape(told)}</p>\n<dl>'
        f"<dt>Cause</dt><dd>{_inline(meaning.cause)}</dd>"
        f"<dt>Mend</dt><dd>{_inline(meaning.mend)}</dd>{notes}</dl>\n"
        f"<h2>How it is told</h2>\n{_varies(meaning)}{forms}</section>\n"
    )


def _varies(meaning: Meaning) -> str:
    """What a reader must not take for fixed."""
    always = "the attempts and the times" if meaning.kind is Kind.STEP else ""
    told = "; ".join(part for part in (varies(meaning), always) if part)
    if not told:
        return '<p class="varies">The body is always this one.</p>\n'
    return f'<p class="varies">A whole answer, as it was sent. What varies: {_inline(told)}.</p>\n'


def _pre(text: str, kind: str) -> str:
    return f'<pre tabindex="0" class="{kind}"><code>{escape(text)}</code></pre>\n' if text else ""


def _table(kind: str, meanings: Iterable[Meaning]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><a href="/docs/errors/{escape(meaning.code)}">'
        f"<code>{escape(meaning.code)}</code></a></th>"
        f"<td>{escape(meaning.status)}</td><td>{_inline(meaning.cause)}</td></tr>\n"
        for meaning in meanings
    )
    head = (
        '<tr><th scope="col">Code</th><th scope="col">Status</th><th scope="col">Cause</th></tr>'
    )
    table = f"<table>\n<thead>{head}</thead>\n<tbody>{rows}</tbody>\n</table>"
    return f'<h2>{escape(kind)}</h2>\n<div class="wide" tabindex="0">{table}</div>\n'


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(_LINK.sub(r"\1", text)))
