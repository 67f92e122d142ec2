"""From a forked child to an instance: what it holds, and how it ends with its parent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from typing import Final

SOCKET_FD: Final = 3
OUTPUT_FD: Final = 4
TOKENS_FD: Final = 5
BODIES_FD: Final = 6
FIRST_FREE_FD: Final = 7
_LAST_FD: Final = os.sysconf("SC_OPEN_MAX")

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_OOM_SCORE: Final = b"500"
_NICENESS: Final = min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
_SIGKILL: Final = int(signal.SIGKILL)

_libc: Final = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Has processes whose parent dies become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def prepare_parent() -> None:
    """Sets up a process to fork instances: all of this is theirs as well, at no cost."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for descriptor in (SOCKET_FD, OUTPUT_FD, TOKENS_FD, BODIES_FD):
        # What an instance is to get must not come to lie where it is to be put.
        if not os.path.exists(f"/proc/self/fd/{descriptor}"):  # noqa: PTH110
            os.dup2(0, descriptor, inheritable=False)


def prepare(parent: int, sock: int, output: int, tokens: int, bodies: int) -> None:
    """Turns a freshly forked child into an instance that holds nothing but what it needs.

    Args:
        parent: process id of who forked it; the child ends with it.
        sock: descriptor of the socket, becomes 3.
        output: descriptor of the memory file, becomes 1, 2 and (for us) 4.
        tokens: descriptor of the tokens of calls that are sent ahead, becomes 5.
        bodies: descriptor of the file for large bodies, becomes 6.
    """
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent:
        # It died before the line above; no signal will come.
        os._exit(1)
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(sock, SOCKET_FD, False)
    os.dup2(output, OUTPUT_FD, False)
    os.dup2(tokens, TOKENS_FD, False)
    os.dup2(bodies, BODIES_FD, False)
    os.closerange(FIRST_FREE_FD, _LAST_FD)
    _set_oom_score()
    os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


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
