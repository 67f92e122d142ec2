"""Writes records of executions to the store, behind the calls that they are of.

A call never waits for its record. Successes of calls without an id are written at a bounded
rate and dropped beyond it; all other records are written whatever their number, unless the
store does not keep up or is gone. Of calls with an id nothing is dropped: while too much
waits to be written, their claims are refused, and what could not be written is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from atlatl.errors import StoreUnavailable
from atlatl.model import Execution, ExecutionRecord

if TYPE_CHECKING:
    from atlatl.ports import Store

log = logging.getLogger(__name__)

PAUSE_S = 0.05
"""Between two rounds of writing, so that many records share one commit."""
RETRY_S = 1.0
"""After a round that failed."""
BATCH_RECORDS = 256
BATCH_BYTES = 4 * 1024 * 1024
MAX_WAITING = 10_000
"""Records that may wait to be written."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
STORED_OUTPUT_BYTES = 4096
"""Of what a successful call without an id printed, in its stored record."""


class RecordWriter:
    """The records on their way to the store.

    Args:
        store: where they go.
        per_s: successes of calls without an id that are written in a second, with as large
            a burst.
        clock: monotonic seconds.
    """

    def __init__(self, store: Store, per_s: int, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._per_s = per_s
        self._clock = clock
        self._room = float(per_s)
        self._refilled_at = clock()
        self._waiting: dict[str, ExecutionRecord] = {}
        self._bytes = 0
        self._refused: set[str] = set()
        self._awake = False
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._failing = False
        self.dropped = {"rate": 0, "store": 0}
        """Records that were not written and never will be: there were more than the rate allows,
        or the store did not take them."""

    # --- what is to be written ---

    def offer(self, execution: Execution) -> None:
        """Takes the success of a call without an id, if there is room for it."""
        if self._room < 1:
            self.dropped["rate"] += 1
        elif self._full:
            self.dropped["store"] += 1
        else:
            self._room -= 1
            self._add(ExecutionRecord(execution=_with_short_output(execution)))
        if not self._awake:
            self._rouse()

    def keep(self, record: ExecutionRecord) -> None:
        """Takes a record that is to be written in any case."""
        if self._full and not record.fingerprint:
            self.dropped["store"] += 1
            return
        self._add(record)
        if not self._awake:
            self._rouse()

    def waiting(self, execution_id: str) -> ExecutionRecord | None:
        """A record that is not yet in the store."""
        return self._waiting.get(execution_id)

    def all_waiting(self) -> Iterable[ExecutionRecord]:
        return self._waiting.values()

    def _add(self, record: ExecutionRecord) -> None:
        execution_id = record.execution.execution_id
        self._remove(execution_id)
        self._waiting[execution_id] = record
        self._bytes += _n_bytes(record)

    def _remove(self, execution_id: str) -> None:
        before = self._waiting.pop(execution_id, None)
        if before is not None:
            self._bytes -= _n_bytes(before)
            self._refused.discard(execution_id)

    @property
    def _full(self) -> bool:
        return len(self._waiting) >= MAX_WAITING or self._bytes >= MAX_WAITING_BYTES

    def _rouse(self) -> None:
        self._awake = True
        self._wake.set()

    # --- what is written at once ---

    async def claim(self, record: ExecutionRecord) -> ExecutionRecord | None:
        """Makes an id the caller's, or says what is recorded under it.

        Raises:
            StoreUnavailable: nobody can say, or how the call ends could not be kept.
        """
        if self._full:
            raise StoreUnavailable(
                f"{len(self._waiting)} records wait to be written, too many to take calls with "
                "an execution id; see whether the disk of the data directory keeps up",
                retry_after_s=1.0,
            )
        if record.execution.execution_id in self._waiting:
            await self.flush()
        return await self._store.claim_execution(record)

    async def put(self, record: ExecutionRecord) -> None:
        """Returns when the record is in the store; raises StoreUnavailable."""
        async with self._writing:
            await self._store.put_executions([record])

    async def forget_task(self, task_id: str) -> list[str]:
        """Forgets the stored executions of a task; returns their ids; raises StoreUnavailable."""
        async with self._writing:  # what is being written now is to be forgotten too
            ids = [
                execution_id
                for execution_id, record in self._waiting.items()
                if record.execution.task_id == task_id
            ]
            for execution_id in ids:
                self._remove(execution_id)
            return [*ids, *await self._store.forget_executions(task_id)]

    # --- writing behind ---

    async def run(self) -> None:
        """Writes what comes, until it is cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting or self._room < self._per_s:
                written = await self.flush()
                await asyncio.sleep(PAUSE_S if written else RETRY_S)
                self._refill()
            self._awake = False

    def _refill(self) -> None:
        now = self._clock()
        self._room = min(self._per_s, self._room + (now - self._refilled_at) * self._per_s)
        self._refilled_at = now

    async def flush(self) -> bool:
        """Writes all that waits now; False when some of it is still waiting."""
        async with self._writing:
            refused = [record for key, record in self._waiting.items() if key in self._refused]
            fresh = [record for key, record in self._waiting.items() if key not in self._refused]
            # Those that were refused before go last and alone: a result that is too large for
            # what is left of the disk must not cost others their records.
            for batch in [*_batches(fresh), *([record] for record in refused)]:
                if not await self._write(batch):
                    return False
        return True

    async def close(self) -> None:
        """Writes what waits, and gives up what cannot be written."""
        await self.flush()
        if self._waiting:
            self.dropped["store"] += len(self._waiting)
            log.error("%d records of executions could not be stored", len(self._waiting))
            self._waiting.clear()
            self._refused.clear()
            self._bytes = 0

    async def _write(self, batch: list[ExecutionRecord]) -> bool:
        try:
            await self._store.put_executions(batch)
        except StoreUnavailable as error:
            self._say_failing(error)
            for record in batch:
                if record.fingerprint:
                    self._refused.add(record.execution.execution_id)
                else:
                    self._give_up(record)
            return False
        except Exception:
            return await self._write_each(batch)
        self._failing = False
        for record in batch:
            self._written(record)
        return True

    async def _write_each(self, batch: list[ExecutionRecord]) -> bool:
        """One record that no store can take must not cost the others."""
        if len(batch) == 1:
            log.exception("the record of %s cannot be stored", batch[0].execution.execution_id)
            self._give_up(batch[0])
            return True
        return all([await self._write([record]) for record in batch])

    def _written(self, record: ExecutionRecord) -> None:
        execution_id = record.execution.execution_id
        if self._waiting.get(execution_id) is record:  # else there is a newer one
            self._remove(execution_id)

    def _give_up(self, record: ExecutionRecord) -> None:
        self.dropped["store"] += 1
        self._written(record)

    def _say_failing(self, error: StoreUnavailable) -> None:
        if not self._failing:
            log.error("records of executions cannot be stored: %s", error)
        self._failing = True


def _batches(records: list[ExecutionRecord]) -> Iterator[list[ExecutionRecord]]:
    """Groups that are small enough for one transaction each; a lone record always is."""
    left = iter(records)
    for first in left:
        batch, n_bytes = [first], _n_bytes(first)
        for record in islice(left, BATCH_RECORDS - 1):
            batch.append(record)
            n_bytes += _n_bytes(record)
            if n_bytes >= BATCH_BYTES:
                break
        yield batch


def _n_bytes(record: ExecutionRecord) -> int:
    outcome = record.execution.outcome
    if outcome is None:
        return 0
    return len(outcome.output) + (0 if outcome.result is None else len(outcome.result.body))


def _with_short_output(execution: Execution) -> Execution:
    outcome = execution.outcome
    if outcome is None or len(outcome.output) <= STORED_OUTPUT_BYTES:
        return execution
    return replace(execution, outcome=replace(outcome, output=outcome.output[:STORED_OUTPUT_BYTES]))
