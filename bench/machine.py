"""What machine this is, and whether anybody else is using it."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

QUIET_CORES = 0.5
"""Cores that others may keep busy while something is timed."""
QUIET_FOR_S = 3.0
WAIT_FOR_QUIET_S = 120.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def facts() -> dict[str, Any]:
    """What a time depends on besides the code."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def commit() -> str:
    """Of the source tree; with `+` when something in it was changed."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", "src", "bench") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*args: str) -> str:
    here = Path(__file__).parent.parent
    done = subprocess.run(["git", *args], cwd=here, check=True, capture_output=True, text=True)
    return done.stdout.strip()


# --- load ---


def busy_s() -> float:
    """CPU seconds used on this machine since it started, time taken by its host included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) * TICK_S


def own_s() -> float:
    """CPU seconds used by this process and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Others:
    """How many cores others keep busy from its making on."""

    def __init__(self) -> None:
        self._at, self._busy, self._own = time.monotonic(), busy_s(), own_s()

    def cores(self) -> float:
        span = time.monotonic() - self._at
        used = (busy_s() - self._busy) - (own_s() - self._own)
        return max(0.0, used) / span if span else 0.0


def wait_for_quiet(say: Callable[[str], None], bound_s: float = WAIT_FOR_QUIET_S) -> bool:
    """Returns when others have left the machine alone for some seconds; False after `bound_s`."""
    end, quiet_s, told = time.monotonic() + bound_s, 0.0, False
    while quiet_s < QUIET_FOR_S and time.monotonic() < end:
        others = Others()
        time.sleep(1.0)
        quiet_s = quiet_s + 1.0 if others.cores() < QUIET_CORES else 0.0
        if not quiet_s and not told:
            told = True
            say(f"others use this machine; waiting up to {bound_s:.0f} s for a quiet moment")
    return quiet_s >= QUIET_FOR_S
