"""The audit trail of a real server is sealed while it serves, and verified by the command."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import sqlalchemy as sa

from earmark.app.parts import Parts
from serving import RECORDING, Server, run, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark.database import Database

PROMISED_SECONDS = 5.0


def earmark(server: Server, *words: str) -> tuple[int, str]:
    """How a command ended, and what it printed."""
    ended = run(*words, **server.configured)
    return ended.returncode, ended.stdout


def test_what_is_done_is_listed_sealed_and_verified_and_a_change_is_found(
    server: Server, owner_of: Callable[[Database], Database]
) -> None:
    caller = server.caller("Clinic")
    sent = caller.upload("audited.wav", RECORDING.read_bytes())
    id_ = sent.json()["id"]
    media = caller.http.get(f"/v1/interactions/{id_}/media")
    assert media.status_code == 200
    parts = Parts(server.settled(), issuer=server.base)
    until(lambda: not parts.audit.verify().unsealed.rows, "sealed")
    status, out = earmark(server, "audit", "list", "--org", "Clinic", "--json")
    assert status == 0
    acts = [json.loads(line) for line in out.splitlines()]
    assert [act["action"] for act in acts] == [
        "organization.create",
        "client.create",
        "interaction.receive",
        "interaction.read_media",
    ]
    assert acts[3]["subject"] == id_
    assert acts[3]["request_id"] == media.headers["x-request-id"]
    assert acts[3]["address"] == "127.0.0.1"
    status, head = earmark(server, "audit", "head")
    assert re.fullmatch(r"\d+:[0-9a-f]{64}\n", head)
    status, out = earmark(server, "audit", "verify", "--head", head.strip())
    assert (status, out) == (0, f"ok    {head.partition(':')[0]} rows are as they were sealed.\n")
    assert json.loads((server.data / "audit-head.json").read_text())["head"] == head.strip()
    with owner_of(parts.database).write(None) as scope:
        if parts.database.is_sqlite:
            scope.run(sa.text("DROP TRIGGER audit_no_update"))
        else:
            scope.run(sa.text("ALTER TABLE audit DISABLE TRIGGER append_only"))
        other = sa.text("UPDATE audit SET actor = 'client:other' WHERE action LIKE '%read_media'")
        assert scope.run(other) == 1
    status, out = earmark(server, "audit", "verify")
    assert status == 1
    assert re.fullmatch(r"fail  Row \d+, sealed as \d+, or its seal was changed\.\n", out)
    parts.close()
