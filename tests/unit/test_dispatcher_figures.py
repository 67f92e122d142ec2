"""What is said of durable executions: how many wait, since when, and what their records show."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from atlatl.engine.dead_letters import DeadLetters
from atlatl.engine.dispatcher import TICK_S
from atlatl.engine.ledger import LEASE_S
from atlatl.events import ExecutionDied, ExecutionFinished
from atlatl.model import ExecutionStatus, Queued, QueueDepth
from atlatl.telemetry.metrics import Metrics
from tests.unit.test_dispatcher import Durable, durable
from tests.virtual_time import virtual

DONE, FAILED, WAITS = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.PENDING
CANCELLED = ExecutionStatus.CANCELLED


def depth_of(it: Durable, task: str = "task") -> QueueDepth:
    found = [depth for depth in it.dispatcher.depths() if depth.task_name == task]
    return found[0] if found else QueueDepth(task)


def counts_of(it: Durable) -> tuple[int, int, int, int]:
    depth = depth_of(it)
    return depth.ready, depth.delayed, depth.leased, depth.dead


# --- what waits ---


@virtual
async def test_what_is_leased_ahead_and_has_no_instance_yet_waits() -> None:
    it = await durable(pool={"max_size": 2})
    for _ in range(5):
        await it.submit(0.0, "hang")
    await it.submit(0.0, not_before=it.house.clock() + 50)
    # Nothing has passed since: the counts lag behind nothing.
    assert counts_of(it) == (5, 1, 0, 0)
    assert it.dispatcher.pending == it.dispatcher.pending_of("task") == 6
    # Those that wait are counted by the queue, and nowhere else besides.
    assert it.house.deployed.pool.stats().waiting > 0
    assert (it.house.manager.pending, it.house.manager.running) == (0, 0)
    await asyncio.sleep(0.3)
    assert counts_of(it) == (3, 1, 2, 0)
    assert (it.house.manager.pending, it.house.manager.running) == (0, 2)


@virtual
async def test_the_counts_follow_every_end_at_once() -> None:
    it = await durable(pool={"max_size": 1})
    running, *waiting = [await it.submit(0.0, "hang") for _ in range(4)]
    await asyncio.sleep(1.5 * TICK_S)
    assert depth_of(it).oldest_ready_at is not None
    for left, execution_id in enumerate(waiting):
        assert await it.dispatcher.cancel(execution_id)
        assert counts_of(it) == (2 - left, 0, 1, 0)
    assert depth_of(it).oldest_ready_at is None
    assert await it.dispatcher.cancel(running)
    assert it.dispatcher.depths() == []


@virtual
async def test_only_those_that_wait_grow_old() -> None:
    it = await durable(pool={"max_size": 1})
    first = it.house.clock()
    await it.submit(100.0, timeout_ms=200_000)
    assert depth_of(it).oldest_ready_at == first
    await asyncio.sleep(10)
    assert depth_of(it).oldest_ready_at is None  # it runs, however long
    await it.submit(0.0, not_before=it.house.clock() + 20)
    second = it.house.clock()
    await it.submit(0.0)
    await it.submit(0.0)
    await asyncio.sleep(1.5 * TICK_S)
    assert depth_of(it).oldest_ready_at == second
    await asyncio.sleep(100)
    assert depth_of(it).oldest_ready_at is None
    assert it.dispatcher.pending == 0


@virtual
async def test_what_waits_behind_an_open_breaker_grows_old_while_it_is_leased() -> None:
    it = await durable(breaker={"failure_threshold": 1, "timeout_s": 60.0})
    await it.end_of(await it.submit(0.0, "raise"))
    since = it.house.clock()
    await it.submit(0.0)
    await asyncio.sleep(20)
    assert counts_of(it) == (1, 0, 0, 1)
    assert depth_of(it).oldest_ready_at == since


@virtual
async def test_a_dead_letter_that_is_deleted_is_counted_no_more() -> None:
    it = await durable(breaker={"enabled": False})
    execution_id = await it.submit(0.0, "raise")
    await it.end_of(execution_id)
    await asyncio.sleep(1.5 * TICK_S)
    assert counts_of(it) == (0, 0, 0, 1)
    letters = DeadLetters(it.house.store.queue, it.dispatcher.count_again)
    assert await letters.delete(execution_id)
    assert not await letters.delete(execution_id)
    await asyncio.sleep(1.5 * TICK_S)
    assert counts_of(it) == (0, 0, 0, 0)


# --- what must not be forgotten ---


@virtual
async def test_one_that_comes_while_others_are_woken_is_woken_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = await durable()
    queue: Any = it.house.store.queue
    wake, submitted = queue.wake, list[str]()

    async def wake_late(*, now: float) -> tuple[Sequence[str], float | None]:
        answer = await wake(now=now)
        if not submitted and now >= 5:
            submitted.append("")
            submitted[0] = await it.submit(0.0, not_before=it.house.clock() + 3)
        return answer

    monkeypatch.setattr(queue, "wake", wake_late)
    await it.submit(0.0, not_before=it.house.clock() + 5)
    await asyncio.sleep(10)
    assert (await it.house.executions.get(submitted[0])).status is DONE


@virtual
async def test_what_is_taken_back_and_not_handed_out_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = await durable(pool={"max_size": 1})
    await it.submit(0.0, "hang", timeout_ms=1000)
    execution_id = await it.submit(0.0)
    queue: Any = it.house.store.queue
    assert await queue.take(execution_id, until=it.house.clock() + LEASE_S) is not None
    recover = queue.recover

    async def recover_unread(**asked: Any) -> Sequence[tuple[Queued, bool]]:
        await recover(**asked)
        return ()  # as when its file can't be read for now

    monkeypatch.setattr(queue, "recover", recover_unread)
    record = await it.end_of(execution_id, 3 * LEASE_S)
    assert (record.status, record.attempt) == (DONE, 2)


# --- counted once ---


@virtual
async def test_a_redriven_execution_is_one_request_however_often_it_ends() -> None:
    it = await durable(breaker={"enabled": False})
    execution_id = await it.submit(0.0, "raise", max_retries=1)
    await it.end_of(execution_id)
    for ends in (2, 3):
        assert await it.dispatcher.redrive(execution_id) is not None
        assert it.dispatcher.pending == 1
        await it.end_of(execution_id)
        finished = it.told(ExecutionFinished)
        assert [event.redriven for event in finished] == [False] + [True] * (ends - 1)
    assert it.house.deployed.execution_count == 1
    metrics = Metrics(it.house.clock)
    for event in it.house.events:
        metrics.emit(event)
    stats, durable_stats = metrics.stats("task"), metrics.durable_stats("task")
    assert (stats.request_count, durable_stats.accepted_count) == (1, 1)
    assert durable_stats.died_count == len(it.told(ExecutionDied)) == 3
    assert it.dispatcher.pending == 0


@virtual
async def test_retries_and_recoveries_do_not_make_it_a_redriven_one() -> None:
    it = await durable(breaker={"enabled": False}, pool={"max_size": 1})
    retried = await it.submit(0.1, "raise", max_retries=3)
    await it.end_of(retried)
    cut_off = await it.submit(0.0, "hang")
    await asyncio.sleep(0.2)
    again = await durable(store=it.house.store)  # the one before is just left: it crashed
    await asyncio.sleep(0.2)
    assert (await again.house.executions.get(cut_off)).attempt == 2
    assert await again.dispatcher.cancel(cut_off)
    for event in (*it.told(ExecutionFinished), *again.told(ExecutionFinished)):
        assert not event.redriven


# --- records ---


@virtual
async def test_the_record_names_the_function_before_it_runs_and_no_version() -> None:
    it = await durable(pool={"max_size": 1})
    await it.submit(0.0, "hang", timeout_ms=60_000)
    in_line = await it.submit(0.0)
    delayed = await it.submit(0.0, not_before=it.house.clock() + 500)
    for execution_id in (in_line, delayed):
        for _ in range(2):
            record = await it.house.executions.get(execution_id)
            assert (record.status, record.function_name, record.version) == (WAITS, "main", 0)
            await asyncio.sleep(1)
    assert await it.dispatcher.cancel(delayed)
    record = await it.house.executions.get(delayed)
    assert (record.status, record.function_name, record.version) == (CANCELLED, "main", 0)
    record = await it.end_of(in_line, 100)
    assert (record.status, record.function_name, record.version) == (DONE, "main", 1)


@virtual
async def test_the_record_of_one_whose_task_is_gone_still_names_its_function() -> None:
    it = await durable()
    execution_id = await it.submit(0.0, not_before=it.house.clock() + 10)
    it.house.registry.remove(it.house.deployed)
    await it.end_of(execution_id)
    record = await it.house.executions.get(execution_id)
    assert (record.status, record.function_name) == (FAILED, "main")


@virtual
async def test_a_redriven_one_waits_like_a_new_one() -> None:
    it = await durable(breaker={"enabled": False}, pool={"max_size": 1})
    execution_id = await it.submit(0.0, "raise")
    assert (await it.end_of(execution_id)).version == 1
    await it.submit(0.0, "hang")
    redriven = await it.dispatcher.redrive(execution_id)
    assert redriven is not None
    stored = await it.house.executions.get(execution_id)
    assert redriven == stored
    assert (stored.status, stored.function_name, stored.version) == (WAITS, "main", 0)
