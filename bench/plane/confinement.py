"""What confinement costs: the same function confined as by default, and not at all."""

from __future__ import annotations

import http.client
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from bench.comparison import Aim
from bench.plane import cold, functions, peers
from bench.plane.load import PATIENCE_S, Target, load, pinned
from bench.plane.processes import cpu_s
from bench.plane.scenario import ATLATL, Scenario, Size
from bench.rounds import Measured, Turns, Wrong
from bench.service import Service

STANDARD, NONE = "standard", "none"
LEVELS = (STANDARD, NONE)


def with_level(settings: Mapping[str, Any], level: str) -> dict[str, Any]:
    return {**settings, "confinement": {"level": level}}


def in_turn(number: int) -> Sequence[str]:
    """Nobody always comes first."""
    return LEVELS if number % 2 else LEVELS[::-1]


# --- a cold start ---


def confinement_cold(size: Size) -> Turns:
    return {ATLATL: partial(_starts, size)}


def _starts(size: Size) -> Measured:
    """Both in one service, one start of each after the other."""
    seen: set[int] = set()
    took: dict[str, list[float]] = {level: [] for level in LEVELS}
    with peers.atlatl() as service:
        for level in LEVELS:
            service.deploy(level, functions.PLAIN, with_level(functions.COLD, level))
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE_S)
        for number in range(cold.WARM_UP + size.starts):
            for level in in_turn(number):
                took[level].append(cold.start(connection, level, seen))
        connection.close()
    return more_ms({level: each[cold.WARM_UP :] for level, each in took.items()})


def more_ms(took_s: Mapping[str, Sequence[float]]) -> Measured:
    """Medians, and by how much the confined one is above the other.

    Example: 3 ms and 2.25 ms are 0.75 ms more.
    """
    found = {level: median(each) * 1000 for level, each in took_s.items()}
    return {
        **{f"{level}: p50 ms": value for level, value in found.items()},
        f"{STANDARD}: p50 ms more": found[STANDARD] - found[NONE],
    }


# --- a warm call ---

PAIRS = 20
CONNECTIONS = 1
CALLS_LEAST = 100
"""In a shorter time the clock would say nothing."""
WARM: dict[str, Any] = {"pool": {"min_size": 1, "max_size": 1}}


def confinement_cpu(size: Size) -> Turns:
    numbers = itertools.count()
    return {ATLATL: lambda: _pair(next(numbers), size)}


def _pair(number: int, size: Size) -> Measured:
    """Both in one service, so that nothing but the instance differs."""
    found: dict[str, float] = {}
    with peers.atlatl() as service:
        for level in LEVELS:
            service.deploy(level, functions.WORK, with_level(WARM, level))
        for level in in_turn(number):
            path = f"/functions/{level}"
            target = pinned(service.port, path, peers.CONTENT, peers.is_work)
            load(target, CONNECTIONS, size.warm_s / 2)
            found[f"{level}: CPU us a call"] = cpu_us(service, level, target, size.seconds / 2)
    return found


def cpu_us(service: Service, task: str, target: Target, seconds: float) -> float:
    """CPU time of the service and the one instance together, by call."""
    both = Both(service, task)
    before = both.used_s()
    done = load(target, CONNECTIONS, seconds)
    return per_call_us(both.used_s() - before, done.calls)


class Both:
    """A service and the one instance of its task; raises Wrong if there are more or fewer."""

    def __init__(self, service: Service, task: str) -> None:
        self._service = service
        self._task = task
        self._pids = [service.pid, *service.instance_pids(task)]
        if len(self._pids) != 2:
            raise Wrong(f"{task} has {len(self._pids) - 1} instances instead of one")

    def used_s(self) -> float:
        """CPU seconds so far; raises Wrong when the instance is another one by now."""
        if self._service.instance_pids(self._task) != self._pids[1:]:
            raise Wrong(f"the instance of {self._task} was replaced under load")
        try:
            return sum(map(cpu_s, self._pids))
        except OSError:
            raise Wrong(
                f"one of the processes {self._pids} (the service, the instance of {self._task}) "
                "ended under load"
            ) from None


def per_call_us(used_s: float, calls: int) -> float:
    if calls < CALLS_LEAST:
        raise Wrong(f"{calls} calls are too few to know what one of them costs")
    return used_s / calls * 1e6


SCENARIOS = (
    Scenario(
        "confinement-cold", "cold start to the first result, confined and not", confinement_cold,
        [Aim("p50 ms more than without", f"{STANDARD}: p50 ms more", most=1.0)],
        {level: with_level(functions.COLD, level) for level in LEVELS},
    ),
    Scenario(
        "confinement-cpu", "CPU time of a warm call, service and instance, confined and not",
        confinement_cpu,
        [
            Aim("CPU time a call, to without", f"{STANDARD}: CPU us a call",
                f"{NONE}: CPU us a call"),
            Aim("its upper 95 % bound", f"{STANDARD}: CPU us a call", f"{NONE}: CPU us a call",
                most=1.05, upper=True),
        ],
        {level: with_level(WARM, level) for level in LEVELS}, rounds=PAIRS,
    ),
)  # fmt: skip
