"""Signals everybody but itself."""

import ctypes
import fcntl
import os
import signal

from trying import attempts, call, others


def main(pids: dict) -> object:
    tries = {}
    for whose, pid in {**others(pids), "its parent": os.getppid()}.items():
        tries |= {
            f"signal {whose}": lambda pid=pid: kill(pid),
            f"queue for {whose}": lambda pid=pid: call("sigqueue", pid, 0, ctypes.c_void_p(0)),
            f"by descriptor {whose}": lambda pid=pid: by_descriptor(pid),
            f"group of {whose}": lambda pid=pid: to_group(pid),
        }
    return attempts(tries)


def kill(pid: int) -> None:
    # Only if the kernel would let that one through: not to harm more than the test.
    os.kill(pid, 0)
    os.kill(pid, signal.SIGCONT)


def by_descriptor(pid: int) -> None:
    signal.pidfd_send_signal(os.pidfd_open(pid), 0)


def to_group(pid: int) -> None:
    group = os.getpgid(pid)
    if group in (0, os.getpgrp()):
        raise ProcessLookupError(3, "it has none that could be named")
    os.killpg(group, 0)


def everybody() -> object:
    """SIGKILL to all that it may signal, which has to be nobody.

    The kernel says that it was done when it was refused for each of them.
    """
    if os.getuid() == 0:
        # Not contained at all: that is said without ending everything on the machine.
        return {"achieved": {"kill everybody": "as root"}}
    os.kill(-1, signal.SIGKILL)
    return "sent"


def by_the_kernel(pid: int) -> object:
    """Has the kernel send SIGURG when a pipe becomes ready, in the name of its owner."""

    def own() -> None:
        reader, writer = os.pipe()
        fcntl.fcntl(reader, fcntl.F_SETOWN, pid)
        fcntl.fcntl(reader, 10, signal.SIGURG)  # F_SETSIG
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
        os.write(writer, b"x")

    own()
    return "sent, or dropped"
