"""Timers for very many deadlines of which nearly all are withdrawn before they come.

Deadlines are gathered in slots of 10 ms, and one timer of the loop stands for the
earliest slot, so that a call costs a dictionary entry rather than a timer.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

SLOTS_PER_S = 100


class Deadlines(Generic[T]):
    """Calls `expired(item)` for each item whose deadline passed; at most 10 ms late by design.

    Args:
        clock: monotonic seconds.
        expired: what to do with an item; its exceptions go to the loop's handler.
    """

    def __init__(self, clock: Callable[[], float], expired: Callable[[T], None]) -> None:
        self._clock = clock
        self._expired = expired
        self._slots: dict[int, dict[T, None]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0

    def add(self, deadline: float, item: T) -> int:
        """Takes an item in; returns the slot that `discard` wants."""
        slot = int(deadline * SLOTS_PER_S) + 1
        items = self._slots.get(slot)
        if items is None:
            items = self._slots[slot] = {}
            heapq.heappush(self._order, slot)
            if self._timer is None or slot < self._armed_for:
                self._arm()
        items[item] = None
        return slot

    def discard(self, slot: int, item: T) -> None:
        """Withdraws an item; nothing happens when it is not there."""
        items = self._slots.get(slot)
        if items is not None:
            items.pop(item, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()
        self._order.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            self._armed_for = self._order[0]
            delay = max(0.0, self._armed_for / SLOTS_PER_S - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        # Rounding must not put the moment it was set for just before its slot: it would spin.
        now_slot = int(self._clock() * SLOTS_PER_S + 1e-6)
        due: list[T] = []
        while self._order and self._order[0] <= now_slot:
            due.extend(self._slots.pop(heapq.heappop(self._order)))
        self._arm()
        loop = asyncio.get_running_loop()
        for item in due:
            # Each in a callback of its own, so that one that raises stops no other.
            loop.call_soon(self._expired, item)
