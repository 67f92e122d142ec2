"""Records of executions when things break under them."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from atlatl.errors import StoreUnavailable
from atlatl.model import ExecutionRecord
from atlatl.settings import Settings
from atlatl.stores.sqlite import SqliteStore
from atlatl.stores.statements import migrations
from tests.fault.test_store_faults import (
    FromTheNth,
    copy_before_each_step,
    disk_full,
    io_error,
    pragma,
    statements_refused_by,
)
from tests.store_samples import (
    claim,
    failure,
    plain,
    record,
    sha256,
    sqlite_store,
    success,
    task,
    with_sqlite,
)

BODY, PRINTED = bytes(range(256)) * 300, bytes(reversed(range(256))) * 300
CLAIM = claim("a")
DONE = ExecutionRecord(
    execution=record("a", success(body=BODY)).execution, fingerprint=CLAIM.fingerprint
)
OTHER = record("b", failure(output=PRINTED), task_id="t-2", queued_at=2.0)
STATES: list[list[ExecutionRecord]] = [[], [CLAIM], [DONE, OTHER], [DONE]]


async def record_two(store: SqliteStore, done: list[list[ExecutionRecord]]) -> None:
    """A claim, its end beside another record, and an end of that one."""
    await store.claim_execution(CLAIM)
    done.append([CLAIM])
    await store.put_executions([DONE, OTHER])
    done.append([DONE, OTHER])
    await store.forget_executions("t-2")
    done.append([DONE])


def state_of(directory: Path) -> list[Any]:
    """What a new service finds, checked to be whole: files for each name, and no others."""

    async def look(store: SqliteStore) -> list[Any]:
        rows = await store.executions(task="", status=None, before=None, limit=9)
        found = [await store.execution(row.execution_id) for row in rows]
        contents = {
            content
            for one in found
            if one is not None and one.execution.outcome is not None
            for content in (
                one.execution.outcome.output,
                one.execution.outcome.result.body if one.execution.outcome.result else b"",
            )
        }
        files = {path.name for path in (directory / "outputs").iterdir()}
        assert files == {sha256(content) for content in contents if len(content) > 65_536}
        return [plain(one) for one in found]

    return with_sqlite(directory, look)


def step_of(state: list[Any]) -> int:
    return [[plain(one) for one in known] for known in STATES].index(state)


def test_a_crash_at_any_statement_or_disk_call_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    done: list[list[ExecutionRecord]] = []
    copies = copy_before_each_step(tmp_path, lambda store: record_two(store, done))
    steps = [step_of(state_of(copy)) for copy in copies]
    assert len(steps) > 30
    assert steps == sorted(steps)
    assert set(steps) == {0, 1, 2, 3}


def record_under_fault(directory: Path) -> list[list[ExecutionRecord]]:
    done: list[list[ExecutionRecord]] = [[]]

    async def run() -> None:
        async with sqlite_store(directory) as store:
            await record_two(store, done)

    try:
        asyncio.run(asyncio.wait_for(run(), 30))
    except StoreUnavailable as error:
        assert str(directory.parent) in error.message
    return done


@pytest.mark.parametrize("once", [True, False], ids=["one failure", "failing from then on"])
def test_a_failure_of_the_nth_statement_leaves_the_old_or_the_new(
    tmp_path: Path, once: bool
) -> None:
    for n in itertools.count(1):
        fault, directory = FromTheNth(n, io_error, once=once), tmp_path / str(n)
        with statements_refused_by(fault):
            done = record_under_fault(directory)
        assert step_of(state_of(directory)) in (len(done) - 1, len(done))
        if not fault.fired:
            break
    assert n > 30
    assert done == STATES


def test_a_full_disk_at_the_nth_fsync_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    for n in itertools.count(1):
        fault, directory = FromTheNth(n, disk_full), tmp_path / str(n)

        def full(fd: int, fault: FromTheNth = fault) -> None:
            fault()
            fsync(fd)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            done = record_under_fault(directory)
        if directory.exists():
            assert step_of(state_of(directory)) in (len(done) - 1, len(done))
        if not fault.fired:
            break
    assert n > 4
    assert done == STATES


@pytest.mark.parametrize("change", ["edited", "gone"])
def test_output_that_somebody_changed_is_never_handed_out(tmp_path: Path, change: str) -> None:
    async def work(store: SqliteStore) -> None:
        await store.put_executions([DONE])
        (file,) = (tmp_path / "outputs").iterdir()
        if change == "edited":
            file.write_bytes(b"evil")
        else:
            file.unlink()
        with pytest.raises(StoreUnavailable, match="execution 'a' was changed or removed"):
            await store.execution("a")
        rows = await store.executions(task="", status=None, before=None, limit=9)
        assert [row.execution_id for row in rows] == ["a"]
        await store.put_executions([DONE])
        assert plain(await store.execution("a")) == plain(DONE)

    with_sqlite(tmp_path, work)


def test_a_damaged_row_is_reported(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        await store.put_executions([DONE])
        await store._writer.run(lambda c: c.execute("UPDATE executions SET outcome = '{'") and None)
        with pytest.raises(StoreUnavailable, match=r"atlatl\.db: .*restore it from a backup"):
            await store.execution("a")

    with_sqlite(tmp_path, work)


def test_a_full_database_refuses_the_large_and_goes_on_with_the_small(tmp_path: Path) -> None:
    large = [record(f"l-{n}", success(body=b"x" * 60_000)) for n in range(10)]

    async def work(store: SqliteStore) -> None:
        pages = (await store._writer.run(pragma("page_count")))[0][0]  # type: ignore[index]
        await store._writer.run(pragma(f"max_page_count = {pages + 30}"))
        with pytest.raises(StoreUnavailable, match="no room is left"):
            await store.put_executions(large)
        assert await store.claim_execution(claim("small")) is None
        rows = await store.executions(task="", status=None, before=None, limit=9)
        assert [row.execution_id for row in rows] == ["small"]

    with_sqlite(tmp_path, work)


def test_a_database_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "atlatl.db")
    old.executescript(f"BEGIN;\n{migrations()[0]}\nPRAGMA user_version = 1;\nCOMMIT;")
    old.close()

    async def work(store: SqliteStore) -> None:
        await store.put_task(task())
        await store.put_executions([DONE])

    with_sqlite(tmp_path, work)
    assert state_of(tmp_path) == [plain(DONE)]


def test_a_claim_and_a_prune_at_once_never_lose_the_claim(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(tmp_path, Settings())
        await store.open()
        for _ in range(20):
            await store.put_executions([record("a", completed_at=1.0)])
            answer, _ = await asyncio.gather(
                store.claim_execution(CLAIM),
                store.prune_executions(ended_before=2.0, spare_since=0.0, keep=9, keep_bytes=9**9),
            )
            found = await store.execution("a")
            assert found == (CLAIM if answer is None else None)
            await store.forget_executions("t-1")
        await store.close()

    asyncio.run(work())
