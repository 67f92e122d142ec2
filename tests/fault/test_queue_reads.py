"""How much of the queue an operation, or a start, looks through."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from atlatl.stores.database import connect
from atlatl.stores.statements import statements
from tests.fault.queue_steps import enqueue_all
from tests.store_samples import (
    queued,
    sqlite_store,
    with_sqlite,
)


def plan(connection: sqlite3.Connection, name: str, **values: Any) -> list[str]:
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statements()[name]}", values)
    return [row["detail"] for row in rows]


@pytest.mark.parametrize(
    ("name", "values", "index"),
    [
        ("lease_next", {"task_name": "x", "now": 1.0, "until": 2.0, "limit": 3}, "queue_line"),
        ("take_expired", {"now": 1.0, "until": 2.0, "limit": 3}, "queue_expiring"),
        ("wake", {"now": 1.0, "limit": 3}, "queue_delayed"),
        ("next_ready_at", {}, "queue_delayed"),
        ("lapsed", {"lapsed_before": 1.0, "limit": 3}, "queue_line"),
        ("dead_letters", {"died_at": 1.0, "execution_id": "x", "limit": 3}, "queue_dead"),
        ("prune_dead_letters", {"died_before": 1.0, "limit": 3}, "queue_dead"),
        ("callbacks", {"now": 1.0, "limit": 3}, "callbacks_by_time"),
        ("next_callback_at", {}, "callbacks_by_time"),
        ("end_unfinished", {"status": "", "completed_at": 1.0, "outcome": ""}, "_unfinished"),
        ("output_file", {"checksum": "x"}, "queue_by_call_file"),
    ],
)
def test_nothing_looks_through_what_is_not_meant(
    tmp_path: Path, name: str, values: dict[str, Any], index: str
) -> None:
    with_sqlite(tmp_path, lambda store: store.load_tasks())
    connection = connect(tmp_path / "atlatl.db")
    details = plan(connection, name, **values)
    connection.close()
    assert any(index in detail for detail in details)
    assert not [one for one in details if one.startswith("SCAN") and "INDEX" not in one], details
    assert not [one for one in details if "TEMP B-TREE" in one], details


def test_depths_are_counted_without_reading_an_entry(tmp_path: Path) -> None:
    with_sqlite(tmp_path, lambda store: store.load_tasks())
    connection = connect(tmp_path / "atlatl.db")
    (counted,) = plan(connection, "depths")
    files = [one for one in plan(connection, "output_files") if one.startswith(("SCAN", "SEARCH"))]
    connection.close()
    assert all("USING COVERING INDEX" in one for one in [counted, *files])


@pytest.mark.slow
def test_a_start_with_many_waiting_asks_no_more_than_one_with_none(tmp_path: Path) -> None:
    fill = """
        WITH RECURSIVE n (k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM n WHERE k < 99999)
        INSERT INTO {table} SELECT {columns} FROM n, {table} AS o
    """

    def statements_of_a_start(directory: Path) -> list[str]:
        asked: list[str] = []

        async def start() -> None:
            with pytest.MonkeyPatch.context() as patch:
                real = sqlite3.connect

                def traced(*args: Any, **options: Any) -> sqlite3.Connection:
                    connection: sqlite3.Connection = real(*args, **options)
                    connection.set_trace_callback(asked.append)
                    return connection

                patch.setattr(sqlite3, "connect", traced)
                async with sqlite_store(directory) as store:
                    counted = await store.queue.depths()
            assert sum(one.ready for one in counted) in (1, 100_001)

        asyncio.run(start())
        return asked

    with_sqlite(tmp_path, lambda store: enqueue_all(store, queued("e")))
    few = statements_of_a_start(tmp_path)
    connection = connect(tmp_path / "atlatl.db")
    for table in ("executions", "queue"):
        names = [row["name"] for row in connection.execute(f"PRAGMA table_info ({table})")]
        columns = ["'k' || k" if name == "execution_id" else f"o.{name}" for name in names]
        connection.execute(fill.format(table=table, columns=", ".join(columns)))
    connection.close()
    assert statements_of_a_start(tmp_path) == few
