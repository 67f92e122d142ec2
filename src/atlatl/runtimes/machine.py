"""What this machine has to give."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from atlatl.runtimes.hierarchies import memory_groups
from atlatl_worker import kernel

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

LIMIT_FILES = {2: "memory.max", 1: "memory.limit_in_bytes"}
"""By version of the hierarchy."""


def memory_budget_bytes(
    meminfo: Path = Path("/proc/meminfo"), proc: Path = Path("/proc/self")
) -> int:
    """What all instances may use together when the settings don't say.

    Half of the smaller of the machine's memory and the limits of the cgroups that this process
    is in: its own, a unit's or a container's, and those above.

    Args:
        meminfo: where the kernel says how much memory there is.
        proc: where it says which groups this process is in.
    """
    limits = [_total_bytes(meminfo)]
    for version, group in memory_groups(proc):
        limits += _limit_bytes(group / LIMIT_FILES[version])
    return min(limits) // 2


def pss_bytes(pid: int) -> int:
    """Memory of a process, shared pages by their share; 0 when it is gone.

    Shared pages count whole where the kernel lets nobody look: a process of another user, and no
    capability SYS_PTRACE.
    """
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except PermissionError:
        return _resident_bytes(pid)
    except (OSError, ValueError):
        pass
    return 0


def tree_bytes(pid: int, interesting: int) -> int:
    """Memory of a process and all below it.

    Args:
        pid: of the process.
        interesting: below it a figure will do that may be too high, because shared pages count
            whole in it: it costs a tenth.
    """
    sizes = {each: _resident_bytes(each) for each in tree(pid)}
    if sum(sizes.values()) <= interesting:
        return sum(sizes.values())
    # A process can hide the exact figure, which must not pay.
    return sum(pss_bytes(each) or size for each, size in sizes.items())


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    rest = [pid]
    while rest:
        yield (pid := rest.pop())
        rest += _children(pid)


def _children(pid: int) -> list[int]:
    """Of all threads; none when the process has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            # One that ends just now hides none of the others' children.
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text("ascii").split())
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * PAGE_BYTES
    except (OSError, ValueError):
        return 0


def mebibytes(n_bytes: float) -> str:
    """Example: 536870912 is `512 MiB`."""
    return f"{n_bytes / 2**20:,.0f} MiB"


def conceal() -> None:
    """Keeps other processes of this user from this one's memory, environment and files.

    For a whole program, not for one that only embeds the service: debuggers are kept out too.

    Raises:
        OSError: the kernel refused.
    """
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def parent_of(pid: int) -> int:
    """Process id of a process' parent; raises OSError when there is no such process."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat.rpartition(b")")[2].split()[1])


def _total_bytes(meminfo: Path) -> int:
    for line in meminfo.read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    raise ValueError(f"{meminfo} has no MemTotal")


def _limit_bytes(path: Path) -> list[int]:
    """Empty when there is no such file, or no limit in it."""
    try:
        text = path.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []
