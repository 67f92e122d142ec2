"""One thread that writes to SQLite, and commits in groups.

While one group waits for the disk, the next one gathers. A lone operation is
committed at once; under load the cost of the disk is shared by up to
`BATCH_LIMIT` operations, and so is the cost of a statement by those of one kind:
after each the thread has to wait for its turn with the interpreter, up to some
milliseconds while the event loop is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from atlatl.errors import StoreUnavailable

I = TypeVar("I")  # noqa: E741 - what an operation is about
T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]
Joint = Callable[[sqlite3.Connection, Sequence[I]], Sequence[T] | None]
"""Does the same to several items: a value for each, or None when they have to be done one by one.
What it did before it gave None is undone. A single item can always be done."""
After = Callable[[sqlite3.Connection, T], None]

log = logging.getLogger(__name__)

BATCH_LIMIT = 256
BATCH_S = 0.002
"""Age at which a group is committed although more operations keep coming."""


class _Apart(Exception):
    """Operations of one kind cannot be done together."""


@dataclass
class _Job:
    work: Joint[Any, Any]
    item: Any
    future: asyncio.Future[Any]
    after: After[Any] | None = None
    value: Any = None
    error: Exception | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        _do(connection, self.work, [self])

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
        ready = _Job(lambda *_: None, None, self._loop.create_future())
        self._thread = threading.Thread(
            target=self._main, args=(ready,), name="atlatl-store-writer"
        )
        self._thread.start()
        await ready.future

    async def run(self, operation: Operation[T], after: After[T] | None = None) -> T:
        """Runs `operation` inside a transaction and returns its value once that is durable.

        An operation that raises is undone and fails alone. It may be run a second time after a
        failed group, so its effects outside the database have to bear repetition. A caller
        that is cancelled does not stop it. Those that nobody has been answered yet may be run in
        any order.

        Args:
            operation: what is to be done.
            after: removes what nothing needs any more once that is certain: called with the
                operation's value after the commit, before anything else is written. When it
                fails it is given up.

        Raises:
            StoreUnavailable: the writer is closed.
        """
        return await self._done(lambda c, _: (operation(c),), None, after)

    async def run_joint(self, work: Joint[I, T], item: I, after: After[T] | None = None) -> T:
        """As `run`, for an operation that is done together with others of its kind.

        Args:
            work: the same, or an equal one, for all of a kind.
            item: what it is done to.
            after: as for `run`.
        """
        return await self._done(work, item, after)

    async def _done(self, work: Joint[Any, T], item: Any, after: After[T] | None) -> T:
        if self._thread is None:
            raise StoreUnavailable("the store is closed: open it before using it")
        job = _Job(work, item, self._loop.create_future(), after)
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

    def _write(self, connection: sqlite3.Connection, first: _Job) -> list[_Job]:
        """Commits what has gathered, and what gathers meanwhile: the group that it returns."""
        old_at = time.monotonic() + BATCH_S
        some = [first, *self._waiting(BATCH_LIMIT - 1)]
        group = some.copy()
        try:
            _begin(connection)
            while some:
                _together(connection, some)
                some = [] if time.monotonic() >= old_at else self._waiting(BATCH_LIMIT - len(group))
                group += some
            connection.execute("COMMIT")
        except Exception:
            # One of them failed, or the disk did. Which, only trying each by itself tells.
            _apart(connection, group)
        else:
            for job in group:
                job.follow(connection)
        return group

    def _waiting(self, most: int) -> list[_Job]:
        jobs: list[_Job] = []
        with contextlib.suppress(queue.Empty):
            while len(jobs) < most and not self._closing:
                job = self._inbox.get_nowait()
                if job is None:
                    self._closing = True
                else:
                    jobs.append(job)
        return jobs

    def _answer(self, group: list[_Job]) -> None:
        def resolve() -> None:
            for job in group:
                job.resolve()

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(resolve)


def _begin(connection: sqlite3.Connection) -> None:
    _rollback(connection)
    connection.execute("BEGIN IMMEDIATE")


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _do(connection: sqlite3.Connection, work: Joint[Any, Any], jobs: Sequence[_Job]) -> None:
    values = work(connection, [job.item for job in jobs])
    if values is None:
        raise _Apart
    for job, value in zip(jobs, values, strict=True):
        job.value, job.error = value, None


def _together(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
    """Runs operations, those of one kind as one; raises when one of them fails."""
    kinds: dict[Joint[Any, Any], list[_Job]] = {}
    for job in jobs:
        kinds.setdefault(job.work, []).append(job)
    for work, same in kinds.items():
        _do(connection, work, same)


def _apart(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
    """Runs operations in one transaction of which each can fail alone."""
    try:
        _begin(connection)
        for job in jobs:
            _attempt(connection, job)
        connection.execute("COMMIT")
    except Exception:
        # Some failures, a full disk among them, undo the whole transaction.
        for job in jobs:
            _alone(connection, job)
    else:
        for job in jobs:
            job.follow(connection)


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
