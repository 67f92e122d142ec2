"""Lies beside every attack in its artifact: has it try things, and say what came of them."""

import ctypes
import errno
import json
import os
import time
from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_NAME = 15
# All that an attack leaves behind bears this name, and can be looked for.
libc.prctl(PR_SET_NAME, os.environ.get("ATTACK", "attack").encode(), 0, 0, 0)

# A slow import gets a task a zygote of its own.
time.sleep(float(os.environ.get("SLOW_S", "0")))

INTEL = os.uname().machine == "x86_64"


class Contained(Exception):
    """Every single attempt was refused."""


class Refused(Exception):
    """By an answer, not by the kernel; the text says with what."""


def attempts(tries: dict[str, Callable[[], object]]) -> dict[str, dict[str, str]]:
    """Tries everything; raises Contained, with the reason for each, when nothing went through."""
    achieved: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, attempt in tries.items():
        try:
            achieved[name] = repr(attempt())[:200]
        except Exception as error:
            refused[name] = why(error)
    if not achieved:
        raise Contained(json.dumps(refused))
    return {"achieved": achieved, "refused": refused}


def others(pids: dict[str, int]) -> dict[str, int]:
    """Without itself."""
    return {whose: pid for whose, pid in pids.items() if pid != os.getpid()}


def why(error: Exception) -> str:
    """`EACCES` for example."""
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return str(error) if isinstance(error, Refused) else type(error).__name__


def call(name: str, *arguments: object) -> int:
    """A function of the C library; raises OSError when it returns -1."""
    return checked(libc[name](*arguments))


def syscall(number: int, *arguments: object) -> int:
    """A system call by its number; raises OSError."""
    libc.syscall.restype = ctypes.c_long
    return checked(libc.syscall(ctypes.c_long(number), *arguments))


def checked(result: int) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
