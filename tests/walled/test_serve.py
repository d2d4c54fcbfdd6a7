"""A real `earmark serve` with real processes: what was promised outlives all of them."""

from __future__ import annotations

import secrets
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from contract.forms import CONTENT_TYPE, body, meta, metadata_part, part
from earmark.database import Database, tables
from earmark.model import now
from serving import Caller, Server, serving, until
from walled.world import CONTENT, STORE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from walled.world import World


def sent(caller: Caller, address: str, prefer: str = "respond-async") -> httpx.Response:
    return caller.http.post(
        "/Media/Upload",
        content=body(metadata_part(meta()), part("signedUrl", address.encode())),
        headers={"Content-Type": CONTENT_TYPE, "Prefer": prefer},
    )


def record(caller: Caller, location: str) -> Any:
    answer = caller.http.get(location)
    assert answer.status_code == 200, answer.text
    return answer.json()


def hold_is_over(url: str) -> None:
    """As it is after a while: nobody who died puts it off."""
    with closing(Database(url)) as database, database.write(None) as scope:
        past = now() - timedelta(seconds=1)
        scope.run(sa.update(tables.download).values(held_until=past))


def test_a_promised_download_survives_kill_and_stop(world: World, tmp_path: Path, sqlite_url: str):
    name = secrets.token_hex(4)
    settings = {"fetch_ca_file": str(world.authority.path), "shutdown_grace_seconds": 2}
    server = Server(tmp_path / "data", sqlite_url, arguments=("--no-worker",), settings=settings)
    with serving(server):
        caller = server.caller()
        address = f"https://{STORE_NAME}/gate.wav?name={name}"
        answer = sent(caller, address)
        assert answer.status_code == 202
        until(lambda: name in world.waiting, "it downloads")
        server.kill()

        hold_is_over(sqlite_url)
        world.waiting.discard(name)
        server.start()
        until(lambda: name in world.waiting, "it downloads again")
        assert server.stop() == 0

        world.waiting.discard(name)
        server.start()
        until(lambda: name in world.waiting, "and once more, at once")
        world.gates.add(name)
        caller = Caller(server.base, caller.token, opened=server.opened)
        found = until(
            lambda: (
                (r := record(caller, answer.headers["location"]))["status"] != "downloading" and r
            ),
            "it ends",
        )
        assert found["status"] == "received"
        assert caller.media(found["interaction_id"]) == CONTENT
        assert sent(caller, f"https://{STORE_NAME}/file.wav", prefer="").status_code == 200
        assert sent(caller, "https://127.0.0.1/file.wav").status_code == 400
    assert name not in server.log.read_text()
