"""Takes memory, in all the ways that there are."""

import mmap
import os
import time

from trying import why

PIECE = 4 * 1024 * 1024
MOST = 512 * 1024 * 1024
"""Even when nothing contains it: well above every limit here, and the machine can bear it."""


def main() -> dict:
    """In one heap."""
    kept = []
    while len(kept) * PIECE < MOST:
        kept.append(bytearray(PIECE))
    return {"bytes": len(kept) * PIECE}


def in_children(each: int, count: int) -> dict:
    """In several processes, each of them below the limit."""
    for _ in range(count):
        if not os.fork():
            kept = bytearray(each)
            time.sleep(1000 + len(kept))
    # Until they have it all; what ends this process meanwhile is what the test waits for.
    time.sleep(20)
    return {"bytes": each * count}


def shared() -> dict:
    """In mappings that belong to no heap."""
    kept = []
    while len(kept) * PIECE < MOST:
        kept.append(mmap.mmap(-1, PIECE))
        kept[-1].write(b"x" * PIECE)
    return {"bytes": len(kept) * PIECE}


def unmapped() -> dict:
    """In memory files that are mapped nowhere."""
    written = 0
    while written < MOST:
        file = os.memfd_create("grows")
        try:
            for _ in range(8):
                written += os.write(file, bytes(PIECE))
        except OSError as error:
            return {"bytes": written, "then": why(error)}
    return {"bytes": written}
