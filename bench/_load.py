"""Uploads over plain sockets, which take little of the processor."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDARY = "earmark-bench"


@dataclass
class Answers:
    """What came back.

    Attributes:
        seconds: from the first byte of the first upload to the last answer.
        each: the seconds of each upload.
        ids: of what was kept.
    """

    seconds: float = 0.0
    each: list[float] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


class Connection:
    """One kept-alive connection to a server."""

    def __init__(self, port: int, token: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._token = token
        self._file = self._socket.makefile("rb")

    def close(self) -> None:
        """Closes it."""
        self._file.close()
        self._socket.close()

    def upload(self, content: bytes | IO[bytes], size: int) -> str:
        """Uploads bytes or an open file under a new name; returns the id of what was kept."""
        name = f"{uuid.uuid4()}.wav"
        metadata = json.dumps({"FileName": name, "UploadType": "Audio"})
        part = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
        before = (
            f'{part}"metadata"\r\n\r\n{metadata}\r\n'
            f'{part}"file"; filename="{name}"\r\nContent-Type: audio/wav\r\n\r\n'
        ).encode()
        after = f"\r\n--{BOUNDARY}--\r\n".encode()
        self._send_head(
            "POST",
            "/Media/Upload",
            len(before) + size + len(after),
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}",
        )
        self._send(content, size, before, after)
        body = self._answer()
        return str(json.loads(body)["id"]) if body[:1] == b"{" else ""

    def put(
        self, content: bytes | IO[bytes], size: int, method: str, path: str, *head: str
    ) -> str:
        """Sends bytes or an open file as the whole body of a request; returns its path."""
        self._send_head(method, path, size, *head)
        self._send(content, size)
        self._answer()
        return path

    def download(self, path: str) -> int:
        """Gets something and throws it away; returns how many bytes it had."""
        head = f"GET {path} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {self._token}\r\n\r\n"
        self._socket.sendall(head.encode())
        status, length = self._head()
        if status != 200:
            raise RuntimeError(f"{status}: {self._file.read(length)[:300]!r}")
        buffer, left = memoryview(bytearray(1 << 20)), length
        while left:
            left -= self._file.readinto(buffer[: min(left, len(buffer))])  # type: ignore[attr-defined]
        return length

    def _send_head(self, method: str, path: str, length: int, *head: str) -> None:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Content-Length: {length}",
            *head,
        ]
        if self._token:
            lines.append(f"Authorization: Bearer {self._token}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def _send(
        self, content: bytes | IO[bytes], size: int, before: bytes = b"", after: bytes = b""
    ) -> None:
        if isinstance(content, bytes):
            self._socket.sendall(before + content + after)
            return
        self._socket.sendall(before)
        sent = 0
        while sent < size:
            sent += os.sendfile(self._socket.fileno(), content.fileno(), sent, size - sent)
        self._socket.sendall(after)

    def _answer(self) -> bytes:
        status, length = self._head()
        body = self._file.read(length) if length >= 0 else self._chunks()
        if status not in {200, 201, 204}:
            raise RuntimeError(f"{status}: {body[:300]!r}")
        return body

    def _head(self) -> tuple[int, int]:
        """Status and length; -1 if it comes in chunks."""
        status, length = int(self._file.readline().split()[1]), 0
        while (line := self._file.readline().lower()) not in (b"\r\n", b""):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            elif line.startswith(b"transfer-encoding:"):
                length = -1
        return status, length

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._file.readline(), 16):
            body += self._file.read(size)
            self._file.readline()
        self._file.readline()
        return body


def upload_many(
    connect: Callable[[], Connection],
    send: Callable[[Connection, bytes, int], str],
    content: bytes,
    *,
    uploads: int,
    at_once: int,
) -> Answers:
    """Sends the same bytes under many names, over a few connections at once."""
    answers, lock = Answers(), threading.Lock()
    left = iter(range(uploads))
    failures: list[BaseException] = []

    def work(connection: Connection) -> None:
        try:
            while True:
                with lock:
                    if next(left, None) is None:
                        return
                began = time.perf_counter()
                id_ = send(connection, content, len(content))
                took = time.perf_counter() - began
                with lock:
                    answers.each.append(took)
                    answers.ids.append(id_)
        except BaseException as error:  # noqa: BLE001 - told by the one who waits
            failures.append(error)
        finally:
            connection.close()

    connections = [connect() for _ in range(at_once)]
    threads = [threading.Thread(target=work, args=(one,)) for one in connections]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.seconds = time.perf_counter() - began
    if failures:
        raise failures[0]
    return answers
