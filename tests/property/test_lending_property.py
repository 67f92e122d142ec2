"""Histories of several pools at one gate, checked against the rules after every step.

Times are multiples of 50 ms, so that deadlines, back-offs, returns and starts fall on the same
moment. The test plays the shell, the manager that watches deadlines, and the world.
"""

from __future__ import annotations

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlatl.core.admission import Gate
from atlatl.core.scaling import Past, threshold
from atlatl.core.stock import Instance
from atlatl.errors import AtlatlError, PoolClosed
from atlatl.settings import PoolSettings, ScalingSettings
from tests.pool_fakes import Asked, Rig

STEPS_PER_S = 20
EAGER = ScalingSettings(
    scale_up_threshold=0.5, scale_down_threshold=0.2, scale_interval_s=0.1, scale_down_cooldown_s=0
)

places = st.integers(0, 10**6)
seldom = st.integers(0, 7).map(lambda n: n == 7)
changes = st.sampled_from(("nothing", "nothing", "resize", "redeploy", "close"))
pool_sizes = st.fixed_dictionaries(
    {
        "max_size": st.integers(1, 3),
        "max_concurrent_requests": st.sampled_from((1, 1, 2)),
        "max_uses": st.sampled_from((0, 0, 1, 3)),
        "max_wait_s": st.sampled_from((0.0, 0.3)),
        "max_waiting": st.sampled_from((0, 3, 1000)),
        "idle_timeout_s": st.sampled_from((0.2, 300.0)),
        "max_age_s": st.sampled_from((0.0, 0.5)),
    }
)


class Caller(Asked):
    """A waiter that knows what it asked for, and checks what it is given."""

    def __init__(self, world: World, number: int, **options: object) -> None:
        super().__init__(**options)
        self.world = world
        self.number = number
        self.arrived = world.now
        self.withdrawn = False
        self.pool: Pool | None = None
        self.waiter.granted = self.take

    @property
    def lives(self) -> bool:
        """Waits, and may still be served."""
        return self.waits and not self.withdrawn

    def rank(self) -> tuple[int, float, int]:
        waited_s = self.world.now - self.arrived
        return max(0, self.waiter.priority - math.floor(waited_s / 5)), self.arrived, self.number

    def take(self, lease: object) -> None:
        self.leases.append(lease)
        self.world.granted(self)


class Pool(Rig):
    """One version of one task, and who waits for it."""

    def __init__(self, gate: Gate, **sizes: object) -> None:
        super().__init__(gate, **sizes)
        self.past = Past()
        self.alarm = math.inf
        self.largest = self.lending.settings.max_size


class World:
    """Two tasks; each redeploy gives one a new pool, and the old one drains."""

    def __init__(self, max_lent: int, max_queued: int) -> None:
        self.step = 0
        self.numbers = 0
        self.cannot_hear: set[Instance] = set()
        self.gate = Gate(max_lent, max_queued)
        self.callers: list[Caller] = []
        self.pools: list[Pool] = []
        self.memory_left = True
        self.serving = [self.new_pool(max_size=2).warm(1), self.new_pool(max_size=3)]

    @property
    def now(self) -> float:
        return self.step / STEPS_PER_S

    def new_pool(self, **sizes: object) -> Pool:
        pool = Pool(self.gate, **sizes)
        pool.now, pool.memory_left = self.now, self.memory_left
        self.pools.append(pool)
        return pool

    # --- picking ---

    def pick(self, items: list, place: int):
        return items[place % len(items)] if items else None

    def starting(self) -> list:
        return [(pool, instance) for pool in self.pools for instance in pool.to_start]

    def stopping(self) -> list:
        return [(pool, instance) for pool in self.pools for instance in pool.to_stop]

    def running(self) -> list:
        return [
            (pool, instance)
            for pool in self.pools
            for instance in pool.stock.instances
            if not instance.starting
        ]

    def holders(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.leases and not caller.withdrawn]

    # --- what callers do ---

    def ask(self, task: int, count: int, priority: int, within: int | None, fresh: bool) -> None:
        deadline = math.inf if within is None else (self.step + within) / STEPS_PER_S
        pool = self.serving[task]
        for _ in range(count):
            self.numbers += 1
            caller = Caller(self, self.numbers, priority=priority, deadline=deadline, fresh=fresh)
            caller.pool = pool
            self.callers.append(caller)
            self.ask_for(caller, pool)

    def ask_for(self, caller: Caller, pool: Pool) -> None:
        try:
            lease = pool.lending.ask(caller.waiter, self.now)
        except AtlatlError as error:
            caller.errors.append(error)
        else:
            if lease is not None:
                caller.take(lease)
        pool.settle()

    def granted(self, caller: Caller) -> None:
        """Runs at the very moment in which an instance is lent."""
        assert caller.settled_once
        assert not caller.withdrawn
        assert self.now < caller.waiter.deadline
        instance = caller.lease.instance
        assert instance.channel.alive
        assert instance in caller.pool.stock.instances
        assert caller.lease.cold or not caller.waiter.fresh
        for other in self.callers:
            could_use_it = caller.lease.cold or not other.waiter.fresh
            in_time = other.lives and self.now < other.waiter.deadline
            if other.pool is caller.pool and in_time and could_use_it:
                assert caller.rank() < other.rank()

    def give_back(self, place: int, count: int, broken: bool) -> None:
        for _ in range(count):
            caller = self.pick(self.holders(), place)
            if caller is not None:
                self.end(caller, broken)

    def end(self, caller: Caller, broken: bool = False) -> None:
        caller.withdrawn = True
        caller.pool.lending.give_back(caller.lease, self.now, broken=broken)
        caller.pool.settle()

    def cancel(self, place: int) -> None:
        caller = self.pick([caller for caller in self.callers if caller.lives], place)
        if caller is not None:
            self.withdraw(caller)

    def withdraw(self, caller: Caller) -> None:
        caller.withdrawn = True
        assert caller.pool.lending.withdraw(caller.waiter, self.now)
        assert not caller.pool.lending.withdraw(caller.waiter, self.now)
        caller.pool.settle()

    # --- what the world does ---

    def starts_end(self, place: int, count: int, fails: bool) -> None:
        for _ in range(count):
            found = self.pick(self.starting(), place)
            if found is not None:
                pool, instance = found
                pool.to_start.remove(instance)
                pool.to_start.insert(0, instance)
                pool.fail_start() if fails else pool.start(1)

    def stops_end(self, place: int, count: int) -> None:
        for _ in range(count):
            found = self.pick(self.stopping(), place)
            if found is not None:
                pool, instance = found
                pool.to_stop.remove(instance)
                instance.channel.alive = False
                pool.lending.removed(instance, self.now, lost=False)
                pool.settle()

    def mishap(self, place: int, kind: str) -> None:
        found = self.pick(self.running(), place)
        if kind == "memory":
            self.set_memory(left=not self.memory_left)
        elif found is not None:
            getattr(self, kind)(*found)

    def crash(self, pool: Pool, instance: Instance) -> None:
        if instance in pool.to_stop:
            pool.to_stop.remove(instance)
        instance.channel.crash()
        pool.lose(instance)

    def deaf(self, pool: Pool, instance: Instance) -> None:
        instance.channel.accepting = False
        self.cannot_hear.add(instance)

    def sick(self, pool: Pool, instance: Instance, ok: bool = False) -> None:
        if not instance.in_flight:
            pool.lending.checked(instance, ok, self.now)
            pool.settle()

    def well(self, pool: Pool, instance: Instance) -> None:
        self.sick(pool, instance, ok=True)

    def set_memory(self, left: bool) -> None:
        self.memory_left = left
        for pool in self.pools:
            pool.memory_left = left

    def time_passes(self, count: int, turns: tuple[str, ...]) -> None:
        """The manager may be late: then a deadline is over and nobody has said so yet."""
        for _ in range(count):
            self.step += 1
            for pool in self.pools:
                pool.now = self.now
            for turn in turns:
                getattr(self, turn)()

    def wake(self) -> None:
        for pool in self.pools:
            if pool.alarm <= self.now:
                pool.wake(self.now)
        self.alarms_are_set()

    def expire(self) -> None:
        """What the manager's timers do."""
        for caller in self.callers:
            if caller.lives and caller.waiter.deadline <= self.now:
                self.withdraw(caller)

    # --- what the service does ---

    def tick(self, task: int) -> None:
        pool = self.serving[task]
        lending = pool.lending
        if lending.closed:
            return
        lending.stock.retire_worn(self.now)
        lending.wake(self.now)
        lending.stock.restore(self.now)
        decision = threshold(EAGER, lending.load(), pool.past, self.now)
        pool.past = decision.past
        lending.scale_to(decision.target, decision.reason, self.now)
        lending.stock.retire_unused(self.now)
        pool.settle()

    def resize(self, task: int, sizes: dict) -> None:
        pool = self.serving[task]
        limits = {"min_size": sizes["max_uses"] % 2, "max_size": sizes["max_size"]}
        pool.lending.resize(_changed(pool.lending.settings, **limits), self.now)
        pool.largest = max(pool.largest, limits["max_size"])
        pool.settle()

    def the_operator_changes_something(self, task: int, kind: str, sizes: dict) -> None:
        getattr(self, kind)(task, sizes)

    def nothing(self, task: int, _: dict) -> None:
        """Most of the time."""

    def redeploy(self, task: int, sizes: dict) -> None:
        old, new = self.serving[task], self.new_pool(**sizes)
        self.serving[task] = new
        moved = old.lending.take_waiters()
        for caller in self.callers:
            if caller.waiter in moved:
                caller.pool = new
        new.lending.adopt(moved, self.now)
        new.settle()
        old.lending.close()
        old.settle()

    def close(self, task: int, _: dict) -> None:
        pool = self.serving[task]
        waiting = [c for c in self.callers if c.lives and c.pool is pool]
        pool.lending.close()
        pool.settle()
        assert all(isinstance(caller.error, PoolClosed) for caller in waiting)
        self.serving[task] = self.new_pool(max_size=2)

    # --- what always holds ---

    def check(self) -> None:
        self.alarms_are_set()
        self.nobody_is_told_twice()
        self.what_is_lent_is_what_is_out()
        self.who_waits_is_known()
        self.sizes_keep_their_limits()
        self.what_is_counted_lives()
        self.nobody_waits_beside_a_free_instance()
        self.nobody_waits_for_nothing()

    def alarms_are_set(self) -> None:
        """Like the shell: after every event the pool says when it wants to be woken."""
        for pool in self.pools:
            wake_at = pool.lending.wake_at(self.now)
            pool.alarm = math.inf if wake_at is None else wake_at

    def nobody_is_told_twice(self) -> None:
        for caller in self.callers:
            assert len(caller.leases) + len(caller.errors) <= 1

    def what_is_lent_is_what_is_out(self) -> None:
        out = [caller.lease for caller in self.holders()]
        assert len(set(out)) == len(out) == self.gate.lent <= self.gate.max_lent
        for pool in self.pools:
            mine = [caller.lease for caller in self.holders() if caller.pool is pool]
            assert pool.lending.leased == len(mine)
            for instance in pool.stock.instances:
                in_flight = sum(lease.instance is instance for lease in mine)
                assert instance.in_flight == in_flight <= instance.capacity

    def who_waits_is_known(self) -> None:
        waiting = [caller for caller in self.callers if caller.lives]
        assert self.gate.waiting == len(waiting)
        for pool in self.pools:
            assert pool.lending.waiting == sum(caller.pool is pool for caller in waiting)

    def sizes_keep_their_limits(self) -> None:
        for pool in self.pools:
            assert len(pool.stock.instances) <= pool.largest
            known = set(pool.to_start) | set(pool.to_stop)
            assert known <= set(pool.stock.instances)
            for instance in pool.stock.instances:
                # One that nobody holds, nobody starts and nobody stops would be a leak.
                assert instance.starting == (instance in pool.to_start)
                gone = instance.leaving and not instance.in_flight
                assert gone == (instance in pool.to_stop)

    def what_is_counted_lives(self) -> None:
        for pool in self.pools:
            for instance in pool.stock.instances:
                if instance.open and instance not in self.cannot_hear:
                    assert instance.channel.alive
                    assert instance.channel.accepting

    def nobody_waits_beside_a_free_instance(self) -> None:
        if self.gate.lent >= self.gate.max_lent:
            return
        for caller in self.callers:
            if not caller.lives or caller.waiter.deadline <= self.now:
                continue
            for instance in caller.pool.stock.instances:
                free = instance.open and instance.in_flight < instance.places
                usable = not caller.waiter.fresh or not instance.uses
                assert not (free and usable)

    def nobody_waits_for_nothing(self) -> None:
        for caller in self.callers:
            if caller.lives:
                pool = caller.pool
                assert (
                    pool.to_start
                    or pool.to_stop
                    or self.gate.lent
                    or pool.alarm < math.inf
                    or any(i.failed_checks for i in pool.stock.instances)
                )

    # --- the end ---

    def come_to_rest(self) -> None:
        """Left to itself, everything that waits is served, and everything closed is empty."""
        self.set_memory(left=True)
        for _ in range(len(self.callers) + 40):
            for pool in self.pools:
                for instance in list(pool.stock.instances):
                    if instance.failed_checks and not instance.leaving:
                        pool.lending.checked(instance, True, self.now)
                        pool.settle()
            while self.starting():
                self.starts_end(0, 1, False)
            while self.stopping():
                self.stops_end(0, 1)
            for caller in self.holders():
                self.end(caller)
            self.alarms_are_set()
            self.time_passes(20, ("wake", "expire"))
            self.alarms_are_set()
        assert not [caller for caller in self.callers if caller.lives]
        assert all(caller.withdrawn or caller.settled_once for caller in self.callers)
        for pool in self.pools:
            pool.lending.close()
            pool.settle()
        while self.starting():
            self.starts_end(0, 1, False)
        while self.stopping():
            self.stops_end(0, 1)
        assert all(pool.stock.instances == [] for pool in self.pools)
        assert self.gate.lent == self.gate.waiting == 0


tasks = st.integers(0, 1)
within = st.one_of(st.none(), st.integers(1, 12))
priorities = st.sampled_from((0, 3, 3, 3, 7))
counts = st.integers(1, 4)
turns = st.sampled_from((("wake", "expire"), ("expire", "wake"), ("wake",)))
kinds = st.sampled_from(("crash", "deaf", "sick", "sick", "well", "memory"))

asks = st.tuples(st.just(World.ask), tasks, counts, priorities, within, seldom)
returns = st.tuples(st.just(World.give_back), places, counts, seldom)
events = st.one_of(
    asks,
    asks,
    returns,
    returns,
    st.tuples(st.just(World.cancel), places),
    st.tuples(st.just(World.starts_end), places, counts, seldom),
    st.tuples(st.just(World.starts_end), places, counts, st.just(False)),
    st.tuples(st.just(World.stops_end), places, counts),
    st.tuples(st.just(World.mishap), places, kinds),
    st.tuples(st.just(World.time_passes), st.integers(1, 8), turns),
    st.tuples(st.just(World.tick), tasks),
    st.tuples(st.just(World.the_operator_changes_something), tasks, changes, pool_sizes),
)


def _changed(pool: PoolSettings, **values: object) -> PoolSettings:
    fields = {name: getattr(pool, name) for name in PoolSettings.__struct_fields__}
    return PoolSettings(**{**fields, **values})


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    max_lent=st.sampled_from((1, 3, 1000)),
    max_queued=st.sampled_from((2, 1000, 1000)),
    history=st.lists(events, min_size=40, max_size=70),
)
def test_every_call_ends_once_and_nothing_leaks(max_lent, max_queued, history):
    """D18, D27, D28, D30, D32, D34, D37, D84, D85, D88, D89."""
    world = World(max_lent, max_queued)
    for event, *facts in history:
        event(world, *facts)
        world.check()
    world.come_to_rest()
