"""Live figures out of what was counted and how the owners stand; facts out of the journal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atlatl.core.window import OUTCOME_COLUMNS as COLUMNS
from atlatl.core.window import add_execution, add_to, new_row
from atlatl.live_reports import LiveReports
from atlatl.model import OutcomeKind, QueueDepth
from atlatl.telemetry.journal import Journal
from tests.scripted import House
from tests.virtual_time import virtual


class FakeReports:
    def live(self) -> dict[str, Any]:
        return {"tasks": 2}


class Stand:
    def __init__(self, **overrides: Any) -> None:
        self.house = house = House(**overrides)
        self.journal = Journal()
        self.depths: list[QueueDepth] = []
        self.live = LiveReports(
            house.registry,
            house.manager,
            self.journal,
            FakeReports(),  # type: ignore[arg-type]
            depths=lambda: self.depths,
            wall=house.clock,
            steady=house.clock,
        )


@virtual
async def test_figures_are_of_tasks_that_had_calls_or_have_some() -> None:
    stand = Stand(pool={"max_size": 1})
    house = stand.house
    house.deploy("quiet")
    house.deploy("counted")
    house.start(house.call("hang"))
    house.start(house.call("hang"))
    await asyncio.sleep(1.0)
    row, total = new_row(), new_row()
    for _ in range(3):
        add_execution((row, total), OutcomeKind.SUCCESS, 0.007, 0.001, False)
    add_execution((row, total), OutcomeKind.ERROR, 0.007, 0.001, False)
    add_to((row, total), COLUMNS[OutcomeKind.REJECTED], 5)
    figures = stand.live.figures({"counted": row, "gone": new_row()}, total, 2.0)
    tasks = {task["task_name"]: task for task in figures["tasks"]}
    assert set(tasks) == {"task", "counted"}
    busy, counted = tasks["task"], tasks["counted"]
    assert (busy["in_use"], busy["idle"], busy["waiting"], busy["breaker"]) == (1, 0, 1, "closed")
    assert (busy["calls_per_s"], busy["p99_ms"]) == (0.0, None)
    assert (counted["calls_per_s"], counted["errors_per_s"], counted["refused_per_s"]) == (
        2.0, 0.5, 2.5,
    )  # fmt: skip
    assert counted["p50_ms"] == pytest.approx(7.5)
    service = figures["service"]
    assert (service["tasks"], service["calls_per_s"]) == (2, 2.0)
    assert (service["running"], service["waiting"]) == (1, 1)


@virtual
async def test_the_queue_is_summed_and_its_oldest_is_as_old_as_the_oldest_of_a_task() -> None:
    stand = Stand()
    await asyncio.sleep(10.0)
    assert stand.live.figures({}, new_row(), 1.0)["queue"]["oldest_s"] == 0.0
    stand.depths = [
        QueueDepth(task_name="a", ready=2, delayed=1, oldest_ready_at=7.0),
        QueueDepth(task_name="b", ready=1, leased=3, dead=4, oldest_ready_at=4.0),
        QueueDepth(task_name="c", dead=1),
    ]
    queue = stand.live.figures({}, new_row(), 1.0)["queue"]
    assert queue == {"ready": 3, "delayed": 1, "running": 3, "dead": 5, "oldest_s": 6.0}


@virtual
async def test_what_goes_on_is_explained_by_how_its_task_stands() -> None:
    stand = Stand(pool={"max_size": 1}, timeout_ms=5000)
    house = stand.house
    running, waiting = house.start(house.call("hang")), house.start(house.call("hang"))
    await asyncio.sleep(1.0)
    facts = stand.live.facts(running.view())
    assert facts.pool == {"total": 1, "in_use": 1, "available": 0, "starting": 0, "waiting": 1}
    assert (facts.breaker, facts.limit_s, facts.now) == ("closed", 5.0, 1.0)
    assert facts.policy == "round_robin"
    assert stand.live.facts(waiting.view()).limit_s == 5.0
    await asyncio.sleep(10.0)
    ended = stand.live.facts(running.settled)
    assert (ended.pool, ended.breaker, ended.limit_s) == ({}, "", None)


@virtual
async def test_the_policy_is_named_only_of_the_version_that_ran() -> None:
    stand = Stand()
    done = await stand.house.run()
    assert stand.live.facts(done).policy == "round_robin"
    old = stand.house.redeploy()
    assert stand.live.facts(done).policy == ""
    await old.close(0)
    stand.house.registry.remove(stand.house.deployed)
    assert stand.live.facts(done).policy == ""
