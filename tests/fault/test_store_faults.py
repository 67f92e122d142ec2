"""The store of SQLite and files when things break under it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from atlatl.errors import (
    ArtifactNotFound,
    AtlatlError,
    ChecksumMismatch,
    SettingInvalid,
    StoreUnavailable,
)
from atlatl.model import Task
from atlatl.ports import Store
from atlatl.settings import Settings, TaskOptions
from atlatl.stores import writer
from atlatl.stores.sqlite import SqliteStore
from tests.fault.harness import (
    FromTheNth,
    Scenario,
    crash_at_each_step,
    disk_full,
    fail_at_each_statement,
    fill_disk_at_each_sync,
    io_error,
    pragma,
    statements_refused_by,
)
from tests.store_samples import artifact, sha256, sqlite_store, task, with_sqlite

OLD = task(artifact=artifact(b"old code"))
NEW = task(version=2, artifact=artifact(b"new code", version="2"))


async def deploy(store: Store) -> None:
    await store.put_blob(b"old code")
    await store.put_task(OLD)


async def deploy_again(store: Store) -> None:
    await store.put_blob(b"new code")
    await store.put_task(NEW)


async def forget_the_old(store: Store) -> None:
    await store.delete_artifact(OLD.artifact.checksum)


def state_of(directory: Path) -> list[Task]:
    """What a new service finds, checked to be whole: bytes for each name, and no others."""

    async def look(store: SqliteStore) -> list[Task]:
        tasks = list(await store.load_tasks())
        artifacts = await store.load_artifacts()
        for one in artifacts:
            assert sha256(await store.blob(one.checksum)) == one.checksum
        files = {path.name for path in (directory / "blobs").iterdir()}
        assert files == {one.checksum for one in artifacts}
        return tasks

    return with_sqlite(directory, look)


DEPLOYS = Scenario(
    steps=[deploy, deploy_again, forget_the_old],
    look=state_of,
    states=[[], [OLD], [NEW], [NEW]],
)


def test_a_crash_at_any_statement_or_disk_call_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    assert crash_at_each_step(DEPLOYS, tmp_path) > 40


@pytest.mark.parametrize("once", [True, False], ids=["one failure", "failing from then on"])
def test_a_failure_of_the_nth_statement_leaves_the_old_or_the_new(
    tmp_path: Path, once: bool
) -> None:
    assert fail_at_each_statement(DEPLOYS, tmp_path, once=once) > 30


def test_a_full_disk_at_the_nth_fsync_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    assert fill_disk_at_each_sync(DEPLOYS, tmp_path) > 5


def test_a_disk_without_room_for_bytes_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise disk_full()

    async def work(store: SqliteStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StoreUnavailable, match="blobs: No space left") as caught:
                await store.put_blob(b"code")
        assert caught.value.retry_after_s is not None
        assert list((tmp_path / "blobs").iterdir()) == []
        assert await store.put_blob(b"code") == sha256(b"code")

    with_sqlite(tmp_path, work)


def test_a_full_database_refuses_the_large_and_goes_on_with_the_small(tmp_path: Path) -> None:
    large = task("t-large", "large", overrides={"description": "x" * 500_000})
    small = [task(f"t-{number}", f"small-{number}") for number in range(5)]

    async def work(store: SqliteStore) -> None:
        pages = (await store._database.writer.run(pragma("page_count")))[0][0]  # type: ignore[index]
        await store._database.writer.run(pragma(f"max_page_count = {pages + 20}"))
        puts = [store.put_task(one) for one in (*small[:3], large, *small[3:])]
        answers = await asyncio.gather(*puts, return_exceptions=True)
        refused = [answer for answer in answers if answer is not None]
        assert len(refused) == 1
        assert isinstance(answers[3], StoreUnavailable)
        assert "atlatl.db: database or disk is full; no room is left" in str(answers[3])
        assert list(await store.load_tasks()) == small

    with_sqlite(tmp_path, work)
    assert list(with_sqlite(tmp_path, lambda store: store.load_tasks())) == small


def test_a_database_that_cannot_be_written_says_so_and_still_reads(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        await store.put_task(OLD)
        await store._database.writer.run(pragma("query_only = ON"))
        with pytest.raises(StoreUnavailable, match=r"atlatl\.db: .*readonly.*mounted read-only"):
            await store.put_task(NEW)
        assert list(await store.load_tasks()) == [OLD]

    with_sqlite(tmp_path, work)


def test_a_locked_database_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(store: SqliteStore) -> None:
        await store._database.writer.run(pragma("busy_timeout = 1"))
        other = sqlite3.connect(tmp_path / "atlatl.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process has it locked"):
            await store.put_task(OLD)
        other.close()
        await store.put_task(OLD)

    with_sqlite(tmp_path, work)


def test_a_truncated_database_is_refused_and_no_bytes_are_lost(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with_sqlite(data, lambda store: DEPLOYS.run(store, []))
    whole = (data / "atlatl.db").read_bytes()
    for length in (0, 1, 50, 100, 4096, len(whole) // 2, len(whole) - 4096):
        (data / "atlatl.db").write_bytes(whole[:length])
        with pytest.raises(StoreUnavailable, match=r"atlatl\.db.*(restore|check)"):
            with_sqlite(data, lambda store: store.load_tasks())
    (data / "atlatl.db").write_bytes(whole)
    assert state_of(data) == [NEW]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "atlatl.db").write_bytes(b"these are my notes\n" * 500)
    with pytest.raises(StoreUnavailable, match=r"atlatl\.db: .*not a database; .*restore"):
        with_sqlite(tmp_path, lambda store: store.load_tasks())


def test_damaged_rows_are_reported(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        await store.put_task(OLD)
        await store._database.writer.run(
            lambda c: c.execute("UPDATE tasks SET shapes = '{'") and None
        )
        with pytest.raises(StoreUnavailable, match=r"atlatl\.db: .*restore it from a backup"):
            await store.load_tasks()

    with_sqlite(tmp_path, work)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    with_sqlite(tmp_path, lambda store: store._database.writer.run(pragma("user_version = 99")))
    with pytest.raises(StoreUnavailable, match=r"has schema version 99, .*upgrade atlatl"):
        with_sqlite(tmp_path, lambda store: store.load_tasks())


def test_a_second_service_on_the_directory_is_refused(tmp_path: Path) -> None:
    async def work(_: SqliteStore) -> None:
        with pytest.raises(SettingInvalid) as caught:
            await SqliteStore(tmp_path, Settings()).open()
        assert str(tmp_path) in caught.value.message
        assert f"pid {os.getpid()}" in caught.value.message

    with_sqlite(tmp_path, work)
    with_sqlite(tmp_path, lambda store: store.load_tasks())


def test_a_data_dir_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match=r"file.*permissions"):
        with_sqlite(tmp_path / "file" / "data", lambda store: store.load_tasks())


def test_others_can_read_nothing(tmp_path: Path) -> None:
    data = tmp_path / "made" / "data"

    async def work(store: SqliteStore) -> None:
        await DEPLOYS.run(store, [])
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        for path in data.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    with_sqlite(data, work)


def test_settings_that_no_longer_fit_name_the_task(tmp_path: Path) -> None:
    slow = task(overrides={"timeout_ms": 600_000})
    with_sqlite(tmp_path, lambda store: store.put_task(slow))
    stricter = Settings(task=TaskOptions(max_timeout_ms=60_000))

    async def load() -> None:
        async with sqlite_store(tmp_path, stricter) as store:
            await store.load_tasks()

    with pytest.raises(SettingInvalid, match=r"task 'hello' .*timeout_ms"):
        asyncio.run(load())


def test_defaults_of_the_service_reach_tasks_of_an_earlier_life(tmp_path: Path) -> None:
    with_sqlite(tmp_path, lambda store: store.put_task(task(overrides={"priority": 1})))

    async def load() -> Task:
        async with sqlite_store(tmp_path, Settings(task=TaskOptions(timeout_ms=7))) as store:
            return (await store.load_tasks())[0]

    loaded = asyncio.run(load())
    assert (loaded.settings.timeout_ms, loaded.settings.priority) == (7, 1)


def test_changed_bytes_are_never_handed_out_d97(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        checksum = await store.put_blob(b"code")
        (tmp_path / "blobs" / checksum).write_bytes(b"evil")
        with pytest.raises(ChecksumMismatch, match=checksum):
            await store.blob(checksum)
        assert await store.put_blob(b"code") == checksum
        assert await store.blob(checksum) == b"code"
        (tmp_path / "blobs" / checksum).unlink()
        with pytest.raises(ArtifactNotFound, match=checksum):
            await store.blob(checksum)

    with_sqlite(tmp_path, work)


def test_bytes_stored_while_they_are_forgotten_are_whole_or_gone(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        checksum = sha256(b"code")
        for _ in range(20):
            await asyncio.gather(
                store.put_blob(b"code"), store.delete_artifact(checksum), store.put_blob(b"code")
            )
            try:
                assert await store.blob(checksum) == b"code"
            except ArtifactNotFound:
                assert not (tmp_path / "blobs" / checksum).exists()

    with_sqlite(tmp_path, work)


def test_one_failure_in_a_group_fails_alone(tmp_path: Path) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM tasks")
        raise LookupError("mine alone")

    async def work(store: SqliteStore) -> None:
        tasks = [task(f"t-{number}", f"name-{number}") for number in range(4)]
        first, second, third = (store.put_task(one) for one in tasks[:3])
        answers = await asyncio.gather(
            first, second, store._database.writer.run(fail), third, return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [type(None)] * 2 + [LookupError, type(None)]
        assert list(await store.load_tasks()) == tasks[:3]

    with_sqlite(tmp_path, work)


def test_a_group_is_one_commit_and_one_wake_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[str] = []
    monkeypatch.setattr(writer, "BATCH_S", 3600.0)

    async def work(store: SqliteStore) -> None:
        blocked = threading.Event()
        await store._database.writer.run(lambda c: c.set_trace_callback(commits.append))
        commits.clear()
        loop = asyncio.get_running_loop()
        wake, woken = loop.call_soon_threadsafe, 0

        def counted(*args: Any) -> asyncio.Handle:
            nonlocal woken
            woken += 1
            return wake(*args)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        holding = asyncio.ensure_future(store._database.writer.run(lambda _: blocked.wait(30)))
        puts = [store.put_task(task(f"t-{n:04}", f"name-{n}")) for n in range(400)]
        waiting = [asyncio.ensure_future(put) for put in puts]
        await asyncio.sleep(0)  # let each hand its operation over
        blocked.set()
        await asyncio.gather(holding, *waiting)
        assert commits.count("COMMIT") == woken == 2
        assert commits.count("SAVEPOINT operation") == 0

    with_sqlite(tmp_path, work)


def test_a_caller_that_gives_up_harms_nobody(tmp_path: Path) -> None:
    async def work(store: SqliteStore) -> None:
        blocked = threading.Event()
        holding = asyncio.ensure_future(store._database.writer.run(lambda _: blocked.wait(30)))
        given_up = asyncio.ensure_future(store.put_task(OLD))
        await asyncio.sleep(0)
        given_up.cancel()
        blocked.set()
        await holding
        await store.put_task(NEW)
        assert list(await store.load_tasks()) == [NEW]

    with_sqlite(tmp_path, work)


def test_close_finishes_what_was_handed_over(tmp_path: Path) -> None:
    async def run() -> None:
        store = SqliteStore(tmp_path, Settings())
        await store.open()
        puts = [asyncio.ensure_future(store.put_task(task(f"t-{n}", f"n-{n}"))) for n in range(50)]
        await asyncio.sleep(0)
        await store.close()
        await asyncio.gather(*puts)

    asyncio.run(run())
    assert len(with_sqlite(tmp_path, lambda store: store.load_tasks())) == 50


def test_a_failed_open_leaves_neither_thread_nor_lock(tmp_path: Path) -> None:
    with statements_refused_by(FromTheNth(1, io_error)), pytest.raises(AtlatlError):
        with_sqlite(tmp_path, lambda store: store.load_tasks())
    assert not any(thread.name.startswith("atlatl-store") for thread in threading.enumerate())
    with_sqlite(tmp_path, lambda store: store.load_tasks())
