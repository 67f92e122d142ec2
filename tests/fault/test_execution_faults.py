"""Records of executions when things break under them."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from atlatl.errors import StoreUnavailable
from atlatl.model import ExecutionRecord
from atlatl.settings import Settings
from atlatl.stores.sqlite import SqliteStore
from atlatl.stores.statements import migrations
from tests.fault.harness import (
    Scenario,
    crash_at_each_step,
    fail_at_each_statement,
    fill_disk_at_each_sync,
    pragma,
)
from tests.store_samples import (
    claim,
    failure,
    plain,
    record,
    sha256,
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


RECORDS = Scenario(
    steps=[
        lambda store: store.claim_execution(CLAIM),
        lambda store: store.put_executions([DONE, OTHER]),
        lambda store: store.forget_executions("t-2"),
    ],
    look=state_of,
    states=[[plain(one) for one in state] for state in ([], [CLAIM], [DONE, OTHER], [DONE])],
)


def test_a_crash_at_any_statement_or_disk_call_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    assert crash_at_each_step(RECORDS, tmp_path) > 30


@pytest.mark.parametrize("once", [True, False], ids=["one failure", "failing from then on"])
def test_a_failure_of_the_nth_statement_leaves_the_old_or_the_new(
    tmp_path: Path, once: bool
) -> None:
    assert fail_at_each_statement(RECORDS, tmp_path, once=once) > 25


def test_a_full_disk_at_the_nth_fsync_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    assert fill_disk_at_each_sync(RECORDS, tmp_path) > 4


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
        await store._database.writer.run(
            lambda c: c.execute("UPDATE executions SET outcome = '{'") and None
        )
        with pytest.raises(StoreUnavailable, match=r"atlatl\.db: .*restore it from a backup"):
            await store.execution("a")

    with_sqlite(tmp_path, work)


def test_a_full_database_refuses_the_large_and_goes_on_with_the_small(tmp_path: Path) -> None:
    large = [record(f"l-{n}", success(body=b"x" * 60_000)) for n in range(10)]

    async def work(store: SqliteStore) -> None:
        pages = (await store._database.writer.run(pragma("page_count")))[0][0]  # type: ignore[index]
        await store._database.writer.run(pragma(f"max_page_count = {pages + 30}"))
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
