"""Ticket: one call from its acceptance to its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from atlatl.core.waiting import Waiter
from atlatl.errors import AtlatlError
from atlatl.model import (
    Call,
    Encoded,
    Execution,
    ExecutionRecord,
    ExecutionStatus,
    Outcome,
    Result,
    Tried,
    Way,
)

if TYPE_CHECKING:
    from atlatl.core.breaker import Permit
    from atlatl.core.leases import Lease
    from atlatl.engine.manager import TaskExecutionManager
    from atlatl.engine.registry import Deployed
    from atlatl.ports import OnChunk

log = logging.getLogger(__name__)

Finished = Callable[[Execution], None]


class Ticket:
    """One call from its acceptance to its end, and the caller's handle on it.

    Attributes:
        asking: the store is being asked for the call's id; the call goes on when it answers.
        durable: it is one attempt of a durable execution, which has its own record.
        following: another call has the id and is under way; this one is answered with its end.
        tried: attempts that failed before the present one.
        verdict: how an attempt ends that was cut off, once its work is gone.
        way: how it came to its instance; None when there is nothing to say.
    """

    __slots__ = (
        "accepted",
        "asking",
        "attempt",
        "call",
        "cold",
        "deadline",
        "deployed",
        "durable",
        "encoded",
        "fingerprint",
        "finished",
        "following",
        "last",
        "lease",
        "manager",
        "n_bytes",
        "on_chunk",
        "permit",
        "priority",
        "queued_at",
        "retry_timer",
        "settled",
        "slot",
        "started",
        "streamed",
        "tried",
        "verdict",
        "version",
        "waiter",
        "watching",
        "way",
    )

    def __init__(
        self,
        manager: TaskExecutionManager,
        call: Call,
        finished: Finished,
        on_chunk: OnChunk | None,
        now: float,
        queued_at: float,
    ) -> None:
        self.manager = manager
        self.call = call
        self.finished: list[Finished] = [finished]
        self.on_chunk = on_chunk
        self.accepted = now
        self.queued_at = queued_at
        self.deadline = now
        self.slot = 0
        self.attempt = 1
        self.priority = 3
        self.deployed: Deployed | None = None
        self.encoded: Encoded | None = None
        self.permit: Permit | None = None
        self.lease: Lease | None = None
        self.last: Outcome | None = None
        self.fingerprint = b""
        self.asking = False
        self.durable = False
        self.following = False
        self.n_bytes = 0
        self.watching = False
        self.waiter: Waiter | None = None
        self.retry_timer: asyncio.TimerHandle | None = None
        self.started: float | None = None
        self.cold = False
        self.version = 0
        self.streamed = False
        self.verdict: Outcome | None = None
        self.settled: Execution | None = None
        self.way: Way | None = None
        self.tried: tuple[Tried, ...] = ()

    @property
    def execution_id(self) -> str:
        return self.call.execution_id

    def cancel(self, reason: str = "", *, grace_s: float | None = None) -> bool:
        """Stops the call; True when this stopped it, False when it had ended.

        `grace_s` is how long its work may take to end by itself; see `InstanceChannel.cancel`.
        """
        return self.manager.cancel(self, reason, grace_s=grace_s)

    def credit(self, n_bytes: int) -> None:
        """Says that the caller took `n_bytes` of the stream."""
        if self.lease is not None:
            self.lease.channel.credit(self.execution_id, n_bytes)

    def granted(self, lease: Lease) -> None:
        self.manager.granted(self, lease)

    def refused(self, error: AtlatlError) -> None:
        self.manager.refused(self, error)

    def chunk(self, result: Result) -> None:
        self.streamed = True
        if self.settled is None and self.on_chunk is not None:
            self.on_chunk(result)

    @property
    def max_retries(self) -> int:
        asked = self.call.max_retries
        if asked is not None or self.deployed is None:
            return asked or 0
        return self.deployed.task.settings.retry.max_retries

    def unfinished(self) -> ExecutionRecord:
        """What is stored before the call, or its next attempt, begins."""
        return ExecutionRecord(execution=self.view(), fingerprint=self.fingerprint)

    def view(self) -> Execution:
        """The record as it stands now."""
        if self.settled is not None:
            return self.settled
        running = self.lease is not None
        return self.record(ExecutionStatus.RUNNING if running else ExecutionStatus.PENDING)

    def answer(self, record: Execution) -> None:
        """Tells all who wait for the call how it ended; once."""
        self.settled = record
        for finished in self.finished:
            try:
                finished(record)
            except Exception:  # it must not keep the others from their answer
                log.exception("the callback of execution %s failed", record.execution_id)

    def record(
        self,
        status: ExecutionStatus,
        outcome: Outcome | None = None,
        completed_at: float | None = None,
    ) -> Execution:
        call = self.call
        deployed = self.deployed
        queue_s = 0.0 if self.started is None else self.started - self.accepted
        return Execution(
            execution_id=call.execution_id,
            task_id=deployed.task.task_id if deployed else "",
            task_name=call.task_name,
            function_name=call.function or (deployed.task.function if deployed else ""),
            mode=call.mode,
            status=status,
            attempt=self.attempt,
            queued_at=self.queued_at,
            started_at=None if self.started is None else self.queued_at + queue_s,
            completed_at=completed_at,
            queue_s=queue_s,
            outcome=outcome,
            instance_id=self.lease.channel.id if self.lease else "",
            version=self.version,
            cold_start=self.cold,
            trace_id=call.traceparent[3:35],
            metadata=call.metadata,
            way=self.way,
            tried=self.tried,
        )


def fingerprint(task_name: str, function: str, encoded: Encoded) -> bytes:
    """SHA-256 over what a call does: equal for equal task, function and arguments."""
    body, meta = encoded.body, encoded.meta
    if encoded.kind == "request":
        # A repeated request comes with another trace and other hops, and is the same call.
        meta = {name: value for name, value in meta.items() if name != "headers"}
    else:
        with contextlib.suppress(msgspec.DecodeError):
            # Spaces and the order of members make no difference.
            body = msgspec.json.encode(msgspec.json.decode(body), order="sorted")
    shown = msgspec.json.encode(meta, order="sorted")
    digest = hashlib.sha256()
    for part in (task_name.encode(), function.encode(), encoded.kind.encode(), shown, body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
