"""Durable executions that this service holds a lease of, in lines by task."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import TYPE_CHECKING

from msgspec.structs import replace

from atlatl.model import Execution, ExecutionStatus, Queued

if TYPE_CHECKING:
    from atlatl.engine.ticket import Ticket

AHEAD_S = 0.05
"""So much of a task's work is leased before there is room for it, or its instances would wait
for the disk."""
MAX_AHEAD = 64


class Held:
    """One leased execution: in line, under way, or on its way back to the store.

    Attributes:
        queued: as it was leased.
        ticket: of the attempt under way; None while it waits in line.
        coming: set when it is accepted, or not; None before and after.
        leaving: how it ended, or that it goes back, is being written.
        gone: set when it is neither held nor being written any more.
    """

    __slots__ = ("coming", "gone", "leaving", "queued", "ticket")

    def __init__(self, queued: Queued) -> None:
        self.queued = queued
        self.ticket: Ticket | None = None
        self.coming: asyncio.Event | None = None
        self.leaving = False
        self.gone = asyncio.Event()

    @property
    def execution_id(self) -> str:
        return self.queued.call.execution_id

    def view(self) -> Execution:
        """The record as it stands now: what is not in the store yet has not happened."""
        ticket = self.ticket
        if ticket is None or ticket.lease is None:
            return pending(self.queued)
        return self.of_attempt(ticket.record(ExecutionStatus.RUNNING))

    def of_attempt(self, record: Execution) -> Execution:
        """The execution's record out of that of its attempt."""
        queued_at = self.queued.queued_at
        began = record.started_at
        return replace(
            record,
            task_id=record.task_id or self.queued.task_id,
            queued_at=queued_at,
            queue_s=0.0 if began is None else max(0.0, began - queued_at),
        )


def pending(queued: Queued) -> Execution:
    """The record of an execution that waits."""
    call = queued.call
    return Execution(
        execution_id=call.execution_id,
        task_id=queued.task_id,
        task_name=call.task_name,
        function_name=call.function,
        mode=call.mode,
        status=ExecutionStatus.PENDING,
        attempt=queued.attempt,
        queued_at=queued.queued_at,
        trace_id=call.traceparent[3:35],
        metadata=call.metadata,
    )


class Line:
    """The durable executions of one task, as far as this service knows of them.

    Attributes:
        depth: accepted and not ended, wherever they are.
        stored: whether the store may have ready ones.
        coming: being accepted with a lease, and so counted among those in line.
        resume_at: monotonic; none is begun before.
        ended: attempts that ended since the last beat, and `pace` in the second before it.
        feeding: attempts are being begun, further up in the stack.
    """

    __slots__ = (
        "_ahead", "_number", "coming", "depth", "ended", "feeding", "name", "pace", "resume_at",
        "stored",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.depth = 0
        self.stored = False
        self.coming = 0
        self.resume_at = 0.0
        self.ended = 0
        self.pace = 0.0
        self.feeding = False
        self._ahead: list[tuple[float, int, Held]] = []
        self._number = count()

    def __len__(self) -> int:
        return len(self._ahead)

    def add(self, held: Held) -> None:
        heapq.heappush(self._ahead, (held.queued.turn, next(self._number), held))

    def next(self) -> Held:
        return heapq.heappop(self._ahead)[2]

    def remove(self, held: Held) -> bool:
        """False when it is not in line."""
        for index, entry in enumerate(self._ahead):
            if entry[2] is held:
                del self._ahead[index]
                heapq.heapify(self._ahead)
                return True
        return False

    def clear(self) -> list[Held]:
        """Takes all out."""
        held = [entry[2] for entry in self._ahead]
        self._ahead.clear()
        return held

    def appetite(self, room: int) -> int:
        """How many more to lease when `room` could begin; not a few at a time."""
        ahead = min(MAX_AHEAD, int(self.pace * AHEAD_S))
        lacking = max(0, room) + ahead - len(self._ahead) - self.coming
        return lacking if lacking > ahead // 2 else 0
