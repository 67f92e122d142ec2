"""Which instance gets the next call.

A policy looks at candidates in place and builds nothing per choice. It passes over those
that are not open (sick, draining, not started) or have no room, so a caller can hand it all
instances of a pool. Ties rotate. Taking the place is the caller's next step in the same
breath, before anything else can choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Chance = Callable[[int], int]
"""`chance(n)` is a number from 0 to n - 1, as `random.Random.randrange` gives it."""


class Candidate(Protocol):
    """What a policy may know about an instance."""

    open: bool
    """Healthy and willing to take calls."""
    in_flight: int
    capacity: int
    """Calls that it runs at once."""
    response_s: float | None
    """Moving average of how long it was held; None when untried."""
    last_used: float
    """When a call was last given to it or came back from it."""
    smooth: float
    """Working value of smooth weighting, owned by the policy."""


C = TypeVar("C", bound=Candidate)


class Policy(Protocol):
    def choose(self, candidates: Sequence[C]) -> C | None:
        """One of the candidates that are open and have room, or None."""


class RoundRobin:
    """The next in turn."""

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, candidates: Sequence[C]) -> C | None:
        at, last = self._turn, len(candidates) - 1
        for _ in candidates:
            at = at + 1 if at < last else 0
            candidate = candidates[at]
            if candidate.open and candidate.in_flight < candidate.capacity:
                self._turn = at
                return candidate
        return None


class Smallest:
    """The smallest by a measure; among equals the next in turn."""

    def __init__(self, measure: Callable[[Candidate], float]) -> None:
        self.measure = measure
        self._turn = -1

    def choose(self, candidates: Sequence[C]) -> C | None:
        measure = self.measure
        best: C | None = None
        best_value, best_at = 0.0, -1
        at, last = self._turn, len(candidates) - 1
        for _ in candidates:
            at = at + 1 if at < last else 0
            candidate = candidates[at]
            if candidate.open and candidate.in_flight < candidate.capacity:
                value = measure(candidate)
                if best is None or value < best_value:
                    best, best_value, best_at = candidate, value, at
        if best is not None:
            self._turn = best_at
        return best


def calls_in_flight(candidate: Candidate) -> float:
    return candidate.in_flight


def share_in_use(candidate: Candidate) -> float:
    return candidate.in_flight / candidate.capacity


def coldness(candidate: Candidate) -> float:
    """Smallest for the one used last, the warmest."""
    return -candidate.last_used


class LeastResponseTime:
    """The smallest moving average; an untried one counts as the median of the tried."""

    def __init__(self) -> None:
        self._median = 0.0
        self._smallest = Smallest(self._response_s)

    def choose(self, candidates: Sequence[C]) -> C | None:
        tried = sorted(c.response_s for c in candidates if c.response_s is not None)
        self._median = tried[len(tried) // 2] if tried else 0.0
        return self._smallest.choose(candidates)

    def _response_s(self, candidate: Candidate) -> float:
        return self._median if candidate.response_s is None else candidate.response_s


class WeightedRoundRobin:
    """Smooth weighting by capacity, without bursts.

    Each choice raises every candidate's working value by its weight, takes the largest and
    lowers that one by the sum: weights 5, 1, 1 give a a b a c a a. Source: nginx,
    `ngx_http_upstream_round_robin.c`.
    """

    def choose(self, candidates: Sequence[C]) -> C | None:
        best: C | None = None
        total = 0
        for candidate in candidates:
            if candidate.open and candidate.in_flight < candidate.capacity:
                candidate.smooth += candidate.capacity
                total += candidate.capacity
                if best is None or candidate.smooth > best.smooth:
                    best = candidate
        if best is not None:
            best.smooth -= total
        return best


class Random:
    """Any of them, with equal chance."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def choose(self, candidates: Sequence[C]) -> C | None:
        """Draws until one fits; when few do, draws among those alone."""
        for _ in range(min(4, len(candidates))):
            candidate = candidates[self._chance(len(candidates))]
            if candidate.open and candidate.in_flight < candidate.capacity:
                return candidate
        fitting = [c for c in candidates if c.open and c.in_flight < c.capacity]
        return fitting[self._chance(len(fitting))] if fitting else None


class PowerOfTwo:
    """The less loaded of two drawn by chance (Mitzenmacher 2001)."""

    def __init__(self, chance: Chance) -> None:
        self._draw = Random(chance)

    def choose(self, candidates: Sequence[C]) -> C | None:
        one, other = self._draw.choose(candidates), self._draw.choose(candidates)
        if one is None or other is None:
            return None
        return one if one.in_flight <= other.in_flight else other


POLICIES: dict[str, Callable[[Chance], Policy]] = {
    "round_robin": lambda _: RoundRobin(),
    "least_connections": lambda _: Smallest(calls_in_flight),
    "least_response_time": lambda _: LeastResponseTime(),
    "weighted_round_robin": lambda _: WeightedRoundRobin(),
    "resource_based": lambda _: Smallest(share_in_use),
    "random": Random,
    "power_of_two": PowerOfTwo,
    "most_recently_used": lambda _: Smallest(coldness),
}
"""By their names in `scheduler.policy`; each call makes a policy with a turn of its own."""
