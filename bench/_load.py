"""Uploads over plain sockets, which take little of the processor."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import IO

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

    def __init__(self, port: int, token: str = "", path: str = "/Media/Upload") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._token = token
        self._path = path
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
        self._send_head(len(before) + size + len(after))
        if isinstance(content, bytes):
            self._socket.sendall(before + content + after)
        else:
            self._socket.sendall(before)
            sent = 0
            while sent < size:
                sent += os.sendfile(self._socket.fileno(), content.fileno(), sent, size - sent)
            self._socket.sendall(after)
        status, body = self._answer()
        if status != 200:
            raise RuntimeError(f"{status}: {body[:300]!r}")
        return str(json.loads(body)["id"]) if body[:1] == b"{" else ""

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

    def _send_head(self, length: int) -> None:
        self._socket.sendall(
            f"POST {self._path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"Content-Length: {length}\r\n\r\n".encode()
        )

    def _answer(self) -> tuple[int, bytes]:
        status, length = self._head()
        return status, self._file.read(length)

    def _head(self) -> tuple[int, int]:
        status, length = int(self._file.readline().split()[1]), 0
        while (line := self._file.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return status, length


def upload_many(port: int, token: str, content: bytes, *, uploads: int, at_once: int) -> Answers:
    """Uploads the same bytes under many names, over a few connections at once."""
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
                id_ = connection.upload(content, len(content))
                took = time.perf_counter() - began
                with lock:
                    answers.each.append(took)
                    answers.ids.append(id_)
        except BaseException as error:  # noqa: BLE001 - told by the one who waits
            failures.append(error)
        finally:
            connection.close()

    connections = [Connection(port, token) for _ in range(at_once)]
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
