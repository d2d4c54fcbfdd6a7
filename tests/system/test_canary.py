"""Nothing personal and no secret gets out: every route and command is driven with values that
cannot be mistaken, and everything that is written, shown or told to others is searched for them.
"""

from __future__ import annotations

import base64
import json
import re
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import sqlalchemy as sa
import typer
from starlette.routing import Route

from canaries import DIGITS, PROGRAM, SHATTER, WORD, Watch, needles, seen, tables
from chats import zipped
from commands import runner
from contract.forms import CONTENT_TYPE, body, metadata_part, part, raw_part
from earmark.app.parts import Parts
from earmark.cli import app as commands
from earmark.database import Database
from earmark.web import Heart, create_app
from metering import scraped
from serving import RECORDING, SECRET_KEY, Caller, Server, free_port, serving, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx
    from fastapi import FastAPI

    from postgres import Server as PostgresServer

NAME, LAST = f"{WORD} Ana", f"{WORD} Example"
MAIL = f"{WORD}@example.org"
PHONE = f"+{DIGITS}"
FILE = f"{WORD} 1985-02-03.wav"
QUERY = f"X-Signature={WORD}sig"
OTHER_TOKEN = f"{WORD}.token.of.somebody"
FORGED = '\n2026-01-01T00:00:00Z [info] forged\r\n{"event": "forged"}\x1b[2J\u2028\u2029\x85forged'

MAY_HOLD_PERSONAL = {
    "interaction",
    "arrival",
    "agent",
    "hierarchy_node",
    "hierarchy_code",
    "download",  # the metadata of an upload that was promised, until the download ends
    "step",  # the message of a failure may name files of the archive, for who sent it
    "step_part",
    "search_document",
    "search_posting",
    "search_block",
}
"""The tables that the service exists to fill. Every other one, a new one too, holds nothing."""

PERSONAL = {
    "Name": NAME,
    "Phone": PHONE,
    "Email": MAIL,
    "AgentFirstName": NAME,
    "AgentLastName": LAST,
    "AgentCode": WORD,
    "ClientCallId": WORD,
    "ExtendedMetadataValues": {WORD: f"{WORD} asthma", "phone": PHONE},
    "InteractionDate": "2026-03-13T09:15:20Z",
}

CHAT = json.dumps(
    {
        "messages": [
            {"at": "2026-03-02T09:15:00Z", "name": NAME, "text": f"I am {WORD}, call {PHONE}."},
            {"at": "2026-03-02T09:15:20Z", "name": LAST, "text": f"Thank you, {WORD}."},
        ]
    }
)
SHATTERING_CHAT = CHAT.replace("Thank you", SHATTER)

WHOLE_LINE = {
    "json": re.compile(r"\{.*\}"),
    "text": re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[\w+ *\] .*|    .*|"),
}


class Told(NamedTuple):
    """An answer that nobody but whom it is for should understand."""

    where: str
    text: str


class Scene:
    """A server with every value in it, and everything that it said."""

    def __init__(self, server: Server, log_format: str, app: FastAPI) -> None:
        self.server = server
        self.log_format = log_format
        self.app = app
        self.watch = Watch()
        self.refusals: list[Told] = []
        self.secrets: list[str] = [SECRET_KEY, f"{WORD}sig", OTHER_TOKEN]
        self.driven: set[tuple[str, str]] = set()
        self.statuses: set[int] = set()
        self.caller = self.signed_in("First")
        self.other = self.signed_in("Second")
        self.ids: dict[str, str] = {}

    def signed_in(self, organization: str) -> Caller:
        made = self.server.create_client(organization)
        self.client_id = made.client.id
        caller = self.server.sign_in(made.client.id, made.secret)
        self.secrets += [made.secret, caller.token]
        return caller

    def ask(
        self, caller: Caller, method: str, path: str, *, foreign: bool = False, **sent: Any
    ) -> httpx.Response:
        """Sends a request; remembers what must hold nothing of it: refusals, and all to others."""
        headers = {
            "X-Request-Id": f"{WORD} unsafe",
            "User-Agent": f"{WORD} {MAIL}",
            "Idempotency-Key": f"{WORD}-key",
            "Cookie": f"session={WORD}",
            "Referer": f"https://example.org/?q={WORD}",
            "If-None-Match": f'"{WORD}"',
            **sent.pop("headers", {}),
        }
        with caller.http.stream(method, path, headers=headers, timeout=20, **sent) as answer:
            if not path.partition("?")[0].endswith("/stream") or answer.status_code != 200:
                answer.read()
                if answer.status_code >= 400 or foreign:
                    told = f"{dict(answer.headers)} {answer.text}"
                    self.refusals.append(Told(f"{answer.status_code} of {method} {path}", told))
        self.statuses.add(answer.status_code)
        return answer

    def logged(self) -> str:
        return self.server.log.read_text()


@pytest.fixture(
    scope="module",
    params=[("sqlite", "json"), ("postgresql", "text")],
    ids=["sqlite", "postgresql"],
)
def scene(request: pytest.FixtureRequest, new_server: Callable[..., Server]) -> Iterator[Scene]:
    """Everything was driven; the server still runs."""
    kind, log_format = request.param
    server = new_server(
        kind,
        log_format=log_format,
        log_level="debug",
        secret_key=SECRET_KEY,
        token_rate_limit="100000/s",
        metrics_listen=str(free_port()),
    )
    server.program = PROGRAM
    with serving(server, worker=True) as started:
        parts = Parts(started.settled(), issuer=started.base)
        heart = Heart(
            parts.access, parts.intake, parts.interactions, parts.directory, parts.readiness, 60
        )
        made = Scene(started, log_format, create_app(heart))
        made.watch.start()
        fill(made)
        drive(made)
        token_requests(made)
        uploads_refused(made)
        with closing(owned(parts.database, request)) as database:
            shattered(made, database)
        raw_requests(made)
        made.watch.stop()
        parts.close()
        yield made


def fill(scene: Scene) -> None:
    """What the service is for: things with personal values, in every place that takes them."""
    caller = scene.caller
    node = caller.http.post("/Hierarchy", json={"name": "Desk", "code": WORD})
    agent = caller.http.post(
        "/Agent",
        json={"firstName": NAME, "lastName": LAST, "agentEmail": MAIL, "agentCode": WORD},
    )
    call = caller.upload(FILE, RECORDING.read_bytes(), HierarchyCode=WORD, **PERSONAL)
    archive = zipped({f"{WORD}.json": CHAT, f"{WORD}.json_meta": json.dumps({"mail": MAIL})})
    chat = caller.upload(f"{WORD}.zip", archive, **PERSONAL, UploadType="Chat")
    for one in (node, agent, call, chat):
        assert one.status_code == 200, one.text
    assert caller.processed(call.json()["id"])["status"] == "ready"
    assert caller.processed(chat.json()["id"])["chat_message_count"] == 2
    unread = caller.upload(
        f"{WORD} none.zip", zipped({f"{WORD}.json": '{"rooms": []}'}), UploadType="Chat"
    )
    assert caller.processed(unread.json()["id"])["status"] == "failed"
    later = signed(
        scene, f"https://store.example.invalid/{WORD}.wav?{QUERY}", prefer="respond-async"
    )
    assert later.status_code in {202, 400}, later.text
    scene.ids = {
        "HierarchyId": node.json()["id"],
        "AgentId": agent.json()["id"],
        "interaction_id": chat.json()["id"],
        "id": call.json()["id"],
        "conversationId": chat.json()["id"],
        "download_id": later.headers.get("location", "/x").rpartition("/")[2],
        "extension": "txt",
        "name": "style.css",
        "code": "file_empty",
    }


def signed(scene: Scene, address: str, prefer: str = "") -> httpx.Response:
    metadata = {"FileName": f"{WORD} signed.wav", "UploadType": "Audio", **PERSONAL}
    form = body(metadata_part(metadata), part("signedUrl", address.encode()))
    headers = {"Content-Type": CONTENT_TYPE, "Prefer": prefer}
    return scene.ask(scene.caller, "POST", "/Media/Upload", content=form, headers=headers)


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """Path and method of every route of the app, of those without a description too."""
    found = list(flat(app.routes))
    assert [one for one in found if not isinstance(one, Route)] == []  # no other kind is driven
    return sorted({(route.path, method) for route in found for method in route.methods or ()})


def flat(entries: Any) -> Iterator[Any]:
    """Routes, those of included routers too."""
    for one in entries:
        inner = getattr(getattr(one, "original_router", one), "routes", None)
        yield from flat(inner) if inner else [one]


def drive(scene: Scene) -> None:
    """Every route of the app: with right ids, with wrong ones, by its owner and by another."""
    documented = {
        re.sub(r":\w+\}", "}", path): item for path, item in scene.app.openapi()["paths"].items()
    }
    for path, method in routes(scene.app):
        plain = re.sub(r":\w+\}", "}", path)
        operation = documented.get(plain, {}).get(method.lower(), {})
        named = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
        query = dict.fromkeys(named, f"{WORD} {MAIL}")
        real = re.sub(r"\{(\w+)\}", lambda match: scene.ids[match[1]], plain)
        wrong = re.sub(r"\{\w+\}", f"{WORD}%0d%0a%1b%5b2J%e2%80%a8{FILE}", plain)
        json_body = wrong_body(operation, scene.app.openapi())
        for caller, foreign in ((scene.other, True), (scene.caller, False)):
            scene.ask(caller, method, wrong, foreign=foreign, params=query)
            scene.ask(caller, method, real, foreign=foreign, params=query, json=json_body)
            scene.ask(caller, method, real, foreign=foreign, content=f"{WORD}{{".encode())
            if method != "DELETE" or foreign:
                scene.ask(caller, method, real, foreign=foreign)
                more = {"q": WORD, "access_token": scene.caller.token, "prefix": FILE}
                scene.ask(caller, method, real, foreign=foreign, params=more)
        scene.driven.add((path, method))
    for path in (f"/{WORD}", f"/v1/{FILE}", f"/v1/interactions/{FORGED.encode().hex()}"):
        scene.ask(scene.caller, "GET", path, params={"q": WORD})
    for token in (OTHER_TOKEN, f"{scene.caller.token}x"):
        bearer = {"Authorization": f"Bearer {token}"}
        scene.ask(scene.caller, "GET", "/v1/interactions", headers=bearer)
    gone = scene.caller.upload(f"{WORD} gone.wav", RECORDING.read_bytes(), **PERSONAL).json()["id"]
    assert scene.caller.http.delete(f"/v1/interactions/{gone}").status_code == 204
    change = {"phone": PHONE, "meta1": WORD, "extendedMetadata": {"mail": MAIL}}
    patched = scene.caller.http.patch(f"/Metadata/{scene.ids['id']}", json=change)
    assert patched.status_code == 200, patched.text


def wrong_body(operation: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Every property of a JSON body, each with a value that no other kind than text takes."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    schema = document.get("components", {}).get("schemas", {}).get(name, schema)
    return dict.fromkeys(schema.get("properties", {WORD: WORD}), f"{WORD} {MAIL} {PHONE}")


def token_requests(scene: Scene) -> None:
    """Good and bad ones, by form and by Basic."""
    pair = base64.b64encode(f"{scene.client_id}:{WORD}-secret".encode()).decode()
    grant = {"grant_type": "client_credentials"}
    tried: list[dict[str, Any]] = [
        {"data": {**grant, "client_id": scene.client_id, "client_secret": f"{WORD}-secret"}},
        {"data": {**grant, "client_id": MAIL, "client_secret": WORD, "scope": WORD}},
        {"data": {"grant_type": WORD, "client_id": WORD, "client_secret": WORD}},
        {"data": grant, "headers": {"Authorization": f"Basic {pair}"}},
        {"data": grant, "headers": {"Authorization": f"Basic {WORD}"}},
        {"json": {"client_secret": WORD}},
    ]
    for sent in tried:
        assert scene.ask(scene.caller, "POST", "/connect/token", **sent).status_code >= 400


def uploads_refused(scene: Scene) -> None:
    """Forms with something personal wherever something may be wrong, told in each form."""
    sent = {"FileName": "good.wav", "UploadType": "Audio"}
    keys = (*PERSONAL, "FileName", "UploadType", "CallDirection", "LocaleId", "HierarchyId")
    bad = [{**sent, key: f"{WORD} {MAIL}\x00{PHONE}"} for key in keys]
    bad += [{**sent, key: [WORD, {WORD: MAIL}]} for key in (*keys, "HierarchyCode")]
    bad += [{**sent, "FileName": FILE}, {**sent, "FileName": f"{WORD}.{WORD}"}]
    bad += [{**sent, "FileName": f"../{FILE}"}, {**sent, "FileName": f"{WORD}.mp3"}]
    bad += [{**sent, "HierarchyCode": f"{WORD} none"}]
    recording = part("file", RECORDING.read_bytes(), file_name=FILE)
    forms = [body(metadata_part(each), recording) for each in bad]
    forms += [
        body(metadata_part(f'{{"Name": "{NAME}", "Name": "{WORD}"}}'.encode()), recording),
        body(metadata_part(f'{{"{WORD}": {WORD}'.encode()), recording),
        body(metadata_part(sent), part("file", WORD.encode(), file_name=f"{WORD}.wav")),
        body(metadata_part(sent), part("file", b"MZ" + WORD.encode(), file_name=WORD)),
        body(metadata_part(sent), part(WORD, b"1"), part("metadata", WORD.encode())),
        body(raw_part(f"Content-Disposition form-data {WORD}", data=b"1")),
        body(raw_part(f'Content-Disposition: form-data; name="file"; filename="{FILE}"', WORD)),
        body(metadata_part(sent), recording)[:-40],
        WORD.encode(),
    ]
    addresses = (f"https://192.0.2.1/{FILE}?{QUERY}", f"http://{WORD}?{QUERY}", f"{WORD} {QUERY}")
    for address in addresses:
        assert signed(scene, address).status_code == 400
    for form in forms:
        for accept in ("text/plain", "application/problem+json"):
            headers = {"Content-Type": CONTENT_TYPE, "Accept": accept}
            scene.ask(scene.caller, "POST", "/Media/Upload", content=form, headers=headers)
    wrong = {"Content-Type": f"multipart/form-data; boundary={WORD * 30}"}
    scene.ask(scene.caller, "POST", "/Media/Upload", content=b"", headers=wrong)


def owned(database: Database, request: pytest.FixtureRequest) -> Database:
    """The same database for the role that owns its tables."""
    url = database.engine.url
    if database.is_sqlite:
        return Database(url.render_as_string(hide_password=False))
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return Database(server.owner_url(str(url.database)))


def shattered(scene: Scene, database: Database) -> None:
    """Parts that fail with personal values in their errors: web, database, worker."""
    found = scene.ask(
        scene.caller, "GET", "/v1/interactions", params={"q": f"{SHATTER} {WORD} {PHONE}"}
    )
    assert found.status_code == 500
    broken = (
        "CREATE TRIGGER broken BEFORE INSERT ON agent WHEN NEW.last_name LIKE '%shatter%'"
        " BEGIN SELECT RAISE(ABORT, 'broken'); END"
        if database.is_sqlite
        else "ALTER TABLE agent ADD CONSTRAINT broken CHECK (last_name NOT LIKE '%shatter%')"
    )
    with database.write(None) as scope:
        scope.run(sa.text(broken))
    agent = {"firstName": NAME, "lastName": f"{SHATTER} {LAST}", "agentEmail": MAIL}
    assert scene.ask(scene.caller, "POST", "/Agent", json=agent).status_code == 500
    archive = zipped({f"{WORD}.json": SHATTERING_CHAT})
    sent = scene.caller.upload(f"{SHATTER}.zip", archive, **PERSONAL, UploadType="Chat")
    assert sent.status_code == 200, sent.text
    until(lambda: "step.failed" in scene.logged(), "the step failed")


def raw_requests(scene: Scene) -> None:
    """What no client library sends: bytes that no line of HTTP may hold, and some that it may."""
    token = scene.caller.token
    forged = FORGED.encode()
    hidden = forged.replace(b"\r", b"").replace(b"\n", b"").replace(b"\x1b", b"")
    requests = [
        b"GET /" + WORD.encode() + forged + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/interactions?q=" + hidden + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\n" + WORD.encode() + b"\x00: 1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nX-Request-Id: forged" + hidden + b"\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nUser-Agent: " + WORD.encode() + forged + b"\r\n\r\n",
        b"GET /x%0d%0a%1b%5b2J%e2%80%a8forged HTTP/1.1\r\nHost: " + hidden + b"\r\n\r\n",
        WORD.upper().encode() + b" / HTTP/1.1\r\n\r\n",
        f"GET /{'x/' * 300}{WORD} HTTP/1.1\r\nAuthorization: Bearer {token}\n\r\n\r\n".encode(),
    ]
    for sent in requests:
        with socket.create_connection(("127.0.0.1", scene.server.port), timeout=20) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        scene.refusals.append(Told(f"answer to {sent[:60]!r}", answer.decode("latin-1")))


def test_every_route_was_driven(scene: Scene) -> None:
    paths = {path for path, _ in routes(scene.app)}
    assert scene.driven == set(routes(scene.app))
    assert set(scene.app.own_paths) == paths  # type: ignore[attr-defined]
    assert len(scene.driven) > 30
    assert {200, 202, 204, 400, 401, 404, 405, 415, 500} & scene.statuses >= {200, 400, 404, 500}


def test_the_log_holds_nothing_personal_and_no_secret(scene: Scene) -> None:
    log = scene.logged()
    assert log.count("interactions") > 100
    assert log.count("request failed") >= 2
    for place in ("sides", "find", "broken", "LookupError", "ValueError", "uncaught"):
        assert place in log, place
    assert "IntegrityError" in log or "CheckViolation" in log
    assert seen("the log", log, needles(scene.secrets)) == []


def test_every_line_of_the_log_is_one_fact(scene: Scene) -> None:
    log = scene.server.log.read_bytes()
    lines = log.decode("ascii" if scene.log_format == "json" else "utf-8").splitlines()
    assert len(lines) == log.count(b"\n")  # nothing in it breaks a line in another way
    assert b"\x1b" not in log
    whole = WHOLE_LINE[scene.log_format]
    assert [line for line in lines if not whole.fullmatch(line)] == []
    if scene.log_format == "json":
        assert all(json.loads(line)["event"] != "forged" for line in lines)
    assert "forged" not in log.decode()


def test_refusals_and_answers_to_others_repeat_nothing(scene: Scene) -> None:
    sought = needles(scene.secrets)
    assert len(scene.refusals) > 300
    found = [one for told in scene.refusals for one in seen(told.where, told.text, sought)]
    assert found == []


def test_tables_that_are_not_for_it_hold_nothing(scene: Scene) -> None:
    held = {}
    for name, told in tables(scene.server):
        personal = name in MAY_HOLD_PERSONAL
        sought = needles(scene.secrets, personal=not personal)
        assert seen(f"table {name}", told, sought) == []
        held[name] = WORD in told.lower()
    assert {name for name, holds in held.items() if holds} <= MAY_HOLD_PERSONAL
    assert held["interaction"]
    assert held["agent"]
    assert any(name.endswith("workflow_status") for name in held)
    assert {"audit", "event", "step", "client", "audit_head"} <= held.keys()


def test_files_hold_no_secret(scene: Scene) -> None:
    sought = needles(scene.secrets, personal=False)
    files = [path for path in scene.server.data.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert seen(str(path), path.read_bytes(), sought) == []
        assert seen("its name", path.name, needles(())) == []


def test_health_tells_states_alone(scene: Scene) -> None:
    for path in ("/health/live", "/health/ready", f"/health/ready?q={WORD}"):
        answer = scene.server.get(path)
        assert answer is not None
        assert seen(path, answer.text, needles(scene.secrets)) == []
        assert answer.status_code == 200


def test_metrics_tell_what_happened_and_to_nobody_whose_it_was(scene: Scene) -> None:
    found = scraped(int(str(scene.server.settings["metrics_listen"])))
    assert seen("/metrics", found.text, needles(scene.secrets)) == []
    assert "First" not in found.text  # nor an organization's name
    assert all(id_ not in found.text for id_ in scene.ids.values() if id_.count("-") == 4)
    assert found.sum("earmark_uploads_total") > 50
    assert found.sum("earmark_http_refusals_total", code="internal") >= 2
    assert found.sum("earmark_steps_total", result="waiting", code="internal") >= 1
    assert found.sum("earmark_http_requests_total", route="other") >= 3
    known = {path for path, _ in routes(scene.app)} | {"other"}
    assert set(found.told("earmark_http_requests_total", "route")) <= known


def test_command_lines_and_decoders_environments_hold_nothing(scene: Scene) -> None:
    sought = needles(scene.secrets)
    assert any(b"_child.py" in line for line in scene.watch.lines)
    assert scene.watch.children
    for line in scene.watch.lines:
        assert seen("a command line", line, sought) == []
    for given in scene.watch.children:
        assert seen("a decoder's environment", given, sought) == []
        assert b"EARMARK_" not in given


COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "database upgrade": ((),),
    "doctor": ((),),
    "retry": (("--org", "First", "--dry-run"), ("--org", "First", "--code", WORD)),
    "organization list": ((),),
    "organization set": (("--org", "First", "--agent-channel", "0"),),
    "organization quota": (
        ("--org", "First", "--stored", "1000GiB"),
        ("--org", "First"),
        ("--org", "First", "--stored", WORD),
    ),
    "organization usage": (("--org", "First"), ("--org", "First", "--json")),
    "models install": ((WORD,),),
    "models list": ((),),
    "models path": ((),),
    "client create": (("--org", "First", "--json"), ("--org", "Nobody")),
    "client rotate": (("{client}",), ("{client}", "--finish")),
    "client disable": (("{client}",),),
    "client enable": (("{client}",),),
    "client list": ((), ("--json",)),
    "keys list": ((), ("--json",)),
    "keys rotate": ((),),
    "keys revoke": ((OTHER_TOKEN[:3],),),
    "audit list": ((), ("--json",), ("--org", "First"), ("--subject", "{id}")),
    "audit verify": ((), ("--head", "1:00")),
    "audit head": ((),),
    "scrub": ((), ("--json", "--rate", "1GB"), ("--since", WORD)),
    "sweep": ((), ("--json",), ("--remove",), ("--restore", WORD), ("--empty",)),
    "purge": ((), ("--json",)),
    "backup-key": (("{folder}/none/key",), ("{folder}/key",)),
    "backup": (
        ("{folder}/b.age",),
        ("{folder}/b.age", "--key-file", "{folder}/key"),
        ("{folder}/b.age", "--verify", "--key-file", "{folder}/key"),
    ),
    "restore": (
        ("{folder}/b.age", "--check", "--json", "--key-file", "{folder}/key"),
        ("{folder}/b.age", "--key-file", "{folder}/key"),
    ),
    "receipt verify": (("/dev/null",), ("/dev/null", "--keys", "/dev/null")),
}
"""Each command with its arguments, of which none is personal."""

SERVING = {"serve", "worker"}
"""Driven by the server itself."""

SHOWS_A_SECRET = {"client create", "client rotate"}
"""Once, on standard output, which is what they are for."""


def listed(group: Any, before: tuple[str, ...] = ()) -> Iterator[str]:
    if not hasattr(group, "commands"):
        yield " ".join(before)
    for name, one in getattr(group, "commands", {}).items():
        yield from listed(one, (*before, name))


def test_commands_show_nothing_personal_and_no_secret(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert set(listed(typer.main.get_command(commands))) == COMMANDS.keys() | SERVING
    run = runner(monkeypatch, capsys, **scene.server.configured)
    monkeypatch.setenv("EARMARK_SPEECH_KEY", f"{WORD}-speech-key")
    spare = scene.server.create_client("First")
    sought = needles([*scene.secrets, spare.secret])
    told = {"{client}": spare.client.id, "{id}": scene.ids["interaction_id"]}
    for name, calls in COMMANDS.items():
        for call in calls:
            words = [word.replace("{folder}", str(tmp_path)) for word in call]
            ended = run(*name.split(), *(told.get(word, word) for word in words))
            shown = ended.err if WORD in call else ended.out + ended.err
            assert (
                seen(
                    f"earmark {name} {call}",
                    shown.replace(WORD, "") if WORD in call else shown,
                    sought,
                )
                == []
            )
            assert (name in SHOWS_A_SECRET) or "client_secret" not in ended.out
            assert "AGE-SECRET-KEY" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("database_url", f"postgresql://u:{WORD}@127.0.0.1:1/x"),
        ("database_url", f"postgres://u:{WORD}@127.0.0.1:1/x"),
        ("database_url", f"mysql:{WORD}"),
        ("secret_key", WORD),
        ("speech_key", WORD),
        ("oidc_issuer", f"https://u:{WORD}@127.0.0.1:1/?{WORD}"),
        ("storage_url", f"s3://u:{WORD}@x"),
        ("public_url", f"https://u:{WORD}@x/?{WORD}"),
        ("speech_url", f"http://u:{WORD}@127.0.0.1:1/v1"),
    ],
)
def test_settings_with_secrets_are_not_repeated(
    setting: str,
    value: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"data": tmp_path / "data", "secret_key": SECRET_KEY, setting: value}
    run = runner(monkeypatch, capsys, **settings)
    for words in (("doctor",), ("client", "list")):
        ended = run(*words)
        assert seen(" ".join(words), ended.out + ended.err, needles(())) == []
