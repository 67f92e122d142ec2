"""Calls that somebody, or a bad disk, changed under the queue."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from atlatl.errors import StoreUnavailable
from atlatl.model import Event, Queued
from atlatl.stores.queue_rows import call_bytes
from atlatl.stores.sqlite import SqliteStore
from tests.fault.queue_steps import LARGE, LOST, enqueue_all
from tests.store_samples import ended, failure, queued, sha256, with_sqlite

SMALL, BIG = queued("bad", turn=1.0), queued("bad", turn=1.0, payload=Event(value=LARGE))


def spoil(entry: Queued, how: str, directory: Path) -> None:
    """Changes what is stored of a call, as another program or a bad disk would."""
    content = call_bytes(entry.call)
    changed = {
        "cut short": content[:-7],
        "noise": b"\xc1" * len(content),
        "text that is none": content.replace(b"hello", b"hell\xff"),
        "of another": call_bytes(queued("another").call),
    }
    if entry is BIG:
        file = directory / "outputs" / sha256(content)
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(changed[how])
        return
    connection = sqlite3.connect(directory / "atlatl.db", isolation_level=None)
    connection.execute("UPDATE queue SET call = ? WHERE execution_id = 'bad'", [changed[how]])
    connection.close()


damages = pytest.mark.parametrize(
    ("entry", "how"),
    [
        (SMALL, "cut short"),
        (SMALL, "noise"),
        (SMALL, "text that is none"),
        (SMALL, "of another"),
        (BIG, "cut short"),
        (BIG, "gone"),
    ],
    ids=lambda value: value if isinstance(value, str) else ("small" if value is SMALL else "big"),
)


def assert_damaged(entry: Queued) -> None:
    """It names what is left of it, and why that is all."""
    assert (entry.call.execution_id, entry.call.task_name) == ("bad", "hello")
    assert "call of execution 'bad' was changed or removed" in entry.damage
    assert entry.call.payload == Event(value=None)


@damages
def test_a_call_that_cannot_be_read_says_so_and_the_others_go_on(
    tmp_path: Path, entry: Queued, how: str
) -> None:
    async def work(store: SqliteStore) -> None:
        await enqueue_all(store, entry, queued("good", turn=2.0), queued("fine", turn=0.0))
        spoil(entry, how, tmp_path)
        leased = await store.queue.lease({"hello": 3}, now=20.0, until=80.0)
        assert [one.call.execution_id for one in leased] == ["fine", "bad", "good"]
        assert [bool(one.damage) for one in leased] == [False, True, False]
        assert_damaged(leased[1])
        assert await store.queue.settle(ended(leased[1], failure()), 1, died_at=21.0)
        with pytest.raises(StoreUnavailable, match="'bad' was changed or removed"):
            await store.queue.redrive("bad", now=30.0)
        (letter,) = await store.queue.dead_letters(before=None, limit=9)
        assert letter.execution.execution_id == "bad"
        assert await store.queue.delete_dead_letter("bad")

    with_sqlite(tmp_path, work)


@damages
def test_it_is_found_whoever_meets_it_first(tmp_path: Path, entry: Queued, how: str) -> None:
    async def by_take(store: SqliteStore) -> Queued | None:
        return await store.queue.take("bad", until=80.0)

    async def by_expiry(store: SqliteStore) -> Queued:
        (entry,) = await store.queue.take_expired(now=50.0, until=80.0, limit=9)
        return entry

    async def by_recovery(store: SqliteStore) -> Queued:
        taken = await store.queue.recover(lapsed_before=None, now=50.0, limit=20, outcome=LOST)
        ((entry, is_dead),) = taken
        assert not is_dead
        return entry

    for n, (meet, lease) in enumerate(((by_take, 0), (by_expiry, 0), (by_recovery, 1))):
        directory = tmp_path / str(n)

        async def work(store: SqliteStore, meet: Any = meet, lease: int = lease) -> None:
            payload = entry.call.payload
            await enqueue_all(store, queued("bad", payload=payload, lease=lease, expires_at=40.0))
            spoil(entry, how, store._data_dir)
            assert_damaged(await meet(store))

        with_sqlite(directory, work)


def test_one_whose_file_cannot_be_read_for_now_is_taken_back_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def work(store: SqliteStore) -> None:
        await enqueue_all(store, BIG, queued("good", turn=2.0))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", broken)
            leased = await store.queue.lease({"hello": 2}, now=20.0, until=80.0)
        assert [one.call.execution_id for one in leased] == ["good"]
        await store.queue.extend({"good": 1}, until=999.0)
        taken = await store.queue.recover(lapsed_before=81.0, now=81.0, limit=20, outcome=LOST)
        assert [(one.call, one.recoveries) for one, _ in taken] == [(BIG.call, 1)]

    with_sqlite(tmp_path, work)
