"""The table of durable executions: what is done to it inside a transaction.

An entry and its record are two rows that one transaction changes: the entry is small, and
goes when the execution has ended; the record stays. Calls of more than `INLINE_BYTES` are
files beside those of results and output, and live by the same rules.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict

from atlatl.model import Callback, Outcome
from atlatl.stores.execution_rows import outcome_json
from atlatl.stores.execution_table import Batch, ExecutionTable, call_files

MOVED_AT_ONCE = 500
"""Rows that one transaction wakes or removes, so that no other writer waits long behind it."""

Rows = list[sqlite3.Row]


class QueueTable:
    """Changes entries on a connection that it is given, in the writer's thread."""

    def __init__(self, executions: ExecutionTable, sql: dict[str, str]) -> None:
        self._executions = executions
        self._sql = sql

    def enqueue(self, connection: sqlite3.Connection, record: dict[str, Any], entry: Batch) -> bool:
        """False when the id is taken."""
        if not self._executions.claim(connection, record):
            return False
        self._executions.publish(entry)
        connection.execute(self._sql["enqueue"], entry.rows[0])
        return True

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
        self._executions.end(connection, end)
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
