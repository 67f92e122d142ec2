"""TaskExecutionManager: the one path of an invocation.

Admission, breaker, lease, run under one deadline, record; in this order, in the
caller's stack as far as it goes without waiting. Every front, the embedding API,
retries and streams go through `start`, so no rule stands twice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from atlatl.core.retrying import RETRIED, next_delay
from atlatl.core.waiting import Waiter
from atlatl.engine.arguments import encode
from atlatl.engine.claims import Claims
from atlatl.engine.deadlines import Deadlines
from atlatl.engine.ticket import Finished, Ticket, fingerprint
from atlatl.engine.trail import noted, way_of, way_without
from atlatl.errors import (
    AtlatlError,
    Cancelled,
    CircuitOpenError,
    Draining,
    InvalidRequest,
    NoCapacity,
    TimedOut,
    TimedOutWaiting,
)
from atlatl.events import CallRefused, CallRetried, ExecutionFinished
from atlatl.model import (
    Call,
    Execution,
    Outcome,
    OutcomeKind,
    check_execution_id,
    failed,
)
from atlatl.settings import check_environment

if TYPE_CHECKING:
    from atlatl.core.admission import ByteBudget, HeldBytes
    from atlatl.core.leases import Lease
    from atlatl.engine.executions import Executions
    from atlatl.engine.pool import InstancePool
    from atlatl.engine.registry import Deployed, Registry
    from atlatl.ports import OnChunk, Telemetry, Tracing

LATE_OUTPUT_S = 0.25
"""Longest wait for the output of a durable execution that was cut off."""


class TaskExecutionManager:
    """Takes every call down one path.

    Args:
        registry: what is deployed.
        inflight: the bytes of bodies that may be held at once.
        executions: where executions are remembered.
        telemetry: told of every end and every refusal.
        clock: monotonic seconds.
        wall: Unix seconds, for records only.
        chance: a number in [0, 1), for the jitter of retries.
        tracing: None when no call is traced.
    """

    def __init__(
        self,
        registry: Registry,
        inflight: ByteBudget,
        executions: Executions,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        chance: Callable[[], float],
        tracing: Tracing | None = None,
    ) -> None:
        self._registry = registry
        self._bytes = inflight
        self._executions = executions
        self._telemetry = telemetry
        self._deadlines: Deadlines[Ticket] = Deadlines(clock, self._expired)
        self._claims = Claims(
            executions,
            clock=clock,
            attempt=self._attempt,
            settle=self._settle,
            withdraw=self._withdraw,
            release=self._release,
            refuse=self._refuse,
            deadlines=self._deadlines,
        )
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._tracing = tracing
        self._tickets: dict[Ticket, None] = {}
        self._working: dict[Ticket, None] = {}
        self._draining = False
        self._drain_s = 0.0
        self.called_at = -math.inf
        """When somebody last made a call that is waited for; monotonic."""
        self._idle = asyncio.Event()
        self._idle.set()

    # --- the path ---

    def start(self, call: Call, finished: Finished, on_chunk: OnChunk | None = None) -> Ticket:
        """Accepts a call or refuses it; never raises and never waits.

        Args:
            call: what to do.
            finished: gets the final record exactly once, perhaps before this returns.
            on_chunk: gets the items of a generator handler, one by one; each has to be
                answered by `Ticket.credit`.
        """
        self.called_at = now = self._clock()
        if self._tracing is not None:
            call = self._tracing.begin(call)
        ticket = Ticket(self, call, finished, on_chunk, now, self._wall())
        try:
            self._prepare(ticket, now)
            if call.id_given and self._claims.joins_first(ticket):
                return ticket
            self._admit(ticket, now)
        except AtlatlError as error:
            self._refuse(ticket, error)
            return ticket
        if call.id_given:
            self._claims.claim(ticket)
        else:
            self._attempt(ticket, now)
        return ticket

    def attempt(
        self, call: Call, finished: Finished, *, number: int, expires: float = math.inf
    ) -> Ticket:
        """One attempt of a durable execution, down the same path.

        Whose attempt it is decides what follows and keeps the record: nothing is retried,
        counted or remembered here. A rate limit and an id were looked at on acceptance.

        Args:
            call: what to do.
            finished: gets how the attempt ended exactly once, perhaps before this returns; what
                it printed included, as far as that is known soon.
            number: of the attempt, from 1.
            expires: monotonic; the deadline is not after it.
        """
        now = self._clock()
        ticket = Ticket(self, call, finished, None, now, self._wall())
        ticket.durable, ticket.attempt = True, number
        try:
            self._prepare(ticket, now)
            ticket.deadline = min(ticket.deadline, expires)
            if self._draining:
                raise self._refusal_of_drain()
            self._take_in(ticket, now)
        except AtlatlError as error:
            outcome = failed(error)
            ticket.answer(ticket.record(outcome.status, outcome, self._wall()))
            return ticket
        self._attempt(ticket, now)
        return ticket

    def check(self, call: Call) -> tuple[Deployed, bytes]:
        """The task of a call that is to be accepted, and what the call does, as a fingerprint.

        The fingerprint is empty when nobody chose the id: nobody can come again with it.

        Raises:
            TaskNotFound, InvalidRequest: what is wrong with the call.
            Draining: the service takes none any more.
        """
        if self._draining:
            raise self._refusal_of_drain()
        deployed = self._registry.named(call.task_name)
        settings = deployed.task.settings
        encoded = encode(deployed.shape(call.function), call.payload)
        _check_environment(call)
        _timeout_s(call, settings.timeout_ms, settings.max_timeout_ms)
        check_execution_id(call.execution_id)
        if not call.id_given:
            return deployed, b""
        return deployed, fingerprint(deployed.task.name, call.function, encoded)

    def _prepare(self, ticket: Ticket, now: float) -> None:
        """Finds the task, checks the call against it; raises what is wrong with the call."""
        call = ticket.call
        deployed = self._registry.named(call.task_name)
        settings = deployed.task.settings
        ticket.deployed = deployed
        ticket.version = deployed.task.version
        ticket.encoded = encode(deployed.shape(call.function), call.payload)
        _check_environment(call)
        ticket.priority = settings.priority if call.priority is None else call.priority
        ticket.deadline = now + _timeout_s(call, settings.timeout_ms, settings.max_timeout_ms)
        if call.id_given and not ticket.durable:
            check_execution_id(call.execution_id)
            ticket.fingerprint = fingerprint(deployed.task.name, call.function, ticket.encoded)

    def _admit(self, ticket: Ticket, now: float) -> None:
        """Takes the call in, or raises what refuses it."""
        if self._draining:
            raise self._refusal_of_drain()
        deployed = ticket.deployed
        assert deployed is not None
        if deployed.bucket is not None:
            deployed.bucket.take(now)
        self._executions.begin(ticket.execution_id, ticket, given=ticket.call.id_given)
        try:
            self._take_in(ticket, now)
        except NoCapacity:
            self._executions.leave(ticket.execution_id, ticket)
            raise
        deployed.retry_budget.called()

    def _take_in(self, ticket: Ticket, now: float) -> None:
        """Takes what `_give_back` frees; raises NoCapacity."""
        deployed, encoded = ticket.deployed, ticket.encoded
        assert deployed is not None
        assert encoded is not None
        n_bytes = len(encoded.body)
        self._bytes.take(n_bytes)
        ticket.n_bytes = n_bytes
        deployed.running += 1
        deployed.last_used = now
        self._tickets[ticket] = None
        self._idle.clear()
        ticket.slot = self._deadlines.add(ticket.deadline, ticket)

    def _attempt(self, ticket: Ticket, now: float) -> None:
        deployed = ticket.deployed
        assert deployed is not None
        try:
            ticket.permit = deployed.breaker.try_acquire()
        except CircuitOpenError as error:
            # A call that has run already ends with what it ended with, not with a refusal.
            self._settle(ticket, ticket.last or failed(error))
            return
        ticket.waiter = self._waiter(ticket)
        deployed.pool.ask(ticket.waiter)

    def _waiter(self, ticket: Ticket) -> Waiter:
        return Waiter(
            ticket.granted,
            ticket.refused,
            priority=ticket.priority,
            deadline=ticket.deadline,
            fresh=ticket.call.force_new_instance,
        )

    def granted(self, ticket: Ticket, lease: Lease) -> None:
        """The pool lends an instance: the call begins."""
        waiter = ticket.waiter
        assert waiter is not None
        pool: InstancePool = waiter.pool
        ticket.waiter = None
        if not self._current(ticket):
            pool.release(lease)
            return
        call, encoded = ticket.call, ticket.encoded
        assert encoded is not None
        if self._tracing is not None and call.traceparent:
            call, encoded = self._tracing.entering(call, encoded, ticket.attempt)
        ticket.lease = lease
        if waiter.met is not None or lease.cold or (ticket.permit or 0) < 0:
            ticket.way = way_of(ticket, waiter, lease)
        ticket.cold = ticket.cold or lease.cold
        ticket.started = self._clock()
        self._working[ticket] = None
        lease.channel.send(
            call,
            encoded,
            lambda outcome: self._returned(ticket, pool, lease, outcome),
            deadline=ticket.deadline,
            attempt=ticket.attempt,
            on_chunk=ticket.chunk if ticket.on_chunk is not None else None,
        )

    def _current(self, ticket: Ticket) -> bool:
        """Checks a call that waited through a deploy against the version that will run it."""
        deployed = ticket.deployed
        assert deployed is not None
        if ticket.version == deployed.task.version:
            return True
        ticket.version = deployed.task.version
        try:
            ticket.encoded = encode(deployed.shape(ticket.call.function), ticket.call.payload)
        except AtlatlError as error:
            self._release_permit(ticket)
            self._settle(ticket, failed(error))
            return False
        return True

    def refused(self, ticket: Ticket, error: AtlatlError) -> None:
        """The pool will not lend: the queue is full, no instance starts, or it closes."""
        self._gave_up(ticket)
        self._release_permit(ticket)
        self._attempt_failed(ticket, failed(error))

    def _gave_up(self, ticket: Ticket) -> None:
        """It waits for no instance any more, and got none."""
        waiter, ticket.waiter = ticket.waiter, None
        if waiter is not None and waiter.met is not None:
            ticket.way = way_without(waiter, self._clock())

    def _returned(
        self, ticket: Ticket, pool: InstancePool, lease: Lease, outcome: Outcome | None
    ) -> None:
        """The work of an attempt is over and its place is free; None when it did not begin."""
        self._working.pop(ticket, None)
        if outcome is None:
            self._not_begun(ticket, pool, lease)
            return
        try:
            pool.release(lease, run_s=outcome.run_s)
        finally:
            self._after_return(ticket, outcome)

    def _not_begun(self, ticket: Ticket, pool: InstancePool, lease: Lease) -> None:
        """It waits again, in the place that its age gives it; that is no attempt."""
        assert ticket.deployed is not None
        if ticket.settled is None and ticket.verdict is None:
            ticket.lease = ticket.started = None
            ticket.waiter = self._waiter(ticket)
        pool.undo(lease, ticket.waiter, ticket.deployed.pool)
        self._settle_verdict(ticket)
        self._check_idle()

    def _after_return(self, ticket: Ticket, outcome: Outcome) -> None:
        if ticket.settled is not None:
            if not ticket.durable:
                self._executions.add_output(ticket.execution_id, outcome.output)
            self._check_idle()
            return
        if ticket.verdict is not None:
            self._settle(ticket, replace(ticket.verdict, output=outcome.output))
            return
        self._record_permit(ticket, outcome)
        if outcome.kind is OutcomeKind.SUCCESS:
            self._settle(ticket, outcome)
        else:
            self._attempt_failed(ticket, outcome)

    # --- the ends ---

    def _attempt_failed(self, ticket: Ticket, outcome: Outcome) -> None:
        delay = self._retry_delay(ticket, outcome)
        if delay is None:
            self._settle(ticket, outcome)
            return
        assert outcome.error is not None
        self._emit_retry(ticket, outcome.error, delay)
        ticket.last = outcome
        ended_at = ticket.queued_at + self._clock() - ticket.accepted
        ticket.tried = noted(ticket.tried, ticket.view(), outcome, ended_at, delay)
        ticket.lease = ticket.way = None
        ticket.attempt += 1
        loop = asyncio.get_running_loop()
        ticket.retry_timer = loop.call_later(delay, self._retry, ticket)

    def _retry_delay(self, ticket: Ticket, outcome: Outcome) -> float | None:
        """Seconds until the next attempt, or None when there is none."""
        deployed = ticket.deployed
        if deployed is None or ticket.durable or ticket.streamed:
            return None
        if not isinstance(outcome.error, RETRIED):
            return None
        now = self._clock()
        settings = deployed.task.settings.retry
        delay = next_delay(
            ticket.attempt,
            settings,
            self._chance,
            left_s=ticket.deadline - now,
            max_retries=ticket.call.max_retries,
        )
        if delay is None or not deployed.retry_budget.take(now):
            return None
        return delay

    def _retry(self, ticket: Ticket) -> None:
        ticket.retry_timer = None
        if self._draining:
            self._settle(ticket, failed(self._refusal_of_drain()))
        elif ticket.call.id_given:
            self._claims.note_attempt(ticket)
        else:
            self._attempt(ticket, self._clock())

    def _expired(self, ticket: Ticket) -> None:
        """The one deadline: what waits is withdrawn, what runs is ended."""
        if ticket.settled is not None or ticket.verdict is not None:
            return
        limit_ms = round((ticket.deadline - ticket.accepted) * 1000)
        name = ticket.call.task_name
        error: AtlatlError
        if ticket.following:
            # No execution of its own ends here, so nothing is counted or recorded.
            outcome = failed(
                TimedOutWaiting(
                    f"the time limit of {limit_ms} ms passed while the first call under execution "
                    f"id {ticket.execution_id!r} is under way; ask for its record, or call again"
                )
            )
            ticket.answer(ticket.record(outcome.status, outcome, self._wall()))
            return
        if ticket.lease is None:
            error = TimedOutWaiting(
                f"task {name!r}: the time limit of {limit_ms} ms passed before an instance was free"
            )
        else:
            error = TimedOut(f"task {name!r} ran into its time limit of {limit_ms} ms")
        # Alone in its instance it is killed either way; beside others its coroutine may tidy up.
        self._cut_off(ticket, failed(error))

    def cancel(self, ticket: Ticket, reason: str, *, grace_s: float | None = None) -> bool:
        """Fixes CANCELLED at once; the place is free when the work is gone.

        `grace_s` is how long the work may take to end by itself; see `InstanceChannel.cancel`.
        """
        if ticket not in self._tickets or ticket.verdict is not None:
            return False  # it has ended, or it only waits for another call's answer
        said = f": {reason}" if reason else ""
        self._cut_off(ticket, failed(Cancelled(f"cancelled{said}")), grace_s=grace_s)
        return True

    def _cut_off(self, ticket: Ticket, outcome: Outcome, *, grace_s: float | None = None) -> None:
        lease = ticket.lease
        if ticket.waiter is not None:
            ticket.waiter.pool.withdraw(ticket.waiter)
            self._gave_up(ticket)
            self._release_permit(ticket)
        if ticket.retry_timer is not None:
            ticket.retry_timer.cancel()
            ticket.retry_timer = None
        self._record_permit(ticket, outcome)
        working = lease is not None and ticket in self._working
        if working and ticket.durable:
            # Nobody holds a line open for it, so what it printed can be waited for.
            ticket.verdict = outcome
            loop = asyncio.get_running_loop()
            loop.call_later(LATE_OUTPUT_S, self._settle_verdict, ticket)
        else:
            self._settle(ticket, outcome)
        if lease is not None and working:
            lease.channel.cancel(ticket.execution_id, grace_s=grace_s)

    def _settle_verdict(self, ticket: Ticket) -> None:
        if ticket.settled is None and ticket.verdict is not None:
            self._settle(ticket, ticket.verdict)

    def _refuse(self, ticket: Ticket, error: AtlatlError) -> None:
        """A call that was never accepted: counted apart, remembered nowhere."""
        outcome = failed(error)
        self._emit_refusal(ticket, error)
        ticket.answer(ticket.record(outcome.status, outcome, self._wall()))

    def _withdraw(self, ticket: Ticket, answer: Execution | AtlatlError) -> None:
        """An accepted call turns out to be none: it leaves no trace but its answer."""
        self._release(ticket)
        if isinstance(answer, AtlatlError):
            self._emit_refusal(ticket, answer)
            outcome = failed(answer)
            answer = ticket.record(outcome.status, outcome, self._wall())
        ticket.answer(answer)
        self._check_idle()

    def _release(self, ticket: Ticket) -> None:
        """Frees all that an accepted call holds that is no execution of its own."""
        self._executions.leave(ticket.execution_id, ticket)
        self._give_back(ticket, self._clock())
        self._check_idle()

    def _settle(self, ticket: Ticket, outcome: Outcome) -> None:
        """The only place where an accepted execution ends."""
        deployed = ticket.deployed
        assert deployed is not None
        assert ticket.encoded is not None
        assert ticket.settled is None
        now = self._clock()
        record = ticket.record(outcome.status, outcome, ticket.queued_at + now - ticket.accepted)
        ticket.settled = record
        self._give_back(ticket, now)
        if not ticket.durable:
            self._remember(ticket, deployed, record, outcome)
        ticket.answer(record)
        self._check_idle()

    def _remember(
        self, ticket: Ticket, deployed: Deployed, record: Execution, outcome: Outcome
    ) -> None:
        deployed.execution_count += 1
        deployed.last_status = record.status
        if not ticket.asking:  # else it is remembered when the store has answered
            self._executions.end(record, ticket.fingerprint)
        if outcome.kind in (OutcomeKind.REJECTED, OutcomeKind.INVALID) and outcome.error:
            self._emit_refusal(ticket, outcome.error)
        else:
            self._telemetry.emit(
                ExecutionFinished(
                    at=self._wall(),
                    task_name=deployed.task.name,
                    execution=record,
                    latency_s=self._clock() - ticket.accepted,
                    traceparent=ticket.call.traceparent,
                )
            )

    def _give_back(self, ticket: Ticket, now: float) -> None:
        """Frees what `_admit` took."""
        deployed = ticket.deployed
        assert deployed is not None
        self._deadlines.discard(ticket.slot, ticket)
        del self._tickets[ticket]
        self._bytes.give_back(ticket.n_bytes)
        deployed.running -= 1
        deployed.last_used = now

    def _emit_refusal(self, ticket: Ticket, error: AtlatlError) -> None:
        self._telemetry.emit(
            CallRefused(
                at=self._wall(),
                task_name=ticket.call.task_name if ticket.deployed is not None else "",
                execution_id=ticket.execution_id,
                outcome=error.outcome,
                code=error.code,
                traceparent=ticket.call.traceparent,
            )
        )

    def _emit_retry(self, ticket: Ticket, error: AtlatlError, delay_s: float) -> None:
        began = ticket.view().started_at if ticket.lease is not None else None
        self._telemetry.emit(
            CallRetried(
                at=ticket.queued_at + self._clock() - ticket.accepted,
                task_name=ticket.call.task_name,
                execution_id=ticket.execution_id,
                attempt=ticket.attempt,
                code=error.code,
                retry_in_s=delay_s,
                queued_at=ticket.queued_at,
                started_at=began,
                traceparent=ticket.call.traceparent,
            )
        )

    # --- permits of the breaker ---

    def _record_permit(self, ticket: Ticket, outcome: Outcome) -> None:
        permit, ticket.permit = ticket.permit, None
        if permit is None or ticket.deployed is None:
            return
        began = ticket.started if ticket.started is not None else self._clock()
        ticket.deployed.breaker.record(permit, outcome.error, self._clock() - began)

    def _release_permit(self, ticket: Ticket) -> None:
        """The function did not begin: neither a success nor a failure."""
        permit, ticket.permit = ticket.permit, None
        if permit is not None and ticket.deployed is not None:
            ticket.deployed.breaker.release(permit)

    def hold_answer(self, n_bytes: int = 0) -> HeldBytes:
        """Counts an answer among the bytes in flight; see `ByteBudget.hold`."""
        return self._bytes.hold(n_bytes)

    # --- the service's end ---

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def running(self) -> int:
        """Executions in progress."""
        return sum(1 for ticket in self._tickets if ticket.lease is not None)

    @property
    def pending(self) -> int:
        """Executions accepted and not begun, but for the durable ones, which the queue counts."""
        return sum(1 for each in self._tickets if each.lease is None and not each.durable)

    def of_task(self, name: str) -> list[Ticket]:
        """The calls of a task that have not ended."""
        return [ticket for ticket in self._tickets if ticket.call.task_name == name]

    def ticket(self, execution_id: str) -> Ticket | None:
        live = self._executions.live(execution_id)
        return live if isinstance(live, Ticket) else None

    def begin_drain(self, timeout_s: float) -> None:
        """From now on every new call is refused, and so is every call that still waits."""
        self._draining, self._drain_s = True, timeout_s
        for ticket in list(self._tickets):
            if ticket.lease is None:
                self._cut_off(ticket, failed(self._refusal_of_drain()))

    def _refusal_of_drain(self) -> Draining:
        return Draining(
            "the service is shutting down; call again when it is back",
            retry_after_s=max(1.0, self._drain_s),
        )

    async def drained(self, timeout_s: float) -> None:
        """Waits until the started calls have ended; what outlasts the time is ended DRAINING."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            for ticket in list(self._tickets):
                error = Draining("the service shut down before the call ended", retry_after_s=1.0)
                self._cut_off(ticket, failed(error), grace_s=0.0)

    def close(self) -> None:
        self._deadlines.close()

    def _check_idle(self) -> None:
        if not self._tickets and not self._working:
            self._idle.set()


def _timeout_s(call: Call, default_ms: int, max_ms: int) -> float:
    if call.timeout_ms < 0:
        raise InvalidRequest(f"the time limit must be 0 or more ms, it is {call.timeout_ms}")
    return min(call.timeout_ms or default_ms, max_ms) / 1000


def _check_environment(call: Call) -> None:
    try:
        check_environment(call.environment)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
