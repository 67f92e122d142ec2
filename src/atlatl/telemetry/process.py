"""What the kernel says of the service's own process."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from atlatl.model import Record

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessFigures(Record, frozen=True):
    cpu_s: float = 0.0
    """User and system time."""
    resident_bytes: int = 0
    virtual_bytes: int = 0
    open_fds: int = 0
    max_fds: int = 0
    threads: int = 0
    started_at: float = 0.0
    """Unix seconds."""


def process_figures() -> ProcessFigures:
    """Of this process. Reads /proc: with many descriptors that takes its time."""
    # proc(5): the name in parentheses may have spaces; the fields behind it are numbered from 3.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return ProcessFigures(
        cpu_s=(int(fields[14 - 3]) + int(fields[15 - 3])) / TICKS_PER_S,
        resident_bytes=int(fields[24 - 3]) * PAGE_BYTES,
        virtual_bytes=int(fields[23 - 3]),
        open_fds=len(list(Path("/proc/self/fd").iterdir())) - 1,  # one is that of the listing
        max_fds=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        threads=int(fields[20 - 3]),
        started_at=_boot_at() + int(fields[22 - 3]) / TICKS_PER_S,
    )


def _boot_at() -> int:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0
