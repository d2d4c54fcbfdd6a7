"""The whole app in this process, driven as a server drives it: ASGI messages in and out."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa

from contract.forms import CONTENT_TYPE
from earmark.access import Access
from earmark.database import tables
from earmark.directory import Directory
from earmark.intake import Downloading, Intake, Limits
from earmark.interactions import Interactions
from earmark.model import Grant, Principal, Quota
from earmark.storage import open_store
from earmark.web import Heart
from shared_app import App

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from earmark.access import Rate
    from earmark.database import Database
    from earmark.directory import OrganizationDirectory
    from earmark.model import Interaction
    from earmark.storage import Store

MIBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """An answer as it stands; the names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Kept:
    """How much there is: interactions, published objects, files on their way in."""

    rows: int
    objects: int
    staged: int


class Service:
    """The app with its clients, and a look at what it keeps."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        rate: Rate | None = None,
        max_upload_bytes: int = 64 * MIBIBYTE,
        reserve_bytes: int = 0,
        idle_seconds: float = 20,
        store: Store | None = None,
        downloading: Downloading | None = None,
        quota: Quota | None = None,
    ) -> None:
        self.database = database
        self.folder = folder
        self.store = store or open_store(folder.as_uri())
        self.access = Access(
            database,
            secret_key=b"k" * 32,
            issuer="https://earmark.example",
            rate_limit=rate,
            quota=quota or Quota(),
        )
        self.interactions = Interactions(database, self.store)
        self.directory = Directory(database)
        self.pool = ThreadPoolExecutor(4)
        self.runner = asyncio.Runner()
        limits = Limits(max_upload_bytes, reserve_bytes, 8 * MIBIBYTE)
        self.intake = Intake(
            database,
            self.store,
            limits=limits,
            pool=self.pool,
            quota=self.access.quotas.of,
            downloading=downloading,
        )
        self.app = App(
            Heart(
                access=self.access,
                intake=self.intake,
                interactions=self.interactions,
                directory=self.directory,
                readiness=dict,
                upload_idle_seconds=idle_seconds,
            )
        )

    def close(self) -> None:
        self.runner.close()
        self.pool.shutdown()

    def caller(
        self, organization: str = "First", grants: Collection[Grant] = tuple(Grant)
    ) -> Caller:
        """A new client of an organization."""
        made = self.access.create_client(
            organization=organization, create_organization=True, name="Test", grants=grants
        )
        token = self.access.grant_token(made.client.id, made.secret).access_token
        principal = Principal(made.client.organization_id, made.client.id, made.client.grants)
        return Caller(self, principal, token)

    def kept(self) -> Kept:
        with self.database.read(None) as scope:
            count = sa.select(sa.func.count()).select_from(tables.interaction)
            row = scope.row(count)
        assert row is not None
        # Not glob: hundreds of times the 256 folders are looked into.
        shards = [shard.path for shard in os.scandir(self.folder / "objects")]
        objects = sum(map(len, map(os.listdir, shards)))
        return Kept(row[0], objects, sum(1 for _ in os.scandir(self.folder / "staging")))


class Caller:
    """A client with its token."""

    def __init__(self, service: Service, principal: Principal, token: str) -> None:
        self.service = service
        self.principal = principal
        self.token = token

    @property
    def directory(self) -> OrganizationDirectory:
        return self.service.directory.for_(self.principal)

    def upload(
        self, sent: bytes | Iterable[bytes], *, gone: bool = False, **headers: str
    ) -> Answer:
        """Sends a form, in the pieces given."""
        return self.service.runner.run(self.uploading(sent, gone=gone, **headers))

    async def uploading(
        self, sent: bytes | Iterable[bytes], *, gone: bool = False, **headers: str
    ) -> Answer:
        """As `upload`."""
        chunks = [sent] if isinstance(sent, bytes) else [*sent]
        given = {"content_type": CONTENT_TYPE, "authorization": f"Bearer {self.token}", **headers}
        if not gone:
            given.setdefault("content_length", str(sum(map(len, chunks))))
        return await exchange(
            self.service.app, "POST", "/Media/Upload", headers=given, chunks=chunks, gone=gone
        )

    def send(self, method: str, path: str, **headers: str) -> Answer:
        """A call without a body."""
        given = {"authorization": f"Bearer {self.token}", **headers}
        return self.service.runner.run(exchange(self.service.app, method, path, headers=given))

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A call whose body is JSON, or the bytes given."""
        chunks = [body if isinstance(body, bytes) else json.dumps(body).encode()]
        given = {
            "authorization": f"Bearer {self.token}",
            "content_type": "application/json",
            **headers,
        }
        return self.service.runner.run(
            exchange(self.service.app, method, path, headers=given, chunks=chunks)
        )

    def interaction(self, answer: Answer) -> Interaction:
        """What was kept of an upload that was accepted."""
        assert answer.status == 200, answer.text
        return self.service.interactions.for_(self.principal).get(UUID(answer.json["id"]))


async def exchange(
    app: Any,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str],
    chunks: Iterable[bytes] = (),
    gone: bool = False,
    idle: bool = False,
    address: str = "127.0.0.1",
) -> Answer:
    """One request and its answer, as the ASGI specification has it.

    Args:
        app: the ASGI app.
        method: in capitals.
        path: with a query, if there is one.
        headers: their names with `_` for `-`; a value that is "" is not sent.
        chunks: the body in pieces, which may have no end.
        gone: the caller leaves after the last piece, before the body's end.
        idle: the caller stays, but nothing more comes.
        address: of the caller.
    """
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.partition("?")[0],
        "raw_path": path.partition("?")[0].encode(),
        "query_string": path.partition("?")[2].encode(),
        "root_path": "",
        "headers": [
            (name.replace("_", "-").lower().encode(), value.encode("latin-1"))
            for name, value in headers.items()
            if value
        ],
        "client": (address, 50000),
        "server": ("earmark.example", 80),
    }
    end = {"type": "http.request", "body": b"", "more_body": False}
    ends = [{"type": "http.disconnect"}] if gone else [] if idle else [end]
    coming = itertools.chain(
        ({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks), ends
    )
    sent: list[Any] = []

    async def receive() -> Any:
        message = next(coming, None)
        # A caller who stays says no more until it has its answer.
        await asyncio.sleep(60 if message is None and not gone else 0)
        return message or {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *bodies = sent
    return Answer(
        start["status"],
        {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in bodies),
    )
