"""The clockwork beside the pools, on a clock that jumps."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from atlatl.core.admission import Gate
from atlatl.engine.autoscaler import ASSUMED_BYTES, MEMORY_INTERVAL_S, REST_ROUNDS, Autoscaler
from atlatl.engine.pool import InstancePool
from atlatl.errors import NoCapacity
from atlatl.settings import PoolSettings, ScalingSettings
from tests.pool_fakes import Asked, FakeStarts
from tests.virtual_time import virtual

MIB = 1024 * 1024


class ScriptedPool:
    """Notes when it was ticked and checked."""

    spare = 0
    starting = 0

    def __init__(self, tick_interval_s=1.0, check_interval_s=1e6, check_s=0.0, broken=False):
        self.tick_interval_s = tick_interval_s
        self.check_interval_s = check_interval_s
        self.check_s = check_s
        self.broken = broken
        self.ticks: list[float] = []
        self.checks: list[float] = []

    def live(self):
        if self.broken:
            raise ZeroDivisionError("a broken pool")
        return []

    def tick(self):
        self.ticks.append(asyncio.get_running_loop().time())
        if self.broken:
            raise ZeroDivisionError("a broken pool")

    async def check_health(self):
        self.checks.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.check_s)
        if self.broken:
            raise ZeroDivisionError("a broken pool")


@asynccontextmanager
async def clockwork(*pools, budget=0, reserve=None):
    autoscaler = Autoscaler(
        clock=asyncio.get_running_loop().time, memory_budget_bytes=budget * MIB, reserve=reserve
    )
    for pool in pools:
        autoscaler.add(pool)
    running = asyncio.create_task(autoscaler.run())
    yield autoscaler
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(asyncio.all_tasks()) == 1


def pool_of(autoscaler, *, interval_s=1e6, gate=None, **sizes):
    """A pool under the budget of the clockwork, and its starts."""
    starts = FakeStarts()
    pool = InstancePool(
        "hello",
        starts,
        pool=PoolSettings(**{"max_size": 8, **sizes}),
        scaling=ScalingSettings(scale_interval_s=interval_s),
        gate=gate,
        may_start=autoscaler.may_start,
        clock=asyncio.get_running_loop().time,
    )
    autoscaler.add(pool)
    return pool, starts


async def warm(pool, count, mib=16):
    await pool.ensure(count)
    for instance in pool.live():
        instance.channel.bytes = mib * MIB
        pool.note_memory(instance, mib * MIB, asyncio.get_running_loop().time())


def ask(pool, **options) -> Asked:
    asked = Asked(**options)
    pool.ask(asked.waiter)
    return asked


# --- when ---


@virtual
async def test_each_pool_is_ticked_and_checked_at_its_own_interval():
    slow, fast = ScriptedPool(2.0, check_interval_s=5.0), ScriptedPool(0.5)
    async with clockwork(slow, fast):
        await asyncio.sleep(10.1)
    assert slow.ticks == pytest.approx([2, 4, 6, 8, 10])
    assert len(fast.ticks) == 20
    assert slow.checks == pytest.approx([5, 10])
    assert fast.checks == []


@virtual
async def test_a_pool_that_comes_later_is_ticked_from_then_on():
    late = ScriptedPool(0.25)
    async with clockwork(ScriptedPool(100.0)) as autoscaler:
        await asyncio.sleep(1.0)
        autoscaler.add(late)
        await asyncio.sleep(1.1)
    assert late.ticks == pytest.approx([1.25, 1.5, 1.75, 2.0])


@virtual
async def test_a_pool_that_was_removed_is_left_alone_also_in_the_middle_of_a_check():
    stays, goes = ScriptedPool(1.0), ScriptedPool(1.0, check_interval_s=1.0, check_s=5.0)
    async with clockwork(stays, goes) as autoscaler:
        await asyncio.sleep(1.5)
        autoscaler.remove(goes)
        autoscaler.remove(goes)
        await asyncio.sleep(8.0)
    assert (len(goes.ticks), len(goes.checks)) == (1, 1)
    assert len(stays.ticks) == 9


@virtual
async def test_d92_a_slow_check_delays_neither_ticks_nor_the_checks_of_others():
    stuck = ScriptedPool(1.0, check_interval_s=1.0, check_s=100.0)
    other = ScriptedPool(1.0, check_interval_s=1.0)
    async with clockwork(stuck, other):
        await asyncio.sleep(5.1)
    assert (len(stuck.ticks), len(stuck.checks)) == (5, 1)
    assert (len(other.ticks), len(other.checks)) == (5, 5)


@virtual
async def test_d91_a_pool_that_fails_stops_neither_the_others_nor_the_clockwork(caplog):
    broken, other = ScriptedPool(1.0, 1.0, broken=True), ScriptedPool(1.0, 1.0)
    async with clockwork(broken, other):
        await asyncio.sleep(2 * MEMORY_INTERVAL_S + 0.1)
    assert len(broken.ticks) == len(other.ticks) == len(broken.checks) == 10
    assert "tick failed" in caplog.text
    assert "health check failed" in caplog.text
    assert "could not be measured" in caplog.text


# --- memory ---


@virtual
async def test_d37_a_pool_out_of_memory_serves_one_caller_after_another():
    """It does not end the instance that has just started to make room for the next start."""
    async with clockwork(budget=16) as autoscaler:
        pool, starts = pool_of(autoscaler)
        waiters = [ask(pool) for _ in range(3)]
        await asyncio.sleep(0.1)
        for asked in waiters:
            pool.release(asked.lease)
        assert starts.begun == 1
        await pool.close()


@virtual
async def test_d37_a_pool_is_not_warmed_beyond_the_budget_by_ending_its_own():
    async with clockwork(budget=48) as autoscaler:
        pool, starts = pool_of(autoscaler)
        with pytest.raises(NoCapacity):
            await pool.ensure(5)
        await asyncio.sleep(0.1)
        with pytest.raises(NoCapacity):
            await pool.ensure(5)
        assert starts.begun == len(starts.alive) == 3
        await pool.close()


@virtual
async def test_d37_out_of_memory_a_used_instance_makes_room_for_a_fresh_one():
    async with clockwork(budget=16) as autoscaler:
        pool, starts = pool_of(autoscaler)
        await warm(pool, 1)
        pool.release(ask(pool).lease)
        fresh = ask(pool, fresh=True)
        await asyncio.sleep(1.0)
        assert fresh.lease.cold
        assert len(starts.alive) == 1
        pool.release(fresh.lease)
        await pool.close()


@virtual
async def test_d37_memory_is_measured_and_one_that_is_gone_has_no_figure():
    async with clockwork() as autoscaler:
        pool, starts = pool_of(autoscaler)
        await pool.ensure(2)
        starts.made[0].bytes = 3 * MIB
        starts.made[1].alive = False
        assert autoscaler.memory_bytes() == 2 * ASSUMED_BYTES
        await asyncio.sleep(MEMORY_INTERVAL_S + 0.1)
        assert autoscaler.memory_bytes() == 3 * MIB + ASSUMED_BYTES
        await pool.close()


@virtual
async def test_of_those_on_which_nothing_ran_a_share_is_measured_each_time():
    async with clockwork() as autoscaler:
        pool, starts = pool_of(autoscaler, max_size=30)
        await pool.ensure(25)
        await asyncio.sleep(0.1)
        await autoscaler.measure()
        assert [each.readings for each in starts.made] == [1] * 25
        held, once = ask(pool), ask(pool)
        pool.release(once.lease)
        await asyncio.sleep(0.1)
        await autoscaler.measure()
        ran = {held.lease.channel, once.lease.channel}
        assert all(each.readings == 2 for each in ran)
        assert sum(each.readings == 2 for each in starts.made if each not in ran) == 2
        for _ in range(REST_ROUNDS - 1):
            await asyncio.sleep(0.1)
            await autoscaler.measure()
        assert held.lease.channel.readings == 1 + REST_ROUNDS
        assert {each.readings for each in starts.made if each not in ran} <= {2, 3}
        pool.release(held.lease)
        await pool.close()


@virtual
async def test_d37_the_budget_caps_all_pools_together_and_starts_count_in_advance():
    async with clockwork(budget=64) as autoscaler:
        one, starts_one = pool_of(autoscaler)
        other, starts_other = pool_of(autoscaler)
        waiters = [ask(one) for _ in range(3)] + [ask(other) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert (starts_one.begun, starts_other.begun) == (3, 1)
        assert sum(bool(asked.leases) for asked in waiters) == 4
        assert not any(asked.errors for asked in waiters)
        await one.close(0.0)
        await other.close(0.0)


class ScriptedReserve:
    """A runtime's reserve of so many MiB."""

    def __init__(self, mib):
        self.mib = mib

    def memory_bytes(self):
        return self.mib * MIB

    def give_way(self):
        self.mib = 0


@virtual
async def test_d37_the_reserve_counts_and_gives_way_before_any_instance():
    reserve = ScriptedReserve(32)
    async with clockwork(budget=64, reserve=reserve) as autoscaler:
        pool, starts = pool_of(autoscaler)
        await warm(pool, 2)
        await autoscaler.measure()
        assert autoscaler.memory_bytes() == 64 * MIB
        assert reserve.mib == 32
        await warm(pool, 3)
        assert reserve.mib == 0
        assert len(starts.alive) == 3
        reserve.mib = 32
        await autoscaler.measure()
        assert (reserve.mib, len(starts.alive)) == (0, 3)
        assert autoscaler.memory_bytes() == 48 * MIB
        await pool.close(0.0)


@virtual
async def test_d37_without_a_budget_there_is_no_limit():
    async with clockwork() as autoscaler:
        pool, _ = pool_of(autoscaler, max_size=50)
        await warm(pool, 50, mib=10_000)
        assert autoscaler.may_start()
        await pool.close()


@virtual
async def test_d37_the_idle_of_other_pools_give_way_the_least_recently_used_first():
    async with clockwork(budget=64) as autoscaler:
        old, starts_old = pool_of(autoscaler)
        kept, starts_kept = pool_of(autoscaler, min_size=1)
        await warm(kept, 1)
        await asyncio.sleep(0.1)
        await warm(old, 3)
        await asyncio.sleep(0.1)
        old.release(ask(old).lease)
        used = starts_old.made[0]
        new, _ = pool_of(autoscaler)
        asked = ask(new)
        await asyncio.sleep(0.1)
        assert asked.leases
        assert used in starts_old.alive
        assert (len(starts_old.alive), len(starts_kept.alive)) == (2, 1)
        for pool in (old, kept, new):
            await pool.close(0.0)


@virtual
async def test_d37_d27_what_is_in_use_never_gives_way():
    async with clockwork(budget=32) as autoscaler:
        busy, _ = pool_of(autoscaler)
        await warm(busy, 2)
        held = [ask(busy), ask(busy)]
        other, _ = pool_of(autoscaler)
        refused = ask(other)
        assert refused.error.code == "RESOURCE_EXHAUSTED"
        assert all(asked.lease.channel.alive for asked in held)
        await busy.close(0.0)


@virtual
async def test_d37_an_instance_that_drains_still_uses_memory():
    async with clockwork(budget=16) as autoscaler:
        pool, _ = pool_of(autoscaler, max_uses=1)
        await warm(pool, 1)
        asked = ask(pool)
        assert autoscaler.memory_bytes() == 16 * MIB
        assert ask(pool).error.code == "RESOURCE_EXHAUSTED"
        pool.release(asked.lease)
        await asyncio.sleep(0.1)
        assert autoscaler.memory_bytes() == 0
        await pool.close()


@virtual
async def test_d37_growing_at_a_tick_does_not_swap_a_warm_instance_for_a_cold_one():
    async with clockwork(budget=160) as autoscaler:
        pool, starts = pool_of(autoscaler, interval_s=1.0, max_size=16)
        await warm(pool, 10)
        held = [ask(pool) for _ in range(9)]
        await asyncio.sleep(5.0)
        assert starts.begun == len(starts.alive) == 10
        for asked in held:
            pool.release(asked.lease)
        await pool.close()


@virtual
async def test_d37_beyond_the_budget_idle_ones_end_even_within_min_size():
    async with clockwork(budget=64) as autoscaler:
        pool, starts = pool_of(autoscaler, min_size=2)
        await warm(pool, 4, mib=16)
        for instance in starts.made:
            instance.bytes = 40 * MIB
        await asyncio.sleep(MEMORY_INTERVAL_S + 0.1)
        assert len(starts.alive) == 1
        await pool.close()


@virtual
async def test_d37_an_instance_that_somebody_waits_for_does_not_give_way():
    gate = Gate(max_lent=1)
    async with clockwork(budget=32) as autoscaler:
        busy, _ = pool_of(autoscaler, gate=gate)
        other, starts = pool_of(autoscaler, gate=gate)
        await warm(busy, 1)
        await warm(other, 1)
        first, waiter, second = ask(busy), ask(other), ask(busy)
        await asyncio.sleep(2.0)
        assert starts.begun == len(starts.alive) == 1
        busy.release(first.lease)
        assert waiter.leases
        other.release(waiter.lease)
        assert second.leases
        busy.release(second.lease)
        await busy.close()
        await other.close()


@virtual
async def test_those_who_wait_at_a_full_gate_get_another_when_theirs_gives_way():
    gate = Gate(max_lent=1)
    async with clockwork() as autoscaler:
        pool, starts = pool_of(autoscaler, gate=gate)
        await warm(pool, 2)
        first, waiter = ask(pool), ask(pool)
        (idle,) = (instance for instance in pool.live() if instance.idle)
        pool.evict(idle)
        await asyncio.sleep(0.1)
        assert len(starts.alive) == 2
        pool.release(first.lease)
        assert waiter.leases
        pool.release(waiter.lease)
        await pool.close()
