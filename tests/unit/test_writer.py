"""The thread that writes: operations of one kind go together, and each fails alone all the same."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from atlatl.stores.many_rows import MOST, execute_rows
from atlatl.stores.writer import BatchWriter

Work = Callable[[BatchWriter], Awaitable[None]]


def with_writer(path: Path, work: Work) -> list[str]:
    """Runs `work` with an open writer; returns what is in the table then."""

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path / "x.sqlite", isolation_level=None)
        connection.execute("CREATE TABLE IF NOT EXISTS kept (word TEXT PRIMARY KEY)")
        return connection

    async def run() -> None:
        writer = BatchWriter(connect)
        await writer.open()
        try:
            await work(writer)
        finally:
            await writer.close()

    asyncio.run(run())
    with sqlite3.connect(path / "x.sqlite") as connection:
        return [row[0] for row in connection.execute("SELECT word FROM kept ORDER BY rowid")]


async def at_once(writer: BatchWriter, *operations: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The answers to operations that are one group."""
    begun, blocked = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        blocked.wait(30)

    holding = asyncio.ensure_future(writer.run(hold))
    await asyncio.to_thread(begun.wait, 30)
    asked = [asyncio.ensure_future(operation()) for operation in operations]
    await asyncio.sleep(0)  # let each hand itself over
    blocked.set()
    await holding
    return await asyncio.gather(*asked, return_exceptions=True)


class Keeping:
    """Keeps words; `stolen` cannot be kept together with others, `broken` not at all."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, connection: sqlite3.Connection, words: Sequence[str]) -> list[str] | None:
        self.calls.append(list(words))
        execute_rows(connection, "INSERT INTO kept VALUES :rows", [(word,) for word in words])
        if "broken" in words:
            raise LookupError("broken")
        if "stolen" in words and len(words) > 1:
            return None
        return [word.upper() for word in words]


def asking(writer: BatchWriter, work: Any, word: str) -> Callable[[], Awaitable[Any]]:
    return lambda: writer.run_joint(work, word)


def test_operations_of_one_kind_are_done_together(tmp_path: Path) -> None:
    keep, other = Keeping(), Keeping()

    async def work(writer: BatchWriter) -> None:
        answers = await at_once(
            writer,
            asking(writer, keep, "a"),
            asking(writer, other, "x"),
            asking(writer, keep, "b"),
            lambda: writer.run(lambda _: "plain"),
            asking(writer, keep, "c"),
        )
        assert answers == ["A", "X", "B", "plain", "C"]

    assert with_writer(tmp_path, work) == ["a", "b", "c", "x"]
    assert (keep.calls, other.calls) == ([["a", "b", "c"]], [["x"]])


def test_what_does_not_go_together_is_undone_and_done_one_by_one(tmp_path: Path) -> None:
    keep = Keeping()

    async def work(writer: BatchWriter) -> None:
        answers = await at_once(
            writer, *(asking(writer, keep, word) for word in ("a", "stolen", "b"))
        )
        assert answers == ["A", "STOLEN", "B"]

    assert with_writer(tmp_path, work) == ["a", "stolen", "b"]
    assert keep.calls == [["a", "stolen", "b"], ["a"], ["stolen"], ["b"]]


def test_one_that_fails_among_many_fails_alone(tmp_path: Path) -> None:
    keep = Keeping()

    async def work(writer: BatchWriter) -> None:
        taken = writer.run_joint(keep, "a")
        assert await taken == "A"
        words = ("b", "broken", "a", "c")  # the third is there already
        answers = await at_once(writer, *(asking(writer, keep, word) for word in words))
        assert [type(answer) for answer in answers] == [
            str, LookupError, sqlite3.IntegrityError, str,
        ]  # fmt: skip

    assert with_writer(tmp_path, work) == ["a", "b", "c"]


def test_what_follows_a_commit_follows_once_for_each(tmp_path: Path) -> None:
    keep, followed = Keeping(), []

    async def work(writer: BatchWriter) -> None:
        words = ("a", "stolen", "broken")
        await at_once(
            writer,
            *(
                lambda word=word: writer.run_joint(keep, word, lambda _, v: followed.append(v))
                for word in words
            ),
        )

    with_writer(tmp_path, work)
    assert followed == ["A", "STOLEN"]


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, MOST - 1, MOST, MOST + 1, 3 * MOST + 21])
def test_rows_go_in_few_statements_of_few_sizes(n_rows: int) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE pairs (a INTEGER, b TEXT)")
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    rows = [(number, str(number)) for number in range(n_rows)]
    assert execute_rows(connection, "INSERT INTO pairs VALUES :rows", rows) == n_rows
    assert len(statements) == n_rows // MOST + (n_rows % MOST).bit_count()
    assert connection.execute("SELECT a, b FROM pairs ORDER BY rowid").fetchall() == rows
