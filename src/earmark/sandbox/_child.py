"""The child's half: put on the limits, raise the walls, call one function, answer.

Started by its path with `python -I -S`, so that no environment variable and no site hook runs.
Everything before `_call` happens before the first foreign byte is read.

The answer is one line of JSON, `{"kind": …, "value": …}`, and after it the blob's bytes. A blob
that comes in pieces is sent as it comes; if it breaks off, the exit status says so.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import pkgutil
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO

_OUT_OF_MEMORY = b'{"kind": "memory", "value": null}\n'
"""Made beforehand, since nothing may be left to make it with."""

_OPEN_FILES = 64

# Numbers from linux/prctl.h, linux/sched.h and asm-generic/unistd.h; those of Landlock are the
# same on every architecture.
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446

_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many file access rights each version of Landlock knows; from version 5 on, 16."""


def main() -> None:
    """Carry out the order in the only argument."""
    order = json.loads(sys.argv[1])
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)  # a stray print of a library must not mix with the answer
        limit(order["memory_bytes"], order["cpu_seconds"])
        sys.path += order["folders"]
        sys.excepthook = _complain
        if sys.platform == "linux":
            _raise_walls(order)
        answer.writelines(_call(order["function"], order["arguments"]))
    os._exit(0)


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Put on resource limits that cannot be taken off again."""
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # already lower, or unknown to this system
            resource.setrlimit(kind, (most, most))
    # SIGXCPU at the soft limit tells the parent the cause; the hard one, SIGKILL, would not.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))


def attempt(_file: BinaryIO, *, path: str, port: int, parent: int) -> tuple[list[str], bytes]:
    """Try to break out; tell by which ways that went.

    Args:
        path: a file that was not given; "files" if it can be read.
        port: of this machine; "network" if it can be connected to. It is sent a datagram as well,
            of which only the receiver knows whether it arrives.
        parent: a process; "processes" if it can be looked into or be sent signals.
    """
    open_ways = []
    with suppress(OSError), Path(path).open("rb"):
        open_ways.append("files")
    address = ("127.0.0.1", port)
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"?", address)
    with suppress(OSError), socket.create_connection(address, timeout=2):
        open_ways.append("network")
    with suppress(OSError):
        os.kill(parent, 0)
        open_ways.append("processes")
    with suppress(OSError), Path(f"/proc/{parent}/environ").open("rb"):
        open_ways.append("processes")
    return list(dict.fromkeys(open_ways)), b""


def _call(function: str, arguments: dict[str, Any]) -> Iterable[bytes]:
    from earmark.errors import MediaError  # noqa: PLC0415 - its folder is known only now
    from earmark.tracebacks import outline  # noqa: PLC0415

    try:
        file = os.fdopen(0, "rb", buffering=0, closefd=False)
        value, blob = pkgutil.resolve_name(function)(file, **arguments)
        pieces = iter((blob,) if isinstance(blob, bytes) else blob)
        first = next(pieces, b"")  # what fails before it can still be told in words
        return itertools.chain((_line("value", value), first), pieces)
    except MediaError as error:
        return (_line("media_error", [error.code, error.message]),)
    except MemoryError:
        return (_OUT_OF_MEMORY,)
    except Exception as error:  # noqa: BLE001 - the edge of this process: the parent raises it again
        return (_line("error", outline(error, frames=8)),)


def _complain(_kind: type[BaseException], error: BaseException, _traceback: object) -> None:
    """What broke off an answer, without its message: that may quote the file."""
    from earmark.tracebacks import outline  # noqa: PLC0415 - its folder is known only now

    sys.stderr.write(outline(error, frames=8))


def _line(kind: str, value: object) -> bytes:
    return json.dumps({"kind": kind, "value": value}).encode() + b"\n"


def _raise_walls(order: dict[str, Any]) -> None:
    """Raise those of the walls that are asked for and that the kernel has."""
    from earmark.sandbox import _calls  # noqa: PLC0415 - its folder is known only now

    libc = ctypes.CDLL(None, use_errno=True)
    if "namespaces" in order["walls"]:
        _close_network(libc)
    _die_with(libc, order["parent"])
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if "files" in order["walls"]:
        _hide_files(libc, order["readable"])
    if "calls" in order["walls"]:
        _calls.refuse(libc)


def _close_network(libc: ctypes.CDLL) -> None:
    """Move into a network without any interface; with a user namespace where that is needed.

    The user namespace also takes away every privilege over what lies outside it.
    """
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        libc.unshare(_CLONE_NEWNET)


def _die_with(libc: ctypes.CDLL, parent: int) -> None:
    """Be killed when the parent dies. After `unshare`: a change of credentials undoes it."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _hide_files(libc: ctypes.CDLL, readable: Sequence[str]) -> None:
    """Leave only the interpreter and its libraries readable, and nothing writable.

    Also forbids TCP, signals and abstract sockets where the kernel's Landlock can.

    Source: https://docs.kernel.org/userspace-api/landlock.html
    """
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    handled = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    tcp = 0b11 if version >= 4 else 0  # noqa: PLR2004 - Landlock's version history
    scopes = 0b11 if version >= 6 else 0  # noqa: PLR2004
    attributes = struct.pack("=QQQ", handled, tcp, scopes)
    size = 24 if scopes else 16 if tcp else 8
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, size, 0)
    for path in readable:
        _allow(libc, ruleset, path)
    libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    rights = _EXECUTE | _READ_FILE | (_READ_DIR if Path(path).is_dir() else 0)
    with suppress(FileNotFoundError):
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        libc.syscall(_LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, folder), 0)
        os.close(folder)


if __name__ == "__main__":
    main()
