"""The pool with its timers and its crew, on a clock that jumps."""

from __future__ import annotations

import asyncio
import random

import pytest

from atlatl.core.admission import Gate
from atlatl.core.leases import LeaseError
from atlatl.core.stock import BLOCKED_RETRY_S, START_BACKOFF_S
from atlatl.engine.crew import STOP_GRACE_S
from atlatl.engine.pool import InstancePool
from atlatl.errors import (
    ArtifactInvalid,
    InstanceLost,
    InvalidRequest,
    NoCapacity,
    PoolClosed,
    QueueFull,
    SettingInvalid,
    StartFailed,
    TimedOutWaiting,
)
from atlatl.events import InstanceEnded, InstanceStarted, PoolScaled, StartFailedEvent
from atlatl.model import InstanceState
from atlatl.settings import PoolSettings, ScalingSettings, SchedulerSettings
from tests.pool_fakes import Asked, FakeStarts
from tests.virtual_time import virtual

EAGER = ScalingSettings(
    scale_up_threshold=0.5,
    scale_down_threshold=0.2,
    scale_interval_s=0.1,
    scale_down_cooldown_s=0,
)


def now() -> float:
    return asyncio.get_running_loop().time()


def make(
    starts=None, *, scaling=EAGER, gate=None, policy="round_robin", pool_options=None, **sizes
):
    return InstancePool(
        "hello",
        starts or FakeStarts(),
        pool=PoolSettings(**sizes),
        scaling=scaling,
        scheduler=SchedulerSettings(policy=policy),
        gate=gate,
        clock=asyncio.get_running_loop().time,
        **(pool_options or {}),
    )


def ask(pool, **options) -> Asked:
    asked = Asked(**options)
    pool.ask(asked.waiter)
    return asked


async def until(condition, within_s=60.0) -> None:
    """Looks every 10 ms; the bound makes a test that never gets there fail."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


# --- what the pool must hold ---


@virtual
async def test_d23_two_leased_of_two_grow_beyond_two_within_two_ticks():
    async with make(min_size=2, max_size=8) as pool:
        assert pool.stats().total == 2
        async with pool.lease(), pool.lease():
            await asyncio.sleep(0.2)
            assert pool.stats().total > 2


@virtual
async def test_d18_d56_released_and_idle_it_returns_to_two_live_instances_and_serves():
    starts = FakeStarts()
    async with make(starts, min_size=2, max_size=8) as pool:
        held = [ask(pool) for _ in range(8)]
        await until(lambda: all(asked.leases for asked in held))
        assert len(starts.alive) == 8
        for asked in held:
            pool.release(asked.lease)
        await asyncio.sleep(5.0)
        stats = pool.stats()
        assert (stats.total, stats.available, stats.in_use) == (2, 2, 0)
        assert len(starts.alive) == 2
        for _ in range(5):
            async with pool.lease(timeout_s=0.1) as channel:
                assert channel.alive


@virtual
async def test_d18_what_came_back_after_growing_is_kept():
    """Beyond the smallest size, too: what is counted lives, and what lives is counted."""
    starts = FakeStarts()
    async with make(starts, scaling=ScalingSettings(), min_size=2, max_size=8) as pool:
        held = [ask(pool) for _ in range(8)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for asked in held:
            pool.release(asked.lease)
        await asyncio.sleep(1.0)
        assert pool.stats().available == len(starts.alive) == 8
        assert starts.begun == 8


@virtual
async def test_ten_thousand_leases_by_64_callers_with_crashes():
    """No instance is ever leased twice at once, none leaks, every caller ends."""
    dice, starts, holders = random.Random(18), FakeStarts(start_s=0.05), {}
    ends = {"served": 0, "lost": 0, "late": 0}

    async def use(pool) -> None:
        async with pool.lease(timeout_s=dice.choice((0.05, 1.0, None))) as channel:
            assert holders.setdefault(channel.id, 0) == 0
            holders[channel.id] = 1
            await asyncio.sleep(dice.choice((0.0, 0.05, 0.1)))
            holders[channel.id] = 0
            if dice.random() < 0.02:
                channel.crash()
                ends["lost"] += 1

    async def caller(pool) -> None:
        served = 0
        while served < 157:
            try:
                await use(pool)
                served += 1
            except (TimedOutWaiting, QueueFull):
                ends["late"] += 1
                await asyncio.sleep(0.05)
        ends["served"] += served

    async with make(starts, min_size=2, max_size=16) as pool:
        async with asyncio.TaskGroup() as callers:
            for _ in range(64):
                callers.create_task(caller(pool))
        assert ends["served"] == 64 * 157 > 10_000
        assert ends["lost"] > 100
        assert ends["late"] > 100
        stats = pool.stats()
        assert (stats.in_use, stats.waiting) == (0, 0)
        assert pool._gate.lent == pool._gate.waiting == 0
        await asyncio.sleep(5.0)
        assert pool.stats().total == len(starts.alive) == 2
        async with pool.lease(timeout_s=0.1):
            pass
    assert starts.alive == []


# --- starting ---


@virtual
async def test_d19_d20_a_slow_start_holds_nobody_up():
    starts = FakeStarts()
    async with make(starts, max_size=4) as pool:
        await pool.ensure(1)
        starts.start_s = 100.0
        first, second = ask(pool), ask(pool)
        assert (pool.stats().starting, pool.stats().waiting) == (1, 1)
        began = now()
        pool.release(first.lease)
        assert second.leases
        pool.release(second.lease)
        async with pool.lease():
            pass
        assert now() == began
        await pool.close(drain_s=0.0)
        assert now() == began


@virtual
async def test_d88_d23_a_caller_makes_a_full_pool_grow_without_a_tick():
    starts = FakeStarts(start_s=0.3)
    pool = make(starts, scaling=ScalingSettings(scale_interval_s=1e6), max_size=2)
    held = [ask(pool) for _ in range(5)]
    assert starts.begun == 0
    await asyncio.sleep(0.4)
    assert starts.begun == 2
    assert [bool(asked.leases) for asked in held] == [True, True, False, False, False]


@virtual
async def test_d84_callers_at_the_same_moment_do_not_overrun_the_limit():
    starts = FakeStarts(start_s=0.1)
    async with make(starts, max_size=3) as pool:

        async def call():
            async with pool.lease():
                await asyncio.sleep(0.05)

        await asyncio.gather(*(call() for _ in range(50)))
        assert starts.begun == 3


@virtual
async def test_d34_a_failed_start_is_told_logged_counted_and_tried_again(caplog):
    starts, events = FakeStarts(), []
    starts.failures = [StartFailed("no process could be had")]
    pool = make(starts, pool_options={"on_event": events.append})
    with pytest.raises(StartFailed, match="no process"):
        async with pool.lease():
            pass
    assert pool.stats().failed_starts == pool.stats().failures == 1
    assert [event.reason for event in events if isinstance(event, StartFailedEvent)]
    assert "could not be started" in caplog.text
    began = now()
    async with pool.lease():
        assert now() == pytest.approx(began + START_BACKOFF_S)
    await pool.close()


@virtual
async def test_d34_the_tick_tries_again_after_the_back_off():
    starts = FakeStarts()
    async with make(starts, min_size=1) as pool:
        starts.made[0].crash()
        starts.failures = [StartFailed("no")] * 3
        await until(lambda: pool.stats().total == 1, within_s=3.0)
        assert pool.stats().failed_starts == 3


@virtual
async def test_an_unexpected_error_of_a_start_is_a_failed_start(caplog):
    starts = FakeStarts()
    starts.failures = [ZeroDivisionError("oops")]
    pool = make(starts)
    with pytest.raises(StartFailed, match="ZeroDivisionError"):
        async with pool.lease():
            pass
    assert "oops" in caplog.text
    await pool.close()


@virtual
async def test_an_instance_that_died_before_anybody_listened_is_not_published():
    starts, pool = FakeStarts(), None

    async def start():
        channel = await starts()
        if len(starts.made) == 1:
            channel.alive = channel.accepting = False
        return channel

    pool = make(start, min_size=1)
    with pytest.raises(StartFailed):
        await pool.ensure(1)
    assert pool.stats().total == 0
    await pool.ensure(1)
    assert pool.stats().total == 1
    await pool.close()


@virtual
async def test_entering_starts_min_size_and_a_failure_there_leaves_nothing_behind():
    starts = FakeStarts(start_s=0.2)
    async with make(starts, min_size=3) as pool:
        assert pool.stats().available == 3
    assert starts.alive == []
    starts.failures = [ArtifactInvalid("no module named x")]
    broken = make(starts, min_size=3)
    with pytest.raises(ArtifactInvalid):
        async with broken:
            pass
    assert broken.closed
    assert starts.alive == []
    assert len(asyncio.all_tasks()) == 1


@virtual
async def test_ensure_says_why_it_cannot():
    memory_left = True
    pool = make(max_size=2, pool_options={"may_start": lambda: memory_left})
    with pytest.raises(InvalidRequest, match="max_size"):
        await pool.ensure(3)
    await pool.ensure(1)
    memory_left = False
    with pytest.raises(NoCapacity, match="memory_budget_bytes"):
        await pool.ensure(2)
    await pool.close()
    with pytest.raises(PoolClosed):
        await pool.ensure(2)


@virtual
async def test_ensure_ends_with_an_error_when_the_pool_closes_meanwhile():
    pool = make(FakeStarts(start_s=9.0))
    warming = asyncio.create_task(pool.ensure(1))
    await asyncio.sleep(1.0)
    await pool.close(drain_s=0.0)
    with pytest.raises(PoolClosed):
        await warming


@virtual
async def test_a_start_that_memory_forbids_is_tried_again_without_any_event():
    memory_left = True
    pool = make(max_size=2, pool_options={"may_start": lambda: memory_left})
    await pool.ensure(1)
    ask(pool)
    memory_left = False
    waiter = ask(pool)
    memory_left = True
    assert waiter.waits
    await asyncio.sleep(BLOCKED_RETRY_S + 0.1)
    assert waiter.leases


@virtual
async def test_a_start_put_off_at_the_gate_is_tried_again_without_any_event():
    gate, memory_left = Gate(max_lent=4), True
    elsewhere = make(gate=gate)
    pool = make(
        gate=gate,
        max_size=3,
        max_uses=3,
        max_concurrent_requests=2,
        pool_options={"may_start": lambda: memory_left},
    )
    await elsewhere.ensure(2)
    await pool.ensure(2)
    used = [ask(pool) for _ in range(4)]
    for asked in used[::2]:
        pool.release(asked.lease)  # now one instance is idle and the other one full
    held = [ask(elsewhere), ask(elsewhere)]
    waiters = [ask(pool), ask(pool)]
    memory_left = False
    elsewhere.release(held[0].lease)  # serves one, which uses the instance up
    elsewhere.release(held[1].lease)
    assert [bool(waiter.leases) for waiter in waiters] == [True, False]
    memory_left = True
    await asyncio.sleep(BLOCKED_RETRY_S + 0.1)
    assert waiters[1].leases


# --- leasing ---


@virtual
async def test_lease_gives_back_also_when_the_block_raises():
    async with make() as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.lease():
                raise ZeroDivisionError
        assert pool.stats().in_use == 0
        assert pool.stats().available == 1


@virtual
async def test_d31_an_instance_that_no_longer_accepts_is_ended_and_replaced():
    starts = FakeStarts()
    async with make(starts, min_size=1, max_size=1) as pool:
        async with pool.lease() as channel:
            channel.accepting = False
        async with pool.lease() as other:
            assert other is not channel
        assert not channel.alive


@virtual
async def test_d31_a_broken_instance_is_ended():
    starts = FakeStarts()
    pool = make(starts, max_size=1)
    await pool.ensure(1)
    pool.release(ask(pool).lease, broken=True)
    await asyncio.sleep(0.1)
    assert starts.alive == []
    await pool.close()


@virtual
async def test_d30_a_second_release_is_refused_loudly():
    async with make() as pool:
        await pool.ensure(1)
        asked = ask(pool)
        pool.release(asked.lease)
        with pytest.raises(LeaseError):
            pool.release(asked.lease)
        assert pool.stats().in_use == 0


@virtual
async def test_d32_a_lease_waits_no_longer_than_it_was_told():
    async with make(max_size=1) as pool:
        async with pool.lease():
            with pytest.raises(TimedOutWaiting):
                async with pool.lease(timeout_s=0.25):
                    pass
            assert now() == pytest.approx(0.25)
        stats = pool.stats()
        assert (stats.timed_out, stats.withdrawn, stats.failures, stats.waiting) == (1, 0, 0, 0)


@virtual
async def test_d32_a_cancelled_lease_leaves_the_queue():
    async with make(max_size=1) as pool:
        await pool.ensure(1)
        asked = ask(pool)
        waiting = asyncio.create_task(pool.lease().__aenter__())
        await asyncio.sleep(0)
        assert pool.stats().waiting == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert pool.stats().withdrawn == 1
        pool.release(asked.lease)
        assert pool.stats().available == 1


@virtual
async def test_d32_an_instance_given_to_a_caller_cancelled_in_the_same_breath_goes_back():
    async with make(max_size=1) as pool:
        await pool.ensure(1)
        asked = ask(pool)
        waiting = asyncio.create_task(pool.lease().__aenter__())
        await asyncio.sleep(0)
        pool.release(asked.lease)
        assert pool.stats().in_use == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (pool.stats().in_use, pool.stats().available) == (0, 1)


@virtual
async def test_a_caller_refused_and_cancelled_in_the_same_breath_holds_nothing():
    pool = make(max_size=1)
    await pool.ensure(1)
    ask(pool)
    waiting = asyncio.create_task(pool.lease().__aenter__())
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close(drain_s=0.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises((asyncio.CancelledError, PoolClosed)):
        await waiting
    await closing


@virtual
async def test_d32_an_instance_and_the_end_of_the_wait_at_the_same_moment():
    """Whatever comes first counts, and the instance is not lost."""
    async with make(scaling=ScalingSettings(), max_size=1) as pool:
        await pool.ensure(1)
        asked = ask(pool)
        waiting = asyncio.create_task(pool.lease(timeout_s=0.5).__aenter__())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_at(0.5, pool.release, asked.lease)
        with pytest.raises(TimedOutWaiting):
            await waiting
        await asyncio.sleep(0.1)
        assert (pool.stats().in_use, pool.stats().available) == (0, 1)


@virtual
async def test_max_wait_s_ends_a_wait_by_itself():
    async with make(max_size=1, max_wait_s=0.4) as pool, pool.lease():
        began = now()
        with pytest.raises(TimedOutWaiting):
            async with pool.lease():
                pass
        assert now() == pytest.approx(began + 0.4)


@virtual
async def test_the_more_urgent_lease_goes_first():
    order = []

    async def call(pool, priority):
        async with pool.lease(priority=priority):
            order.append(priority)

    async with make(max_size=1) as pool:
        async with pool.lease(), asyncio.TaskGroup() as callers:
            for priority in (5, 1, 3):
                callers.create_task(call(pool, priority))
            await asyncio.sleep(0)
            callers.create_task(_end(pool))
        assert order == [1, 3, 5]


async def _end(pool) -> None:
    """Frees the only instance by losing it, so that the block around need not end."""
    (instance,) = pool.live()
    instance.channel.crash()


@virtual
async def test_d32_d83_a_full_queue_refuses_with_a_hint():
    async with make(max_size=1, max_waiting=1) as pool:
        await pool.ensure(1)
        ask(pool)
        ask(pool)
        with pytest.raises(QueueFull) as refusal:
            async with pool.lease():
                pass
        assert refusal.value.retry_after_s
        await pool.close(drain_s=0.0)


@virtual
async def test_a_caller_whose_callback_raises_harms_nobody_else(caplog):
    def bad(_):
        raise ZeroDivisionError("a faulty caller")

    async with make(max_size=1) as pool:
        await pool.ensure(1)
        first, faulty, last = ask(pool), Asked(), Asked()
        faulty.waiter.granted = bad
        pool.ask(faulty.waiter)
        pool.ask(last.waiter)
        pool.release(first.lease)
        assert last.leases
        assert "a faulty caller" in caplog.text
        pool.release(last.lease)
        assert pool.stats().in_use == 0


@virtual
async def test_a_caller_that_gives_back_and_then_raises_gives_back_once(caplog):
    async with make(max_size=1) as pool:
        await pool.ensure(1)
        asked = Asked()

        def hasty(lease):
            pool.release(lease)
            raise ZeroDivisionError

        asked.waiter.granted = hasty
        pool.ask(asked.waiter)
        assert pool.stats().available == 1
        assert "raised" in caplog.text


@virtual
async def test_calls_that_end_at_once_do_not_deepen_the_stack():
    async with make(max_size=1) as pool:
        await pool.ensure(1)
        first, ended = ask(pool), []

        def at_once(lease):
            ended.append(1)
            pool.release(lease)

        for _ in range(900):
            asked = Asked()
            asked.waiter.granted = at_once
            pool.ask(asked.waiter)
        pool.release(first.lease)
        assert len(ended) == 900


# --- shrinking, replacing, losing ---


@virtual
async def test_d22_the_tick_restores_min_size_whatever_the_usage():
    starts = FakeStarts()
    async with make(starts, min_size=3, max_size=8) as pool:
        for instance in tuple(starts.made):
            instance.crash()
        assert pool.stats().total == 0
        await asyncio.sleep(0.15)
        assert pool.stats().total == len(starts.alive) == 3
        assert pool.stats().scale_up_count == 0


@virtual
async def test_d22_what_is_worn_is_replaced_in_the_same_tick():
    starts = FakeStarts()
    scaling = ScalingSettings(scale_interval_s=10)
    async with make(starts, scaling=scaling, min_size=2, max_size=8, max_age_s=10) as pool:
        old = list(starts.made)
        await asyncio.sleep(10.1)
        assert pool.stats().total == 2
        assert not any(instance.alive for instance in old)


@virtual
async def test_d27_shrinking_leaves_what_is_in_use():
    starts = FakeStarts()
    async with make(starts, min_size=0, max_size=8) as pool:
        held = [ask(pool) for _ in range(8)]
        await until(lambda: all(asked.leases for asked in held))
        for asked in held[1:]:
            pool.release(asked.lease)
        await asyncio.sleep(2.0)
        assert held[0].lease.channel.alive
        assert held[0].lease.channel in starts.alive
        assert pool.stats().in_use == 1


@virtual
async def test_d26_d89_idle_timeout_retires_and_counts_what_it_retired():
    events = []
    async with make(
        scaling=ScalingSettings(scale_interval_s=1, scale_down_cooldown_s=1e6),
        min_size=1,
        idle_timeout_s=5,
        pool_options={"on_event": events.append},
    ) as pool:
        await pool.ensure(4)
        await asyncio.sleep(4.5)
        assert pool.stats().total == 4
        await asyncio.sleep(1.0)
        assert pool.stats().total == 1
        await asyncio.sleep(20.0)
        assert pool.stats().scale_down_count == 1
        (step,) = (event for event in events if isinstance(event, PoolScaled))
        assert (step.direction, step.size) == ("down", 1)
        assert step.reason in pool.stats().last_decision


@virtual
async def test_a_lost_instance_is_told_and_its_lease_can_still_be_given_back():
    events = []
    async with make(max_size=1, pool_options={"on_event": events.append}) as pool:
        await pool.ensure(1)
        asked, waiter = ask(pool), ask(pool)
        asked.lease.channel.crash()
        pool.lost(asked.lease.instance, InstanceLost("told twice"))
        await asyncio.sleep(0.1)
        assert waiter.leases
        pool.release(asked.lease)
        assert pool.stats().in_use == 1
        ended = [event for event in events if isinstance(event, InstanceEnded)]
        assert [(event.reason, event.expected) for event in ended] == [
            ("crashed on purpose", False)
        ]
        assert sum(isinstance(event, InstanceStarted) for event in events) == 2
        pool.release(waiter.lease)


@virtual
@pytest.mark.parametrize(("stop_s", "obeys"), [(1e6, True), (0.0, False)])
async def test_an_instance_that_does_not_end_when_told_is_killed(stop_s, obeys, caplog):
    starts = FakeStarts()
    pool = make(starts)
    await pool.ensure(1)
    (instance,) = starts.made
    instance.stop_s, instance.stops_when_told = stop_s, obeys
    await pool.close()
    assert instance.killed
    assert "was killed" in caplog.text
    assert now() <= 2 * STOP_GRACE_S


# --- health ---


@virtual
async def test_d92_a_sick_instance_is_kept_away_from_calls_and_then_replaced():
    starts = FakeStarts()
    sizes = {"min_size": 1, "max_size": 1, "health_check_interval_s": 1}
    async with make(starts, **sizes) as pool:
        (sick,) = starts.made
        sick.healthy = False
        await asyncio.sleep(1.1)
        assert [view.state for view in pool.instances()] == [InstanceState.UNHEALTHY]
        assert pool.stats().total == 0
        waiter = ask(pool)
        assert waiter.waits
        await until(lambda: waiter.leases, within_s=3.0)
        assert sick.pings == 3
        assert not sick.alive
        pool.release(waiter.lease)


@virtual
async def test_d92_a_success_makes_it_well_again():
    starts = FakeStarts()
    async with make(starts, min_size=1, max_size=1, health_check_interval_s=1) as pool:
        starts.made[0].healthy = False
        await asyncio.sleep(2.1)
        waiter = ask(pool)
        starts.made[0].healthy = True
        await asyncio.sleep(1.0)
        assert waiter.lease.channel is starts.made[0]
        pool.release(waiter.lease)


@virtual
async def test_d92_checks_run_at_once_and_each_has_a_limit():
    starts = FakeStarts()
    pool = make(starts, max_size=20, health_check_timeout_s=2)
    await pool.ensure(20)
    for instance in starts.made:
        instance.ping_s = 1.5
    began = now()
    await pool.check_health()
    assert now() == pytest.approx(began + 1.5)
    assert pool.stats().available == 20
    starts.made[0].ping_s = 1e6
    await pool.check_health()
    assert now() == pytest.approx(began + 3.5)
    assert pool.stats().available == 19
    await pool.close()


@virtual
async def test_a_busy_instance_is_not_asked_and_a_call_that_came_between_voids_the_answer():
    starts = FakeStarts()
    pool = make(starts, max_size=1)
    await pool.ensure(1)
    (instance,) = starts.made
    asked = ask(pool)
    await pool.check_health()
    assert instance.pings == 0
    pool.release(asked.lease)
    instance.healthy, instance.ping_s = False, 1.0
    checking = asyncio.create_task(pool.check_health())
    await asyncio.sleep(0.5)
    pool.release(ask(pool).lease)
    await checking
    assert pool.stats().available == 1
    await pool.close()


# --- figures ---


@virtual
async def test_d29_waits_are_those_of_the_served_with_time_outs_apart():
    async with make(max_size=1) as pool:
        async with pool.lease():
            for _ in range(3):
                with pytest.raises(TimedOutWaiting):
                    async with pool.lease(timeout_s=0.1):
                        pass
        stats = pool.stats()
        assert (stats.total_requests, stats.timed_out, stats.failures) == (4, 3, 0)
        assert stats.avg_wait_ms == stats.p95_wait_ms == 0.0


@virtual
async def test_d35_d25_steps_are_counted_and_the_last_decision_has_its_reason():
    async with make(scaling=ScalingSettings(scale_interval_s=1), min_size=1) as pool:
        await asyncio.sleep(1.5)
        assert pool.stats().last_decision.startswith("stay at 1: usage 0.00")
        held = [ask(pool), ask(pool)]
        await asyncio.sleep(0.1)
        assert (pool.stats().scale_up_count, pool.stats().scale_down_count) == (1, 0)
        assert pool.stats().last_decision == "up to 2: callers found nothing idle"
        for asked in held:
            pool.release(asked.lease)


@virtual
async def test_d25_the_cool_down_runs_from_steps_on_demand_too():
    scaling = ScalingSettings(scale_interval_s=1, scale_down_cooldown_s=10)
    async with make(scaling=scaling, min_size=0) as pool:
        await asyncio.sleep(4.5)
        async with pool.lease():
            pass
        await asyncio.sleep(9.0)
        assert pool.stats().total == 1
        await asyncio.sleep(2.0)
        assert pool.stats().total == 0


@virtual
async def test_d38_d90_every_figure_is_read_off_the_same_instances():
    async with make(min_size=1, max_size=4, max_concurrent_requests=2) as pool:
        await pool.ensure(4)
        held = [ask(pool) for _ in range(5)]
        stats, views = pool.stats(), pool.instances()
        assert stats.total == stats.in_use + stats.available == len(views) == 4
        assert sum(view.in_flight for view in views) == 5
        assert (pool.spare, pool.starting, len(pool.live())) == (3, 0, 4)
        for asked in held:
            pool.release(asked.lease)
        assert pool.stats().available == 4
        assert 0 <= pool.stats().utilization <= 1


@virtual
async def test_d77_an_instance_has_one_id_everywhere():
    events, starts = [], FakeStarts()
    options = {"on_event": events.append, "version": 7}
    async with make(starts, scaling=ScalingSettings(), pool_options=options) as pool:
        async with pool.lease() as channel:
            await asyncio.sleep(1.0)
            (view,) = pool.instances()
        assert (view.instance_id, view.pid, view.origin) == (channel.id, channel.pid, "blank")
        assert (view.task_name, view.version, view.uses) == ("hello", 7, 1)
        assert view.state is InstanceState.RUNNING or view.state is InstanceState.BUSY
        assert view.age_s == pytest.approx(1.0)
    ids = {e.instance_id for e in events if isinstance(e, InstanceStarted | InstanceEnded)}
    assert ids == {channel.id}


@virtual
async def test_d78_instances_that_are_gone_leave_nothing_behind():
    starts = FakeStarts()
    async with make(starts, max_size=2, max_uses=1) as pool:
        for _ in range(200):
            async with pool.lease():
                pass
        await asyncio.sleep(1.0)
        assert starts.begun == 200
        assert pool.instances() == []
        assert starts.alive == []


@virtual
async def test_an_instance_that_is_starting_is_not_shown_as_an_instance():
    async with make(FakeStarts(start_s=1.0)) as pool:
        ask(pool)
        assert (pool.instances(), pool.stats().starting, pool.stats().total) == ([], 1, 0)
        await pool.close(drain_s=0.0)


# --- resizing, handing over, closing ---


@virtual
async def test_resizing_returns_when_the_new_size_is_there():
    async with make(FakeStarts(start_s=0.5), max_size=4) as pool:
        await pool.resize(3, 5)
        assert now() == pytest.approx(0.5)
        assert pool.stats().available == 3
        await pool.resize(0, 1)
        assert pool.stats().total == 1
        assert (pool.settings.min_size, pool.settings.max_size) == (0, 1)


@virtual
@pytest.mark.parametrize(("smallest", "largest"), [(2, 1), (-1, 1), (0, 0)])
async def test_d33_impossible_sizes_are_refused_and_change_nothing(smallest, largest):
    async with make(min_size=1, max_size=4) as pool:
        with pytest.raises(SettingInvalid):
            await pool.resize(smallest, largest)
        assert (pool.settings.min_size, pool.settings.max_size) == (1, 4)


@virtual
async def test_a_closed_pool_is_not_resized():
    starts = FakeStarts()
    pool = make(starts)
    await pool.close()
    with pytest.raises(PoolClosed):
        await pool.resize(2, 4)
    await asyncio.sleep(1.0)
    assert starts.begun == 0


@virtual
async def test_waiters_are_handed_over_and_leases_go_back_to_where_they_are_from():
    old, new = make(max_size=1), make(max_size=1)
    await old.ensure(1)
    await new.ensure(1)
    asked, moved = ask(old), ask(old)
    cancelled = ask(old)
    new.adopt(old.take_waiters())
    assert moved.leases
    assert new.withdraw(cancelled.waiter)
    assert not old.withdraw(cancelled.waiter)
    moved.waiter.pool.release(moved.lease)
    old.release(asked.lease)
    assert (old.stats().in_use, new.stats().in_use) == (0, 0)
    await old.close()
    await new.close()


@virtual
async def test_a_lease_that_was_handed_over_goes_back_to_the_pool_that_gave_it():
    old, new = make(max_size=1), make(max_size=1)
    await old.ensure(1)
    await new.ensure(1)
    asked, used = ask(old), []

    async def call():
        async with old.lease() as channel:
            used.append(channel)

    calling = asyncio.create_task(call())
    await asyncio.sleep(0)
    new.adopt(old.take_waiters())
    await calling
    assert used
    assert new.stats().in_use == 0
    old.release(asked.lease)
    await old.close()
    await new.close()


@virtual
async def test_d27_closing_waits_for_what_is_in_use_and_ends_the_rest_at_once():
    starts = FakeStarts()
    pool = make(starts, max_size=2)
    await pool.ensure(2)
    asked = ask(pool)
    closing = asyncio.create_task(pool.close(drain_s=30.0))
    await asyncio.sleep(5.0)
    assert starts.alive == [asked.lease.channel]
    assert not closing.done()
    pool.release(asked.lease)
    await closing
    assert now() == pytest.approx(5.0)
    assert starts.alive == []
    assert not asked.lease.channel.killed


@virtual
async def test_d27_what_outlasts_the_drain_is_killed_and_may_still_be_given_back():
    starts, events = FakeStarts(), []
    pool = make(starts, pool_options={"on_event": events.append})
    await pool.ensure(1)
    asked = ask(pool)
    await pool.close(drain_s=3.0)
    assert now() == pytest.approx(3.0)
    assert asked.lease.channel.killed
    assert [event.expected for event in events if isinstance(event, InstanceEnded)] == [True]
    pool.release(asked.lease)
    assert pool._gate.lent == 0


@virtual
async def test_d28_closing_gives_every_waiter_an_error_and_refuses_new_callers():
    pool = make(max_size=1)
    await pool.ensure(1)
    asked = ask(pool)
    waiters = [ask(pool), ask(pool, fresh=True)]
    leasing = asyncio.create_task(pool.lease().__aenter__())
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    assert all(isinstance(waiter.error, PoolClosed) for waiter in waiters)
    with pytest.raises(PoolClosed):
        await leasing
    assert isinstance(ask(pool).error, PoolClosed)
    assert pool.stats().failures == 4
    pool.release(asked.lease)
    await closing
    await pool.close()
    await pool.close()


@virtual
async def test_d28_a_second_more_impatient_close_ends_the_first():
    pool = make()
    await pool.ensure(1)
    ask(pool)
    patient = asyncio.create_task(pool.close(drain_s=1000.0))
    await asyncio.sleep(1.0)
    await pool.close(drain_s=0.0)
    await patient
    assert now() == pytest.approx(1.0)


@virtual
async def test_a_start_under_way_is_given_up_at_the_end_of_the_drain():
    starts = FakeStarts(start_s=100.0)
    pool = make(starts)
    asked = ask(pool)
    await asyncio.sleep(1.0)
    await pool.close(drain_s=2.0)
    assert isinstance(asked.error, PoolClosed)
    assert now() == pytest.approx(3.0)
    assert starts.made == []


@virtual
async def test_a_start_that_does_not_let_itself_be_cancelled_is_ended_when_it_is_done():
    starts = FakeStarts()

    async def stubborn():
        try:
            await asyncio.sleep(5.0)
        except asyncio.CancelledError:
            await asyncio.sleep(1.0)
        return await starts()

    pool = make(stubborn)
    ask(pool)
    await asyncio.sleep(1.0)
    await pool.close(drain_s=0.0)
    assert [instance.killed for instance in starts.made] == [True]
    assert pool.stats().total == 0


@virtual
async def test_a_start_that_fails_after_it_was_given_up_changes_nothing():
    async def stubborn():
        try:
            await asyncio.sleep(5.0)
        except asyncio.CancelledError:
            raise StartFailed("cut short") from None

    pool = make(stubborn)
    ask(pool)
    await asyncio.sleep(1.0)
    await pool.close(drain_s=0.0)
    assert pool.stats().failed_starts == 1


@virtual
async def test_a_stop_under_way_is_cut_short_at_the_end_of_the_drain():
    starts = FakeStarts()
    pool = make(starts)
    await pool.ensure(1)
    starts.made[0].stop_s = 1.5
    await pool.close(drain_s=0.5)
    assert now() == pytest.approx(0.5)
    assert starts.made[0].killed


@virtual
async def test_d91_closing_ends_every_loop_and_timer():
    starts = FakeStarts()
    async with make(starts, min_size=2, max_size=4, max_wait_s=9.0) as pool:
        held = [ask(pool) for _ in range(9)]
        await asyncio.sleep(1.0)
        for asked in held:  # those behind are served as those before them give back
            pool.release(asked.lease)
    assert len(asyncio.all_tasks()) == 1
    assert starts.alive == []
    pool.tick()
    assert pool.stats().total == 0


@virtual
async def test_evicting_makes_way_and_those_who_wait_get_another():
    starts = FakeStarts()
    async with make(starts, max_size=2) as pool:
        await pool.ensure(2)
        pool.evict(pool.live()[0])
        await asyncio.sleep(0.05)
        assert pool.stats().total == len(starts.alive) == 1


# --- settings ---


@pytest.mark.parametrize(
    ("group", "values"),
    [
        (PoolSettings, {"min_size": 5, "max_size": 4}),
        (PoolSettings, {"min_size": -1}),
        (PoolSettings, {"max_size": 0}),
        (PoolSettings, {"max_concurrent_requests": 0}),
        (PoolSettings, {"max_wait_s": -1.0}),
        (PoolSettings, {"max_wait_s": float("nan")}),
        (PoolSettings, {"idle_timeout_s": 0.0}),
        (PoolSettings, {"health_check_interval_s": 0.0}),
        (ScalingSettings, {"scale_interval_s": 0.0}),
        (ScalingSettings, {"scale_interval_s": float("nan")}),
        (ScalingSettings, {"scale_down_threshold": 0.8, "scale_up_threshold": 0.8}),
        (ScalingSettings, {"scale_down_threshold": -0.1}),
        (ScalingSettings, {"scale_up_threshold": 1.1}),
        (ScalingSettings, {"scale_down_cooldown_s": -1.0}),
        (ScalingSettings, {"target_utilization": 1.5}),
        (ScalingSettings, {"panic_window_s": 61.0}),
    ],
)
def test_d33_settings_that_make_no_sense_are_refused(group, values):
    with pytest.raises((ValueError, SettingInvalid)):
        group(**values)


@virtual
async def test_d87_the_policies_named_in_the_settings_are_the_ones_that_decide():
    scaling = ScalingSettings(policy="target_concurrency", scale_interval_s=1.0)
    async with make(scaling=scaling, policy="most_recently_used", max_size=20) as pool:
        await pool.ensure(3)
        held = [ask(pool) for _ in range(3)]
        await asyncio.sleep(1.0)
        assert "ask for 5" in pool.stats().last_decision
        for asked in held:
            await asyncio.sleep(0.01)
            pool.release(asked.lease)
        used = []
        for _ in range(3):
            async with pool.lease() as channel:
                await asyncio.sleep(0.01)
                used.append(channel.id)
        assert len(set(used)) == 1
