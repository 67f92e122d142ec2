"""Histories of calls through the whole path: whatever happens, every call ends exactly once."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from atlatl.model import ExecutionStatus
from atlatl.settings import Settings, parse
from tests import virtual_time
from tests.scripted import House
from tests.troubled_store import TroubledStore

# Multiples of 50 ms, so that ties happen: ends, deadlines and cancels at the same moment.
times = st.integers(0, 12).map(lambda n: n * 0.05)
calls = st.fixed_dictionaries(
    {
        "then": st.sampled_from(["ok", "ok", "ok", "raise", "crash", "hang"]),
        "s": times,
        "timeout_ms": st.integers(1, 16).map(lambda n: n * 50),
        "priority": st.sampled_from([0, 3, 7]),
        "force_new_instance": st.booleans(),
        "max_retries": st.sampled_from([0, 0, 2]),
    }
)
steps = st.one_of(
    st.tuples(st.just("call"), calls),
    st.tuples(st.just("call"), calls),
    st.tuples(st.just("call"), calls),
    st.tuples(st.just("again"), st.integers(0, 30)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("wait"), times),
    st.tuples(st.just("redeploy"), st.none()),
    st.tuples(st.just("break"), st.integers(1, 3)),
    st.tuples(st.just("kill"), st.integers(0, 10)),
    st.tuples(st.just("store"), st.sampled_from(["down", "up", "hold", "go"])),
)


@settings(max_examples=150, deadline=None)
@given(
    history=st.lists(steps, max_size=40),
    max_size=st.integers(1, 3),
    max_lent=st.sampled_from([1, 2, 1000]),
    breaker=st.booleans(),
)
def test_every_call_ends_once_and_nothing_leaks(
    history: list[tuple[str, Any]], max_size: int, max_lent: int, breaker: bool
) -> None:
    async def main() -> None:
        limits = {"max_concurrent_executions": max_lent, "max_queued_executions": 8}
        store = TroubledStore()
        house = House(
            parse(Settings, {"limits": limits}),
            store=store,
            pool={"max_size": max_size},
            breaker={"enabled": breaker, "failure_threshold": 3, "timeout_s": 0.2},
        )
        tickets: list[Any] = []
        closing = []
        expected: dict[str, int] = {}
        for action, value in history:
            if action == "call":
                call = house.call(id_given=True, **value)
                tickets.append(house.start(call))
                expected[call.execution_id] = 1
            elif action == "again" and value < len(tickets):
                house.start(tickets[value].call)
                expected[tickets[value].execution_id] += 1
            elif action == "cancel" and value < len(tickets):
                tickets[value].cancel("history")
            elif action == "wait":
                await asyncio.sleep(value)
            elif action == "redeploy":
                closing.append(asyncio.create_task(house.redeploy().close(60)))
            elif action == "break":
                house.failing_starts = value
            elif action == "kill" and value < len(house.channels):
                _kill(house, value)
            elif action == "store":
                _trouble(store, value)
            _check_sums(house)
        store.down = store.hold = False
        await asyncio.sleep(120)
        for execution_id, count in expected.items():
            records = house.answers[execution_id]
            assert len(records) == count, execution_id
            assert all(record.status.terminal for record in records)
        assert house.gate.lent == house.gate.waiting == 0
        assert house.bytes.held == 0
        assert house.deployed.running == 0
        assert house.manager.running == house.manager.pending == 0
        assert house.deployed.pool.stats().in_use == 0
        await asyncio.gather(*closing)
        house.failing_starts = 0
        # And it serves on: all open times and back-offs are over.
        last = await house.run()
        assert last.status is ExecutionStatus.COMPLETED
        await house.executions.close()
        await _check_stored(house, store, list(expected))

    virtual_time.run(main())


def _kill(house: House, index: int) -> None:
    """An instance dies by itself, idle or in mid call."""
    channel = house.channels[index]
    if not channel.dead:
        channel.die_now()


def _trouble(store: TroubledStore, how: str) -> None:
    if how in ("down", "up"):
        store.down = how == "down"
    else:
        store.hold = how == "hold"


async def _check_stored(house: House, store: TroubledStore, ids: list[str]) -> None:
    """What is stored of a call is how it ended for its callers, and nothing stays open."""
    for execution_id in ids:
        stored = await store.inner.execution(execution_id)
        if stored is not None:
            ends = [(one.status, one.attempt) for one in house.answers[execution_id]]
            assert (stored.execution.status, stored.execution.attempt) in ends
            assert stored.fingerprint


def _check_sums(house: House) -> None:
    pool = house.deployed.pool.stats()
    assert pool.total == pool.in_use + pool.available
    assert house.gate.lent <= house.gate.max_lent
    assert house.manager.running + house.manager.pending == house.deployed.running
