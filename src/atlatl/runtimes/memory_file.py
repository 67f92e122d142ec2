"""Memory files of a fixed size, which the service shares with instances."""

from __future__ import annotations

import fcntl
import mmap
import os

_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def make(name: str, size: int) -> int:
    """The descriptor of a new one: sparse, and nobody who has it can change its size."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def empty(descriptor: int, size: int) -> None:
    """Gives its memory back; what is read from it then is zeros."""
    with mmap.mmap(descriptor, size) as pages:
        pages.madvise(mmap.MADV_REMOVE)
