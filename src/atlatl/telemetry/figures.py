"""What figures look like when they are read: frozen, with units in the names."""

from __future__ import annotations

from atlatl.core.breaker import CircuitState
from atlatl.core.window import (
    COLD,
    LATENCY_S,
    N_BUCKETS,
    RUN_S,
    Row,
    count_of,
    quantile_ms,
    requests,
)
from atlatl.model import OutcomeKind, Record
from atlatl.settings import CircuitBreakerSettings

OTHER = "/other"
"""Name of all that has no name of its own. No task can have it: theirs have no `/`."""


class Stats(Record, frozen=True):
    """Figures of executions. `request_count` = `success_count` + `error_count`."""

    request_count: int
    success_count: int
    error_count: int
    """Those that timed out or crashed included."""
    timeout_count: int
    crashed_count: int
    cancelled_count: int
    """In no other figure, as are the refused and the invalid ones."""
    rejected_count: int
    invalid_count: int
    cold_start_count: int
    avg_latency_ms: float
    avg_run_ms: float
    """Of the runs alone, without waiting."""
    latency_buckets: tuple[int, ...]
    """Per bucket, for the bounds of `BOUNDS_MS` and above; the sum is `request_count`."""
    latency_sum_s: float
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    uptime_s: float


class WindowStats(Record, frozen=True):
    """Figures of the last seconds."""

    duration_s: float
    """What they cover: the span asked for, or since the start where that is shorter."""
    request_count: int
    success_count: int
    error_count: int
    rejected_count: int
    avg_latency_ms: float
    p95_latency_ms: float | None
    qps: float
    """Requests over the covered time, which counts as at least 1 s."""
    error_rate: float


class TaskFigures(Record, frozen=True):
    """What is exported for one task."""

    task_name: str
    outcomes: dict[OutcomeKind, int]
    cold_starts: int
    latency_buckets: tuple[int, ...]
    latency_sum_s: float
    init_buckets: tuple[int, ...]
    """Of the start-up times of its instances."""
    init_sum_s: float
    happenings: dict[tuple[str, str], int]
    """By kind (`instance_lost`, `scaled`, `died` and so on) and detail."""


# --- of other owners, read at the moment of asking ---


class PoolFigures(Record, frozen=True):
    """One pool as it is now."""

    task_name: str
    total: int = 0
    in_use: int = 0
    available: int = 0
    waiting: int = 0
    starting: int = 0
    max_size: int = 0
    total_requests: int = 0
    """Leases asked for."""
    avg_wait_ms: float = 0.0
    scale_up_count: int = 0
    scale_down_count: int = 0
    utilization: float = 0.0
    """Busy time / live time of its instances, 0 to 1."""


class MemoryFigures(Record, frozen=True):
    """PSS of the instances, in bytes."""

    used_bytes: int = 0
    limit_bytes: int = 0
    by_task: dict[str, int] = {}


class BreakerFigures(Record, frozen=True):
    """One breaker as it is now."""

    task_name: str
    state: CircuitState
    rejected_count: int
    settings: CircuitBreakerSettings


class BreakersFigures(Record, frozen=True):
    """All breakers, with what holds where a task says nothing."""

    defaults: CircuitBreakerSettings = CircuitBreakerSettings()
    rejected_count: int = 0
    """Since the start, by breakers that are gone too."""
    breakers: tuple[BreakerFigures, ...] = ()


# --- from the rows of sums ---


def stats_of(row: Row, uptime_s: float) -> Stats:
    count = requests(row)
    successes = count_of(row, OutcomeKind.SUCCESS)
    return Stats(
        request_count=count,
        success_count=successes,
        error_count=count - successes,
        timeout_count=count_of(row, OutcomeKind.TIMEOUT),
        crashed_count=count_of(row, OutcomeKind.CRASHED),
        cancelled_count=count_of(row, OutcomeKind.CANCELLED),
        rejected_count=count_of(row, OutcomeKind.REJECTED),
        invalid_count=count_of(row, OutcomeKind.INVALID),
        cold_start_count=int(row[COLD]),
        avg_latency_ms=_mean_ms(row[LATENCY_S], count),
        avg_run_ms=_mean_ms(row[RUN_S], count),
        latency_buckets=tuple(map(int, row[:N_BUCKETS])),
        latency_sum_s=row[LATENCY_S],
        p50_latency_ms=quantile_ms(row, 0.50),
        p95_latency_ms=quantile_ms(row, 0.95),
        p99_latency_ms=quantile_ms(row, 0.99),
        uptime_s=uptime_s,
    )


def window_stats_of(row: Row, span_s: float) -> WindowStats:
    count = requests(row)
    errors = count - count_of(row, OutcomeKind.SUCCESS)
    return WindowStats(
        duration_s=span_s,
        request_count=count,
        success_count=count - errors,
        error_count=errors,
        rejected_count=count_of(row, OutcomeKind.REJECTED),
        avg_latency_ms=_mean_ms(row[LATENCY_S], count),
        p95_latency_ms=quantile_ms(row, 0.95),
        qps=count / max(span_s, 1.0),
        error_rate=errors / count if count else 0.0,
    )


def task_figures_of(
    task_name: str, row: Row, init: Row, happenings: dict[tuple[str, str], int]
) -> TaskFigures:
    return TaskFigures(
        task_name=task_name,
        outcomes={kind: count_of(row, kind) for kind in OutcomeKind},
        cold_starts=int(row[COLD]),
        latency_buckets=tuple(map(int, row[:N_BUCKETS])),
        latency_sum_s=row[LATENCY_S],
        init_buckets=tuple(map(int, init[:N_BUCKETS])),
        init_sum_s=init[LATENCY_S],
        happenings=happenings,
    )


def _mean_ms(sum_s: float, count: int) -> float:
    return _ms(sum_s / count) if count else 0.0


def _ms(seconds: float) -> float:
    """To the nanosecond: the digits below are noise of the sums."""
    return round(seconds * 1000, 6)
