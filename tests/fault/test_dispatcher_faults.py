"""Durable executions end to end while the disk, a row or the machine's clock fails them."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atlatl import FunctionService
from atlatl.engine import cancelling, dispatcher, ledger
from atlatl.engine.ledger import LEASE_S
from atlatl.engine.lines import MAX_AHEAD
from atlatl.errors import InternalFailure, StoreUnavailable
from atlatl.events import CallRefused, ExecutionDied, ExecutionFinished
from atlatl.model import Call, Event, Execution, ExecutionStatus, Mode, Queued
from atlatl.settings import Settings
from atlatl.stores.sqlite import SqliteStore
from tests.store_samples import accepted, with_sqlite
from tests.troubled_store import TroubledStore
from tests.unit.test_dispatcher import Durable, durable
from tests.virtual_time import virtual

DONE, FAILED, WAITS = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.PENDING
BULKY: dict[str, Any] = {"metadata": {"notes": "x" * 3000}}
CANCELLED = ExecutionStatus.CANCELLED
DAY_S = 86_400.0


@asynccontextmanager
async def on_disk(directory: Path, **overrides: Any) -> AsyncIterator[tuple[Durable, SqliteStore]]:
    """A dispatcher with scripted instances, on a real store and in real time."""
    store = SqliteStore(directory, Settings())
    it = await durable(store=store, **overrides)
    try:
        yield it, store
    finally:
        it.house.manager.begin_drain(0)
        it.dispatcher.begin_drain()
        await it.house.manager.drained(0)
        await it.dispatcher.close()
        await it.house.executions.close()
        await store.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ledger, dispatcher):
        monkeypatch.setattr(module, "RETRY_S", 0.02)
    monkeypatch.setattr(dispatcher, "TICK_S", 0.05)


async def ends_of(it: Durable, ids: Sequence[str]) -> list[Execution]:
    return list(await asyncio.gather(*(it.end_of(one, 30.0) for one in ids)))


# --- disks ---


class Disk:
    """Has every transaction begin on a database that is well, full, or read-only."""

    WELL = "max_page_count = 1000000", "query_only = OFF"
    FULL = ("max_page_count = 1",)  # it never becomes less than there are
    READ_ONLY = ("query_only = ON",)

    def __init__(self) -> None:
        self.state: Sequence[str] = self.WELL

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                if statement.startswith("BEGIN"):
                    for pragma in disk.state:
                        super().execute(f"PRAGMA {pragma}")
                return super().execute(statement, *values)

        return Connection(*args, **options)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(sqlite3, "connect", disk.connect)
    return disk


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("trouble", ["FULL", "READ_ONLY"])
def test_what_was_accepted_ends_when_the_disk_is_back(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    async def work() -> None:
        async with on_disk(tmp_path, pool={"max_size": 3}) as (it, store):
            ids = [await it.submit(0.1, **BULKY) for _ in range(20)]
            await asyncio.sleep(0.15)  # some have ended, some run, some wait
            disk.state = getattr(disk, trouble)

            refused = []
            for n in range(20):
                key = f"late-{n}"
                try:
                    ids.append(await it.submit(0.0, execution_id=key, id_given=True, **BULKY))
                except StoreUnavailable as error:
                    assert (error.code, error.http_status) == ("STORE_UNAVAILABLE", 503)
                    refused.append(key)
            assert len(refused) > 10
            assert len(it.told(CallRefused)) == len(refused)
            assert it.dispatcher.pending <= len(ids)

            for _ in range(5):  # others go on meanwhile
                assert (await it.house.run("ok", 0.05)).status is DONE
            for execution_id in ids:  # and no end is shown that is not stored
                if (await it.house.executions.get(execution_id)).status.terminal:
                    stored = await store.execution(execution_id)
                    assert stored is not None and stored.execution.status.terminal

            disk.state = disk.WELL
            assert {(one.status, one.attempt) for one in await ends_of(it, ids)} == {(DONE, 1)}
            for key in refused:
                assert await store.execution(key) is None
            again = [
                await it.submit(0.0, execution_id=key, id_given=True, **BULKY) for key in refused
            ]
            assert {one.status for one in await ends_of(it, again)} == {DONE}
            assert [one for one in await store.queue.depths() if one.ready or one.leased] == []
            assert it.dispatcher.pending == it.house.bytes.held == it.house.gate.lent == 0

    asyncio.run(work())
    said = [one for one in caplog.messages if "async executions cannot go on" in one]
    assert len(said) <= 1


@pytest.mark.usefixtures("impatient")
def test_a_cancel_that_cannot_be_stored_says_so_and_holds_if_it_stopped_something(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "PATIENCE_S", 0.5)

    async def work() -> None:
        async with on_disk(tmp_path) as (it, _):
            running = await it.submit(60.0, timeout_ms=90_000)
            delayed = await it.submit(0.0, not_before=it.house.clock() + 1000)
            while not it.house.manager.running:
                await asyncio.sleep(0.01)
            disk.state = disk.READ_ONLY
            for execution_id in (running, delayed):
                with pytest.raises(StoreUnavailable):
                    await it.dispatcher.cancel(execution_id)
            with pytest.raises(StoreUnavailable):
                await it.dispatcher.cancel_all("task", "the task was deleted")
            disk.state = disk.WELL
            assert (await it.end_of(running)).status is CANCELLED
            assert (await it.house.executions.get(delayed)).status is WAITS
            assert await it.dispatcher.cancel_all("task", "the task was deleted") == 1
            assert (await it.house.executions.get(delayed)).status is CANCELLED

    asyncio.run(work())


def test_a_call_with_no_room_for_its_file_is_refused_and_small_ones_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    large: dict[str, Any] = {"metadata": {"notes": "x" * 100_000}}

    async def work() -> None:
        async with on_disk(tmp_path) as (it, store):
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", full)
                with pytest.raises(StoreUnavailable):
                    await it.submit(execution_id="large", id_given=True, **large)
                assert (await it.end_of(await it.submit())).status is DONE
            assert await store.execution("large") is None
            again = await it.submit(execution_id="large", id_given=True, **large)
            assert (await it.end_of(again)).status is DONE
            assert it.dispatcher.pending == 0

    asyncio.run(work())


@virtual
async def test_a_store_that_is_away_for_longer_than_a_lease_costs_no_second_attempt() -> None:
    store: Any = TroubledStore()
    it = await durable(store=store, pool={"max_size": 2})
    ids = [await it.submit(5.0, timeout_ms=60_000) for _ in range(6)]
    await asyncio.sleep(1)
    store.down = True
    await asyncio.sleep(3 * LEASE_S)
    assert {(await held_view(it, one)).terminal for one in ids[:2]} == {False}
    store.down = False
    assert {(one.status, one.attempt) for one in await ends_of(it, ids)} == {(DONE, 1)}
    assert it.attempts == [1] * 6
    assert it.dispatcher.pending == 0


async def held_view(it: Durable, execution_id: str) -> ExecutionStatus:
    return (await it.house.executions.get(execution_id)).status


# --- rows ---


def test_a_call_that_was_damaged_dies_like_any_other_and_is_told_of(tmp_path: Path) -> None:
    async def work() -> None:
        async with on_disk(tmp_path, pool={"max_size": 1}) as (it, store):
            running = await it.submit(0.3)
            bad = [await it.submit(0.0, execution_id=f"bad-{n}") for n in range(3)]
            good = await it.submit(0.0)
            connection = sqlite3.connect(tmp_path / "atlatl.db", isolation_level=None)
            connection.execute("UPDATE queue SET call = x'c1' WHERE execution_id LIKE 'bad-%'")
            connection.close()
            # One of them is stopped, which needs nothing of its call.
            assert await it.dispatcher.cancel(bad.pop())
            assert {one.status for one in await ends_of(it, [running, good])} == {DONE}
            for record in await ends_of(it, bad):
                assert (record.status, record.function_name) == (FAILED, "main")
                assert record.outcome is not None
                assert isinstance(record.outcome.error, InternalFailure)
                assert "was changed or removed" in record.outcome.error.message
            died = it.told(ExecutionDied)
            assert sorted((one.execution_id, one.code) for one in died) == [
                (one, InternalFailure.code) for one in bad
            ]
            assert len(it.told(ExecutionFinished)) == 5
            assert it.dispatcher.pending == 0
            (depth,) = await store.queue.depths()
            assert (depth.ready, depth.leased, depth.dead) == (0, 0, 2)

    asyncio.run(work())


# --- a start ---


def test_a_start_reads_no_more_of_a_long_queue_than_there_is_room_for(tmp_path: Path) -> None:
    def entry(n: int) -> Queued:
        call = Call(
            execution_id=f"e-{n}",
            task_name="task",
            payload=Event(value={"s": 0, "then": "hang"}),
            mode=Mode.ASYNC,
        )
        return Queued(call=call, task_id="id-task", queued_at=1.0, ready_at=1.0, turn=float(n))

    async def fill(store: SqliteStore) -> None:
        entries = [entry(n) for n in range(3000)]
        await asyncio.gather(*(store.queue.enqueue(accepted(one), one) for one in entries))

    async def work() -> None:
        async with on_disk(tmp_path, pool={"max_size": 4}) as (it, store):
            assert it.dispatcher.pending == 3000
            async with asyncio.timeout(10):
                while it.house.manager.running < 4:
                    await asyncio.sleep(0.01)
            (stored,) = await store.queue.depths()
            assert 4 <= stored.leased <= 4 + MAX_AHEAD
            assert stored.ready == 3000 - stored.leased
            (known,) = it.dispatcher.depths()
            assert (known.ready, known.leased) == (2996, 4)

    with_sqlite(tmp_path, fill)
    asyncio.run(work())


# --- clocks ---

SLEEPER = b"import time\ndef main(s=0.0):\n    time.sleep(s)\n"


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_a_jump_of_the_clock_moves_no_due_time_no_expiry_and_no_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    jumped = [0.0]

    def wall() -> float:
        return time.time() + jumped[0]

    clocks = SimpleNamespace(time=wall, monotonic=time.monotonic, process_time=time.process_time)
    monkeypatch.setattr("atlatl.assembly.time", clocks)

    async def work() -> None:
        async with FunctionService(Settings(data_dir=str(tmp_path / "data"))) as service:
            own = {"pool": {"max_size": 1}, "expires_after_s": 60}
            await service.deploy("sleeper", SLEEPER, filename="sleeper.py", settings=own)

            async def submit(s: float, due_in_s: float | None = None) -> str:
                due_at = None if due_in_s is None else wall() + due_in_s
                return await service.submit("sleeper", {"s": s}, not_before=due_at)

            async def end_of(execution_id: str) -> Execution:
                return await service.wait(execution_id, 30)

            running = await submit(0.5)
            began = time.monotonic()
            before = [await submit(0.0), await submit(0.0)]
            due = await submit(0.0, 1.0)
            jumped[0] = jump_s
            after = await submit(0.0)
            due_after = await submit(0.0, 1.0)
            records = [await end_of(one) for one in (running, *before, after)]
            assert {one.status for one in records} == {DONE}
            began_at = [one.started_at or 0.0 for one in records]
            assert began_at == sorted(began_at)  # who came first is first
            for one in (await end_of(due), await end_of(due_after)):
                assert one.status is DONE
                assert 1.0 <= one.queue_s <= 30
                assert 1.0 <= time.monotonic() - began <= 30
                records.append(one)
            for one in records:
                assert one.started_at is not None and one.completed_at is not None
                assert one.queued_at <= one.started_at <= one.completed_at
                assert one.completed_at - one.queued_at <= 30
            assert service.queues() == []

    asyncio.run(work())
