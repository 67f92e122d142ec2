"""What a process does last before it forks instances, so that they copy little of its memory."""

from __future__ import annotations

import gc
import sys
from typing import Final

BLOCK_BYTES: Final = 16
LARGEST_BLOCK_BYTES: Final = 512
"""Python's allocator keeps blocks of each multiple of 16 bytes apart, up to this size."""
EMPTY_BYTES_SIZE: Final = sys.getsizeof(b"")
GAPS_BYTES: Final = 32_768
"""More than is ever free among the blocks of one size after the preparations."""

_gaps: Final[list[list[object]]] = []


def freeze() -> None:
    """Leaves the memory that children share in a state in which they copy little of it."""
    # What is garbage now would be copied into every child by its first collection.
    gc.collect()
    fill_gaps()
    gc.freeze()


def fill_gaps() -> None:
    """Uses up what is free between what is in use.

    A child would put its first objects there, and copy a page for each of them; so they come to
    lie side by side in new pages. Without it an instance needs 240 KiB more.
    """
    for size in range(BLOCK_BYTES, LARGEST_BLOCK_BYTES + 1, BLOCK_BYTES):
        number = GAPS_BYTES // size
        if size <= EMPTY_BYTES_SIZE:
            _gaps.append([float(n) if size > BLOCK_BYTES else object() for n in range(number)])
        else:
            _gaps.append([bytes(size - EMPTY_BYTES_SIZE) for _ in range(number)])
