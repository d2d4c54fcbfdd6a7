"""What callers know of their uploads, and the check that the service keeps to it.

The check finds every breach there is and returns it as a sentence; that it does find each kind is
tested in test_ledger.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from earmark.database import Database, tables
from earmark.interactions import owner_of
from serving import PATIENCE_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from uuid import UUID

    from faults.copies import Copies
    from serving import Caller, Server

TAKEN = "An interaction with this file name already exists."
PAGE = 1000
CHUNK_BYTES = 64 * 1024
HEADERS = {"Content-Type": "multipart/form-data; boundary=b"}


@dataclass
class Ledger:
    """The promises that callers hold, and the uploads of which they must ask.

    Attributes:
        contents: of each upload that was ever begun, by its name.
        promised: the ids by name.
        open: the names of those that got no answer, or 503.
        whole: of which the last byte was sent: no other can be kept.
        wrong: answers that must not be.
        counts: what the summary tells: answers 200, names that a retry found to be kept, losses.
        what: is being tried.
    """

    what: str = ""
    contents: dict[str, bytes] = field(default_factory=dict)
    promised: dict[str, str] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def upload(
        self, http: httpx.Client, name: str, content: bytes, pause: float = 0
    ) -> httpx.Response | None:
        """Uploads, with a pause after each piece, and keeps the answer; None without one."""
        with self._lock:
            self.contents[name] = content
            self.open.add(name)
        try:
            answer = http.post("/Media/Upload", content=self._sent(name, pause), headers=HEADERS)
        except httpx.TransportError:
            return None
        self.note(name, answer)
        return answer

    def note(self, name: str, answer: httpx.Response) -> None:
        """Keeps an answer."""
        with self._lock:
            if answer.status_code == 200:
                self._promise(name, answer.json()["id"], "acknowledged")
            elif answer.text == TAKEN and answer.headers["Earmark-Duplicate"] != "different":
                self._promise(name, answer.headers["Location"].rpartition("/")[2], "recognized")
            elif answer.status_code != 503:
                self.wrong.append(f"{name}: answered {answer.status_code} {answer.text}")

    def _promise(self, name: str, id_: str, how: str) -> None:
        self.counts[how] += 1
        self.open.discard(name)
        if self.promised.setdefault(name, id_) != id_:
            self.wrong.append(f"{name}: promised as {self.promised[name]} and as {id_}")

    def _sent(self, name: str, pause: float) -> Iterator[bytes]:
        """The body of an upload, in small pieces, so that there are many moments to be killed."""
        whole = body(name, self.contents[name])
        for start in range(0, len(whole), CHUNK_BYTES):
            if start + CHUNK_BYTES >= len(whole):
                self.whole.add(name)
            yield whole[start : start + CHUNK_BYTES]
            time.sleep(pause)

    def breaches(self, caller: Caller, names: Collection[str] = ()) -> list[str]:
        """Everything in which the service and the callers' knowledge differ.

        Uploads without an answer are sent again first, as callers would. Media is read of `names`
        alone if there are any.
        """
        found = [*self._misplaced(listed(caller))]
        for name in sorted(self.open):
            self.upload(caller.http, name, self.contents[name])
        visible = listed(caller)
        found += self._misplaced(visible)
        found += [f"{name}: open after a retry" for name in sorted(self.open)]
        for name in names or self.promised:
            if name in visible:
                found += self._unlike(caller, name, visible[name])
        found = list(dict.fromkeys(found + self.wrong))
        self.counts["lost"] += len(found)
        return found

    def _misplaced(self, visible: dict[str, str]) -> Iterator[str]:
        for name, id_ in self.promised.items():
            if visible.get(name) != id_:
                yield f"{name}: lost; {id_} was promised, {visible.get(name)} is there"
        for name in visible.keys() - self.promised.keys():
            if name not in self.open & self.whole:
                yield f"{name}: visible, and nobody can have been told"

    def _unlike(self, caller: Caller, name: str, id_: str) -> Iterator[str]:
        try:
            answer = caller.http.get(f"/v1/interactions/{id_}/media")
        except httpx.TransportError as error:
            yield f"{name}: not readable: {error}"
            return
        if answer.status_code != 200:
            yield f"{name}: not readable: {answer.status_code} {answer.text}"
        elif _sha256(answer.content) != _sha256(self.contents[name]):
            yield f"{name}: corrupt: {len(answer.content)} of {len(self.contents[name])} bytes"

    def unprocessed(self, caller: Caller) -> list[str]:
        """Waits until everything promised is processed; what did not end well."""
        records = {name: caller.processed(id_) for name, id_ in self.promised.items()}
        return [
            f"{name}: {record['status']} {record['steps']}"
            for name, record in records.items()
            if record["status"] != "ready"
        ]


def listed(caller: Caller) -> dict[str, str]:
    """The ids of all interactions that a caller sees, by name."""
    found, cursor = {}, {}
    while True:
        answer = caller.http.get("/v1/interactions", params={"limit": PAGE, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found |= {item["file_name"]: item["id"] for item in page["items"]}
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


def orphans(server: Server) -> list[str]:
    """What stands in the storage of a server and belongs to no interaction."""
    rows = set(_rows(server))
    storage = server.data / "storage"
    objects = [path.name for path in (storage / "objects").glob("*/*")]
    staged = [path.name for path in (storage / "staging").iterdir()]
    return staged + [name for name in objects if owner_of(name) not in rows]


def unswept(server: Copies, seconds: float = PATIENCE_SECONDS) -> list[str]:
    """The orphans that a sweeper, started here, has left when that time has gone."""
    server.begin("sweeper")
    with contextlib.suppress(AssertionError):
        until(lambda: not orphans(server), "swept", seconds)
    return [f"orphan: {name}" for name in orphans(server)]


def _rows(server: Server) -> list[UUID]:
    database = Database(server.settled().database_address)
    try:
        with database.read(None) as scope:
            return [row.id for row in scope.rows(tables.interaction.select())]
    finally:
        database.close()


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def body(name: str, content: bytes) -> bytes:
    """A form as a simple client writes it, the metadata first."""
    kind = "Audio" if name.endswith(".wav") else "Chat"
    metadata = json.dumps({"FileName": name, "UploadType": kind})
    head = '--b\r\nContent-Disposition: form-data; name="'
    form = f'{head}metadata"\r\n\r\n{metadata}\r\n{head}file"; filename="{name}"\r\n\r\n'
    return form.encode() + content + b"\r\n--b--\r\n"
