"""What the tests of the sandbox let its child do."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from earmark.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_SET_NAME = 15  # linux/prctl.h

_LINE = "a line of the file"

Result = tuple[object, bytes]


def echo(file: BinaryIO, *, times: int) -> Result:
    data = file.read()
    return {"read": len(data)}, data * times


def chatter(_file: BinaryIO) -> Result:
    print("a stray print", flush=True)
    os.write(1, b"a library's own\n")
    return "answer", b""


def refuse(_file: BinaryIO) -> Result:
    raise MediaError("no_audio", "Nothing to hear.")


def stumble(_file: BinaryIO) -> Result:
    raise LookupError(_LINE)


def break_off(_file: BinaryIO) -> tuple[object, Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        yield b"begun"
        raise LookupError(_LINE)

    return None, pieces()


def leave(_file: BinaryIO) -> Result:
    os.write(2, b"no time for this")
    os._exit(3)


def babble(_file: BinaryIO) -> Result:
    os.write(3, b"[1, 2]\n")
    os._exit(0)


def flood(_file: BinaryIO) -> Result:
    while True:
        os.write(3, bytes(1 << 16))


def wail(_file: BinaryIO) -> Result:
    sys.stderr.write("woe! " * 100_000 + "the end")
    sys.stderr.flush()
    os.abort()


def die(_file: BinaryIO, *, number: int) -> Result:
    os.kill(os.getpid(), number)
    return None, b""


def swell(_file: BinaryIO, *, megabytes: int) -> Result:
    return len(bytearray(megabytes << 20)) >> 20, b""


def spin(_file: BinaryIO) -> Result:
    while True:
        pass


def sleep(_file: BinaryIO, *, tag: str = "") -> Result:
    """Under a name by which it is seen from outside that all walls stand."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"asleep")
    time.sleep(60)
    return tag, b""


def close_and_sleep(_file: BinaryIO) -> Result:
    for descriptor in (1, 2, 3):
        os.close(descriptor)
    time.sleep(60)
    return None, b""


def fork_and_flood(file: BinaryIO) -> Result:
    return flood(file) if os.fork() else sleep(file)


def write(_file: BinaryIO, *, path: str) -> Result:
    with suppress(OSError), Path(path).open("r+b") as other:
        other.write(b"X")
        other.flush()
        return True, b""
    return False, b""


def write_through(_file: BinaryIO) -> Result:
    with suppress(OSError):
        return os.write(0, b"X") > 0, b""
    return False, b""


def environment(_file: BinaryIO) -> Result:
    return dict(os.environ), b""


def descriptors(_file: BinaryIO) -> Result:
    def is_open(number: int) -> bool:
        with suppress(OSError):
            os.fstat(number)
            return True
        return False

    return [number for number in range(64) if is_open(number)], b""


def folder(_file: BinaryIO) -> Result:
    return str(Path.cwd()), b""


def resources(_file: BinaryIO) -> Result:
    limits = {
        "core": resource.RLIMIT_CORE,
        "files": resource.RLIMIT_NOFILE,
        "size": resource.RLIMIT_FSIZE,
    }
    return {name: resource.getrlimit(kind)[1] for name, kind in limits.items()}, b""


def break_out(_file: BinaryIO, *, path: str, port: int) -> Result:
    tried = {"read": False, "listed": False, "connected": False, "sent": False}
    with suppress(OSError):
        Path(path).read_bytes()
        tried["read"] = True
    with suppress(OSError):
        tried["listed"] = any(Path(path).parent.iterdir())
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        tried["connected"] = True
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"X", ("127.0.0.1", port))
        tried["sent"] = True
    return tried, b""


def obey(file: BinaryIO, **_: object) -> Result:
    """Does what the file says at its end."""
    content = file.read()
    if content.endswith(b"crash"):
        ctypes.string_at(0)
    if content.endswith(b"abort"):
        os.abort()
    if content.endswith(b"spin"):
        spin(file)
    return swell(file, megabytes=4096)
