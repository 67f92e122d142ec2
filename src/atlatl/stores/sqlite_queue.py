"""`ports.Queue` in SQLite: each operation is one of the store's writer, all of it or nothing."""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from atlatl.errors import ArtifactNotFound, ChecksumMismatch, StoreUnavailable
from atlatl.model import (
    Call,
    Callback,
    DeadLetter,
    ExecutionRecord,
    Outcome,
    Place,
    Queued,
    QueueDepth,
)
from atlatl.stores.database import Database, troubles_of
from atlatl.stores.execution_rows import QUEUED, clean, execution_row, tried_json
from atlatl.stores.execution_table import Batch, ExecutionTable, call_files
from atlatl.stores.files import BlobFiles
from atlatl.stores.queue_rows import (
    call_of,
    callback_of,
    damage_of,
    damaged,
    dead_letter_of,
    depths_of,
    queue_row,
    queued_of,
)
from atlatl.stores.queue_table import MOVED_AT_ONCE, QueueTable

log = logging.getLogger(__name__)

_DAMAGES = (msgspec.DecodeError, ArtifactNotFound, ChecksumMismatch)


class SqliteQueue:
    """Durable executions in the store's database and files.

    An entry whose file cannot be read for now stays leased, and is taken back when the lease
    lapses.
    """

    def __init__(
        self,
        database: Database,
        executions: ExecutionTable,
        files: BlobFiles,
        sql: dict[str, str],
    ) -> None:
        self._database = database
        self._executions = executions
        self._files = files
        self._sql = sql
        self._table = QueueTable(executions, sql)

    # --- from acceptance to the end ---

    async def enqueue(self, record: ExecutionRecord, queued: Queued) -> ExecutionRecord | None:
        """As the protocol says.

        Raises:
            InvalidRequest: the call has a value that cannot be kept.
        """
        row, entry = execution_row(record, QUEUED), await self._entry(queued)
        try:
            while not await self._database.commit_joint(self._table.enqueue, (row, entry)):
                taken = await self._stored(record.execution.execution_id)
                if taken is not None:  # else it was forgotten in between
                    return taken
            return None
        finally:
            entry.discard()

    async def lease(
        self, wanted: Mapping[str, int], *, now: float, until: float
    ) -> Sequence[Queued]:
        rows = await self._database.commit(lambda c: self._table.lease(c, wanted, now, until))
        return await self._readable(rows)

    async def take(self, execution_id: str, *, until: float) -> Queued | None:
        key = clean(execution_id)
        rows = await self._database.commit(lambda c: self._table.take(c, key, until))
        return next(iter(await self._readable(rows)), None)

    async def take_expired(self, *, now: float, until: float, limit: int) -> Sequence[Queued]:
        values = {"now": now, "until": until, "limit": limit}
        rows = await self._database.commit(lambda c: self._table.take_expired(c, values))
        return await self._readable(rows)

    async def extend(self, leased: Mapping[str, int], *, until: float) -> None:
        leases = [
            {"execution_id": execution_id, "lease": lease, "until": until}
            for execution_id, lease in leased.items()
        ]
        await self._database.commit(lambda c: self._table.extend(c, leases))

    async def put_back(self, queued: Queued, *, now: float) -> bool:
        values = {
            "execution_id": queued.call.execution_id,
            "lease": queued.lease,
            "attempt": queued.attempt,
            "failures": queued.failures,
            "recoveries": queued.recoveries,
            "ready_at": queued.ready_at,
            "tried": tried_json(queued.tried),
            "now": now,
        }
        return await self._database.commit(lambda c: self._table.put_back(c, values))

    async def settle(
        self,
        record: ExecutionRecord,
        lease: int,
        *,
        died_at: float | None = None,
        callback: Callback | None = None,
    ) -> bool:
        promised = QUEUED if died_at is not None else 1
        with troubles_of(self._files.directory):
            end = await self._executions.prepare_end(record, promised)
        try:
            if died_at is None and callback is None:
                files = await self._database.commit_joint(
                    self._table.settle_plain, (end, lease), self._remove
                )
            else:
                files = await self._database.commit(
                    lambda c: self._table.settle(c, end, lease, died_at, callback), self._remove
                )
        finally:
            end.discard()
        return files is not None

    # --- by time ---

    async def wake(self, *, now: float) -> tuple[Sequence[str], float | None]:
        names: set[str] = set()
        while True:
            woken = await self._database.commit(lambda c: self._table.wake(c, now))
            names.update(woken)
            if len(woken) < MOVED_AT_ONCE:
                return sorted(names), await self._first("next_ready_at")

    async def recover(
        self, *, lapsed_before: float | None, now: float, limit: int, outcome: Outcome
    ) -> Sequence[tuple[Queued, bool]]:
        rows = await self._database.commit(
            lambda c: self._table.recover(c, lapsed_before, now, limit, outcome)
        )
        dead = {row["execution_id"] for row in rows if row["state"] == "dead"}
        return [(one, one.call.execution_id in dead) for one in await self._readable(rows)]

    # --- what is there ---

    async def depths(self) -> Sequence[QueueDepth]:
        return depths_of(await self._select("depths"))

    async def waiting_ids(self, task_name: str, limit: int) -> Sequence[str]:
        rows = await self._select("waiting_ids", task_name=clean(task_name), limit=limit)
        return [row["execution_id"] for row in rows]

    # --- dead letters ---

    async def dead_letters(self, *, before: Place | None, limit: int) -> Sequence[DeadLetter]:
        died_at, execution_id = before or (math.inf, "")
        values = {"died_at": died_at, "execution_id": clean(execution_id), "limit": limit}

        def page(connection: sqlite3.Connection) -> list[DeadLetter]:
            found = connection.execute(self._sql["dead_letters"], values)
            return [dead_letter_of(row) for row in found]

        return await self._database.query(page)

    async def redrive(self, execution_id: str, *, now: float) -> Queued | None:
        """As the protocol says; raises StoreUnavailable when the call cannot be read any more."""
        key = clean(execution_id)

        def redrive(connection: sqlite3.Connection) -> tuple[Queued | None, set[str]]:
            row, files = self._table.redrive(connection, key, now)
            if row is None:
                return None, files
            try:
                return queued_of(row, self._call(row)), files
            except _DAMAGES as error:
                raise StoreUnavailable(damage_of(key, str(error))) from error

        queued, _ = await self._database.commit(redrive, lambda c, done: self._remove(c, done[1]))
        return queued

    async def delete_dead_letter(self, execution_id: str) -> bool:
        key = clean(execution_id)
        rows = await self._database.commit(
            lambda c: self._table.delete_dead_letter(c, key), self._remove_calls
        )
        return bool(rows)

    async def prune_dead_letters(self, *, died_before: float) -> int:
        n_pruned = 0
        while rows := await self._database.commit(
            lambda c: self._table.prune_dead_letters(c, died_before), self._remove_calls
        ):
            n_pruned += len(rows)
        return n_pruned

    # --- callbacks ---

    async def callbacks(self, *, now: float, limit: int) -> Sequence[Callback]:
        return [callback_of(row) for row in await self._select("callbacks", now=now, limit=limit)]

    async def next_callback_at(self) -> float | None:
        return await self._first("next_callback_at")

    async def put_callback(self, callback: Callback, *, tries: int, ready_at: float) -> bool:
        return await self._change("put_callback", callback, tries=tries, ready_at=ready_at)

    async def drop_callback(self, callback: Callback) -> bool:
        return await self._change("drop_callback", callback)

    # --- how ---

    async def _entry(self, queued: Queued) -> Batch:
        """The row of an entry; a thread of its own writes many bytes."""
        row, batch = queue_row(queued), Batch()
        batch.rows.append(row)
        if self._executions.is_large(row["call"]):
            with troubles_of(self._files.directory):
                await asyncio.to_thread(self._executions.move_to_file, row, "call", batch)
        return batch

    async def _stored(self, execution_id: str) -> ExecutionRecord | None:
        return await self._database.query(lambda c: self._executions.get(c, execution_id))

    async def _readable(self, rows: Iterable[sqlite3.Row]) -> list[Queued]:
        """The entries, without those whose file cannot be read for now."""
        found: list[Queued] = []
        for row in rows:
            try:
                here = row["call_file"] is None
                call = self._call(row) if here else await asyncio.to_thread(self._call, row)
                found.append(queued_of(row, call))
            except _DAMAGES as error:
                found.append(damaged(row, str(error)))
            except OSError as error:
                log.warning("execution %s cannot be read for now: %s", row["execution_id"], error)
        return found

    def _call(self, row: sqlite3.Row) -> Call:
        content = row["call"] if row["call_file"] is None else self._files.read(row["call_file"])
        return call_of(content, row["execution_id"])

    def _remove(self, connection: sqlite3.Connection, files: set[str] | None) -> None:
        self._executions.remove_unnamed(connection, files or ())

    def _remove_calls(self, connection: sqlite3.Connection, gone: list[sqlite3.Row]) -> None:
        self._remove(connection, call_files(gone))

    async def _select(self, name: str, **values: Any) -> list[sqlite3.Row]:
        return await self._database.query(lambda c: c.execute(self._sql[name], values).fetchall())

    async def _first(self, name: str) -> float | None:
        value: float | None = (await self._select(name))[0][0]
        return value

    async def _change(self, name: str, callback: Callback, **values: Any) -> bool:
        """False when it is not as it was read any more."""
        values |= {
            "execution_id": callback.execution_id,
            "read_tries": callback.tries,
            "read_ready_at": callback.ready_at,
        }
        return await self._database.commit(
            lambda c: c.execute(self._sql[name], values).rowcount > 0
        )
