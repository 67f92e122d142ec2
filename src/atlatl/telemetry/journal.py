"""Remembers for a while what happened besides the ends of executions, to explain them by.

In memory, and bounded: what is forgotten, or was before the last start of the service, is left
out of an explanation. What must not be left out stands in the record of the execution.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from atlatl.core.timeline import Facts
from atlatl.events import (
    BreakerChanged,
    CallbackTried,
    Event,
    ExecutionDied,
    InstanceEnded,
    InstanceStarted,
    StartFailedEvent,
)
from atlatl.model import Execution

MAX_INSTANCES = 4000
MAX_EXECUTIONS = 2000
MAX_CHANGES = 2000
PER_EXECUTION = 50
"""Of one execution the latest so many."""
AFTERMATH_S = 2.0
"""An instance that ends so soon after an execution may have ended with it."""
MOMENT_S = 0.01
"""By which a change of the breaker that an end led to may stand after it."""

V = TypeVar("V")


class _Latest(Generic[V]):
    """A dictionary that forgets the oldest keys."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[str, V] = {}

    def get(self, key: str) -> V | None:
        return self._kept.get(key)

    def put(self, key: str, value: V) -> None:
        if key not in self._kept and len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = value


class Journal:
    """Listens to all events but the ends of executions."""

    def __init__(self) -> None:
        self._started: _Latest[InstanceStarted] = _Latest(MAX_INSTANCES)
        self._ended: _Latest[InstanceEnded] = _Latest(MAX_INSTANCES)
        self._of_executions: _Latest[deque[Event]] = _Latest(MAX_EXECUTIONS)
        self._changes: deque[BreakerChanged | StartFailedEvent] = deque(maxlen=MAX_CHANGES)

    def emit(self, event: Event) -> None:
        match event:
            case InstanceStarted():
                self._started.put(event.instance_id, event)
            case InstanceEnded():
                self._ended.put(event.instance_id, event)
            case BreakerChanged() | StartFailedEvent():
                self._changes.append(event)
            case CallbackTried() | ExecutionDied():
                kept = self._of_executions.get(event.execution_id)
                if kept is None:
                    kept = deque(maxlen=PER_EXECUTION)
                    self._of_executions.put(event.execution_id, kept)
                kept.append(event)

    def facts(self, execution: Execution, now: float) -> Facts:
        """What is known of an execution besides its record, and of its instance and breaker.

        Args:
            execution: its record.
            now: Unix seconds.
        """
        until = execution.completed_at or now
        instance_id = execution.instance_id or (
            execution.tried[-1].instance_id if execution.tried else ""
        )
        ended = self._ended.get(instance_id)
        return Facts(
            now=now,
            instance=self._started.get(instance_id),
            instance_ended=_soon(ended, until),
            happened=tuple(self._of_executions.get(execution.execution_id) or ()),
            changes=tuple(
                change
                for change in self._changes
                if change.task_name == execution.task_name
                and execution.queued_at <= change.at <= until + MOMENT_S
            ),
        )


def _soon(ended: InstanceEnded | None, until: float) -> InstanceEnded | None:
    return ended if ended is not None and ended.at <= until + AFTERMATH_S else None
