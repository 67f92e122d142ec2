"""System calls that Python has no name for."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x80000

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38

_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_NOSUID: Final = 0x2
_MOUNT_SETATTR: Final = 442
"""The same number on every machine, as all that came after 423."""

_CAPABILITIES: Final = struct.pack("Ii", 0x2008_0522, 0)
_NONE: Final = bytes(24)

MACHINE: Final = os.uname().machine

_libc: Final = ctypes.CDLL(None, use_errno=True)
_long: Final = ctypes.c_long
_text: Final = ctypes.c_char_p
_syscall = _libc.syscall
_syscall.restype = _long
_syscall.argtypes = [_long] * 6
_mount = _libc.mount
_mount.argtypes = [_text, _text, _text, ctypes.c_ulong, _text]
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_unshare = _libc.unshare
_unshare.argtypes = [ctypes.c_int]
_pivot_root = _libc.pivot_root
_pivot_root.argtypes = [_text, _text]
_capset = _libc.capset
_capset.argtypes = [_text, _text]


_setrlimit: Callable[[int, tuple[int, int]], object] = resource.setrlimit
_nothing: Final = _libc.sched_yield
"""Takes any arguments, and succeeds."""


@contextmanager
def idle() -> Iterator[None]:
    """Inside, nothing here has an effect: for rehearsals."""
    global _syscall, _mount, _prctl, _unshare, _capset, _setrlimit
    real = _syscall, _mount, _prctl, _unshare, _capset, _setrlimit
    _syscall = _mount = _prctl = _unshare = _capset = _nothing
    _setrlimit = _ignored
    try:
        yield
    finally:
        _syscall, _mount, _prctl, _unshare, _capset, _setrlimit = real


def _ignored(limit: int, values: tuple[int, int]) -> None:
    """In the place of `setrlimit`."""


def limit(which: int, value: int) -> None:
    """Sets a resource limit for good, to no more than whoever started the service may have.

    Raises:
        OSError, ValueError: the kernel refused.
    """
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    _setrlimit(which, (value, value))


def call(what: str, number: int, *arguments: int) -> int:
    """A system call with at most five arguments.

    Args:
        what: named in the error.
        number: of the call.
        arguments: numbers and addresses.

    Raises:
        OSError: the kernel refused.
    """
    result: int = _syscall(number, *arguments, *(0,) * (5 - len(arguments)))
    if result < 0:
        _refused(what)
    return result


def address(data: bytes) -> int:
    """Where the bytes lie; they have to live until the kernel has read them."""
    return ctypes.cast(_text(data), ctypes.c_void_p).value or 0


def prctl(option: int, value: int, third: int = 0) -> None:
    """Raises OSError."""
    if _prctl(option, value, third, 0, 0) != 0:
        _refused(f"prctl({option})")


def unshare(flags: int) -> None:
    """Raises OSError."""
    if _unshare(flags) != 0:
        _refused(f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Raises OSError."""
    if _mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()) != 0:
        _refused(f"mount {target}")


def bind(source: str, target: str) -> None:
    """Lets what lies at one path lie at another one as well; raises OSError."""
    if _mount(source.encode(), target.encode(), b"", MS_BIND | MS_REC, None) != 0:
        _refused(f"bind {target}")


def seal(target: str) -> None:
    """Makes a mount and those below it read-only, without set-user-id; raises OSError."""
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID, 0, 0, 0)
    path = target.encode() + b"\0"
    at = address(path), _AT_RECURSIVE, address(attributes), len(attributes)
    call(f"seal {target}", _MOUNT_SETATTR, _AT_FDCWD, *at)


def pivot_root(new: str, old: str) -> None:
    """Makes `new` the root directory, and has the former one at `old`; raises OSError."""
    if _pivot_root(new.encode(), old.encode()) != 0:
        _refused("pivot_root")


def drop_capabilities() -> None:
    """Raises OSError."""
    if _capset(_CAPABILITIES, _NONE) != 0:
        _refused("capset")


def _refused(what: str) -> None:
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}")
