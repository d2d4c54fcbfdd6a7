"""Receives uploads and keeps them as durably as Earmark, and does nothing else with them.

What no service of this kind can leave out, on the same server and in the cheapest order that is
known: the body as one piece, SHA-256, a file and its folder synced, a row in SQLite with
synchronous=FULL. Whatever has come when the one thread that does this is free goes together: all
files first, then all rows in one transaction. No form, no token, no judgement, no audit, no log.

So no service in Python can take 100 KB in for less; what `naive` takes over this is the most by
which anything can be faster than it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import queue
import sqlite3
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

TABLE = "CREATE TABLE upload (id TEXT PRIMARY KEY, sha256 BLOB, size INTEGER)"
Waiting = tuple[bytes, asyncio.Future[str]]


class Keeper:
    """One thread that keeps what waits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def keep(self, body: bytes) -> asyncio.Future[str]:
        """Its id, once it is durable."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.put((body, future))
        return future

    def _run(self) -> None:
        database = sqlite3.connect(self._folder / "bare.sqlite3", isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(TABLE)
        while True:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            rows = [self._write(body) for body, _ in batch]
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO upload VALUES (?, ?, ?)", rows)
            database.execute("COMMIT")
            futures = [future for _, future in batch]
            futures[0].get_loop().call_soon_threadsafe(_tell, futures, rows)

    def _write(self, body: bytes) -> tuple[str, bytes, int]:
        id_ = str(uuid.uuid4())
        place = self._folder / id_
        file = os.open(f"{place}.new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        os.write(file, body)
        os.fsync(file)
        os.close(file)
        os.rename(f"{place}.new", place)  # noqa: PTH104 - as the service itself
        return id_, hashlib.sha256(body).digest(), len(body)


def _tell(futures: list[asyncio.Future[str]], rows: list[tuple[str, bytes, int]]) -> None:
    for future, (id_, _, _) in zip(futures, rows, strict=True):
        future.set_result(id_)


def serve(port: int, folder: Path) -> None:
    """Serves it."""
    folder.mkdir(parents=True, exist_ok=True)
    keeper = Keeper(folder)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message.get("body", b""))
            more = message.get("more_body", False)
        answer = b'{"id":""}'
        if scope["method"] == "POST":
            answer = b'{"id":"%s"}' % (await keeper.keep(b"".join(pieces))).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    config = {"http": "httptools", "loop": "uvloop", "lifespan": "off", "access_log": False}
    uvicorn.run(app, port=port, **config)


def main() -> None:
    """Serves it until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    asked = parser.parse_args()
    serve(asked.port, asked.data)


if __name__ == "__main__":
    main()
