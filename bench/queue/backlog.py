"""A service that finds many executions waiting: how soon it serves, and how well meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from atlatl.model import (
    Arguments,
    Call,
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    Mode,
    Queued,
    Task,
)
from atlatl.settings import Settings
from atlatl.stores.sqlite import SqliteStore
from bench import comparison, work
from bench.lean_http import connected, each_once, for_a_while, request, run_loop
from bench.queue.atlatl import TASK, Queue, result_request, running, value
from bench.rounds import Wrong

OTHER = "other"
"""Another task, with the same function, that is called synchronously."""
BATCH = 2000
CHECKED = 500
"""Executions of a backlog whose results are looked at."""
WORKING_S = 30.0


class Calls(NamedTuple):
    """Synchronous calls on some connections over some time, all answered well."""

    p50_ms: float
    p99_ms: float
    calls_per_s: float
    queue_per_s: float
    """Executions of the backlog that ended meanwhile."""


class Stores:
    """Data directories with the same two tasks: with nothing waiting, and with a backlog."""

    def __init__(self, directory: Path, waiting: int) -> None:
        """Makes both; a service has used them, and ended."""
        self._directory = directory
        self.waiting = waiting
        self._empty, self._full = directory / "empty", directory / "full"
        with running(self._empty, warm=False) as service:
            service.deploy_work(TASK, OTHER)
        shutil.copytree(self._empty, self._full)
        asyncio.run(_fill(self._full, waiting))

    @contextlib.contextmanager
    def serving(self, waiting: int) -> Iterator[Queue]:
        """A service on a copy of one of them, thrown away afterwards."""
        source = self._full if waiting else self._empty
        with tempfile.TemporaryDirectory(dir=self._directory) as copy:
            shutil.copytree(source, data := Path(copy, "data"))
            os.sync()  # the service pays for its own writes only
            with running(data, warm=False) as service:
                yield service


async def _fill(directory: Path, count: int) -> None:
    store = SqliteStore(directory, Settings())
    await store.open()
    try:
        (task,) = [each for each in await store.load_tasks() if each.name == TASK]
        for first in range(0, count, BATCH):
            numbers = range(first, min(count, first + BATCH))
            accepted = [store.queue.enqueue(*_entry(task, number)) for number in numbers]
            if any(await asyncio.gather(*accepted)):
                raise Wrong("the store had an execution of the backlog already")
    finally:
        await store.close()


def _entry(task: Task, number: int) -> tuple[ExecutionRecord, Queued]:
    now = time.time()
    call = Call(
        execution_id=_identity(number),
        task_name=task.name,
        payload=Arguments(values=work.arguments(number)),
        mode=Mode.ASYNC,
    )
    execution = Execution(
        execution_id=call.execution_id,
        task_id=task.task_id,
        task_name=task.name,
        function_name=task.function,
        mode=Mode.ASYNC,
        status=ExecutionStatus.PENDING,
        queued_at=now,
    )
    queued = Queued(call=call, task_id=task.task_id, queued_at=now, ready_at=now, turn=now)
    return ExecutionRecord(execution), queued


def _identity(number: int) -> str:
    return f"waiting-{number:06d}"


# --- starting ---


def start(stores: Stores, waiting: int) -> float:
    """Seconds from the exec of `atlatl serve` to its ready line; calls are answered then,
    and the backlog is worked on.
    """
    with stores.serving(waiting) as service:
        run_loop(_calls(service, 1, 0.0))
        if waiting:
            _wait_for_work(service)
        return service.started_s


# --- synchronous calls beside the queue ---


def sync_calls(
    stores: Stores, waiting: int, connections: tuple[int, ...], seconds: float
) -> dict[int, Calls]:
    """Calls of the other task by the number of connections, while the queue works or is empty.

    Those on 0 connections are none: the queue has the service to itself.
    """
    with stores.serving(waiting) as service:
        run_loop(_calls(service, max(connections), 0.5))
        if not waiting:
            return {each: _measured(service, each, seconds) for each in connections}
        _wait_for_work(service)
        found = {each: _measured(service, each, seconds) for each in (0, *connections)}
        done = _done(service)
        if done >= waiting:
            raise Wrong(f"all {waiting} had ended before the end: have more of them wait")
        run_loop(_check_backlog(service, done))
    return found


def _measured(service: Queue, connections: int, seconds: float) -> Calls:
    before, began = _done(service), time.monotonic()
    took: list[float] = []
    if connections:
        took = run_loop(_calls(service, connections, seconds))
    else:
        time.sleep(seconds)
    span = time.monotonic() - began
    ended = _done(service) - before
    p50, p99 = comparison.percentiles(took) if took else (0.0, 0.0)
    return Calls(p50 * 1000, p99 * 1000, len(took) / span, ended / span)


async def _calls(service: Queue, connections: int, seconds: float) -> list[float]:
    content = request("POST", f"/functions/{OTHER}", work.body(1))
    wanted = work.answer(**work.arguments(1))
    async with connected(service.port, connections) as open_:
        await each_once(open_, [content] * connections)
        return await for_a_while(open_, content, wanted, seconds)


def _wait_for_work(service: Queue) -> None:
    end = time.monotonic() + WORKING_S
    while _done(service) < 200:
        if time.monotonic() > end:
            raise Wrong(f"the queue did not begin to work within {WORKING_S:.0f} s")
        time.sleep(0.1)


def _done(service: Queue) -> int:
    """Executions of the queued task that have ended well."""
    metrics = httpx.get(f"http://127.0.0.1:{service.port}/metrics")
    return work.ended_well(metrics.text, TASK)


async def _check_backlog(service: Queue, done: int) -> None:
    """Some of those that have ended, evenly spread; the last ones may have overtaken others."""
    numbers = range(0, done // 2, max(1, done // 2 // CHECKED))
    asks = [result_request(_identity(number)) for number in numbers]
    async with connected(service.port, 1) as connections:
        answers = await each_once(connections, asks)
    pairs: list[tuple[int, Any]] = [
        (number, value(each)) for number, each in zip(numbers, answers, strict=True)
    ]
    work.check(pairs)
