"""The service's own pieces, timed as one call of the service uses them.

Each does `n` operations in a plain loop, the same loop for everybody, and afterwards proves
that all of them did what they should: a benchmark of calls that fail is worth nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from typing import Any

from atlatl import CircuitBreaker, InstancePool, Metrics, PoolSettings
from atlatl.core.leases import Lease
from atlatl.core.scheduling import RoundRobin
from atlatl.core.stock import Instance
from atlatl.core.waiting import Waiter
from atlatl.events import ExecutionFinished
from atlatl.model import Execution, ExecutionStatus, InstanceState, Mode, Outcome, OutcomeKind
from bench.rounds import Wrong

CANDIDATES = 50
INSTANCES = 8
TASKS = tuple(f"task-{number}" for number in range(8))
LATENCY_S = 0.012


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise Wrong(f"{what}: {found!r} instead of {wanted!r}")


class Operation:
    """One thing to time. `run` is timed, `check` is not."""

    name = ""

    def run(self, n: int) -> None:
        raise NotImplementedError

    def check(self, n: int) -> None:
        """Raises Wrong unless the last `run(n)` did its `n` operations, each of them well."""
        raise NotImplementedError


# --- breaker: admit, and record a success ---


class Breaker(Operation):
    """As the service does it: around no function, in two halves."""

    name = "atlatl breaker"

    def __init__(self) -> None:
        self.breaker = CircuitBreaker("bench")
        self.before = 0

    def run(self, n: int) -> None:
        admit, record = self.breaker.try_acquire, self.breaker.record
        for _ in repeat(None, n):
            permit = admit()
            record(permit)

    def check(self, n: int) -> None:
        stats = self.breaker.stats()
        expect((str(stats.state), stats.rejected_count), ("closed", 0), "state and refusals")
        expect(stats.success_count - self.before, n, "successes recorded")
        self.before = stats.success_count


class BreakerBlock(Breaker):
    """As a context manager, as others use it."""

    name = "atlatl breaker (with block)"

    def run(self, n: int) -> None:
        admit = self.breaker.admit
        for _ in repeat(None, n):
            with admit():
                pass


# --- pool: lease an idle instance, and give it back ---


class Channel:
    """An instance of nothing: it is lent and given back, never called."""

    origin = "blank"
    process_s = 0.0
    takes_ahead = False
    numbers = itertools.count(1)

    def __init__(self) -> None:
        self.pid = next(self.numbers)
        self.id = f"instance-{self.pid}"
        self.accepting = True
        self.on_lost: Any = None

    def memory_bytes(self) -> int:
        return 0

    async def ping(self) -> None:
        pass

    async def stop(self, grace_s: float) -> None:
        self.accepting = False


class Pool(Operation):
    """The way that a call takes: a waiter asks, gets its lease in the same stack, returns it."""

    name = "atlatl pool"

    def __init__(self, pool: InstancePool) -> None:
        self.pool = pool
        self.before = 0
        self.leases: list[Lease] = []
        self.errors: list[Exception] = []

    def run(self, n: int) -> None:
        ask, release, leases = self.pool.ask, self.pool.release, self.leases
        granted, refused = leases.append, self.errors.append
        for _ in repeat(None, n):
            ask(Waiter(granted, refused))
            release(leases.pop())

    def check(self, n: int) -> None:
        stats = self.pool.stats()
        expect((self.errors, self.leases), ([], []), "refusals, and leases that are still out")
        expect((stats.total, stats.in_use, stats.waiting), (INSTANCES, 0, 0), "pool afterwards")
        expect(stats.total_requests - self.before, n, "leases asked for")
        expect(stats.avg_wait_ms, 0.0, "wait for an idle instance")
        self.before = stats.total_requests


# --- figures: record one execution ---


def finished(task_name: str) -> ExecutionFinished:
    outcome = Outcome(OutcomeKind.SUCCESS, run_s=0.01)
    execution = Execution(
        execution_id="bench",
        task_id="bench",
        task_name=task_name,
        function_name="main",
        mode=Mode.SYNC,
        status=ExecutionStatus.COMPLETED,
        outcome=outcome,
    )
    return ExecutionFinished(0.0, task_name, execution, LATENCY_S)


class Figures(Operation):
    """The event of an ended execution: outcome, latency, run time, cold start, by task and name."""

    name = "atlatl figures"

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.events = itertools.cycle([finished(name) for name in TASKS])
        self.before = 0

    def run(self, n: int) -> None:
        emit, events = self.metrics.emit, self.events
        for _ in repeat(None, n):
            emit(next(events))

    def check(self, n: int) -> None:
        stats = self.metrics.stats()
        expect(stats.error_count, 0, "errors counted")
        expect(stats.request_count - self.before, n, "executions counted")
        expect(sum(self.metrics.by_function().values()), stats.request_count, "by function")
        self.before = stats.request_count


# --- scheduler: one choice among 50 ---


def open_instances() -> list[Instance]:
    instances = [Instance(1, 1, 0.0) for _ in range(CANDIDATES)]
    for instance in instances:
        instance.move(InstanceState.READY)
    return instances


class Choice(Operation):
    name = "atlatl choice"

    def __init__(self) -> None:
        self.candidates = open_instances()
        self.policy = RoundRobin()
        self.done = 0
        self.last: Instance | None = None

    def run(self, n: int) -> None:
        choose, candidates = self.policy.choose, self.candidates
        for _ in repeat(None, n):
            self.last = choose(candidates)
        self.done += n

    def check(self, n: int) -> None:
        """The turn is where it must be after as many choices as were asked for."""
        wanted = self.candidates[(self.done - 1) % CANDIDATES]
        expect(self.last is wanted, True, "the last one is next in turn")


TOGETHER = ("atlatl breaker", "atlatl pool", "atlatl figures", "atlatl choice")
"""What one call of the service needs."""


@asynccontextmanager
async def our_operations() -> AsyncIterator[list[Operation]]:
    """One of each, with the pool that one of them needs."""

    async def start() -> Any:
        return Channel()

    sizes = PoolSettings(min_size=INSTANCES, max_size=INSTANCES)
    async with InstancePool("bench", start, pool=sizes) as pool:
        yield [Breaker(), BreakerBlock(), Pool(pool), Figures(), Choice()]
