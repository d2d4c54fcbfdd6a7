"""A decoder that was taken over, told to escape; run as a program, so that it can be another user.

Prints as JSON what it reached of what this process, of the same user, holds ready next door.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)

MODES: dict[str, tuple[str, ...]] = {
    "bubblewrap": ("namespaces", "files", "calls"),
    "landlock": ("namespaces", "files", "calls"),
    "landlock without namespaces": ("files", "calls"),
    "bubblewrap alone": (),
    "landlock alone": ("files",),
    "nothing": (),
}
"""The walls that the child raises, by mode; those with bubblewrap in their name run within it."""


def main(mode: str) -> None:
    """Has a child escape in one of the modes."""
    from earmark import sandbox

    sandbox._WALLS = MODES[mode]
    folders = [*sandbox._import_folders(), str(Path(__file__).parent)]
    sandbox._import_folders = lambda: folders
    if "bubblewrap" not in mode:
        os.environ["PATH"] = "/nowhere"
    launcher = sandbox._launcher()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "own").write_bytes(b"own")
        (folder / "neighbour").write_bytes(b"neighbour")
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        for name in (f"{folder}/socket", f"\0earmark-{os.getpid()}"):
            unix = stack.enter_context(socket.socket(socket.AF_UNIX))
            unix.bind(name)
            unix.listen()
        answer = sandbox._run(
            launcher,
            "escaping:escape",
            folder / "own",
            limits=sandbox.Limits(cpu_seconds=20, wall_seconds=40.0),
            arguments={
                "folder": str(folder),
                "tcp": tcp.getsockname()[1],
                "udp": udp.getsockname()[1],
                "parent": os.getpid(),
            },
        )
        udp.setblocking(False)
        with suppress(
            BlockingIOError
        ):  # sent is not arrived: the child may be in a net of its own
            udp.recv(1)
            answer.value.append("udp")
    told = {
        "bubblewrap": bool(launcher),
        "reached": sorted(answer.value),
        "description": sandbox.description(),
        "user": os.getuid(),
    }
    print(json.dumps(told))


def escape(file: BinaryIO, *, folder: str, tcp: int, udp: int, parent: int) -> object:
    """Runs in the child: tries every way out, and tells of those that went."""
    assert file.read() == b"own"
    neighbour = Path(folder, "neighbour")
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"?", ("127.0.0.1", udp))
    ways: dict[str, Callable[[], object]] = {
        "read": neighbour.read_bytes,
        "list": lambda: list(Path(folder).iterdir()),
        "overwrite": lambda: overwrite(neighbour),
        "create": Path(folder, "new").touch,
        "remove": lambda: neighbour.rename(Path(folder, "moved")),
        "tcp": lambda: socket.create_connection(("127.0.0.1", tcp), timeout=2).close(),
        "unix": lambda: dial(f"{folder}/socket"),
        "abstract": lambda: dial(f"\0earmark-{parent}"),
        "see": Path(f"/proc/{parent}/environ").read_bytes,
        "signal": lambda: os.kill(parent, 0),
        "trace": lambda: trace(parent),
        "memory": lambda: read_memory(parent),
        "execute": execute,
    }
    reached = []
    for name, way in ways.items():
        with suppress(OSError):
            way()
            reached.append(name)
    return reached, b""


def overwrite(path: Path) -> None:
    with path.open("r+b") as other:
        other.write(b"N")


def dial(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect(address)


def trace(process: int) -> None:
    seize = 0x4206  # unlike an attach, it does not stop the process; it ends with this one
    if LIBC.ptrace(seize, process, None, None):
        raise OSError


def read_memory(process: int) -> None:
    place = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(place), 8)
    if LIBC.process_vm_readv(process, vector, 1, vector, 1, 0) < 0:
        number = ctypes.get_errno()
        if number != errno.EFAULT:  # else it may, and nothing is there
            raise OSError(number, "")


def execute() -> None:
    if os.fork() == 0:
        with suppress(OSError):
            os.execv("/usr/bin/true", ["true"])
        os._exit(9)
    if os.waitstatus_to_exitcode(os.wait()[1]):
        raise OSError


if __name__ == "__main__":
    main(sys.argv[1])
