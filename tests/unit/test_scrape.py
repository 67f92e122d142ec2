"""A scrape asks for a few tasks at a time, and has names for as many as are allowed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from atlatl import events
from atlatl.core.admission import ByteBudget, Gate
from atlatl.core.window import BOUNDS_S
from atlatl.engine.breaker import CircuitBreaker
from atlatl.engine.pool import InstancePool
from atlatl.engine.registry import Deployed, Registry
from atlatl.model import QueueDepth
from atlatl.scrape import SLICE, Scrape
from atlatl.settings import Settings
from atlatl.telemetry.lag import INTERVAL_S, LoopLag
from atlatl.telemetry.metrics import OTHER, Metrics
from tests.unit.front_fakes import make_task
from tests.unit.test_prometheus import samples, value
from tests.virtual_time import run

FULL = 60
"""Lines that a task has in a scrape, at least."""


class CountedPool(InstancePool):
    """Notes in which turn of the loop it was asked."""

    turns: list[int]
    turn = 0

    def stats(self, *, waits: bool = True) -> Any:
        assert not waits, "to sort the waits of each pool is too much for a scrape"
        CountedPool.turns.append(CountedPool.turn)
        return super().stats(waits=waits)


class Dropped:
    dropped = {"rate": 1, "store": 2}


class House:
    def __init__(self, n_tasks: int, *, max_names: int = 10_000) -> None:
        CountedPool.turns = []
        self.registry = Registry()
        self.gate = Gate(100, 200)
        self.metrics = Metrics(lambda: 0.0, max_names=max_names)
        self.depths: list[QueueDepth] = []
        for number in range(n_tasks):
            self.deploy(f"task-{number:04}")
        self.scrape = Scrape(
            Settings(),
            self.registry,
            Dropped(),  # type: ignore[arg-type]
            self.gate,
            ByteBudget(1000),
            self.metrics,
            LoopLag(time.monotonic),
            memory_limit_bytes=2**30,
            queue_depths=lambda: self.depths,
            queue_clock=lambda: 100.0,
            trace_records=lambda: {"exported": 1, "dropped": 0},
        )
        self.scrape.enroll()

    def deploy(self, name: str) -> None:
        pool = CountedPool(name, start=None, gate=self.gate)  # type: ignore[arg-type]
        breaker = CircuitBreaker(name)
        self.registry.add(Deployed(make_task(name), pool, breaker, 0.0))

    def busy(self) -> None:
        """Something to count for each task, in each bucket."""
        for deployed in self.registry:
            for bound in BOUNDS_S:
                self.metrics.record_request(bound, "success", task_name=deployed.task.name)


async def one_turn_after_another() -> None:
    while True:
        CountedPool.turn += 1
        await asyncio.sleep(0)


def test_the_loop_is_held_for_few_tasks_at_a_time() -> None:
    house = House(1000)

    async def scraped() -> bytes:
        counter = asyncio.create_task(one_turn_after_another())
        try:
            return await house.scrape.text(openmetrics=False)
        finally:
            counter.cancel()

    text = asyncio.run(scraped()).decode()
    assert len(CountedPool.turns) == 1000
    in_one_turn = max(CountedPool.turns.count(turn) for turn in set(CountedPool.turns))
    assert in_one_turn <= SLICE
    assert len([line for line in text.splitlines() if 'faas_name="task-0999"' in line]) >= FULL


def test_tasks_without_a_name_are_held_for_few_at_a_time_too() -> None:
    house = House(300, max_names=10)

    async def scraped() -> None:
        counter = asyncio.create_task(one_turn_after_another())
        await house.scrape.text(openmetrics=True)
        counter.cancel()

    asyncio.run(scraped())
    assert max(CountedPool.turns.count(turn) for turn in set(CountedPool.turns)) <= SLICE


def test_both_ways_give_the_same_but_for_the_process() -> None:
    house = House(40)
    house.busy()
    at_once = house.scrape.text_at_once(openmetrics=True)
    in_slices = asyncio.run(house.scrape.text(openmetrics=True))

    def of_tasks(text: bytes) -> list[str]:
        return [line for line in text.decode().splitlines() if "process_" not in line]

    assert of_tasks(at_once) == of_tasks(in_slices)


def test_ten_thousand_tasks_have_no_more_names_than_are_allowed() -> None:
    house = House(10_000, max_names=100)
    house.busy()
    house.registry.named("task-5000").breaker.force_open()
    house.depths = [
        QueueDepth("task-0001", ready=1),
        QueueDepth("task-7000", ready=2, oldest_ready_at=90.0),
        QueueDepth("deleted", dead=3),
    ]
    text = house.scrape.text_at_once(openmetrics=False).decode()
    found = samples(text)
    names = {dict(labels)["faas_name"] for _, labels in found if "faas_name" in dict(labels)}
    assert names == {f"task-{number:04}" for number in range(100)} | {OTHER}
    assert len(found) < 102 * 90
    # What has no name of its own is one sum, and nothing is lost.
    each = len(BOUNDS_S)
    assert value(text, "faas_invocations_total", faas_name=OTHER) == 9900 * each
    assert value(text, "faas_invocations_total", faas_name="task-0099") == each
    assert value(text, "atlatl_pool_max_instances", faas_name=OTHER) == 9900 * 16
    assert value(text, "atlatl_breaker_state", faas_name=OTHER, state="open") == 1
    assert value(text, "atlatl_breaker_state", faas_name=OTHER, state="closed") == 1
    assert value(text, "atlatl_queue_executions", faas_name=OTHER, state="ready") == 2
    assert value(text, "atlatl_queue_oldest_seconds", faas_name=OTHER) == 10
    assert value(text, "atlatl_dead_letters", faas_name=OTHER) == 3
    assert value(text, "atlatl_queue_executions", faas_name="task-0001", state="ready") == 1
    assert value(text, "atlatl_tasks") == 10_000


def test_a_task_is_counted_from_nought_as_soon_as_it_is_deployed() -> None:
    metrics = Metrics(lambda: 0.0)
    metrics.emit(events.TaskDeployed(at=0.0, task_name="new", version=1, created=True))
    figures = metrics.figures("new")
    assert figures is not None
    assert set(figures.outcomes.values()) == {0}
    metrics.record_request(0.1, "success", task_name="new")
    metrics.emit(events.TaskDeployed(at=0.0, task_name="new", version=2, created=False))
    figures = metrics.figures("new")
    assert figures is not None
    assert sum(figures.outcomes.values()) == 1


def test_a_name_that_is_free_again_goes_to_the_next_that_is_called() -> None:
    house = House(3, max_names=2)
    house.metrics.forget("task-0000")
    house.metrics.record_request(0.1, "success", task_name="task-0002")
    text = house.scrape.text_at_once(openmetrics=False).decode()
    assert value(text, "faas_invocations_total", faas_name="task-0002") == 1
    assert value(text, "atlatl_pool_waiting", faas_name="task-0002") == 0


@pytest.mark.parametrize(("held_s", "bound"), [(0.0, "0.001"), (0.4, "0.5")])
def test_a_loop_that_is_held_up_is_late(held_s: float, bound: str) -> None:
    now = 0.0

    async def measured() -> LoopLag:
        nonlocal now
        lag = LoopLag(lambda: now)
        running = asyncio.create_task(lag.run())
        await asyncio.sleep(0)
        now += INTERVAL_S + held_s
        while not sum(lag.figures().buckets):
            await asyncio.sleep(INTERVAL_S)
        running.cancel()
        return lag

    figures = run(measured()).figures()
    assert figures.sum_s == pytest.approx(held_s)
    place = [str(float(each)) for each in BOUNDS_S].index(bound)
    assert figures.buckets[place] == 1
