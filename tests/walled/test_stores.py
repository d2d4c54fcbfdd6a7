"""Real stores with real signed addresses: SeaweedFS for S3, Azurite for Azure Blob."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from contract.forms import body, meta, metadata_part, part
from contract.serving import Service
from earmark.access.seal import Seal
from earmark.fetch import Fetcher, Limits
from earmark.intake import Downloading
from earmark.intake.downloads import SEAL_PURPOSE
from walled.s3 import OBJECT, presigned, running, send, status
from walled.world import CONTENT

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from earmark.database import Database
    from walled.world import World

BLOB_PORT = 10000
BLOB_HOST = "account.blob.example.test"
ACCOUNT_KEY = base64.b64encode(b"an account's key for these tests").decode()


# S3.


def test_a_presigned_object_is_downloaded(world: World, runner: asyncio.Runner, s3: None):
    got = runner.run(world.fetch(presigned("GET", f"/bucket/{OBJECT}")))
    assert (got.code, got.content) == ("received", CONTENT)


def test_a_large_object_is_downloaded_whole(world: World, runner: asyncio.Runner, s3: None):
    large = os.urandom(9 * 1024 * 1024)
    assert send("PUT", "/bucket/large.wav", large) == 200
    limits = {"size_bytes": len(large)}
    got = runner.run(world.fetch(presigned("GET", "/bucket/large.wav"), **limits))
    assert got.content == large
    limits = {"size_bytes": len(large) - 1}
    got = runner.run(world.fetch(presigned("GET", "/bucket/large.wav"), **limits))
    assert (got.code, got.content) == ("signed_url_too_large", b"")


@pytest.mark.parametrize(
    ("address", "code", "told"),
    [
        (
            lambda: presigned("GET", f"/bucket/{OBJECT}", secret="another"),
            "signed_url_failed",
            "Its server answers with status 403.",
        ),
        (
            lambda: presigned("GET", "/bucket/none.wav"),
            "signed_url_failed",
            "Its server answers with status 404.",
        ),
        (
            lambda: presigned("GET", f"/bucket/{OBJECT}", seconds=0),
            "signed_url_expired",
            "Sign it anew, for longer.",
        ),
    ],
)
@pytest.mark.usefixtures("s3")
def test_an_object_that_may_not_be_had_is_a_failure(
    world: World, runner: asyncio.Runner, address: Callable[[], str], code: str, told: str
):
    got = runner.run(world.fetch(address()))
    assert (got.code, got.content) == (code, b"")
    assert got.error is not None
    assert got.error.faults[0].detail == told


# Azure Blob.


@pytest.fixture(scope="module")
def blob(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    azurite = os.environ.get("EARMARK_AZURITE", "")
    if not azurite:
        why = os.environ.get("EARMARK_AZURITE_MISSING", "")
        pytest.skip(f"NOT TESTED HERE: downloads from Azure Blob. They need Azurite: {why}")
    folder = tmp_path_factory.mktemp("azurite")
    command = ["node", azurite, "--location", str(folder), "--blobHost", "127.0.0.1"]
    command += ["--blobPort", str(BLOB_PORT), "--skipApiVersionCheck", "--disableTelemetry"]
    world.backends[BLOB_HOST] = BLOB_PORT

    def answers() -> bool:
        made = _put("/container", _account_sas(), "restype=container")
        return made in {201, 409} and _put(f"/container/{OBJECT}", _account_sas()) == 201

    accounts = f"account:{ACCOUNT_KEY}"
    yield from running(command, folder, answers, AZURITE_ACCOUNTS=accounts)


def _put(path: str, sas: str, more: str = "x=y") -> int:
    url = f"http://127.0.0.1:{BLOB_PORT}{quote(path)}?{more}&{sas}"
    headers = {"Host": BLOB_HOST, "x-ms-blob-type": "BlockBlob"}
    content = b"" if "restype" in more else CONTENT
    return status("PUT", url, headers=headers, content=content)


def _signed(fields: dict[str, str], *lines: str) -> str:
    text = "\n".join(lines)
    key = base64.b64decode(ACCOUNT_KEY)
    signature = base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode()
    return "&".join(f"{k}={quote(v, safe='')}" for k, v in {**fields, "sig": signature}.items())


def _account_sas() -> str:
    """Source: Azure Storage, "Create an account SAS", version 2020-12-06."""
    ends = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"sv": "2020-12-06", "ss": "b", "srt": "sco", "sp": "rwcl", "se": ends}
    lines = ["account", "rwcl", "b", "sco", "", ends, "", "", "2020-12-06", "", ""]
    return _signed(fields, *lines)


def blob_address(*, lasts: timedelta = timedelta(minutes=5), permissions: str = "r") -> str:
    """Source: Azure Storage, "Create a service SAS", version 2020-12-06."""
    ends = (datetime.now(UTC) + lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"sv": "2020-12-06", "sr": "b", "sp": permissions, "se": ends}
    resource = f"/blob/account/container/{OBJECT}"
    lines = ["r", "", ends, resource, "", "", "", "2020-12-06", "b", *[""] * 7]
    return f"https://{BLOB_HOST}/container/{quote(OBJECT)}?{_signed(fields, *lines)}"


def test_a_shared_blob_is_downloaded(world: World, runner: asyncio.Runner, blob: None):
    got = runner.run(world.fetch(blob_address()))
    assert (got.code, got.content) == ("received", CONTENT)


def test_a_blob_that_may_not_be_had_is_a_failure(world: World, runner: asyncio.Runner, blob: None):
    forged = runner.run(world.fetch(blob_address(permissions="rw")))
    assert forged.code == "signed_url_failed"
    assert forged.error is not None
    assert "status 403." in forged.error.faults[0].detail
    expired = runner.run(world.fetch(blob_address(lasts=timedelta(seconds=-1))))
    assert (expired.code, expired.connections) == ("signed_url_expired", 0)


# Whole uploads.


@pytest.mark.parametrize("store", ["s3", "blob"])
def test_an_upload_is_taken_from_a_store(
    world: World, database: Database, tmp_path: Path, request: pytest.FixtureRequest, store: str
):
    request.getfixturevalue(store)
    address = presigned("GET", f"/bucket/{OBJECT}") if store == "s3" else blob_address()
    fetcher = Fetcher(world.walls(), Limits(len(CONTENT)))
    downloading = Downloading(fetcher, Seal(b"k" * 32, SEAL_PURPOSE), 1)
    service = Service(database, tmp_path / "storage", downloading=downloading)
    with contextlib.closing(service):
        caller = service.caller()
        answer = caller.upload(body(metadata_part(meta()), part("signedUrl", address.encode())))
        kept = caller.interaction(answer)
        assert kept.sha256 == hashlib.sha256(CONTENT).digest()
