"""From a forked child to an instance: what it holds, and how it ends with its parent."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
from typing import Final

SOCKET_FD: Final = 3
OUTPUT_FD: Final = 4
TOKENS_FD: Final = 5
FIRST_FREE_FD: Final = 6

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_OOM_SCORE: Final = b"500"
_NICENESS: Final = 5

_libc: Final = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Has processes whose parent dies become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def prepare(parent: int, sock: int, output: int, tokens: int) -> None:
    """Turns a freshly forked child into an instance that holds nothing but what it needs.

    Args:
        parent: process id of the zygote; the child ends with it.
        sock: descriptor of the socket, becomes 3.
        output: descriptor of the memory file, becomes 1, 2 and (for us) 4.
        tokens: descriptor of the semaphore of calls that are sent ahead, becomes 5.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It died before the line above; no signal will come.
        os._exit(1)
    os.setsid()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _default_signals()
    _arrange_descriptors(sock, output, tokens)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _set_oom_score()
    os.nice(_NICENESS)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def _default_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _arrange_descriptors(sock: int, output: int, tokens: int) -> None:
    # Out of the way first: what came may sit on the very numbers that are wanted.
    sock = fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 16)
    output = fcntl.fcntl(output, fcntl.F_DUPFD_CLOEXEC, 16)
    tokens = fcntl.fcntl(tokens, fcntl.F_DUPFD_CLOEXEC, 16)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(sock, SOCKET_FD, inheritable=False)
    os.dup2(output, OUTPUT_FD, inheritable=False)
    os.dup2(tokens, TOKENS_FD, inheritable=False)
    os.closerange(FIRST_FREE_FD, os.sysconf("SC_OPEN_MAX"))


def _set_oom_score() -> None:
    try:
        # Not `open()`: it would import a codec and dirty a fifth of what an instance costs.
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(file, _OOM_SCORE)
        finally:
            os.close(file)
    except OSError:
        # Without /proc the kernel treats instances and service alike; no reason not to serve.
        pass
