"""Calls that are handed to an instance while it runs another: so that it never waits for them.

A hand-over costs two processes a wake-up, which is more than a short call takes. Several that
travel together share it. Only calls of a task whose calls are all short are handed ahead, and
they are taken back when the one before them takes long after all.
"""

from __future__ import annotations

from collections.abc import Sequence

from atlatl.core.pace import Pace
from atlatl.core.stock import Instance, Stock

DEPTH = 16
"""Most calls that an instance may have then."""
AHEAD_S = 0.002
"""What waits in one takes about so long at most: elsewhere it might begin at once."""
JUDGED_EACH = 100
"""Calls after which the depth is looked at again."""
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

    def note(self, stock: Stock, instance: Instance, run_s: float) -> None:
        """A call came back from an instance after it ran for so long, in seconds."""
        if not stock.takes_ahead:
            return
        self._pace.note(run_s)
        if self._pace.short is not self.on or not self._pace.noted % JUDGED_EACH:
            self._judge(stock)
        # Not so when others were taken back from it, until it has read past those.
        ready = instance.channel.takes_ahead
        instance.places = stock.places if ready else instance.capacity

    def _judge(self, stock: Stock) -> None:
        self.on = self._pace.short
        depth = 1
        if self.on:
            depth = min(DEPTH, 1 + round(AHEAD_S / max(self._pace.mean_s, 1e-6)))
        if depth != stock.places:
            stock.hand_ahead(depth)

    def choose(self, instances: Sequence[Instance], now: float) -> Instance | None:
        """An idle instance until enough work, then the one of them that has the fewest calls.

        Not the next in turn, as among instances that a call has to itself: the same few, whose
        memory is at hand, so that the others are not woken and end one day. One that has just
        not answered for long comes last.
        """
        working, stalled_since = 0, now - STALL_S
        idle = best = stalled = None
        for instance in instances:
            if not instance.open:
                continue
            if not instance.in_flight:
                idle = idle or instance
                continue
            room = instance.in_flight < instance.places
            if instance.answered_at <= stalled_since:
                stalled = instance if room else stalled
                continue
            working += 1
            if room and (best is None or instance.in_flight < best.in_flight):
                best = instance
        if best is not None and working >= self.spread:
            return best
        return idle or best or stalled
