"""The database file: one thread that writes to it, one that reads, and what its troubles mean."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from atlatl.errors import StoreUnavailable
from atlatl.stores.statements import migrations
from atlatl.stores.writer import After, BatchWriter, Joint, Operation

I = TypeVar("I")  # noqa: E741 - as in the writer
T = TypeVar("T")

# sqlite.org: fileformat.html#the_database_header
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100

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


class troubles_of:  # noqa: N801 - reads like the function that it could be, at a tenth of the cost
    """Turns errors of the database and of the file system into StoreUnavailable.

    Args:
        path: what the message names when the error does not.
    """

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, sqlite3.Error | OSError | msgspec.DecodeError):
            raise _unavailable(self._path, error) from error


def connect(database: Path) -> sqlite3.Connection:
    """A connection in autocommit mode whose commits are on the disk when they return."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=5.0)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # What a statement may have to undo; a file of its own for that costs more than its work.
        connection.execute("PRAGMA temp_store = MEMORY")
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


def refuse_cut_short(path: Path) -> None:
    """SQLite reads what is missing of a last page as zeros, and a few bytes as an empty database.

    Raises:
        StoreUnavailable: a file that was closed has lost its end since.
    """
    log = path.with_name(f"{path.name}-wal")
    if not path.exists() or (log.exists() and log.stat().st_size):
        return  # the end may still be in the log
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    size = path.stat().st_size
    if not header or not header.startswith(_MAGIC[: len(header)]):
        return  # new, or no database: SQLite says so
    page = int.from_bytes(header[16:18], "big")
    wanted = int.from_bytes(header[28:32], "big") * (65_536 if page == 1 else page)
    if size < max(wanted, _HEADER_BYTES):
        raise StoreUnavailable(
            f"{path} was cut short, only {size} bytes are left: restore it from a backup, or move "
            "the data directory away to start empty"
        )


class Database:
    """Runs operations on the file in the two threads."""

    def __init__(
        self,
        path: Path,
        *,
        check: Callable[[sqlite3.Connection], None],
        tidy: Callable[[sqlite3.Connection], None],
    ) -> None:
        """A database that is not yet open.

        Args:
            path: of the file, which is made if it is not there.
            check: refuses what must not be opened; called before the schema is brought up to date.
            tidy: removes left-overs; called after that. Both run in the writing thread.
        """
        self._path = path
        self._check, self._tidy = check, tidy
        self.writer = BatchWriter(self._open_writing)
        self._readers: ThreadPoolExecutor | None = None
        self._reading: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Starts the threads; it has to be closed even when this raises."""
        await self.writer.open()
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="atlatl-store-reader")
        await self._in_reader(self._open_reading)

    async def close(self) -> None:
        """Finishes what was handed over; closing twice does nothing."""
        readers, self._readers = self._readers, None
        if readers is not None:
            await asyncio.get_running_loop().run_in_executor(readers, self._close_reading)
            await asyncio.to_thread(readers.shutdown)
        await self.writer.close()

    async def commit(self, operation: Operation[T], after: After[T] | None = None) -> T:
        """As `BatchWriter.run`, with all troubles as StoreUnavailable."""
        with troubles_of(self._path):
            return await self.writer.run(operation, after)

    async def commit_joint(self, work: Joint[I, T], item: I, after: After[T] | None = None) -> T:
        """As `BatchWriter.run_joint`, with all troubles as StoreUnavailable."""
        with troubles_of(self._path):
            return await self.writer.run_joint(work, item, after)

    async def query(self, query: Operation[T]) -> T:
        """Runs `query` in the reading thread; raises StoreUnavailable."""
        with troubles_of(self._path):
            return await self._in_reader(lambda: query(self._open_reading()))

    async def _in_reader(self, work: Callable[[], T]) -> T:
        if self._readers is None:
            raise StoreUnavailable("the store is closed: open it before using it")
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def _open_writing(self) -> sqlite3.Connection:
        refuse_cut_short(self._path)
        # Made here, not by SQLite, so that it is never readable by others.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = connect(self._path)
        try:
            self._check(connection)
            migrate(connection, self._path)
            self._tidy(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_reading(self) -> sqlite3.Connection:
        if self._reading is None:
            self._reading = connect(self._path)
            self._reading.execute("PRAGMA query_only = ON")
        return self._reading

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None
