"""How much CPU time a call uses, and the end of one that uses too much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LEAST_S = 0.01
"""Between two looks at the same call."""

_PROCESS_CLOCK = 2
"""The lowest bits of the number of a clock that runs with a process; see clock_getcpuclockid(3)."""


def cpu_time_s(pid: int) -> float | None:
    """CPU time that a process has used in all its threads; None when it has ended."""
    try:
        return time.clock_gettime((~pid << 3) | _PROCESS_CLOCK)
    except OSError:
        return None


class CpuGuard:
    """Watches the calls of one instance.

    It looks when the time could be used up at the soonest: when all processors have worked for it
    since the last look. Of several calls at once nobody can say which uses how much: together they
    may use the limit of each.

    Args:
        limit_s: CPU time of one call.
        processors: that may work at once.
        used_s: what the instance has used so far; None when it has ended.
        exceeded: ends the instance.
    """

    def __init__(
        self,
        limit_s: float,
        processors: int,
        used_s: Callable[[], float | None],
        exceeded: Callable[[], None],
    ) -> None:
        self._limit_s = limit_s
        self._processors = processors
        self._used_s = used_s
        self._exceeded = exceeded
        self._loop = asyncio.get_running_loop()
        self._began_at = 0.0
        """By the instance's own clock."""
        self._allowed_s = 0.0
        """0 when no call runs."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """A call begins, and no other runs."""
        used_s = self._used_s()
        if used_s is None:
            return
        self._began_at, self._allowed_s = used_s, self._limit_s
        if self._timer is None:
            self._look_in(self._limit_s)

    def join(self) -> None:
        """A call begins beside others."""
        self._allowed_s += self._limit_s

    def rest(self) -> None:
        """No call runs."""
        self._allowed_s = 0.0

    def close(self) -> None:
        """The instance has ended."""
        self.rest()
        if self._timer is not None:
            self._timer.cancel()

    def _look_in(self, cpu_s: float) -> None:
        delay_s = max(LEAST_S, cpu_s / self._processors)
        self._timer = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        self._timer = None
        used_s = self._used_s()
        if not self._allowed_s or used_s is None:
            return
        left_s = self._allowed_s - (used_s - self._began_at)
        if left_s <= 0:
            self._exceeded()
        else:
            self._look_in(left_s)
