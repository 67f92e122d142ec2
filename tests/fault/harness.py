"""What breaks under a store: statements that fail, a disk that is full, a process that dies.

A `Scenario` is a series of operations and what a new service must find after each of them.
The three functions below run it until the nth statement, the nth sync of a file or any step
breaks it, n = 1, 2, ... until nothing breaks, and look at what is there.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import shutil
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from atlatl.errors import StoreUnavailable
from atlatl.ports import Store
from atlatl.stores.sqlite import SqliteStore
from tests.store_samples import sqlite_store, with_sqlite

Step = Callable[[Store], Awaitable[object]]


@dataclass(frozen=True)
class Scenario:
    """Operations of which each leaves the old or the new.

    Attributes:
        steps: the operations; one may have several when nothing can be seen in between.
        look: opens a directory as a new service does, checks that all is whole, and tells what
            is there.
        states: what it tells before the first step, and after each.
    """

    steps: Sequence[Step]
    look: Callable[[Path], Any]
    states: Sequence[Any]

    async def run(self, store: SqliteStore, confirmed: list[int]) -> None:
        """Does all steps; `confirmed` gets the number of each that returned."""
        for number, step in enumerate(self.steps, start=1):
            await step(store)
            confirmed.append(number)

    def check(self, directory: Path, n_confirmed: int) -> None:
        """What was confirmed is there, and nothing but perhaps the whole next step beside it."""
        assert self.look(directory) in self.states[n_confirmed : n_confirmed + 2]


class FailingConnection(sqlite3.Connection):
    """Refuses statements as `refuse` says."""

    refuse: Callable[[], None] = staticmethod(lambda: None)

    def execute(self, *args: Any) -> sqlite3.Cursor:
        type(self).refuse()
        return super().execute(*args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        type(self).refuse()
        return super().executemany(*args)

    def executescript(self, script: str) -> sqlite3.Cursor:
        type(self).refuse()
        return super().executescript(script)


@contextmanager
def statements_refused_by(refuse: Callable[[], None]) -> Iterator[None]:
    connect = sqlite3.connect

    def connect_failing(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, factory=FailingConnection, **options)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FailingConnection, "refuse", staticmethod(refuse))
        patch.setattr(sqlite3, "connect", connect_failing)
        yield


class FromTheNth:
    """Raises an error from the nth time on."""

    def __init__(self, n: int, error: Callable[[], Exception], *, once: bool = False) -> None:
        self.n, self.error, self.once, self.count = n, error, once, 0

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count == self.n or (self.count > self.n and not self.once):
            raise self.error()

    @property
    def fired(self) -> bool:
        return self.count >= self.n


def io_error() -> Exception:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error


def disk_full() -> Exception:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def pragma(statement: str) -> Callable[[sqlite3.Connection], Any]:
    return lambda connection: connection.execute(f"PRAGMA {statement}").fetchall()


def _run_under_fault(scenario: Scenario, directory: Path) -> int:
    """Runs until an error ends it, which has to be StoreUnavailable; how much was confirmed."""
    confirmed: list[int] = []

    async def run() -> None:
        async with sqlite_store(directory) as store:
            await scenario.run(store, confirmed)

    try:
        asyncio.run(asyncio.wait_for(run(), 60))
    except StoreUnavailable as error:
        assert str(directory.parent) in error.message
    return len(confirmed)


def fail_at_each_statement(scenario: Scenario, tmp_path: Path, *, once: bool) -> int:
    """Refuses the nth statement, and with `once` unset all that follow; the highest n."""
    for n in itertools.count(1):
        fault, directory = FromTheNth(n, io_error, once=once), tmp_path / str(n)
        with statements_refused_by(fault):
            n_confirmed = _run_under_fault(scenario, directory)
        scenario.check(directory, n_confirmed)
        if not fault.fired:
            break
        shutil.rmtree(directory)
    assert n_confirmed == len(scenario.steps)
    return n


def fill_disk_at_each_sync(scenario: Scenario, tmp_path: Path) -> int:
    """Has the nth fsync of a file or directory of ours and all later ones fail; the highest n."""
    fsync = os.fsync
    for n in itertools.count(1):
        fault, directory = FromTheNth(n, disk_full), tmp_path / str(n)

        def full(fd: int, fault: FromTheNth = fault) -> None:
            fault()
            fsync(fd)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", full)
            n_confirmed = _run_under_fault(scenario, directory)
        if directory.exists():
            scenario.check(directory, n_confirmed)
        if not fault.fired:
            break
    assert n_confirmed == len(scenario.steps)
    return n


def crash_at_each_step(scenario: Scenario, tmp_path: Path) -> int:
    """Looks at what a process killed at any statement or disk call leaves; how many there were."""
    copies = _copies_before_each_call(scenario, tmp_path)
    reached = 0
    for copy in copies:
        found = scenario.look(copy)
        while scenario.states[reached] != found:  # what was there does not come back
            reached += 1
            assert reached < len(scenario.states), f"{copy.name}: {found}"
        shutil.rmtree(copy)
    assert scenario.states[reached] == scenario.states[-1]  # the last copy was made at the end
    return len(copies)


def _copies_before_each_call(scenario: Scenario, tmp_path: Path) -> list[Path]:
    data, copies = tmp_path / "data", tmp_path / "copies"
    guard, copying, errors = threading.Lock(), itertools.count(), []

    def crash_here(*_: object) -> None:
        try:
            with guard:
                target = copies / f"{next(copying):04}"
                shutil.copytree(data, target, ignore=shutil.ignore_patterns("*-shm"))
        except Exception as error:
            errors.append(error)  # a trace callback may not raise

    connect, fsync, replace, unlink = sqlite3.connect, os.fsync, Path.replace, Path.unlink

    def traced_connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(crash_here)
        return connection

    def before(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            if data.exists():
                crash_here()
            return call(*args, **options)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", traced_connect)
        patch.setattr(os, "fsync", before(fsync))
        patch.setattr(Path, "replace", before(replace))
        patch.setattr(Path, "unlink", before(unlink))
        with_sqlite(data, lambda store: scenario.run(store, []))
    crash_here()
    assert errors == []
    return sorted(copies.iterdir())
