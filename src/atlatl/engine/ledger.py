"""The leases that this service holds, from the queue and back: what is written is written here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from atlatl.core.following import MAX_RECOVERIES
from atlatl.engine.held import Held
from atlatl.errors import InstanceLost, InternalFailure, StoreUnavailable
from atlatl.model import Call, Callback, Execution, ExecutionRecord, Queued, failed

if TYPE_CHECKING:
    from atlatl.engine.executions import Executions
    from atlatl.engine.lines import Lines
    from atlatl.engine.registry import Registry
    from atlatl.engine.telling import Telling
    from atlatl.ports import Queue

log = logging.getLogger(__name__)

LEASE_S = 60.0
RETRY_S = 1.0
"""After the store failed."""
SAY_S = 60.0
"""A trouble that lasts is logged so often: on a full disk some writes fail and some do not."""
AT_ONCE = 100
"""Executions that are expired in one go."""


class Ledger:
    """Takes leases, keeps them, and ends them.

    How an execution ended, or that it goes on, counts when it is in the store; nobody is told
    before, and it is tried until it is written.

    Args:
        queue: of the store.
        registry: names the functions that run.
        executions: where those under way are looked up.
        lines: what is known of the queue.
        telling: told of what has been written.
        steady: Unix seconds that no change of the machine's clock moves.
        settled: called after an end that somebody has to be told of.
    """

    def __init__(
        self,
        queue: Queue,
        registry: Registry,
        executions: Executions,
        lines: Lines,
        telling: Telling,
        *,
        steady: Callable[[], float],
        settled: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._registry = registry
        self._executions = executions
        self._lines = lines
        self._telling = telling
        self._steady = steady
        self._settled = settled
        self._leasing = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()
        self._say_at = 0.0

    # --- taking ---

    async def lease(self, wanted: Mapping[str, int]) -> list[Held]:
        """Leases what is ready, at most so many by task; raises StoreUnavailable."""
        async with self._leasing:
            now = self._steady()
            leased = await self._queue.lease(wanted, now=now, until=now + LEASE_S)
            return [self.hold(queued) for queued in leased]

    async def take(self, execution_id: str) -> Held | None:
        """Leases a certain execution that waits in the store; raises StoreUnavailable.

        Returns:
            None when it does not wait there: it is held, has ended, or never was.
        """
        async with self._leasing:  # a lease that was given is held by now
            if self._lines.find(execution_id) is not None:
                return None
            queued = await self._queue.take(execution_id, until=self._steady() + LEASE_S)
            return None if queued is None else self.hold(queued)

    async def take_expired(self) -> list[Held]:
        """Leases what has expired while it waited; raises StoreUnavailable."""
        async with self._leasing:
            now = self._steady()
            expired = await self._queue.take_expired(now=now, until=now + LEASE_S, limit=AT_ONCE)
            return [self.hold(queued) for queued in expired]

    async def redrive(self, execution_id: str) -> Queued | None:
        """Has a dead letter wait again; None when there is none; raises StoreUnavailable."""
        async with self._leasing:  # it is counted before it can be leased
            now = self._steady()
            queued = await self._queue.redrive(execution_id, now=now)
            if queued is not None:
                self._lines.of(queued.call.task_name).depth += 1
                self._lines.stale = True
                self._lines.note(queued, now)
            return queued

    def hold(self, queued: Queued) -> Held:
        """Enters a lease that was given."""
        held = Held(queued, self.function_of(queued.call))
        self._lines.hold(held)
        self._executions.hold(held.execution_id, held)
        return held

    def let_go(self, held: Held) -> None:
        """The lease is over."""
        self._lines.let_go(held)
        self._executions.leave(held.execution_id, held)
        held.gone.set()

    def function_of(self, call: Call) -> str:
        """Name of the function that the call runs by now; empty when its task is gone."""
        deployed = self._registry.find_name(call.task_name)
        return call.function or ("" if deployed is None else deployed.task.function)

    # --- keeping ---

    async def keep(self) -> None:
        """Extends all leases, and takes back those that nobody extends."""
        now = self._steady()
        leases = {held.execution_id: held.queued.lease for held in self._lines.held()}
        await self._queue.extend(leases, until=now + LEASE_S)
        await self.recover(now)

    async def recover(self, lapsed_before: float | None) -> int:
        """Takes back leases that nobody holds, None is all; returns how many there were."""
        now = self._steady()
        error = InstanceLost(
            f"the service ended in the middle of {MAX_RECOVERIES + 1} attempts; the function may "
            "be what ends it"
        )
        taken = await self._queue.recover(
            lapsed_before=lapsed_before, now=now, limit=MAX_RECOVERIES, outcome=failed(error)
        )
        for queued, dead in taken:
            if dead:
                buried = Held(queued, self.function_of(queued.call))
                self._ended(queued, buried.ended(failed(error), now), dead=True)
            else:
                self._lines.note(queued, now)
                cut_off = replace(queued, attempt=queued.attempt - 1)
                self._telling.attempt_failed(cut_off, error.code, recovered=True)
        return len(taken)

    # --- ending ---

    def settle(self, held: Held, record: Execution, *, dead: bool) -> None:
        """The execution has ended; `dead` when it failed for good and may be redriven."""
        held.leaving = True
        self._spawn(self._write_end(held, record, dead=dead))

    async def _write_end(self, held: Held, record: Execution, *, dead: bool) -> None:
        callback = self._callback(held.queued.call)

        async def write() -> bool:
            return await self._queue.settle(
                ExecutionRecord(execution=record),
                held.queued.lease,
                died_at=self._steady() if dead else None,
                callback=callback,
            )

        try:
            written = await self._until_written(write)
        except Exception:
            log.exception("the end of execution %s cannot be stored", held.execution_id)
            outcome = failed(InternalFailure("how it ended cannot be stored; see the log"))
            record, dead = replace(record, status=outcome.status, outcome=outcome), True
            written = await self._until_written(write)
        self.let_go(held)
        if not written:
            log.warning("the lease of execution %s was lost; its result is void", held.execution_id)
            return
        self._ended(held.queued, record, dead=dead)
        if callback is not None:
            self._settled()

    def _callback(self, call: Call) -> Callback | None:
        if not call.callback_url:
            return None
        return Callback(
            execution_id=call.execution_id,
            url=call.callback_url,
            traceparent=call.traceparent,
            tracestate=call.tracestate,
            ready_at=self._steady(),
        )

    def _ended(self, queued: Queued, record: Execution, *, dead: bool) -> None:
        line = self._lines.of(queued.call.task_name)
        line.depth = max(0, line.depth - 1)
        self._telling.ended(queued, record, dead=dead)

    def put_back(self, held: Held, queued: Queued) -> None:
        """It goes on waiting in the store, as `queued` says."""
        held.leaving = True
        self._spawn(self._write_back(held, queued))

    async def _write_back(self, held: Held, queued: Queued) -> None:
        await self._until_written(lambda: self._queue.put_back(queued, now=self._steady()))
        self.let_go(held)
        self._lines.note(queued, self._steady())

    async def _until_written(self, write: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                self.say_failing(error)
                await asyncio.sleep(RETRY_S)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    # --- troubles, and the end ---

    def say_failing(self, error: StoreUnavailable) -> None:
        """Logs a failure, and of those that come soon after it none."""
        now = self._steady()
        if now >= self._say_at:
            self._say_at = now + SAY_S
            log.error("async executions cannot go on: %s", error)

    async def drained(self, within_s: float) -> None:
        """Waits until nothing is held any more, at most so long."""
        try:
            async with asyncio.timeout(within_s):
                async with self._leasing:
                    pass  # what is being leased is held by now
                while left := self._lines.held():
                    await left[0].gone.wait()
        except TimeoutError:
            unsettled = len(self._lines.held())
            log.warning("%d async executions are not settled; they run again", unsettled)

    async def close(self) -> None:
        """Gives up what cannot be written."""
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)
