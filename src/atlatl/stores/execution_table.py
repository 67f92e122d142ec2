"""The table of executions: what is done to it inside a transaction.

Results and output of more than `INLINE_BYTES` are files below `outputs/`, named by
their SHA-256. A file is there before a row names it, and goes after the last row that
did; what a crash leaves over is swept at the next start.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atlatl.errors import ArtifactNotFound, ChecksumMismatch, StoreUnavailable
from atlatl.model import Execution, ExecutionRecord, ExecutionStatus, Outcome, Place
from atlatl.stores.execution_rows import clean, execution_of, execution_row, outcome_json
from atlatl.stores.files import BlobFiles

INLINE_BYTES = 65_536
PRUNED_AT_ONCE = 500
"""Rows that one transaction removes, so that no other writer waits long behind it."""


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
        batch = Batch()
        try:
            for record in records:
                row = execution_row(record)
                for column in ("result", "output"):
                    self._move_to_file(row, column, batch)
                batch.rows.append(row)
        except BaseException:
            batch.discard()
            raise
        return batch

    def _move_to_file(self, row: dict[str, Any], column: str, batch: Batch) -> None:
        content = row[column]
        if content is None or len(content) <= INLINE_BYTES:
            return
        checksum = hashlib.sha256(content).hexdigest()
        batch.staged.append((self._files.stage(content), checksum))
        row[column], row[f"{column}_file"] = None, checksum

    # --- in the writer's thread ---

    def sweep(self, connection: sqlite3.Connection) -> None:
        """Removes the files that no row names."""
        named = connection.execute(self._sql["output_files"])
        self._files.sweep({row["checksum"] for row in named})

    def claim(self, connection: sqlite3.Connection, record: ExecutionRecord) -> bool:
        """False when the id is taken."""
        row = execution_row(record)
        return connection.execute(self._sql["claim_execution"], row).rowcount > 0

    def put(self, connection: sqlite3.Connection, batch: Batch) -> None:
        for staged, checksum in batch.staged:
            self._files.publish(staged, checksum)
        connection.executemany(self._sql["put_execution"], batch.rows)

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
        rows = connection.execute(self._sql["forget_executions"], {"task_id": task_id}).fetchall()
        return _removed(rows)

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
        return connection.execute(self._sql[name], values | {"limit": PRUNED_AT_ONCE}).fetchall()

    def remove_unnamed(self, connection: sqlite3.Connection, files: Iterable[str]) -> None:
        """Removes files unless a row names them, also one that was written since."""
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


def _removed(rows: Sequence[sqlite3.Row]) -> Removed:
    named = {row[column] for row in rows for column in ("result_file", "output_file")}
    return Removed([row["execution_id"] for row in rows], named - {None})
