"""Who gets which instance, and who waits.

The machine of one pool: one version of one task. It is told what happened and when, and
answers with plain values: a lease, a refusal, or actions to carry out (`take_actions`).
Nothing here waits, and nothing is decided elsewhere.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

from atlatl.core.admission import Gate, Share, expected_wait_s, hopeless
from atlatl.core.ahead import STALL_S, Ahead
from atlatl.core.leases import SMOOTHING, Account, Lease, LeaseError
from atlatl.core.scaling import Load
from atlatl.core.scheduling import Policy
from atlatl.core.stock import Instance, Scaled, Start, Stock, Stop
from atlatl.core.waiting import Waiter, WaitingRoom
from atlatl.errors import AtlatlError, NoCapacity, PoolClosed, QueueFull, TimedOutWaiting
from atlatl.ports import InstanceChannel
from atlatl.settings import PoolSettings


class Refuse:
    """Tell a waiter that it gets nothing."""

    __slots__ = ("error", "waiter")

    def __init__(self, waiter: Waiter, error: AtlatlError) -> None:
        self.waiter = waiter
        self.error = error


Action = Start | Stop | Scaled | Refuse


class Lending:
    """One pool.

    Args:
        settings: sizes, bounds and the rules of retirement.
        policy: picks among instances with room.
        gate: bounds the calls of all pools together.
        share: this pool's standing there; its `serve` leads to `next_grant`.
        may_start: asked before each start; False when the memory budget leaves no room.
        spread: instances that work at once before one of them is handed calls ahead: as many as
            there are processors for them. None never hands calls ahead.
    """

    def __init__(
        self,
        settings: PoolSettings,
        policy: Policy,
        gate: Gate,
        share: Share,
        may_start: Callable[[], bool] = lambda: True,
        spread: int | None = None,
    ) -> None:
        self.actions: list[Action] = []
        """What is to be carried out; `take_actions` hands it over."""
        self.stock = Stock(settings, may_start, self.actions.append)
        self.account = Account()
        self.closed = False
        self._policy = policy
        self._ahead = Ahead(spread) if spread else None
        self._gate = gate
        self._share = share
        self.waiting = 0
        """How many wait in both rooms: a plain number, because every call looks at it."""
        self._waiting = WaitingRoom()
        self._fresh = WaitingRoom()
        self._leases: set[Lease] = set()
        self._numbers = itertools.count()

    # --- figures ---

    @property
    def settings(self) -> PoolSettings:
        return self.stock.settings

    @property
    def leased(self) -> int:
        """Leases that are out, also those of instances that were lost meanwhile."""
        return len(self._leases)

    @property
    def room(self) -> int:
        """Calls that it could take besides those lent and waiting, when grown to its most.

        Short calls are handed ahead to a few instances; as many as fill those are enough.
        """
        settings, few = self.settings, self.few
        capacity = settings.max_size * settings.max_concurrent_requests
        if few is not None:
            capacity = max(capacity, few * self.stock.places)
        return capacity - self.leased - self.waiting

    @property
    def few(self) -> int | None:
        """Instances that do all the work while calls are handed ahead; None: they are not."""
        if self._ahead is None or not self._ahead.on:
            return None
        return min(self._ahead.spread, self.settings.max_size)

    def load(self) -> Load:
        settings, instances = self.settings, self.stock.instances
        return Load(
            size=self.stock.size,
            in_use=sum(i.in_flight for i in instances if not i.leaving),
            waiting=self.waiting,
            capacity=self.stock.places,
            min_size=settings.min_size,
            max_size=settings.max_size,
        )

    def wake_at(self, now: float) -> float | None:
        """When `wake` has something to do next; None while only events can change anything."""
        if not self.waiting:
            return None
        times = []
        if self.stock.not_before > now:
            times.append(self.stock.not_before)
        elif self.stock.not_before > -math.inf and self._lacking() > 0 and self.stock.may_grow(now):
            times.append(now)  # the start was put off until a moment that has just passed
        if self.settings.max_wait_s:
            oldest = min(self._waiting.oldest_since(), self._fresh.oldest_since())
            times.append(oldest + self.settings.max_wait_s)
        return min(times, default=None)

    def take_actions(self) -> list[Action]:
        """What is to be carried out now; each action is handed out once."""
        actions = self.actions.copy()
        self.actions.clear()
        return actions

    # --- asking ---

    def ask(self, waiter: Waiter, now: float) -> Lease | None:
        """A lease at once when an instance is idle; None when the waiter has to wait.

        Raises:
            PoolClosed: the pool takes no more callers.
            TimedOutWaiting: the deadline has passed already.
            QueueFull: too many wait, or the deadline would pass while waiting.
        """
        self.account.requests += 1
        waiter.since = now
        waiter.number = next(self._numbers)
        room = self._fresh if waiter.fresh else self._waiting
        alone = not (self.waiting and room)
        if alone and not self.closed and waiter.deadline > now and self._gate.has_room():
            instance = self._untouched(now) if waiter.fresh else self._choose(now)
            if instance is not None:
                return self._lend(instance, waiter, now)
        waiter.met = (self.waiting, len(self._leases), len(self.stock.instances))
        try:
            self._check_room(waiter, now)
        except AtlatlError as error:
            self.account.note_refusal(error)
            raise
        room.add(waiter)
        self.waiting += 1
        self._gate.waiting += 1
        self._settle(now)
        return None

    def _check_room(self, waiter: Waiter, now: float) -> None:
        """Refuses a newcomer that must not wait; one that gets a start of its own may."""
        if self.closed:
            raise _closed()
        if waiter.deadline <= now:
            raise TimedOutWaiting("the deadline passed before an instance was asked for")
        if self.stock.may_grow(now) and self._lacking(newcomer=waiter) > 0:
            return
        wait_s = self._expected_wait_s(waiter)
        for length, limit, setting in (
            (self.waiting, self.settings.max_waiting, "pool.max_waiting"),
            (self._gate.waiting, self._gate.max_waiting, "limits.max_queued_executions"),
        ):
            if length >= limit:
                message = f"{length} calls wait already (`{setting}`); try again later"
                raise QueueFull(message, retry_after_s=_hint(wait_s))
        if hopeless(wait_s, waiter.deadline - now, self.account.returned):
            raise QueueFull(
                f"{self.waiting} calls wait already and an instance is expected in {wait_s:.1f} s, "
                "after the deadline; try again later or allow more time",
                retry_after_s=_hint(wait_s),
            )

    def _expected_wait_s(self, waiter: Waiter) -> float:
        ahead = self._waiting.ahead_of(waiter) + self._fresh.ahead_of(waiter)
        places = self.settings.max_size * self.stock.places
        return expected_wait_s(ahead, places, self.account.hold_s)

    def withdraw(self, waiter: Waiter, now: float) -> bool:
        """Takes a waiter back; False when it does not wait here (any more)."""
        room = self._room_of(waiter)
        if waiter not in room:
            return False
        self._leave(waiter)
        if now >= waiter.deadline:
            self.account.timed_out += 1
        else:
            self.account.withdrawn += 1
        if self._fresh:
            # The next in turn may be one that needs room made.
            self._settle(now)
        return True

    def take_waiters(self) -> list[Waiter]:
        """Hands over all waiters, first come first, for `adopt` of another pool."""
        waiters = sorted((*self._waiting, *self._fresh), key=lambda w: (w.since, w.number))
        for waiter in waiters:
            self._leave(waiter)
            self.account.requests -= 1
        return waiters

    def adopt(self, waiters: list[Waiter], now: float) -> None:
        """Takes over waiters that another pool admitted; they keep their order and their age."""
        for room, fresh in ((self._waiting, False), (self._fresh, True)):
            room.adopt(waiter for waiter in waiters if waiter.fresh is fresh)
        first_free = max(next(self._numbers), *(w.number + 1 for w in waiters), 0)
        self._numbers = itertools.count(first_free)
        self.account.requests += len(waiters)
        self.waiting += len(waiters)
        self._gate.waiting += len(waiters)
        if self.closed:
            self._refuse_everybody(_closed())
        self._settle(now)

    # --- granting ---

    def next_grant(self, now: float) -> tuple[Waiter, Lease] | None:
        """Lends to the waiter whose turn it is among those that can be served.

        The caller has made sure that the gate has a place.
        """
        for waiter in self._heads(now):
            instance = self._untouched(now) if waiter.fresh else self._choose(now)
            if instance is not None:
                self._leave(waiter)
                lease = self._lend(instance, waiter, now)
                self._go_on(instance, now)
                return waiter, lease
        # Those who came too late have left: the next in turn may be one that needs room made.
        self._make_room_for_fresh(now)
        return None

    def _heads(self, now: float) -> list[Waiter]:
        """The first of those who take any instance and of those who want a fresh one."""
        heads = (self._live_head(self._waiting, now), self._live_head(self._fresh, now))
        return sorted((w for w in heads if w is not None), key=lambda w: w.rank(now))

    def _live_head(self, room: WaitingRoom, now: float) -> Waiter | None:
        while (waiter := room.first(now)) is not None and waiter.deadline <= now:
            self._refuse(waiter, _too_late())
        return waiter

    def _choose(self, now: float) -> Instance | None:
        """An instance with room that takes calls; one that no longer does is retired."""
        instances, ahead = self.stock.instances, self._ahead
        while True:
            if ahead is not None and ahead.on:
                instance = ahead.choose(instances, now)
            else:
                instance = self._policy.choose(instances)
            if instance is None or instance.channel.accepting:
                return instance
            self._retire_deaf(instance, now)

    def _untouched(self, now: float) -> Instance | None:
        """An instance on which nothing has run yet."""
        for instance in self.stock.instances:
            if instance.untouched:
                if instance.channel.accepting:
                    return instance
                self._retire_deaf(instance, now)
        return None

    def _retire_deaf(self, instance: Instance, now: float) -> None:
        self.stock.retire(instance, "stopped accepting calls")
        self._settle(now)

    def _lend(self, instance: Instance, waiter: Waiter, now: float) -> Lease:
        lease = Lease(instance, now, waiter.since, waiter.number)
        self._leases.add(lease)
        self._gate.lent += 1
        if not instance.in_flight:
            instance.busy_since = instance.answered_at = now
        instance.in_flight += 1
        instance.uses += 1
        instance.last_used = now
        if instance.uses == self.stock.settings.max_uses:
            self.stock.retire(instance, f"was used {instance.uses} times (max_uses)")
        self.account.note_grant(now - waiter.since)
        return lease

    # --- coming back ---

    def give_back(
        self, lease: Lease, now: float, *, broken: bool = False, run_s: float | None = None
    ) -> None:
        """Ends a lease; a broken instance, or one that takes no calls, is ended and replaced.

        Args:
            lease: that is out.
            now: monotonic seconds.
            broken: the instance is.
            run_s: how long the call ran, when that is known.

        Raises:
            LeaseError: the lease is not out, or was given by another pool.
        """
        self._end(lease)
        instance = lease.instance
        self._note_use(instance, now - lease.since, now)
        instance.answered_at = now
        if run_s is not None and self._ahead is not None:
            self._ahead.note(self.stock, instance, run_s)
        self._after_end(instance, now, broken=broken)

    def undo(self, lease: Lease, now: float) -> None:
        """Ends a lease whose call was taken back before it began.

        It never ran, so it does not count. The instance is handed no call ahead until its channel
        says that it takes some again.

        Raises:
            LeaseError: the lease is not out, or was given by another pool.
        """
        self._end(lease)
        instance = lease.instance
        instance.in_flight -= 1
        if not instance.in_flight:
            instance.busy_s += now - instance.busy_since
        instance.uses -= 1
        instance.places = instance.capacity
        self.account.undo(lease.waited_s)
        self._after_end(instance, now)

    def _end(self, lease: Lease) -> None:
        try:
            self._leases.remove(lease)
        except KeyError:
            raise LeaseError(
                "this lease is not out: it was given back before, or belongs to another pool"
            ) from None
        self._gate.lent -= 1

    def _after_end(self, instance: Instance, now: float, *, broken: bool = False) -> None:
        stock = self.stock
        if instance.open:
            if broken or not instance.channel.accepting:
                stock.retire(instance, "broken" if broken else "stopped accepting calls")
            elif len(stock.instances) > stock.settings.max_size:
                stock.shrink_to(stock.settings.max_size, "above max_size")
        else:
            stock.stop_if_drained(instance)
        if self.waiting:
            self._go_on(instance, now)

    def stalled(self, now: float) -> list[Instance]:
        """Instances in which calls wait behind one that takes long."""
        return [
            instance
            for instance in self.stock.instances
            if instance.in_flight > instance.capacity and now - instance.answered_at >= STALL_S
        ]

    @property
    def handed_ahead(self) -> bool:
        """Whether calls wait in instances."""
        return any(i.in_flight > i.capacity for i in self.stock.instances)

    def _note_use(self, instance: Instance, held_s: float, now: float) -> None:
        instance.in_flight -= 1
        instance.last_used = now
        if not instance.in_flight:
            instance.busy_s += now - instance.busy_since
        response_s = instance.response_s
        instance.response_s = (
            held_s if response_s is None else response_s + SMOOTHING * (held_s - response_s)
        )
        self.account.note_return(held_s)

    # --- instances come and go ---

    def started(self, instance: Instance, channel: InstanceChannel, now: float) -> None:
        """An instance that was asked for is ready."""
        self.stock.started(instance, channel, now)
        if self.closed:
            self.stock.retire(instance, "the pool is closed")
        self._settle(now)

    def start_failed(self, instance: Instance, error: AtlatlError, now: float) -> None:
        """A start came to nothing.

        It concerns those who wait when nothing else can serve them: no other instance serves
        or is starting. Others go on waiting, and the start is tried again after a back-off.
        """
        self.stock.start_failed(instance, now)
        if not self.stock.starting:
            self._refuse_all(self._fresh, error)
        if not self.stock.size:
            self._refuse_all(self._waiting, error)
        self._settle(now)

    def removed(self, instance: Instance, now: float, *, lost: bool) -> bool:
        """The process is gone; False when that was known. Its leases stay out until returned."""
        if not self.stock.removed(instance, now, lost=lost):
            return False
        self._settle(now)
        return True

    def checked(self, instance: Instance, ok: bool, now: float) -> None:
        """Takes in the answer of a health check."""
        self.stock.checked(instance, ok)
        self._settle(now)

    def wake(self, now: float) -> None:
        """Refuses those who have waited too long, and goes on with starts that were put off."""
        max_wait_s = self.settings.max_wait_s or math.inf
        for waiter in (*self._waiting, *self._fresh):
            if waiter.deadline <= now or waiter.since + max_wait_s <= now:
                self._refuse(waiter, _too_late())
        self._settle(now)

    def scale_to(self, target: int, why: str, now: float) -> None:
        """Grows or shrinks towards a size, as far as limits and use allow."""
        if target > self.stock.size:
            self.stock.step_up(target - self.stock.size, why, now)
        else:
            self.stock.step_down(target, why)

    def resize(self, settings: PoolSettings, now: float) -> None:
        """Takes over other limits; instances in use beyond them end when they come back."""
        self.stock.settings = settings
        self.stock.shrink_to(settings.max_size, "above max_size")
        if not self.closed:
            self.stock.restore(now)
        self._settle(now)

    def close(self) -> None:
        """Takes no more callers, refuses those who wait and ends what is idle."""
        self.closed = True
        self._refuse_everybody(_closed())
        for instance in self.stock.instances:
            if not (instance.starting or instance.leaving):
                self.stock.retire(instance, "the pool is closed")

    # --- keeping waiters and instances together ---

    def _go_on(self, instance: Instance, now: float) -> None:
        """After a lease began or ended on an instance: the short way to `_settle`.

        As long as the instance goes on taking calls, nothing more is lacking than before.
        """
        if self._fresh or not instance.open:
            self._settle(now)
        elif self._waiting and self.stock.has_place:
            self._gate.offer(self._share)

    def _settle(self, now: float) -> None:
        """Starts what the waiters lack, and says at the gate when one could be served."""
        if not self.waiting:
            return
        self._make_room_for_fresh(now)
        lacking = self._lacking()
        if lacking > 0:
            self.stock.step_up(lacking, "callers found nothing idle", now)
            if self.stock.blocked and not self.stock.size:
                self._refuse_everybody(_no_memory())
        if (self._waiting and self.stock.has_place) or (self._fresh and self.stock.has_untouched):
            self._gate.offer(self._share)

    def _lacking(self, newcomer: Waiter | None = None) -> int:
        """Instances that those who wait, and a newcomer, need beyond what is there or coming."""
        fresh, others = len(self._fresh), len(self._waiting)
        if newcomer is not None:
            fresh, others = fresh + newcomer.fresh, others + (not newcomer.fresh)
        return self.stock.lacking(others, fresh)

    def _make_room_for_fresh(self, now: float) -> None:
        """Ends a used instance when the next in turn wants a fresh one and none fits in."""
        fresh = len(self._fresh)
        if fresh and self.stock.full and self.stock.lacking(0, fresh) > 0:
            heads = self._heads(now)
            if heads and heads[0].fresh:
                self.stock.give_way("makes room for a fresh instance")

    def _room_of(self, waiter: Waiter) -> WaitingRoom:
        return self._fresh if waiter.fresh else self._waiting

    def _leave(self, waiter: Waiter) -> None:
        self._room_of(waiter).remove(waiter)
        self.waiting -= 1
        self._gate.waiting -= 1

    def _refuse(self, waiter: Waiter, error: AtlatlError) -> None:
        self._leave(waiter)
        self.account.note_refusal(error)
        self.actions.append(Refuse(waiter, error))

    def _refuse_all(self, room: WaitingRoom, error: AtlatlError) -> None:
        """Everybody gets an error of their own: raised twice, one would mix up tracebacks."""
        for waiter in tuple(room):
            self._refuse(waiter, copy.copy(error))

    def _refuse_everybody(self, error: AtlatlError) -> None:
        self._refuse_all(self._waiting, error)
        self._refuse_all(self._fresh, error)


def _hint(wait_s: float) -> float:
    """When to try again: when a place is expected, within reason; 1 s when nothing is known."""
    return max(0.1, min(wait_s or 1.0, 30.0))


def _closed() -> PoolClosed:
    return PoolClosed("the pool is closed and takes no more callers", retry_after_s=1.0)


def _too_late() -> TimedOutWaiting:
    return TimedOutWaiting("no instance became free in time; allow more time or a larger pool")


def _no_memory() -> NoCapacity:
    return NoCapacity(
        "no instance fits into the memory budget and none is idle (`limits.memory_budget_bytes`); "
        "try again later",
        retry_after_s=1.0,
    )
