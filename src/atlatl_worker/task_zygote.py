"""From an instance that has imported its artifact to one task's own zygote.

It forks further instances of that task, which are then spared the import. Nothing here is
trusted by the service: it is the artifact's process like any other.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from atlatl_worker import confine, forking
from atlatl_worker.freezing import freeze


def become(sock: socket.socket, run: Callable[[bool], NoReturn]) -> NoReturn:
    """Serves until the service hangs up.

    Args:
        sock: brings one byte with the descriptor of the socket to speak through.
        run: the life of a forked instance, given whether it is forked in stock.
    """
    unfit = why_unfit()
    _, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
    collects = gc.isenabled()
    gc.disable()

    def live(parent: int, in_stock: bool, *descriptors: int) -> NoReturn:
        try:
            forking.begin(parent, *descriptors)
            confine.separate_fork()
            if collects:
                gc.enable()
            run(in_stock)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(70)

    forker = forking.Forker(socket.socket(fileno=descriptors[0]), fork, live)
    if unfit:
        forker.tell({"op": "failed", "message": unfit})
        os._exit(0)
    confine.become_subreaper()
    freeze()
    forker.tell({"op": "ready"})
    forker.serve()


def why_unfit() -> str:
    """What of this process its forks could not share without harm; may be empty."""
    if threads() > 1:
        return "the artifact starts threads when it is imported"
    if forking.children():
        return "the artifact starts processes when it is imported"
    if any(map(_is_open, os.listdir("/proc/self/fd"))):  # noqa: PTH208
        return "the artifact keeps files or connections open from its import on"
    return ""


def threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _is_open(descriptor: str) -> bool:
    """Not so the one by which the list was made."""
    number = int(descriptor)
    return number >= confine.FIRST_FREE_FD and os.path.exists(f"/proc/self/fd/{number}")  # noqa: PTH110


def fork() -> int:
    """`os.fork`, so that hooks of the artifact's own libraries run; raises OSError."""
    if threads() > 1:
        raise OSError(errno.EBUSY, "the artifact has started threads")
    return os.fork()
