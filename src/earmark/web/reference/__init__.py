"""The API reference at `/docs`: a page over the served OpenAPI, and a page for each error code.

Files are read once, when the routes are made, and served from memory: no path of a caller's ever
reaches the disk. Nothing here needs a token, and nothing is told here that is not in the docs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from earmark.errors import NotFoundError
from earmark.web.reference.codes import meanings
from earmark.web.reference.pages import error_list, error_page

if TYPE_CHECKING:
    from collections.abc import Mapping

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
"""Only our own files run, and nothing is asked of another host. Source: CSP Level 3."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}


def router() -> APIRouter:
    """The routes of this module; the served OpenAPI leaves them out."""
    made = APIRouter(prefix="/docs", include_in_schema=False)
    page = {
        item.name: _File(item.name, item.read_bytes())
        for item in files(__package__).joinpath("page").iterdir()
    }
    known = meanings()
    told = {code: [asdict(one) for one in several] for code, several in known.items()}
    page["errors.json"] = _File("errors.json", json.dumps(told).encode())
    errors = {code: _html(error_page(several)) for code, several in known.items()}
    listed = _html(error_list(known))
    _add_page(made, page)
    _add_errors(made, listed, errors)
    return made


def _add_page(made: APIRouter, page: Mapping[str, _File]) -> None:
    @made.get("")
    async def reference(request: Request) -> Response:
        return page["index.html"].answer(request)

    @made.get("/assets/{name}")
    async def reference_file(name: str, request: Request) -> Response:
        return _of(page, name).answer(request)


def _add_errors(made: APIRouter, listed: _File, errors: Mapping[str, _File]) -> None:
    @made.get("/errors")
    async def reference_errors(request: Request) -> Response:
        return listed.answer(request)

    @made.get("/errors/{code}")
    async def reference_error(code: str, request: Request) -> Response:
        return _of(errors, code).answer(request)


def _of(known: Mapping[str, _File], name: str) -> _File:
    if name not in known:
        raise NotFoundError
    return known[name]


def _html(text: str) -> _File:
    return _File("page.html", text.encode())


class _File:
    """A file in memory."""

    def __init__(self, name: str, content: bytes) -> None:
        self._content = content
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._type = _TYPES[name.rpartition(".")[2]]

    def answer(self, request: Request) -> Response:
        """All of it, or 304 if the caller has it."""
        headers = {**_HEADERS, "ETag": self._tag}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._type)
