"""Histories of pools that hand calls ahead, with instances whose calls are taken back.

The pools, the callers and the world are those of the lending histories; what is added are
instances that run one call after the other, and a manager that asks again for what came back.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from atlatl.core.ahead import DEPTH, Ahead
from atlatl.core.lending import Lending
from atlatl.core.pace import LONG_ALLOWED, LOOKED_AT, SHORT_S
from atlatl.core.stock import Instance, Stock
from atlatl.core.waiting import WaitingRoom
from tests.pool_fakes import FakeInstance
from tests.property.test_lending_property import (
    Caller,
    Pool,
    World,
    asks,
    events,
    places,
    seldom,
    tasks,
)

SHORT, LONG = SHORT_S / 10, SHORT_S


class Running(FakeInstance):
    """Runs its calls in the order in which it got them; the first one has begun."""

    def __init__(self) -> None:
        super().__init__(takes_ahead=True)
        self.calls: list[Caller] = []
        self.clearing: Caller | None = None
        """Sent after others were taken back: its answer shows that those were passed."""

    def send(self, caller: Caller) -> None:
        if self.calls:
            assert self.takes_ahead, "handed ahead though what was taken back lies before it"
        elif not self.takes_ahead:
            self.clearing = caller
        self.calls.append(caller)
        assert len(self.calls) <= DEPTH

    def answered(self, caller: Caller) -> None:
        assert self.calls.pop(0) is caller
        if self.clearing is caller:
            self.clearing, self.takes_ahead = None, True

    def taken_back(self, keep: int) -> list[Caller]:
        """All but so many, and at least the one that runs."""
        back = self.calls[max(1, keep) :]
        del self.calls[max(1, keep) :]
        if back:
            self.takes_ahead = False
        return back


class AheadPool(Pool):
    def __init__(self, gate: object, **sizes: object) -> None:
        super().__init__(gate, spread=2, takes_ahead=True, **sizes)  # type: ignore[arg-type]
        self.paced(LOOKED_AT, SHORT)
        self.ahead._judge(self.stock)

    @property
    def ahead(self) -> Ahead:
        assert self.lending._ahead is not None
        return self.lending._ahead

    def paced(self, count: int, run_s: float) -> None:
        """As if so many calls had run; only what comes back next shows it."""
        for _ in range(count):
            self.ahead._pace.note(run_s)

    def new_channel(self) -> FakeInstance:
        return Running()


class AheadWorld(World):
    def __init__(self, max_lent: int, max_queued: int) -> None:
        self.tasks: dict[Caller, int] = {}
        super().__init__(max_lent, max_queued)

    def new_pool(self, **sizes: object) -> Pool:
        pool = AheadPool(self.gate, **{**sizes, "max_concurrent_requests": 1})
        pool.now, pool.memory_left = self.now, self.memory_left
        self.pools.append(pool)
        return pool

    def channels(self) -> list[Running]:
        return [instance.channel for _, instance in self.running()]

    # --- what callers do ---

    def granted(self, caller: Caller) -> None:
        super().granted(caller)
        caller.lease.channel.send(caller)

    def give_back(self, place: int, count: int, broken: bool) -> None:
        for _ in range(count):
            first = self.pick([c.calls[0] for c in self.channels() if c.calls], place)
            if first is not None:
                self.end(first, broken)

    def ask(self, task: int, *facts: object) -> None:  # type: ignore[override]
        known = len(self.callers)
        super().ask(task, *facts)  # type: ignore[arg-type]
        self.tasks.update((caller, task) for caller in self.callers[known:])

    def end(self, caller: Caller, broken: bool = False, run_s: float = SHORT) -> None:
        """Those before it have ended first."""
        channel = caller.lease.channel
        while channel.calls[0] is not caller:
            self.end(channel.calls[0])
        caller.withdrawn = True
        channel.answered(caller)
        caller.pool.lending.give_back(caller.lease, self.now, broken=broken, run_s=run_s)
        caller.pool.settle()

    def holders(self) -> list[Caller]:
        """In the order in which they can come back."""
        holders = super().holders()
        return sorted(holders, key=lambda caller: caller.lease.channel.calls.index(caller))

    # --- what the world does ---

    def take_back(self, place: int, keep: int) -> None:
        channel = self.pick([c for c in self.channels() if len(c.calls) > 1], place)
        if channel is not None:
            self.gives_back(channel, keep)

    def gives_back(self, channel: Running, keep: int) -> None:
        for caller in channel.taken_back(keep):
            self.undo(caller)

    def undo(self, caller: Caller) -> None:
        """As pool and manager do it: it waits again, with the version that is current."""
        lease, was_of = caller.leases.pop(), caller.pool
        account = was_of.lending.account
        before = account.requests, account.granted, account.returned, was_of.lending.leased
        was_of.lending.undo(lease, self.now)
        after = account.requests + 1, account.granted + 1, account.returned
        assert (*after, was_of.lending.leased + 1) == before
        caller.pool = self.serving[self.tasks[caller]]
        caller.waiter.since, caller.waiter.number = lease.asked_at, lease.number
        caller.pool.lending.adopt([caller.waiter], self.now)
        caller.pool.settle()
        was_of.settle()

    def look_for_stalls(self, *_: object) -> None:
        """What the shell does every few milliseconds."""
        for pool in self.pools:
            for _ in range(len(pool.stock.instances) + 1):
                for instance in pool.lending.stalled(self.now):
                    assert instance.in_flight > 1
                    self.gives_back(instance.channel, 1)
            assert not pool.lending.stalled(self.now)

    def crash(self, pool: Pool, instance: Instance) -> None:
        channel = instance.channel
        channel.accepting = channel.alive = False
        self.gives_back(channel, 1)
        if channel.calls:
            self.end(channel.calls[0])
        if instance in pool.stock.instances:
            super().crash(pool, instance)

    def the_operator_changes_something(self, task: int, kind: str, sizes: dict) -> None:
        """Numbers of one pool say nothing about those of the next one at the same moment."""
        super().the_operator_changes_something(task, kind, sizes)
        self.time_passes(1, ())

    def pace_changes(self, task: int, short: bool) -> None:
        pool = self.serving[task]
        assert isinstance(pool, AheadPool)
        pool.paced(*((LOOKED_AT, SHORT) if short else (LONG_ALLOWED, LONG)))

    def cancel_one_that_runs(self, place: int, grace: bool) -> None:
        """The others are taken back first; then its process is killed, unless it has grace."""
        channel = self.pick([c for c in self.channels() if c.calls], place)
        if channel is None:
            return
        self.gives_back(channel, 1)
        if not channel.calls:
            return
        channel.accepting = grace
        self.end(channel.calls[0], run_s=LONG)

    # --- what always holds ---

    def what_is_lent_is_what_is_out(self) -> None:
        out = [caller.lease for caller in self.holders()]
        assert len(set(out)) == len(out) == self.gate.lent <= self.gate.max_lent
        for pool in self.pools:
            for instance in pool.stock.instances:
                mine = [lease for lease in out if lease.instance is instance]
                assert instance.in_flight == len(mine)
                if instance.starting:
                    assert not mine
                    continue
                assert len(instance.channel.calls) == len(mine)
                assert instance.places <= pool.stock.places <= DEPTH
                assert instance.channel.takes_ahead or instance.places == 1
            out_of_it = [caller for caller in self.holders() if caller.pool is pool]
            assert pool.lending.leased == len(out_of_it)
            account = pool.lending.account
            assert account.granted == account.returned + len(out_of_it)


taking_back = st.tuples(st.just(AheadWorld.take_back), places, st.integers(0, 3))
histories = st.lists(
    st.one_of(
        asks,
        st.tuples(
            st.just(AheadWorld.ask), tasks, st.integers(4, 20), st.just(3), st.none(), seldom
        ),
        events,
        events,
        taking_back,
        taking_back,
        st.tuples(st.just(AheadWorld.look_for_stalls)),
        st.tuples(st.just(AheadWorld.pace_changes), tasks, st.booleans()),
        st.tuples(st.just(AheadWorld.cancel_one_that_runs), places, st.booleans()),
    ),
    min_size=30,
    max_size=60,
)


def comes_true(max_lent: int, history: list[tuple[Callable[..., None], object]]) -> None:
    world = AheadWorld(max_lent, 1000)
    for event, *facts in history:
        getattr(world, event.__name__)(*facts)
        world.check()
    world.come_to_rest()


gates = st.sampled_from((3, 10, 1000))


@settings(
    max_examples=100,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(max_lent=gates, history=histories)
def test_whatever_is_taken_back_runs_once_and_nothing_leaks(max_lent, history):
    comes_true(max_lent, history)


# --- the histories find what they are for ---


def no_barrier(patch: pytest.MonkeyPatch) -> None:
    def undo(self: Lending, lease, now: float) -> None:
        places = lease.instance.places
        right(self, lease, now)
        lease.instance.places = places

    right = Lending.undo
    patch.setattr(Lending, "undo", undo)


def barrier_lifted_too_soon(patch: pytest.MonkeyPatch) -> None:
    def note(self: Ahead, stock: Stock, instance: Instance, run_s: float) -> None:
        right(self, stock, instance, run_s)
        instance.places = stock.places

    right = Ahead.note
    patch.setattr(Ahead, "note", note)


def place_at_the_gate_kept(patch: pytest.MonkeyPatch) -> None:
    def undo(self: Lending, lease, now: float) -> None:
        right(self, lease, now)
        self._gate.lent += 1

    right = Lending.undo
    patch.setattr(Lending, "undo", undo)


def counted_as_granted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("atlatl.core.leases.Account.undo", lambda self, waited_s: None)


def put_at_the_end(patch: pytest.MonkeyPatch) -> None:
    def adopt(self: WaitingRoom, waiters) -> None:
        for waiter in waiters:
            self.add(waiter)

    patch.setattr(WaitingRoom, "adopt", adopt)


def never_stopped(patch: pytest.MonkeyPatch) -> None:
    def undo(self: Lending, lease, now: float) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Stock, "stop_if_drained", lambda self, instance: None)
            right(self, lease, now)

    right = Lending.undo
    patch.setattr(Lending, "undo", undo)


@pytest.mark.parametrize(
    "bug",
    [
        no_barrier,
        barrier_lifted_too_soon,
        place_at_the_gate_kept,
        counted_as_granted,
        put_at_the_end,
        never_stopped,
    ],
)
def test_planted_bugs_are_found(monkeypatch: pytest.MonkeyPatch, bug: Callable) -> None:
    bug(monkeypatch)

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(max_lent=gates, history=histories)
    def found(max_lent, history):
        comes_true(max_lent, history)

    with pytest.raises((AssertionError, ExceptionGroup)):
        found()
