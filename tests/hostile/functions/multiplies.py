"""Makes as many processes, or threads, as it can."""

import mmap
import os
import struct
import threading
import time

from trying import why

MOST = 2000
"""Even when nothing contains it: the machine is needed for other tests."""


def children() -> dict:
    """One after the other; says what it came to."""
    for number in range(MOST):
        try:
            pid = os.fork()
        except OSError as error:
            return {"made": number, "then": why(error)}
        if not pid:
            rest()
    return {"made": MOST}


def threads() -> dict:
    for number in range(MOST):
        try:
            threading.Thread(target=rest, daemon=True).start()
        except RuntimeError as error:
            return {"made": number, "then": str(error)}
    return {"made": MOST}


def main() -> None:
    """Every child forks as well; never answers."""
    count = mmap.mmap(-1, 8)
    while struct.unpack("q", count[:8])[0] < MOST:
        try:
            os.fork()
        except OSError:
            time.sleep(0.001)
            continue
        count[:8] = struct.pack("q", struct.unpack("q", count[:8])[0] + 1)
    rest()


def rest() -> None:
    while True:
        time.sleep(1000)
