"""The live stream of events: bounded, thinned, and nothing at all while nobody looks on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from atlatl import events
from atlatl.core.window import Row, count_of, requests
from atlatl.errors import CircuitOpenError, Draining, FunctionRaised, InvalidRequest, NoCapacity
from atlatl.events import BreakerChanged, CallbackTried, CallRefused, Event, ExecutionFinished
from atlatl.model import Execution, Mode, Outcome, OutcomeKind, failed
from atlatl.telemetry.fanout import Fanout
from atlatl.telemetry.feed import (
    KINDS,
    MAX_LISTENERS,
    MAX_WAITING,
    PER_SECOND,
    SUCCESSES_PER_SECOND,
    Feed,
    Item,
)
from tests.virtual_time import virtual

INVALID, REJECTED = OutcomeKind.INVALID, OutcomeKind.REJECTED


class Stand:
    """A feed on its fanout, and what it asked for its figures."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.fanout = Fanout([])
        self.asked: list[tuple[dict[str, int], int, float]] = []
        self.refused = 0
        self.feed = Feed(self.fanout, self._figures, clock=loop.time, wall=loop.time)

    def _figures(self, by_task: Mapping[str, Row], total: Row, span_s: float) -> dict[str, Any]:
        counts = {name: requests(row) for name, row in by_task.items()}
        self.asked.append((counts, requests(total), span_s))
        self.refused += sum(count_of(total, kind) for kind in (REJECTED, INVALID))
        return {"tasks": [{"task_name": name} for name in counts]}

    @property
    def listening(self) -> bool:
        return self.feed in self.fanout._listeners


def finished(outcome: Outcome | None = None, task: str = "hello", **facts: Any) -> Event:
    outcome = outcome or Outcome(kind=OutcomeKind.SUCCESS, run_s=0.001)
    execution = Execution(
        execution_id="e-1",
        task_id="t-1",
        task_name=task,
        function_name="main",
        mode=Mode.SYNC,
        status=outcome.status,
        outcome=outcome,
    )
    return ExecutionFinished(at=0.0, task_name=task, execution=execution, latency_s=0.002, **facts)


RAISED = failed(FunctionRaised("ValueError: no"))


def kinds(items: list[Item]) -> list[str]:
    return [kind for kind, _ in items]


def read(item: Item) -> dict[str, Any]:
    kind, data = item
    row = json.loads(data)
    assert row["kind"] == kind
    return row


@virtual
async def test_while_nobody_looks_on_nothing_is_done() -> None:
    """It is no listener, counts nothing and has no timer."""
    stand = Stand()
    loop = asyncio.get_running_loop()
    assert not stand.listening
    listener = stand.feed.listen()
    assert stand.listening
    stand.fanout.emit(finished())
    listener.leave()
    assert not stand.listening
    assert not [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    for _ in range(3):
        stand.fanout.emit(finished())
    stand.feed.listen()
    await asyncio.sleep(1.5)
    assert stand.asked == [({}, 0, 1.0)]  # what was before it began is not counted


@virtual
async def test_every_kind_of_event_has_its_name_and_is_told() -> None:
    stand = Stand()
    listener = stand.feed.listen()
    told = {
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    }
    assert set(KINDS) == told
    stand.fanout.emit(finished(RAISED))
    (item,) = await listener.take(0)
    row = read(item)
    assert row["at"] == "1970-01-01T00:00:00Z"
    assert (row["task_name"], row["execution_id"]) == ("hello", "e-1")
    assert (row["status"], row["error_code"]) == ("FAILED", "EXECUTION_ERROR")
    assert (row["latency_ms"], row["error_message"]) == (2.0, "ValueError: no")


@virtual
async def test_what_an_address_has_in_it_is_not_told() -> None:
    stand = Stand()
    listener = stand.feed.listen()
    stand.fanout.emit(
        CallbackTried(
            at=0.0,
            task_name="hello",
            execution_id="e-1",
            tries=1,
            failure="https://user:pw@example.com/hook?key=1 did not answer",
        )
    )
    assert "pw" not in str(read((await listener.take(0))[0]))


@virtual
async def test_kinds_and_a_task_can_be_chosen() -> None:
    stand = Stand()
    some = stand.feed.listen(["breaker_changed", "figures"], "hello")
    for task in ("hello", "other"):
        stand.fanout.emit(finished(task=task))
        stand.fanout.emit(BreakerChanged(at=0.0, task_name=task, old="closed", new="open"))
    assert kinds(await some.take(0)) == ["breaker_changed"]
    await asyncio.sleep(1)
    (figures,) = await some.take(0)
    assert read(figures)["tasks"] == [{"task_name": "hello"}]
    with pytest.raises(InvalidRequest, match=r"execution_finished.*figures"):
        stand.feed.listen(["nonsense"])


@virtual
async def test_single_executions_are_thinned_and_failures_are_among_those_told() -> None:
    stand = Stand()
    listener = stand.feed.listen()
    for _ in range(500):
        stand.fanout.emit(finished())
    for _ in range(20):
        stand.fanout.emit(finished(RAISED))
    told = [read(item)["outcome"] for item in await listener.take(0)]
    assert told.count("success") == SUCCESSES_PER_SECOND
    assert told.count("error") == PER_SECOND - SUCCESSES_PER_SECOND
    await asyncio.sleep(1)
    (figures,) = await listener.take(0)
    assert read(figures)["skipped"] == 520 - PER_SECOND
    assert stand.asked == [({"hello": 520}, 520, 1.0)]  # all are counted
    stand.fanout.emit(finished())
    assert kinds(await listener.take(0)) == ["execution_finished"]  # a new second


@virtual
async def test_breakers_are_never_thinned() -> None:
    stand = Stand()
    listener = stand.feed.listen()
    for number in range(200):
        stand.fanout.emit(BreakerChanged(at=0.0, task_name=f"t{number}", old="closed", new="open"))
    assert len(await listener.take(0)) == 200


@virtual
async def test_who_reads_slowly_loses_the_oldest_and_is_told_how_many() -> None:
    stand = Stand()
    slow, quick = stand.feed.listen(["breaker_changed"]), stand.feed.listen(["breaker_changed"])
    for number in range(MAX_WAITING + 300):
        stand.fanout.emit(BreakerChanged(at=0.0, task_name=f"t{number}", old="closed", new="open"))
        assert len(await quick.take(0)) == 1
    items = await slow.take(0)
    assert len(items) == MAX_WAITING + 1
    assert (items[0][0], read(items[0])["count"]) == ("lost", 300)
    assert read(items[1])["task_name"] == "t300"
    stand.fanout.emit(BreakerChanged(at=0.0, task_name="t", old="closed", new="open"))
    assert kinds(await slow.take(0)) == ["breaker_changed"]


@virtual
async def test_figures_come_every_second_and_count_that_second() -> None:
    stand = Stand()
    listener = stand.feed.listen(["figures"])
    stand.fanout.emit(finished(task="a"))
    stand.fanout.emit(finished(RAISED, task="b"))
    refused = failed(CircuitOpenError("b"))
    stand.fanout.emit(
        CallRefused(
            at=0.0, task_name="b", execution_id="e", outcome=refused.kind.value, code="CIRCUIT_OPEN"
        )
    )
    stand.fanout.emit(
        CallRefused(
            at=0.0, task_name="", execution_id="f", outcome="invalid", code="TASK_NOT_FOUND"
        )
    )
    stand.fanout.emit(finished(task="a", redriven=True))  # was counted when it died
    await asyncio.sleep(2.5)
    assert [asked[:2] for asked in stand.asked] == [({"a": 1, "b": 1}, 2), ({}, 0)]
    assert stand.refused == 2  # what is not there has no row, and counts all the same
    assert kinds(await listener.take(0)) == ["figures", "figures"]


@virtual
async def test_a_reader_waits_for_the_first_and_not_for_ever() -> None:
    stand = Stand()
    loop = asyncio.get_running_loop()
    listener = stand.feed.listen(["task_deleted"])
    assert await listener.take(5.0) == []
    assert loop.time() == 5.0
    taking = loop.create_task(listener.take(5.0))
    await asyncio.sleep(1)
    stand.fanout.emit(events.TaskDeleted(at=0.0, task_name="hello"))
    assert kinds(await taking) == ["task_deleted"]
    assert loop.time() == 6.0


@virtual
async def test_closing_ends_the_streams_after_what_they_have_to_read() -> None:
    stand = Stand()
    reading, waiting = stand.feed.listen(), stand.feed.listen()
    taking = asyncio.get_running_loop().create_task(waiting.take(60.0))
    await asyncio.sleep(0)
    stand.feed.close()
    assert await taking == []
    assert waiting.ended
    assert not stand.listening
    assert await reading.take(60.0) == []
    with pytest.raises(Draining):
        stand.feed.listen()


@virtual
async def test_only_so_many_look_on() -> None:
    stand = Stand()
    listeners = [stand.feed.listen() for _ in range(MAX_LISTENERS)]
    with pytest.raises(NoCapacity):
        stand.feed.listen()
    listeners[0].leave()
    listeners[0].leave()
    stand.feed.listen()


class Deaf:
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def emit(self, event: Event) -> None:
        self.heard.append(event)
        raise RuntimeError("deaf")


def test_of_the_ends_of_executions_only_those_hear_who_hear_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    all_of_it, rest = Deaf(), Deaf()
    fanout = Fanout([all_of_it], rarities=[rest])
    end, other = finished(), BreakerChanged(at=0.0, task_name="t", old="closed", new="open")
    fanout.emit(end)
    fanout.emit(other)
    assert (all_of_it.heard, rest.heard) == ([end, other], [other])
    assert "a listener failed on BreakerChanged" in caplog.text
