"""What a scenario is: sides that take turns, and what is to come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bench.comparison import Aim
from bench.plane.load import Load
from bench.rounds import Measured, Turns

ATLATL = "atlatl"


class Size(NamedTuple):
    """How much is done in a turn, and how many rounds of turns there are."""

    rounds: int
    seconds: float
    """Of load that is measured."""
    warm_s: float
    """Of the same load before that."""
    starts: int
    """Cold starts in a turn."""
    bursts: int
    instances: int
    """That are alive while memory is measured."""
    tasks: int
    """Deployed in one service."""
    soak_minutes: float


WHOLE = Size(
    rounds=5, seconds=5.0, warm_s=2.0, starts=200, bursts=3, instances=50, tasks=1000,
    soak_minutes=10.0,
)  # fmt: skip
QUICK = Size(
    rounds=2, seconds=0.8, warm_s=0.7, starts=20, bursts=1, instances=20, tasks=100,
    soak_minutes=0.2,
)  # fmt: skip
SMOKE = Size(
    rounds=1, seconds=1.0, warm_s=1.0, starts=20, bursts=1, instances=4, tasks=10,
    soak_minutes=0.05,
)  # fmt: skip
"""Whether everything runs to its end; says nothing of times."""


class Scenario(NamedTuple):
    """One thing that is measured."""

    name: str
    about: str
    turns: Callable[[Size], Turns]
    aims: Sequence[Aim]
    settings: Mapping[str, Any] = {}
    """Of the functions that are deployed."""
    packages: Sequence[str] = ()
    """Peers whose versions count."""
    rounds: int = 0
    """Of a whole run; 0 is as many as the size says."""
    on_demand: bool = False
    """Runs only when it is named."""

    def rounds_in(self, size: Size) -> int:
        """A shorter run has fewer, in the same measure."""
        if not self.rounds:
            return size.rounds
        return max(1, self.rounds * size.rounds // WHOLE.rounds)


def figures(side: str, found: Load, where: str = "") -> Measured:
    """Rate and percentiles of a side; `where` goes behind each quantity."""
    return {
        f"{side}: calls/s{where}": found.per_s,
        f"{side}: p50 ms{where}": found.percentile_us(50) / 1000,
        f"{side}: p99 ms{where}": found.percentile_us(99) / 1000,
    }
