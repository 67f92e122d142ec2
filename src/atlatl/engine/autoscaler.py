"""The clockwork beside the pools: one task that ticks them all.

Each pool decides for itself; this says when, measures memory in a thread, and keeps all
pools together within the memory budget.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from atlatl.core.stock import Instance
from atlatl.ports import Reserve

MEMORY_INTERVAL_S = 5.0
REST_ROUNDS = 12
"""Of so many measurements one takes in an instance on which nothing has run meanwhile."""
ASSUMED_BYTES = 16 * 1024 * 1024
"""Of an instance that has not been measured yet."""

logger = logging.getLogger(__name__)


class TickedPool(Protocol):
    """What the clockwork knows of a pool."""

    @property
    def tick_interval_s(self) -> float: ...
    @property
    def check_interval_s(self) -> float: ...
    @property
    def spare(self) -> int:
        """Idle instances that may give way to other pools: at most those above `min_size`."""

    def live(self) -> Sequence[Instance]:
        """Instances that have started, but for those that are being ended."""

    @property
    def starting(self) -> int: ...
    def tick(self) -> None: ...
    async def check_health(self) -> None: ...
    def note_memory(self, instance: Instance, n_bytes: int, at: float) -> None: ...
    def evict(self, instance: Instance) -> None:
        """Ends an idle instance that gives way to others."""


class Autoscaler:
    """Ticks pools, each at its own interval, while `run` runs.

    Args:
        clock: monotonic seconds, in step with the event loop.
        memory_budget_bytes: of the instances of all pools together; 0 is no limit.
        reserve: counts towards the budget, and is the first to give way.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        memory_budget_bytes: int = 0,
        reserve: Reserve | None = None,
    ) -> None:
        self._clock = clock
        self.memory_budget_bytes = memory_budget_bytes
        self._reserve = reserve
        self.reserve_bytes = 0
        """As measured last."""
        self._pools: dict[TickedPool, None] = {}
        self._agenda: list[tuple[float, int, TickedPool, bool]] = []
        """(when, order, pool, whether it is a health check), a heap."""
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self._measured_at = clock()

    # --- which pools ---

    def add(self, pool: TickedPool) -> None:
        """Ticks the pool from now on."""
        self._pools[pool] = None
        self._plan(pool, check=False)
        self._plan(pool, check=True)
        self._changed.set()

    def remove(self, pool: TickedPool) -> None:
        """Leaves the pool alone."""
        self._pools.pop(pool, None)
        self._agenda = [entry for entry in self._agenda if entry[2] is not pool]
        heapq.heapify(self._agenda)

    def _plan(self, pool: TickedPool, *, check: bool) -> None:
        interval_s = pool.check_interval_s if check else pool.tick_interval_s
        entry = (self._clock() + interval_s, next(self._order), pool, check)
        heapq.heappush(self._agenda, entry)

    # --- the clockwork ---

    async def run(self) -> None:
        """Ticks until it is cancelled; its health checks and measurements end with it."""
        async with asyncio.TaskGroup() as jobs:
            while True:
                for pool, check in self._due():
                    if check:
                        jobs.create_task(self._check(pool))
                    else:
                        self._tick(pool)
                        self._plan(pool, check=False)
                if self._clock() >= self._measured_at + MEMORY_INTERVAL_S:
                    self._measured_at = self._clock()
                    jobs.create_task(self._measure())
                await self._pause()

    def _due(self) -> list[tuple[TickedPool, bool]]:
        now = self._clock()
        due = []
        while self._agenda and self._agenda[0][0] <= now:
            _, _, pool, check = heapq.heappop(self._agenda)
            due.append((pool, check))
        return due

    async def _pause(self) -> None:
        """Until the next entry is due, or a pool came."""
        next_at = self._measured_at + MEMORY_INTERVAL_S
        if self._agenda:
            next_at = min(next_at, self._agenda[0][0])
        self._changed.clear()
        try:
            async with asyncio.timeout(max(0.0, next_at - self._clock())):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _tick(self, pool: TickedPool) -> None:
        try:
            pool.tick()
        except Exception:
            logger.exception("a pool's tick failed; the other pools are ticked all the same")

    async def _check(self, pool: TickedPool) -> None:
        """One round of health checks; the next one is planned when it is over."""
        try:
            await pool.check_health()
        except Exception:
            logger.exception("a pool's health check failed; it is repeated at the next round")
        if pool in self._pools:
            self._plan(pool, check=True)
            self._changed.set()

    # --- memory ---

    async def _measure(self) -> None:
        try:
            await self.measure()
        except Exception:
            logger.exception("the instances could not be measured; it is tried again")

    async def measure(self) -> None:
        """Measures instances in a thread; beyond the budget, idle ones give way.

        Those beyond `min_size` first, but the budget is the stronger promise.
        """
        began, owners = self._clock(), self._to_measure()
        readers = [instance.channel.memory_bytes for _, instance in owners]
        if self._reserve is not None:
            readers.append(self._reserve.memory_bytes)
        sizes = await asyncio.get_running_loop().run_in_executor(None, _read, readers)
        if self._reserve is not None:
            self.reserve_bytes = sizes.pop() or 0
        for (pool, instance), n_bytes in zip(owners, sizes, strict=True):
            if n_bytes is not None:
                pool.note_memory(instance, n_bytes, began)
        if self.memory_budget_bytes:
            beyond_min, within_min = self._idle()
            excess = self.memory_bytes() - self.memory_budget_bytes
            _evict([*beyond_min, *within_min], self._without_reserve(excess))

    def _to_measure(self) -> list[Owned]:
        """Those on which something ran, and a share of the others: each takes 0.4 ms."""
        ran: list[Owned] = []
        rested: list[Owned] = []
        for pool in self._pools:
            for instance in pool.live():
                (rested if instance.measured else ran).append((pool, instance))
        rested.sort(key=lambda owned: owned[1].measured_at)
        return ran + rested[: math.ceil(len(rested) / REST_ROUNDS)]

    def memory_bytes(self) -> int:
        """What reserve and instances use; those not measured yet count as assumed."""
        return self.reserve_bytes + sum(
            sum(map(_size, pool.live())) + pool.starting * ASSUMED_BYTES for pool in self._pools
        )

    def may_start(self) -> bool:
        """Whether one more instance fits into the budget, if need be in place of idle ones.

        Those used least recently give way, in other pools that have more than `min_size`.
        """
        if not self.memory_budget_bytes:
            return True
        excess = self.memory_bytes() + ASSUMED_BYTES - self.memory_budget_bytes
        excess = self._without_reserve(excess)
        beyond_min, _ = self._idle()
        if sum(_size(instance) for _, instance in beyond_min) < excess:
            return False
        _evict(beyond_min, excess)
        return True

    def _without_reserve(self, excess: int) -> int:
        """What is still too much when the reserve has given way, if it has to."""
        if excess <= 0 or self._reserve is None or not self.reserve_bytes:
            return excess
        self._reserve.give_way()
        excess -= self.reserve_bytes
        self.reserve_bytes = 0
        return excess

    def _idle(self) -> tuple[list[Owned], list[Owned]]:
        """Idle instances that each pool can spare, and the others; least recent first."""
        beyond_min: list[Owned] = []
        within_min: list[Owned] = []
        for pool in self._pools:
            idle = sorted((i for i in pool.live() if i.idle), key=lambda i: i.last_used)
            owned = [(pool, instance) for instance in idle]
            spare = max(0, pool.spare)
            beyond_min += owned[:spare]
            within_min += owned[spare:]
        return sorted(beyond_min, key=_last_used), sorted(within_min, key=_last_used)


Owned = tuple[TickedPool, Instance]


def _evict(candidates: Iterable[Owned], excess: int) -> None:
    """Ends instances in the given order until `excess` bytes are saved."""
    for pool, instance in candidates:
        if excess <= 0:
            return
        pool.evict(instance)
        excess -= _size(instance)


def _last_used(owned: Owned) -> float:
    return owned[1].last_used


def _size(instance: Instance) -> int:
    return instance.memory_bytes or ASSUMED_BYTES


def _read(readers: Iterable[Callable[[], int]]) -> list[int | None]:
    """Runs in a thread. An instance that ends meanwhile has no figure."""
    return [_read_one(reader) for reader in readers]


def _read_one(reader: Callable[[], int]) -> int | None:
    try:
        return reader()
    except OSError:
        return None
