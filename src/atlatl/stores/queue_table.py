"""The table of durable executions: what is done to it inside a transaction.

An entry and its record are two rows that one transaction changes: the entry is small, and
goes when the execution has ended; the record stays. Calls of more than `INLINE_BYTES` are
files beside those of results and output, and live by the same rules.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from msgspec.structs import asdict

from atlatl.model import Callback, Outcome
from atlatl.stores.execution_rows import outcome_json
from atlatl.stores.execution_table import Batch, ExecutionTable, Row, call_files
from atlatl.stores.many_rows import execute_rows

MOVED_AT_ONCE = 500
"""Rows that one transaction wakes or removes, so that no other writer waits long behind it."""

Rows = list[sqlite3.Row]

_ENTRY = itemgetter(
    "execution_id", "task_name", "state", "turn", "queued_at", "ready_at", "expires_at", "attempt",
    "failures", "recoveries", "lease", "task_id", "call_file", "call",
)  # fmt: skip
"""The values of an entry in the order of `enqueue`."""


class QueueTable:
    """Changes entries on a connection that it is given, in the writer's thread."""

    def __init__(self, executions: ExecutionTable, sql: dict[str, str]) -> None:
        self._executions = executions
        self._sql = sql

    def enqueue(
        self, connection: sqlite3.Connection, entries: Sequence[tuple[Row, Batch]]
    ) -> Sequence[bool] | None:
        """False for an entry whose id is taken; None when that is one of several."""
        claimed = self._executions.claim(connection, [record for record, _ in entries])
        if claimed and all(claimed):
            for _, entry in entries:
                self._executions.publish(entry)
            rows = [_ENTRY(entry.rows[0]) for _, entry in entries]
            execute_rows(connection, self._sql["enqueue"], rows)
        return claimed

    def lease(
        self, connection: sqlite3.Connection, wanted: Mapping[str, int], now: float, until: float
    ) -> Rows:
        rows: Rows = []
        for task_name, limit in wanted.items():
            values = {"task_name": task_name, "limit": limit, "now": now, "until": until}
            found = self._fetch(connection, "lease_next", values)
            rows += sorted(found, key=lambda row: (row["turn"], row["execution_id"]))
        return rows

    def take(self, connection: sqlite3.Connection, execution_id: str, until: float) -> Rows:
        return self._fetch(connection, "take", {"execution_id": execution_id, "until": until})

    def take_expired(self, connection: sqlite3.Connection, values: dict[str, float]) -> Rows:
        rows = self._fetch(connection, "take_expired", values)
        return sorted(rows, key=lambda row: (row["expires_at"], row["execution_id"]))

    def extend(self, connection: sqlite3.Connection, leases: list[dict[str, Any]]) -> None:
        connection.executemany(self._sql["extend"], leases)

    def put_back(self, connection: sqlite3.Connection, values: dict[str, Any]) -> bool:
        if connection.execute(self._sql["put_back"], values).rowcount == 0:
            return False
        connection.execute(self._sql["note_attempt"], values)
        return True

    def settle_plain(
        self, connection: sqlite3.Connection, ends: Sequence[tuple[Batch, int]]
    ) -> Sequence[set[str] | None] | None:
        """As `settle`, for ends that no dead letter and no callback follows, with their leases.

        None when one of several is not the latest, or not as plain as it seemed.
        """
        if len(ends) == 1:
            ((end, lease),) = ends
            return [self.settle(connection, end, lease, None, None)]
        rows = [
            (record["execution_id"], lease, record["task_id"])
            for end, lease in ends
            for record in end.rows
        ]
        if execute_rows(connection, self._sql["remove_many_leased"], rows) < len(ends):
            return None
        self._executions.end(connection, [end for end, _ in ends])
        return [set() for _ in ends]

    def settle(
        self,
        connection: sqlite3.Connection,
        end: Batch,
        lease: int,
        died_at: float | None,
        callback: Callback | None,
    ) -> set[str] | None:
        """Files that may go; None when the lease is not the latest."""
        (record,) = end.rows
        held = {
            "execution_id": record["execution_id"],
            "lease": lease,
            "died_at": died_at,
            "attempt": record["attempt"],
        }
        dies = died_at is not None
        gone = self._fetch(connection, "bury_leased" if dies else "remove_leased", held)
        if not gone:
            return None
        self._executions.end(connection, [end])
        if gone[0]["task_id"] != record["task_id"]:
            connection.execute(self._sql["end_at_task"], record)
        if callback is not None:
            connection.execute(self._sql["start_callback"], asdict(callback))
        return set() if dies else call_files(gone)

    def wake(self, connection: sqlite3.Connection, now: float) -> list[str]:
        """Names of the tasks of at most `MOVED_AT_ONCE` executions, one for each."""
        rows = self._fetch(connection, "wake", {"now": now, "limit": MOVED_AT_ONCE})
        return [row["task_name"] for row in rows]

    def recover(
        self,
        connection: sqlite3.Connection,
        lapsed_before: float | None,
        now: float,
        limit: int,
        outcome: Outcome,
    ) -> Rows:
        """Each lease that was taken back; its `state` says what became of it."""
        values = {"lapsed_before": lapsed_before, "limit": limit}
        rows: Rows = []
        for lapsed in self._fetch(connection, "lapsed", values):
            held = {"execution_id": lapsed["execution_id"], "lease": lapsed["lease"]}
            if lapsed["dead"]:
                rows += self.bury(connection, held, outcome, now)
            else:
                (row,) = self._fetch(connection, "recover", held | {"now": now})
                connection.execute(self._sql["note_attempt"], held | {"attempt": row["attempt"]})
                rows.append(row)
        return rows

    def bury(
        self, connection: sqlite3.Connection, held: dict[str, Any], outcome: Outcome, now: float
    ) -> Rows:
        """Makes a dead letter of an entry that has not been leased since."""
        values = held | {
            "died_at": now,
            "status": outcome.status.value,
            "outcome": outcome_json(outcome),
        }
        rows = self._fetch(connection, "bury", values)
        if rows:
            connection.execute(self._sql["end_buried"], values)
        return rows

    def redrive(
        self, connection: sqlite3.Connection, execution_id: str, now: float
    ) -> tuple[sqlite3.Row | None, set[str]]:
        """The entry, when there is one; and files of the former end that may go."""
        rows = self._fetch(connection, "redrive", {"execution_id": execution_id, "now": now})
        if not rows:
            return None, set()
        connection.execute(self._sql["forget_callback"], {"execution_id": execution_id})
        return rows[0], self._executions.reopen(connection, rows[0])

    def delete_dead_letter(self, connection: sqlite3.Connection, execution_id: str) -> Rows:
        return self._release(connection, "delete_dead_letter", {"execution_id": execution_id})

    def prune_dead_letters(self, connection: sqlite3.Connection, died_before: float) -> Rows:
        """Removes at most `MOVED_AT_ONCE`."""
        values = {"died_before": died_before, "limit": MOVED_AT_ONCE}
        return self._release(connection, "prune_dead_letters", values)

    def _release(self, connection: sqlite3.Connection, name: str, values: dict[str, Any]) -> Rows:
        rows = self._fetch(connection, name, values)
        ids = [{"execution_id": row["execution_id"]} for row in rows]
        connection.executemany(self._sql["release_record"], ids)
        return rows

    def _fetch(self, connection: sqlite3.Connection, name: str, values: Mapping[str, Any]) -> Rows:
        return connection.execute(self._sql[name], values).fetchall()
