"""Calls with an id of their caller, on scripted instances, a store in memory and a clock that
jumps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atlatl.errors import (
    CircuitOpenError,
    Conflict,
    Draining,
    InstanceLost,
    StoreUnavailable,
    TimedOutWaiting,
)
from atlatl.model import Execution, ExecutionStatus, OutcomeKind
from tests.scripted import House
from tests.troubled_store import TroubledStore
from tests.virtual_time import virtual

MINE: dict[str, Any] = {"execution_id": "mine", "id_given": True}


def error_of(execution: Execution) -> Any:
    assert execution.outcome is not None
    return execution.outcome.error


def ran(house: House) -> int:
    return sum(len(channel.attempts) for channel in house.channels)


def nothing_held(house: House) -> bool:
    return house.bytes.held == house.deployed.running == house.gate.lent == 0


async def restarted(house: House, **overrides: Any) -> House:
    """Another life of the service on the same store; the first one was cut off."""
    house.manager.close()
    store = house.store.inner if isinstance(house.store, TroubledStore) else house.store
    successor = House(store=store, **overrides)
    await successor.opening
    return successor


@virtual
async def test_the_claim_is_stored_before_the_function_begins() -> None:
    store = TroubledStore()
    house = House(store=store)
    store.hold = True
    ticket = house.start(house.call(**MINE))
    await asyncio.sleep(1)
    assert (ran(house), ticket.view().status) == (0, ExecutionStatus.PENDING)
    assert house.manager.pending == 1
    store.hold = False
    await asyncio.sleep(1)
    assert ticket.settled.status is ExecutionStatus.COMPLETED
    assert ran(house) == 1
    claimed = await store.inner.execution("mine")
    assert claimed is not None
    assert claimed.fingerprint == ticket.fingerprint
    assert claimed.execution == ticket.settled


@virtual
async def test_the_deadline_runs_while_the_store_is_asked() -> None:
    store = TroubledStore()
    house = House(store=store)
    store.hold = True
    late = await house.run(timeout_ms=200, **MINE)
    assert isinstance(error_of(late), TimedOutWaiting)
    assert house.clock() == pytest.approx(0.2, abs=0.02)
    # Until the store has answered, the id stands for this call.
    assert await house.executions.get("mine") == late
    assert await house.run(**MINE) == late
    store.hold = False
    await asyncio.sleep(1)
    assert await house.run(**MINE) == late
    assert await store.inner.execution("mine") is not None
    assert ran(house) == 0
    assert nothing_held(house)


@virtual
async def test_a_claim_that_comes_too_late_never_replaces_the_first_execution() -> None:
    store = TroubledStore()
    house = House(store=store)
    first = await house.run(**MINE)
    house = await restarted(house)
    again = House(store=(held := TroubledStore(store.inner)))
    held.hold = True
    late = await again.run(timeout_ms=100, **MINE)
    assert late.status is ExecutionStatus.TIMEOUT
    held.hold = False
    await asyncio.sleep(1)
    assert await again.executions.get("mine") == first
    assert await again.run(**MINE) == first


@virtual
async def test_a_call_that_is_cancelled_while_the_store_is_asked_never_runs() -> None:
    store = TroubledStore()
    house = House(store=store)
    store.hold = True
    ticket = house.start(house.call(**MINE))
    await asyncio.sleep(0.1)
    assert ticket.cancel("enough")
    assert not ticket.cancel("enough")
    store.hold = False
    await asyncio.sleep(1)
    assert ran(house) == 0
    assert len(house.answers["mine"]) == 1
    stored = await store.inner.execution("mine")
    assert stored is not None
    assert stored.execution.status is ExecutionStatus.CANCELLED
    assert nothing_held(house)


@virtual
async def test_a_restart_answers_with_the_first_execution() -> None:
    house = House()
    first = await house.run(**MINE)
    failed = await house.run("raise", execution_id="bad", id_given=True)
    await house.executions.close()
    house = await restarted(house)
    assert await house.run(**MINE) == first
    assert error_of(await house.run("raise", execution_id="bad", id_given=True)) is error_of(failed)
    assert isinstance(error_of(await house.run(s=0.2, **MINE)), Conflict)
    assert ran(house) == 0
    assert house.deployed.execution_count == 0
    assert nothing_held(house)


@virtual
async def test_two_callers_at_once_after_a_restart_get_the_first_answer() -> None:
    house = House()
    first = await house.run(**MINE)
    await house.executions.close()
    house = await restarted(house)
    assert await asyncio.gather(*(house.run(**MINE) for _ in range(3))) == [first] * 3
    assert ran(house) == 0


@virtual
async def test_after_a_crash_the_call_is_lost_and_not_run_again() -> None:
    house = House()
    house.start(house.call(s=100.0, **MINE))
    await asyncio.sleep(1)
    house = await restarted(house)
    for _ in range(2):
        lost = await house.run(s=100.0, **MINE)
        assert isinstance(error_of(lost), InstanceLost)
        assert lost.status is ExecutionStatus.FAILED
    assert ran(house) == 0


@virtual
async def test_after_a_crash_max_retries_allows_so_many_attempts_in_all() -> None:
    house = House()
    for attempt in (1, 2, 3):
        ticket = house.start(house.call(s=100.0, max_retries=2, **MINE))
        await asyncio.sleep(1)
        assert (ticket.view().status, ticket.attempt) == (ExecutionStatus.RUNNING, attempt)
        house = await restarted(house)
    lost = await house.run(s=100.0, max_retries=2, **MINE)
    assert isinstance(error_of(lost), InstanceLost)
    assert lost.attempt == 3


@virtual
async def test_retries_are_stored_before_they_begin() -> None:
    store = TroubledStore()
    house = House(store=store, retry={"max_retries": 5})
    house.start(house.call("crash", **MINE))
    while ran(house) < 3:
        await asyncio.sleep(0.01)
    stored = await store.inner.execution("mine")
    assert stored is not None
    assert stored.execution.attempt == 3


@virtual
async def test_a_retry_that_cannot_be_stored_is_not_run() -> None:
    store = TroubledStore()
    house = House(store=store, retry={"max_retries": 5})
    ticket = house.start(house.call("raise", **MINE))
    await asyncio.sleep(0)
    while not ran(house):
        await asyncio.sleep(0.01)
    store.down = True
    await asyncio.sleep(5)
    assert error_of(ticket.settled).code == "EXECUTION_ERROR"
    assert ran(house) == 1
    store.down = False
    await asyncio.sleep(5)  # what could not be stored is stored later
    stored = await store.inner.execution("mine")
    assert stored is not None
    assert stored.execution == ticket.settled


@virtual
async def test_a_store_that_is_down_refuses_calls_with_an_id_and_no_others() -> None:
    store = TroubledStore()
    house = House(store=store)
    await house.opening
    store.down = True
    refused = await house.run(**MINE)
    assert isinstance(error_of(refused), StoreUnavailable)
    assert refused.outcome is not None
    assert refused.outcome.kind is OutcomeKind.REJECTED
    assert ran(house) == 0
    for then in ("ok", "raise"):
        done = await house.run(then)
        assert await house.executions.get(done.execution_id) == done
    await asyncio.sleep(5)
    assert house.executions.dropped == {"rate": 0, "store": 2}
    assert nothing_held(house)
    store.down = False
    assert (await house.run(**MINE)).status is ExecutionStatus.COMPLETED


@virtual
async def test_calls_without_an_id_never_touch_the_store_on_their_way() -> None:
    store = TroubledStore()
    house = House(store=store)
    await house.opening
    store.hold = True  # whatever is written waits for ever
    for then in ("ok", "raise", "crash"):
        await house.run(then)
    assert {*store.asked} <= {"put_executions"}
    store.hold = False


@virtual
async def test_what_was_refused_before_it_began_keeps_no_id() -> None:
    house = House(breaker={"failure_threshold": 1, "timeout_s": 1.0})
    await house.run("raise")
    assert isinstance(error_of(await house.run(**MINE)), CircuitOpenError)
    assert isinstance(error_of(await house.run(s=0.3, **MINE)), Conflict)
    assert isinstance(error_of(await house.run(**MINE)), CircuitOpenError)
    await asyncio.sleep(1.5)
    assert (await house.run(**MINE)).status is ExecutionStatus.COMPLETED
    assert ran(house) == 2


@virtual
async def test_a_call_that_waits_for_the_store_when_the_service_ends_is_drained() -> None:
    store = TroubledStore()
    house = House(store=store)
    await house.opening
    store.hold = True
    ticket = house.start(house.call(**MINE))
    await asyncio.sleep(0.1)
    house.manager.begin_drain(0)
    await house.manager.drained(0)
    assert isinstance(error_of(ticket.settled), Draining)
    store.hold = False
    await house.executions.close()
    # It did not begin, so the next life runs it.
    house = await restarted(house)
    assert (await house.run(**MINE)).status is ExecutionStatus.COMPLETED


@virtual
async def test_what_outlasts_the_drain_is_not_run_again() -> None:
    house = House()
    house.start(house.call("hang", **MINE))
    await asyncio.sleep(1)
    house.manager.begin_drain(0)
    await house.manager.drained(0)
    await house.executions.close()
    house = await restarted(house)
    assert isinstance(error_of(await house.run("hang", **MINE)), Draining)
    assert ran(house) == 0
