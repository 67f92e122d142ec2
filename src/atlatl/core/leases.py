"""What is lent, and the account of it."""

from __future__ import annotations

import math
from collections import deque
from contextlib import suppress

from atlatl.core.stock import Instance
from atlatl.errors import AtlatlError, TimedOutWaiting
from atlatl.ports import InstanceChannel

RECENT_WAITS = 1024
"""Successful acquisitions of which the quantiles of waiting are taken."""
SMOOTHING = 0.2
"""Weight of the newest value in moving averages."""


class LeaseError(RuntimeError):
    """A lease was returned twice, or to a pool that did not give it: always a bug."""


class Lease:
    """The right to run one call on one instance, until it is given back."""

    __slots__ = ("asked_at", "cold", "instance", "number", "since")

    def __init__(self, instance: Instance, since: float, asked_at: float, number: int) -> None:
        self.instance = instance
        self.since = since
        self.asked_at = asked_at
        """With `number` it is the place in the queue of the waiter who got this."""
        self.number = number
        self.cold = instance.uses == 0
        """The first call on this instance."""

    @property
    def waited_s(self) -> float:
        return self.since - self.asked_at

    @property
    def channel(self) -> InstanceChannel:
        return self.instance.channel


class Account:
    """What became of the requests since the pool was made.

    Waits are those of requests that were granted; the others are counted, not averaged.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.granted = 0
        self.returned = 0
        self.refused = 0
        self.timed_out = 0
        self.withdrawn = 0
        self.hold_s = 0.0
        """Moving average of how long a lease is held."""
        self._wait_s = 0.0
        self._recent_waits: deque[float] = deque(maxlen=RECENT_WAITS)

    @property
    def mean_wait_s(self) -> float:
        """Of all requests that were granted; 0 when none was."""
        return self._wait_s / self.granted if self.granted else 0.0

    def wait_quantile_s(self, q: float) -> float | None:
        """Of the last `RECENT_WAITS` granted requests, by nearest rank; None without any."""
        waits = sorted(self._recent_waits)
        return waits[max(0, math.ceil(q * len(waits)) - 1)] if waits else None

    def note_grant(self, waited_s: float) -> None:
        self.granted += 1
        self._wait_s += waited_s
        self._recent_waits.append(waited_s)

    def undo(self, waited_s: float) -> None:
        """What was granted was not used; it is asked for again."""
        self.requests -= 1
        self.granted -= 1
        self._wait_s -= waited_s
        with suppress(ValueError):  # it may be long ago
            self._recent_waits.remove(waited_s)

    def note_return(self, held_s: float) -> None:
        weight = SMOOTHING if self.returned else 1.0
        self.returned += 1
        self.hold_s += weight * (held_s - self.hold_s)

    def note_refusal(self, error: AtlatlError) -> None:
        if isinstance(error, TimedOutWaiting):
            self.timed_out += 1
        else:
            self.refused += 1
