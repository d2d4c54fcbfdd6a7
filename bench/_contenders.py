"""Earmark, the naive service and the one that discards, each started alike and watched alike."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import httpx  # noqa: E402 - after the tests' own
from _load import Answers, Connection, upload_many  # noqa: E402

from serving import EARMARK, Server, descendants, free_port, serving  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE_SECONDS = 60.0
FORM_PARSER = "python-multipart==0.0.20"
"""What FastAPI's own forms need, and Earmark does not; installed for the benchmark alone."""


@dataclass(frozen=True)
class Places:
    """Which processors whom: `taskset` keeps them apart where there are two.

    Attributes:
        server: the list of processors for what is measured.
        client: those for who measures.
    """

    server: str
    client: str

    @classmethod
    def of_this_machine(cls) -> Places:
        """The first half to the server, the other to the client."""
        own = sorted(os.sched_getaffinity(0))
        if len(own) < 2 or not shutil.which("taskset"):
            print("NOT PINNED: server and client share the processors.")
            return cls.shared()
        half = len(own) // 2
        return cls(",".join(map(str, own[:half])), ",".join(map(str, own[half:])))

    @classmethod
    def shared(cls) -> Places:
        """All of them to both: two processes of a server want two."""
        every = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        return cls(every, every)

    def settle(self) -> None:
        """Moves this process, which is the client, to its own."""
        os.sched_setaffinity(0, {int(number) for number in self.client.split(",")})

    def command(self, *command: str) -> list[str]:
        """A command on the server's processors."""
        return ["taskset", "-c", self.server, *command] if shutil.which("taskset") else [*command]


@dataclass(eq=False)
class Contender:
    """One running server.

    Attributes:
        token: of its client; empty where none is asked for.
        files: where what it kept lies, for its removal between two runs; None for nowhere.
        send: uploads over a connection: content, size; returns by what it is found again.
    """

    name: str
    port: int
    pid: int
    token: str = ""
    files: Path | None = None
    server: Server | None = None
    send: Callable[[Connection, Any, int], str] = Connection.upload

    def connect(self) -> Connection:
        """One more connection."""
        return Connection(self.port, self.token)

    def upload_many(self, content: bytes, *, uploads: int, at_once: int) -> Answers:
        """Uploads the same bytes under many names."""
        return upload_many(self.connect, self.send, content, uploads=uploads, at_once=at_once)

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        return sum(map(cpu_seconds, [self.pid, *descendants(self.pid)]))

    def forget(self, ids: list[str]) -> None:
        """Removes what was kept, so that the disk does not fill."""
        if self.server is not None:
            headers = {"Authorization": f"Bearer {self.token}"}
            with httpx.Client(base_url=self.server.base, headers=headers, trust_env=False) as http:
                for id_ in ids:
                    http.delete(f"/v1/interactions/{id_}").raise_for_status()
        elif self.files is not None:
            for id_ in ids:
                (self.files / id_.lstrip("/")).unlink()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of its children that ended; 0 if it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS
    return 0.0


def status_bytes(pid: int, name: str) -> int:
    """VmRSS or VmHWM of a process; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def earmark(
    folder: Path, places: Places, *, database_url: str = "", processes: int = 1, **settings: object
) -> Iterator[Contender]:
    """Earmark without a worker: what is processed later is no part of taking it in."""
    server = Server(
        folder / "earmark",
        database_url=database_url,
        arguments=("--no-worker", "--web-processes", str(processes)),
        settings={"keep_alive_seconds": 3600, **settings},
        program=tuple(places.command(EARMARK)),
    )
    with serving(server):
        assert server.process is not None
        token = server.caller().token
        yield Contender("earmark", server.port, server.process.pid, token, server=server)


@contextlib.contextmanager
def naive(folder: Path, places: Places, *, database_url: str = "") -> Iterator[Contender]:
    """See naive.py."""
    port = free_port()
    arguments = ["--port", str(port), "--data", str(folder / "naive")]
    arguments += ["--database-url", database_url] if database_url else []
    process = launch(places, "naive.py", arguments, folder / "naive.log", _form_parser())
    with ending(process):
        wait(port)
        yield Contender("naive", port, process.pid, files=folder / "naive")


@contextlib.contextmanager
def bare(folder: Path, places: Places) -> Iterator[Contender]:
    """See _bare.py."""
    port = free_port()
    arguments = ["--port", str(port), "--data", str(folder / "bare")]
    process = launch(places, "_bare.py", arguments, folder / "bare.log")
    with ending(process):
        wait(port)
        yield Contender("bare promise", port, process.pid, files=folder / "bare")


@contextlib.contextmanager
def discard(folder: Path, places: Places, *, processes: int = 1) -> Iterator[Contender]:
    """See _discard.py."""
    port = free_port()
    arguments = ["--port", str(port), "--web-processes", str(processes)]
    process = launch(places, "_discard.py", arguments, folder / "discard.log")
    with ending(process):
        wait(port)
        yield Contender("receive and discard", port, process.pid)


@contextlib.contextmanager
def sendfile(folder: Path, places: Places, file: Path) -> Iterator[Contender]:
    """See _sendfile.py."""
    port = free_port()
    arguments = ["--port", str(port), "--file", str(file)]
    process = launch(places, "_sendfile.py", arguments, folder / "sendfile.log")
    with ending(process):
        _listening(port)
        yield Contender("sendfile alone", port, process.pid)


def launch(
    places: Places, script: str, arguments: list[str], log: Path, path: Path | None = None
) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    command = [sys.executable, str(ROOT / "bench" / script), *arguments]
    return start(places, command, log, environment)


def start(
    places: Places, command: list[str], log: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a program on the server's processors."""
    with log.open("ab") as said:
        return subprocess.Popen(
            places.command(*command), stdout=said, stderr=said, env=environment
        )


@contextlib.contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends it with all its children when the block ends."""
    family: list[int] = []
    try:
        yield
    finally:
        family = descendants(process.pid)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def wait(port: int, path: str = "/health/ready") -> None:
    """Until it answers, whatever."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False)
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _listening(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _form_parser() -> Path:
    place = ROOT / ".cache" / "bench" / FORM_PARSER.replace("==", "-")
    if not place.exists():
        print(f"Installing {FORM_PARSER}, which FastAPI's own forms need.", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(place), FORM_PARSER], check=True)
    return place
