"""The dispatcher: takes durable executions from the queue, has them run, and settles them.

It leases as many as their tasks have room for and a little more, hands each attempt to the
one path of all calls, and writes down what came of it. An end counts when it is in the store,
and is shown to nobody before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from atlatl.core.following import MAX_RECOVERIES, Again, Later, after_attempt
from atlatl.engine.held import Held, Line, pending
from atlatl.errors import (
    Cancelled,
    Draining,
    InstanceLost,
    InternalFailure,
    StoreUnavailable,
    TimedOutWaiting,
)
from atlatl.events import AttemptFailed, ExecutionDied, ExecutionFinished
from atlatl.model import (
    Callback,
    Execution,
    ExecutionRecord,
    Outcome,
    Queued,
    QueueDepth,
    failed,
)
from atlatl.settings import RetrySettings

if TYPE_CHECKING:
    from atlatl.engine.executions import Executions
    from atlatl.engine.manager import TaskExecutionManager
    from atlatl.engine.registry import Registry
    from atlatl.ports import Queue, Telemetry

log = logging.getLogger(__name__)

LEASE_S = 60.0
BEAT_S = 10.0
"""How often leases are extended, and those looked for that nobody extends."""
TICK_S = 1.0
RETRY_S = 1.0
"""After the store failed."""
PRUNE_S = 60.0
AT_ONCE = 100
"""Executions that are expired or cancelled in one go."""
ROOM_WITHOUT_TASK = 16
"""Executions of a task that is gone end at once; so many at a time."""
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
        self._registry = registry
        self._manager = manager
        self._executions = executions
        self._telemetry = telemetry
        self._clock = clock
        self._steady = steady
        self._chance = chance
        self._retention_s = dead_letter_retention_s
        self._settled = settled
        self._lines: dict[str, Line] = {}
        self._held: dict[str, Held] = {}
        self._depths: Sequence[QueueDepth] = ()
        self._stale = True
        self._wake = asyncio.Event()
        self._leasing = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._draining = False
        self._failing = False
        self._delayed_at: float | None = 0.0
        self._tick_at = self._beat_at = self._prune_at = 0.0

    # --- life ---

    async def open(self) -> None:
        """Takes back what the life before left under way, and begins; raises StoreUnavailable."""
        lost = await self._recover(None)
        if lost:
            log.warning("%d async executions were under way when the service ended", lost)
        self._depths = await self._queue.depths()
        for depth in self._depths:
            line = self._line(depth.task_name)
            line.depth = depth.ready + depth.delayed + depth.leased
            line.stored = depth.ready > 0
        self._running = asyncio.create_task(self._run(), name="dispatcher")

    def begin_drain(self) -> None:
        """From now on nothing is begun; what was not begun goes back."""
        self._draining = True
        for line in self._lines.values():
            for held in line.clear():
                self._put_back(held, held.queued)

    async def close(self) -> None:
        """Waits until what has ended is written, then ends."""
        self.begin_drain()
        left = list(self._held.values())
        try:
            async with asyncio.timeout(CLOSE_S):
                for held in left:
                    await held.gone.wait()
        except TimeoutError:
            log.warning("%d async executions are not settled; they run again", len(self._held))
        tasks = [*self._writing, *([self._running] if self._running else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running = None

    # --- what is in the queue ---

    @property
    def pending(self) -> int:
        """Accepted and not ended, all tasks together."""
        return sum(line.depth for line in self._lines.values())

    def pending_of(self, task_name: str) -> int:
        line = self._lines.get(task_name)
        return 0 if line is None else line.depth

    def depths(self) -> Sequence[QueueDepth]:
        """What is there of each task; at most a tick old."""
        return self._depths

    def _line(self, task_name: str) -> Line:
        line = self._lines.get(task_name)
        if line is None:
            line = self._lines[task_name] = Line(task_name)
        return line

    # --- coming in ---

    async def enter(self, record: ExecutionRecord, queued: Queued) -> ExecutionRecord | None:
        """Stores an accepted execution; one that could begin at once is leased from the start.

        Returns:
            What is stored under its id already; None when it was accepted.

        Raises:
            StoreUnavailable, InvalidRequest: it was not accepted.
        """
        line = self._line(queued.call.task_name)
        at_once = (
            queued.ready_at <= queued.queued_at
            and not line.stored
            and self._appetite(line) > 0
            and self._executions.live(queued.call.execution_id) is None
        )
        line.depth += 1
        if not at_once:
            first = await self._entered(line, record, queued)
            if first is None:
                self._note_ready_at(line, queued)
            return first
        held = Held(replace(queued, lease=1))
        held.coming = asyncio.Event()
        self._hold(held)
        line.coming += 1
        first = error = None
        try:
            first = await self._entered(line, record, held.queued)
        except BaseException as raised:
            error = raised
            raise
        finally:
            line.coming -= 1
            held.coming.set()
            held.coming = None
            if first is not None or error is not None:
                self._let_go(held)
            else:
                line.add(held)
                self._feed(line)
        return first

    async def _entered(
        self, line: Line, record: ExecutionRecord, queued: Queued
    ) -> ExecutionRecord | None:
        self._stale = True
        first: ExecutionRecord | None = None
        accepted = False
        try:
            first = await self._queue.enqueue(record, queued)
            accepted = first is None
        finally:
            if not accepted:
                line.depth -= 1
        return first

    def _note_ready_at(self, line: Line, queued: Queued) -> None:
        if queued.ready_at <= self._steady():
            line.stored = True
        # Even when its time has come by now: it may have been stored as one that has to wait.
        if self._delayed_at is None or queued.ready_at < self._delayed_at:
            self._delayed_at = queued.ready_at
        self._wake.set()

    # --- the loop ---

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
                self._failing = False
            except StoreUnavailable as error:
                self._say_failing(error)
                await asyncio.sleep(RETRY_S)
                continue
            except Exception:
                log.exception("the dispatcher failed; it goes on")
                await asyncio.sleep(RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            self._wake.clear()

    def _pause(self) -> float:
        pause = self._tick_at - self._clock()
        if self._delayed_at is not None:
            pause = min(pause, self._delayed_at - self._steady())
        return max(0.0, pause)

    async def _round(self) -> None:
        if self._delayed_at is not None and self._delayed_at <= self._steady():
            names, self._delayed_at = await self._queue.wake(now=self._steady())
            for name in names:
                self._line(name).stored = True
        if self._clock() >= self._tick_at:
            await self._tick()
        if not self._draining:
            await self._lease()
        for line in list(self._lines.values()):
            self._feed(line)

    async def _lease(self) -> None:
        wanted = {
            line.name: appetite
            for line in self._lines.values()
            if line.stored and (appetite := self._appetite(line)) > 0
        }
        if not wanted:
            return
        for name in wanted:
            self._lines[name].stored = False  # what comes from now on says so itself
        async with self._leasing:
            now = self._steady()
            try:
                leased = await self._queue.lease(wanted, now=now, until=now + LEASE_S)
            except BaseException:
                for name in wanted:
                    self._lines[name].stored = True
                raise
            for queued in leased:
                self._take_in(queued)
        counts = dict.fromkeys(wanted, 0)
        for queued in leased:
            counts[queued.call.task_name] += 1
        for name, number in counts.items():
            if number >= wanted[name]:
                self._lines[name].stored = True

    def _take_in(self, queued: Queued) -> None:
        held = Held(queued)
        self._hold(held)
        if self._draining:
            self._put_back(held, queued)
        else:
            self._line(queued.call.task_name).add(held)

    def _appetite(self, line: Line) -> int:
        if self._draining or line.resume_at > self._clock():
            return 0
        return line.appetite(self._room(line))

    def _room(self, line: Line) -> int:
        deployed = self._registry.find_name(line.name)
        return ROOM_WITHOUT_TASK if deployed is None else deployed.pool.room

    async def _tick(self) -> None:
        now, steady = self._clock(), self._steady()
        self._tick_at = now + TICK_S
        for line in list(self._lines.values()):
            line.pace, line.ended = line.ended / TICK_S, 0
            if not line.depth and not len(line):
                del self._lines[line.name]
        if now >= self._beat_at:
            self._beat_at = now + BEAT_S
            leased = {held.execution_id: held.queued.lease for held in self._held.values()}
            await self._queue.extend(leased, until=steady + LEASE_S)
            await self._recover(steady)
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_S
            await self._queue.prune_dead_letters(died_before=steady - self._retention_s)
            self._stale = True
        if self._lines:
            await self._end_expired(steady)
        if self._stale or self._lines:
            self._stale = False
            self._depths = await self._queue.depths()

    async def _end_expired(self, steady: float) -> None:
        async with self._leasing:
            expired = await self._queue.take_expired(
                now=steady, until=steady + LEASE_S, limit=AT_ONCE
            )
            for queued in expired:
                held = Held(queued)
                self._hold(held)
                self._expire(held)

    async def _recover(self, lapsed_before: float | None) -> int:
        """Takes back leases that nobody holds; returns how many there were."""
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
                self._tell_ended(queued, _ended_as(queued, failed(error), now), dead=True)
            else:
                self._note_ready_at(self._line(queued.call.task_name), queued)
                cut_off = replace(queued, attempt=queued.attempt - 1)
                self._emit_failed(cut_off, error.code, 0.0, recovered=True)
        return len(taken)

    # --- attempts ---

    def _feed(self, line: Line) -> None:
        """Begins what there is room for."""
        if line.feeding:
            return
        line.feeding = True
        try:
            while len(line) and line.resume_at <= self._clock() and self._room(line) > 0:
                self._begin(line.next())
        finally:
            line.feeding = False
        if line.stored and self._appetite(line) > 0:
            self._wake.set()

    def _begin(self, held: Held) -> None:
        queued = held.queued
        if queued.expires_at is None:
            held.ticket = self._manager.attempt(
                queued.call, partial(self._ended, held), number=queued.attempt
            )
            return
        left_s = queued.expires_at - self._steady()
        if left_s <= 0:
            self._expire(held)
            return
        held.ticket = self._manager.attempt(
            queued.call,
            partial(self._ended, held),
            number=queued.attempt,
            expires=self._clock() + left_s,
        )

    def _ended(self, held: Held, record: Execution) -> None:
        """An attempt is over: decides what follows."""
        outcome = record.outcome
        assert outcome is not None
        queued = held.queued
        line = self._line(queued.call.task_name)
        line.ended += 1
        if isinstance(outcome.error, Draining):
            cut_off = record.started_at is not None
            if cut_off:
                self._emit_failed(queued, outcome.error.code, 0.0, recovered=True)
            self._put_back(
                held,
                replace(
                    queued,
                    attempt=queued.attempt + cut_off,
                    recoveries=queued.recoveries + cut_off,
                ),
            )
            return
        deployed = self._registry.find_name(line.name)
        settings = RetrySettings() if deployed is None else deployed.task.settings.retry
        follows = after_attempt(
            outcome, queued.failures, settings, self._chance, max_retries=queued.call.max_retries
        )
        if isinstance(follows, Later):
            self._again_later(line, held, follows.pause_s)
        elif isinstance(follows, Again) and not self._too_late(queued, follows.delay_s):
            self._retry(held, outcome, follows.delay_s)
        else:
            dead = outcome.error is not None and (isinstance(follows, Again) or follows.dead)
            self._settle(held, held.of_attempt(record), dead=dead)
        self._feed(line)

    def _again_later(self, line: Line, held: Held, pause_s: float) -> None:
        held.ticket = None
        if self._draining:
            self._put_back(held, held.queued)
            return
        line.add(held)
        line.resume_at = self._clock() + pause_s
        asyncio.get_running_loop().call_later(pause_s, self._wake.set)

    def _too_late(self, queued: Queued, delay_s: float) -> bool:
        return queued.expires_at is not None and self._steady() + delay_s >= queued.expires_at

    def _retry(self, held: Held, outcome: Outcome, delay_s: float) -> None:
        queued = held.queued
        assert outcome.error is not None
        self._emit_failed(queued, outcome.error.code, delay_s)
        again = replace(
            queued,
            attempt=queued.attempt + 1,
            failures=queued.failures + 1,
            ready_at=self._steady() + delay_s,
        )
        self._put_back(held, again)

    def _expire(self, held: Held) -> None:
        queued = held.queued
        error = TimedOutWaiting(
            f"task {queued.call.task_name!r}: the execution did not end before it expired "
            "(`expires_after_s`)"
        )
        self._settle(held, _ended_as(queued, failed(error), self._steady()), dead=True)

    # --- writing what came of it ---

    def _settle(self, held: Held, record: Execution, *, dead: bool) -> None:
        held.leaving = True
        self._spawn(self._write_end(held, record, dead=dead))

    async def _write_end(self, held: Held, record: Execution, *, dead: bool) -> None:
        call, lease = held.queued.call, held.queued.lease
        callback = None
        if call.callback_url:
            callback = Callback(
                execution_id=call.execution_id,
                url=call.callback_url,
                traceparent=call.traceparent,
                tracestate=call.tracestate,
                ready_at=self._steady(),
            )

        async def write() -> bool:
            return await self._queue.settle(
                ExecutionRecord(execution=record),
                lease,
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
        self._let_go(held)
        if written:
            self._tell_ended(held.queued, record, dead=dead)
            if callback is not None:
                self._settled()
        else:
            log.warning("the lease of execution %s was lost; its result is void", call.execution_id)

    def _tell_ended(self, queued: Queued, record: Execution, *, dead: bool) -> None:
        line = self._line(queued.call.task_name)
        line.depth = max(0, line.depth - 1)
        deployed = self._registry.find_name(line.name)
        if deployed is not None:
            deployed.execution_count += 1
            deployed.last_status = record.status
        began = record.started_at
        ended = record.completed_at or began or 0.0
        self._telemetry.emit(
            ExecutionFinished(
                at=ended,
                task_name=queued.call.task_name,
                execution=record,
                latency_s=0.0 if began is None else max(0.0, ended - began),
            )
        )
        if dead and record.outcome is not None and record.outcome.error is not None:
            self._emit_died(queued, record.outcome.error.code)
        self._executions.tell(record)

    def _put_back(self, held: Held, queued: Queued) -> None:
        held.leaving = True
        self._spawn(self._write_back(held, queued))

    async def _write_back(self, held: Held, queued: Queued) -> None:
        await self._until_written(lambda: self._queue.put_back(queued, now=self._steady()))
        self._let_go(held)
        self._note_ready_at(self._line(queued.call.task_name), queued)

    async def _until_written(self, write: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        while True:
            try:
                return await write()
            except StoreUnavailable as error:
                self._say_failing(error)
                await asyncio.sleep(RETRY_S)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _hold(self, held: Held) -> None:
        self._held[held.execution_id] = held
        self._executions.hold(held.execution_id, held)

    def _let_go(self, held: Held) -> None:
        self._stale = True
        del self._held[held.execution_id]
        self._executions.leave(held.execution_id, held)
        held.gone.set()

    def _say_failing(self, error: StoreUnavailable) -> None:
        if not self._failing:
            log.error("async executions cannot go on: %s", error)
        self._failing = True

    # --- cancelling and redriving ---

    async def cancel(
        self, execution_id: str, reason: str = "", *, grace_s: float | None = None
    ) -> bool:
        """Stops a durable execution; returns when that is stored.

        Returns:
            False when it is none, or had ended.

        Raises:
            StoreUnavailable: it waits in the store, which does not answer.
        """
        held = self._held.get(execution_id)
        if held is None:
            held = await self._taken(execution_id)
            if held is None:
                return False
            self._settle_cancelled(held, reason)
        elif held.coming is not None:
            await held.coming.wait()
            return await self.cancel(execution_id, reason, grace_s=grace_s)
        elif held.leaving:
            await held.gone.wait()
            # It may have gone back to wait, where it can be cancelled like any other.
            return await self.cancel(execution_id, reason, grace_s=grace_s)
        elif self._line(held.queued.call.task_name).remove(held):
            self._settle_cancelled(held, reason)
        elif held.ticket is None or not held.ticket.cancel(reason, grace_s=grace_s):
            await held.gone.wait()
            return False
        await held.gone.wait()
        return True

    async def _taken(self, execution_id: str) -> Held | None:
        async with self._leasing:  # a lease that was given is held by now
            if execution_id in self._held:
                return None
            queued = await self._queue.take(execution_id, until=self._steady() + LEASE_S)
            if queued is None:
                return None
            held = Held(queued)
            self._hold(held)
            return held

    def _settle_cancelled(self, held: Held, reason: str) -> None:
        said = f": {reason}" if reason else ""
        outcome = failed(Cancelled(f"cancelled{said}"))
        self._settle(held, _ended_as(held.queued, outcome, self._steady()), dead=False)

    async def cancel_all(self, task_name: str, reason: str) -> int:
        """Cancels all durable executions of a task; returns how many."""
        cancelled = 0
        while True:
            ids: Iterable[str] = [
                held.execution_id
                for held in self._held.values()
                if held.queued.call.task_name == task_name
            ]
            ids = {*ids, *await self._queue.waiting_ids(task_name, AT_ONCE)}
            if not ids:
                return cancelled
            answers = await asyncio.gather(*(self.cancel(key, reason, grace_s=0.0) for key in ids))
            cancelled += sum(answers)

    async def redrive(self, execution_id: str) -> Execution | None:
        """Has a dead letter tried again; None when there is none of this id."""
        queued = await self._queue.redrive(execution_id, now=self._steady())
        if queued is None:
            return None
        line = self._line(queued.call.task_name)
        line.depth += 1
        self._note_ready_at(line, queued)
        return pending(queued)

    # --- telling ---

    def _emit_failed(
        self, queued: Queued, code: str, delay_s: float, *, recovered: bool = False
    ) -> None:
        self._telemetry.emit(
            AttemptFailed(
                at=self._steady(),
                task_name=queued.call.task_name,
                execution_id=queued.call.execution_id,
                attempt=queued.attempt,
                code=code,
                retry_in_s=delay_s,
                recovered=recovered,
            )
        )

    def _emit_died(self, queued: Queued, code: str) -> None:
        self._telemetry.emit(
            ExecutionDied(
                at=self._steady(),
                task_name=queued.call.task_name,
                execution_id=queued.call.execution_id,
                attempts=queued.attempt,
                code=code,
            )
        )


def _ended_as(queued: Queued, outcome: Outcome, now: float) -> Execution:
    """The record of an execution that ends without another attempt."""
    return replace(pending(queued), status=outcome.status, outcome=outcome, completed_at=now)
