"""The whole app over an empty database, in this process, and clients of its organizations.

Intake and interactions are not in it: calls that need them have their own tests.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import httpx

from earmark.access import Access
from earmark.directory import Directory
from earmark.model import Grant
from earmark.web import Heart
from shared_app import App

if TYPE_CHECKING:
    from collections.abc import Collection

    from earmark.database import Database
    from earmark.model import Client


class Caller:
    """An API client of one organization; sends to the app and gives the answer as it stands."""

    def __init__(self, app: App, client: Client, token: str) -> None:
        self.app = app
        self.client = client
        self.headers = {"Authorization": f"Bearer {token}"}

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**self.headers, **options.pop("headers", {})}

        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return await http.request(method, path, headers=headers, **options)

        return asyncio.run(go())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.send("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.send("POST", path, content=_text(body), **options)

    def put(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.send("PUT", path, content=_text(body), **options)


class Served:
    """The app and its clients."""

    def __init__(self, database: Database) -> None:
        self.access = Access(database, secret_key=b"k" * 32, issuer="https://earmark.example")
        absent = cast("Any", None)
        self.app = App(
            Heart(self.access, absent, absent, Directory(database), dict, upload_idle_seconds=1)
        )

    def caller(self, organization: str, grants: Collection[Grant] = tuple(Grant)) -> Caller:
        made = self.access.create_client(
            organization=organization, create_organization=True, name="Test", grants=grants
        )
        token = self.access.grant_token(made.client.id, made.secret)
        return Caller(self.app, made.client, token.access_token)


def _text(body: Any) -> str | bytes:
    return body if isinstance(body, str | bytes) else json.dumps(body)
