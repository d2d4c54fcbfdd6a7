"""The service that a good engineer writes in an afternoon, as durable as Earmark: to compare with.

    ./run bench naive --port 8730 --data FOLDER     # serves it until Ctrl-C

FastAPI's own way: `UploadFile` and `Form`, a plain function that FastAPI runs in a thread, a copy
to the final place in the usual chunks. Then what the promise asks for: SHA-256, fsync of the file
and of its folder, and a row that a power failure cannot take (SQLite with synchronous=FULL, or
PostgreSQL). No checks of names, no limits, no audit, no tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sqlite3
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import uvicorn
from fastapi import FastAPI, Form, UploadFile

if TYPE_CHECKING:
    from collections.abc import Callable

_ROW = "INSERT INTO upload VALUES (?, ?, ?, ?, ?, ?)"
_TABLE = (
    "CREATE TABLE IF NOT EXISTS upload (id TEXT PRIMARY KEY, name TEXT UNIQUE, sha256 TEXT,"
    " size BIGINT, received TEXT, metadata TEXT)"
)
_CHUNK_BYTES = 1024 * 1024


def create_app(folder: Path, database_url: str = "") -> FastAPI:
    """The app; files and the SQLite database lie in the folder."""
    app = FastAPI()
    folder.mkdir(parents=True, exist_ok=True)
    keep = _postgresql(database_url) if database_url else _sqlite(folder / "naive.sqlite3")

    @app.post("/Media/Upload")
    def upload(metadata: Annotated[str, Form()], file: UploadFile) -> dict[str, Any]:
        facts = json.loads(metadata)
        id_ = str(uuid.uuid4())
        size, digest = 0, hashlib.sha256()
        with (folder / id_).open("wb") as kept:
            while chunk := file.file.read(_CHUNK_BYTES):
                digest.update(chunk)
                kept.write(chunk)
                size += len(chunk)
            kept.flush()
            os.fsync(kept.fileno())
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        received = datetime.now(UTC).isoformat()
        keep((id_, facts["FileName"], digest.hexdigest(), size, received, metadata))
        return {"id": id_, "fileName": facts["FileName"], "fileSizeKb": -(-size // 1024)}

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    return app


def _sqlite(path: Path) -> Callable[[tuple[Any, ...]], None]:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(_TABLE)
    lock = threading.Lock()

    def keep(row: tuple[Any, ...]) -> None:
        with lock:
            connection.execute(_ROW, row)

    return keep


def _postgresql(url: str) -> Callable[[tuple[Any, ...]], None]:
    import psycopg  # noqa: PLC0415 - only where it is wanted

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_TABLE)
    local = threading.local()

    def keep(row: tuple[Any, ...]) -> None:
        if not hasattr(local, "connection"):
            local.connection = psycopg.connect(url, autocommit=True)
        local.connection.execute(_ROW.replace("?", "%s"), row)

    return keep


def main() -> None:
    """Serves it."""
    parser = argparse.ArgumentParser(prog="./run bench naive")
    parser.add_argument("--port", type=int, default=8730)
    parser.add_argument("--data", type=Path, default=Path("naive-data"))
    parser.add_argument("--database-url", default="")
    asked = parser.parse_args()
    app = create_app(asked.data, asked.database_url)
    uvicorn.run(app, port=asked.port, http="httptools", loop="uvloop")


if __name__ == "__main__":
    main()
