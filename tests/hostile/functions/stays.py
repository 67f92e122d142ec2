"""Leaves processes behind that do not end with the answer."""

import os
import signal
import time

from trying import libc

PR_SET_PDEATHSIG = 1


def main() -> int:
    """A daemon as in the books: forks twice, with a session of its own between."""
    reader, writer = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.write(writer, b"%d" % os.getpid())
            stay()
        os._exit(0)
    os.close(writer)
    os.wait()
    # Nothing, when it was ended before it could say so.
    return int(os.read(reader, 20) or 0)


def child() -> int:
    """One that remains a child of the instance."""
    pid = os.fork()
    if not pid:
        os.setsid()
        stay()
    return pid


def runs_away() -> int:
    """Each lives for a moment only, and is followed by its child: hard to catch."""
    if not os.fork():
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)
            time.sleep(0.0005)
    return 1


def clears() -> int:
    """Nothing that ties it to its parent is left."""
    libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
    os.environ.clear()
    return main()


def stay() -> None:
    libc.prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
    os.environ.clear()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1000)
