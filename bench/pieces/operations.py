"""What others offer for the same as the service's own pieces, and what is compared with what."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from itertools import repeat
from typing import Any

import prometheus_client
import purgatory
import pybreaker

from bench.pieces.ours import (
    CANDIDATES,
    INSTANCES,
    LATENCY_S,
    TASKS,
    Operation,
    expect,
    open_instances,
    our_operations,
)


def nothing() -> int:
    """What is called through a breaker."""
    return 1


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


class Cycle(Operation):
    """The plainest round robin that there is: it looks at nothing."""

    name = "itertools.cycle"

    def __init__(self) -> None:
        self.candidates = open_instances()
        self.turn = itertools.cycle(self.candidates)
        self.done = 0
        self.last: Any = None

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


async def with_operations(use: Callable[[list[Operation]], None]) -> None:
    """Makes all operations, hands them over, and ends what they need."""
    theirs = [PyBreaker(), Purgatory(), Queue(), Client(), KeptClient(), Cycle()]
    async with our_operations() as ours:
        use([*ours, *theirs])
