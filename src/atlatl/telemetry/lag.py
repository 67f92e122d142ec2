"""How late the event loop is: the time by which everything on it comes too late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from atlatl.core.window import N_BUCKETS, bucket_of
from atlatl.model import Record

INTERVAL_S = 0.25


class LagFigures(Record, frozen=True):
    buckets: tuple[int, ...] = (0,) * N_BUCKETS
    """Per bucket, for the bounds of latencies and above."""
    sum_s: float = 0.0


class LoopLag:
    """Asks to be woken, again and again, and counts how late that happens.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets = [0] * N_BUCKETS
        self._sum_s = 0.0

    async def run(self) -> None:
        """Measures until it is cancelled."""
        while True:
            due = self._clock() + INTERVAL_S
            await asyncio.sleep(INTERVAL_S)
            lag_s = max(0.0, self._clock() - due)
            self._buckets[bucket_of(lag_s)] += 1
            self._sum_s += lag_s

    def figures(self) -> LagFigures:
        return LagFigures(buckets=tuple(self._buckets), sum_s=self._sum_s)
