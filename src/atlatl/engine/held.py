"""One durable execution that this service holds a lease of, and its record as it stands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from atlatl.model import Execution, ExecutionStatus, Outcome, Queued

if TYPE_CHECKING:
    from atlatl.engine.ticket import Ticket


class Held:
    """One leased execution: in line, under way, or on its way back to the store.

    Attributes:
        queued: as it was leased.
        function: that its next attempt runs; empty when its task is gone.
        ticket: of the attempt under way; None while it waits in line.
        tried_at: when that attempt was asked for, on the queue's clock.
        coming: set when it is accepted, or not; None before and after.
        leaving: how it ended, or that it goes back, is being written.
        gone: set when it is neither held nor being written any more.
    """

    __slots__ = ("coming", "function", "gone", "leaving", "queued", "ticket", "tried_at")

    def __init__(self, queued: Queued, function: str) -> None:
        self.queued = queued
        self.function = function
        self.ticket: Ticket | None = None
        self.tried_at = 0.0
        self.coming: asyncio.Event | None = None
        self.leaving = False
        self.gone = asyncio.Event()

    @property
    def execution_id(self) -> str:
        return self.queued.call.execution_id

    @property
    def waits(self) -> bool:
        """It has no instance yet, and has not ended without one."""
        return not self.leaving and (self.ticket is None or self.ticket.lease is None)

    def view(self) -> Execution:
        """The record as it stands now: what is not in the store yet has not happened."""
        ticket = self.ticket
        if ticket is None or ticket.lease is None:
            return pending(self.queued, self.function)
        return self.of_attempt(ticket.record(ExecutionStatus.RUNNING))

    def of_attempt(self, record: Execution) -> Execution:
        """The execution's record out of that of its attempt, with all times by one clock."""
        queued_at = self.queued.queued_at
        shift = self.tried_at - record.queued_at
        began = _plus(record.started_at, shift)
        return replace(
            record,
            task_id=record.task_id or self.queued.task_id,
            queued_at=queued_at,
            started_at=began,
            completed_at=_plus(record.completed_at, shift),
            queue_s=0.0 if began is None else max(0.0, began - queued_at),
            tried=self.queued.tried,
        )

    def ended(self, outcome: Outcome, now: float) -> Execution:
        """The record of an execution that ends without another attempt."""
        record = pending(self.queued, self.function)
        return replace(record, status=outcome.status, outcome=outcome, completed_at=now)


def pending(queued: Queued, function: str) -> Execution:
    """The record of an execution that waits."""
    call = queued.call
    return Execution(
        execution_id=call.execution_id,
        task_id=queued.task_id,
        task_name=call.task_name,
        function_name=function,
        mode=call.mode,
        status=ExecutionStatus.PENDING,
        attempt=queued.attempt,
        queued_at=queued.queued_at,
        trace_id=call.traceparent[3:35],
        metadata=call.metadata,
        tried=queued.tried,
    )


def _plus(at: float | None, shift: float) -> float | None:
    return None if at is None else at + shift
