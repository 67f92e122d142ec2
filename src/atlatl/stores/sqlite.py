"""The store of one machine: SQLite for rows, files for bytes.

Writes go through one thread that commits in groups, reads through a second one
with a connection of its own. Bytes are in a file before a row names them, and
a row is gone before its file is, so a crash leaves at most orphans.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from atlatl.errors import ArtifactNotFound, Conflict, StoreUnavailable
from atlatl.model import (
    Artifact,
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    Outcome,
    Place,
    Task,
)
from atlatl.settings import Settings
from atlatl.stores.database import Database, troubles_of
from atlatl.stores.execution_rows import execution_row
from atlatl.stores.execution_table import ExecutionTable, Removed
from atlatl.stores.files import BlobFiles, DirectoryLock, make_private_directory
from atlatl.stores.rows import artifact_of, artifact_row, task_of, task_row
from atlatl.stores.sqlite_queue import SqliteQueue
from atlatl.stores.statements import statements
from atlatl.stores.writer import Operation


class SqliteStore:
    """`ports.Store` in `atlatl.db`, `blobs/` and `outputs/` below a data directory."""

    def __init__(self, data_dir: Path, settings: Settings) -> None:
        """A store that is not yet open.

        Args:
            data_dir: made with mode 0700 if it is not there; one store at a time uses it.
            settings: defaults on which the settings of loaded tasks are resolved.
        """
        self._data_dir = data_dir
        self._settings = settings
        self._path = data_dir / "atlatl.db"
        self._lock = DirectoryLock(data_dir)
        self._blobs = BlobFiles(data_dir / "blobs")
        self._outputs = BlobFiles(data_dir / "outputs")
        self._sql = statements()
        self._executions = ExecutionTable(self._outputs, self._sql)
        self._database = Database(self._path, check=self._refuse_lost_database, tidy=self._tidy)
        self.queue = SqliteQueue(self._database, self._executions, self._outputs, self._sql)

    async def open(self) -> None:
        """Locks the directory, brings the schema up to date and removes left-overs.

        Raises:
            SettingInvalid: another service uses the directory.
            StoreUnavailable: the database can't be opened, or is of a newer version.
        """
        with troubles_of(self._path):
            await asyncio.to_thread(self._open_directory)
            try:
                await self._database.open()
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Finishes what was handed over; closing twice does nothing."""
        await self._database.close()
        self._lock.release()

    async def load_tasks(self) -> Sequence[Task]:
        """All tasks in the order of their ids.

        Raises:
            SettingInvalid: the settings of a task don't fit the service's; the message names it.
        """
        rows = await self._select("tasks")
        with troubles_of(self._path):
            return [task_of(row, self._settings) for row in rows]

    async def put_task(self, task: Task) -> None:
        artifact, row = artifact_row(task.artifact), task_row(task)

        def put(connection: sqlite3.Connection) -> None:
            other = connection.execute(self._sql["other_task_of_name"], row).fetchone()
            if other is not None:
                raise Conflict(
                    f"task {task.name!r} exists with another id, {other['task_id']}: "
                    "delete it first"
                )
            connection.execute(self._sql["put_artifact"], artifact)
            connection.execute(self._sql["put_task"], row)

        await self._database.commit(put)

    async def delete_task(self, task_id: str) -> bool:
        return await self._database.commit(
            lambda connection: self._changed(connection, "delete_task", task_id=task_id)
        )

    async def load_artifacts(self) -> Sequence[Artifact]:
        """All artifacts in the order of their ids and versions."""
        rows = await self._select("artifacts")
        with troubles_of(self._path):
            return [artifact_of(row) for row in rows]

    async def delete_artifact(self, checksum: str) -> None:
        def forget(connection: sqlite3.Connection) -> bool:
            connection.execute(self._sql["delete_artifact"], {"checksum": checksum})
            return self._changed(connection, "delete_unnamed_blob", checksum=checksum)

        def remove(connection: sqlite3.Connection, forgotten: bool) -> None:
            # The same bytes may be stored anew in the same commit; only this thread publishes.
            if forgotten and not self._has_blob(connection, checksum):
                self._blobs.remove(checksum)

        await self._database.commit(forget, remove)

    async def put_blob(self, content: bytes) -> str:
        with troubles_of(self._data_dir):
            checksum, staged = await asyncio.to_thread(self._stage, content)

        def publish(connection: sqlite3.Connection) -> None:
            self._blobs.publish(staged, checksum)
            connection.execute(self._sql["put_blob"], {"checksum": checksum})

        try:
            await self._database.commit(publish)
        except BaseException:
            await asyncio.to_thread(staged.unlink, missing_ok=True)
            raise
        return checksum

    async def blob(self, checksum: str) -> bytes:
        if not await self._database.query(lambda connection: self._has_blob(connection, checksum)):
            raise ArtifactNotFound(f"no bytes with SHA-256 {checksum} are stored")
        with troubles_of(self._data_dir):
            return await asyncio.to_thread(self._blobs.read, checksum)

    # --- executions ---

    async def claim_execution(self, record: ExecutionRecord) -> ExecutionRecord | None:
        row = execution_row(record)
        while not await self._database.commit_joint(self._executions.claim, row):
            taken = await self.execution(record.execution.execution_id)
            if taken is not None:  # else it was forgotten in between
                return taken
        return None

    async def put_executions(self, records: Sequence[ExecutionRecord]) -> None:
        with troubles_of(self._data_dir):
            batch = await asyncio.to_thread(self._executions.prepare, records)
        try:
            await self._database.commit(lambda connection: self._executions.put(connection, batch))
        except BaseException:
            await asyncio.to_thread(batch.discard)
            raise

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        return await self._database.query(
            lambda connection: self._executions.get(connection, execution_id)
        )

    async def executions(
        self, *, task: str, status: ExecutionStatus | None, before: Place | None, limit: int
    ) -> Sequence[Execution]:
        return await self._database.query(
            lambda connection: self._executions.page(
                connection, task=task, status=status, before=before, limit=limit
            )
        )

    async def end_unfinished(self, outcome: Outcome, completed_at: float) -> int:
        return await self._database.commit(
            lambda connection: self._executions.end_unfinished(connection, outcome, completed_at)
        )

    async def forget_executions(self, task_id: str) -> Sequence[str]:
        return await self._remove(lambda connection: self._executions.forget(connection, task_id))

    async def prune_executions(
        self, *, ended_before: float, spare_since: float, keep: int, keep_bytes: int
    ) -> int:
        bounds = {
            "ended_before": ended_before,
            "spare_since": spare_since,
            "keep": keep,
            "keep_bytes": keep_bytes,
        }
        n_pruned = 0
        while ids := await self._remove(lambda c: self._executions.prune(c, bounds)):
            n_pruned += len(ids)
        return n_pruned

    async def _remove(self, operation: Operation[Removed]) -> list[str]:
        """Removes rows, and what only they named."""
        removed = await self._database.commit(
            operation, lambda c, gone: self._executions.remove_unnamed(c, gone.files)
        )
        return removed.ids

    # --- how ---

    async def _select(self, name: str) -> list[sqlite3.Row]:
        return await self._database.query(
            lambda connection: connection.execute(self._sql[name]).fetchall()
        )

    def _changed(self, connection: sqlite3.Connection, name: str, **values: str) -> bool:
        return connection.execute(self._sql[name], values).rowcount > 0

    def _has_blob(self, connection: sqlite3.Connection, checksum: str) -> bool:
        found = connection.execute(self._sql["blob"], {"checksum": checksum}).fetchone()
        return found is not None

    def _stage(self, content: bytes) -> tuple[str, Path]:
        return hashlib.sha256(content).hexdigest(), self._blobs.stage(content)

    def _open_directory(self) -> None:
        make_private_directory(self._data_dir)
        self._lock.acquire()
        try:
            self._blobs.open()
            self._outputs.open()
        except BaseException:
            self._lock.release()
            raise

    def _refuse_lost_database(self, connection: sqlite3.Connection) -> None:
        """An empty database beside stored bytes was lost or cut off; sweeping would end them."""
        empty = connection.execute("PRAGMA user_version").fetchone()[0] == 0
        for files in (self._blobs, self._outputs):
            if empty and files.published():
                raise StoreUnavailable(
                    f"{self._path} is empty, but {files.directory} holds files: restore the "
                    "database from a backup, or move the data directory away to start empty"
                )

    def _tidy(self, connection: sqlite3.Connection) -> None:
        connection.execute(self._sql["delete_unnamed_blobs"])
        wanted = {row["checksum"] for row in connection.execute(self._sql["blobs"])}
        self._blobs.sweep(wanted)
        self._executions.sweep(connection)
