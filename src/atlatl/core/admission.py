"""What bounds the calls of all tasks together, and of one task per second.

The gate is what pools ask before they lend: it counts the lent calls, and when it was full
and a place frees, it picks the task whose turn it is. Nothing here queues a call: those wait
in the pool of their task and nowhere else.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Self

from atlatl.errors import NoCapacity, RateLimited

MIN_HISTORY = 20
"""Leases that must have ended before a pool's past says anything about its future."""
CAUTION = 2.0
"""A wait is hopeless when the expected one, divided by this, is still too long."""


class Share:
    """One pool's standing at the gate: its weight, and how far it was served."""

    __slots__ = ("finish", "queued", "serve", "weight")

    def __init__(self, weight: float, serve: Callable[[], bool]) -> None:
        self.weight = weight
        self.serve = serve
        self.finish = 0.0
        self.queued = False


class Gate:
    """Bounds the lent calls and the waiting ones of all pools that share it.

    When calls of several pools could go on, the one whose next call has the smallest virtual
    finish time does: its last one's (or the present virtual time) plus 1 / weight. So pools
    that are never idle are served in proportion to their weights, and one that comes back
    after a pause neither owes nor is owed anything. Source: Golestani, "A self-clocked fair
    queueing scheme" (1994). Example: weights 2 and 1 give a b a a b a.

    Attributes:
        lent: calls that hold an instance.
        waiting: calls that wait for one.
    """

    def __init__(self, max_lent: float = math.inf, max_waiting: float = math.inf) -> None:
        self.max_lent = max_lent
        self.max_waiting = max_waiting
        self.lent = 0
        self.waiting = 0
        self._ready: list[tuple[float, int, Share]] = []
        self._virtual = 0.0
        self._offers = 0
        self._settling = False

    def has_room(self) -> bool:
        """Whether a newcomer may be lent an instance now: a place is free and nobody's turn."""
        return self.lent < self.max_lent and not self._ready

    @property
    def unsettled(self) -> bool:
        """Whether `settle` has something to do."""
        return bool(self._ready) and self.lent < self.max_lent

    def offer(self, share: Share) -> None:
        """Says that the pool has a waiter and an instance for it, and only needs a place."""
        if share.queued:
            return
        share.queued = True
        self._offers += 1
        finish = max(self._virtual, share.finish) + 1 / share.weight
        heapq.heappush(self._ready, (finish, self._offers, share))

    def settle(self) -> None:
        """Lets pools serve their waiters, one call each in turn, while there are places.

        `Share.serve` lends once and says whether it did; a pool that could go on offers
        itself again. Served calls may end at once and lead back here: the outermost run
        carries on, so the stack does not grow with the number of waiters.
        """
        if self._settling:
            return
        self._settling = True
        try:
            while self.unsettled:
                finish, _, share = heapq.heappop(self._ready)
                share.queued = False
                self._serve(share, finish)
        finally:
            self._settling = False

    def _serve(self, share: Share, finish: float) -> None:
        """Serves one call of a pool, and charges it before the pool can offer itself again."""
        before = self._virtual, share.finish
        self._virtual = share.finish = finish
        if not share.serve():
            self._virtual, share.finish = before


class TokenBucket:
    """Calls per second, with a burst of one second's worth (at least 1).

    Example: 5 a second admits 5 at once and then one each 0.2 s.

    Args:
        rate_per_s: how many.
        now: monotonic seconds.
        whose: the limit in words; empty for that of a task.
    """

    def __init__(self, rate_per_s: float, now: float, whose: str = "") -> None:
        self._whose = whose or f"the task takes {rate_per_s:g} calls a second (`rate_limit_per_s`)"
        self._rate = rate_per_s
        self._burst = max(1.0, rate_per_s)
        self._tokens = self._burst
        self._at = now

    def take(self, now: float) -> None:
        """Takes a token; raises RateLimited with the time until the next one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1 - 1e-9:  # ten times 0.1 s is not quite a second
            raise RateLimited(
                f"{self._whose}; try again later",
                retry_after_s=(1 - self._tokens) / self._rate,
            )
        self._tokens -= 1


class ByteBudget:
    """Bytes of bodies and unread answers that may be held at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, n_bytes: int) -> None:
        """Reserves bytes; raises NoCapacity when they do not fit."""
        if self.held + n_bytes > self.limit:
            raise NoCapacity(
                f"{self.held} of {self.limit} bytes of bodies and unread answers are in use and "
                f"{n_bytes} more do not fit (`limits.max_inflight_bytes`); try again later",
                retry_after_s=1.0,
            )
        self.held += n_bytes

    def give_back(self, n_bytes: int) -> None:
        """Frees bytes that `take` reserved."""
        self.held -= n_bytes

    def hold(self, n_bytes: int = 0) -> HeldBytes:
        """Counts bytes that are there already, for the time of a `with`.

        An answer is never refused: `held` may pass the limit, and no new call is admitted until
        enough of it is out.
        """
        held = HeldBytes(self)
        held.add(n_bytes)
        return held


class HeldBytes:
    """Bytes of one answer on their way to whoever asked."""

    __slots__ = ("_budget", "n_bytes")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.n_bytes = 0

    def add(self, n_bytes: int) -> None:
        """So many have come."""
        self.n_bytes += n_bytes
        self._budget.held += n_bytes

    def drop(self, n_bytes: int) -> None:
        """So many are out."""
        self.add(-n_bytes)

    def release(self) -> None:
        """All are out, or will never be; can be called again."""
        self.drop(self.n_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def expected_wait_s(ahead: int, places: int, hold_s: float) -> float:
    """Time until `ahead` others have had their turn in `places` that each holds for `hold_s`.

    What is running now is left out: it may end at any moment. Example: 30 ahead, 4 places,
    0.2 s each: 30 / 4 x 0.2 = 1.5 s.
    """
    return ahead / places * hold_s


def hopeless(wait_s: float, left_s: float, history: int) -> bool:
    """Whether a call would wait past its deadline, so that it is kinder to say so now.

    False without enough history, and while the expected wait is less than `CAUTION` times
    what is left: a call refused wrongly is worse than one that waits in vain.
    """
    return history >= MIN_HISTORY and wait_s / CAUTION > left_s
