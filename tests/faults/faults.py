"""What tests of faults share: what callers were told, file systems that fill up, mutants."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import random
import secrets
import shutil
import subprocess
import threading
import wave
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from earmark.intake.stage import BATCH_BYTES
from serving import PATIENCE_SECONDS, ROOT, Caller, Server, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TAKEN = "An interaction with this file name already exists."
MEBIBYTE = 1 << 20
STAGED_BYTES = 5 * MEBIBYTE // 2
"""Of a recording of which half is more than what is written to the storage at once."""


def recording(size_bytes: int = 20_000) -> bytes:
    """A recording of noise of about that size, different each time."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(random.randbytes(size_bytes // 2 * 2))
    return made.getvalue()


def _large(staging: Path) -> int:
    """How many uploads are on their way in; what a readiness check stages is small."""
    sizes = []
    for path in staging.iterdir():
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sum(size >= BATCH_BYTES for size in sizes)


class BrokenPromiseError(AssertionError):
    """What was acknowledged is not there, or not as it was sent."""


@dataclass
class Ledger:
    """What one caller was told of its uploads, and what it sent.

    Attributes:
        kept: name → id, of each 200 and of each duplicate with equal bytes.
        answers: how often each answer came.
        lost_allowed: whether a connection may end without an answer.
        patience_seconds: in which the service serves again once a fault is over.
    """

    caller: Caller
    lost_allowed: bool = False
    patience_seconds: float = PATIENCE_SECONDS
    sent: dict[str, bytes] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    folder: str = field(default_factory=lambda: secrets.token_hex(4))
    wrong: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def upload(self, name: str, content: bytes | None = None) -> int:
        """Uploads; returns the status, 0 for a connection that ended without an answer."""
        content = self.sent.setdefault(name, recording() if content is None else content)
        with self.caller.another() as http:
            try:
                answer = self.caller.upload(f"{self.folder}/{name}", content, http)
            except httpx.TransportError as error:
                self._unanswered(name, error)
                return 0
        self.note(name, answer)
        return answer.status_code

    def note(self, name: str, answer: httpx.Response) -> None:
        """Keeps an answer, and judges its form."""
        with self._lock:
            told = str(answer.status_code)
            if answer.status_code == 503:
                wait = answer.headers.get("Retry-After", "")
                told += f" in {wait} s"
                if not wait.isdigit():
                    self.wrong.append(f"{name}: 503 without Retry-After")
            self.answers[told] += 1
            if answer.status_code == 200:
                self.kept[name] = answer.json()["id"]
            elif answer.text == TAKEN and answer.headers["Earmark-Duplicate"] == "identical":
                self.kept[name] = answer.headers["Location"].rpartition("/")[2]
            elif answer.status_code != 503 and not 400 <= answer.status_code < 500:
                self.wrong.append(f"{name}: {answer.status_code} {answer.text}")

    def _unanswered(self, name: str, error: httpx.TransportError) -> None:
        with self._lock:
            self.answers["no answer"] += 1
            if not self.lost_allowed:
                self.wrong.append(f"{name}: {type(error).__name__}")

    def upload_until(self, status: int, name: str, most: int = 60) -> None:
        """Uploads small recordings, `name-0` and so on, until one is answered so."""
        for number in range(most):
            if self.upload(f"{name}-{number}.wav") == status:
                return
        raise AssertionError(f"{name}: never {status}: {self.told}")

    @contextlib.contextmanager
    def held(self, staging: Path, *names: str, size_bytes: int = STAGED_BYTES) -> Iterator[None]:
        """Uploads of which half is staged when the block begins; the rest comes at its end."""
        going, before = threading.Event(), _large(staging)
        threads = []
        for name in names:
            self.sent[name] = recording(size_bytes)
            threads.append(threading.Thread(target=self._upload_slowly, args=(name, going)))
            threads[-1].start()
        try:
            until(lambda: _large(staging) >= before + len(names), "staged")
            yield
        finally:
            going.set()
            for thread in threads:
                thread.join()

    def _upload_slowly(self, name: str, going: threading.Event) -> None:
        facts = json.dumps({"FileName": f"{self.folder}/{name}", "UploadType": "Audio"})
        content, part = self.sent[name], '--b\r\nContent-Disposition: form-data; name="'
        form = f'{part}metadata"\r\n\r\n{facts}\r\n{part}file"; filename="{name}"\r\n\r\n'

        def body() -> Iterator[bytes]:
            yield form.encode() + content[: len(content) // 2]
            going.wait()
            yield content[len(content) // 2 :]
            yield b"\r\n--b--\r\n"

        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        with self.caller.another() as http:
            try:
                answer = http.post("/Media/Upload", content=body(), headers=kind)
            except httpx.TransportError as error:
                self._unanswered(name, error)
            else:
                self.note(name, answer)

    def complete(self) -> None:
        """Once the fault is over: what was refused is taken now, as a caller would send it."""
        for name in [name for name in self.sent if name not in self.kept]:
            done = functools.partial(self.upload, name)
            until(lambda done=done: done() in (200, 400), f"{name} taken", self.patience_seconds)
            assert name in self.kept, (name, self.answers)

    def check(self) -> str:
        """Reads back all that was kept, processed; returns a summary.

        Raises:
            BrokenPromiseError: something is not there, not equal or not ready.
        """
        assert not self.wrong, self.wrong
        for name, id_ in self.kept.items():
            answer = self.caller.http.get(f"/v1/interactions/{id_}/media")
            if answer.status_code != 200:
                raise BrokenPromiseError(f"{name}: {answer.status_code} {answer.text}")
            if answer.content != self.sent[name]:
                raise BrokenPromiseError(f"{name}: other bytes than were sent")
            record = until(functools.partial(self._ended, id_), "ended", self.patience_seconds)
            assert record["sha256"] == hashlib.sha256(self.sent[name]).hexdigest()
            assert record["status"] == "ready", record["steps"]
        return f"{len(self.kept)} of {len(self.kept)}, ready"

    def _ended(self, id_: str) -> dict[str, Any] | None:
        record = self.caller.record(id_)
        return None if record["status"] == "processing" else record

    @property
    def told(self) -> str:
        """The answers in a few words."""
        return ", ".join(f"{count} x {answer}" for answer, count in sorted(self.answers.items()))


@contextlib.contextmanager
def caught(mutant: Mutant, fault: str, record_property: Callable[..., None]) -> Iterator[None]:
    """Expects that the block's test fails, since a defence is off; and notes it."""
    with pytest.raises((AssertionError, httpx.TransportError)) as red:
        yield
    print(mutant, red.value)
    record_property("fault", (fault, "", "", f"{mutant.name}: caught"))


def lines(server: Server, since: int = 0) -> list[str]:
    """What the server's log says from a line on."""
    return server.log.read_text().splitlines()[since:]


# File systems of their own


@dataclass
class Disk:
    """A small ext4 that can be filled, break, and be mended, while it is used."""

    path: Path
    image: Path

    def free_bytes(self) -> int:
        """How much more fits."""
        facts = os.statvfs(self.path)
        return facts.f_bavail * facts.f_frsize

    def fill(self, but_bytes: int = 0) -> None:
        """Takes all room but so much."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            file.write(bytes(max(0, self.free_bytes() - but_bytes)))
            for size in () if but_bytes else (65536, 4096, 512):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        """Gives the room back."""
        (self.path / "filler").unlink(missing_ok=True)

    def fail(self) -> None:
        """Has the kernel believe that it met an error on it: what was not synced is lost.

        Nothing can be written from now on, nor it be made writable again.
        """
        _run("mount", "-o", "remount,abort", str(self.path))

    def mend(self) -> None:
        """What an operator does then: checks it, and mounts it again in the same place."""
        _run("umount", "-l", str(self.path))
        mended = self.image.with_name(f"{self.image.name}+")  # users of the old one have it still
        shutil.copyfile(self.image, mended)
        self.image = mended
        subprocess.run(["e2fsck", "-fy", str(mended)], check=False, capture_output=True)
        self.mount()

    def mount(self) -> None:
        """Mounts it."""
        _run("mount", "-o", "loop,errors=remount-ro", str(self.image), str(self.path))


@contextlib.contextmanager
def disk(folder: Path, size_mib: int) -> Iterator[Disk]:
    """A mounted ext4 of that size, empty; skips loudly where none can be mounted."""
    made = Disk(folder / "disk", folder / "disk.img")
    made.path.mkdir(parents=True)
    if os.geteuid() != 0:
        pytest.skip("file systems of their own need root, which may mount them")
    with made.image.open("wb") as file:
        file.truncate(size_mib * MEBIBYTE)
    _run("mkfs.ext4", "-q", "-m", "0", str(made.image))
    try:
        made.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here, not even by root: {error.stderr}")
    try:
        yield made
    finally:
        _run("umount", "-l", str(made.path))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


# Programs in the place of `earmark`, and mutants


def preloaded(*libraries: str) -> tuple[str, ...]:
    """What begins a `Server.program` that has these libraries before all others."""
    found = [str(path) for name in libraries for path in Path("/usr/lib").glob(f"**/{name}")]
    if len(found) != len(libraries):
        pytest.skip(f"not installed, though `./run test` does that: {libraries}")
    return ("env", f"LD_PRELOAD={':'.join(found)}")


@dataclass(frozen=True)
class Mutant:
    """A defence switched off: an exact replacement of text in one module."""

    name: str
    path: str
    before: str
    after: str

    def plant(self, source: Path) -> None:
        """Changes a copy of the source."""
        module = source / "earmark" / self.path
        text = module.read_text()
        assert text.count(self.before) == 1, f"{self.path} has changed: mend this mutant"
        module.write_text(text.replace(self.before, self.after))


def planted(server: Server, mutants: Sequence[Mutant], folder: Path) -> None:
    """Has a server run with mutants, if there are any."""
    if not mutants:
        return
    copy = folder / "mutant"
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "src", copy, ignore=ignored)
    for mutant in mutants:
        mutant.plant(copy)
    server.program = ("env", f"PYTHONPATH={copy}", *server.program)


def label(given: Any) -> str:
    """Of a parameter, in the names of tests."""
    return str(given.name.replace(" ", "-") if isinstance(given, Mutant) else given.__name__)


def name_of(fault: Callable[..., Ledger]) -> str:
    """What the table calls a fault: its docstring up to the colon."""
    return (fault.__doc__ or "").partition(":")[0]


SWALLOWED = Mutant(
    "errors of the storage are swallowed",
    "storage/local.py",
    "    except OSError as error:\n        wait =",
    "    except OSError as error:\n        return\n        wait =",
)
UNCOMMITTED = Mutant(
    "acknowledged though the commit failed",
    "intake/__init__.py",
    "        return await asyncio.shield(committing)\n",
    "        try:\n"
    "            return await asyncio.shield(committing)\n"
    "        except RefusedError:\n"
    "            raise\n"
    "        except Exception:\n"
    "            name, size = submission.file_name, stage.size_bytes\n"
    "            return Accepted(stage.id, name, size, bytes(32), now())\n",
)
