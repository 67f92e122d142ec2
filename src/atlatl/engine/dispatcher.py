"""The dispatcher: takes durable executions from the queue, has them run, and settles them.

It leases as many as their tasks have room for and a little more (`lines`), hands each attempt
to the one path of all calls (`attempts`), and writes down what came of it (`ledger`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from atlatl.engine.attempts import Attempts
from atlatl.engine.cancelling import Cancelling
from atlatl.engine.held import pending
from atlatl.engine.ledger import RETRY_S, Ledger
from atlatl.engine.lines import Line, Lines
from atlatl.engine.telling import Telling
from atlatl.errors import StoreUnavailable
from atlatl.model import Execution, ExecutionRecord, Queued, QueueDepth

if TYPE_CHECKING:
    from atlatl.engine.executions import Executions
    from atlatl.engine.manager import TaskExecutionManager
    from atlatl.engine.registry import Registry
    from atlatl.ports import Queue, Telemetry

log = logging.getLogger(__name__)

BEAT_S = 10.0
"""How often leases are extended, and those looked for that nobody extends."""
TICK_S = 1.0
PRUNE_S = 60.0
CLOSE_S = 10.0


class Dispatcher:
    """Works through the queue.

    Args:
        queue: of the store.
        registry: what is deployed.
        manager: the path that attempts take.
        executions: where those under way are looked up.
        telemetry: told of retries and ends.
        clock: monotonic seconds.
        steady: Unix seconds that no change of the machine's clock moves.
        chance: a number in [0, 1), for the jitter of retries.
        dead_letter_retention_s: age at which a dead letter can no longer be redriven.
        settled: called after an end that somebody has to be told of.
    """

    def __init__(
        self,
        queue: Queue,
        registry: Registry,
        manager: TaskExecutionManager,
        executions: Executions,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        steady: Callable[[], float],
        chance: Callable[[], float],
        dead_letter_retention_s: float,
        settled: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._executions = executions
        self._clock = clock
        self._steady = steady
        self._retention_s = dead_letter_retention_s
        self._lines = Lines()
        telling = Telling(registry, executions, telemetry, steady=steady)
        self._ledger = Ledger(
            queue, registry, executions, self._lines, telling, steady=steady, settled=settled
        )
        self._attempts = Attempts(
            manager,
            registry,
            self._lines,
            self._ledger,
            telling,
            clock=clock,
            steady=steady,
            chance=chance,
        )
        self._cancelling = Cancelling(queue, self._lines, self._ledger, steady=steady)
        self._running: asyncio.Task[None] | None = None
        self._tick_at = self._beat_at = self._prune_at = 0.0

    # --- life ---

    async def open(self) -> None:
        """Takes back what the life before left under way, and begins; raises StoreUnavailable."""
        lost = await self._ledger.recover(None)
        if lost:
            log.warning("%d async executions were under way when the service ended", lost)
        depths = await self._queue.depths()
        for depth in depths:
            self._lines.of(depth.task_name).depth = depth.ready + depth.delayed + depth.leased
        self._lines.count(depths)
        self._running = asyncio.create_task(self._run(), name="dispatcher")

    def begin_drain(self) -> None:
        """From now on nothing is begun; what was not begun goes back."""
        self._attempts.begin_drain()

    async def close(self) -> None:
        """Waits until what has ended is written, then ends."""
        self.begin_drain()
        await self._ledger.drained(CLOSE_S)
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None
        await self._ledger.close()

    # --- what is in the queue ---

    @property
    def pending(self) -> int:
        """Accepted and not ended, all tasks together."""
        return self._lines.pending

    def pending_of(self, task_name: str) -> int:
        return self._lines.pending_of(task_name)

    def depths(self) -> list[QueueDepth]:
        """What there is of each task, in the order of their names.

        What has been leased and has not begun waits, and is `ready`. Of `delayed`, of `dead` and
        of what waits longest in the store the counts are at most a tick old.
        """
        return self._lines.depths()

    def count_again(self) -> None:
        """Somebody else has changed what is in the queue."""
        self._lines.stale = True

    # --- coming in ---

    async def enter(self, record: ExecutionRecord, queued: Queued) -> ExecutionRecord | None:
        """Stores an accepted execution; one that could begin at once is leased from the start.

        Returns:
            What is stored under its id already; None when it was accepted.

        Raises:
            StoreUnavailable, InvalidRequest: it was not accepted.
        """
        line = self._lines.of(queued.call.task_name)
        store = self._store_leased if self._could_begin(line, queued) else self._store_waiting
        line.depth += 1
        accepted = False
        try:
            first = await store(line, record, queued)
            accepted = first is None
        finally:
            self._lines.stale = True
            if not accepted:
                line.depth -= 1
        return first

    def _could_begin(self, line: Line, queued: Queued) -> bool:
        return (
            queued.ready_at <= queued.queued_at
            and not line.stored
            and self._attempts.appetite(line) > 0
            and self._executions.live(queued.call.execution_id) is None
        )

    async def _store_waiting(
        self, _: Line, record: ExecutionRecord, queued: Queued
    ) -> ExecutionRecord | None:
        first = await self._queue.enqueue(record, queued)
        if first is None:
            self._lines.note(queued, self._steady())
        return first

    async def _store_leased(
        self, line: Line, record: ExecutionRecord, queued: Queued
    ) -> ExecutionRecord | None:
        held = self._ledger.hold(replace(queued, lease=1))
        held.coming = coming = asyncio.Event()
        line.coming += 1
        accepted = False
        try:
            first = await self._queue.enqueue(record, held.queued)
            accepted = first is None
        finally:
            line.coming -= 1
            held.coming = None
            coming.set()
            if accepted:
                self._attempts.line_up(held)
                self._attempts.feed(line)
            else:
                self._ledger.let_go(held)
        return first

    # --- the loop ---

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except StoreUnavailable as error:
                self._ledger.say_failing(error)
                await asyncio.sleep(RETRY_S)
                continue
            except Exception:
                log.exception("the dispatcher failed; it goes on")
                await asyncio.sleep(RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._lines.changed.wait()
            self._lines.changed.clear()

    def _pause(self) -> float:
        pause = self._tick_at - self._clock()
        if self._lines.due_at is not None:
            pause = min(pause, self._lines.due_at - self._steady())
        return max(0.0, pause)

    async def _round(self) -> None:
        due_at = self._lines.due_at
        if due_at is not None and due_at <= self._steady():
            await self._wake()
        if self._clock() >= self._tick_at:
            await self._tick()
        await self._lease()
        for line in self._lines:
            self._attempts.feed(line)

    async def _wake(self) -> None:
        """Those whose time has come are ready now."""
        now = self._steady()
        self._lines.due_at = None  # what is delayed from now on says so itself
        try:
            names, next_at = await self._queue.wake(now=now)
        except BaseException:
            self._lines.due(now)
            raise
        for name in names:
            self._lines.of(name).stored = True
        if next_at is not None:
            self._lines.due(next_at)

    async def _lease(self) -> None:
        wanted = {
            line.name: appetite
            for line in self._lines
            if line.stored and (appetite := self._attempts.appetite(line)) > 0
        }
        if not wanted:
            return
        for name in wanted:
            self._lines.of(name).stored = False  # what comes from now on says so itself
        try:
            leased = await self._ledger.lease(wanted)
        except BaseException:
            for name in wanted:
                self._lines.of(name).stored = True
            raise
        counts = Counter(held.queued.call.task_name for held in leased)
        for name, number in wanted.items():
            if counts[name] >= number:
                self._lines.of(name).stored = True
        for held in leased:
            self._attempts.line_up(held)

    async def _tick(self) -> None:
        now, steady = self._clock(), self._steady()
        self._tick_at = now + TICK_S
        for line in self._lines:
            line.look(now)
        self._lines.forget_empty()
        if now >= self._beat_at:
            self._beat_at = now + BEAT_S
            await self._ledger.keep()
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_S
            await self._queue.prune_dead_letters(died_before=steady - self._retention_s)
            self._lines.stale = True
        if self._lines:
            for held in await self._ledger.take_expired():
                self._attempts.expire(held)
        if self._lines.stale or self._lines:
            self._lines.stale = False
            self._lines.count(await self._queue.depths())

    # --- cancelling and redriving ---

    async def cancel(
        self, execution_id: str, reason: str = "", *, grace_s: float | None = None
    ) -> bool:
        """Stops a durable execution; returns when that is stored.

        Args:
            execution_id: of any execution.
            reason: ends up in its record.
            grace_s: how long its work may take to end by itself; see `InstanceChannel.cancel`.

        Returns:
            False when it is none, or had ended.

        Raises:
            StoreUnavailable: the store does not answer; what was under way is stopped all the
                same, and ends so when it answers again.
        """
        return await self._cancelling.cancel(execution_id, reason, grace_s)

    async def cancel_all(self, task_name: str, reason: str) -> int:
        """Cancels all durable executions of a task; returns how many; raises StoreUnavailable."""
        return await self._cancelling.cancel_all(task_name, reason)

    async def redrive(self, execution_id: str) -> Execution | None:
        """Has a dead letter tried again; None when there is none of this id."""
        queued = await self._ledger.redrive(execution_id)
        return None if queued is None else pending(queued, self._ledger.function_of(queued.call))
