"""Every history of durable executions goes as a dictionary says, in both stores."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from atlatl.errors import InstanceLost
from atlatl.model import ExecutionStatus, Queued, failed
from atlatl.ports import Store
from atlatl.settings import Settings
from atlatl.stores.memory import MemoryStore
from atlatl.stores.sqlite import SqliteStore
from tests.store_samples import accepted, claim, ended, failure, queued, record, success

LOST = failed(InstanceLost("gone"))
PENDING, COMPLETED, FAILED = (
    ExecutionStatus.PENDING,
    ExecutionStatus.COMPLETED,
    ExecutionStatus.FAILED,
)


@dataclass
class Entry:
    queued: Queued
    state: str
    until: float = math.inf
    died_at: float = 0.0


@dataclass
class Kept:
    """What the model knows of a record."""

    task_id: str
    status: ExecutionStatus
    attempt: int = 1


class Model:
    """Two dictionaries, in the plainest words."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.records: dict[str, Kept] = {}

    def enqueue(self, entry: Queued) -> object:
        key = entry.call.execution_id
        if key in self.records:
            return False
        late = "delayed" if entry.ready_at > entry.queued_at else "ready"
        self.entries[key] = Entry(entry, "leased" if entry.lease else late)
        self.records[key] = Kept(entry.task_id, PENDING, entry.attempt)
        return True

    def lease(self, wanted: dict[str, int], now: float, until: float) -> object:
        leased = []
        for task, limit in wanted.items():
            line = [
                (entry.queued.turn, key)
                for key, entry in self.entries.items()
                if entry.state == "ready"
                and entry.queued.call.task_name == task
                and not self._expired(entry, now)
            ]
            leased += [self._give(key, until) for _, key in sorted(line)[:limit]]
        return leased

    def take(self, key: str, until: float) -> object:
        if key in self.entries and self.entries[key].state in ("ready", "delayed"):
            return self._give(key, until)
        return None

    def take_expired(self, now: float, until: float, limit: int) -> object:
        line = [
            (entry.queued.expires_at, key)
            for key, entry in self.entries.items()
            if entry.state in ("ready", "delayed") and self._expired(entry, now)
        ]
        return [self._give(key, until) for _, key in sorted(line)[:limit]]

    def extend(self, key: str, lease: int, until: float) -> None:
        if self._held(key, lease):
            self.entries[key].until = until

    def put_back(self, entry: Queued, now: float) -> object:
        key = entry.call.execution_id
        if not self._held(key, entry.lease):
            return False
        self._change(
            key,
            attempt=entry.attempt,
            failures=entry.failures,
            recoveries=entry.recoveries,
            ready_at=entry.ready_at,
        )
        self.entries[key].state = "delayed" if entry.ready_at > now else "ready"
        self.records[key].attempt = entry.attempt
        return True

    def settle(self, key: str, lease: int, ok: bool, attempt: int, died_at: float | None) -> object:
        if not self._held(key, lease):
            return False
        if died_at is None:
            del self.entries[key]
        else:
            self._change(key, attempt=attempt)
            self.entries[key].state, self.entries[key].died_at = "dead", died_at
        kept = self.records[key]
        kept.status, kept.attempt = COMPLETED if ok else FAILED, attempt
        return True

    def wake(self, now: float) -> object:
        names = set()
        for entry in self.entries.values():
            if entry.state == "delayed" and entry.queued.ready_at <= now:
                entry.state = "ready"
                names.add(entry.queued.call.task_name)
        later = [e.queued.ready_at for e in self.entries.values() if e.state == "delayed"]
        return sorted(names), min(later, default=None)

    def recover(self, before: float | None, now: float, limit: int) -> object:
        taken = []
        for key, entry in sorted(self.entries.items()):
            # One that was leased from the start never lapses unless it was extended.
            if entry.state != "leased" or (before is not None and not entry.until < before):
                continue
            was = entry.queued
            if was.recoveries >= limit:
                entry.state, entry.died_at = "dead", now
                self.records[key].status = FAILED
            else:
                self._change(key, attempt=was.attempt + 1, recoveries=was.recoveries + 1)
                entry.state = "delayed" if was.ready_at > now else "ready"
                self.records[key].attempt += 1
            taken.append((entry.queued, entry.state == "dead"))
        return taken

    def redrive(self, key: str, now: float) -> object:
        if not self._is_dead(key):
            return None
        attempt = self.entries[key].queued.attempt + 1
        self._change(key, attempt=attempt, failures=0, recoveries=0, ready_at=now, expires_at=None)
        self.entries[key].state = "ready"
        kept = self.records[key]
        kept.status, kept.attempt = PENDING, attempt
        return self.entries[key].queued

    def delete(self, key: str) -> object:
        if not self._is_dead(key):
            return False
        del self.entries[key]
        return True

    def prune_dead(self, before: float) -> object:
        old = [key for key, e in self.entries.items() if e.state == "dead" and e.died_at < before]
        for key in old:
            del self.entries[key]
        return len(old)

    def forget(self, task_id: str) -> object:
        gone = [
            key
            for key, kept in self.records.items()
            if kept.task_id == task_id and (key not in self.entries or self._is_dead(key))
        ]
        for key in gone:
            del self.records[key]
            self.entries.pop(key, None)
        return sorted(gone)

    def prune_records(self) -> object:
        gone = [
            key
            for key, kept in self.records.items()
            if kept.status is not PENDING and key not in self.entries
        ]
        for key in gone:
            del self.records[key]
        return len(gone)

    def claim(self, key: str) -> object:
        return key not in self.records and self._put(key, PENDING)

    def put(self, key: str) -> object:
        return key not in self.entries and self._put(key, COMPLETED)

    def restart(self) -> object:
        """Ends the calls that are no durable executions."""
        left = [
            kept
            for key, kept in self.records.items()
            if kept.status is PENDING and key not in self.entries
        ]
        for kept in left:
            kept.status = FAILED
        return len(left)

    def look(self) -> object:
        depths = {
            (e.queued.call.task_name, e.state): sum(
                o.state == e.state and o.queued.call.task_name == e.queued.call.task_name
                for o in self.entries.values()
            )
            for e in self.entries.values()
        }
        dead = sorted(
            ((e.died_at, key) for key, e in self.entries.items() if e.state == "dead"),
            reverse=True,
        )
        records = {key: (kept.status, kept.attempt) for key, kept in self.records.items()}
        return depths, [(key, at) for at, key in dead], records

    def _put(self, key: str, status: ExecutionStatus) -> bool:
        self.records[key] = Kept("t-1", status)
        return True

    def _expired(self, entry: Entry, now: float) -> bool:
        return entry.queued.expires_at is not None and entry.queued.expires_at <= now

    def _give(self, key: str, until: float) -> Queued:
        entry = self.entries[key]
        entry.state, entry.until = "leased", until
        self._change(key, lease=entry.queued.lease + 1)
        return entry.queued

    def _held(self, key: str, lease: int) -> bool:
        entry = self.entries.get(key)
        return entry is not None and entry.state == "leased" and entry.queued.lease == lease

    def _is_dead(self, key: str) -> bool:
        return key in self.entries and self.entries[key].state == "dead"

    def _change(self, key: str, **facts: Any) -> None:
        self.entries[key].queued = replace(self.entries[key].queued, **facts)


class Real:
    """A store, asked in the model's words."""

    def __init__(self, store: Store) -> None:
        self.store, self.queue = store, store.queue

    async def enqueue(self, entry: Queued) -> object:
        return await self.queue.enqueue(accepted(entry), entry) is None

    async def lease(self, wanted: dict[str, int], now: float, until: float) -> object:
        return _by_task(wanted, await self.queue.lease(wanted, now=now, until=until))

    async def take(self, key: str, until: float) -> object:
        return await self.queue.take(key, until=until)

    async def take_expired(self, now: float, until: float, limit: int) -> object:
        return list(await self.queue.take_expired(now=now, until=until, limit=limit))

    async def extend(self, key: str, lease: int, until: float) -> None:
        await self.queue.extend({key: lease}, until=until)

    async def put_back(self, entry: Queued, now: float) -> object:
        return await self.queue.put_back(entry, now=now)

    async def settle(
        self, key: str, lease: int, ok: bool, attempt: int, died_at: float | None
    ) -> object:
        end = ended(queued(key), success() if ok else failure(), attempt=attempt)
        kept = await self.store.execution(key)
        task_id = kept.execution.task_id if kept else "t-1"
        end = replace(end, execution=replace(end.execution, task_id=task_id))
        return await self.queue.settle(end, lease, died_at=died_at)

    async def wake(self, now: float) -> object:
        names, after = await self.queue.wake(now=now)
        return sorted(names), after

    async def recover(self, before: float | None, now: float, limit: int) -> object:
        taken = await self.queue.recover(lapsed_before=before, now=now, limit=limit, outcome=LOST)
        return sorted(taken, key=lambda each: each[0].call.execution_id)

    async def redrive(self, key: str, now: float) -> object:
        return await self.queue.redrive(key, now=now)

    async def delete(self, key: str) -> object:
        return await self.queue.delete_dead_letter(key)

    async def prune_dead(self, before: float) -> object:
        return await self.queue.prune_dead_letters(died_before=before)

    async def forget(self, task_id: str) -> object:
        return sorted(await self.store.forget_executions(task_id))

    async def prune_records(self) -> object:
        return await self.store.prune_executions(
            ended_before=1e12, spare_since=0.0, keep=99, keep_bytes=2**40
        )

    async def claim(self, key: str) -> object:
        return await self.store.claim_execution(claim(key)) is None

    async def put(self, key: str) -> object:
        await self.store.put_executions([record(key)])
        found = await self.store.execution(key)
        return found is not None and found.execution == record(key).execution

    async def restart(self) -> object:
        await self.store.close()
        await self.store.open()
        return await self.store.end_unfinished(LOST, 5.0)

    async def look(self) -> object:
        depths = {
            (one.task_name, state): getattr(one, state)
            for one in await self.queue.depths()
            for state in ("ready", "delayed", "leased", "dead")
            if getattr(one, state)
        }
        letters = await self.queue.dead_letters(before=None, limit=99)
        rows = await self.store.executions(task="", status=None, before=None, limit=99)
        return (
            depths,
            [(one.execution.execution_id, one.died_at) for one in letters],
            {row.execution_id: (row.status, row.attempt) for row in rows},
        )


def _by_task(wanted: Iterable[str], leased: Iterable[Queued]) -> list[Queued]:
    """In the order of the tasks asked for; within a task as they came."""
    found = list(leased)
    return [one for task in wanted for one in found if one.call.task_name == task]


# Few ids and few times, so that ties and repetitions happen.
keys, times = st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 4).map(float)
leases, numbers = st.integers(0, 3), st.integers(0, 3)
entries = st.builds(
    lambda key, task, at, expires, turn, lease: queued(
        key,
        task,
        task_id=f"t-{task}",
        queued_at=1.0,
        ready_at=at,
        expires_at=expires,
        turn=turn,
        lease=lease,
    ),
    keys,
    st.sampled_from(["x", "y"]),
    times,
    st.one_of(st.none(), times),
    times,
    st.sampled_from([0, 0, 1]),
)
put_backs = st.builds(
    lambda key, lease, attempt, failures, recoveries, at: queued(
        key, lease=lease, attempt=attempt, failures=failures, recoveries=recoveries, ready_at=at
    ),
    keys,
    leases,
    numbers,
    numbers,
    numbers,
    times,
)


def step(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


wanted = st.dictionaries(st.sampled_from(["x", "y"]), st.integers(0, 3), max_size=2)
steps = st.one_of(
    step("enqueue", entry=entries),
    step("enqueue", entry=entries),
    step("lease", wanted=wanted, now=times, until=times),
    step("take", key=keys, until=times),
    step("take_expired", now=times, until=times, limit=st.integers(0, 3)),
    step("extend", key=keys, lease=leases, until=times),
    step("put_back", entry=put_backs, now=times),
    step(
        "settle",
        key=keys,
        lease=leases,
        ok=st.booleans(),
        attempt=numbers,
        died_at=st.one_of(st.none(), times),
    ),
    step("wake", now=times),
    step("recover", before=st.one_of(st.none(), times), now=times, limit=st.integers(0, 2)),
    step("redrive", key=keys, now=times),
    step("delete", key=keys),
    step("prune_dead", before=times),
    step("forget", task_id=st.sampled_from(["t-1", "t-x", "t-y"])),
    step("prune_records"),
    step("claim", key=keys),
    step("put", key=keys),
    step("restart"),
)


async def play(store: Store, history: list[tuple[str, dict[str, Any]]]) -> None:
    model, real = Model(), Real(store)
    await store.open()
    try:
        for name, arguments in history:
            expected = getattr(model, name)(**arguments)
            assert await getattr(real, name)(**arguments) == expected, name
            assert await real.look() == model.look(), name
    finally:
        await store.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@settings(max_examples=80, deadline=None)
@given(history=st.lists(steps, max_size=40))
def test_the_queue_does_what_two_dictionaries_do(
    kind: str, history: list[tuple[str, dict[str, Any]]]
) -> None:
    if kind == "memory":
        asyncio.run(play(MemoryStore(), history))
        return
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(play(SqliteStore(Path(directory) / "data", Settings()), history))
