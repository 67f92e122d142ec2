"""Those who wait for an instance of one pool, and who of them is next.

The most urgent first, then the one that came first. Urgency is the priority, and rises by
one level for each `AGEING_S` of waiting, so nobody waits for ever behind more urgent ones.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from atlatl.errors import AtlatlError
from atlatl.model import AGEING_S

if TYPE_CHECKING:
    from atlatl.core.leases import Lease


class Waiter:
    """One call that asks for an instance. Either `granted` or `refused` is called, once.

    Attributes:
        granted: gets the lease; called in the stack of whoever made the instance free.
        refused: gets the reason.
        priority: 0 (most urgent) to 7.
        deadline: from then on no instance is given to it. Whoever asked watches the time and
            withdraws the waiter: the pool sets no timer for it.
        fresh: wants an instance that has run nothing yet.
        pool: the pool that holds it, or lent to it. A new version's pool takes over the
            waiters of the old one, so leases and withdrawals go to this one.
        since: when it began to wait.
        number: order among those that came at the same time.
        met: how many waited, were lent, and instances there were when no instance could be lent
            to it at once; None when one was.
    """

    __slots__ = (
        "deadline", "fresh", "granted", "met", "number", "pool", "priority", "refused", "since",
    )  # fmt: skip

    def __init__(
        self,
        granted: Callable[[Lease], None],
        refused: Callable[[AtlatlError], None],
        *,
        priority: int = 3,
        deadline: float = math.inf,
        fresh: bool = False,
    ) -> None:
        self.granted = granted
        self.refused = refused
        self.priority = priority
        self.deadline = deadline
        self.fresh = fresh
        self.pool: Any = None
        self.since = 0.0
        self.number = 0
        self.met: tuple[int, int, int] | None = None

    @property
    def age(self) -> tuple[float, int]:
        """The lower, the longer it has waited."""
        return self.since, self.number

    def rank(self, now: float) -> tuple[int, float, int]:
        """The lower, the sooner it is served."""
        level = max(0, self.priority - int((now - self.since) // AGEING_S))
        return level, self.since, self.number


class WaitingRoom:
    """Waiters in their order. Each step costs at most one look at each priority in use.

    Those of one priority stay in the order of their arrival, so the next one overall is
    always the first of some line, however they have aged.
    """

    def __init__(self) -> None:
        self._lines: dict[int, OrderedDict[Waiter, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __iter__(self) -> Iterator[Waiter]:
        for line in self._lines.values():
            yield from line

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._lines.get(waiter.priority, ())

    def add(self, waiter: Waiter) -> None:
        """Puts a newcomer, whose `since` and `number` are set, at the end of its line."""
        line = self._lines.get(waiter.priority)
        if line is None:
            line = self._lines[waiter.priority] = OrderedDict()
        line[waiter] = None

    def adopt(self, waiters: Iterable[Waiter]) -> None:
        """Takes over waiters of another room; each keeps the place that its arrival gives it."""
        for waiter in waiters:
            line = self._lines.get(waiter.priority)
            if line is None or next(reversed(line)).age <= waiter.age:
                self.add(waiter)
            else:
                _put_in(line, waiter)

    def remove(self, waiter: Waiter) -> None:
        """Lets a waiter that is here go."""
        line = self._lines[waiter.priority]
        del line[waiter]
        if not line:
            del self._lines[waiter.priority]

    def first(self, now: float) -> Waiter | None:
        """The one to be served next; it stays."""
        heads = [next(iter(line)) for line in self._lines.values()]
        if len(heads) < 2:
            return heads[0] if heads else None
        return min(heads, key=lambda waiter: waiter.rank(now))

    def ahead_of(self, newcomer: Waiter) -> int:
        """How many are served before a newcomer for certain: those as urgent or more so."""
        lines = self._lines.items()
        return sum(len(line) for priority, line in lines if priority <= newcomer.priority)

    def oldest_since(self) -> float:
        """When the longest waiting one came; infinity when nobody waits."""
        return min((next(iter(line)).since for line in self._lines.values()), default=math.inf)


def _put_in(line: OrderedDict[Waiter, None], waiter: Waiter) -> None:
    """Puts a waiter at its place, which is mostly near the front: few have waited for longer."""
    older = list(takewhile(lambda each: each.age <= waiter.age, line))
    line[waiter] = None
    for each in (waiter, *reversed(older)):
        line.move_to_end(each, last=False)
