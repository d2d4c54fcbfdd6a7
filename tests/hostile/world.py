"""What hostile cases are tried on: the whole app in this process, and its parts. Each attempt is
told in one word, the stable code of its refusal, or how it got through."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import uuid4

import httpcore2
import pytest
import sqlalchemy as sa

import chats
import forging
import sandboxed
from contract.forms import CONTENT_TYPE, WAV, form, meta
from contract.serving import Answer, Caller, Service, exchange
from earmark import audio, chat, fetch, sandbox
from earmark.access import Access, NewClient
from earmark.access.lockout import CLIENT_FAILURES
from earmark.access.rate import Rate
from earmark.audit import Audit
from earmark.chat import archive
from earmark.chat.rules import RULES
from earmark.database import Database, tables
from earmark.egress import BarredError, Walls
from earmark.errors import EarmarkError, MediaError
from earmark.fetch import Fetcher, Limits
from earmark.model import Grant
from earmark.web.errors import describe
from recordings import decoded_here
from unit.test_audit import tell, unprotected
from unit.test_egress import _Elsewhere, dialler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

TAKEN = "taken"
"""How an attempt ends that nothing stopped."""

PROBLEM = "application/problem+json"
FORM = "application/x-www-form-urlencoded"

_FIRST: dict[str, Any] = {"organization": "First", "create_organization": False, "name": "Test"}


class World:
    """A service, a second one with small limits, and a folder for files."""

    def __init__(self, template: Path, folder: Path) -> None:
        """`template` is an empty SQLite database with the schema."""
        self.folder, self.template = folder, template
        path = folder / "earmark.sqlite3"
        shutil.copyfile(template, path)
        self.database = database = Database(f"sqlite:///{path}")
        self.service = Service(database, folder / "storage")
        self.caller = self.service.caller()
        self.stranger = self.service.caller("Second")
        self.small = Service(
            database, folder / "small", max_upload_bytes=64 * 1024, idle_seconds=0.01
        )
        self.hurried = Service(database, folder / "hurried", rate=Rate(1, 3600))
        self.full = Service(database, folder / "full", reserve_bytes=1 << 60)
        self._opened = contextlib.ExitStack()
        self._addresses = (f"192.0.2.{number}" for number in itertools.count(1))
        self.address = ""

    def close(self) -> None:
        self._opened.close()
        self.database.close()
        for service in (self.service, self.small, self.hurried, self.full):
            service.close()

    def at(self, service: Service) -> Caller:
        """The same caller at another service over the same database."""
        return Caller(service, self.caller.principal, self.caller.token)

    # Requests

    def upload(self, sent: bytes | Iterable[bytes], **headers: str) -> str:
        return told(self.caller.upload(sent, accept=PROBLEM, **headers))

    def ask(self, method: str, path: str, body: Any = None) -> str:
        return told(self.caller.ask(method, path, body, accept=PROBLEM))

    def idle(self, sent: bytes) -> str:
        """An upload of whose form the end never comes."""
        headers = {"content_type": CONTENT_TYPE, "authorization": f"Bearer {self.caller.token}"}
        sending = exchange(
            self.small.app,
            "POST",
            "/Media/Upload",
            headers={**headers, "accept": PROBLEM},
            chunks=[sent],
            idle=True,
        )
        return told(self.small.runner.run(sending))

    def retry_small(self, other: Callable[[Mapping[str, Any]], bytes]) -> str:
        """A retry, at a service that takes little, of what one that takes more has kept."""
        facts, key = meta(), str(uuid4())
        self.upload(form(facts), idempotency_key=key)
        sent = {"content_length": "", "accept": PROBLEM, "idempotency_key": key}
        return told(self.at(self.small).upload(other(facts), **sent))

    def retry_at_once(self) -> str:
        """A retry while the first upload is on its way."""
        key = str(uuid4())

        async def story() -> Answer:
            async with self.service.intake.for_(self.caller.principal).keyed(key):
                return await self.caller.uploading(
                    form(meta()), accept=PROBLEM, idempotency_key=key
                )

        return told(self.service.runner.run(story()))

    def retry_deleted(self) -> str:
        """A retry of what was deleted."""
        sent, key = form(meta()), str(uuid4())
        kept = self.caller.upload(sent, idempotency_key=key)
        self.caller.send("DELETE", f"/v1/interactions/{kept.json['id']}")
        return self.upload(sent, idempotency_key=key)

    def bearer(self, *authorizations: str) -> str:
        """A call with exactly these Authorization headers."""
        headers = {"accept": PROBLEM}
        # Two names that differ in case are two headers of one name on the wire.
        names = ("authorization", "AUTHORIZATION")
        headers |= dict(zip(names, authorizations, strict=False))
        sending = exchange(self.service.app, "GET", "/v1/interactions", headers=headers)
        return told(self.service.runner.run(sending))

    def leave(self, path: str, **headers: str) -> str:
        """A body whose sender goes away in its middle; nobody reads the answer but us."""
        given = {"authorization": f"Bearer {self.caller.token}", "accept": PROBLEM, **headers}
        method = "POST" if path == "/connect/token" else "PATCH"
        sending = exchange(self.service.app, method, path, headers=given, chunks=[b"{"], gone=True)
        answer = self.service.runner.run(sending)
        return str(answer.json.get("error") or answer.json.get("code") or TAKEN)

    def token(self, fields: Any, **headers: str) -> str:
        """A token request from an address of its own: the OAuth error, or that there was one."""
        body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
        given = {"content_type": FORM, **headers}
        sending = exchange(
            self.service.app,
            "POST",
            "/connect/token",
            headers=given,
            chunks=[body],
            address=self.address,
        )
        answer = self.service.runner.run(sending)
        return str(answer.json.get("error") or answer.json.get("code") or TAKEN)

    def bad_token(self, name: str) -> str:
        """One of the tokens of `forging.hostile`."""
        return self.bearer(
            next(f"Bearer {token}" for one, token in self.bad_tokens() if one == name)
        )

    def bad_tokens(self) -> Iterator[tuple[str, str]]:
        """Made anew each time: one that was let through once is remembered as good."""
        return forging.hostile(self.service.access, self.caller.token, self._other)

    @functools.cached_property
    def _other(self) -> Access:
        """A service with the same issuer and secret, but keys of its own."""
        path = self.folder / "other.sqlite3"
        shutil.copyfile(self.template, path)
        database = Database(f"sqlite:///{path}")
        self._opened.callback(database.close)
        return Access(database, secret_key=b"k" * 32, issuer=self.service.access.issuer)

    def forge(self, claims: dict[str, Any]) -> str:
        """A token that our key signed, with other claims."""
        token = forging.forge(self.service.access, self.caller.token, claims)
        return self.bearer(f"Bearer {token}")

    def overreach(self) -> str:
        """Deletes without the grant to."""
        caller = self.service.caller(grants=[Grant.READ])
        return told(caller.send("DELETE", f"/v1/interactions/{uuid4()}", accept=PROBLEM))

    def sign_in(self, **changes: str) -> str:
        """With a good secret, from an address of its own; what is changed may be a header."""
        self.address = next(self._addresses)
        headers = {
            name: changes.pop(name)
            for name in ("authorization", "AUTHORIZATION", "content_type")
            if name in changes
        }
        fields = {
            "grant_type": "client_credentials",
            "client_id": self._client.client.id,
            "client_secret": self._client.secret if changes.get("client_id", "x") else "",
            **changes,
        }
        return self.token({key: value for key, value in fields.items() if value}, **headers)

    @functools.cached_property
    def _client(self) -> NewClient:
        return self.service.access.create_client(**_FIRST)

    def guess(self, client_id: str = "", times: int = 1) -> str:
        """Wrong secrets, all from one address; how the last one is answered."""
        changes = {"client_secret": "wrong", "client_id": client_id or self._client.client.id}
        answered = self.sign_in(**changes)
        for _ in range(times - 1):
            answered = self.token({"grant_type": "client_credentials", **changes})
        return answered

    def guess_on(self) -> str:
        return self.guess(f"client-{uuid4()}", CLIENT_FAILURES.count + 1)

    def sign_in_disabled(self) -> str:
        made = self.service.access.create_client(**_FIRST)
        self.service.access.disable_client(made.client.id)
        return self.sign_in(client_id=made.client.id, client_secret=made.secret)

    def hurry(self) -> str:
        """Two requests where one an hour is allowed."""
        caller = self.at(self.hurried)
        caller.send("GET", "/v1/interactions")
        return told(caller.send("GET", "/v1/interactions", accept=PROBLEM))

    # Other organizations, and the trail

    def trespass(self, method: str, path: str) -> str:
        """A stranger's call on a new interaction of ours."""
        id_ = self.caller.upload(form(meta())).json["id"]
        return told(self.stranger.send(method, path.format(id=id_)))

    def tamper(self, how: str) -> str:
        """Changes sealed rows of the trail with their protection taken away, on a copy."""
        path = self.folder / "tampered.sqlite3"
        shutil.copyfile(self.template, path)
        database = Database(f"sqlite:///{path}")
        with contextlib.closing(database):
            trail = Audit(database, key=b"a" * 32)
            tell(database, None, 3)
            trail.seal()
            second = [*trail.rows(None)][1].sequence
            with unprotected(database) as scope:
                if how == "row changed":
                    row = sa.update(tables.audit).where(tables.audit.c.sequence == second)
                    scope.run(row.values(actor="client:somebody else"))
                elif how == "row removed":
                    scope.run(sa.delete(tables.audit).where(tables.audit.c.sequence == second))
                else:
                    scope.run(sa.update(tables.audit_head).values(settled=2))
            return "noticed" if trail.verify().faults else "unnoticed"

    # Downloads

    def fetch(
        self,
        address: str,
        *answers: FakeAnswer,
        names: Mapping[str, Sequence[str]] | None = None,
        hosts: Iterable[str] = (),
        **limits: float,
    ) -> str:
        """A download whose server answers so, in turn."""
        walls = FakeWalls(answers, {STORE: [PUBLIC], **(names or {})}, hosts)
        fetcher = Fetcher(walls, Limits(size_bytes=1000, **limits))  # type: ignore[arg-type]

        async def sink(_chunk: bytes) -> None:
            """Drops it."""

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetch, "RESUME_PAUSE_SECONDS", 0.0)
            asyncio.run(fetcher.download(fetcher.read(address), sink))
        return TAKEN

    def fetch_slowly(self) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetch, "RATE_WINDOW_SECONDS", 0.0)
            return self.fetch(f"https://{STORE}/a.wav", bytes_per_second=1e15)

    def fetch_headless(self) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetch, "ANSWER_SECONDS", 0.01)
            return self.fetch(f"https://{STORE}/a.wav", FakeAnswer(waits=True))

    def dial(self, network: Mapping[str, Any], where: Mapping[str, Any]) -> str:
        """Has the walls' own dialler connect in a network in which that ends elsewhere."""
        made = dialler([PUBLIC], _Elsewhere(network.get("end", (PUBLIC, 443))))
        if "path" in where:
            dialling = made.connect_unix_socket(where["path"])
        else:
            dialling = made.connect_tcp(where.get("host", STORE), where.get("port", 443))
        try:
            asyncio.run(dialling)
        except BarredError:
            return "barred"
        return TAKEN

    # Files

    def archive(self, data: bytes) -> str:
        """A walk over a whole archive, as the decoder's child does it."""
        file = io.BytesIO(data)
        found = archive.survey(file)
        list(archive.read(file, {one.name for one in found}))
        return TAKEN

    def chat(self, files: bytes | Mapping[str, str | bytes]) -> str:
        """A chat read from its archive, as the decoder's child does it."""
        value, _ = chats.unpacked(files)
        return str(value["sides_left_out"] and "chat_metadata_left_out") or TAKEN

    def recording(self, content: bytes, extension: str = "") -> str:
        """A recording decoded in this process."""
        return self._heard(decoded_here, content, extension)

    def break_decoder(self, error: Exception) -> str:
        """A recording whose decoder ends so."""
        return self._heard(_raiser(error), WAV, ".wav")

    def break_reader(self, error: Exception) -> str:
        """A chat whose reader ends so."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sandbox, "run", _raiser(error))
            chat.unpack(self.folder, limits=sandbox.Limits(), locale="en-US")
        return TAKEN

    def _heard(self, run: Any, content: bytes, extension: str) -> str:
        path = self.folder / "recording"
        path.write_bytes(content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sandbox, "run", run)
            audio.listen(path, limits=sandbox.Limits(), extension=extension)
        return TAKEN

    # The decoder's child

    def suffer(self, function: str, limits: Mapping[str, Any], arguments: Any) -> str:
        """Does in the child what its limits forbid."""
        given = {"cpu_seconds": 20, "wall_seconds": 60.0, **limits}
        self._child(function, sandbox.Limits(**given), **arguments)
        return TAKEN

    def escape(self, way: str) -> str:
        """Tries a way out, in a child without bubblewrap: its own walls are asked for."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sandbox, "_launcher", tuple)
            return "got out" if way in sandbox._inspect(()).open_ways else "kept in"

    def spy(self) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EARMARK_SECRET_KEY", "hush")
            seen = self._child("environment", sandbox.Limits(cpu_seconds=20, wall_seconds=60.0))
        return "got out" if "EARMARK_SECRET_KEY" in seen else "kept in"

    def _child(self, function: str, limits: sandbox.Limits, **arguments: Any) -> Any:
        path = self.folder / "foreign"
        path.write_bytes(b"foreign bytes")
        folders = [*sandbox._import_folders(), str(Path(sandboxed.__file__).parent)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sandbox, "_import_folders", lambda: folders)
            name = f"sandboxed:{function}"
            return sandbox.run(name, path, limits=limits, arguments=arguments).value


def _raiser(error: Exception) -> Any:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


def told(answer: Answer) -> str:
    """The code of a refusal; one without a code is a fault of ours."""
    if answer.status < 400:
        return TAKEN
    return str(json.loads(answer.body)["code"])


def outcome(attempt: Callable[[World], str], world: World) -> str:
    """How an attempt ends, in one word or a few."""
    try:
        return attempt(world)
    except MediaError as error:
        broken = [rule for rule, words in RULES.items() if words in error.message]
        return f"{error.code}: {broken[0]}" if broken else error.code
    except sandbox.SandboxError as error:
        return type(error).__name__
    except EarmarkError as error:
        return describe(error).code
    except Exception as error:  # noqa: BLE001 - a defence that is gone may end in anything
        return f"raised {type(error).__name__}"


# A store on the internet that is none

STORE = "store.example.test"
PUBLIC = "93.184.216.34"


class FakeAnswer:
    """What the store answers: its head, and its body in pieces, or what breaks it off."""

    def __init__(
        self,
        body: Sequence[bytes | float | Exception] = (b"RIFF",),
        *,
        status: int = 200,
        fails: Exception | None = None,
        waits: bool = False,
        **headers: str,
    ) -> None:
        self.body, self.status, self.fails, self.waits = body, status, fails, waits
        self.headers = [
            (re.sub("_+", "-", name.strip("_")).encode(), value.encode())
            for name, value in headers.items()
        ]


class FakeWalls(Walls):
    """Our walls, with a name server and stores behind them that need no network."""

    def __init__(
        self,
        answers: Iterable[FakeAnswer],
        names: Mapping[str, Sequence[str]],
        hosts: Iterable[str],
    ) -> None:
        self._answers = iter(answers)
        self._names = names
        super().__init__(hosts=hosts, resolve=self._look_up)

    async def _look_up(self, host: str) -> Sequence[str]:
        if host not in self._names:
            raise OSError(-2, "Name or service not known")
        return self._names[host]

    async def open(self, destination: Any) -> Any:
        await self.addresses(destination)
        return FakeOpening(next(self._answers, FakeAnswer(content_length="4")))


class FakeOpening:
    """One connection to the store."""

    public = True

    def __init__(self, answer: FakeAnswer) -> None:
        self._answer = answer

    async def get(self, _headers: Any, **_: object) -> httpcore2.Response:
        answer = self._answer
        if answer.waits:
            await asyncio.sleep(60)
        if answer.fails is not None:
            raise answer.fails

        class Body:
            async def __aiter__(self) -> Any:
                for piece in answer.body:
                    if isinstance(piece, Exception):
                        raise piece
                    if isinstance(piece, float):
                        await asyncio.sleep(piece)
                    else:
                        yield piece

            async def aclose(self) -> None:
                """Nothing to close."""

        return httpcore2.Response(answer.status, headers=answer.headers, content=Body())

    async def close(self) -> None:
        """Nothing to close."""
