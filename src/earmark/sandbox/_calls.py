"""Takes system calls away that no decoder needs: the wall that holds without namespaces, too.

Landlock does not know of UDP, of sockets in files, nor of other processes' memory. A filter in
the kernel looks at each call's number and answers that it is not permitted; it cannot be taken
off again.

Source: https://docs.kernel.org/userspace-api/seccomp_filter.html, linux/filter.h, linux/audit.h
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from itertools import chain

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

# Classes of a BPF instruction, from linux/bpf_common.h: load a word, compare, return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | 1  # with EPERM
_KILL = 0x80000000

_X32 = 0x40000000
"""From here on numbers mean the same calls by another table, on x86-64."""

_COMMON = (
    ("pidfd_send_signal", 424),
    ("io_uring_setup", 425),
    ("open_tree", 428),
    ("move_mount", 429),
    ("fsopen", 430),
    ("pidfd_getfd", 438),
)
"""The same on every architecture. What is done through a ring passes no filter."""

_REFUSED = {
    "x86_64": (
        0xC000003E,
        (
            *(41, 53, 42, 43, 49, 50, 288, 44, 46, 307),  # socket … sendmmsg
            *(101, 310, 311, 312),  # ptrace, process_vm_readv, process_vm_writev, kcmp
            *(129, 297),  # rt_sigqueueinfo, rt_tgsigqueueinfo
            *(59, 322),  # execve, execveat
            *(165, 166, 155, 161, 272, 308),  # mount, umount2, pivot_root, chroot, unshare, setns
            *(321, 298, 323, 248, 249, 250),  # bpf, perf_event_open, userfaultfd, keys
        ),
        (62, 200, 234, 302),  # kill, tkill, tgkill, prlimit64
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(198, 199, 203, 202, 200, 201, 242, 206, 211, 269),
            *(117, 270, 271, 272),
            *(138, 240),
            *(221, 281),
            *(40, 39, 41, 51, 97, 268),
            *(280, 241, 282, 217, 218, 219),
        ),
        (129, 130, 131, 261),
    ),
}
"""By machine: how the kernel calls it, calls that are refused, and calls that are allowed only
towards the process itself, by its id in their first argument."""


def refuse(libc: ctypes.CDLL) -> bool:
    """Take the calls away; says whether the kernel did so. Needs `PR_SET_NO_NEW_PRIVS`."""
    known = _REFUSED.get(platform.machine())
    if known is None:
        return False
    program = _program(*known)
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0)


def _program(architecture: int, refused: tuple[int, ...], own: tuple[int, ...]) -> bytes:
    """The filter: every call that it names is refused, all others are allowed."""
    numbers = (*refused, *(number for _, number in _COMMON))
    head = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_IF_EQUAL, architecture, if_true=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
        _step(_IF_AT_LEAST, _X32, if_false=1),
        _step(_RETURN, _REFUSE),
    ]
    always = chain.from_iterable(
        (_step(_IF_EQUAL, number, if_false=1), _step(_RETURN, _REFUSE)) for number in numbers
    )
    to_itself = chain.from_iterable(
        (
            _step(_IF_EQUAL, number, if_false=5),
            _step(_LOAD, _FIRST_ARGUMENT_AT),
            _step(_IF_EQUAL, 0, if_true=2),
            _step(_IF_EQUAL, os.getpid(), if_true=1),
            _step(_RETURN, _REFUSE),
            _step(_RETURN, _ALLOW),
        )
        for number in own
    )
    return b"".join([*head, *always, *to_itself, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the jumps count instructions that are passed over."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
