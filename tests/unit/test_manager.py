"""The one path, on scripted instances and a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from atlatl.errors import CircuitOpenError, Conflict, Draining, RateLimited, TimedOutWaiting
from atlatl.events import CallRefused, CallRetried, ExecutionFinished
from atlatl.model import Event, Execution, ExecutionStatus, OutcomeKind
from atlatl.settings import Settings, parse
from tests import virtual_time
from tests.scripted import KILL_S, House


def _error(execution: Execution) -> object:
    assert execution.outcome is not None
    return execution.outcome.error


def test_a_call_is_answered_and_recorded() -> None:
    async def main() -> None:
        house = House()
        done = await house.run()
        assert done.status is ExecutionStatus.COMPLETED
        assert done.cold_start
        assert done.instance_id == "i0"
        assert await house.executions.get(done.execution_id) == done
        again = await house.run()
        assert not again.cold_start
        assert again.instance_id == "i0"
        assert [type(event) for event in house.events if isinstance(event, ExecutionFinished)]
        assert house.deployed.running == 0
        assert house.bytes.held == 0

    virtual_time.run(main())


def test_the_deadline_ends_the_work_and_frees_the_place_when_it_is_gone() -> None:
    async def main() -> None:
        house = House(pool={"max_size": 1})
        loop = asyncio.get_running_loop()
        done = await house.run("hang", timeout_ms=200)
        assert done.status is ExecutionStatus.TIMEOUT
        assert "200 ms" in str(_error(done))
        assert loop.time() == pytest.approx(0.2, abs=0.02)
        assert house.deployed.pool.stats().in_use == 1  # the process still dies
        await asyncio.sleep(KILL_S + 0.01)
        assert house.deployed.pool.stats().in_use == 0
        assert (await house.run()).status is ExecutionStatus.COMPLETED

    virtual_time.run(main())


def test_waiting_counts_and_a_late_instance_is_not_used() -> None:
    """D32, D65."""

    async def main() -> None:
        house = House(pool={"max_size": 1})
        first = house.start(house.call(s=1.0))
        second = await house.run(timeout_ms=300)
        assert isinstance(_error(second), TimedOutWaiting)
        assert not _error(second).trips_breaker  # type: ignore[union-attr]
        await asyncio.sleep(2)
        assert first.settled.status is ExecutionStatus.COMPLETED
        assert len(house.channels[0].attempts) == 1

    virtual_time.run(main())


def test_cancel_is_final_at_once() -> None:
    async def main() -> None:
        house = House()
        waiting = house.start(house.call("hang"))
        running = house.start(house.call("hang"))
        await asyncio.sleep(0.2)
        assert running.view().status is ExecutionStatus.RUNNING
        assert running.cancel("enough")
        assert not running.cancel("enough")
        assert waiting.cancel("enough", grace_s=0.0)
        for ticket in (running, waiting):
            assert ticket.settled.status is ExecutionStatus.CANCELLED
            assert len(house.answers[ticket.execution_id]) == 1
        await asyncio.sleep(1)
        assert house.gate.lent == 0

    virtual_time.run(main())


def test_work_that_ends_within_its_grace_keeps_its_instance() -> None:
    async def main() -> None:
        house = House(pool={"max_size": 1})
        running = house.start(house.call(s=1.0))
        await asyncio.sleep(0.2)
        assert running.cancel("hung up", grace_s=5.0)
        assert running.settled.status is ExecutionStatus.CANCELLED
        assert house.deployed.pool.stats().in_use == 1  # the function tidies up
        await asyncio.sleep(1.0)
        assert house.deployed.pool.stats().in_use == 0
        assert (await house.run()).instance_id == "i0"
        assert len(house.answers[running.execution_id]) == 1
        await asyncio.sleep(10)  # the grace of a call that has ended harms nobody
        assert (await house.run()).instance_id == "i0"

    virtual_time.run(main())


def test_work_that_outlasts_its_grace_is_killed() -> None:
    async def main() -> None:
        house = House(pool={"max_size": 1})
        running = house.start(house.call("hang"))
        await asyncio.sleep(0.2)
        running.cancel("hung up", grace_s=5.0)
        await asyncio.sleep(4.9)
        assert house.deployed.pool.stats().in_use == 1
        await asyncio.sleep(0.1 + KILL_S + 0.01)
        assert house.deployed.pool.stats().in_use == 0
        assert (await house.run()).instance_id == "i1"

    virtual_time.run(main())


def test_a_cancelled_probe_is_neither_failure_nor_success() -> None:
    async def main() -> None:
        house = House(breaker={"failure_threshold": 1, "timeout_s": 1.0})
        await house.run("raise")
        assert isinstance(_error(await house.run()), CircuitOpenError)
        await asyncio.sleep(1.0)
        probe = house.start(house.call("hang"))
        await asyncio.sleep(0.2)
        probe.cancel()
        assert (await house.run()).status is ExecutionStatus.COMPLETED

    virtual_time.run(main())


def test_retries_follow_what_may_be_tried_again_and_nothing_else() -> None:
    """D55."""

    async def main() -> None:
        house = House(retry={"max_retries": 2}, breaker={"enabled": False})
        for then in ("raise", "crash"):
            done = await house.run(then)
            assert done.attempt == 3
            assert _error(done).code in ("EXECUTION_ERROR", "INSTANCE_CRASHED")  # type: ignore[union-attr]
        assert (await house.run("hang", timeout_ms=100)).attempt == 1
        assert (await house.run("raise", max_retries=0)).attempt == 1
        attempts = [a for channel in house.channels for a in channel.attempts]
        assert attempts.count(3) == 2

    virtual_time.run(main())


def test_each_attempt_that_another_one_follows_is_told_with_its_times() -> None:
    async def main() -> None:
        house = House(retry={"max_retries": 2, "initial_backoff_s": 1.0, "jitter_ratio": 0.0})
        traceparent = f"00-{'ab' * 16}-{'cd' * 8}-01"
        call = replace(house.call("raise"), traceparent=traceparent)
        ticket = house.start(call)
        while ticket.settled is None:
            await asyncio.sleep(0.05)
        retried = [event for event in house.events if isinstance(event, CallRetried)]
        assert [(event.attempt, event.retry_in_s) for event in retried] == [(1, 1.0), (2, 2.0)]
        first, second = retried
        assert first.started_at is not None
        assert second.started_at is not None
        assert first.queued_at == second.queued_at <= first.started_at <= first.at
        assert second.started_at >= first.at + 1.0
        assert {event.traceparent for event in retried} == {traceparent}
        (ended,) = [event for event in house.events if isinstance(event, ExecutionFinished)]
        assert ended.traceparent == traceparent

    virtual_time.run(main())


def test_no_retry_begins_after_the_deadline() -> None:
    async def main() -> None:
        house = House(retry={"max_retries": 5, "initial_backoff_s": 1.0, "jitter_ratio": 0.0})
        done = await house.run("raise", timeout_ms=900)
        assert done.attempt == 1
        assert done.status is ExecutionStatus.FAILED

    virtual_time.run(main())


def test_a_breaker_that_opens_between_attempts_leaves_the_real_error() -> None:
    async def main() -> None:
        house = House(retry={"max_retries": 5}, breaker={"failure_threshold": 2})
        done = await house.run("raise")
        assert _error(done).code == "EXECUTION_ERROR"  # type: ignore[union-attr]
        assert done.attempt == 3

    virtual_time.run(main())


def test_the_same_id_runs_once() -> None:
    async def main() -> None:
        house = House()
        call = house.call(execution_id="mine", id_given=True)
        first, second = house.start(call), house.start(call)
        await asyncio.sleep(1)
        assert first.settled is not None
        assert len(house.answers["mine"]) == 2
        assert not second.cancel()
        third = await house.run(execution_id="mine", id_given=True)
        assert third == first.settled
        other = await house.run(execution_id="mine", id_given=True, s=0.2)
        assert isinstance(_error(other), Conflict)
        spaced = Event(value={"then": "ok", "s": 0.1})  # another order of the same members
        same = await house.run(execution_id="mine", id_given=True, payload=spaced)
        assert same == first.settled
        assert [c.attempts for c in house.channels] == [[1]]

    virtual_time.run(main())


def test_refusals_are_seen_and_leave_nothing() -> None:
    """D16, D50."""

    async def main() -> None:
        house = House(rate_limit_per_s=1)
        assert (await house.run()).status is ExecutionStatus.COMPLETED
        refused = await house.run()
        assert isinstance(_error(refused), RateLimited)
        assert refused.outcome is not None
        assert refused.outcome.kind is OutcomeKind.REJECTED
        unknown = await house.run(task_name="nobody")
        assert _error(unknown).code == "TASK_NOT_FOUND"  # type: ignore[union-attr]
        refusals = [event for event in house.events if isinstance(event, CallRefused)]
        assert [event.code for event in refusals] == ["RATE_LIMITED", "TASK_NOT_FOUND"]
        page = await house.executions.page(task="", status=None, limit=9, start_after="")
        assert len(page.items) == 1

    virtual_time.run(main())


def test_the_byte_budget_is_given_back() -> None:
    async def main() -> None:
        house = House(parse(Settings, {"limits": {"max_inflight_bytes": 40}}))
        first = house.start(house.call(s=1.0))
        refused = await house.run()
        assert _error(refused).code == "RESOURCE_EXHAUSTED"  # type: ignore[union-attr]
        await asyncio.sleep(2)
        assert first.settled is not None
        assert (await house.run()).status is ExecutionStatus.COMPLETED

    virtual_time.run(main())


def test_draining_refuses_the_new_and_the_waiting_and_waits_for_the_started() -> None:
    async def main() -> None:
        house = House(pool={"max_size": 1})
        started = house.start(house.call(s=1.0))
        await asyncio.sleep(0.2)
        waiting = house.start(house.call())
        house.manager.begin_drain(5.0)
        assert isinstance(_error(waiting.settled), Draining)
        assert isinstance(_error(await house.run()), Draining)
        await house.manager.drained(5.0)
        assert started.settled.status is ExecutionStatus.COMPLETED

    virtual_time.run(main())


def test_what_outlasts_the_drain_ends_draining() -> None:
    async def main() -> None:
        house = House()
        started = house.start(house.call("hang"))
        await asyncio.sleep(0.2)
        house.manager.begin_drain(1.0)
        await house.manager.drained(1.0)
        assert isinstance(_error(started.settled), Draining)

    virtual_time.run(main())


def test_waiting_calls_move_to_the_new_version() -> None:
    async def main() -> None:
        house = House(pool={"max_size": 1})
        first = house.start(house.call(s=1.0))
        await asyncio.sleep(0.2)
        second = house.start(house.call())
        old = house.redeploy()
        await old.close(10.0)
        await asyncio.sleep(1)
        assert first.settled.status is ExecutionStatus.COMPLETED
        assert first.settled.version == 1
        assert second.settled.status is ExecutionStatus.COMPLETED
        assert second.settled.version == 2

    virtual_time.run(main())


def test_a_callback_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        house = House()
        house.manager.start(house.call(), lambda _: 1 / 0)
        assert (await house.run()).status is ExecutionStatus.COMPLETED
        assert "callback" in caplog.text

    virtual_time.run(main())


@pytest.mark.parametrize("name", ["", "A=B", "A\0B", "\ud800"])
def test_an_impossible_environment_costs_no_lease(name: str) -> None:
    async def main() -> None:
        house = House()
        refused = await house.run(environment={name: "c"})
        assert _error(refused).code == "INVALID_REQUEST"  # type: ignore[union-attr]
        assert f"environment variable {name!r}" in str(_error(refused))
        assert not house.channels

    virtual_time.run(main())
