"""What records keep of the way of a call: only where there is something to say."""

from __future__ import annotations

import asyncio

import pytest

from atlatl.engine.trail import MAX_TRIED
from atlatl.errors import QueueFull, TimedOutWaiting
from atlatl.model import ExecutionStatus
from tests.scripted import House
from tests.unit.test_dispatcher import durable
from tests.virtual_time import virtual


@virtual
async def test_of_a_call_that_finds_a_warm_instance_idle_nothing_is_kept() -> None:
    house = House()
    await house.run()
    done = await house.run()
    assert (done.way, done.tried) == (None, ())


@virtual
async def test_of_a_cold_start_it_keeps_what_it_took_and_where_the_process_came_from() -> None:
    house = House()
    way = (await house.run()).way
    assert way is not None
    assert (way.uses, way.origin, way.policy) == (1, "blank", "round_robin")
    assert (way.waiting, way.lent, way.size) == (0, 0, 0)
    assert way.init_s == pytest.approx(0.05)
    assert way.waited_s == pytest.approx(0.05)
    assert (way.spare_s, way.probe) == (0.0, False)


@virtual
async def test_of_the_first_call_of_an_instance_in_stock_it_keeps_how_long_that_was_ready() -> None:
    house = House()
    await house.deployed.pool.ensure(1)
    await asyncio.sleep(3.0)
    done = await house.run()
    assert done.cold_start
    assert done.way is not None
    assert (done.way.spare_s, done.way.waited_s) == (3.0, 0.0)


@virtual
async def test_of_a_call_that_waits_it_keeps_what_it_met() -> None:
    house = House(pool={"max_size": 1})
    first = house.start(house.call(s=1.0))
    second = house.start(house.call(s=1.0))
    await asyncio.sleep(0.5)
    third = await house.run()
    assert third.way is not None
    assert (third.way.waiting, third.way.lent, third.way.size) == (1, 1, 1)
    assert third.way.waited_s == pytest.approx(1.55)
    assert (third.way.uses, third.cold_start) == (3, False)
    assert {first.settled.status, second.settled.status} == {ExecutionStatus.COMPLETED}


@virtual
async def test_of_a_call_that_got_no_instance_it_keeps_why() -> None:
    house = House(pool={"max_size": 1, "max_waiting": 1})
    running, waiting = house.start(house.call("hang")), house.call(timeout_ms=500)
    await asyncio.sleep(0.2)
    late = house.start(waiting)
    refused = await house.run()
    assert refused.outcome is not None
    assert isinstance(refused.outcome.error, QueueFull)
    assert refused.way is not None
    assert (refused.way.waiting, refused.way.lent, refused.way.uses) == (1, 1, 0)
    await asyncio.sleep(1.0)
    assert isinstance(late.settled.outcome.error, TimedOutWaiting)
    assert late.settled.way.waited_s == pytest.approx(0.5, abs=0.02)
    running.cancel()
    await asyncio.sleep(1.0)


@virtual
async def test_the_call_that_tries_a_half_open_breaker_is_marked() -> None:
    house = House(breaker={"failure_threshold": 1, "timeout_s": 1.0})
    await house.run("raise")
    refused = await house.run()
    assert (refused.status, refused.way) == (ExecutionStatus.FAILED, None)
    await asyncio.sleep(1.5)
    probe = await house.run()
    assert probe.way is not None
    assert probe.way.probe


@virtual
async def test_the_attempts_before_are_kept_with_their_causes() -> None:
    house = House(retry={"max_retries": 2}, breaker={"enabled": False})
    done = await house.run("crash")
    assert done.attempt == 3
    assert [each.attempt for each in done.tried] == [1, 2]
    first = done.tried[0]
    assert (first.code, first.message) == ("INSTANCE_CRASHED", "the instance exited with 1")
    assert (first.instance_id, first.retry_in_s) == ("i0", pytest.approx(0.1))
    assert first.ended_at == pytest.approx(0.15)
    assert done.way is not None  # of the last attempt, which was a cold start
    assert done.instance_id == "i2"


@virtual
async def test_of_a_durable_execution_the_attempts_are_kept_while_it_waits_and_at_its_end() -> None:
    it = await durable(retry={"initial_backoff_s": 5.0, "jitter_ratio": 0.0})
    execution_id = await it.submit(0.1, "raise", max_retries=1)
    await asyncio.sleep(2.0)
    waits = await it.house.executions.get(execution_id)
    assert (waits.status, waits.attempt) == (ExecutionStatus.PENDING, 2)
    assert [(each.attempt, each.code) for each in waits.tried] == [(1, "EXECUTION_ERROR")]
    ended = await it.end_of(execution_id)
    assert ended.attempt == 2
    assert ended.tried == waits.tried
    assert ended.tried[0].instance_id == "i0"


@virtual
async def test_the_latest_attempts_are_kept() -> None:
    it = await durable(
        retry={"initial_backoff_s": 0.01, "multiplier": 1.0, "budget_ratio": 1.0},
        breaker={"enabled": False},
    )
    ended = await it.end_of(await it.submit(0.0, "raise", max_retries=30))
    assert ended.attempt == 31
    assert [each.attempt for each in ended.tried] == list(range(31 - MAX_TRIED, 31))


@virtual
async def test_an_attempt_that_the_end_of_the_service_cut_off_is_kept_as_such() -> None:
    it = await durable()
    execution_id = await it.submit(60.0)
    await asyncio.sleep(1.0)
    it.dispatcher.begin_drain()
    it.house.manager.begin_drain(0.0)
    await it.house.manager.drained(0.0)
    await asyncio.sleep(1.0)
    waits = await it.house.executions.get(execution_id)
    assert [(each.code, each.recovered) for each in waits.tried] == [("DRAINING", True)]
