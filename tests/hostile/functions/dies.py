"""Dies, and would leave a picture of its memory."""

import ctypes
import os
import resource
import signal

from trying import libc


def main() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        pass
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
    os.chdir("/tmp")
    ctypes.string_at(8)


def by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL) if number not in (9, 19) else None
    os.kill(os.getpid(), number)


def exits(code: int) -> None:
    os._exit(code)
