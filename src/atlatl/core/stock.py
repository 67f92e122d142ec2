"""Which instances a pool has, and which are started and ended.

One list of instances is the truth, and every figure is read off it. Limits are kept where
instances are added and removed, so no caller can step over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from atlatl.core.retrying import backoff
from atlatl.model import InstanceState, Record, check_transition
from atlatl.ports import InstanceChannel
from atlatl.settings import PoolSettings

START_BACKOFF_S = 0.1
START_BACKOFF_MAX_S = 10.0
BLOCKED_RETRY_S = 0.5
"""When a start that the memory budget forbade is tried again."""

_S = InstanceState


class Instance:
    """One running copy, as its pool sees it. Only the pool's own machines write to it."""

    __slots__ = (
        "_state", "answered_at", "busy_s", "busy_since", "capacity", "channel", "failed_checks",
        "good_checks", "in_flight", "last_used", "measured_at", "memory_bytes", "open", "places",
        "reserved_at", "response_s", "smooth", "started_at", "uses", "why",
    )  # fmt: skip

    channel: InstanceChannel
    """Set when it has started."""

    def __init__(self, capacity: int, places: int, now: float) -> None:
        self.capacity = capacity
        self.places = places
        """Calls that it may have: those that it runs at once, and those that wait in it."""
        self.answered_at = now
        """When a call came back from it last, or it had none before the present one."""
        self.reserved_at = now
        self.started_at = now
        self.last_used = now
        """When it was lent or came back last; when it started, before that."""
        self.busy_since = now
        self.busy_s = 0.0
        self.in_flight = 0
        self.uses = 0
        self.memory_bytes = 0
        """PSS when last sampled; 0 before."""
        self.measured_at = 0.0
        self.response_s: float | None = None
        self.smooth = 0.0
        self.failed_checks = 0
        self.good_checks = 0
        self.why = ""
        """Why it is on its way out."""
        self.open = False
        self._state = _S.STARTING

    @property
    def state(self) -> InstanceState:
        """READY, RUNNING and BUSY follow from the calls in flight."""
        if self._state is not _S.READY or not self.in_flight:
            return self._state
        return _S.RUNNING if self.in_flight < self.capacity else _S.BUSY

    @property
    def starting(self) -> bool:
        return self._state is _S.STARTING

    @property
    def leaving(self) -> bool:
        return self._state is _S.DRAINING

    @property
    def idle(self) -> bool:
        return self.open and not self.in_flight

    @property
    def measured(self) -> bool:
        """Whether nothing has run on it since its memory was sampled."""
        ran = self.in_flight or self.last_used >= self.measured_at
        return bool(self.memory_bytes) and not ran

    @property
    def untouched(self) -> bool:
        """Ready, and nothing has run on it yet."""
        return self.open and not self.uses

    def move(self, state: InstanceState) -> None:
        """Changes the state; raises IllegalTransition for a change that the domain forbids."""
        check_transition(self.state, state)
        self._state = state
        self.open = state is _S.READY

    def busy_for(self, now: float) -> float:
        """Seconds in which at least one call was in flight."""
        return self.busy_s + (now - self.busy_since if self.in_flight else 0.0)


class Start:
    """Start an instance in the place that is reserved for it."""

    __slots__ = ("instance",)

    def __init__(self, instance: Instance) -> None:
        self.instance = instance


class Stop:
    """End an instance that has nothing in flight; it stays in the pool until it is gone."""

    __slots__ = ("instance",)

    def __init__(self, instance: Instance) -> None:
        self.instance = instance


class Scaled(Record, frozen=True):
    """The pool grew or shrank, on demand or by a decision; refilling to `min_size` is neither."""

    direction: str
    """`up` or `down`."""
    size: int
    reason: str


class StockCounts(msgspec.Struct):
    """Since the pool was made."""

    failed_starts: int = 0
    scale_ups: int = 0
    """Steps, not instances, as is the one below."""
    scale_downs: int = 0
    busy_s: float = 0.0
    """Of instances that are gone, as is the one below."""
    live_s: float = 0.0

    @property
    def steps(self) -> int:
        return self.scale_ups + self.scale_downs


class Stock:
    """The instances of one pool.

    Args:
        settings: sizes and the rules of retirement.
        may_start: asked before each start; False when the memory budget leaves no room and
            nothing can give way.
        do: takes what is to be carried out.
    """

    def __init__(
        self,
        settings: PoolSettings,
        may_start: Callable[[], bool],
        do: Callable[[Start | Stop | Scaled], None],
    ) -> None:
        self.settings = settings
        self.instances: list[Instance] = []
        self._do = do
        self.counts = StockCounts()
        self.places = settings.max_concurrent_requests
        """Calls that each instance may have; see `hand_ahead`."""
        self.takes_ahead = False
        """Whether its instances can have calls that wait in them."""
        self.blocked = False
        """The last start was forbidden by the memory budget."""
        self.not_before = -math.inf
        """No start before this: the last one failed or was forbidden."""
        self._failures = 0
        self._may_start = may_start

    # --- figures ---

    @property
    def size(self) -> int:
        """Instances that serve or are starting; those on their way out do not count."""
        return sum(not i.leaving for i in self.instances)

    @property
    def starting(self) -> int:
        return sum(i.starting for i in self.instances)

    @property
    def full(self) -> bool:
        """No start fits in, and no instance on its way in or out is about to change that."""
        some_move = any(i.starting or i.leaving for i in self.instances)
        no_room = self.blocked or len(self.instances) >= self.settings.max_size
        return no_room and not some_move

    @property
    def has_place(self) -> bool:
        """Whether an instance can take a call now. A plain loop: it runs after each call."""
        for instance in self.instances:
            if instance.open and instance.in_flight < instance.places:
                return True
        return False

    @property
    def has_untouched(self) -> bool:
        return any(i.untouched for i in self.instances)

    def utilization(self, now: float) -> float:
        """Busy time / live time of all instances so far, those that are gone included."""
        started = [i for i in self.instances if not i.starting]
        live_s = self.counts.live_s + sum(now - i.started_at for i in started)
        busy_s = self.counts.busy_s + sum(i.busy_for(now) for i in started)
        return busy_s / live_s if live_s > 0 else 0.0

    def lacking(self, others: int, fresh: int) -> int:
        """Instances to be started so that each waiter has a place there or on its way.

        Args:
            others: waiters that take any instance.
            fresh: waiters that want one on which nothing has run.
        """
        untouched = used_places = 0
        for instance in self.instances:
            if instance.starting or instance.untouched:
                untouched += 1
            elif instance.open:
                used_places += max(0, instance.places - instance.in_flight)
        places = used_places + max(0, untouched - fresh) * self.places
        return max(0, fresh - untouched) + max(0, math.ceil((others - places) / self.places))

    def may_grow(self, now: float) -> bool:
        """Whether a start asked for now would be made, as far as is known beforehand."""
        if now < self.not_before:
            return False
        return len(self.instances) < self.settings.max_size and not (
            self._failures and self.starting
        )

    def hand_ahead(self, places: int) -> None:
        """Lets each instance have so many calls, those included that wait in it."""
        self.places = max(places, self.settings.max_concurrent_requests)
        for instance in self.instances:
            if instance.starting or instance.channel.takes_ahead:
                instance.places = self.places

    # --- coming ---

    def reserve(self, count: int, now: float, *, insist: bool = False) -> int:
        """Starts up to `count` instances within `max_size`; returns how many.

        After a failure there is one start at a time, and none before the back-off is over,
        unless the caller insists.
        """
        count = min(count, self.settings.max_size - len(self.instances))
        if not insist:
            if now < self.not_before:
                return 0
            if self._failures:
                count = min(count, 1 - self.starting)
        self.blocked = False
        for reserved in range(count):
            self.blocked = not self._may_start()
            if self.blocked:
                self.not_before = now + BLOCKED_RETRY_S
                return reserved
            instance = Instance(self.settings.max_concurrent_requests, self.places, now)
            self.instances.append(instance)
            self._do(Start(instance))
        return max(0, count)

    def step_up(self, count: int, why: str, now: float) -> None:
        """Grows by up to `count`, and says so when it did."""
        if self.reserve(count, now):
            self.counts.scale_ups += 1
            self._do(Scaled(direction="up", size=self.size, reason=why))

    def step_down(self, target: int, why: str) -> None:
        """Shrinks towards `target`, and says so when it did."""
        if self.shrink_to(target, why):
            self.counts.scale_downs += 1
            self._do(Scaled(direction="down", size=self.size, reason=why))

    def restore(self, now: float) -> int:
        """Starts what is missing to `min_size`; returns how many."""
        return self.reserve(self.settings.min_size - self.size, now)

    def started(self, instance: Instance, channel: InstanceChannel, now: float) -> None:
        """Publishes an instance that has started."""
        instance.move(_S.READY)
        instance.channel = channel
        instance.started_at = instance.last_used = now
        self.takes_ahead = channel.takes_ahead
        self._failures = 0
        self.not_before = -math.inf

    def start_failed(self, instance: Instance, now: float) -> None:
        """Gives up the reserved place, and puts off the next start."""
        instance.move(_S.ERROR)
        self.instances.remove(instance)
        self.counts.failed_starts += 1
        self._failures += 1
        self.not_before = now + backoff(self._failures, START_BACKOFF_S, 2.0, START_BACKOFF_MAX_S)

    # --- going ---

    def retire(self, instance: Instance, why: str) -> None:
        """No more calls for it; it ends when the last one has come back."""
        instance.move(_S.DRAINING)
        instance.why = why
        self.stop_if_drained(instance)

    def stop_if_drained(self, instance: Instance) -> None:
        """Ends an instance that is on its way out, once nothing is in flight."""
        if instance.leaving and not instance.in_flight:
            self._do(Stop(instance))

    def removed(self, instance: Instance, now: float, *, lost: bool) -> bool:
        """Forgets an instance whose process is gone; False when it was forgotten before."""
        if instance not in self.instances:
            return False
        instance.move(_S.ERROR if lost else _S.STOPPED)
        self.instances.remove(instance)
        self.counts.busy_s += instance.busy_for(now)
        self.counts.live_s += now - instance.started_at
        return True

    def give_way(self, why: str) -> None:
        """Retires the used instance that has the least to do.

        One that runs a single call keeps its place until that has ended: by then somebody
        else may be first in line. One of many calls might never be idle by itself.
        """
        used = [i for i in self.instances if i.open and i.uses and (i.idle or i.places > 1)]
        if used:
            self.retire(min(used, key=lambda i: (i.in_flight, i.last_used)), why)

    def longest_idle(self) -> list[Instance]:
        """Idle instances, the one idle longest first."""
        return sorted((i for i in self.instances if i.idle), key=lambda i: i.last_used)

    def shrink_to(self, target: int, why: str) -> int:
        """Retires idle instances, longest idle first, never below `min_size`; returns how many.

        An instance in use is never touched, so the size may stay above the target.
        """
        surplus = self.size - max(target, self.settings.min_size)
        victims = self.longest_idle()[: max(0, surplus)]
        for instance in victims:
            self.retire(instance, why)
        return len(victims)

    def retire_unused(self, now: float) -> None:
        """Retires what has been idle for `idle_timeout_s`, down to `min_size`."""
        limit = now - self.settings.idle_timeout_s
        overdue = sum(i.last_used <= limit for i in self.longest_idle())
        self.step_down(self.size - overdue, f"idle for {self.settings.idle_timeout_s:g} s")

    def retire_worn(self, now: float) -> None:
        """Retires what is older than `max_age_s` or larger than `max_memory_bytes`."""
        age_s = self.settings.max_age_s or math.inf
        memory = self.settings.max_memory_bytes or math.inf
        for instance in self.instances:
            if not instance.open:
                continue
            if now - instance.started_at >= age_s:
                self.retire(instance, f"older than max_age_s ({age_s:g} s)")
            elif instance.memory_bytes > memory:
                self.retire(instance, f"uses {instance.memory_bytes} bytes (max_memory_bytes)")

    def checked(self, instance: Instance, ok: bool) -> None:
        """Takes in the answer of a health check.

        A failed one keeps calls away until `health_check_successes` good ones in a row;
        `health_check_failures` in a row end the instance.
        """
        if instance.starting or instance.leaving or instance not in self.instances:
            return
        if ok:
            instance.failed_checks = 0
            instance.good_checks += 1
            sick = instance.state is _S.UNHEALTHY
            if sick and instance.good_checks >= self.settings.health_check_successes:
                instance.move(_S.READY)
            return
        instance.good_checks = 0
        instance.failed_checks += 1
        if instance.open:
            instance.move(_S.UNHEALTHY)
        if instance.failed_checks >= self.settings.health_check_failures:
            self.retire(instance, f"failed {instance.failed_checks} health checks")
