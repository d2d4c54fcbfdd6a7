"""The reference page and signed addresses: an upload that succeeds, and the pages of refusals."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from browsing import chromium, said, visiting
from contract.forms import body, meta, metadata_part, part
from contract.serving import Service
from earmark.access.seal import Seal
from earmark.errors import Why
from earmark.fetch import Fetcher, Limits
from earmark.intake import Downloading, downloads
from earmark.intake.downloads import SEAL_PURPOSE
from earmark.web.reference.bodies import bodies
from earmark.web.reference.codes import meanings
from reference_page import DESK, fill, processed, sign_in, try_it
from reference_page import body as body_of
from serving import RECORDING, Server, serving
from walled.s3 import presigned, send
from walled.world import SIZE_LIMIT, STORE_NAME, World

if TYPE_CHECKING:
    from pathlib import Path

    from earmark.database import Database


def test_a_recording_is_uploaded_from_the_page_by_its_signed_address(
    world: World, tmp_path: Path, sqlite_url: str, s3: None
) -> None:
    assert send("PUT", "/bucket/support-call.wav", RECORDING.read_bytes()) == 200
    address = presigned("GET", "/bucket/support-call.wav")
    settings = {"fetch_ca_file": str(world.authority.path)}
    server = Server(tmp_path / "data", sqlite_url, settings=settings)
    with serving(server, worker=True), chromium() as browser:
        made = server.create_client("Reader")
        with visiting(browser, server.base, **DESK) as page:
            page.goto("/docs")
            page.wait_for_selector("#sample code")
            sign_in(page, {"CLIENT_ID": made.client.id, "CLIENT_SECRET": made.secret})
            fill(page, {"signedUrl": address, "FileName": "page/signed.wav", "Name": "Alice"})
            assert try_it(page).startswith("200")
            answer = body_of(page)
            assert answer["fileName"] == "page/signed.wav"
            assert "repr-digest: sha-256=:" in page.locator("#headers").inner_text()
            assert "signedUrl=https://s3.example.test/" in page.locator("#curl").inner_text()
            page.get_by_role("button", name="Read its record").click()
            said(page.locator("#try .outcome"), lambda text: text.startswith("200"))
            record = processed(page)
    assert (record["id"], record["status"]) == (answer["id"], "ready")
    assert record["size_bytes"] == RECORDING.stat().st_size
    assert record["customer"]["name"] == "Alice"
    assert record["audio"]["duration_seconds"] > 1
    assert "X-Amz-Signature" not in server.log.read_text()


@pytest.mark.parametrize(
    "refusal",
    [
        (Why.SIGNED_URL_FAILED, "status/403/x"),
        (Why.SIGNED_URL_TOO_LARGE, "lying.wav"),
        (Why.SIGNED_URL_TOO_SLOW, "gate.wav?name=never"),
    ],
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_the_page_of_a_failed_download_shows_the_body_that_is_sent(
    world: World,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: tuple[Why, str],
) -> None:
    why, path = refusal
    monkeypatch.setattr(downloads, "RETRY_PAUSES_SECONDS", ())
    fetcher = Fetcher(world.walls(), Limits(SIZE_LIMIT, seconds=1))
    downloading = Downloading(fetcher, Seal(b"k" * 32, SEAL_PURPOSE), 4, 1.0)
    service = Service(database, tmp_path / "storage", downloading=downloading)
    address = f"https://{STORE_NAME}/{path}"
    sent = body(metadata_part(meta()), part("signedUrl", address.encode()))
    caller = service.caller()
    (meaning,) = meanings()[why.value]
    for shown in bodies(meaning):
        (accept,) = (line for line in shown.head.split("\n") if line.startswith("Content-Type"))
        answer = caller.upload(sent, accept=accept.partition(": ")[2].partition(";")[0])
        assert answer.text == shown.text
        assert shown.head.startswith(f"{answer.status} {HTTPStatus(answer.status).phrase}\n")
    service.close()
