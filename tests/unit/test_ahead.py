"""Calls that are handed ahead: for which tasks, to whom, and what a take-back leaves behind."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from atlatl.core.admission import Gate
from atlatl.core.ahead import DEPTH, STALL_S
from atlatl.core.leases import LeaseError
from atlatl.core.pace import LONG_ALLOWED, LOOKED_AT, SHORT_S, Pace
from atlatl.core.stock import Instance
from atlatl.core.waiting import Waiter
from atlatl.engine.pool import InstancePool
from atlatl.settings import PoolSettings
from tests.pool_fakes import Asked, FakeInstance, Rig
from tests.virtual_time import virtual

SHORT, LONG = SHORT_S / 10, SHORT_S


def paced(*runs: float) -> Pace:
    pace = Pace()
    for run_s in runs:
        pace.note(run_s)
    return pace


class TestPace:
    def test_nothing_is_short_before_there_are_enough(self):
        assert not paced(*[0.0] * (LOOKED_AT - 1)).short
        assert paced(*[0.0] * LOOKED_AT).short

    @pytest.mark.parametrize(("long", "short"), [(LONG_ALLOWED - 1, True), (LONG_ALLOWED, False)])
    def test_the_99th_percentile_decides(self, long: int, short: bool):
        runs = [LONG] * long + [SHORT] * (LOOKED_AT - long)
        random.Random(1).shuffle(runs)
        assert paced(*runs).short is short

    def test_a_call_of_exactly_the_limit_is_long(self):
        runs = [SHORT] * LOOKED_AT + [SHORT_S] * LONG_ALLOWED
        assert not paced(*runs).short
        runs = [SHORT] * LOOKED_AT + [SHORT_S - 1e-9] * LONG_ALLOWED
        assert paced(*runs).short

    def test_what_is_long_ago_does_not_count(self):
        pace = paced(*[LONG] * LONG_ALLOWED, *[SHORT] * (LOOKED_AT - LONG_ALLOWED))
        assert not pace.short
        pace.note(SHORT)
        assert pace.short

    def test_exactly_the_last_ones_are_judged(self):
        """Whatever comes in between: each note is compared with a count over all of them."""
        dice = random.Random(2)
        for share in (0.002, 0.0095, 0.01, 0.0105, 0.3):
            pace, runs = Pace(), []
            for _ in range(4 * LOOKED_AT):
                runs.append(LONG if dice.random() < share else SHORT)
                pace.note(runs[-1])
                few = runs[-LOOKED_AT:].count(LONG) < LONG_ALLOWED
                assert pace.short == (len(runs) >= LOOKED_AT and few)

    def test_long_calls_without_end_are_not_remembered_without_end(self):
        pace = paced(*[LONG] * 10 * LOOKED_AT)
        assert len(pace._long) <= LOOKED_AT


class Handing(Rig):
    """A pool whose calls are handed ahead."""

    def __init__(self, *, spread: int = 2, warm: int = 2, on: bool = True, **settings):
        super().__init__(spread=spread, takes_ahead=True, **{"max_size": warm, **settings})
        self.warm(warm)
        if on:
            self.run_many(LOOKED_AT, SHORT)

    def run_many(self, count: int, run_s: float) -> None:
        for _ in range(count):
            self.give_back(self.ask(), run_s=run_s)

    @property
    def sizes(self) -> list[int]:
        return [instance.in_flight for instance in self.stock.instances]

    def take_back(self, asked: Asked, *, again: bool = True) -> Asked:
        """As the channel, the manager and the shell do it."""
        asked.lease.channel.takes_ahead = False
        self.lending.undo(asked.lease, self.now)
        self.settle()
        return self.ask() if again else asked


def on_same(instance: Instance, *asked: Asked) -> list[Asked]:
    return [each for each in asked if each.leases and each.lease.instance is instance]


class TestHandingAhead:
    def test_one_call_an_instance_until_the_calls_are_known_to_be_short(self):
        rig = Handing(on=False)
        asked = [rig.ask() for _ in range(4)]
        assert rig.sizes == [1, 1]
        assert [each.waits for each in asked] == [False, False, True, True]

    def test_then_up_to_the_depth(self):
        rig = Handing()
        asked = [rig.ask() for _ in range(2 * DEPTH + 1)]
        assert rig.sizes == [DEPTH, DEPTH]
        assert [each.waits for each in asked] == [False] * 2 * DEPTH + [True]

    @pytest.mark.parametrize(
        "settings", [{"spread": None}, {"max_concurrent_requests": 4}, {"takes_ahead": False}]
    )
    def test_not_where_it_cannot_be(self, settings: dict):
        takes_ahead = settings.pop("takes_ahead", "max_concurrent_requests" not in settings)
        places = settings.get("max_concurrent_requests", 1)
        rig = Rig(takes_ahead=takes_ahead, spread=settings.pop("spread", 2), max_size=1, **settings)
        rig.warm(1)
        for _ in range(LOOKED_AT):
            rig.give_back(rig.ask(), run_s=SHORT)
        asked = [rig.ask() for _ in range(places + 1)]
        assert [each.waits for each in asked] == [False] * places + [True]

    @pytest.mark.parametrize(
        ("run_s", "depth"), [(0.0, 16), (0.0001, 16), (0.00025, 9), (0.0005, 5), (0.00099, 3)]
    )
    def test_what_waits_in_an_instance_takes_little_time_together(self, run_s, depth):
        """Else a call waits for longer than 10 ms behind others while instances are free."""
        rig = Handing(warm=4, spread=2, on=False)
        rig.run_many(LOOKED_AT, run_s)
        for _ in range(4 * depth):
            rig.ask()
        assert rig.sizes == [depth] * 4
        assert run_s * (depth - 1) <= 0.0025

    def test_the_depth_follows_the_calls(self):
        rig = Handing(warm=1)
        for run_s, depth in ((0.0009, 3), (0.0001, DEPTH), (0.0005, 5)):
            rig.run_many(LOOKED_AT, run_s)
            asked = [rig.ask() for _ in range(DEPTH + 1)]
            assert rig.sizes == [depth]
            while asked:
                rig.give_back(asked.pop(0), run_s=run_s)
            assert rig.sizes == [0]

    def test_a_long_call_now_and_then_does_not_change_it(self):
        rig = Handing(warm=1)
        for _ in range(20):
            rig.run_many(1, 0.3)
            rig.run_many(199, SHORT)
        assert rig.stock.places == DEPTH

    def test_a_few_work_and_the_others_rest(self):
        rig = Handing(warm=4, spread=2)
        for _ in range(6):
            rig.ask()
        assert sorted(rig.sizes) == [0, 0, 3, 3]

    def test_long_calls_end_it_and_what_waits_stays(self):
        rig = Handing()
        asked = [rig.ask() for _ in range(2 * DEPTH)]
        for each in asked[:LONG_ALLOWED]:
            rig.give_back(each, run_s=LONG)
        assert sum(rig.sizes) == 2 * DEPTH - LONG_ALLOWED
        assert rig.ask().waits
        assert rig.lending.handed_ahead
        for each in asked[LONG_ALLOWED:]:
            rig.give_back(each, run_s=SHORT)
        assert rig.sizes in ([1, 0], [0, 1])

    def test_instances_that_come_later_get_as_many(self):
        rig = Handing(warm=1, max_size=2, spread=2)
        rig.stock.reserve(1, rig.now)
        rig.perform()
        rig.start()
        for _ in range(2 * DEPTH):
            rig.ask()
        assert rig.sizes == [DEPTH, DEPTH]

    def test_one_that_starts_while_it_begins_gets_as_many(self):
        rig = Handing(warm=1, max_size=2, on=False)
        rig.stock.reserve(1, rig.now)
        rig.perform()
        rig.run_many(LOOKED_AT, SHORT)
        rig.start()
        for _ in range(2 * DEPTH):
            rig.ask()
        assert rig.sizes == [DEPTH, DEPTH]

    def test_one_that_wants_it_fresh_gets_its_turn_under_constant_load(self):
        """At depth 1 each instance is idle between two calls; here it may never be."""
        rig = Handing(warm=1)
        running = [rig.ask() for _ in range(3)]
        fresh = rig.ask(fresh=True)
        for _ in range(2 * DEPTH):
            running.append(rig.ask())
            while running[0].waits:
                rig.stop()
                rig.start()
                if not fresh.waits:
                    break
            if not fresh.waits:
                break
            rig.give_back(running.pop(0), run_s=SHORT)
        assert fresh.lease.cold


class TestTakeBacks:
    def test_the_account_is_as_if_it_had_not_been_lent(self):
        rig = Handing()
        first = [rig.ask() for _ in range(4)]
        before = rig.lending.account
        counts = (before.requests, before.granted, before.returned, before.mean_wait_s)
        waits = list(before._recent_waits)
        uses = [instance.uses for instance in rig.stock.instances]
        rig.now += 0.5
        late = rig.ask()
        rig.take_back(late, again=False)
        after = rig.lending.account
        assert (after.requests, after.granted, after.returned, after.mean_wait_s) == counts
        assert list(after._recent_waits) == waits
        assert [instance.uses for instance in rig.stock.instances] == uses
        assert rig.gate.lent == rig.lending.leased == len(first)

    def test_nothing_is_handed_ahead_until_the_channel_takes_it_again(self):
        rig = Handing(warm=1)
        running, late = rig.ask(), rig.ask()
        again = rig.take_back(late)
        assert again.waits
        rig.give_back(running, run_s=SHORT)
        assert rig.sizes == [1]  # the one that was taken back, alone
        assert rig.ask().waits
        again.lease.channel.takes_ahead = True
        rig.give_back(again, run_s=SHORT)
        for _ in range(DEPTH):
            rig.ask()
        assert rig.sizes == [DEPTH]

    def test_another_depth_does_not_change_that(self):
        rig = Handing(warm=2)
        running, other, late = rig.ask(), rig.ask(), rig.ask()
        assert late.lease.instance is running.lease.instance
        rig.take_back(late, again=False)
        for run_s, depth in ((LONG, 1), (SHORT, DEPTH), (SHORT_S / 2, 5)):
            for _ in range(LOOKED_AT):
                rig.give_back(other, run_s=run_s)
                other = rig.ask()
                assert other.lease.instance is not running.lease.instance
            assert rig.stock.places == depth
            assert running.lease.instance.places == 1

    def test_a_call_that_was_not_sent_changes_nothing(self):
        rig = Handing(warm=1)
        running, late = rig.ask(), rig.ask()
        rig.take_back(late, again=False)
        rig.give_back(running, run_s=SHORT)
        rig.give_back(rig.ask())
        rig.ask()
        assert rig.ask().waits

    def test_nothing_comes_back_twice(self):
        rig = Handing()
        asked = [rig.ask() for _ in range(3)]
        rig.take_back(asked[2], again=False)
        with pytest.raises(LeaseError):
            rig.lending.undo(asked[2].lease, rig.now)
        with pytest.raises(LeaseError):
            rig.lending.give_back(asked[2].lease, rig.now)
        assert rig.gate.lent == 2

    def test_the_last_use_counts_again(self):
        rig = Handing(warm=1, max_uses=LOOKED_AT + 2)
        running, last = rig.ask(), rig.ask()
        instance = running.lease.instance
        assert instance.leaving
        rig.take_back(last, again=False)
        rig.give_back(running, run_s=SHORT)
        assert rig.to_stop == [instance]

    def test_one_that_leaves_ends_when_what_waits_in_it_is_taken_back(self):
        rig = Handing(warm=1)
        running, late = rig.ask(), rig.ask()
        instance = running.lease.instance
        rig.lending.close()
        rig.settle()
        rig.give_back(running, run_s=SHORT)
        assert rig.to_stop == []
        rig.take_back(late, again=False)
        assert rig.to_stop == [instance]
        assert rig.gate.lent == 0

    def test_the_taken_back_go_before_those_who_came_later(self):
        rig = Handing(warm=1)
        running = rig.ask()
        rig.now += 0.001
        early = [rig.ask() for _ in range(DEPTH - 1)]
        rig.now += 0.001
        late = [rig.ask() for _ in range(3)]
        assert all(each.waits for each in late)
        again = []
        for each in early:
            lease = each.lease
            lease.channel.takes_ahead = False
            rig.lending.undo(lease, rig.now)
            back = Asked()
            back.waiter.since, back.waiter.number = lease.asked_at, lease.number
            rig.lending.adopt([back.waiter], rig.now)
            rig.settle()
            again.append(back)
        order = [*again, *late]
        rig.give_back(running, run_s=SHORT)
        for place, each in enumerate(order):
            assert not each.waits, place
            assert all(other.waits for other in order[place + 1 :])
            rig.give_back(each, run_s=SHORT)


class TestStalls:
    def test_an_instance_that_answers_is_not_stalled(self):
        rig = Handing(warm=1)
        asked = [rig.ask() for _ in range(4)]
        for each in asked[:3]:
            rig.now += STALL_S * 0.99
            assert not rig.lending.stalled(rig.now)
            rig.give_back(each, run_s=SHORT)
        assert not rig.lending.stalled(rig.now + 1)  # the last one has it to itself

    def test_one_that_answers_nothing_is(self):
        rig = Handing(warm=2)
        rig.now += 1
        busy = [rig.ask() for _ in range(4)]
        assert not rig.lending.stalled(rig.now)
        rig.now += STALL_S * 1.01
        assert rig.lending.stalled(rig.now) == rig.stock.instances
        rig.give_back(busy[0], run_s=SHORT)
        stalled = rig.lending.stalled(rig.now)
        assert stalled == [each for each in rig.stock.instances if each.in_flight == 2]

    def test_one_that_does_not_answer_is_handed_calls_only_when_there_is_no_other(self):
        rig = Handing(warm=3, spread=1)
        rig.now += 1
        rig.ask()
        rig.now += STALL_S * 1.01
        rig.ask()
        assert rig.sizes == [1, 1, 0]
        rig.ask()
        assert rig.sizes == [1, 2, 0]
        rig.now += STALL_S * 1.01
        for _ in range(2):
            rig.ask()
        assert rig.sizes == [1, 2, 2]
        rig.now += STALL_S * 1.01
        rig.ask()
        assert sum(rig.sizes) == 6

    def test_an_idle_time_is_none(self):
        rig = Handing(warm=1)
        rig.give_back(rig.ask(), run_s=SHORT)
        rig.now += 100
        rig.ask()
        rig.ask()
        assert not rig.lending.stalled(rig.now + STALL_S * 0.9)
        assert rig.lending.stalled(rig.now + STALL_S * 1.01)

    def test_calls_that_run_at_once_wait_for_nobody(self):
        rig = Rig(spread=2, max_size=1, max_concurrent_requests=4)
        rig.warm(1)
        for _ in range(4):
            rig.ask()
        assert not rig.lending.stalled(rig.now + 100)
        assert not rig.lending.handed_ahead


def test_several_pools_share_the_places_of_the_gate():
    gate = Gate(max_lent=3)
    rigs = [
        Rig(gate, spread=1, takes_ahead=True, max_size=1).warm(1),
        Rig(gate, spread=1, takes_ahead=True, max_size=1).warm(1),
    ]
    for _ in range(LOOKED_AT):
        for rig in rigs:
            rig.give_back(rig.ask(), run_s=SHORT)
    first, second = rigs
    mine = [first.ask() for _ in range(4)]
    theirs = second.ask()
    assert gate.lent == 3
    assert theirs.waits
    mine[2].lease.channel.takes_ahead = False
    first.lending.undo(mine[2].lease, first.now)
    first.settle()
    assert gate.lent == 3
    assert not theirs.waits
    assert mine[3].waits


class Turns(FakeInstance):
    """Runs what it is sent in turn, in virtual time."""

    def __init__(self) -> None:
        super().__init__(takes_ahead=True)
        self.calls: list[TimedCall] = []
        self.clearing: TimedCall | None = None

    def send(self, call: TimedCall) -> None:
        assert self.takes_ahead or not self.calls
        if not self.takes_ahead:
            self.clearing = call
        self.calls.append(call)
        if len(self.calls) == 1:
            self.begin()

    def begin(self) -> None:
        call, loop = self.calls[0], asyncio.get_running_loop()
        call.waited_here.append(loop.time() - call.sent_at)
        loop.call_later(call.run_s, self.end)

    def end(self) -> None:
        call = self.calls.pop(0)
        if self.clearing is call:
            self.clearing, self.takes_ahead = None, True
        if self.calls:
            self.begin()
        call.pool.release(call.lease, run_s=call.run_s)
        call.ended.set_result(None)

    def take_back(self) -> None:
        back, self.calls = self.calls[1:], self.calls[:1]
        self.takes_ahead = self.takes_ahead and not back
        for call in back:
            call.back()


class TimedCall:
    def __init__(self, pool: InstancePool, run_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.pool, self.run_s = pool, run_s
        self.sent_at = 0.0
        self.waited_here: list[float] = []
        """In each instance that it was sent to."""
        self.times_back = 0
        self.ended: asyncio.Future[None] = loop.create_future()
        pool.ask(self.waiter())

    def waiter(self) -> Waiter:
        return Waiter(self.granted, self.ended.set_exception)

    def granted(self, lease: Any) -> None:
        self.lease, self.sent_at = lease, asyncio.get_running_loop().time()
        lease.channel.send(self)

    def back(self) -> None:
        self.times_back += 1
        self.waited_here.append(asyncio.get_running_loop().time() - self.sent_at)
        self.pool.undo(self.lease, self.waiter(), self.pool)


class TestPromise:
    """No call waits for over 10 ms behind another of its instance while others are free."""

    async def play(self, short_s: float, long_s: float, n_calls: int = 6000) -> list[TimedCall]:
        async def start() -> Any:
            await asyncio.sleep(0.01)
            return Turns()

        loop = asyncio.get_running_loop()
        settings = PoolSettings(min_size=16, max_size=16)
        pool = InstancePool("task", start, pool=settings, clock=loop.time, spread=2)
        calls: list[TimedCall] = []
        async with pool:

            async def caller(first: int) -> None:
                for n in range(first, n_calls, 32):
                    long = n > 1500 and n % 200 == 100
                    calls.append(TimedCall(pool, long_s if long else short_s))
                    await calls[-1].ended

            await asyncio.gather(*map(caller, range(32)))
            assert pool.stats().in_use == pool.stats().waiting == 0
            assert pool.stats().total_requests == n_calls
        return calls

    @pytest.mark.parametrize("short_s", [0.00005, 0.0003, 0.0009])
    @pytest.mark.parametrize("long_s", [0.004, 0.02, 0.3])
    def test_it_is_kept(self, short_s: float, long_s: float) -> None:
        @virtual
        async def main() -> None:
            calls = await self.play(short_s, long_s)
            waited = [wait_s for call in calls for wait_s in call.waited_here]
            assert max(waited) <= 0.010
            if long_s > 0.005:
                assert sum(call.times_back for call in calls) > 10
                # And nobody wanders from one that sleeps to the next.
                assert max(call.times_back for call in calls) <= 2

        main()

    def test_calls_do_travel_together(self) -> None:
        @virtual
        async def main() -> None:
            calls = await self.play(0.0001, 0.0001)
            together = sum(any(call.waited_here) for call in calls)
            assert together > len(calls) * 3 / 4

        main()
