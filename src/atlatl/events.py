"""What happened, told to telemetry. Past participles, frozen, no behaviour."""

from __future__ import annotations

from atlatl.model import Execution, Record


class Event(Record, frozen=True):
    at: float
    """Wall time, Unix seconds."""
    task_name: str


class ExecutionFinished(Event, frozen=True):
    """An execution ended after it was let in, whatever its outcome."""

    execution: Execution
    """With its outcome."""
    latency_s: float
    """Acceptance to end (synchronous), attempt start to end (async)."""
    redriven: bool = False
    """It had ended before, as a dead letter, and was counted then."""
    traceparent: str = ""
    """That the call came with; empty without one."""


class ExecutionAccepted(Event, frozen=True):
    """A durable execution was stored."""

    execution_id: str


class AttemptFailed(Event, frozen=True):
    """An attempt of a durable execution failed, and another one follows."""

    execution_id: str
    attempt: int
    code: str
    retry_in_s: float
    recovered: bool = False
    """It was the end of the service that cut the attempt off."""
    queued_at: float = 0.0
    """When the execution was accepted, Unix seconds."""
    started_at: float | None = None
    """When the attempt began; None when that is not known any more."""
    traceparent: str = ""


class CallRetried(Event, frozen=True):
    """An attempt of a call that somebody waits for failed, and another one follows."""

    execution_id: str
    attempt: int
    code: str
    retry_in_s: float
    queued_at: float
    started_at: float | None
    """None when the attempt got no instance."""
    traceparent: str = ""


class ExecutionDied(Event, frozen=True):
    """A durable execution failed for good: it is a dead letter now."""

    execution_id: str
    attempts: int
    code: str


class CallbackTried(Event, frozen=True):
    """An address was told, or could not be told, how an execution ended."""

    execution_id: str
    tries: int
    """With this one."""
    failure: str = ""
    """Empty when it was told."""
    given_up: bool = False
    took_s: float = 0.0
    traceparent: str = ""
    """That the execution's call came with."""
    span_id: str = ""
    """Of the try, as the receiver was told it."""


class CallRefused(Event, frozen=True):
    """A call was turned away before it became an execution in a queue."""

    execution_id: str
    outcome: str
    """`rejected` or `invalid`."""
    code: str
    traceparent: str = ""


class InstanceStarted(Event, frozen=True):
    """An instance is ready for calls."""

    instance_id: str
    pid: int
    origin: str
    init_s: float


class InstanceEnded(Event, frozen=True):
    """An instance is gone: ended when it was not wanted any more, or dead by itself."""

    instance_id: str
    reason: str
    expected: bool


class StartFailedEvent(Event, frozen=True):
    """An instance did not start."""

    reason: str


class PoolScaled(Event, frozen=True):
    """A pool grew or shrank, on demand or by a decision."""

    direction: str
    """`up` or `down`."""
    size: int
    reason: str


class BreakerChanged(Event, frozen=True):
    """The circuit breaker of a task went to another state."""

    old: str
    new: str


class TaskDeployed(Event, frozen=True):
    """A task is there, or has a new version."""

    version: int
    created: bool


class TaskDeleted(Event, frozen=True):
    """A task is gone."""
