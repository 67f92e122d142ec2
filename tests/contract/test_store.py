"""What every store promises."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from atlatl.errors import ArtifactNotFound, Conflict, StoreUnavailable
from atlatl.ports import Store
from tests.contract.conftest import Run, reopen
from tests.store_samples import artifact, sha256, task


def test_a_task_comes_back_equal_after_a_restart(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.put_task(task())
        await reopen(store)
        assert list(await store.load_tasks()) == [task()]
        assert list(await store.load_artifacts()) == [artifact()]

    run(work)


def test_tasks_come_in_the_order_of_their_ids(run: Run) -> None:
    async def work(store: Store) -> None:
        for task_id in ("c", "a", "b"):
            await store.put_task(task(task_id, f"name-{task_id}"))
        assert [one.task_id for one in await store.load_tasks()] == ["a", "b", "c"]

    run(work)


def test_put_replaces_by_id_and_keeps_both_artifacts(run: Run) -> None:
    newer = task(version=2, name="hello2", artifact=artifact(b"new", version="2"))

    async def work(store: Store) -> None:
        await store.put_task(task())
        await store.put_task(newer)
        assert list(await store.load_tasks()) == [newer]
        assert [one.version for one in await store.load_artifacts()] == ["1", "2"]

    run(work)


def test_a_name_belongs_to_one_task(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.put_task(task("t-1", "hello"))
        with pytest.raises(Conflict, match=r"'hello' exists with another id, t-1"):
            await store.put_task(task("t-2", "hello", artifact=artifact(b"other")))
        assert list(await store.load_tasks()) == [task("t-1", "hello")]
        assert list(await store.load_artifacts()) == [artifact()]
        await store.delete_task("t-1")
        await store.put_task(task("t-2", "hello"))

    run(work)


def test_the_last_word_on_an_artifact_counts_for_all_its_tasks(run: Run) -> None:
    relabelled = artifact(labels={"team": "red"}, location="")

    async def work(store: Store) -> None:
        await store.put_task(task("t-1", "one"))
        await store.put_task(task("t-2", "two", artifact=relabelled))
        assert [one.artifact for one in await store.load_tasks()] == [relabelled, relabelled]
        assert list(await store.load_artifacts()) == [relabelled]

    run(work)


def test_deleting_a_task_says_whether_it_was_there(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.put_task(task())
        assert await store.delete_task("t-1") is True
        assert await store.delete_task("t-1") is False
        assert list(await store.load_tasks()) == []
        assert list(await store.load_artifacts()) == [artifact()]

    run(work)


def test_bytes_come_back_by_their_sha256(run: Run) -> None:
    async def work(store: Store) -> None:
        for content in (b"", b"code", bytes(range(256)) * 1000):
            assert await store.put_blob(content) == sha256(content)
            assert await store.blob(sha256(content)) == content
        assert await store.put_blob(b"code") == sha256(b"code")

    run(work)


def test_bytes_of_an_artifact_survive_a_restart_and_others_do_not(run: Run) -> None:
    async def work(store: Store) -> None:
        named, unnamed = await store.put_blob(b"code"), await store.put_blob(b"cut short")
        await store.put_task(task())
        await reopen(store)
        assert await store.blob(named) == b"code"
        with pytest.raises(ArtifactNotFound):
            await store.blob(unnamed)

    run(work)


@pytest.mark.parametrize("checksum", [sha256(b"never stored"), "", "../atlatl.db", "A" * 64])
def test_unknown_bytes_are_not_found(run: Run, checksum: str) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(ArtifactNotFound):
            await store.blob(checksum)
        await store.delete_artifact(checksum)
        await store.put_task(task())

    run(work)


def test_an_artifact_that_a_task_names_is_kept(run: Run) -> None:
    async def work(store: Store) -> None:
        checksum = await store.put_blob(b"code")
        await store.put_task(task())
        await store.delete_artifact(checksum)
        assert await store.blob(checksum) == b"code"
        assert list(await store.load_tasks()) == [task()]
        await store.delete_task("t-1")
        await store.delete_artifact(checksum)
        assert list(await store.load_artifacts()) == []
        with pytest.raises(ArtifactNotFound):
            await store.blob(checksum)

    run(work)


def test_of_two_artifacts_with_the_same_bytes_only_the_unnamed_goes(run: Run) -> None:
    kept, dropped = artifact(version="1"), artifact(version="2")

    async def work(store: Store) -> None:
        checksum = await store.put_blob(b"code")
        await store.put_task(task(artifact=dropped))
        await store.put_task(task(artifact=kept))
        await store.delete_artifact(checksum)
        assert list(await store.load_artifacts()) == [kept]
        assert await store.blob(checksum) == b"code"

    run(work)


def test_two_hundred_artifacts_in_turn_leave_nothing_behind_d78(run: Run) -> None:
    async def work(store: Store) -> None:
        for number in range(200):
            content = b"code %d" % number
            checksum = await store.put_blob(content)
            await store.put_task(task(artifact=artifact(content, artifact_id=f"art-{number}")))
            await store.delete_task("t-1")
            await store.delete_artifact(checksum)
        assert list(await store.load_artifacts()) == []
        assert list(await store.load_tasks()) == []

    run(work)


def test_many_writers_at_once_are_all_answered(run: Run) -> None:
    async def work(store: Store) -> None:
        tasks = [task(f"t-{number:03}", f"name-{number}") for number in range(300)]
        await asyncio.gather(*(store.put_task(one) for one in tasks))
        assert list(await store.load_tasks()) == tasks

    run(work)


def test_what_was_put_is_seen_by_the_next_read(run: Run) -> None:
    async def work(store: Store) -> None:
        for version in range(1, 20):
            await store.put_task(task(version=version))
            assert [one.version for one in await store.load_tasks()] == [version]

    run(work)


def test_odd_but_legal_values_survive(run: Run) -> None:
    odd = task(
        name="naïve ☃ '; DROP TABLE tasks; --",
        overrides={"env": {"KEY": "a\n\"'"}, "labels": {"a\0b": "x" * 10_000}},
        shapes={},
        artifact=msgspec.structs.replace(artifact(), labels={}, size_bytes=2**62),
    )

    async def work(store: Store) -> None:
        await store.put_task(odd)
        await reopen(store)
        assert list(await store.load_tasks()) == [odd]

    run(work)


def test_a_closed_store_says_so(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.close()
        await store.close()
        for use in (
            store.load_tasks,
            store.load_artifacts,
            lambda: store.put_task(task()),
            lambda: store.delete_task("t-1"),
            lambda: store.delete_artifact(sha256(b"")),
            lambda: store.blob(sha256(b"")),
        ):
            with pytest.raises(StoreUnavailable, match="closed"):
                await use()

    run(work)
