"""`ports.Queue` in dictionaries."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from atlatl.model import (
    Callback,
    DeadLetter,
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    Outcome,
    Place,
    Queued,
    QueueDepth,
)
from atlatl.stores.queue_rows import call_bytes, call_of, state_of


@dataclass
class _Entry:
    queued: Queued
    state: str
    """`ready`, `delayed`, `leased` or `dead`."""
    leased_until: float | None = None
    """None while leased: since acceptance, and not yet extended."""
    died_at: float = 0.0

    @property
    def waiting(self) -> bool:
        return self.state in ("ready", "delayed")

    @property
    def turn(self) -> tuple[float, str]:
        return self.queued.turn, self.queued.call.execution_id

    @property
    def place(self) -> Place:
        return self.died_at, self.queued.call.execution_id


class MemoryQueue:
    """Keeps the entries of `MemoryStore`, and changes the records that belong to them."""

    def __init__(
        self, records: dict[str, ExecutionRecord], require_open: Callable[[], None]
    ) -> None:
        """An empty queue.

        Args:
            records: those of the store, by their ids.
            require_open: raises unless the store is open.
        """
        self._records = records
        self._require_open = require_open
        self._entries: dict[str, _Entry] = {}
        self._callbacks: dict[str, Callback] = {}

    def __contains__(self, execution_id: object) -> bool:
        return execution_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def forget_dead(self, task_id: str) -> None:
        """Forgets the dead letters of a task whose records go."""
        for execution_id, entry in list(self._entries.items()):
            task = self._records[execution_id].execution.task_id
            if entry.state == "dead" and task == task_id:
                del self._entries[execution_id]

    def forget_callbacks(self) -> None:
        """Forgets those of executions whose records are gone."""
        for execution_id in self._callbacks.keys() - self._records.keys():
            del self._callbacks[execution_id]

    # --- from acceptance to the end ---

    async def enqueue(self, record: ExecutionRecord, queued: Queued) -> ExecutionRecord | None:
        self._require_open()
        execution_id = queued.call.execution_id
        # As it would come back from a disk, and what a disk could not hold is refused.
        call = call_of(call_bytes(queued.call), execution_id)
        if execution_id in self._records:
            return self._records[execution_id]
        self._records[execution_id] = record
        self._entries[execution_id] = _Entry(replace(queued, call=call), state_of(queued))
        return None

    async def lease(
        self, wanted: Mapping[str, int], *, now: float, until: float
    ) -> Sequence[Queued]:
        self._require_open()
        found: list[_Entry] = []
        for task_name, limit in wanted.items():
            ready = [
                entry
                for entry in self._entries.values()
                if entry.state == "ready"
                and entry.queued.call.task_name == task_name
                and _expiry(entry) > now
            ]
            found += sorted(ready, key=lambda entry: entry.turn)[:limit]
        return [_lease(entry, until) for entry in found]

    async def take(self, execution_id: str, *, until: float) -> Queued | None:
        self._require_open()
        entry = self._entries.get(execution_id)
        return _lease(entry, until) if entry is not None and entry.waiting else None

    async def take_expired(self, *, now: float, until: float, limit: int) -> Sequence[Queued]:
        self._require_open()
        expired = [
            (_expiry(entry), execution_id, entry)
            for execution_id, entry in self._entries.items()
            if entry.waiting and _expiry(entry) <= now
        ]
        return [_lease(entry, until) for _, _, entry in sorted(expired)[:limit]]

    async def extend(self, leased: Mapping[str, int], *, until: float) -> None:
        self._require_open()
        for execution_id, lease in leased.items():
            entry = self._held(execution_id, lease)
            if entry is not None:
                entry.leased_until = until

    async def put_back(self, queued: Queued, *, now: float) -> bool:
        self._require_open()
        execution_id = queued.call.execution_id
        entry = self._held(execution_id, queued.lease)
        if entry is None:
            return False
        entry.queued = replace(
            entry.queued,
            attempt=queued.attempt,
            failures=queued.failures,
            recoveries=queued.recoveries,
            ready_at=queued.ready_at,
            tried=queued.tried,
        )
        entry.state = "delayed" if queued.ready_at > now else "ready"
        self._change(execution_id, attempt=queued.attempt, tried=queued.tried)
        return True

    async def settle(
        self,
        record: ExecutionRecord,
        lease: int,
        *,
        died_at: float | None = None,
        callback: Callback | None = None,
    ) -> bool:
        self._require_open()
        end, execution_id = record.execution, record.execution.execution_id
        entry = self._held(execution_id, lease)
        if entry is None:
            return False
        if died_at is None:
            del self._entries[execution_id]
        else:
            entry.state, entry.died_at = "dead", died_at
            entry.queued = replace(entry.queued, attempt=end.attempt)
        accepted = self._records[execution_id].execution
        self._change(
            execution_id,
            task_id=end.task_id,
            function_name=end.function_name or accepted.function_name,
            trace_id=end.trace_id or accepted.trace_id,
            status=end.status,
            attempt=end.attempt,
            started_at=end.started_at,
            completed_at=end.completed_at,
            queue_s=end.queue_s,
            outcome=end.outcome,
            instance_id=end.instance_id,
            version=end.version,
            cold_start=end.cold_start,
        )
        kept = self._records[execution_id]
        self._records[execution_id] = replace(kept, interrupted=record.interrupted)
        if callback is not None:
            self._callbacks[execution_id] = callback
        return True

    # --- by time ---

    async def wake(self, *, now: float) -> tuple[Sequence[str], float | None]:
        self._require_open()
        delayed = [entry for entry in self._entries.values() if entry.state == "delayed"]
        due = [entry for entry in delayed if entry.queued.ready_at <= now]
        for entry in due:
            entry.state = "ready"
        later = [entry.queued.ready_at for entry in delayed if entry.state == "delayed"]
        return sorted({entry.queued.call.task_name for entry in due}), min(later, default=None)

    async def recover(
        self, *, lapsed_before: float | None, now: float, limit: int, outcome: Outcome
    ) -> Sequence[tuple[Queued, bool]]:
        self._require_open()
        lapsed = [
            entry
            for entry in self._entries.values()
            if entry.state == "leased" and _lapsed(entry, lapsed_before)
        ]
        for entry in lapsed:
            if entry.queued.recoveries >= limit:
                self._bury(entry, outcome, now)
            else:
                self._recover(entry, now)
        return [(entry.queued, entry.state == "dead") for entry in lapsed]

    def _recover(self, entry: _Entry, now: float) -> None:
        queued = entry.queued
        entry.queued = replace(queued, attempt=queued.attempt + 1, recoveries=queued.recoveries + 1)
        entry.state = "delayed" if queued.ready_at > now else "ready"
        self._change(queued.call.execution_id, attempt=queued.attempt + 1)

    def _bury(self, entry: _Entry, outcome: Outcome, now: float) -> None:
        entry.state, entry.died_at = "dead", now
        self._change(
            entry.queued.call.execution_id,
            status=outcome.status,
            outcome=outcome,
            completed_at=now,
        )

    # --- what is there ---

    async def depths(self) -> Sequence[QueueDepth]:
        self._require_open()
        of_task: dict[str, list[_Entry]] = defaultdict(list)
        for entry in self._entries.values():
            of_task[entry.queued.call.task_name].append(entry)
        return [_depth(name, entries) for name, entries in sorted(of_task.items())]

    async def waiting_ids(self, task_name: str, limit: int) -> Sequence[str]:
        self._require_open()
        found = [
            execution_id
            for execution_id, entry in self._entries.items()
            if entry.waiting and entry.queued.call.task_name == task_name
        ]
        return found[:limit]

    # --- dead letters ---

    async def dead_letters(self, *, before: Place | None, limit: int) -> Sequence[DeadLetter]:
        self._require_open()
        dead = [
            entry.place
            for entry in self._entries.values()
            if entry.state == "dead" and (before is None or entry.place < before)
        ]
        return [
            DeadLetter(
                execution=without_payload(self._records[execution_id].execution), died_at=died_at
            )
            for died_at, execution_id in sorted(dead, reverse=True)[:limit]
        ]

    async def redrive(self, execution_id: str, *, now: float) -> Queued | None:
        self._require_open()
        entry = self._dead(execution_id)
        if entry is None:
            return None
        self._callbacks.pop(execution_id, None)
        attempt = entry.queued.attempt + 1
        entry.state = "ready"
        entry.queued = replace(
            entry.queued, attempt=attempt, failures=0, recoveries=0, ready_at=now, expires_at=None
        )
        self._change(
            execution_id,
            task_id=entry.queued.task_id,
            status=ExecutionStatus.PENDING,
            attempt=attempt,
            started_at=None,
            completed_at=None,
            queue_s=0.0,
            outcome=None,
            version=0,
            instance_id="",
            cold_start=False,
            way=None,
        )
        self._records[execution_id] = replace(self._records[execution_id], interrupted=False)
        return entry.queued

    async def delete_dead_letter(self, execution_id: str) -> bool:
        self._require_open()
        if self._dead(execution_id) is None:
            return False
        del self._entries[execution_id]
        return True

    async def prune_dead_letters(self, *, died_before: float) -> int:
        self._require_open()
        old = [
            execution_id
            for execution_id, entry in self._entries.items()
            if entry.state == "dead" and entry.died_at < died_before
        ]
        for execution_id in old:
            del self._entries[execution_id]
        return len(old)

    # --- callbacks ---

    async def callbacks(self, *, now: float, limit: int) -> Sequence[Callback]:
        self._require_open()
        due = [one for one in self._callbacks.values() if one.ready_at <= now]
        return sorted(due, key=lambda one: (one.ready_at, one.execution_id))[:limit]

    async def next_callback_at(self) -> float | None:
        self._require_open()
        return min((one.ready_at for one in self._callbacks.values()), default=None)

    async def put_callback(self, callback: Callback, *, tries: int, ready_at: float) -> bool:
        self._require_open()
        if self._callbacks.get(callback.execution_id) != callback:
            return False
        again = replace(callback, tries=tries, ready_at=ready_at)
        self._callbacks[callback.execution_id] = again
        return True

    async def drop_callback(self, callback: Callback) -> bool:
        self._require_open()
        if self._callbacks.get(callback.execution_id) != callback:
            return False
        del self._callbacks[callback.execution_id]
        return True

    # --- how ---

    def _held(self, execution_id: str, lease: int) -> _Entry | None:
        entry = self._entries.get(execution_id)
        if entry is None or entry.state != "leased" or entry.queued.lease != lease:
            return None
        return entry

    def _dead(self, execution_id: str) -> _Entry | None:
        entry = self._entries.get(execution_id)
        return entry if entry is not None and entry.state == "dead" else None

    def _change(self, execution_id: str, **facts: object) -> None:
        record = self._records[execution_id]
        execution = replace(record.execution, **facts)
        self._records[execution_id] = replace(record, execution=execution)


def without_payload(execution: Execution) -> Execution:
    """The execution without result and output."""
    if execution.outcome is None:
        return execution
    return replace(execution, outcome=replace(execution.outcome, result=None, output=b""))


def _lease(entry: _Entry, until: float) -> Queued:
    entry.state, entry.leased_until = "leased", until
    entry.queued = replace(entry.queued, lease=entry.queued.lease + 1)
    return entry.queued


def _expiry(entry: _Entry) -> float:
    return math.inf if entry.queued.expires_at is None else entry.queued.expires_at


def _lapsed(entry: _Entry, before: float | None) -> bool:
    if before is None:
        return True
    return entry.leased_until is not None and entry.leased_until < before


def _depth(task_name: str, entries: Sequence[_Entry]) -> QueueDepth:
    counts = dict.fromkeys(("ready", "delayed", "leased", "dead"), 0)
    for entry in entries:
        counts[entry.state] += 1
    ready = [one.queued.ready_at for one in entries if one.state == "ready"]
    return QueueDepth(task_name=task_name, **counts, oldest_ready_at=min(ready, default=None))
