"""Takes memory, in all the ways that there are."""

import mmap
import os
import select
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
    """In several processes, each of them below the limit; says how many had it at last."""
    reader, writer = os.pipe()
    for _ in range(count):
        if not os.fork():
            kept = bytearray(b"x") * each
            os.write(writer, b"x")
            time.sleep(1000 + len(kept))
    os.set_blocking(reader, False)
    said, alive = 0, count
    end = time.monotonic() + 8
    while time.monotonic() < end and said < alive:
        time.sleep(0.05)
        said += len(os.read(reader, 100)) if select.select([reader], [], [], 0)[0] else 0
        alive -= ended()
    time.sleep(1)  # for those who measure now and then
    alive -= ended()
    return {"alive": alive}


def ended() -> int:
    count = 0
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            count += 1
    except ChildProcessError:
        pass
    return count


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
