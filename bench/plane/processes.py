"""Memory, CPU time and descriptors of processes, as Linux counts them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """Process ids of children, their children, and so on."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def family(pid: int) -> list[int]:
    return [pid, *descendants(pid)]


def pss_mib(pid: int) -> float:
    """Its own memory, and its share of what it has in common with others; 0 when it is gone."""
    try:
        return parsed_pss_mib((PROC / str(pid) / "smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def parsed_pss_mib(smaps_rollup: str) -> float:
    """Example: `Pss: 2048 kB` among its lines is 2.0."""
    for line in smaps_rollup.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) / 1024
    raise ValueError(f"no Pss in {smaps_rollup[:200]!r}")


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, all of its threads and to the nanosecond.

    Its clock has the number that `clock_getcpuclockid` of the C library makes of the process id.

    Raises:
        OSError: there is no such process.
    """
    return time.clock_gettime((~pid << 3) | 2)


def descriptors(pid: int) -> int:
    """How many it has open; 0 when it is gone."""
    try:
        return len(list((PROC / str(pid) / "fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return 0
