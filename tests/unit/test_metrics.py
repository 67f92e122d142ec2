"""What is counted, and the answer of the metrics address."""

from __future__ import annotations

import json
import logging
import math
import threading
from typing import Any

import pytest

from atlatl import events
from atlatl.engine.breaker import CircuitState
from atlatl.errors import FunctionRaised, InvalidRequest
from atlatl.model import (
    Execution,
    ExecutionStatus,
    Mode,
    Outcome,
    OutcomeKind,
    QueueDepth,
    failed,
)
from atlatl.settings import CircuitBreakerSettings
from atlatl.telemetry.metrics import (
    OTHER,
    BreakerFigures,
    BreakersFigures,
    DurableStats,
    MemoryFigures,
    Metrics,
    PoolFigures,
    QueueFigures,
    metrics_answer,
    parse_window,
)
from atlatl.telemetry.queues import TaskQueue, queue_figures_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(clock)


def finished(task_name: str = "hello", latency_s: float = 0.02, **facts: Any) -> events.Event:
    outcome = facts.pop("outcome", Outcome(kind=OutcomeKind.SUCCESS, run_s=0.01))
    execution = Execution(
        execution_id="e",
        task_id="t",
        task_name=task_name,
        function_name=facts.pop("function_name", "main"),
        mode=Mode.SYNC,
        status=ExecutionStatus.COMPLETED,
        outcome=outcome,
        **facts,
    )
    return events.ExecutionFinished(
        at=0.0, task_name=task_name, execution=execution, latency_s=latency_s
    )


def test_outcomes_are_told_apart_d48(metrics: Metrics) -> None:
    for kind in OutcomeKind:
        metrics.record_request(0.01, kind)
        metrics.record_request(0.01, kind.value)
    stats = metrics.stats()
    assert stats.request_count == 8
    assert stats.success_count == 2
    assert stats.error_count == 6
    assert (stats.timeout_count, stats.crashed_count) == (2, 2)
    assert (stats.cancelled_count, stats.rejected_count, stats.invalid_count) == (2, 2, 2)
    assert sum(stats.latency_buckets) == stats.request_count


def test_an_unknown_outcome_is_refused_with_the_known_ones(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match=r"'sucess' is unknown; it is one of success, error"):
        metrics.record_request(0.01, "sucess")


def test_refusals_are_seen_and_disturb_no_other_figure_d50(metrics: Metrics) -> None:
    metrics.record_request(0.1, "error", task_name="hello")
    for _ in range(99):
        metrics.emit(
            events.CallRefused(
                at=0, task_name="hello", execution_id="e", outcome="rejected", code="CIRCUIT_OPEN"
            )
        )
    window = metrics.window_stats(60)
    assert (window.rejected_count, window.error_rate) == (99, 1.0)
    assert metrics.stats("hello").rejected_count == 99
    assert metrics.stats().avg_latency_ms == 100.0


@pytest.mark.parametrize("duration_s", [-1.0, -math.inf, math.nan])
def test_durations_that_cannot_be_count_as_0_d52(metrics: Metrics, duration_s: float) -> None:
    metrics.record_request(duration_s, "success")
    stats = metrics.stats()
    assert (stats.avg_latency_ms, stats.latency_buckets[0]) == (0.0, 1)


def test_no_figure_becomes_infinite_d52(metrics: Metrics, clock: Clock) -> None:
    metrics.record_request(math.inf, "success")
    metrics.emit(finished(latency_s=math.inf, outcome=Outcome(OutcomeKind.SUCCESS, run_s=math.inf)))
    json.dumps(answer(metrics), allow_nan=False)


def test_a_second_reader_sees_the_same_d41(metrics: Metrics, clock: Clock) -> None:
    for _ in range(10):
        metrics.record_request(0.01, "success")
    assert metrics.window_stats(60) == metrics.window_stats(60)
    assert metrics.window_stats(60).request_count == 10


def test_qps_divides_by_at_least_one_second_d42(metrics: Metrics, clock: Clock) -> None:
    clock.now += 14e-6
    metrics.record_request(0.0, "success")
    metrics.record_request(0.0, "success")
    window = metrics.window_stats(60)
    assert window.qps == 2.0
    assert window.duration_s == pytest.approx(14e-6)


def test_the_window_covers_what_was_asked_or_since_the_start_d43(
    metrics: Metrics, clock: Clock
) -> None:
    metrics.record_request(0.01, "success")
    clock.now += 12.5
    metrics.record_request(0.01, "error")
    window = metrics.window_stats(60)
    assert (window.duration_s, window.request_count, window.qps) == (12.5, 2, 0.16)
    window = metrics.window_stats(10)
    assert (window.duration_s, window.request_count, window.error_rate) == (10, 1, 1.0)
    clock.now += 1000
    window = metrics.window_stats(300)
    assert (window.duration_s, window.request_count, window.error_rate) == (300, 0, 0.0)


def test_a_window_is_at_most_300_s_and_says_so_d43(metrics: Metrics, clock: Clock) -> None:
    clock.now += 1000
    assert metrics.window_stats(900).duration_s == 300


@pytest.mark.parametrize("window_s", [0, -1, math.nan])
def test_a_window_without_a_length_is_refused(metrics: Metrics, window_s: float) -> None:
    with pytest.raises(ValueError):
        metrics.window_stats(window_s)


def test_every_snapshot_is_consistent_under_writers_d44() -> None:
    metrics = Metrics()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            metrics.record_request(0.01, "success", task_name="a")
            metrics.record_request(20.0, "timeout", True, "b")

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(200):
            total, window, _ = metrics.snapshot(300)
            assert total.request_count == total.success_count + total.error_count
            assert sum(total.latency_buckets) == total.request_count
            assert total.cold_start_count == total.timeout_count
            assert window.request_count == total.request_count
    finally:
        stop.set()
        for writer in writers:
            writer.join(30)
    by_task = {task.task_name: sum(task.outcomes.values()) for task in metrics.tasks()}
    assert by_task["a"] + by_task["b"] == metrics.stats().request_count


def test_figures_per_task_are_bounded_d49(clock: Clock) -> None:
    metrics = Metrics(clock, max_names=2)
    for name in ("a", "b", "c", "d", "a", ""):
        metrics.record_request(0.01, "success", task_name=name)
    counts = {task.task_name: task.outcomes[OutcomeKind.SUCCESS] for task in metrics.tasks()}
    assert counts == {OTHER: 3, "a": 2, "b": 1}
    assert metrics.stats("a").request_count == 2
    assert metrics.stats("c").request_count == 0


def test_strangers_cannot_use_up_the_names_d49(metrics: Metrics) -> None:
    for number in range(2000):
        metrics.record_request(0, "invalid", task_name=f"guess-{number}")
    assert [task.task_name for task in metrics.tasks()] == [OTHER]
    assert metrics.stats().invalid_count == 2000


def test_a_deleted_task_leaves_its_name_but_not_the_totals(metrics: Metrics) -> None:
    metrics.emit(finished("gone"))
    metrics.emit(
        events.InstanceStarted(
            at=0, task_name="gone", instance_id="i", pid=1, origin="blank", init_s=0.2
        )
    )
    metrics.emit(events.TaskDeleted(at=0, task_name="gone"))
    metrics.forget("never there")
    [other] = metrics.tasks()
    assert other.task_name == OTHER
    assert other.outcomes[OutcomeKind.SUCCESS] == 1
    assert sum(other.init_buckets) == 1
    assert metrics.stats().request_count == 1
    assert metrics.stats("gone").request_count == 0


def test_cold_starts_are_counted_with_their_call_d51(metrics: Metrics) -> None:
    metrics.emit(finished(cold_start=True))
    metrics.emit(finished())
    metrics.record_request(0.0, "cancelled", cold_start=True)
    assert metrics.stats().cold_start_count == 1
    assert metrics.stats("hello").cold_start_count == 1


def test_an_execution_counts_with_its_latency_and_its_run(metrics: Metrics) -> None:
    metrics.emit(finished(latency_s=0.5, function_name="main"))
    error = failed(FunctionRaised("x"), run_s=0.03)
    metrics.emit(finished(latency_s=1.5, function_name="other", outcome=error))
    stats = metrics.stats("hello")
    assert (stats.avg_latency_ms, stats.avg_run_ms) == (1000.0, 20.0)
    assert (stats.success_count, stats.error_count) == (1, 1)
    assert metrics.by_function() == {"main": 1, "other": 1}


def test_hours_back(metrics: Metrics, clock: Clock) -> None:
    metrics.emit(finished(function_name="old"))
    clock.now += 5 * 3600
    metrics.emit(finished(function_name="new"))
    assert metrics.history(1).request_count == 1
    assert metrics.history(6).request_count == 2
    assert metrics.by_function(1) == {"new": 1}
    assert metrics.by_function(6) == metrics.by_function() == {"old": 1, "new": 1}


def test_happenings_are_counted(metrics: Metrics) -> None:
    metrics.emit(finished("hello"))
    lost = events.InstanceEnded(
        at=0, task_name="hello", instance_id="i", reason="signal 9", expected=False
    )
    metrics.emit(lost)
    metrics.emit(events.InstanceEnded(0, "hello", instance_id="i", reason="idle", expected=True))
    metrics.emit(events.StartFailedEvent(0, "hello", reason="no memory"))
    metrics.emit(events.PoolScaled(0, "hello", direction="up", size=3, reason="waiters"))
    metrics.emit(events.BreakerChanged(0, "hello", old="closed", new="open"))
    metrics.emit(events.TaskDeployed(0, "hello", version=2, created=False))
    [_, hello] = metrics.tasks()
    assert hello.happenings == {
        ("instance_lost", ""): 1,
        ("start_failed", ""): 1,
        ("scaled", "up"): 1,
        ("breaker", "open"): 1,
    }


def durable_life(task_name: str) -> list[events.Event]:
    """What happens to an execution that is cut off once, fails twice and dies."""

    def attempt_failed(attempt: int, *, recovered: bool = False) -> events.Event:
        code = "INSTANCE_LOST" if recovered else "EXECUTION_ERROR"
        return events.AttemptFailed(
            0,
            task_name,
            execution_id="e",
            attempt=attempt,
            code=code,
            retry_in_s=1.0,
            recovered=recovered,
        )

    def told(**facts: Any) -> events.Event:
        return events.CallbackTried(0, task_name, execution_id="e", **facts)

    return [
        events.ExecutionAccepted(0, task_name, execution_id="e"),
        attempt_failed(1, recovered=True),
        attempt_failed(2),
        attempt_failed(3),
        finished(task_name, outcome=failed(FunctionRaised("x")), attempt=4),
        events.ExecutionDied(0, task_name, execution_id="e", attempts=4, code="EXECUTION_ERROR"),
        told(tries=1, failure="refused"),
        told(tries=2),
        told(tries=8, failure="refused", given_up=True),
    ]


LIFE = DurableStats(
    accepted_count=1,
    retry_count=2,
    recovery_count=1,
    died_count=1,
    callback_told_count=1,
    callback_failed_count=1,
    callback_given_up_count=1,
)


def test_an_execution_is_one_request_however_many_its_attempts(metrics: Metrics) -> None:
    for event in durable_life("hello"):
        metrics.emit(event)
    stats = metrics.stats("hello")
    assert (stats.request_count, stats.error_count) == (1, 1)
    assert metrics.durable_stats("hello") == metrics.durable_stats() == LIFE
    assert metrics.durable_stats("calc") == DurableStats()


def test_durable_counts_of_a_deleted_task_stay_in_the_totals(metrics: Metrics) -> None:
    for event in durable_life("gone"):
        metrics.emit(event)
    metrics.emit(events.TaskDeleted(at=0, task_name="gone"))
    assert metrics.durable_stats() == LIFE
    assert metrics.durable_stats("gone") == DurableStats()


def test_durable_counts_have_their_tasks_name_before_anything_ran_d49(clock: Clock) -> None:
    """After a start of the service, recoveries come before the first instance does."""
    metrics = Metrics(clock, max_names=1)
    for name in ("first", "one too many"):
        for event in durable_life(name)[:2]:
            metrics.emit(event)
    counts = {task.task_name: task.happenings for task in metrics.tasks()}
    once = {("accepted", ""): 1, ("recovered", ""): 1}
    assert counts == {OTHER: once, "first": once}


def test_the_mean_run_of_a_task(metrics: Metrics) -> None:
    assert metrics.mean_run_s("hello") is None
    for run_s in (0.01, 0.03):
        metrics.emit(finished("hello", 5.0, outcome=Outcome(OutcomeKind.SUCCESS, run_s=run_s)))
    metrics.emit(finished("calc", outcome=Outcome(OutcomeKind.SUCCESS, run_s=9.0)))
    assert metrics.mean_run_s("hello") == pytest.approx(0.02)


def test_emit_never_raises(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    bad = events.CallRefused(at=0, task_name="", execution_id="e", outcome="huh", code="X")
    with caplog.at_level(logging.ERROR):
        metrics.emit(bad)
    assert "CallRefused was not counted" in caplog.text


# --- the answer ---

POOLS = [
    PoolFigures(
        "hello",
        total=3,
        in_use=1,
        available=2,
        waiting=4,
        total_requests=30,
        avg_wait_ms=2.0,
        scale_up_count=2,
        scale_down_count=1,
        utilization=0.5,
    ),
    PoolFigures("calc", total=1, in_use=1, total_requests=10, avg_wait_ms=6.0, utilization=0.9),
]
MEMORY = MemoryFigures(used_bytes=300, limit_bytes=1000, by_task={"hello": 200, "calc": 100})
BREAKERS = BreakersFigures(
    rejected_count=9,
    breakers=(
        BreakerFigures("hello", CircuitState.CLOSED, 1, CircuitBreakerSettings()),
        BreakerFigures(
            "calc", CircuitState.HALF_OPEN, 2, CircuitBreakerSettings(failure_threshold=7)
        ),
    ),
)

QUEUE = QueueFigures(
    limit=100,
    tasks=(
        TaskQueue("calc", delayed=2, dead=1),
        TaskQueue("hello", ready=3, delayed=1, leased=4, dead=2, oldest_s=7.5),
    ),
)


def answer(metrics: Metrics, **more: Any) -> dict[str, Any]:
    return metrics_answer(metrics, POOLS, MEMORY, BREAKERS, QUEUE, **more)


def test_the_answer_has_every_key_with_its_unit_d47(metrics: Metrics, clock: Clock) -> None:
    metrics.emit(finished("hello", latency_s=0.0045, cold_start=True))
    metrics.emit(finished("hello", latency_s=0.010, outcome=failed(FunctionRaised("x"))))
    clock.now += 12.5
    told = answer(metrics)
    assert told == {
        "total": {
            "request_count": 2,
            "success_count": 1,
            "error_count": 1,
            "timeout_count": 0,
            "crashed_count": 0,
            "rejected_count": 0,
            "cancelled_count": 0,
            "invalid_count": 0,
            "cold_start_count": 1,
            "avg_latency_ms": 7.25,
            "p50_latency_ms": 5.0,
            "p95_latency_ms": 9.5,
            "p99_latency_ms": 9.9,
            "latency_histogram": [
                {"le_ms": bound, "count": 1 if bound in (5, 10) else 0}
                for bound in (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, None)
            ],
            "uptime_seconds": 12.5,
            "pool_size": 4,
            "pool_in_use": 2,
            "pool_available": 2,
            "memory_used_bytes": 300,
            "memory_limit_bytes": 1000,
        },
        "window": {
            "duration_seconds": 12.5,
            "request_count": 2,
            "success_count": 1,
            "error_count": 1,
            "rejected_count": 0,
            "avg_latency_ms": 7.25,
            "p95_latency_ms": 9.5,
            "qps": 0.16,
            "error_rate": 0.5,
        },
        "circuit_breaker": {
            "state": "half-open",
            "failure_threshold": 5,
            "success_threshold": 3,
            "timeout_seconds": 30.0,
            "rejected_count": 9,
            "functions": {"calc": {"state": "half-open"}},
        },
        "pool": {
            "total_requests": 40,
            "utilization": 0.6,
            "waiting": 4,
            "avg_wait_ms": 3.0,
            "scale_up_count": 2,
            "scale_down_count": 1,
        },
        "queue": {
            "depth": 10,
            "depth_limit": 100,
            "ready": 3,
            "delayed": 3,
            "leased": 4,
            "oldest_seconds": 7.5,
            "dead_letters": 3,
            "accepted_count": 0,
            "retry_count": 0,
            "recovery_count": 0,
            "died_count": 0,
            "callback_told_count": 0,
            "callback_failed_count": 0,
            "callback_given_up_count": 0,
        },
    }
    json.dumps(told, allow_nan=False)


def test_with_a_task_all_figures_are_that_tasks(metrics: Metrics) -> None:
    metrics.emit(finished("hello"))
    metrics.emit(finished("calc"))
    told = answer(metrics, task="calc", window_s=30.0)
    assert told["total"]["request_count"] == told["window"]["request_count"] == 1
    assert (told["total"]["pool_size"], told["total"]["memory_used_bytes"]) == (1, 100)
    assert told["circuit_breaker"] == {
        "state": "half-open",
        "failure_threshold": 7,
        "success_threshold": 3,
        "timeout_seconds": 30.0,
        "rejected_count": 2,
        "functions": {"calc": {"state": "half-open"}},
    }
    assert told["pool"]["utilization"] == 0.9
    assert (told["queue"]["depth"], told["queue"]["dead_letters"]) == (2, 1)
    assert answer(metrics, task="hello")["circuit_breaker"]["state"] == "closed"


def test_gauges_are_those_of_the_moment_of_asking_d46(metrics: Metrics) -> None:
    empty = metrics_answer(metrics, [], MemoryFigures(), BreakersFigures(), QueueFigures())
    assert empty["total"]["pool_size"] == empty["total"]["memory_used_bytes"] == 0
    assert empty["pool"]["avg_wait_ms"] == empty["pool"]["utilization"] == 0.0
    assert empty["circuit_breaker"]["state"] == "closed"
    assert empty["queue"]["depth"] == empty["queue"]["oldest_seconds"] == 0
    assert empty["total"]["p50_latency_ms"] is None
    assert answer(metrics)["total"]["pool_size"] == 4


def test_the_worst_breaker_stands_for_all_d14(metrics: Metrics) -> None:
    open_ = BreakerFigures("x", CircuitState.OPEN, 0, CircuitBreakerSettings())
    figures = BreakersFigures(breakers=(*BREAKERS.breakers, open_))
    told = metrics_answer(metrics, POOLS, MEMORY, figures, QUEUE)["circuit_breaker"]
    assert told["state"] == "open"
    assert told["functions"] == {"calc": {"state": "half-open"}, "x": {"state": "open"}}


def test_durable_executions_are_counted_in_the_answer(metrics: Metrics) -> None:
    for event in (*durable_life("hello"), *durable_life("calc")[:3]):
        metrics.emit(event)
    assert answer(metrics)["queue"].items() >= {"accepted_count": 2, "retry_count": 3}.items()
    told = answer(metrics, task="calc")["queue"]
    assert told.items() >= {"accepted_count": 1, "retry_count": 1, "died_count": 0}.items()


# --- what the queue holds ---


def test_ages_are_of_the_queues_clock_and_never_below_0() -> None:
    depths = [
        QueueDepth("ahead", ready=1, oldest_ready_at=1000.5),
        QueueDepth("behind", ready=1, oldest_ready_at=990.0),
        QueueDepth("none", delayed=1),
    ]
    figures = queue_figures_of(depths, ["ahead", "behind", "none"], now=1000.0, limit=5)
    assert [task.oldest_s for task in figures.tasks] == [0.0, 10.0, 0.0]
    assert figures.of().oldest_s == 10.0


def test_a_deployed_task_has_its_figures_when_nothing_of_it_is_there() -> None:
    figures = queue_figures_of([], ["b", "a"], now=0.0, limit=5)
    assert figures.tasks == (TaskQueue("a"), TaskQueue("b"))


def test_what_is_left_of_tasks_that_are_gone_is_under_other_d49() -> None:
    depths = [
        QueueDepth("gone", ready=1, dead=2, oldest_ready_at=90.0),
        QueueDepth("gone too", delayed=4, leased=1, dead=1, oldest_ready_at=95.0),
        QueueDepth("hello", dead=5),
    ]
    figures = queue_figures_of(depths, ["hello"], now=100.0, limit=5)
    assert figures.tasks == (
        TaskQueue(OTHER, ready=1, delayed=4, leased=1, dead=3, oldest_s=10.0),
        TaskQueue("hello", dead=5),
    )
    assert figures.of().depth == 6


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("5m", 300.0), ("60", 60.0), ("1", 1.0), ("1.5s", 1.5), ("0.5m", 30.0)],
)
def test_windows_are_read(text: str, seconds: float) -> None:
    assert parse_window(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "x", "0", "-5", "301", "6m", "1h", "30 s", "s", "1e2", "nan", "inf", "0.5", "٣s", "5s\n"],
)
def test_other_windows_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="window"):
        parse_window(text)
