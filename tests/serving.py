"""A real `earmark serve` with all its processes, for the tests of the system."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from earmark.app.parts import Parts
from earmark.config import Settings
from earmark.database import Database, workers
from earmark.model import Grant, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from earmark.access import NewClient

ROOT = Path(__file__).resolve().parent.parent
EARMARK = str(Path(sys.executable).with_name("earmark"))
RECORDING = ROOT / "samples" / "support-call.wav"
SECRET_KEY = "a-key-for-tests-alone-0123456789-0123456789"
PATIENCE_SECONDS = 90
"""The machines are shared; what takes this long has failed."""

LONGEST_PAUSE_SECONDS = 0.15

ALL_GRANTS = frozenset(Grant)


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with these settings of Earmark and no others.

    Speech is not recognized unless a test asks for it, whatever models this machine has.
    """
    clean = {name: os.environ[name] for name in os.environ if not name.startswith("EARMARK_")}
    return (
        clean
        | {"EARMARK_SPEECH_ENGINE": "off"}
        | {f"EARMARK_{name.upper()}": str(value) for name, value in settings.items()}
    )


def unmeasured(**settings: object) -> dict[str, str]:
    """The same, for processes whose coverage is not measured."""
    given = environment(**settings)
    return {name: given[name] for name in given if not name.startswith("COVERAGE_")}


def run(
    *arguments: str, cwd: Path | None = None, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Runs a command of `earmark` to its end."""
    return subprocess.run(
        [EARMARK, *arguments],
        env=unmeasured(**settings),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def until(holds: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Waits for something to be true, and returns it."""
    begun, pause = time.monotonic(), 0.01
    while not (found := holds()):
        assert time.monotonic() < begun + seconds, f"{what}: it did not come to hold"
        # Ever more seldom: who asks takes processor time from what is waited for.
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
    return found


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def form(metadata: Mapping[str, Any], content: bytes, name: str) -> dict[str, Any]:
    """What httpx needs to upload, the metadata first."""
    return {
        "files": [
            ("metadata", (None, json.dumps(dict(metadata)).encode())),
            ("file", (name, content, "application/octet-stream")),
        ]
    }


@dataclass
class Caller:
    """An API client of one organization with its token."""

    base: str
    token: str
    verify: Any = False
    opened: list[httpx.Client] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.http = self.another()

    def another(self) -> httpx.Client:
        """One more connection of the same client."""
        headers = {"Authorization": f"Bearer {self.token}"}
        http = httpx.Client(
            base_url=self.base, headers=headers, trust_env=False, timeout=60, verify=self.verify
        )
        self.opened.append(http)
        return http

    def upload(
        self, name: str, content: bytes, http: httpx.Client | None = None, **metadata: Any
    ) -> httpx.Response:
        """Uploads a recording."""
        facts = {"FileName": name, "UploadType": "Audio", **metadata}
        parts = form(facts, content, name.rpartition("/")[2])
        return (http or self.http).post("/Media/Upload", **parts)

    def record(self, id_: str) -> dict[str, Any]:
        """The interaction's record."""
        answer = self.http.get(f"/v1/interactions/{id_}")
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    def processed(self, id_: str) -> dict[str, Any]:
        """The interaction's record, once its processing ended."""
        record: dict[str, Any] = until(
            lambda: (r := self.record(id_))["status"] != "processing" and r, f"{id_} processed"
        )
        return record

    def media(self, id_: str) -> bytes:
        """The interaction's media."""
        answer = self.http.get(f"/v1/interactions/{id_}/media")
        assert answer.status_code == 200, answer.text
        assert hashlib.sha256(answer.content).hexdigest() == self.record(id_)["sha256"]
        return answer.content


@dataclass
class Server:
    """`earmark serve` over one data folder and one database; started and stopped as told.

    Attributes:
        verify: whom it must prove to be, with TLS. Without TLS no authorities are loaded, which
            takes 50 ms for each connection.
        measured: whether its coverage is: it makes a start half as long again, and processes
            that are killed write none.
        program: what takes the place of the command `earmark`.
    """

    data: Path
    database_url: str = ""
    arguments: tuple[str, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    scheme: str = "http"
    verify: Any = False
    measured: bool = False
    program: tuple[str, ...] = (EARMARK,)
    process: subprocess.Popen[bytes] | None = None
    opened: list[httpx.Client] = field(default_factory=list)

    @property
    def base(self) -> str:
        """Its address."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """Everything that its processes said."""
        return self.data.with_name(f"{self.data.name}.log")

    @property
    def configured(self) -> dict[str, object]:
        """Its settings."""
        kept = {"data": self.data, "rate_limit": "100000/s", "disk_reserve": 0, **self.settings}
        if self.database_url:
            kept |= {"database_url": self.database_url, "secret_key": SECRET_KEY}
        return kept

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are given."""
        given = environment if self.measured else unmeasured
        return given(**self.configured)

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts it without waiting for anything."""
        self.process = self.launch_as("serve", "--port", str(self.port), *self.arguments)
        return self.process

    def launch_as(self, *command: str) -> subprocess.Popen[bytes]:
        """Starts another command over the same things; whoever did ends it."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.program, *command], env=self.environment, stdout=log, stderr=log
            )

    def start(self, *, worker: bool = False) -> Server:
        """Starts it and waits until it takes uploads, and until a worker lives if asked."""
        self.launch()
        until(self.answers, f"answers; {self.log}")
        if worker:  # not asked of it, since it repeats its answer for two seconds
            with contextlib.closing(Database(self.settled().database_address)) as database:
                until(lambda: self.runs() and any_worker(database), f"worker; {self.log}")
        until(lambda: self.ready(worker=worker), f"ready; {self.log}")
        return self

    def runs(self) -> bool:
        """Whether its supervisor does; fails if it does not."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return True

    def answers(self) -> bool:
        """Whether a web process does."""
        return self.runs() and self.get("/health/live") is not None

    def ready(self, *, worker: bool = False) -> bool:
        """Whether it takes uploads now."""
        state = self.health() if self.runs() else None
        return (
            state is not None and state[0] == 200 and (not worker or state[1]["worker"] == "alive")
        )

    def health(self) -> tuple[int, dict[str, str]] | None:
        """Status and body of /health/ready; None without an answer."""
        answer = self.get("/health/ready")
        return None if answer is None else (answer.status_code, answer.json())

    def get(self, path: str) -> httpx.Response | None:
        """An answer for anybody; None without one."""
        try:
            return httpx.get(f"{self.base}{path}", trust_env=False, timeout=20, verify=self.verify)
        except httpx.TransportError:
            return None

    def stop(self) -> int:
        """Asks it to stop; returns its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """Kills all its processes at once, those of its worker's sandbox too, by their ids."""
        assert self.process is not None
        family = [self.process.pid, *descendants(self.process.pid)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        until(lambda: not any(map(alive, family)), "killed")

    def children(self, kind: str) -> list[int]:
        """The ids of its processes "web" or "worker"."""
        assert self.process is not None
        name = f"earmark-{kind}"
        return [pid for pid in descendants(self.process.pid) if name_of(pid).startswith(name)]

    def settled(self) -> Settings:
        """Its settings as an object."""
        return Settings(**{name: value for name, value in self.configured.items()})  # type: ignore[arg-type]  # noqa: C416

    def create_client(
        self, organization: str = "First", grants: frozenset[Grant] = ALL_GRANTS
    ) -> NewClient:
        """A new client, its organization made if it is not there."""
        parts = Parts(self.settled(), issuer=self.base)
        try:
            return parts.access.create_client(
                organization=organization, create_organization=True, name="tests", grants=grants
            )
        finally:
            parts.database.close()

    def caller(self, organization: str = "First", grants: frozenset[Grant] = ALL_GRANTS) -> Caller:
        """A new client with a token from the token endpoint."""
        made = self.create_client(organization, grants)
        return self.sign_in(made.client.id, made.secret)

    def sign_in(self, client_id: str, secret: str) -> Caller:
        """A caller with a token from the token endpoint."""
        answer = httpx.post(
            f"{self.base}/connect/token",
            data={
                "grant_type": "client_credentials",
                "client_id": client_id,
                "client_secret": secret,
            },
            trust_env=False,
            timeout=30,
            verify=self.verify,
        )
        assert answer.status_code == 200, answer.text
        return Caller(self.base, answer.json()["access_token"], self.verify, self.opened)


@contextlib.contextmanager
def serving(server: Server, *, worker: bool = False) -> Iterator[Server]:
    """A started server, which is gone when the block ends."""
    try:
        yield server.start(worker=worker)
    finally:
        for http in server.opened:
            http.close()
        if server.process is not None and server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(45)
            except subprocess.TimeoutExpired:
                server.kill()


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not asked for yet does not."""
    try:
        return _facts(pid)[0] not in "ZX"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents.setdefault(_facts(int(path.name))[1], []).append(int(path.name))
    found, todo = [], [pid]
    while todo:
        todo += (children := parents.get(todo.pop(), []))
        found += children
    return found


def name_of(pid: int) -> str:
    """What `ps -e` calls a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""


def any_worker(database: Database) -> bool:
    """Whether a worker said lately that it lives."""
    with database.read(None) as scope:
        return workers.any_alive(scope, now())


def descriptors(pid: int) -> list[str]:
    """What a process has open."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(path.readlink()))
    return sorted(found)


def _facts(pid: int) -> tuple[str, int]:
    """State and parent of a process. Source: proc(5)."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except ProcessLookupError as error:
        raise FileNotFoundError from error
    return state, int(parent)
