"""Figures of durable executions: what waits now, and what has happened to them so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from atlatl.events import AttemptFailed, CallbackTried, Event, ExecutionAccepted, ExecutionDied
from atlatl.model import QueueDepth, Record
from atlatl.telemetry.figures import OTHER

CALLBACK = "callback"
"""Kind of happening that has one of the following details."""
TOLD, FAILED, GIVEN_UP = "told", "failed", "given_up"
"""How a try of a callback ended; the last try of one that is given up is not `failed` too."""


class TaskQueue(Record, frozen=True):
    """What the queue holds of one task."""

    task_name: str
    ready: int = 0
    """Could run and have not begun, those that the service has leased ahead of time included."""
    delayed: int = 0
    """Wait for their time: `not_before`, or the pause before a retry."""
    leased: int = 0
    """Under way: until their end, or that another attempt follows, is in the store."""
    dead: int = 0
    oldest_s: float = 0.0
    """How long the ready one that waits the longest has been able to run; 0 without any.

    What is under way does not count, however long it runs, and neither does what is delayed.
    """

    @property
    def depth(self) -> int:
        """Executions that were accepted and have not ended."""
        return self.ready + self.delayed + self.leased


class QueueFigures(Record, frozen=True):
    """The queue as it is now, in the order of the tasks' names."""

    limit: int = 0
    """Executions that may be in it, all tasks together."""
    tasks: tuple[TaskQueue, ...] = ()

    def of(self, task_name: str = "") -> TaskQueue:
        """Of one task, or the sum of all."""
        return joined(task_name, [one for one in self.tasks if task_name in ("", one.task_name)])


class DurableStats(Record, frozen=True):
    """What happened to durable executions since the start."""

    accepted_count: int = 0
    retry_count: int = 0
    """Attempts that failed and were followed by another one."""
    recovery_count: int = 0
    """Attempts that the end of the service cut off; not among the retries."""
    died_count: int = 0
    """Deaths: one that is redriven and dies again is counted again here, and as a request once."""
    callback_told_count: int = 0
    callback_failed_count: int = 0
    """Tries that are followed by another one."""
    callback_given_up_count: int = 0


# --- what waits now ---


def queue_figures_of(
    depths: Iterable[QueueDepth], deployed: Iterable[str], now: float, limit: int
) -> QueueFigures:
    """The figures of a queue at a moment.

    A task that is deployed has its figures when nothing of it is there, too: for Prometheus a
    series that begins at 1 has not risen. What is left of tasks that are gone is one sum, so
    that their names, which only become more, stay out of the series.

    Args:
        depths: what the queue holds.
        deployed: names of the tasks that there are.
        now: Unix seconds of the queue's clock.
        limit: executions that may be in the queue.
    """
    tasks = {name: TaskQueue(name) for name in deployed}
    gone: list[TaskQueue] = []
    for depth in depths:
        found = task_queue_of(depth, now)
        if depth.task_name in tasks:
            tasks[depth.task_name] = found
        else:
            gone.append(found)
    if gone:
        tasks[OTHER] = joined(OTHER, gone)
    return QueueFigures(limit, tuple(tasks[name] for name in sorted(tasks)))


def task_queue_of(depth: QueueDepth, now: float) -> TaskQueue:
    """Of one task that the queue holds something of."""
    since = depth.oldest_ready_at
    return TaskQueue(
        task_name=depth.task_name,
        ready=depth.ready,
        delayed=depth.delayed,
        leased=depth.leased,
        dead=depth.dead,
        oldest_s=0.0 if since is None else max(0.0, now - since),
    )


def joined(name: str, tasks: Sequence[TaskQueue]) -> TaskQueue:
    """The sums of several tasks, under one name."""
    return TaskQueue(
        task_name=name,
        ready=sum(one.ready for one in tasks),
        delayed=sum(one.delayed for one in tasks),
        leased=sum(one.leased for one in tasks),
        dead=sum(one.dead for one in tasks),
        oldest_s=max((one.oldest_s for one in tasks), default=0.0),
    )


# --- what happened ---


def happening_of(event: Event) -> tuple[str, str] | None:
    """How what happened to a durable execution is counted: kind and detail; None is not."""
    match event:
        case ExecutionAccepted():
            return "accepted", ""
        case AttemptFailed():
            return "recovered" if event.recovered else "retried", ""
        case ExecutionDied():
            return "died", ""
        case CallbackTried():
            return CALLBACK, _told(event)
    return None


def _told(event: CallbackTried) -> str:
    if event.given_up:
        return GIVEN_UP
    return FAILED if event.failure else TOLD


def durable_stats_of(happenings: Mapping[tuple[str, str], int]) -> DurableStats:
    return DurableStats(
        accepted_count=happenings.get(("accepted", ""), 0),
        retry_count=happenings.get(("retried", ""), 0),
        recovery_count=happenings.get(("recovered", ""), 0),
        died_count=happenings.get(("died", ""), 0),
        callback_told_count=happenings.get((CALLBACK, TOLD), 0),
        callback_failed_count=happenings.get((CALLBACK, FAILED), 0),
        callback_given_up_count=happenings.get((CALLBACK, GIVEN_UP), 0),
    )
