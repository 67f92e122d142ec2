"""The store of one machine: SQLite for rows, files for bytes.

Writes go through one thread that commits in groups, reads through a second one
with a connection of its own. Bytes are in a file before a row names them, and
a row is gone before its file is, so a crash leaves at most orphans.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

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
from atlatl.stores.execution_table import ExecutionTable, Removed
from atlatl.stores.files import BlobFiles, DirectoryLock, make_private_directory
from atlatl.stores.rows import artifact_of, artifact_row, task_of, task_row
from atlatl.stores.statements import migrations, statements
from atlatl.stores.writer import BatchWriter, Operation

T = TypeVar("T")

_ADVICE = {
    sqlite3.SQLITE_FULL: "no room is left: free space on its disk",
    sqlite3.SQLITE_READONLY: "it can't be written: check the permissions of file and directory, "
    "and whether its file system is mounted read-only",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore it from a backup, or move the data directory "
    "away to start empty",
    sqlite3.SQLITE_NOTADB: "it is no database: restore it from a backup, or move the data "
    "directory away to start empty",
    sqlite3.SQLITE_BUSY: "another process has it locked: end that process",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: check the permissions of file and directory",
    sqlite3.SQLITE_IOERR: "its disk reports errors: check the disk and the system's log",
}


def _unavailable(path: Path, error: Exception) -> StoreUnavailable:
    """The same trouble with the file's name and with what to do about it."""
    reason = str(error)
    if isinstance(error, OSError):
        path, reason = Path(error.filename or path), error.strerror or reason
        advice = "check the room on its disk and its permissions"
    else:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        advice = _ADVICE.get(code, "restore it from a backup if this goes on")
    return StoreUnavailable(f"{path}: {reason}; {advice}", retry_after_s=1.0)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns errors of the database and of the file system into StoreUnavailable."""
    try:
        yield
    except (sqlite3.Error, OSError, msgspec.DecodeError) as error:
        raise _unavailable(path, error) from error


def connect(database: Path) -> sqlite3.Connection:
    """A connection in autocommit mode whose commits are on the disk when they return."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=5.0)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, database: Path) -> None:
    """Brings the schema up to date, step by step, each step whole or not at all.

    Raises:
        StoreUnavailable: a newer version of atlatl wrote the database.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    steps = migrations()
    if version > len(steps):
        raise StoreUnavailable(
            f"{database} has schema version {version}, this version of atlatl knows "
            f"{len(steps)}: upgrade atlatl, or restore the backup from before the upgrade"
        )
    for number, script in enumerate(steps[version:], start=version + 1):
        connection.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


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
        self._database = data_dir / "atlatl.db"
        self._lock = DirectoryLock(data_dir)
        self._blobs = BlobFiles(data_dir / "blobs")
        self._outputs = BlobFiles(data_dir / "outputs")
        self._sql = statements()
        self._executions = ExecutionTable(self._outputs, self._sql)
        self._writer = BatchWriter(self._open_database)
        self._readers: ThreadPoolExecutor | None = None
        self._reading: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Locks the directory, brings the schema up to date and removes left-overs.

        Raises:
            SettingInvalid: another service uses the directory.
            StoreUnavailable: the database can't be opened, or is of a newer version.
        """
        with _named(self._database):
            await asyncio.to_thread(self._open_directory)
            try:
                await self._writer.open()
                self._readers = ThreadPoolExecutor(1, thread_name_prefix="atlatl-store-reader")
                await self._in_reader(self._reader)
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Finishes what was handed over; closing twice does nothing."""
        readers, self._readers = self._readers, None
        if readers is not None:
            await asyncio.get_running_loop().run_in_executor(readers, self._close_reader)
            await asyncio.to_thread(readers.shutdown)
        await self._writer.close()
        self._lock.release()

    async def load_tasks(self) -> Sequence[Task]:
        """All tasks in the order of their ids.

        Raises:
            SettingInvalid: the settings of a task don't fit the service's; the message names it.
        """
        rows = await self._select("tasks")
        with _named(self._database):
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

        await self._commit(put)

    async def delete_task(self, task_id: str) -> bool:
        return await self._commit(
            lambda connection: self._changed(connection, "delete_task", task_id=task_id)
        )

    async def load_artifacts(self) -> Sequence[Artifact]:
        """All artifacts in the order of their ids and versions."""
        rows = await self._select("artifacts")
        with _named(self._database):
            return [artifact_of(row) for row in rows]

    async def delete_artifact(self, checksum: str) -> None:
        def forget(connection: sqlite3.Connection) -> bool:
            connection.execute(self._sql["delete_artifact"], {"checksum": checksum})
            return self._changed(connection, "delete_unnamed_blob", checksum=checksum)

        def remove(connection: sqlite3.Connection) -> None:
            # Somebody may have stored the same bytes since; only this thread publishes.
            if not self._has_blob(connection, checksum):
                self._blobs.remove(checksum)

        if await self._commit(forget):
            await self._commit(remove)

    async def put_blob(self, content: bytes) -> str:
        with _named(self._data_dir):
            checksum, staged = await asyncio.to_thread(self._stage, content)

        def publish(connection: sqlite3.Connection) -> None:
            self._blobs.publish(staged, checksum)
            connection.execute(self._sql["put_blob"], {"checksum": checksum})

        try:
            await self._commit(publish)
        except BaseException:
            await asyncio.to_thread(staged.unlink, missing_ok=True)
            raise
        return checksum

    async def blob(self, checksum: str) -> bytes:
        if not await self._query(lambda connection: self._has_blob(connection, checksum)):
            raise ArtifactNotFound(f"no bytes with SHA-256 {checksum} are stored")
        with _named(self._data_dir):
            return await asyncio.to_thread(self._blobs.read, checksum)

    # --- executions ---

    async def claim_execution(self, record: ExecutionRecord) -> ExecutionRecord | None:
        while not await self._commit(lambda connection: self._executions.claim(connection, record)):
            taken = await self.execution(record.execution.execution_id)
            if taken is not None:  # else it was forgotten in between
                return taken
        return None

    async def put_executions(self, records: Sequence[ExecutionRecord]) -> None:
        with _named(self._data_dir):
            batch = await asyncio.to_thread(self._executions.prepare, records)
        try:
            await self._commit(lambda connection: self._executions.put(connection, batch))
        except BaseException:
            await asyncio.to_thread(batch.discard)
            raise

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        return await self._query(lambda connection: self._executions.get(connection, execution_id))

    async def executions(
        self, *, task: str, status: ExecutionStatus | None, before: Place | None, limit: int
    ) -> Sequence[Execution]:
        return await self._query(
            lambda connection: self._executions.page(
                connection, task=task, status=status, before=before, limit=limit
            )
        )

    async def end_unfinished(self, outcome: Outcome, completed_at: float) -> int:
        return await self._commit(
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
        """Removes rows, and what only they named when that is certain."""
        removed = await self._commit(operation)
        if removed.files:
            await self._commit(lambda c: self._executions.remove_unnamed(c, removed.files))
        return removed.ids

    # --- how ---

    async def _commit(self, operation: Operation[T]) -> T:
        with _named(self._database):
            return await self._writer.run(operation)

    async def _query(self, query: Operation[T]) -> T:
        with _named(self._database):
            return await self._in_reader(lambda: query(self._reader()))

    async def _select(self, name: str) -> list[sqlite3.Row]:
        return await self._query(lambda connection: connection.execute(self._sql[name]).fetchall())

    async def _in_reader(self, work: Callable[[], T]) -> T:
        if self._readers is None:
            raise StoreUnavailable("the store is closed: open it before using it")
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

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

    def _open_database(self) -> sqlite3.Connection:
        # Made here, not by SQLite, so that it is never readable by others.
        os.close(os.open(self._database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = connect(self._database)
        try:
            self._refuse_lost_database(connection)
            migrate(connection, self._database)
            connection.execute(self._sql["delete_unnamed_blobs"])
            wanted = {row["checksum"] for row in connection.execute(self._sql["blobs"])}
            self._blobs.sweep(wanted)
            self._executions.sweep(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _refuse_lost_database(self, connection: sqlite3.Connection) -> None:
        """An empty database beside stored bytes was lost or cut off; sweeping would end them."""
        empty = connection.execute("PRAGMA user_version").fetchone()[0] == 0
        if empty and self._blobs.published():
            raise StoreUnavailable(
                f"{self._database} is empty, but {self._data_dir / 'blobs'} holds code: restore "
                "the database from a backup, or move the data directory away to start empty"
            )

    def _reader(self) -> sqlite3.Connection:
        if self._reading is None:
            self._reading = connect(self._database)
            self._reading.execute("PRAGMA query_only = ON")
        return self._reading

    def _close_reader(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None
