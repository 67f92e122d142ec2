"""What a timeline is made of: steps, the facts besides the record, and how spans are written."""

from __future__ import annotations

from typing import Any

from atlatl.events import (
    BreakerChanged,
    Event,
    InstanceEnded,
    InstanceStarted,
    StartFailedEvent,
)
from atlatl.model import Execution, Record


class Step(Record, frozen=True):
    """One thing that happened to an execution."""

    at: float
    """Unix seconds."""
    kind: str
    text: str
    details: dict[str, Any] = {}


class Explanation(Record, frozen=True):
    execution: Execution
    summary: str
    steps: tuple[Step, ...]
    """In the order of time."""


class Facts(Record, frozen=True):
    """What is known of an execution besides its record; all of it may be missing.

    Attributes:
        now: Unix seconds.
        policy: of the task's scheduler.
        limit_s: time that it may take, if it has not ended.
        pool: of the task as it is now, if it has not ended: `waiting`, `in_use`, and so on.
        breaker: state of the task's breaker now, if it has not ended.
        instance: how its instance was started.
        instance_ended: if that was at about the end of the execution.
        happened: to this execution alone.
        changes: of the task's breaker and failed starts, meanwhile.
    """

    now: float = 0.0
    policy: str = ""
    limit_s: float | None = None
    pool: dict[str, int] = {}
    breaker: str = ""
    instance: InstanceStarted | None = None
    instance_ended: InstanceEnded | None = None
    happened: tuple[Event, ...] = ()
    changes: tuple[BreakerChanged | StartFailedEvent, ...] = ()


def log_lines(output: bytes) -> list[str]:
    """What a call printed, oldest line first."""
    lines = output.decode("utf-8", "replace").split("\n")
    return lines if lines[-1] else lines[:-1]


def span(seconds: float) -> str:
    """A duration as people read it: `0.4 ms`, `12 ms`, `3.2 s`, `5 min 3 s`."""
    seconds = max(0.0, seconds)
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
