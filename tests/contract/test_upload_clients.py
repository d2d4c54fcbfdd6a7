"""A real server process, sockets, and clients that others wrote.

Each client is used as its own documentation shows; only address and credentials are ours.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx
import pytest
import requests

import serving
from contract.forms import BOUNDARY, CONTENT_TYPE, WAV, body, form, meta, metadata_part, new_name
from earmark.model import DEFAULT_GRANTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

seed = pytest.mark.origin("seed")
published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

MEGABYTE = 1_000_000
MEBIBYTE = 1024 * 1024
LIMIT = 24 * MEBIBYTE

PLAIN = {"verify": False}
"""No TLS is spoken, and to load the authorities takes longer than a call."""


@dataclass(frozen=True)
class Server:
    """A running `earmark serve` and the credentials of a client."""

    url: str
    data: Path
    credentials: Mapping[str, str]

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    def token(self) -> str:
        form = {"grant_type": "client_credentials", "scope": "acxapi", **self.credentials}
        answer = httpx.post(f"{self.url}/connect/token", data=form, **PLAIN)
        token: str = answer.json()["access_token"]
        return token

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token()}"}

    def staged(self) -> list[Path]:
        return [*(self.data / "storage" / "staging").iterdir()]

    def found(self, name: str) -> list[Any]:
        params = {"prefix": name}
        answer = httpx.get(
            f"{self.url}/v1/interactions", params=params, headers=self.bearer(), **PLAIN
        )
        items: list[Any] = answer.json()["items"]
        return items


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`earmark serve` without a worker, which has no part in the contract of uploads."""
    settings = {"max_upload_bytes": LIMIT, "log_level": "warning"}
    folder = tmp_path_factory.mktemp("served") / "data"
    stopped = serving.Server(folder, arguments=("--no-worker",), settings=settings)
    with serving.serving(stopped) as served:
        made = served.create_client(grants=DEFAULT_GRANTS)
        credentials = {"client_id": made.client.id, "client_secret": made.secret}
        yield Server(served.base, folder, credentials)
        assert served.stop() == 0


# Clients that others wrote


@seed
@pytest.mark.parametrize("ending", [".wav", ".mp3", ".mp4", ".ogg", ".opus", ".m4a"])
def test_requests_uploads_a_recording(
    server: Server, samples: dict[str, bytes], tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"Zoë{ending}"
    path.write_bytes(samples[ending])
    with requests.Session() as session:
        form = {"grant_type": "client_credentials", **server.credentials}
        token = session.post(f"{server.url}/connect/token", data=form).json()["access_token"]
        session.headers["Authorization"] = f"Bearer {token}"
        metadata = meta(FileName=f"requests/{new_name(ending)}")
        with path.open("rb") as file:
            answer = session.post(
                f"{server.url}/Media/Upload",
                files={"file": file},
                data={"metadata": json.dumps(metadata)},
            )
        assert answer.status_code == 200, answer.text
        assert answer.json()["fileName"] == metadata["FileName"]
        media = session.get(f"{server.url}/v1/interactions/{answer.json()['id']}/media")
    assert media.content == samples[ending]


@seed
@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_httpx_uploads_a_chat_archive(
    server: Server, samples: dict[str, bytes], ending: str
) -> None:
    metadata = meta(UploadType="Chat", FileName=new_name(ending))
    with httpx.Client(base_url=server.url, headers=server.bearer(), **PLAIN) as http:
        answer = http.post(
            "/media/upload",
            files={
                "metadata": (None, json.dumps(metadata), "application/json"),
                "file": (f"chat{ending}", samples[ending], "application/octet-stream"),
            },
        )
        assert answer.status_code == 200, answer.text
        media = http.get(f"/v1/interactions/{answer.json()['id']}/media")
    assert media.content == samples[ending]


@seed
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("chunked", [False, True])
def test_curl_uploads_a_recording(
    server: Server, samples: dict[str, bytes], tmp_path: Path, chunked: bool
) -> None:
    path = tmp_path / "call.mp3"
    path.write_bytes(samples[".mp3"] * 400)  # large enough for Expect: 100-continue
    name = new_name(".mp3")
    metadata = tmp_path / "metadata.json"
    metadata.write_text(json.dumps({"FileName": name, "UploadType": "Audio"}))
    command = ["curl", "-sS", "-f", "--max-time", "60", f"{server.url}/Media/Upload"]
    command += ["-H", f"Authorization: Bearer {server.token()}"]
    command += ["-F", f"file=@{path}", "-F", f"metadata=<{metadata}"]
    if chunked:
        command += ["-H", "Transfer-Encoding: chunked"]
    answer = json.loads(subprocess.check_output(command))
    assert (answer["fileName"], answer["fileSizeKb"]) == (
        name,
        -(-len(samples[".mp3"]) * 400 // 1024),
    )


@ours
def test_one_connection_serves_many_uploads(server: Server) -> None:
    with httpx.Client(base_url=server.url, headers=server.bearer(), **PLAIN) as http:
        connections = set()
        for _ in range(3):
            answer = http.post(
                "/Media/Upload",
                files={"file": ("a.wav", WAV)},
                data={"metadata": json.dumps(meta())},
            )
            assert answer.status_code == 200
            stream = answer.extensions["network_stream"]
            connections.add(stream.get_extra_info("client_addr"))
    assert len(connections) == 1


@ours
@pytest.mark.parametrize("size", [20 * MEGABYTE])
@pytest.mark.parametrize("why", ["no token", "no form", "bad metadata"])
def test_a_client_that_sends_20_mb_gets_its_early_refusal(
    server: Server, size: int, why: str
) -> None:
    headers = {} if why == "no token" else server.bearer()
    metadata = meta(UploadType="Film") if why == "bad metadata" else meta()
    sent = form(metadata, b"\x01" * size)
    headers["Content-Type"] = "text/plain" if why == "no form" else CONTENT_TYPE
    answer = requests.post(f"{server.url}/Media/Upload", data=sent, headers=headers, timeout=60)
    assert answer.status_code == {"no token": 401, "no form": 415, "bad metadata": 400}[why]
    assert answer.headers["connection"] == "close"
    assert answer.text
    assert server.staged() == []


# Sockets


class Raw:
    """A connection on which a test says each byte."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(server.address, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def head(self, **headers: str) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        self.send(f"POST /Media/Upload HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, str]:
        """Reads one answer's head."""
        received = b""
        while b"\r\n\r\n" not in received:
            more = self.socket.recv(1)
            assert more, "the connection ended without an answer"
            received += more
        return int(received.split()[1]), received.decode("latin-1").lower()

    def rest(self) -> bytes:
        """Reads to the connection's end."""
        received = b""
        while more := self.socket.recv(65536):
            received += more
        return received


@ours
def test_a_client_that_asks_is_told_to_continue(server: Server) -> None:
    whole = form(meta())
    with Raw(server) as raw:
        raw.head(
            Content_Type=CONTENT_TYPE,
            Content_Length=str(len(whole)),
            Expect="100-continue",
            **server.bearer(),
        )
        assert raw.answer()[0] == 100
        raw.send(whole)
        assert raw.answer()[0] == 200


@ours
@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (401, {"Authorization": "Bearer none"}),
        (415, {"Content_Type": "text/plain"}),
        (413, {"Content_Length": str(LIMIT + MEBIBYTE + 1)}),
    ],
    ids=["401", "415", "413"],
)
@pytest.mark.parametrize("expect", [True, False])
def test_an_early_refusal_comes_before_the_body_and_closes(
    server: Server, status: int, changes: dict[str, str], expect: bool
) -> None:
    headers = {"Content_Type": CONTENT_TYPE, "Content_Length": "5000000", **server.bearer()}
    headers |= {"Expect": "100-continue"} if expect else {}
    with Raw(server) as raw:
        raw.head(**{**headers, **changes})
        began = time.monotonic()
        told, head = raw.answer()
        assert told == status
        assert "connection: close" in head
        if expect:  # else the server waits a while for what is on its way
            raw.rest()
            assert time.monotonic() - began < 4


@ours
def test_chunked_encoding_is_understood(server: Server) -> None:
    whole = form(meta())
    with Raw(server) as raw:
        raw.head(Content_Type=CONTENT_TYPE, Transfer_Encoding="chunked", **server.bearer())
        for at in range(0, len(whole), 7):
            piece = whole[at : at + 7]
            raw.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        raw.send(b"0\r\n\r\n")
        assert raw.answer()[0] == 200


@ours
def test_a_chunked_file_over_the_limit_is_413(server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        head, tail = form(meta(), b"X-HERE-X").split(b"X-HERE-X")
        yield head
        for _ in range(LIMIT // MEBIBYTE + 1):
            yield b"\x01" * MEBIBYTE
        yield tail

    headers = {"Content-Type": CONTENT_TYPE, **server.bearer()}
    answer = httpx.post(
        f"{server.url}/Media/Upload", content=pieces(), headers=headers, timeout=60, **PLAIN
    )
    assert answer.status_code == 413
    assert server.staged() == []


@ours
@pytest.mark.parametrize("file_first", [True, False])
def test_a_client_that_breaks_off_leaves_nothing(server: Server, file_first: bool) -> None:
    metadata = meta(FileName=f"broken-{new_name()}")
    whole = form(metadata, b"\x01" * 3 * MEBIBYTE, file_first=file_first)
    with Raw(server) as raw:
        raw.head(Content_Type=CONTENT_TYPE, Content_Length=str(len(whole)), **server.bearer())
        raw.send(whole[: 2 * MEBIBYTE])
        give_up = time.monotonic() + 30
        while not server.staged() and time.monotonic() < give_up:
            time.sleep(0.02)
        assert server.staged()
    while server.staged() and time.monotonic() < give_up:
        time.sleep(0.02)
    assert server.staged() == []
    assert server.found(metadata["FileName"]) == []


@ours
@pytest.mark.parametrize("request_id", ["from-the-caller", ""])
def test_the_real_server_echoes_the_request_id(server: Server, request_id: str) -> None:
    headers = {"X-Request-Id": request_id} if request_id else {}
    answer = httpx.post(f"{server.url}/Media/Upload", headers=headers, **PLAIN)
    assert answer.status_code == 401
    told = answer.headers["x-request-id"]
    assert told == request_id if request_id else len(told) == 32


@ours
def test_the_form_of_a_dotnet_client_is_understood(server: Server) -> None:
    metadata = json.dumps(meta(FileName=f"mé-{new_name()}"), ensure_ascii=False).encode()
    sent = (
        b"--B\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Disposition: form-data; name=metadata\r\n\r\n" + metadata + b"\r\n"
        b"--B\r\nContent-Type: audio/wav\r\n"
        b"Content-Disposition: form-data; name=file; "
        b"filename=\"=?utf-8?B?bcOpLndhdg==?=\"; filename*=utf-8''m%C3%A9.wav\r\n\r\n"
        + WAV
        + b"\r\n--B--\r\n"
    )
    headers = {"Content-Type": 'multipart/form-data; boundary="B"', **server.bearer()}
    answer = httpx.post(f"{server.url}/Media/Upload", content=sent, headers=headers, **PLAIN)
    assert answer.status_code == 200, answer.text


@ours
def test_a_form_without_a_file_of_a_real_client_has_its_sentence(server: Server) -> None:
    sent = body(metadata_part(meta()))
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **server.bearer()}
    answer = httpx.post(f"{server.url}/Media/Upload", content=sent, headers=headers, **PLAIN)
    assert (answer.status_code, answer.text) == (
        400,
        "You must upload a file with one of the specified allowed extensions.",
    )
