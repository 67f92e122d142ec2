"""The operations that are timed: the service's own pieces, and what others offer for the same.

Each does `n` operations in a plain loop, the same loop for everybody, and afterwards proves
that all of them did what they should: a benchmark of calls that fail is worth nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from itertools import repeat
from typing import Any

import prometheus_client
import purgatory
import pybreaker

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


def nothing() -> int:
    """What is called through a breaker."""
    return 1


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


class PyBreaker(Operation):
    name = "pybreaker"

    def __init__(self) -> None:
        self.breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)
        self.last: Any = None

    def run(self, n: int) -> None:
        call = self.breaker.call
        for _ in repeat(None, n):
            self.last = call(nothing)

    def check(self, n: int) -> None:
        expect(self.last, 1, "value of the last call")
        expect(self.breaker.current_state, "closed", "state")
        try:
            self.breaker.call(fails)
        except ZeroDivisionError:
            expect(self.breaker.fail_counter, 1, "failures counted")
        self.breaker.call(nothing)
        expect(self.breaker.fail_counter, 0, "failures after a success")


class Purgatory(Operation):
    name = "purgatory"

    def __init__(self) -> None:
        self.breaker = purgatory.SyncCircuitBreakerFactory().get_breaker("bench")

    def run(self, n: int) -> None:
        breaker = self.breaker
        for _ in repeat(None, n):
            with breaker:
                pass

    def check(self, n: int) -> None:
        context = self.breaker.context
        expect(context.state, "closed", "state")
        try:
            with self.breaker:
                fails()
        except ZeroDivisionError:
            expect(context.failure_count, 1, "failures counted")
        with self.breaker:
            pass
        expect(context.failure_count, 0, "failures after a success")


def fails() -> None:
    raise ZeroDivisionError


# --- pool: lease an idle instance, and give it back ---


class Channel:
    """An instance of nothing: it is lent and given back, never called."""

    origin = "blank"
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


class Queue(Operation):
    """The plainest pool that there is: no order, no limits, no figures."""

    name = "asyncio.Queue"

    def __init__(self) -> None:
        self.queue: asyncio.Queue[object] = asyncio.Queue()
        for _ in range(INSTANCES):
            self.queue.put_nowait(object())

    def run(self, n: int) -> None:
        get, put = self.queue.get_nowait, self.queue.put_nowait
        for _ in repeat(None, n):
            put(get())

    def check(self, n: int) -> None:
        expect(self.queue.qsize(), INSTANCES, "queue afterwards")


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


class Client(Operation):
    """A counter and a histogram with the same buckets, labels looked up for each execution."""

    name = "prometheus-client"
    buckets = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

    def __init__(self) -> None:
        registry = prometheus_client.CollectorRegistry()
        self.executions = prometheus_client.Counter(
            "executions", "Executions.", ("task", "outcome"), registry=registry
        )
        self.latency = prometheus_client.Histogram(
            "latency_seconds", "Latency.", ("task",), buckets=self.buckets, registry=registry
        )
        self.names = itertools.cycle(TASKS)
        self.before = 0.0

    def run(self, n: int) -> None:
        count, observe, names = self.executions.labels, self.latency.labels, self.names
        for _ in repeat(None, n):
            name = next(names)
            count(name, "success").inc()
            observe(name).observe(LATENCY_S)

    def check(self, n: int) -> None:
        counted = self.total(self.executions, "executions_total")
        expect(counted - self.before, n, "executions counted")
        expect(self.total(self.latency, "latency_seconds_count"), counted, "latencies observed")
        self.before = counted

    def total(self, metric: Any, name: str) -> float:
        (family,) = metric.collect()
        return float(sum(sample.value for sample in family.samples if sample.name == name))


class KeptClient(Client):
    """The same with the labelled children kept by hand."""

    name = "prometheus-client (children kept)"

    def __init__(self) -> None:
        super().__init__()
        children = [(self.executions.labels(n, "success"), self.latency.labels(n)) for n in TASKS]
        self.children = itertools.cycle(children)

    def run(self, n: int) -> None:
        children = self.children
        for _ in repeat(None, n):
            counter, histogram = next(children)
            counter.inc()
            histogram.observe(LATENCY_S)


# --- scheduler: one choice among 50 ---


def open_instances() -> list[Instance]:
    instances = [Instance(1, 0.0) for _ in range(CANDIDATES)]
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


class Cycle(Operation):
    """The plainest round robin that there is: it looks at nothing."""

    name = "itertools.cycle"

    def __init__(self) -> None:
        self.candidates = open_instances()
        self.turn = itertools.cycle(self.candidates)
        self.done = 0
        self.last: Instance | None = None

    def run(self, n: int) -> None:
        turn = self.turn
        for _ in repeat(None, n):
            self.last = next(turn)
        self.done += n

    def check(self, n: int) -> None:
        wanted = self.candidates[(self.done - 1) % CANDIDATES]
        expect(self.last is wanted, True, "the last one is next in turn")


PIECES: dict[str, tuple[str, ...]] = {
    "atlatl breaker": ("pybreaker", "purgatory"),
    "atlatl breaker (with block)": ("pybreaker", "purgatory"),
    "atlatl pool": ("asyncio.Queue",),
    "atlatl figures": ("prometheus-client", "prometheus-client (children kept)"),
    "atlatl choice": ("itertools.cycle",),
}
"""Ours, and what each is compared with."""
TOGETHER = ("atlatl breaker", "atlatl pool", "atlatl figures", "atlatl choice")
"""What one call of the service needs."""

_PLAIN: tuple[Callable[[], Operation], ...] = (
    Breaker, BreakerBlock, PyBreaker, Purgatory, Queue,
    Figures, Client, KeptClient, Choice, Cycle,
)  # fmt: skip


async def with_operations(use: Callable[[list[Operation]], None]) -> None:
    """Makes all operations, hands them over, and ends what they need."""

    async def start() -> Any:
        return Channel()

    sizes = PoolSettings(min_size=INSTANCES, max_size=INSTANCES)
    async with InstancePool("bench", start, pool=sizes) as pool:
        use([Pool(pool), *(make() for make in _PLAIN)])
