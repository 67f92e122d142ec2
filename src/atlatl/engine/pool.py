"""InstancePool: the instances of one version of one task, lent to one call after another.

The asyncio shell around `core.lending`: it starts and stops instances, owns the timers and
calls the waiters back. Everything runs in the thread of the event loop, and nothing waits
between a decision and its effect on the pool's state.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from atlatl.core import scaling as scaling_policies
from atlatl.core import scheduling as scheduling_policies
from atlatl.core.admission import Gate, Share
from atlatl.core.ahead import STALL_S
from atlatl.core.leases import Lease, LeaseError
from atlatl.core.lending import Lending
from atlatl.core.stock import Instance, Scaled, Start, Stop
from atlatl.core.waiting import Waiter
from atlatl.engine.autoscaler import Autoscaler
from atlatl.engine.crew import Crew
from atlatl.engine.views import InstanceView
from atlatl.errors import (
    AtlatlError,
    InvalidRequest,
    NoCapacity,
    PoolClosed,
    SettingInvalid,
    TimedOutWaiting,
)
from atlatl.events import Event, PoolScaled
from atlatl.model import Record
from atlatl.ports import InstanceChannel
from atlatl.settings import PoolSettings, ScalingSettings, SchedulerSettings

DRAIN_S = 30.0
WATCH_S = STALL_S / 2

logger = logging.getLogger(__name__)


class PoolStats(Record, frozen=True):
    """A pool at one moment; `total` is always `in_use` + `available`."""

    total: int
    """Live instances, whatever they are doing, but for sick ones that have nothing to do."""
    in_use: int
    """Instances with at least one call in flight."""
    available: int
    waiting: int
    """Callers that wait."""
    starting: int
    total_requests: int
    """Leases asked for."""
    failures: int
    """Requests that were refused with an error; time-outs and withdrawals are counted apart."""
    timed_out: int
    withdrawn: int
    failed_starts: int
    avg_wait_ms: float
    """Of requests that were granted, as is the one below."""
    p95_wait_ms: float | None
    """Of the last 1024; None before the first."""
    scale_up_count: int
    """Steps that really happened, on demand or by a decision; refilling `min_size` is none."""
    scale_down_count: int
    utilization: float
    """Busy time / live time of all instances so far, 0 to 1."""
    last_decision: str
    """The last step with its reason; before the first one, why there was none."""


class InstancePool:
    """An elastic pool of instances.

    `async with pool:` keeps it scaled and checked by itself. A service with many pools hands
    them to one `Autoscaler` instead, and closes each with `close`.

    Args:
        name: the task's, for messages and events.
        start: one cold start; raises StartFailed, or ArtifactInvalid when the code is broken.
        pool: sizes, bounds and rules of retirement.
        scaling: when to grow and shrink besides the growth on demand.
        scheduler: which instance gets a call.
        version: of the task, for the views.
        gate: bounds the calls of all pools together; None is no bound.
        weight: share among the pools of the gate while that is full.
        may_start: asked before each start; False when the memory budget leaves no room.
        clock: monotonic seconds, in step with the event loop.
        wall_clock: Unix seconds, for the events; None uses `clock`.
        on_event: hears what happened.
        chance: `chance(n)` gives 0 to n - 1, for the policies that draw.
        spread: processors for instances: so many work at once before short calls are handed
            ahead to them. None hands none ahead.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[InstanceChannel]],
        *,
        pool: PoolSettings = PoolSettings(),  # noqa: B008 - frozen
        scaling: ScalingSettings = ScalingSettings(),  # noqa: B008
        scheduler: SchedulerSettings = SchedulerSettings(),  # noqa: B008
        version: int = 1,
        gate: Gate | None = None,
        weight: float = 1.0,
        may_start: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] | None = None,
        on_event: Callable[[Event], None] | None = None,
        chance: Callable[[int], int] | None = None,
        spread: int | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.policy = scheduler.policy
        self._clock = clock
        self._wall_clock = wall_clock or clock
        self._on_event = on_event
        self._gate = gate or Gate()
        self._may_start = may_start
        self._growing = False
        choice = scheduling_policies.POLICIES[scheduler.policy]
        self._lending = Lending(
            pool,
            choice(chance or random.Random().randrange),  # nosec: B311 # choice of an instance
            self._gate,
            Share(weight, self._serve),
            self._may_grow,
            spread,
        )
        self._crew = Crew(
            name, start, self._lending, clock=clock, settle=self._settle, emit=self._emit
        )
        self._scaling = scaling
        self._decide = scaling_policies.POLICIES[scaling.policy]
        self._past = scaling_policies.Past()
        self._last_decision = ""
        self._changed = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._ticker: asyncio.Task[None] | None = None

    # --- asking and giving back: all in the caller's stack ---

    def ask(self, waiter: Waiter) -> None:
        """Lends an instance, lets the waiter wait, or refuses it.

        When an instance is idle, `waiter.granted` has run before this returns. A refusal
        arrives at `waiter.refused`; nothing is raised.
        """
        waiter.pool = self
        lending = self._lending
        try:
            lease = lending.ask(waiter, self._clock())
        except AtlatlError as error:
            self._tell(waiter.refused, error)
        else:
            if lease is not None:
                self._grant(waiter, lease)
        if lending.waiting or lending.actions:
            self._settle()

    def withdraw(self, waiter: Waiter) -> bool:
        """Takes a waiter back; False when it was granted or refused before."""
        holder: InstancePool = waiter.pool
        withdrawn = holder._lending.withdraw(waiter, self._clock())
        if withdrawn:
            holder._after_release()
        return withdrawn

    def release(self, lease: Lease, *, broken: bool = False, run_s: float | None = None) -> None:
        """Gives an instance back; a broken one is ended and replaced.

        Args:
            lease: that this pool gave.
            broken: the instance is.
            run_s: how long the call ran, in seconds, when that is known.

        Raises:
            LeaseError: the lease was given back before, or is another pool's.
        """
        self._lending.give_back(lease, self._clock(), broken=broken, run_s=run_s)
        self._after_release()

    def undo(self, lease: Lease, waiter: Waiter | None, current: InstancePool) -> None:
        """Gives an instance back whose call was taken back before it began; see `release`.

        Args:
            lease: that this pool gave.
            waiter: waits again, in the place that it had; None when nobody does.
            current: the pool for it to wait in.
        """
        self._lending.undo(lease, self._clock())
        if waiter is not None:
            waiter.since, waiter.number = lease.asked_at, lease.number
            current.adopt([waiter])
        self._after_release()

    def _after_release(self) -> None:
        lending = self._lending
        if lending.waiting or lending.actions or self._gate.unsettled:
            self._settle()

    def lost(self, instance: Instance, error: AtlatlError) -> None:
        """The instance died; its leases stay out until they are released."""
        self._crew.lost(instance, error)

    def take_waiters(self) -> list[Waiter]:
        """Hands over all that wait, for `adopt` of the pool that takes this one's place."""
        return self._lending.take_waiters()

    def adopt(self, waiters: Sequence[Waiter]) -> None:
        """Takes over the waiters of the pool before this one, in their order."""
        for waiter in waiters:
            waiter.pool = self
        self._lending.adopt(list(waiters), self._clock())
        self._settle()

    @asynccontextmanager
    async def lease(
        self, timeout_s: float | None = None, priority: int = 3
    ) -> AsyncIterator[InstanceChannel]:
        """An instance for the time of the block.

        Args:
            timeout_s: longest wait; None waits for as long as it takes.
            priority: 0 (most urgent) to 7.

        Raises:
            TimedOutWaiting: no instance became free in time.
            QueueFull, PoolClosed, StartFailed, ArtifactInvalid, NoCapacity: as they say.
        """
        lender, lease = await self._acquire(timeout_s, priority)
        try:
            yield lease.channel
        finally:
            lender.release(lease)

    async def _acquire(self, timeout_s: float | None, priority: int) -> tuple[InstancePool, Lease]:
        """A lease, and the pool that gave it: waiters may have been handed over."""
        answer: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiter = Waiter(answer.set_result, answer.set_exception, priority=priority)
        if timeout_s is not None:
            waiter.deadline = self._clock() + timeout_s
        self.ask(waiter)
        if answer.done():
            return waiter.pool, answer.result()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.wait((answer,))
        except TimeoutError:
            if not answer.done():
                self.withdraw(waiter)
                raise TimedOutWaiting(f"no instance became free in {timeout_s} s") from None
        except BaseException:
            # Cancelled: an instance that was granted meanwhile must not leak.
            if not self.withdraw(waiter) and answer.exception() is None:
                waiter.pool.release(answer.result())
            raise
        return waiter.pool, answer.result()

    # --- figures ---

    @property
    def closed(self) -> bool:
        return self._lending.closed

    @property
    def settings(self) -> PoolSettings:
        return self._lending.settings

    @property
    def room(self) -> int:
        """Calls that it could take besides those lent and waiting, when grown to its most."""
        return self._lending.room

    @property
    def few(self) -> int | None:
        """Instances that do all the work while calls are handed ahead; None: they are not."""
        return self._lending.few

    @property
    def memory_bytes(self) -> int:
        """PSS of its instances when last sampled."""
        return sum(each.memory_bytes for each in self._lending.stock.instances)

    def stats(self, *, waits: bool = True) -> PoolStats:
        """Everything is read off the instances and the account at this moment.

        Args:
            waits: with the quantile of waits, which costs more than all the rest.
        """
        account, stock, now = self._lending.account, self._lending.stock, self._clock()
        in_use = sum(i.in_flight > 0 for i in stock.instances)
        available = sum(i.idle for i in stock.instances)
        p95_s = account.wait_quantile_s(0.95) if waits else None
        return PoolStats(
            total=in_use + available,
            in_use=in_use,
            available=available,
            waiting=self._lending.waiting,
            starting=stock.starting,
            total_requests=account.requests,
            failures=account.refused,
            timed_out=account.timed_out,
            withdrawn=account.withdrawn,
            failed_starts=stock.counts.failed_starts,
            avg_wait_ms=account.mean_wait_s * 1000,
            p95_wait_ms=None if p95_s is None else p95_s * 1000,
            scale_up_count=stock.counts.scale_ups,
            scale_down_count=stock.counts.scale_downs,
            utilization=stock.utilization(now),
            last_decision=self._last_decision,
        )

    def instances(self) -> list[InstanceView]:
        """Those that have started and are not gone."""
        now = self._clock()
        return [
            InstanceView(
                instance_id=instance.channel.id,
                task_name=self.name,
                version=self.version,
                state=instance.state,
                pid=instance.channel.pid,
                age_s=now - instance.started_at,
                uses=instance.uses,
                in_flight=instance.in_flight,
                memory_bytes=instance.memory_bytes,
                origin=instance.channel.origin,
            )
            for instance in self._lending.stock.instances
            if not instance.starting
        ]

    # --- sizes ---

    async def ensure(self, count: int) -> None:
        """Returns when `count` instances are ready.

        Raises:
            StartFailed, ArtifactInvalid: a start failed, or an instance died at once.
            InvalidRequest: `count` is above `max_size`.
            NoCapacity: the memory budget leaves no room.
            PoolClosed: the pool was closed.
        """
        if count > self.settings.max_size:
            raise InvalidRequest(
                f"{count} instances were asked for, `pool.max_size` is {self.settings.max_size}"
            )
        stock, crew, mishaps = self._lending.stock, self._crew, self._crew.mishaps
        while sum(i.open for i in stock.instances) < count:
            if self.closed:
                raise PoolClosed(f"the pool of {self.name!r} was closed")
            if crew.mishaps > mishaps and crew.last_mishap is not None:
                raise copy.copy(crew.last_mishap)
            if stock.reserve(count - stock.size, self._clock(), insist=True):
                # Warmth that was asked for is not to be taken away at the next tick.
                self._past = self._past.stepped(self._clock())
                self._settle()
            if stock.blocked and stock.size < count:
                raise NoCapacity("the memory budget leaves no room (`limits.memory_budget_bytes`)")
            await self._changed.wait()

    async def resize(self, min_size: int, max_size: int) -> None:
        """Sets other limits, and returns when `min_size` instances are ready.

        Idle instances above `max_size` end now, those in use when they come back.

        Raises:
            SettingInvalid: not 0 <= min_size <= max_size, or max_size is 0.
            PoolClosed: the pool was closed.
        """
        try:
            changed = msgspec.structs.replace(self.settings, min_size=min_size, max_size=max_size)
        except ValueError as error:
            raise SettingInvalid(str(error)) from None
        self._lending.resize(changed, self._clock())
        self._settle()
        await self.ensure(min_size)

    # --- the tick ---

    @property
    def tick_interval_s(self) -> float:
        return self._scaling.scale_interval_s

    @property
    def check_interval_s(self) -> float:
        return self.settings.health_check_interval_s

    @property
    def spare(self) -> int:
        """Instances above `min_size`; none while this pool wants more itself.

        Else a pool out of memory would end its newest instance for the sake of its next one,
        again and again, and serve nobody.
        """
        if self._growing or self._lending.waiting:
            return 0
        return self._lending.stock.size - self.settings.min_size

    @property
    def starting(self) -> int:
        return self._lending.stock.starting

    def live(self) -> list[Instance]:
        """Instances that have started, but for those that are being ended."""
        started = [i for i in self._lending.stock.instances if not i.starting]
        return [i for i in started if i.in_flight or not i.leaving]

    def tick(self) -> None:
        """Retires what is worn, restores `min_size`, scales, and retires what idled too long."""
        if self.closed:
            return
        lending, now = self._lending, self._clock()
        lending.stock.retire_worn(now)
        lending.wake(now)
        lending.stock.restore(now)
        decision = self._decide(self._scaling, lending.load(), self._past, now)
        self._past = decision.past
        lending.scale_to(decision.target, decision.reason, now)
        lending.stock.retire_unused(now)
        if not lending.stock.counts.steps:
            self._last_decision = f"stay at {decision.target}: {decision.reason}"
        self._settle()

    async def check_health(self) -> None:
        """Pings all instances with nothing in flight at once; a busy one has its deadline."""
        idle = [i for i in self.live() if not i.in_flight]
        await asyncio.gather(*map(self._check, idle))

    async def _check(self, instance: Instance) -> None:
        uses = instance.uses
        try:
            async with asyncio.timeout(self.settings.health_check_timeout_s):
                await instance.channel.ping()
            ok = True
        except (AtlatlError, TimeoutError, OSError):
            ok = False
        if instance.uses == uses:  # a call may have kept it from answering
            self._lending.checked(instance, ok, self._clock())
            self._settle()

    def note_memory(self, instance: Instance, n_bytes: int, at: float) -> None:
        """Takes in a measurement that began then."""
        instance.memory_bytes, instance.measured_at = n_bytes, at

    def evict(self, instance: Instance) -> None:
        """Ends an idle instance that gives way to others."""
        self._lending.stock.retire(instance, "gives way: the memory budget is used up")
        # Not now: another pool may be in the middle of a decision of its own.
        asyncio.get_running_loop().call_soon(self._settle)

    async def run(self) -> None:
        """Ticks this pool alone, until it is cancelled."""
        autoscaler = Autoscaler(clock=self._clock)
        autoscaler.add(self)
        await autoscaler.run()

    async def __aenter__(self) -> InstancePool:
        self._ticker = self._crew.spawn(self.run())
        try:
            await self.ensure(self.settings.min_size)
        except BaseException:
            await self.close(0.0)
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self, drain_s: float = DRAIN_S) -> None:
        """Refuses callers old and new, and returns when all instances are gone.

        Those in use get `drain_s` to come back, then they are killed. May be called again,
        also with another `drain_s` while the first call waits.
        """
        if not self.closed:
            self._lending.close()
            self._settle()
        try:
            async with asyncio.timeout(drain_s):
                while self._lending.stock.instances:
                    await self._changed.wait()
        except TimeoutError:
            self._crew.kill_all()
            self._settle()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._watch is not None:
            self._watch.cancel()
        await self._crew.finish()

    # --- carrying out ---

    def _may_grow(self) -> bool:
        self._growing = True
        try:
            return self._may_start()
        finally:
            self._growing = False

    def _serve(self) -> bool:
        """The gate says that it is this pool's turn: lends to one waiter."""
        grant = self._lending.next_grant(self._clock())
        if grant is not None:
            self._grant(*grant)
        self._perform()
        self._set_alarm()
        return grant is not None

    def _grant(self, waiter: Waiter, lease: Lease) -> None:
        instance = lease.instance
        if instance.in_flight > instance.capacity and self._watch is None:
            self._watch_over()
        self._tell(waiter.granted, lease)

    def _watch_over(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._look_for_stalls)

    def _look_for_stalls(self) -> None:
        """Takes back the calls that wait in an instance whose present one takes long."""
        self._watch = None
        for instance in self._lending.stalled(self._clock()):
            instance.channel.take_back()
        if self._lending.handed_ahead:
            self._watch_over()

    def _tell(self, callback: Callable[[Any], None], value: object) -> None:
        """Calls a waiter back; its mistakes must not stop the others from being served."""
        try:
            callback(value)
        except Exception:
            logger.exception("a waiter of the pool of %r raised", self.name)
            if isinstance(value, Lease):
                with suppress(LeaseError):
                    self.release(value)

    def _settle(self) -> None:
        """Carries out what the last event led to, until nothing is left."""
        self._perform()
        self._gate.settle()
        self._perform()
        self._set_alarm()
        self._changed.set()
        self._changed.clear()

    def _perform(self) -> None:
        while actions := self._lending.take_actions():
            for action in actions:
                if isinstance(action, Start):
                    self._crew.spawn(self._crew.start(action.instance))
                elif isinstance(action, Stop):
                    self._crew.spawn(self._crew.stop(action.instance))
                elif isinstance(action, Scaled):
                    self._note_step(action)
                else:
                    self._tell(action.waiter.refused, action.error)

    def _note_step(self, step: Scaled) -> None:
        self._past = self._past.stepped(self._clock())
        self._last_decision = f"{step.direction} to {step.size}: {step.reason}"
        self._emit(PoolScaled, direction=step.direction, size=step.size, reason=step.reason)

    def _set_alarm(self) -> None:
        """Wakes the pool when somebody has waited too long, or a start was put off."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now = self._clock()
        wake_at = self._lending.wake_at(now)
        if wake_at is not None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(wake_at - now, self._wake)

    def _wake(self) -> None:
        self._lending.wake(self._clock())
        self._settle()

    def _emit(self, kind: type[Event], **facts: Any) -> None:
        if self._on_event is not None:
            self._on_event(kind(at=self._wall_clock(), task_name=self.name, **facts))
