"""What this machine has to give."""

from __future__ import annotations

from pathlib import Path

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of version 2 and of version 1, as a container sees its own."""


def memory_budget_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroup_limits: tuple[Path, ...] = CGROUP_LIMITS
) -> int:
    """What all instances may use together when the settings don't say.

    Half of the smaller of the machine's memory and the cgroup's limit.
    """
    limits = [_total_bytes(meminfo), *map(_limit_bytes, cgroup_limits)]
    return min(limit for limit in limits if limit is not None) // 2


def pss_bytes(pid: int) -> int:
    """Memory of a process, shared pages by their share; 0 when it cannot be had."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        # Not ours to read, or it has just ended.
        pass
    return 0


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


def _limit_bytes(path: Path) -> int | None:
    """None when there is no such file, or no limit in it."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
