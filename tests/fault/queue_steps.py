"""A life of some durable executions, operation by operation, and what must be found of them.

Run as a program it does them all in a directory, and prints a line for each that returned.
"""

from __future__ import annotations

import asyncio
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from atlatl.errors import InstanceLost, TimedOutWaiting
from atlatl.model import Callback, Event, Execution, ExecutionStatus, Queued, failed
from atlatl.ports import Store
from atlatl.stores.memory import MemoryStore
from atlatl.stores.queue_rows import call_bytes
from atlatl.stores.sqlite import SqliteStore
from tests.fault.harness import Scenario, Step
from tests.store_samples import (
    accepted,
    ended,
    failure,
    plain,
    queued,
    sha256,
    sqlite_store,
    success,
    with_sqlite,
)

LARGE = bytes(range(256)) * 300
LOST = failed(InstanceLost("the service ended"))
EXPIRED = failed(TimedOutWaiting("it expired"))

A = queued("a", turn=1.0)
B = queued("b", payload=Event(value=LARGE + b"b"), ready_at=12.0, turn=2.0)
C = queued("c", lease=1, expires_at=99.0, payload=Event(value=LARGE + b"c"))
D = queued("d", expires_at=15.0, turn=3.0)
E = queued("e", lease=1, payload=Event(value=LARGE + b"e"))
F = queued("f", lease=1, task_id="t-2", payload=Event(value=LARGE + b"f"))


async def enqueue_all(store: Store, *entries: Queued) -> None:
    """Has executions accepted."""
    for entry in entries:
        assert await store.queue.enqueue(accepted(entry), entry) is None


def enqueue(entry: Queued) -> Step:
    return lambda store: store.queue.enqueue(accepted(entry, b"f"), entry)


def lease(limit: int) -> Step:
    return lambda store: store.queue.lease({"hello": limit}, now=14.0, until=70.0)


def take(execution_id: str) -> Step:
    return lambda store: store.queue.take(execution_id, until=70.0)


def told(execution_id: str) -> Callback:
    return Callback(execution_id=execution_id, url="http://example.org", ready_at=5.0)


def settle(entry: Queued, lease: int, outcome: Any, died_at: float | None = None) -> Step:
    return lambda store: store.queue.settle(
        ended(entry, outcome), lease, died_at=died_at, callback=told(entry.call.execution_id)
    )


def recover(limit: int) -> Step:
    return lambda store: store.queue.recover(
        lapsed_before=None, now=30.0, limit=limit, outcome=LOST
    )


COMING: list[Step] = [
    enqueue(A),
    enqueue(B),
    enqueue(C),
    enqueue(D),
    enqueue(A),
    lease(1),
    lambda store: store.queue.extend({"a": 1, "c": 1}, until=80.0),
    lambda store: store.queue.put_back(
        replace(A, lease=1, attempt=2, failures=1, ready_at=13.0), now=12.0
    ),
    lambda store: store.queue.wake(now=12.0),
    lambda store: store.queue.wake(now=13.0),
    take("b"),
]
ENDING: list[Step] = [
    enqueue(A),
    enqueue(B),
    enqueue(C),
    enqueue(D),
    take("b"),
    settle(B, 1, success(LARGE + b"1", LARGE + b"2")),
    settle(C, 1, failure(LARGE + b"3"), died_at=25.0),
    take("a"),
    settle(A, 0, success(LARGE + b"4")),
    recover(20),
    lambda store: store.queue.take_expired(now=16.0, until=70.0, limit=9),
    settle(D, 1, EXPIRED, died_at=26.0),
    lease(1),
    settle(A, 2, success()),
    lambda store: store.queue.put_callback(told("b"), tries=1, ready_at=50.0),
    lambda store: store.queue.drop_callback(replace(told("b"), tries=1, ready_at=50.0)),
]
AFTER_DEATH: list[Step] = [
    enqueue(C),
    enqueue(E),
    enqueue(F),
    settle(C, 1, failure(LARGE + b"3"), died_at=25.0),
    lambda store: store.queue.redrive("c", now=40.0),
    lease(1),
    recover(0),
    lambda store: store.queue.redrive("c", now=41.0),
    take("c"),
    settle(C, 3, success(LARGE + b"5")),
    settle(E, 1, failure(LARGE + b"6"), died_at=20.0),
    settle(F, 1, failure(LARGE + b"7"), died_at=21.0),
    lambda store: store.queue.prune_dead_letters(died_before=20.5),
    lambda store: store.forget_executions("t-2"),
    enqueue(D),
    take("d"),
    settle(D, 1, failure(), died_at=50.0),
    lambda store: store.queue.delete_dead_letter("d"),
    lambda store: store.prune_executions(ended_before=1e9, spare_since=1e9, keep=0, keep_bytes=0),
]
LIVES = {"coming": COMING, "ending": ENDING, "after death": AFTER_DEATH}


async def found_in(store: Store) -> dict[str, Any]:
    """All that there is, checked to agree. Afterwards the queue is another one."""
    listed = await store.executions(task="", status=None, before=None, limit=99)
    records = {one.execution_id: await store.execution(one.execution_id) for one in listed}
    callbacks = list(await store.queue.callbacks(now=1e9, limit=99))
    letters = await store.queue.dead_letters(before=None, limit=99)
    depths = await store.queue.depths()

    going = [
        one
        for one, _ in await store.queue.recover(lapsed_before=None, now=0.0, limit=99, outcome=LOST)
    ]
    leased = {one.call.execution_id for one in going}
    for depth in depths:
        for execution_id in await store.queue.waiting_ids(depth.task_name, 99):
            taken = await store.queue.take(execution_id, until=1e9)
            assert taken is not None
            if execution_id not in leased:
                going.append(taken)
    dead = [await store.queue.redrive(one.execution.execution_id, now=1e6) for one in letters]
    _check_agree([one.execution for one in records.values() if one], going, leased, dead)
    terminal = {key for key, one in records.items() if one and one.execution.status.terminal}
    assert {one.execution_id for one in callbacks} <= terminal
    assert sum(one.dead for one in depths) == len(dead)
    assert sum(one.leased for one in depths) == len(leased)
    assert sum(one.ready + one.delayed for one in depths) == len(going) - len(leased)
    return {
        "records": {key: plain(one) for key, one in records.items()},
        "callbacks": callbacks,
        "letters": [(one.execution.execution_id, one.died_at) for one in letters],
        "going": {one.call.execution_id: (one, one.call.execution_id in leased) for one in going},
        "dead": dead,
    }


def _check_agree(
    records: Sequence[Execution], going: list[Queued], leased: set[str], dead: list[Queued | None]
) -> None:
    """Each is one of queued, dead, or ended; record and entry tell the same."""
    entries = {one.call.execution_id: one for one in going}
    died = {one.call.execution_id: one for one in dead if one is not None}
    assert len(died) == len(dead)
    assert len(entries) == len(going)
    assert not entries.keys() & died.keys()
    assert {*entries, *died} <= {one.execution_id for one in records}
    for record in records:
        key = record.execution_id
        if key in entries:
            attempt = entries[key].attempt - (key in leased)  # `found_in` recovered it
            assert (record.status, record.attempt) == (ExecutionStatus.PENDING, attempt)
            assert record.outcome is None and record.completed_at is None
        else:
            assert record.status.terminal and record.outcome is not None
            assert (record.outcome.error is not None) or key not in died


def found_at(directory: Path) -> dict[str, Any]:
    """What a new service finds in a directory, checked to be whole: all files, and no others."""

    async def look(store: SqliteStore) -> dict[str, Any]:
        files = {path.name for path in (directory / "outputs").iterdir()}
        found = await found_in(store)
        contents = [call_bytes(one.call) for one, _ in found["going"].values()]
        contents += [call_bytes(one.call) for one in found["dead"]]
        for record, _ in (each for each in found["records"].values() if isinstance(each, tuple)):
            outcome = record.execution.outcome
            contents += [outcome.output, outcome.result.body if outcome.result else b""]
        assert files == {sha256(content) for content in contents if len(content) > 65_536}
        return found

    return with_sqlite(directory, look)


def scenario(life: str) -> Scenario:
    """What must be found after each step is what a store in memory then has."""
    steps = LIVES[life]

    async def play() -> list[Any]:
        store = MemoryStore()
        await store.open()
        states = [await found_in(copy.deepcopy(store))]
        for step in steps:
            await step(store)
            states.append(await found_in(copy.deepcopy(store)))
        return states

    return Scenario(steps=steps, look=found_at, states=asyncio.run(play()))


async def _main(life: str, directory: str) -> None:
    async with sqlite_store(Path(directory)) as store:
        for step in LIVES[life]:
            await step(store)
            print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
