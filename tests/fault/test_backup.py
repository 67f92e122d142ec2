"""A copy of a data directory that is written to meanwhile is one that could be used at any time."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path

import pytest

from atlatl.errors import StoreUnavailable
from atlatl.stores import backup as module
from atlatl.stores.backup import back_up
from atlatl.stores.sqlite import SqliteStore
from tests.fault.harness import pragma
from tests.store_samples import artifact, sqlite_store, task, with_sqlite

pytestmark = pytest.mark.slow

N_BACKUPS = 8


async def _churn(store: SqliteStore, stop: asyncio.Event) -> int:
    """Deploys one thing after another, the same task, and lets go of what was before."""
    for number in itertools.count():
        if stop.is_set():
            return number
        content = b"%d" % number * 1000
        await store.put_blob(content)
        made = artifact(content)
        await store.put_task(task(version=number + 1, artifact=made))
        for old in await store.load_artifacts():
            if old.checksum != made.checksum:
                await store.delete_artifact(old.checksum)
    raise AssertionError


async def _read_all(store: SqliteStore) -> int:
    [found] = await store.load_tasks()
    content = await store.blob(found.artifact.checksum)
    assert content == b"%d" % (found.version - 1) * 1000
    return found.version


def test_each_copy_of_a_store_in_use_is_whole(tmp_path: Path) -> None:
    async def run() -> list[int]:
        versions = []
        async with sqlite_store(tmp_path / "data") as store:
            stop = asyncio.Event()
            churning = asyncio.create_task(_churn(store, stop))
            while not await store.load_tasks():
                await asyncio.sleep(0)
            for number in range(N_BACKUPS):
                await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / f"{number}")
            stop.set()
            assert await churning > N_BACKUPS
        for number in range(N_BACKUPS):
            async with sqlite_store(tmp_path / f"{number}") as copy:
                versions.append(await _read_all(copy))
        return versions

    versions = asyncio.run(run())
    assert versions == sorted(versions)
    assert versions[0] < versions[-1]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    async def fill(store: SqliteStore) -> None:
        await store.put_blob(b"code")
        await store.put_task(task())

    with_sqlite(tmp_path / "data", fill)
    return tmp_path / "data"


def test_a_copy_without_a_file_that_is_named_is_none(data_dir: Path, tmp_path: Path) -> None:
    [blob] = (data_dir / "blobs").iterdir()
    blob.unlink()
    with pytest.raises(StoreUnavailable, match=f"has lost files .*blobs/{blob.name}"):
        back_up(data_dir, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_damaged_database_is_not_copied(data_dir: Path, tmp_path: Path) -> None:
    database = data_dir / "atlatl.db"
    content = bytearray(database.read_bytes())
    content[4096 * 2 : 4096 * 6] = b"\xff" * 4096 * 4
    database.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"damaged|malformed"):
        back_up(data_dir, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_database_of_another_version_is_its_own_business(data_dir: Path, tmp_path: Path) -> None:
    with_sqlite(data_dir, lambda store: store._database.writer.run(pragma("user_version = 99")))
    with pytest.raises(StoreUnavailable, match="with the version that wrote it"):
        back_up(data_dir, tmp_path / "copy")


def test_a_disk_that_is_full_leaves_nothing(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    with pytest.raises(StoreUnavailable, match="No space left"):
        back_up(data_dir, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_goes_on_where_the_first_was_made(data_dir: Path, tmp_path: Path) -> None:
    back_up(data_dir, tmp_path / "copy")
    shutil.rmtree(data_dir)
    with_sqlite(tmp_path / "copy", _read_one)


async def _read_one(store: SqliteStore) -> None:
    [found] = await store.load_tasks()
    assert await store.blob(found.artifact.checksum) == b"code"
