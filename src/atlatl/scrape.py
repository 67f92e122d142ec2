"""A scrape of `/metrics`: what every owner knows, asked for a few tasks at a time.

With 1000 tasks there are some 60 000 lines. Put together in one go they would hold every call up
for as long as that takes, so it is done in slices, and calls go on between them.
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from importlib.metadata import version as package_version
from itertools import islice
from typing import TypeVar

from atlatl.core.admission import ByteBudget, Gate
from atlatl.core.breaker import CircuitState
from atlatl.engine.executions import Executions
from atlatl.engine.registry import Deployed, Registry
from atlatl.model import QueueDepth
from atlatl.settings import Settings
from atlatl.telemetry.figures import OTHER, PoolFigures
from atlatl.telemetry.lag import LoopLag
from atlatl.telemetry.metrics import Metrics
from atlatl.telemetry.process import ProcessFigures, process_figures
from atlatl.telemetry.prometheus import Page
from atlatl.telemetry.queues import CALLBACK, TaskQueue, joined, task_queue_of
from atlatl.telemetry.service_families import ServiceScrape
from atlatl.telemetry.task_families import TaskScrape, task_label

T = TypeVar("T")

SLICE = 16
"""Tasks that are rendered before others have the event loop: 1 to 2 ms."""


class Scrape:
    """Puts the text for Prometheus together.

    Args:
        memory_limit_bytes: what the instances may use together.
        queue_depths: what the queue holds; asks nobody.
        queue_clock: Unix seconds of the queue's clock, for ages.
        trace_records: what happened to traced calls, by whether the collector has it.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        executions: Executions,
        gate: Gate,
        inflight: ByteBudget,
        metrics: Metrics,
        lag: LoopLag,
        *,
        memory_limit_bytes: int,
        queue_depths: Callable[[], Sequence[QueueDepth]],
        queue_clock: Callable[[], float],
        trace_records: Callable[[], Mapping[str, int]],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._executions = executions
        self._gate = gate
        self._inflight = inflight
        self._metrics = metrics
        self._lag = lag
        self._memory_limit_bytes = memory_limit_bytes
        self._queue_depths = queue_depths
        self._queue_clock = queue_clock
        self._trace_records = trace_records

    def enroll(self) -> None:
        """Gives the tasks that are deployed names of their own, as far as there is room.

        So they are counted from nought: for Prometheus a series that begins at 1 has not risen.
        """
        for deployed in self._registry:
            self._metrics.enroll(deployed.task.name)

    async def text(self, *, openmetrics: bool) -> bytes:
        """The text, with pauses in which calls go on."""
        process = await asyncio.to_thread(process_figures)
        slices = self._slices(process, openmetrics=openmetrics)
        while True:
            try:
                next(slices)
            except StopIteration as end:
                return bytes(end.value)
            await asyncio.sleep(0)

    def text_at_once(self, *, openmetrics: bool) -> bytes:
        """The same without pauses, for who has no event loop."""
        slices = self._slices(process_figures(), openmetrics=openmetrics)
        while True:
            try:
                next(slices)
            except StopIteration as end:
                return bytes(end.value)

    def _slices(
        self, process: ProcessFigures, *, openmetrics: bool
    ) -> Generator[None, None, bytes]:
        """Pauses after each `SLICE` tasks."""
        page = Page(openmetrics=openmetrics)
        callbacks: Counter[str] = Counter()
        now = self._queue_clock()
        depths = {depth.task_name: depth for depth in self._queue_depths()}
        names = self._metrics.names()
        for some in _slices_of(name for name in names if name != OTHER):
            found = [self._of_task(name, depths.pop(name, None), now) for name in some]
            page.add(found)
            _add_callbacks(callbacks, found)
            yield
        nameless = _Nameless(now)
        own = set(names)
        for others in _slices_of(each for each in self._registry if each.task.name not in own):
            for deployed in others:
                nameless.add(deployed, depths.pop(deployed.task.name, None))
            yield
        for gone in depths.values():  # the tasks are deleted, and something of theirs is left
            nameless.queues.append(task_queue_of(gone, now))
        other = nameless.scrape(self._metrics)
        page.add([other])
        _add_callbacks(callbacks, [other])
        return page.text(self._of_service(process, callbacks))

    def _of_task(self, name: str, depth: QueueDepth | None, now: float) -> TaskScrape:
        figures = self._metrics.figures(name)
        deployed = self._registry.find_name(name)
        if deployed is None:
            queue = None if depth is None else task_queue_of(depth, now)
            return TaskScrape(label=task_label(name), figures=figures, queue=queue)
        breaker = deployed.breaker.stats()
        return TaskScrape(
            label=task_label(name),
            figures=figures,
            pool=_pool_figures(deployed),
            breaker_states=(breaker.state,),
            breaker_rejections=breaker.rejected_count,
            queue=TaskQueue(name) if depth is None else task_queue_of(depth, now),
            memory_bytes=deployed.pool.memory_bytes,
        )

    def _of_service(self, process: ProcessFigures, callbacks: Mapping[str, int]) -> ServiceScrape:
        limits = self._settings.limits
        return ServiceScrape(
            version=_VERSION,
            python=platform.python_version(),
            tasks=len(self._registry),
            executions=self._gate.lent,
            executions_limit=limits.max_concurrent_executions,
            waiting=self._gate.waiting,
            waiting_limit=limits.max_queued_executions,
            inflight_bytes=self._inflight.held,
            inflight_limit_bytes=self._inflight.limit,
            memory_limit_bytes=self._memory_limit_bytes,
            queue_limit=limits.max_durable_pending,
            records_dropped=self._executions.dropped,
            callbacks=callbacks,
            trace_records=self._trace_records(),
            lag=self._lag.figures(),
            process=process,
        )


class _Nameless:
    """The sums of tasks beyond `telemetry.max_task_names`."""

    def __init__(self, now: float) -> None:
        self.queues: list[TaskQueue] = []
        self._now = now
        self._pools: list[PoolFigures] = []
        self._states: set[CircuitState] = set()
        self._rejections = 0
        self._memory_bytes = 0

    def add(self, deployed: Deployed, depth: QueueDepth | None) -> None:
        breaker = deployed.breaker.stats()
        self._pools.append(_pool_figures(deployed))
        self._states.add(breaker.state)
        self._rejections += breaker.rejected_count
        self._memory_bytes += deployed.pool.memory_bytes
        if depth is not None:
            self.queues.append(task_queue_of(depth, self._now))

    def scrape(self, metrics: Metrics) -> TaskScrape:
        return TaskScrape(
            label=task_label(OTHER),
            figures=metrics.figures(OTHER),
            pool=_sum_of(self._pools) if self._pools else None,
            breaker_states=tuple(self._states),
            breaker_rejections=self._rejections,
            queue=joined(OTHER, self.queues) if self._pools or self.queues else None,
            memory_bytes=self._memory_bytes if self._pools else None,
        )


def _pool_figures(deployed: Deployed) -> PoolFigures:
    stats = deployed.pool.stats(waits=False)
    return PoolFigures(
        task_name=deployed.task.name,
        total=stats.total,
        in_use=stats.in_use,
        available=stats.available,
        waiting=stats.waiting,
        starting=stats.starting,
        max_size=deployed.pool.settings.max_size,
        total_requests=stats.total_requests,
        utilization=stats.utilization,
    )


def _sum_of(pools: Sequence[PoolFigures]) -> PoolFigures:
    """One pool for all: their utilisation by the number of their instances."""
    total = sum(pool.total for pool in pools)
    busy = sum(pool.utilization * pool.total for pool in pools)
    return PoolFigures(
        task_name=OTHER,
        total=total,
        in_use=sum(pool.in_use for pool in pools),
        available=sum(pool.available for pool in pools),
        waiting=sum(pool.waiting for pool in pools),
        starting=sum(pool.starting for pool in pools),
        max_size=sum(pool.max_size for pool in pools),
        total_requests=sum(pool.total_requests for pool in pools),
        utilization=busy / total if total else 0.0,
    )


def _add_callbacks(counts: Counter[str], tasks: Iterable[TaskScrape]) -> None:
    for task in tasks:
        happenings = {} if task.figures is None else task.figures.happenings
        for (kind, end), count in happenings.items():
            if kind == CALLBACK:
                counts[end] += count


def _slices_of(things: Iterable[T]) -> Generator[list[T], None, None]:
    left = iter(things)
    while some := list(islice(left, SLICE)):
        yield some


_VERSION = package_version("atlatl")
