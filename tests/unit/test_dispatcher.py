"""Durable executions on scripted instances, a queue in memory and a clock that jumps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from atlatl.core.following import MAX_RECOVERIES
from atlatl.engine.acceptance import Acceptance
from atlatl.engine.attempts import GIVES_WAY_S
from atlatl.engine.dispatcher import Dispatcher
from atlatl.engine.ledger import LEASE_S
from atlatl.engine.lines import AHEAD_S, MAX_AHEAD, PACE_S, Line
from atlatl.engine.pool import InstancePool
from atlatl.errors import Conflict, Draining, InvalidRequest, QueueFull, TaskNotFound
from atlatl.events import AttemptFailed, ExecutionAccepted, ExecutionDied, ExecutionFinished
from atlatl.model import Call, Event, Execution, ExecutionStatus, Mode
from atlatl.settings import LimitSettings, Settings
from tests.scripted import House
from tests.virtual_time import virtual

DONE, FAILED, WAITS = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.PENDING
CANCELLED, TIMEOUT = ExecutionStatus.CANCELLED, ExecutionStatus.TIMEOUT


class Durable:
    """A house with a dispatcher."""

    def __init__(
        self, settings: Settings | None = None, *, store: Any = None, **overrides: Any
    ) -> None:
        self.house = House(settings, store=store, **overrides)
        self.notified = 0
        house = self.house
        self.dispatcher = Dispatcher(
            house.store.queue,
            house.registry,
            house.manager,
            house.executions,
            house,
            clock=house.clock,
            steady=house.clock,
            chance=lambda: 0.5,
            dead_letter_retention_s=1e6,
            settled=self._settled,
        )
        self.acceptance = Acceptance(
            house.settings,
            house.manager,
            house.executions,
            self.dispatcher,
            house,
            clock=house.clock,
            wall=house.clock,
            steady=house.clock,
        )

    def _settled(self) -> None:
        self.notified += 1

    async def open(self) -> Durable:
        await self.house.opening
        await self.dispatcher.open()
        return self

    async def submit(self, s: float = 0.0, then: str = "ok", **options: Any) -> str:
        call = Call(
            execution_id=options.pop("execution_id", "") or f"e{next(self.house._ids)}",
            task_name=options.pop("task_name", "task"),
            payload=Event(value={"s": s, "then": then}),
            mode=Mode.ASYNC,
            **options,
        )
        return (await self.acceptance.accept(call)).execution_id

    async def end_of(self, execution_id: str, within_s: float = 60.0) -> Execution:
        return await self.house.executions.ended(execution_id, within_s)

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.house.events if isinstance(event, kind)]

    @property
    def attempts(self) -> list[int]:
        return [number for channel in self.house.channels for number in channel.attempts]


async def durable(*args: Any, **kwargs: Any) -> Durable:
    return await Durable(*args, **kwargs).open()


@virtual
async def test_an_accepted_execution_is_stored_run_and_counted_once() -> None:
    it = await durable()
    execution_id = await it.submit(0.5)
    stored = await it.house.store.execution(execution_id)
    assert stored is not None
    assert stored.execution.status is WAITS
    record = await it.end_of(execution_id)
    assert (record.status, record.attempt, record.mode) == (DONE, 1, Mode.ASYNC)
    assert record.outcome is not None and record.outcome.result is not None
    finished = it.told(ExecutionFinished)
    assert [event.execution.execution_id for event in finished] == [execution_id]
    assert finished[0].latency_s == pytest.approx(0.5, abs=0.01)
    assert len(it.told(ExecutionAccepted)) == 1
    assert it.dispatcher.pending == it.house.gate.lent == it.house.bytes.held == 0


@virtual
async def test_what_there_is_no_room_for_waits_in_the_store_and_never_in_the_pool() -> None:
    it = await durable(pool={"max_size": 2})
    ids = [await it.submit(1.0) for _ in range(10)]
    await asyncio.sleep(0.5)
    stats = it.house.deployed.pool.stats()
    assert (stats.in_use, stats.waiting) == (2, 0)
    assert {(await it.end_of(one)).status for one in ids} == {DONE}
    assert len(it.attempts) == 10


@pytest.mark.parametrize(("short", "beside"), [(True, 2), (False, 8)])
@virtual
async def test_short_executions_give_way_to_calls_that_somebody_waits_for(
    monkeypatch: pytest.MonkeyPatch, short: bool, beside: int
) -> None:
    monkeypatch.setattr(InstancePool, "few", property(lambda _: 2 if short else None))
    it = await durable(pool={"max_size": 8})
    other = it.house.deploy("other")
    await asyncio.gather(*(it.submit(0.01) for _ in range(500)))
    pool = it.house.deployed.pool

    async def most(seconds: float, *, calling: bool) -> int:
        """Executions of the queue at once, with a call of another task every 10 ms or none."""
        found, end = 0, it.house.clock() + seconds
        while it.house.clock() < end:
            if calling:
                assert (await it.house.run(s=0.009, task_name="other")).status is DONE
            await asyncio.sleep(0.001)
            found = max(found, pool.stats().in_use)
        return found

    assert await most(0.2, calling=False) == 8
    await it.house.run(task_name="other")  # an instance of it is up
    await most(0.05, calling=True)
    assert await most(0.2, calling=True) == beside
    await asyncio.sleep(GIVES_WAY_S)
    assert await most(0.2, calling=False) == 8
    assert other.pool.stats().in_use == 0
    while it.dispatcher.pending:
        await asyncio.sleep(0.1)
    ended = [event for event in it.told(ExecutionFinished) if event.task_name == "task"]
    assert len(ended) == 500


@virtual
async def test_a_failed_attempt_is_followed_by_another_until_max_retries() -> None:
    it = await durable(breaker={"enabled": False})
    record = await it.end_of(await it.submit(0.1, "raise", max_retries=2))
    assert (record.status, record.attempt) == (FAILED, 3)
    assert it.attempts == [1, 2, 3]
    retries = it.told(AttemptFailed)
    assert [event.attempt for event in retries] == [1, 2]
    assert [event.retry_in_s for event in retries] == pytest.approx([0.1, 0.2])
    assert len(it.told(ExecutionFinished)) == len(it.told(ExecutionDied)) == 1
    letters = await it.house.store.queue.dead_letters(before=None, limit=9)
    assert [letter.execution.execution_id for letter in letters] == [record.execution_id]


@virtual
async def test_an_open_breaker_uses_up_no_attempt() -> None:
    it = await durable(breaker={"failure_threshold": 1, "timeout_s": 20.0})
    bad = await it.end_of(await it.submit(0.1, "raise"))
    assert bad.status is FAILED
    good = await it.submit(0.1)
    await asyncio.sleep(10)
    assert (await it.house.executions.get(good)).status is WAITS
    record = await it.end_of(good)
    assert (record.status, record.attempt) == (DONE, 1)


@virtual
async def test_not_before_waits_and_priority_orders_what_is_ready() -> None:
    it = await durable(pool={"max_size": 1})
    start = it.house.clock()
    later = await it.submit(0.0, not_before=start + 30)
    blocker = await it.submit(1.0)
    low = await it.submit(0.1, priority=7)
    high = await it.submit(0.1, priority=0)
    assert (await it.end_of(blocker)).status is DONE
    first, last = await it.end_of(high), await it.end_of(low)
    assert first.completed_at is not None and last.completed_at is not None
    assert first.completed_at < last.completed_at < start + 5
    record = await it.end_of(later)
    assert record.started_at is not None
    assert record.started_at >= start + 30


@virtual
async def test_what_expires_while_it_waits_or_runs_ends_as_a_time_out() -> None:
    it = await durable(pool={"max_size": 1}, expires_after_s=5.0)
    running = await it.submit(0.0, "hang", timeout_ms=60_000)
    waiting = await it.submit(0.0)
    ended = [await it.end_of(one) for one in (running, waiting)]
    assert [record.status for record in ended] == [TIMEOUT, TIMEOUT]
    assert len(await it.house.store.queue.dead_letters(before=None, limit=9)) == 2


@virtual
async def test_cancel_at_any_moment_ends_once_and_leaves_no_dead_letter() -> None:
    it = await durable(pool={"max_size": 1})
    running = await it.submit(0.0, "hang")
    await asyncio.sleep(0.2)
    in_line = await it.submit(1.0)
    stored = [await it.submit(1.0) for _ in range(5)]
    delayed = await it.submit(1.0, not_before=it.house.clock() + 100)
    ids = [running, in_line, *stored, delayed]
    assert await asyncio.gather(*(it.dispatcher.cancel(one) for one in ids)) == [True] * 8
    assert {(await it.house.executions.get(one)).status for one in ids} == {CANCELLED}
    assert await it.dispatcher.cancel(running) is False
    assert await it.house.store.queue.dead_letters(before=None, limit=9) == []
    assert it.dispatcher.pending == 0
    await asyncio.sleep(1)
    assert it.house.gate.lent == it.house.bytes.held == 0


@virtual
async def test_the_same_id_again_is_the_first_execution_async_and_sync() -> None:
    it = await durable()
    mine: dict[str, Any] = {"execution_id": "mine", "id_given": True}
    assert await it.submit(1.0, **mine) == await it.submit(1.0, **mine) == "mine"
    with pytest.raises(Conflict):
        await it.submit(2.0, **mine)
    answer = await it.house.run("ok", 1.0, **mine)
    assert (answer.status, answer.mode) == (DONE, Mode.ASYNC)
    assert await it.submit(1.0, **mine) == "mine"
    assert it.attempts == [1]
    other = await it.house.run("ok", 2.0, **mine)
    assert other.outcome is not None and isinstance(other.outcome.error, Conflict)


@virtual
async def test_a_sync_caller_under_the_id_of_one_that_waits_keeps_its_own_deadline() -> None:
    it = await durable()
    mine: dict[str, Any] = {"execution_id": "mine", "id_given": True}
    await it.submit(0.0, not_before=it.house.clock() + 50, **mine)
    began = it.house.clock()
    impatient = await it.house.run("ok", 0.0, timeout_ms=200, **mine)
    assert impatient.status is TIMEOUT
    assert it.house.clock() - began == pytest.approx(0.2, abs=0.02)
    patient = await it.house.run("ok", 0.0, timeout_ms=100_000, **mine)
    assert patient.status is DONE
    assert it.attempts == [1]
    assert it.house.bytes.held == it.house.deployed.running == 0


@virtual
async def test_what_is_wrong_is_refused_before_anything_is_stored() -> None:
    settings = Settings(limits=LimitSettings(max_durable_pending=2))
    it = await durable(settings, pool={"max_size": 1})
    for refusal, options in (
        (TaskNotFound, {"task_name": "other"}),
        (InvalidRequest, {"execution_id": "a b"}),
        (InvalidRequest, {"timeout_ms": -1}),
        (InvalidRequest, {"function": "nope"}),
        (InvalidRequest, {"callback_url": "http://127.0.0.1/"}),
        (InvalidRequest, {"max_retries": -1}),
    ):
        with pytest.raises(refusal):
            await it.submit(**options)
    first = await it.submit(0.0, "hang", execution_id="mine", id_given=True)
    await it.submit(0.0, "hang")
    with pytest.raises(QueueFull) as full:
        await it.submit()
    assert full.value.retry_after_s
    assert await it.submit(0.0, "hang", execution_id="mine", id_given=True) == first
    it.house.manager.begin_drain(1.0)
    with pytest.raises(Draining):
        await it.submit()
    assert it.dispatcher.pending == 2


@virtual
async def test_the_end_of_the_service_is_a_recovery_and_uses_no_retry() -> None:
    it = await durable(pool={"max_size": 1})
    running, waiting = await it.submit(5.0), await it.submit(0.0)
    await asyncio.sleep(1)
    it.house.manager.begin_drain(0)
    it.dispatcher.begin_drain()
    await it.house.manager.drained(0)
    await it.dispatcher.close()
    again = await durable(store=it.house.store)
    records = [await again.end_of(one) for one in (running, waiting)]
    assert [(record.status, record.attempt) for record in records] == [(DONE, 2), (DONE, 1)]


@virtual
async def test_after_a_crash_what_was_leased_runs_again_and_is_given_up_in_the_end() -> None:
    it = await durable()
    execution_id = await it.submit(0.0, "hang")
    for life in range(1, MAX_RECOVERIES + 1):
        await asyncio.sleep(0.2)
        record = await it.house.executions.get(execution_id)
        assert (record.status, record.attempt) == (ExecutionStatus.RUNNING, life)
        it = await durable(store=it.house.store)  # the one before is just left: it crashed
    await asyncio.sleep(0.2)
    it = await durable(store=it.house.store)
    record = await it.house.executions.get(execution_id)
    assert record.status is FAILED
    assert record.outcome is not None and record.outcome.error is not None
    assert record.outcome.error.code == "INSTANCE_LOST"


@virtual
async def test_a_dead_letter_can_be_redriven_under_its_id() -> None:
    it = await durable(breaker={"enabled": False})
    execution_id = await it.submit(0.0, "raise")
    assert (await it.end_of(execution_id)).status is FAILED
    assert await it.dispatcher.redrive("nobody") is None
    redriven = await it.dispatcher.redrive(execution_id)
    assert redriven is not None and redriven.status is WAITS
    record = await it.end_of(execution_id)
    assert (record.status, record.attempt) == (FAILED, 2)


@virtual
async def test_leases_are_extended_while_the_work_goes_on() -> None:
    it = await durable(pool={"max_size": 1})
    at_once = await it.submit(1.5 * LEASE_S, timeout_ms=900_000)
    from_the_store = await it.submit(3 * LEASE_S, timeout_ms=900_000)
    for execution_id in (at_once, from_the_store):
        record = await it.end_of(execution_id, 4 * LEASE_S)
        assert (record.status, record.attempt) == (DONE, 1)
    assert it.attempts == [1, 1]


@virtual
async def test_a_lease_that_nobody_holds_is_taken_back() -> None:
    it = await durable(pool={"max_size": 1})
    await it.submit(0.0, "hang", timeout_ms=1000)
    execution_id = await it.submit(0.0)
    queue = it.house.store.queue
    assert await queue.take(execution_id, until=it.house.clock() + LEASE_S) is not None
    record = await it.end_of(execution_id, 3 * LEASE_S)
    assert (record.status, record.attempt) == (DONE, 2)


@virtual
async def test_a_deleted_task_leaves_dead_letters_that_say_why() -> None:
    it = await durable()
    execution_id = await it.submit(0.0, not_before=it.house.clock() + 10)
    it.house.registry.remove(it.house.deployed)
    record = await it.end_of(execution_id)
    assert record.outcome is not None and isinstance(record.outcome.error, TaskNotFound)
    letters = await it.house.store.queue.dead_letters(before=None, limit=9)
    assert [letter.execution.execution_id for letter in letters] == [execution_id]


@virtual
async def test_cancelling_all_of_a_task_leaves_others_alone() -> None:
    it = await durable(pool={"max_size": 1})
    it.house.deploy("other")
    mine = [await it.submit(1.0) for _ in range(250)]
    other = await it.submit(1.0, task_name="other")
    assert await it.dispatcher.cancel_all("task", "gone") == 250
    assert {(await it.house.executions.get(one)).status for one in mine} == {CANCELLED}
    assert (await it.end_of(other)).status is DONE


@virtual
async def test_somebody_to_be_told_is_told() -> None:
    it = await durable()
    url = "https://example.org/hook"
    execution_id = await it.submit(0.0, callback_url=url, traceparent="")
    await it.end_of(execution_id)
    (callback,) = await it.house.store.queue.callbacks(now=it.house.clock(), limit=9)
    assert (callback.execution_id, callback.url, it.notified) == (execution_id, url, 1)


@virtual
async def test_a_new_version_runs_what_waited() -> None:
    it = await durable()
    execution_id = await it.submit(0.0, not_before=it.house.clock() + 10)
    it.house.deployed.task = replace(it.house.deployed.task, version=7)
    assert (await it.end_of(execution_id)).version == 7


def test_a_line_leases_ahead_what_its_task_does_in_a_while() -> None:
    line, now = Line("task"), 100.0

    def work(pace: float, seconds: float) -> None:
        nonlocal now
        for _ in range(round(pace * seconds)):
            now += 1 / pace
            line.running += 1
            line.note_end(now)

    assert line.appetite(2) == 2
    work(400.0, 2 * PACE_S)
    ahead = round(400 * AHEAD_S)
    assert line.appetite(2) == pytest.approx(2 + ahead, abs=1)
    assert line.appetite(2, 5) == 7
    work(100_000.0, 2 * PACE_S)
    assert line.appetite(2) == 2 + MAX_AHEAD
    line.look(now + 10.0)  # nothing has ended for long
    line.look(now + 20.0)
    assert line.appetite(2) == 2
    assert line.running == 0
