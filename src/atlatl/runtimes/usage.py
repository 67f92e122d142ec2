"""What one instance uses, and the end of one that uses more than it may."""

from __future__ import annotations

import os
import signal

from atlatl.errors import AtlatlError, CpuTimeExceeded, KilledOutOfMemory
from atlatl.model import Task
from atlatl.runtimes.cpu_time import CpuGuard, cpu_time_s
from atlatl.runtimes.groups import Group
from atlatl.runtimes.link import HUNG_UP, Link
from atlatl.runtimes.machine import mebibytes, pss_bytes
from atlatl.runtimes.zygote import Exit


class Usage:
    """Beside the link to one instance.

    Args:
        link: to the process.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._task: Task | None = None
        self._cpu: CpuGuard | None = None
        self._broken: type[AtlatlError] | None = None
        """The error of the limit for which it was ended."""
        self.group: Group | None = None
        """What limits and counts it together with all that it starts."""
        self.told_bytes = 0
        """Its memory, as it said last."""
        self._pss_bytes = 0
        """As measured last."""

    def begin(self, task: Task) -> None:
        """It is to become an instance of the task."""
        self._task = task
        limits = task.settings.confinement
        if not limits.cpu_s or limits.level == "none":
            return

        def exceeded() -> None:
            why = f"it used more than {limits.cpu_s:g} s of CPU time (`confinement.cpu_s`)"
            self._end(CpuTimeExceeded, why)

        processors = len(os.sched_getaffinity(0))
        self._cpu = CpuGuard(limits.cpu_s, processors, self._cpu_s, exceeded)

    def _end(self, error: type[AtlatlError], why: str) -> None:
        if self._link.open and not self._link.fault:
            self._broken = error
        self._link.kill(why)

    # --- CPU time ---

    def _cpu_s(self) -> float | None:
        counted = self.group.cpu_s() if self.group is not None else None
        return cpu_time_s(self._link.pid) if counted is None else counted

    def call_begins(self, *, alone: bool) -> None:
        """A call begins to run, alone or beside others."""
        if self._cpu is not None:
            (self._cpu.begin if alone else self._cpu.join)()

    def call_ended(self, left: int, *, in_turn: bool) -> None:
        """A call has ended; of those that are left one begins now, when they run in turn."""
        if self._cpu is None:
            return
        if not left:
            self._cpu.rest()
        elif in_turn:
            self._cpu.begin()

    # --- memory ---

    def measure(self) -> int:
        """PSS, 0 when it is gone. Reads /proc: call it from a thread."""
        self._pss_bytes = pss_bytes(self._link.pid)
        return self._pss_bytes

    @property
    def memory_limit_bytes(self) -> int:
        """What the service has to keep it within, because the kernel does not; 0 is nothing."""
        if self._task is None or (self.group is not None and self.group.memory_bytes):
            return 0
        limits = self._task.settings.confinement
        return 0 if limits.level == "none" else limits.memory_bytes

    def end_for_memory(self, n_bytes: int) -> None:
        """Ends an instance that was measured and uses too much."""
        limit = mebibytes(self.memory_limit_bytes)
        self._end(
            KilledOutOfMemory,
            f"out of memory: {mebibytes(n_bytes)} when measured, limit {limit} "
            "(`confinement.memory_bytes`)",
        )

    # --- the end ---

    def exited(self, how: Exit) -> None:
        """The process has ended; its link has not been told yet."""
        if self._cpu is not None:
            self._cpu.close()
        if how.signal != signal.SIGKILL or self._link.fault not in ("", HUNG_UP):
            return
        # Only the kernel's count tells an end for want of memory from any other SIGKILL.
        if self.group is not None and self.group.killed_for_memory():
            self._broken = KilledOutOfMemory
            limit = mebibytes(self.group.memory_bytes)
            self._link.fault = f"out of memory: limit {limit} (`confinement.memory_bytes`)"

    def broken_limit(self) -> AtlatlError | None:
        """What the call gets that it ran, when it was ended for its use."""
        killed = self._link.exit is not None and self._link.exit.signal == signal.SIGKILL
        if not killed or self._broken is None:
            return None
        return self._broken(f"the instance {self._link.how_it_ended()}")

    def last_size(self) -> str:
        """What may explain a SIGKILL that nobody here has sent; else empty."""
        exit_, known = self._link.exit, self._pss_bytes or self.told_bytes
        if exit_ is None or exit_.signal != signal.SIGKILL or self._link.fault or not known:
            return ""
        said = f"; it used {mebibytes(known)} of memory when last measured"
        limits = self._task.settings.confinement if self._task is not None else None
        if limits is None or limits.level == "none":
            return said
        return f"{said}, its limit is {mebibytes(limits.memory_bytes)}"
