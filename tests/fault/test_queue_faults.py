"""Durable executions when things break under them."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from atlatl.errors import StoreUnavailable
from atlatl.model import Event, ExecutionStatus
from atlatl.stores.queue_rows import call_bytes
from atlatl.stores.sqlite import SqliteStore
from atlatl.stores.statements import migrations
from atlatl.stores.writer import BatchWriter
from tests.fault.harness import (
    FromTheNth,
    crash_at_each_step,
    fail_at_each_statement,
    fill_disk_at_each_sync,
    io_error,
    pragma,
    statements_refused_by,
)
from tests.fault.killing import killer, run_until_sync
from tests.fault.queue_steps import LARGE, LIVES, LOST, enqueue_all, found_at, scenario
from tests.store_samples import (
    accepted,
    ended,
    failure,
    plain,
    queued,
    record,
    sha256,
    success,
    with_sqlite,
)

BIG = queued("bad", payload=Event(value=LARGE))
lives = pytest.mark.parametrize("life", LIVES)


@lives
def test_a_crash_at_any_statement_or_disk_call_leaves_the_old_or_the_new(
    tmp_path: Path, life: str
) -> None:
    assert crash_at_each_step(scenario(life), tmp_path) > 60


@pytest.mark.slow
@lives
@pytest.mark.parametrize("once", [True, False], ids=["one failure", "failing from then on"])
def test_a_failure_of_the_nth_statement_leaves_the_old_or_the_new(
    tmp_path: Path, life: str, once: bool
) -> None:
    assert fail_at_each_statement(scenario(life), tmp_path, once=once) > 50


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False], ids=["one failure", "failing from then on"])
def test_of_many_written_together_each_is_written_or_refused_whatever_statement_fails(
    tmp_path: Path, once: bool
) -> None:
    old = [queued(f"old-{n}", lease=1) for n in range(7)]
    new = [queued(f"new-{n}", payload=Event(value=LARGE[:n])) for n in range(6)]
    answers: list[object] = []

    async def work(store: SqliteStore) -> None:
        accepts = [store.queue.enqueue(accepted(one), one) for one in new]
        settles = [store.queue.settle(ended(one), 1) for one in old]
        answers.extend(await asyncio.gather(*accepts, *settles, return_exceptions=True))

    async def check(store: SqliteStore) -> None:
        for one, answer in zip(new + old, answers, strict=True):
            kept = await store.execution(one.call.execution_id)
            if isinstance(answer, StoreUnavailable):
                assert not once
                assert kept == (accepted(one) if one in old else None)
            else:
                assert answer is (None if one in new else True)
                assert plain(kept) == plain(accepted(one) if one in new else ended(one))
        written = [one for one, answer in zip(new, answers[:6], strict=True) if answer is None]
        found = await store.queue.lease({"hello": 99}, now=20.0, until=80.0)
        assert {one.call.execution_id for one in found} == {
            one.call.execution_id for one in written
        }

    with_sqlite(tmp_path / "before", lambda store: enqueue_all(store, *old))
    for n in itertools.count(1):
        directory, fault = tmp_path / str(n), FromTheNth(n, io_error, once=once)
        shutil.copytree(tmp_path / "before", directory)
        answers.clear()
        with statements_refused_by(fault):
            try:
                with_sqlite(directory, work)
            except StoreUnavailable:
                assert not answers  # it did not open
        if answers:
            with_sqlite(directory, check)
        if not fault.fired:
            break
        shutil.rmtree(directory)
    assert n > 20


@lives
def test_a_full_disk_at_the_nth_fsync_leaves_the_old_or_the_new(tmp_path: Path, life: str) -> None:
    assert fill_disk_at_each_sync(scenario(life), tmp_path) > 3


@pytest.mark.slow
@lives
def test_killed_at_the_nth_fsync_it_has_what_it_told_and_the_old_or_the_new(
    tmp_path: Path, life: str
) -> None:
    kill_at, expected = killer(tmp_path), scenario(life)
    for n in itertools.count(1):
        directory = tmp_path / str(n)
        n_told, killed = run_until_sync(kill_at, n, "tests.fault.queue_steps", life, str(directory))
        expected.check(directory, n_told)
        if not killed:
            break
        shutil.rmtree(directory)
    assert n_told == len(expected.steps)
    assert n > 15


# --- disks ---


def test_a_full_database_takes_no_more_and_loses_nothing(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        await enqueue_all(store, *(queued(f"old-{n}", lease=1) for n in range(20)))
        pages = (await store._database.writer.run(pragma("page_count")))[0][0]
        await store._database.writer.run(pragma(f"max_page_count = {pages + 12}"))
        refused = 0
        for n in range(50):
            one = queued(f"new-{n:02}", payload=Event(value=b"x" * 3000))
            try:
                await enqueue_all(store, one)
            except StoreUnavailable as error:
                assert "no room is left" in error.message
                assert await store.execution(one.call.execution_id) is None
                refused += 1
        assert 0 < refused < 50
        (depth,) = await store.queue.depths()
        assert (depth.leased, depth.ready) == (20, 50 - refused)
        await store._database.writer.run(pragma("max_page_count = 100000"))
        for n in range(20):
            assert await store.queue.settle(ended(queued(f"old-{n}")), 1)
        assert len(await store.queue.lease({"hello": 99}, now=20.0, until=80.0)) == 50 - refused

    with_sqlite(tmp_path, work)


def test_what_cannot_be_settled_on_a_full_disk_is_settled_later(tmp_path: Path) -> None:
    end = ended(queued("a"), success(b"x" * 60_000))

    async def work(store: SqliteStore) -> None:
        await enqueue_all(store, queued("a", lease=1))
        pages = (await store._database.writer.run(pragma("page_count")))[0][0]
        await store._database.writer.run(pragma(f"max_page_count = {pages}"))
        with pytest.raises(StoreUnavailable, match="no room is left"):
            await store.queue.settle(end, 1)
        kept = await store.execution("a")
        assert kept is not None and kept.execution.status is ExecutionStatus.PENDING
        assert [depth.leased for depth in await store.queue.depths()] == [1]
        await store._database.writer.run(pragma("max_page_count = 100000"))
        assert await store.queue.settle(end, 1)

    with_sqlite(tmp_path, work)


def test_a_database_that_cannot_be_written_says_so_and_still_reads(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        await enqueue_all(store, queued("a"), queued("b", lease=1))
        await store._database.writer.run(pragma("query_only = ON"))
        queue = store.queue
        for use in (
            lambda: enqueue_all(store, queued("c")),
            lambda: enqueue_all(store, queued("d", payload=Event(value=LARGE))),
            lambda: queue.lease({"hello": 1}, now=20.0, until=80.0),
            lambda: queue.take("a", until=80.0),
            lambda: queue.put_back(queued("b", lease=1), now=20.0),
            lambda: queue.settle(ended(queued("b"), success(LARGE)), 1),
            lambda: queue.recover(lapsed_before=None, now=20.0, limit=9, outcome=LOST),
        ):
            with pytest.raises(StoreUnavailable, match=r"atlatl\.db: .*mounted read-only"):
                await use()
        (depth,) = await queue.depths()
        assert (depth.ready, depth.leased) == (1, 1)
        assert list((tmp_path / "outputs").iterdir()) == []

    with_sqlite(tmp_path, work)


def test_a_database_cut_short_is_refused_and_whole_again_when_restored(tmp_path: Path) -> None:
    data = tmp_path / "data"
    entries = [queued(f"e-{n}", payload=Event(value=b"x" * 2000)) for n in range(50)]
    with_sqlite(data, lambda store: enqueue_all(store, *entries))
    before = (data / "atlatl.db").read_bytes()
    for length in (1, 100, 4096, len(before) // 2, len(before) - 4096, len(before) - 1):
        (data / "atlatl.db").write_bytes(before[:length])
        with pytest.raises(StoreUnavailable, match=r"atlatl\.db.*(restore|check)"):
            with_sqlite(data, lambda store: store.queue.depths())
    (data / "atlatl.db").write_bytes(before)
    assert len(found_at(data)["going"]) == 50


def test_a_log_cut_short_is_an_earlier_state_and_whole(tmp_path: Path) -> None:
    data, life = tmp_path / "data", scenario("coming")

    async def work(store: SqliteStore) -> None:
        await life.run(store, [])
        shutil.copytree(data, tmp_path / "copy")  # a close would empty the log

    with_sqlite(data, work)
    log = (tmp_path / "copy" / "atlatl.db-wal").read_bytes()
    seen = []
    for length in range(0, len(log), len(log) // 25):
        copy = tmp_path / str(length)
        shutil.copytree(tmp_path / "copy", copy, ignore=shutil.ignore_patterns("*-shm"))
        (copy / "atlatl.db-wal").write_bytes(log[:length])
        try:
            seen.append(life.states.index(found_at(copy)))
        except StoreUnavailable:  # not even the tables were made
            assert not seen
    assert seen == sorted(seen)
    assert len(set(seen)) > 5


# --- files ---


def files_of(directory: Path) -> set[str]:
    return {path.name for path in (directory / "outputs").iterdir()}


def test_a_large_call_is_a_file_until_it_has_ended(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        await enqueue_all(store, BIG)
        await store.queue.enqueue(accepted(BIG), BIG)  # refused: it leaves nothing
        assert files_of(tmp_path) == {sha256(call_bytes(BIG.call))}
        assert await store.queue.take("bad", until=80.0) is not None
        stale = ended(BIG, success(LARGE + b"stale"))
        assert not await store.queue.settle(stale, 9)
        assert files_of(tmp_path) == {sha256(call_bytes(BIG.call))}
        assert await store.queue.settle(ended(BIG, failure(LARGE)), 1, died_at=30.0)
        assert files_of(tmp_path) == {sha256(call_bytes(BIG.call)), sha256(LARGE)}
        assert await store.queue.redrive("bad", now=40.0) is not None
        assert files_of(tmp_path) == {sha256(call_bytes(BIG.call))}
        assert await store.queue.take("bad", until=80.0) is not None
        assert await store.queue.settle(ended(BIG, success(LARGE)), 2)
        assert files_of(tmp_path) == {sha256(LARGE)}

    with_sqlite(tmp_path, work)


def test_a_file_that_cannot_go_now_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path, *, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async def work(store: SqliteStore) -> None:
        await enqueue_all(store, queued("bad", lease=1, payload=BIG.call.payload))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            assert await store.queue.settle(ended(BIG), 1)
        assert len(files_of(tmp_path)) == 1
        await store.close()
        await store.open()
        assert files_of(tmp_path) == set()

    with_sqlite(tmp_path, work)


def test_a_file_goes_only_when_that_is_committed(tmp_path: Path) -> None:
    """What a failed commit brings back must find its bytes again."""
    happened: list[str] = []

    class FailingCommit(sqlite3.Connection):
        def execute(self, statement: str, *args: Any) -> sqlite3.Cursor:
            if statement == "COMMIT":
                happened.append("commit")
                if happened.count("commit") == 1:
                    raise sqlite3.OperationalError("disk I/O error")
            return super().execute(statement, *args)

    def connect_failing() -> sqlite3.Connection:
        return sqlite3.connect(tmp_path / "db", isolation_level=None, factory=FailingCommit)

    def refuse(_: sqlite3.Connection) -> None:
        raise LookupError

    async def work() -> None:
        writer = BatchWriter(connect_failing)
        await writer.open()
        value = await writer.run(lambda _: 7, lambda _, value: happened.append(f"after {value}"))
        assert value == 7
        with pytest.raises(LookupError):
            await writer.run(refuse, lambda _, __: happened.append("never"))
        await writer.close()

    asyncio.run(work())
    assert happened == ["commit", "commit", "after 7", "commit"]


def test_a_caller_that_gives_up_leaves_it_accepted_or_not(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        for n in range(20):
            entry = queued(f"e-{n}", payload=Event(value=LARGE + bytes([n])))
            task = asyncio.ensure_future(store.queue.enqueue(accepted(entry), entry))
            for _ in range(n):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with_sqlite(tmp_path, work)
    found_at(tmp_path)


def test_a_database_of_the_second_schema_keeps_its_records(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "atlatl.db")
    for number, script in enumerate(migrations()[:2], start=1):
        old.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
    columns = [row[1] for row in old.execute("PRAGMA table_info (executions)")]
    old.close()
    assert "promised" in columns

    async def work(store: SqliteStore) -> None:
        await store.put_executions([record("sync")])
        await enqueue_all(store, queued("a"))
        assert await store.end_unfinished(LOST, 5.0) == 0

    with_sqlite(tmp_path, work)
    assert set(found_at(tmp_path)["records"]) == {"sync", "a"}
