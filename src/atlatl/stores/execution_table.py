"""The table of executions: what is done to it inside a transaction.

Results and output of more than `INLINE_BYTES` are files below `outputs/`, named by
their SHA-256. A file is there before a row names it, and goes after the last row that
did; what a crash leaves over is swept at the next start.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from atlatl.errors import ArtifactNotFound, ChecksumMismatch, StoreUnavailable
from atlatl.model import Execution, ExecutionRecord, ExecutionStatus, Outcome, Place
from atlatl.stores.execution_rows import (
    clean,
    end_row,
    execution_of,
    execution_row,
    outcome_json,
)
from atlatl.stores.files import BlobFiles
from atlatl.stores.many_rows import execute_rows

log = logging.getLogger(__name__)

INLINE_BYTES = 65_536
PRUNED_AT_ONCE = 500
"""Rows that one transaction removes, so that no other writer waits long behind it."""


_COLUMNS = (
    "execution_id", "task_id", "task_name", "function_name", "mode", "status", "attempt",
    "queued_at", "started_at", "completed_at", "queue_s", "instance_id", "version", "cold_start",
    "trace_id", "metadata", "fingerprint", "interrupted", "promised", "outcome", "n_bytes",
    "result_file", "output_file", "result", "output",
)  # fmt: skip
"""In the order of `claim_executions` and `put_executions`."""
_END_COLUMNS = (
    "execution_id", "function_name", "status", "attempt", "started_at", "completed_at", "queue_s",
    "instance_id", "version", "cold_start", "trace_id", "interrupted", "promised", "outcome",
    "n_bytes", "result_file", "output_file", "result", "output",
)  # fmt: skip
"""In the order of `end_executions`."""


Row = dict[str, Any]


@dataclass
class Batch:
    """Rows to be written, and the files that they name, which have no name yet."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    staged: list[tuple[Path, str]] = field(default_factory=list)

    def discard(self) -> None:
        for path, _ in self.staged:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Removed:
    """Rows that are gone, and the files that they named."""

    ids: list[str]
    files: set[str]


class ExecutionTable:
    """Reads and writes records of executions on connections that it is given."""

    def __init__(self, files: BlobFiles, sql: dict[str, str]) -> None:
        self._files = files
        self._sql = sql

    # --- in any thread ---

    def prepare(self, records: Iterable[ExecutionRecord]) -> Batch:
        """Makes rows of records; many bytes are on the disk when this returns."""
        return self._batch(execution_row(record) for record in records)

    async def prepare_end(self, record: ExecutionRecord, promised: int) -> Batch:
        """Makes the row of an execution's end; a thread of its own writes many bytes."""
        row = end_row(record, promised)
        if not (self.is_large(row["result"]) or self.is_large(row["output"])):
            return Batch([row])
        return await asyncio.to_thread(self._batch, [row])

    def _batch(self, rows: Iterable[dict[str, Any]]) -> Batch:
        batch = Batch()
        try:
            for row in rows:
                for column in ("result", "output"):
                    self.move_to_file(row, column, batch)
                batch.rows.append(row)
        except BaseException:
            batch.discard()
            raise
        return batch

    def is_large(self, content: bytes | None) -> bool:
        """Whether the bytes go into a file."""
        return content is not None and len(content) > INLINE_BYTES

    def move_to_file(self, row: dict[str, Any], column: str, batch: Batch) -> None:
        """Puts the bytes of a column into a file when they are many."""
        content = row[column]
        if not self.is_large(content):
            return
        checksum = hashlib.sha256(content).hexdigest()
        batch.staged.append((self._files.stage(content), checksum))
        row[column], row[f"{column}_file"] = None, checksum

    # --- in the writer's thread ---

    def sweep(self, connection: sqlite3.Connection) -> None:
        """Removes the files that no row names."""
        named = connection.execute(self._sql["output_files"])
        self._files.sweep({row["checksum"] for row in named})

    def claim(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> list[bool] | None:
        """False for a row whose id is taken; None when that is one of several."""
        n_claimed = execute_rows(connection, self._sql["claim_executions"], _in(_COLUMNS, rows))
        if n_claimed < len(rows):
            return [False] if len(rows) == 1 else None
        return [True] * len(rows)

    def put(self, connection: sqlite3.Connection, batch: Batch) -> None:
        """Writes records."""
        self.publish(batch)
        execute_rows(connection, self._sql["put_executions"], _in(_COLUMNS, batch.rows))

    def end(self, connection: sqlite3.Connection, batches: Iterable[Batch]) -> None:
        """Writes ends into records that are there."""
        rows: list[Row] = []
        for batch in batches:
            self.publish(batch)
            rows += batch.rows
        execute_rows(connection, self._sql["end_executions"], _in(_END_COLUMNS, rows))

    def reopen(self, connection: sqlite3.Connection, entry: sqlite3.Row) -> set[str]:
        """Makes an ended execution PENDING again; returns the files of its end."""
        values = {name: entry[name] for name in ("execution_id", "task_id", "attempt")}
        files = connection.execute(self._sql["ended_files"], values).fetchone()
        connection.execute(self._sql["reopen_execution"], values)
        return set(files or ()) - {None}

    def publish(self, batch: Batch) -> None:
        for staged, checksum in batch.staged:
            self._files.publish(staged, checksum)

    def end_unfinished(
        self, connection: sqlite3.Connection, outcome: Outcome, completed_at: float
    ) -> int:
        values = {
            "status": outcome.status.value,
            "outcome": outcome_json(outcome),
            "completed_at": completed_at,
        }
        return connection.execute(self._sql["end_unfinished"], values).rowcount

    def forget(self, connection: sqlite3.Connection, task_id: str) -> Removed:
        """Removes the records of a task and its dead letters, but nothing that goes on."""
        task = {"task_id": task_id}
        dead = connection.execute(self._sql["forget_dead_letters"], task).fetchall()
        rows = connection.execute(self._sql["forget_executions"], task).fetchall()
        self._forget_callbacks(connection, rows)
        return _removed(rows, dead)

    def prune(self, connection: sqlite3.Connection, bounds: dict[str, float]) -> Removed:
        """Removes at most `PRUNED_AT_ONCE` rows; none when all bounds are kept."""
        for name in ("prune_old", "prune_many"):
            rows = self._delete(connection, name, bounds)
            if rows:
                return _removed(rows)
        excess = connection.execute(self._sql["excess_bytes"], bounds).fetchone()[0]
        if excess > 0:
            return _removed(self._delete(connection, "prune_large", {"excess": excess}))
        return _removed([])

    def _delete(
        self, connection: sqlite3.Connection, name: str, values: dict[str, float]
    ) -> list[sqlite3.Row]:
        found = connection.execute(self._sql[name], values | {"limit": PRUNED_AT_ONCE})
        rows = found.fetchall()
        self._forget_callbacks(connection, rows)
        return rows

    def _forget_callbacks(
        self, connection: sqlite3.Connection, gone: Sequence[sqlite3.Row]
    ) -> None:
        """Nothing is left to tell of; another execution may take the id, and has its own."""
        ids = [{"execution_id": row["execution_id"]} for row in gone]
        n_forgotten = connection.executemany(self._sql["forget_callback"], ids).rowcount
        if n_forgotten > 0:
            log.warning(
                "%d callbacks are not made: the records of their executions are not kept any more",
                n_forgotten,
            )

    def remove_unnamed(self, connection: sqlite3.Connection, files: Iterable[str]) -> None:
        """Removes files unless a row names them, also one that was written since.

        Not inside a transaction: what is undone brings no file back.
        """
        for checksum in files:
            found = connection.execute(self._sql["output_file"], {"checksum": checksum})
            if found.fetchone() is None:
                self._files.remove(checksum)

    # --- in the reader's thread ---

    def get(self, connection: sqlite3.Connection, execution_id: str) -> ExecutionRecord | None:
        row = self._row(connection, execution_id)
        while row is not None:
            try:
                return self._record_of(row)
            except (ArtifactNotFound, ChecksumMismatch) as error:
                again = self._row(connection, execution_id)
                if again is not None and tuple(again) == tuple(row):
                    raise StoreUnavailable(
                        f"the stored output of execution {execution_id!r} was changed or removed "
                        f"by another program ({error.message}); restore it from a backup"
                    ) from error
                row = again  # it was replaced or forgotten while it was read
        return None

    def _row(self, connection: sqlite3.Connection, execution_id: str) -> sqlite3.Row | None:
        found = connection.execute(self._sql["execution"], {"execution_id": clean(execution_id)})
        row: sqlite3.Row | None = found.fetchone()
        return row

    def _record_of(self, row: sqlite3.Row) -> ExecutionRecord:
        return ExecutionRecord(
            execution=execution_of(
                row, self._bytes(row, "result"), self._bytes(row, "output") or b""
            ),
            fingerprint=row["fingerprint"],
            interrupted=bool(row["interrupted"]),
        )

    def _bytes(self, row: sqlite3.Row, column: str) -> bytes | None:
        checksum = row[f"{column}_file"]
        content: bytes | None = row[column] if checksum is None else self._files.read(checksum)
        return content

    def page(
        self,
        connection: sqlite3.Connection,
        *,
        task: str,
        status: ExecutionStatus | None,
        before: Place | None,
        limit: int,
    ) -> list[Execution]:
        queued_at, execution_id = before or (math.inf, "")
        values = {
            "task": clean(task),
            "status": status.value if status is not None else "",
            "queued_at": queued_at,
            "execution_id": clean(execution_id),
            "limit": limit,
        }
        return [execution_of(row) for row in connection.execute(self._sql["executions"], values)]


def _in(columns: Sequence[str], rows: Iterable[Row]) -> list[tuple[Any, ...]]:
    """The values of rows in the order of the columns."""
    values = itemgetter(*columns)
    return [values(row) for row in rows]


def call_files(rows: Iterable[sqlite3.Row]) -> set[str]:
    """Files that rows of the queue named which are gone."""
    return {row["call_file"] for row in rows} - {None}


def _removed(rows: Sequence[sqlite3.Row], calls: Iterable[sqlite3.Row] = ()) -> Removed:
    named = {row[column] for row in rows for column in ("result_file", "output_file")}
    return Removed([row["execution_id"] for row in rows], call_files(calls) | (named - {None}))
