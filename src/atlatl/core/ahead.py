"""Calls that are handed to an instance while it runs another: so that it never waits for them.

A hand-over costs two processes a wake-up, which is more than a short call takes. Several that
travel together share it. Only calls of a task whose calls are all short are handed ahead, and
they are taken back when the one before them takes long after all.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlatl.core.leases import Lease
from atlatl.core.pace import Pace
from atlatl.core.stock import Instance, Stock

DEPTH = 16
"""Calls that an instance may have then."""
STALL_S = 0.005
"""An instance that has answered none for so long gives back those that wait in it."""


class Ahead:
    """Decides whether calls are handed ahead, and to whom.

    Args:
        spread: instances that work before one of them is handed calls ahead.
    """

    def __init__(self, spread: int) -> None:
        self.on = False
        self.spread = spread
        self._pace = Pace()

    def note(self, stock: Stock, lease: Lease, run_s: float) -> None:
        """A call came back after it ran for so long, in seconds."""
        if not stock.takes_ahead:
            return
        self._pace.note(run_s)
        if self._pace.short is not self.on:
            self.on = self._pace.short
            stock.hand_ahead(DEPTH if self.on else 1)
        instance = lease.instance
        if instance.stalled_use and lease.use > instance.stalled_use:
            instance.stalled_use = 0
            instance.places = stock.places

    def choose(self, instances: Sequence[Instance]) -> Instance | None:
        """An idle instance until enough work, then the one of them that has the fewest calls.

        Not the next in turn, as among instances that a call has to itself: the same few, whose
        memory is at hand, so that the others are not woken and end one day.
        """
        working = 0
        idle: Instance | None = None
        best: Instance | None = None
        for instance in instances:
            if not instance.open:
                continue
            if not instance.in_flight:
                if idle is None:
                    idle = instance
                continue
            working += 1
            if instance.in_flight < instance.places and (
                best is None or instance.in_flight < best.in_flight
            ):
                best = instance
        return best if best is not None and (working >= self.spread or idle is None) else idle
