"""What was counted: requests, outcomes, latencies; in total, in a window, per task.

One lock, held for well under a microsecond a record; every reading is one consistent
picture, and changes nothing. Whatever has another owner (pools, memory, breakers) is not
kept here, but read from its owner at the moment of asking.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from atlatl.core.window import (
    EXECUTED,
    KEEP_S,
    LATENCY_S,
    OUTCOME_COLUMNS,
    RUN_S,
    NameCounts,
    Row,
    Series,
    add_execution,
    add_rows,
    add_to,
    bucket_of,
    new_row,
    requests,
)
from atlatl.errors import InvalidRequest
from atlatl.events import (
    BreakerChanged,
    CallRefused,
    CallRetried,
    Event,
    ExecutionFinished,
    InstanceEnded,
    InstanceStarted,
    PoolScaled,
    StartFailedEvent,
    TaskDeleted,
    TaskDeployed,
)
from atlatl.model import OutcomeKind
from atlatl.telemetry.answer import answer
from atlatl.telemetry.figures import (
    OTHER,
    BreakerFigures,
    BreakersFigures,
    MemoryFigures,
    PoolFigures,
    Stats,
    TaskFigures,
    WindowStats,
    stats_of,
    task_figures_of,
    window_stats_of,
)
from atlatl.telemetry.queues import DurableStats, QueueFigures, durable_stats_of, happening_of

__all__ = [
    "OTHER",
    "BreakerFigures",
    "BreakersFigures",
    "DurableStats",
    "MemoryFigures",
    "Metrics",
    "PoolFigures",
    "QueueFigures",
    "Stats",
    "WindowStats",
    "metrics_answer",
    "parse_window",
]

log = logging.getLogger(__name__)

DEFAULT_WINDOW_S = 60.0
MAX_WINDOW_S = KEEP_S
LONGEST_S = 1e9
"""Cuts durations that cannot be, so that no sum becomes infinite."""


class _Task:
    """The counters of one task."""

    __slots__ = ("happenings", "init", "series")

    def __init__(self) -> None:
        self.series = Series()
        self.init: Row = new_row()
        """Start-up times of its instances: buckets and sum."""
        self.happenings: Counter[tuple[str, str]] = Counter()

    def absorb(self, other: _Task) -> None:
        self.series.absorb(other.series.total())
        self.init = add_rows((self.init, other.init))
        self.happenings.update(other.happenings)


class Metrics:
    """Counts executions. Safe to use from many threads; needs no service around it.

    Args:
        clock: monotonic seconds.
        max_names: tasks with figures of their own; the rest are counted under one name.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, max_names: int = 1000
    ) -> None:
        self._clock = clock
        self._max_names = max_names
        self._lock = threading.Lock()
        self._started = clock()
        self._service = Series(history=True)
        self._other = _Task()
        self._tasks: dict[str, _Task] = {}
        self._functions = NameCounts(max_names, OTHER)

    # --- recording ---

    def record_request(
        self,
        duration_s: float,
        outcome: OutcomeKind | str,
        cold_start: bool = False,
        task_name: str = "",
    ) -> None:
        """Counts one request.

        Args:
            duration_s: its latency; below 0 counts as 0.
            outcome: `success`, `error`, `timeout` or `crashed`. `cancelled`, `rejected` and
                `invalid` are counted apart and have neither latency nor cold start.
            cold_start: an instance had to be created for it, or it was the first of a fresh one.
            task_name: whose figures it goes to, besides the totals.

        Raises:
            ValueError: no such outcome.
        """
        kind = outcome if isinstance(outcome, OutcomeKind) else _kind(outcome)
        self._record(kind, duration_s, 0.0, cold_start, task_name, "")

    def emit(self, event: Event) -> None:
        """Takes what the figures need from an event. Never raises, never waits."""
        try:
            if isinstance(event, ExecutionFinished):
                self._finished(event)
            else:
                self._take(event)
        except Exception:
            log.exception("an event of kind %s was not counted", type(event).__name__)

    def _finished(self, event: ExecutionFinished) -> None:
        execution = event.execution
        outcome = execution.outcome
        if outcome is not None and not event.redriven:
            self._record(
                outcome.kind,
                event.latency_s,
                outcome.run_s,
                execution.cold_start,
                event.task_name,
                execution.function_name,
            )
            if outcome.error is not None and outcome.kind in EXECUTED:
                self._happened(event.task_name, "failed", outcome.error.code)

    def _take(self, event: Event) -> None:
        name = event.task_name
        match event:
            case CallRefused():
                self._apart(_kind(event.outcome), name)
            case InstanceStarted():
                self._instance_started(name, event.init_s)
            case InstanceEnded(expected=False):
                self._happened(name, "instance_lost", "")
            case StartFailedEvent():
                self._happened(name, "start_failed", "")
            case PoolScaled():
                self._happened(name, "scaled", event.direction)
            case CallRetried():
                self._happened(name, "call_retried", "")
            case BreakerChanged():
                self._happened(name, "breaker", event.new)
            case TaskDeployed():
                self.enroll(name)
            case TaskDeleted():
                self.forget(name)
            case _:
                if (happening := happening_of(event)) is not None:
                    self._happened_to_durable(name, *happening)

    def _record(
        self,
        kind: OutcomeKind,
        latency_s: float,
        run_s: float,
        cold: bool,
        task_name: str,
        function: str,
    ) -> None:
        if kind not in EXECUTED:
            self._apart(kind, task_name)
            return
        if not 0.0 <= latency_s <= LONGEST_S:
            latency_s = _possible(latency_s)
        if not 0.0 <= run_s <= LONGEST_S:
            run_s = _possible(run_s)
        with self._lock:
            now = self._clock()
            task = self._tasks.get(task_name) or self._new_task(task_name)
            rows = (self._service.row(now), task.series.row(now))
            add_execution(rows, kind, latency_s, run_s, cold)
            if function:
                self._functions.add(now, function)

    def _apart(self, kind: OutcomeKind, task_name: str) -> None:
        """Counts a call that is no request; never makes a name, for strangers choose those."""
        with self._lock:
            now = self._clock()
            task = self._tasks.get(task_name, self._other)
            add_to((self._service.row(now), task.series.row(now)), OUTCOME_COLUMNS[kind], 1)

    def _instance_started(self, task_name: str, init_s: float) -> None:
        init_s = _possible(init_s)
        with self._lock:
            task = self._tasks.get(task_name) or self._new_task(task_name)
            task.init[bucket_of(init_s)] += 1
            task.init[LATENCY_S] += init_s

    def _happened(self, task_name: str, kind: str, detail: str) -> None:
        with self._lock:
            self._tasks.get(task_name, self._other).happenings[kind, detail] += 1

    def _happened_to_durable(self, task_name: str, kind: str, detail: str) -> None:
        """Makes a name, for the task was there when the execution was accepted.

        After a start of the service nothing else may have made it yet.
        """
        with self._lock:
            task = self._tasks.get(task_name) or self._new_task(task_name)
            task.happenings[kind, detail] += 1

    def _new_task(self, task_name: str) -> _Task:
        if not task_name or len(self._tasks) >= self._max_names:
            return self._other
        task = self._tasks[task_name] = _Task()
        return task

    def enroll(self, task_name: str) -> None:
        """Gives a task figures of its own before anything is counted, if there is room."""
        with self._lock:
            if task_name not in self._tasks:
                self._new_task(task_name)

    def forget(self, task_name: str) -> None:
        """Removes the name of a task; what it counted stays in the totals and under `/other`."""
        with self._lock:
            task = self._tasks.pop(task_name, None)
            if task is not None:
                self._other.absorb(task)

    # --- reading ---

    def stats(self, task_name: str = "") -> Stats:
        """Since the start: of one task, or of all."""
        return self.snapshot(DEFAULT_WINDOW_S, task_name)[0]

    def window_stats(self, window_s: float = DEFAULT_WINDOW_S, task_name: str = "") -> WindowStats:
        """Of the last `window_s` seconds, at most 300.

        Raises:
            ValueError: `window_s` is not above 0.
        """
        return self.snapshot(window_s, task_name)[1]

    def durable_stats(self, task_name: str = "") -> DurableStats:
        """Of durable executions since the start: of one task, or of all."""
        return self.snapshot(DEFAULT_WINDOW_S, task_name)[2]

    def mean_run_s(self, task_name: str) -> float | None:
        """Of the runs of a task since the start, without waiting; None without any."""
        with self._lock:
            row = self._series(task_name).total()
        count = requests(row)
        return row[RUN_S] / count if count else None

    def snapshot(
        self, window_s: float, task_name: str = ""
    ) -> tuple[Stats, WindowStats, DurableStats]:
        """All from one moment."""
        if not window_s > 0:
            raise ValueError(f"a window has more than 0 seconds, not {window_s!r}")
        with self._lock:
            now = self._clock()
            uptime_s = now - self._started
            span_s = min(window_s, MAX_WINDOW_S, uptime_s)
            series = self._series(task_name)
            total, window = series.total(), series.window(now - span_s)
            happenings = self._happenings(task_name)
        return (
            stats_of(total, uptime_s),
            window_stats_of(window, span_s),
            durable_stats_of(happenings),
        )

    def history(self, hours: float) -> Stats:
        """Of all tasks in the last hours, at most 168, kept in slots of ten minutes."""
        with self._lock:
            now = self._clock()
            row = self._service.history(now - hours * 3600)
        return stats_of(row, now - self._started)

    def by_function(self, hours: float = 0.0) -> dict[str, int]:
        """Executions by the function's name in the last hours; 0 is since the start."""
        with self._lock:
            if not hours:
                return self._functions.total()
            return self._functions.since(self._clock() - hours * 3600)

    def tasks(self) -> list[TaskFigures]:
        """All that is exported, in the order of the names; together they are the totals."""
        found = map(self.figures, self.names())
        return [figures for figures in found if figures is not None]

    def names(self) -> list[str]:
        """Tasks with figures of their own, in order, and `/other`."""
        with self._lock:
            return sorted((*self._tasks, OTHER))

    def figures(self, task_name: str) -> TaskFigures | None:
        """What is exported for one of `names`, from one moment; None when it is gone."""
        with self._lock:
            task = self._other if task_name == OTHER else self._tasks.get(task_name)
            if task is None:
                return None
            row, init, happenings = task.series.total(), list(task.init), dict(task.happenings)
        return task_figures_of(task_name, row, init, happenings)

    def _series(self, task_name: str) -> Series:
        if not task_name:
            return self._service
        task = self._tasks.get(task_name)
        return task.series if task is not None else Series()

    def _happenings(self, task_name: str) -> Counter[tuple[str, str]]:
        if task_name:
            task = self._tasks.get(task_name)
            return task.happenings.copy() if task is not None else Counter()
        total = self._other.happenings.copy()
        for task in self._tasks.values():
            total.update(task.happenings)
        return total


_KINDS = {kind.value: kind for kind in OutcomeKind}


def _kind(outcome: str) -> OutcomeKind:
    kind = _KINDS.get(outcome)
    if kind is None:
        raise ValueError(f"outcome {outcome!r} is unknown; it is one of {', '.join(_KINDS)}")
    return kind


def _possible(duration_s: float) -> float:
    """The nearest duration that can be: a clock that stepped gives nonsense."""
    return min(duration_s, LONGEST_S) if duration_s > 0 else 0.0


def parse_window(text: str) -> float:
    """Seconds of a window given as `30s`, `5m` or a plain number of seconds.

    Raises:
        InvalidRequest: it is none of these, or not from 1 to 300 seconds.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([sm]?)", text)
    if match is None:
        raise InvalidRequest(f"window {text!r} is not a span; write for example 30s, 5m or 60")
    window_s = float(match[1]) * (60 if match[2] == "m" else 1)
    if not 1 <= window_s <= MAX_WINDOW_S:
        raise InvalidRequest(f"window {text!r} is refused: it must be from 1s to {MAX_WINDOW_S:g}s")
    return window_s


def metrics_answer(
    metrics: Metrics,
    pools: Sequence[PoolFigures],
    memory: MemoryFigures,
    breakers: BreakersFigures,
    queue: QueueFigures,
    window_s: float = DEFAULT_WINDOW_S,
    task: str = "",
) -> dict[str, Any]:
    """The body of `GET /api/serverless/metrics`; with `task` all figures are that task's."""
    total, window, durable = metrics.snapshot(window_s, task)
    return answer(total, window, durable, pools, memory, breakers, queue, task)
