"""A child process with limits, in which foreign bytes are decoded.

The child gets the file as its standard input, already open, and answers on its standard output;
it is given no path, no network, no secret and no more memory or time than `Limits` says.
`_child.py` is the other half. Neither half knows what is being decoded.

    SandboxError
    ├── DeadlineExceededError    it took too long, by the wall clock or in CPU time
    ├── MemoryExceededError      it needed more memory than allowed
    ├── CrashedError             a signal ended it
    └── ChildFailedError         it answered nothing usable: a fault in our code or set-up
"""

from __future__ import annotations

import functools
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from earmark.errors import EarmarkError, MediaError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

_READ_BYTES = 1 << 16
_COMPLAINT_BYTES = 4096
"""How much of the child's standard error is kept: its end, where the cause stands."""

_SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")
"""Where the dynamic linker looks; the interpreter's own folders come on top."""

_WALLS = ("namespaces", "files", "calls")
"""What the child raises by itself, within bubblewrap or without it: a network of its own, Landlock
and a filter of system calls, each where the kernel has it."""


class SandboxError(EarmarkError):
    """The child did not answer. Subclasses say why."""


class DeadlineExceededError(SandboxError):
    """The child took longer than its limits allow."""


class MemoryExceededError(SandboxError):
    """The child needed more memory than its limits allow."""


_DAMAGE_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP}
)


class CrashedError(SandboxError):
    """A signal ended the child.

    Attributes:
        signal: the signal's number.
        by_file: whether it speaks against the file. Any other, such as SIGKILL and SIGTERM, comes
            from outside: an operator, the kernel short of memory.
    """

    def __init__(self, number: int, complaint: str) -> None:
        super().__init__(f"ended by signal {number}: {complaint}")
        self.signal = number
        self.by_file = number in _DAMAGE_SIGNALS


class ChildFailedError(SandboxError):
    """The child ended without a usable answer; the message carries its last words."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use.

    Attributes:
        memory_bytes: address space. PyAV and numpy map 200 MB of it before the first byte.
        cpu_seconds: processor time.
        wall_seconds: time by the clock, from the start of the child to the end of its answer.
        output_bytes: the answer's size, blob included, where it is kept in memory.
        sink_bytes: the blob's size, where it goes to a file.
    """

    memory_bytes: int = 1 << 30
    cpu_seconds: int = 600
    wall_seconds: float = 900.0
    output_bytes: int = 32 << 20
    sink_bytes: int = 16 << 30


@dataclass(frozen=True, slots=True)
class Answer:
    """What the function in the child returned: a JSON value and bytes, which may be empty."""

    value: Any
    blob: bytes


@dataclass(frozen=True, slots=True)
class Isolation:
    """What a child was seen to reach, beside the resource limits that always hold.

    Attributes:
        bubblewrap: whether children run inside bubblewrap.
        open_ways: of "files" (others than its own), "network" and "processes" (others than
            itself), those that a child reached when it tried.
    """

    bubblewrap: bool
    open_ways: frozenset[str]

    @property
    def complete(self) -> bool:
        """Whether a decoder that was taken over reaches nothing but its own file."""
        return not self.open_ways


def run(
    function: str,
    path: Path,
    *,
    limits: Limits,
    arguments: Mapping[str, Any] | None = None,
    sink: BinaryIO | None = None,
) -> Answer:
    """Run one function over one file in a fresh, confined child process.

    Args:
        function: "module:name" of `name(file, **arguments) -> (JSON value, blob)`, where `file`
            is the open file, binary, seekable and unbuffered, and `blob` is bytes, or pieces of
            bytes that are made as they are sent.
        path: the file, opened here; the child never learns its name.
        limits: what the child may use.
        arguments: JSON values handed to the function; they are visible in the process list.
        sink: where the blob goes instead of into the answer; for what memory should not hold.

    Raises:
        MediaError: the function raised it: the file is at fault.
        DeadlineExceededError: too slow.
        MemoryExceededError: too large.
        CrashedError: a signal ended the child.
        ChildFailedError: the function raised anything else, or its answer cannot be used.
        OSError: the file cannot be opened.
    """
    return _run(_launcher(), function, path, limits=limits, arguments=arguments or {}, sink=sink)


@functools.cache
def available() -> Isolation:
    """Find out which isolation holds here, by letting a child try to break out. Cached."""
    return _inspect(_launcher())


def description() -> str:
    """Say in one sentence for an operator which isolation holds; loud when it is incomplete."""
    return _describe(available())


def _describe(isolation: Isolation) -> str:
    if isolation.complete:
        means = "bubblewrap" if isolation.bubblewrap else "Landlock and a filter of system calls"
        return f"Decoders run behind {means}: no network, no files but their own, no processes."
    reached = [words for way, words in _WAYS.items() if way in isolation.open_ways]
    return (
        f"WARNING: a decoder taken over by a hostile file could reach {' and '.join(reached)}. "
        "Memory and time are limited."
    )


MEND = (
    "Install bubblewrap (Debian: apt install bubblewrap) and allow user namespaces, or run on "
    "Linux 5.13 or later with Landlock switched on."
)
"""What an operator does about an isolation that is not complete."""

_WAYS = {
    "files": "files of this user",
    "network": "the network",
    "processes": "other processes of this user",
}


def _inspect(launcher: tuple[str, ...]) -> Isolation:
    with (
        tempfile.NamedTemporaryFile() as secret,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        path = Path(secret.name)
        port = listener.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        datagrams.setblocking(False)
        attempt = {"path": secret.name, "port": port, "parent": os.getpid()}
        answer = _run(
            launcher, f"{__name__}._child:attempt", path, limits=_TRIAL, arguments=attempt
        )
        with suppress(BlockingIOError):
            datagrams.recv(1)
            answer.value.append("network")
    return Isolation(bubblewrap=bool(launcher), open_ways=frozenset(answer.value))


_TRIAL = Limits(cpu_seconds=10, wall_seconds=20.0, output_bytes=_READ_BYTES)


@functools.cache
def _launcher() -> tuple[str, ...]:
    """The program that starts the interpreter: bubblewrap if it works here, else none."""
    program = shutil.which("bwrap")
    if program is None:
        return ()
    try:
        _inspect((program,))
    except (SandboxError, OSError):  # no user namespaces: in most containers
        return ()
    return (program,)


def _start(launcher: tuple[str, ...]) -> list[str]:
    """The words before the interpreter."""
    if not launcher:
        return []
    words = [*launcher, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--chdir", "/"]
    for folder in _readable():
        words += ["--ro-bind-try", folder, folder]
    return [*words, "--"]


def _import_folders() -> list[str]:
    """Where the child finds our package and the installed ones.

    Chosen by name from `sys.path`: that may also hold the working directory, and with it
    recordings.
    """
    installed = [
        entry for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"}
    ]
    return [str(Path(__file__).parents[2]), *installed]


def _readable() -> list[str]:
    prefixes = (sys.base_prefix, sys.base_exec_prefix)
    return list(dict.fromkeys([*prefixes, *_import_folders(), *_SYSTEM_FOLDERS]))


def _environment() -> dict[str, str]:
    """Nothing of ours but where libraries lie; one thread, since each maps memory of its own."""
    environment = {"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    if "LD_LIBRARY_PATH" in os.environ:
        environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return environment


def _command(
    launcher: tuple[str, ...], function: str, limits: Limits, arguments: Mapping[str, Any]
) -> list[str]:
    order = {
        "function": function,
        "arguments": arguments,
        "folders": _import_folders(),
        "readable": _readable(),
        "walls": _WALLS,
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds,
        "parent": 0 if launcher else os.getpid(),
    }
    child = str(Path(__file__).with_name("_child.py"))
    interpreter = os.path.realpath(sys.executable)
    return [*_start(launcher), interpreter, "-I", "-S", "-B", child, json.dumps(order)]


def _run(
    launcher: tuple[str, ...],
    function: str,
    path: Path,
    *,
    limits: Limits,
    arguments: Mapping[str, Any],
    sink: BinaryIO | None = None,
) -> Answer:
    with path.open("rb", buffering=0) as file:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and our own words
            _command(launcher, function, limits, arguments),
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
    with child:
        try:
            output, complaint = _collect(child, limits, sink)
        finally:
            _kill(child)
    return _judge(child.returncode, output, complaint)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's whole session, unless the child was reaped: its id may be reused."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


class _Output(bytearray):
    """The answer as it comes in; where there is a sink, what follows the first line goes there."""

    def __init__(self, limits: Limits, sink: BinaryIO | None) -> None:
        super().__init__()
        self._limits = limits
        self._sink = sink
        self._sunk_bytes = -1

    @override
    def extend(self, data: Any) -> None:
        """Takes what was read.

        Raises:
            ChildFailedError: it is more than the limits allow.
            OSError: the sink cannot take it.
        """
        if self._sink is None or self._sunk_bytes < 0:
            super().extend(data)
            end = self.find(b"\n") + 1
            if self._sink is None or not end:
                self._check(len(self), self._limits.output_bytes)
                return
            self._sunk_bytes, data = 0, self[end:]
            del self[end:]
        self._sunk_bytes += len(data)
        self._check(self._sunk_bytes, self._limits.sink_bytes)
        self._sink.write(data)

    def _check(self, size: int, most: int) -> None:
        if size > most:
            raise ChildFailedError(f"answered more than {most} bytes")


def _collect(
    child: subprocess.Popen[bytes], limits: Limits, sink: BinaryIO | None
) -> tuple[bytes, str]:
    """Read answer and complaint to their ends, within the deadline and the size."""
    deadline = time.monotonic() + limits.wall_seconds
    output, complaint = _Output(limits, sink), bytearray()
    with selectors.DefaultSelector() as waiting:
        for stream, taker in ((child.stdout, output), (child.stderr, complaint)):
            if stream is not None:
                waiting.register(stream, selectors.EVENT_READ, taker)
        while waiting.get_map():
            ready = waiting.select(deadline - time.monotonic())
            if time.monotonic() >= deadline:
                raise DeadlineExceededError(f"no answer in {limits.wall_seconds} s")
            for key, _ in ready:
                data = os.read(key.fd, _READ_BYTES)
                key.data.extend(data)
                if not data:
                    waiting.unregister(key.fileobj)
            del complaint[:-_COMPLAINT_BYTES]
    try:
        child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceededError(f"did not end in {limits.wall_seconds} s") from error
    return bytes(output), complaint.decode(errors="replace").strip()


def _judge(code: int, output: bytes, complaint: str) -> Answer:
    """Turn an exit code and the bytes sent into an answer, or raise what `run` promises."""
    # bubblewrap, like a shell, reports the signal that ended its child as 128 + its number.
    number = -code if code < 0 else max(code - 128, 0)
    if number == signal.SIGXCPU:
        raise DeadlineExceededError("used up its processor time")
    if number:
        raise CrashedError(number, complaint)
    head, _, blob = output.partition(b"\n")
    try:
        reply = json.loads(head)
        kind, value = reply["kind"], reply["value"]
    except (ValueError, TypeError, KeyError) as error:
        raise ChildFailedError(f"exit code {code}: {complaint}") from error
    if kind == "media_error":
        raise MediaError(*value)
    if kind == "memory":
        raise MemoryExceededError("not enough memory within the limit")
    if kind == "error" or code:
        raise ChildFailedError(value if kind == "error" else f"exit code {code}: {complaint}")
    return Answer(value, blob)
