"""One thread that writes to SQLite, and commits in groups.

While one group waits for the disk, the next one gathers. A lone operation is
committed at once; under load the cost of the disk is shared by up to
`BATCH_LIMIT` operations.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from atlatl.errors import StoreUnavailable

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
After = Callable[[sqlite3.Connection, T], None]

log = logging.getLogger(__name__)

BATCH_LIMIT = 256
BATCH_S = 0.002
"""Age at which a group is committed although more operations keep coming."""


@dataclass
class _Job:
    operation: Operation[Any]
    future: asyncio.Future[Any]
    after: After[Any] | None = None
    value: Any = None
    error: Exception | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        self.value, self.error = self.operation(connection), None

    def follow(self, connection: sqlite3.Connection) -> None:
        if self.after is None or self.error is not None:
            return
        try:
            self.after(connection, self.value)
        except Exception as error:
            log.warning("what was no longer needed is still there until the next start: %s", error)

    def resolve(self) -> None:
        if self.future.done():  # its caller has gone
            return
        if self.error is None:
            self.future.set_result(self.value)
        else:
            self.future.set_exception(self.error)


class BatchWriter:
    """Runs operations in their order in one thread, and answers after their COMMIT."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """A writer that is not yet open.

        Args:
            connect: opens the connection, in autocommit mode; called in the thread.
        """
        self._connect = connect
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._closing = False

    async def open(self) -> None:
        """Starts the thread; raises what `connect` raises, and has to be closed even then."""
        self._loop, self._closing = asyncio.get_running_loop(), False
        ready = _Job(lambda _: None, self._loop.create_future())
        self._thread = threading.Thread(
            target=self._main, args=(ready,), name="atlatl-store-writer"
        )
        self._thread.start()
        await ready.future

    async def run(self, operation: Operation[T], after: After[T] | None = None) -> T:
        """Runs `operation` inside a transaction and returns its value once that is durable.

        An operation that raises is undone and fails alone. It may be run a second time after a
        failed group, so its effects outside the database have to bear repetition. A caller
        that is cancelled does not stop it.

        Args:
            operation: what is to be done.
            after: removes what nothing needs any more once that is certain: called with the
                operation's value after the commit, before anything else is written. When it
                fails it is given up.

        Raises:
            StoreUnavailable: the writer is closed.
        """
        if self._thread is None:
            raise StoreUnavailable("the store is closed: open it before using it")
        job = _Job(operation, self._loop.create_future(), after)
        self._inbox.put(job)
        value: T = await job.future
        return value

    async def close(self) -> None:
        """Finishes what was handed over, then ends the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._inbox.put(None)
            await asyncio.to_thread(thread.join)

    def _main(self, ready: _Job) -> None:
        try:
            connection = self._connect()
        except Exception as error:
            ready.error = error
            self._answer([ready])
            return
        self._answer([ready])
        with contextlib.closing(connection):
            while not self._closing and (first := self._inbox.get()) is not None:
                self._answer(self._write(connection, first))

    def _waiting(self) -> Iterator[_Job]:
        """Yields what has gathered, until the group is large or old enough."""
        old_at = time.monotonic() + BATCH_S
        for _ in range(BATCH_LIMIT - 1):
            try:
                job = self._inbox.get_nowait()
            except queue.Empty:
                return
            if job is None:
                self._closing = True
                return
            yield job
            if time.monotonic() >= old_at:
                return

    def _write(self, connection: sqlite3.Connection, first: _Job) -> list[_Job]:
        batch = [first]
        try:
            _begin(connection)
            _attempt(connection, first)
            for job in self._waiting():
                batch.append(job)
                _attempt(connection, job)
            connection.execute("COMMIT")
        except Exception:
            # Some failures, a full disk among them, undo the whole transaction. Whose fault it
            # was is only known by trying each operation by itself.
            for job in batch:
                _alone(connection, job)
        else:
            for job in batch:
                job.follow(connection)
        return batch

    def _answer(self, batch: list[_Job]) -> None:
        def resolve() -> None:
            for job in batch:
                job.resolve()

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(resolve)


def _begin(connection: sqlite3.Connection) -> None:
    _rollback(connection)
    connection.execute("BEGIN IMMEDIATE")


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _attempt(connection: sqlite3.Connection, job: _Job) -> None:
    """Runs one operation of a group; raises when the group itself is lost."""
    connection.execute("SAVEPOINT operation")
    try:
        job.run(connection)
    except Exception as error:
        job.error = error
        connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")


def _alone(connection: sqlite3.Connection, job: _Job) -> None:
    try:
        _begin(connection)
        job.run(connection)
        connection.execute("COMMIT")
    except Exception as error:
        job.error = error
        with contextlib.suppress(sqlite3.Error):  # _begin tries again
            _rollback(connection)
    else:
        job.follow(connection)
