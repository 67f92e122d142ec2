"""The text for Prometheus, read back by a small parser of our own."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import pytest

from atlatl import events
from atlatl.engine.breaker import CircuitState
from atlatl.errors import Draining, KilledOutOfMemory, OutOfMemory
from atlatl.model import Execution, ExecutionStatus, Mode, OutcomeKind, failed
from atlatl.telemetry.figures import PoolFigures
from atlatl.telemetry.lag import LagFigures
from atlatl.telemetry.metrics import OTHER, Metrics
from atlatl.telemetry.process import ProcessFigures, process_figures
from atlatl.telemetry.prometheus import OPENMETRICS, TEXT, Page, content_type
from atlatl.telemetry.queues import TaskQueue
from atlatl.telemetry.service_families import ServiceScrape
from atlatl.telemetry.task_families import TaskScrape, task_label

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? ([0-9.e+-]+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\[\\"n])*)"')
OPEN = CircuitState.OPEN

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

NAMES = {
    "atlatl_instances_lost_total": "counter",
    "atlatl_start_failures_total": "counter",
    "atlatl_pool_scalings_total": "counter",
    "atlatl_breaker_transitions_total": "counter",
    "atlatl_executions_total": "counter",
    "faas_invocations_total": "counter",
    "faas_errors_total": "counter",
    "faas_timeouts_total": "counter",
    "faas_coldstarts_total": "counter",
    "atlatl_failures_total": "counter",
    "faas_invoke_duration_seconds": "histogram",
    "faas_init_duration_seconds": "histogram",
    "faas_mem_usage_bytes": "gauge",
    "atlatl_pool_instances": "gauge",
    "atlatl_pool_max_instances": "gauge",
    "atlatl_pool_waiting": "gauge",
    "atlatl_breaker_state": "gauge",
    "atlatl_records_dropped_total": "counter",
    "atlatl_queue_executions": "gauge",
    "atlatl_queue_limit": "gauge",
    "atlatl_queue_oldest_seconds": "gauge",
    "atlatl_dead_letters": "gauge",
    "atlatl_executions_accepted_total": "counter",
    "atlatl_execution_retries_total": "counter",
    "atlatl_call_retries_total": "counter",
    "atlatl_execution_recoveries_total": "counter",
    "atlatl_executions_died_total": "counter",
    "atlatl_callbacks_total": "counter",
    "atlatl_pool_utilization_ratio": "gauge",
    "atlatl_pool_requests_total": "counter",
    "atlatl_breaker_rejections_total": "counter",
    "atlatl_build_info": "gauge",
    "atlatl_tasks": "gauge",
    "atlatl_concurrent_executions": "gauge",
    "atlatl_concurrent_executions_limit": "gauge",
    "atlatl_waiting_executions": "gauge",
    "atlatl_waiting_executions_limit": "gauge",
    "atlatl_inflight_bytes": "gauge",
    "atlatl_inflight_limit_bytes": "gauge",
    "atlatl_memory_limit_bytes": "gauge",
    "atlatl_trace_records_total": "counter",
    "atlatl_event_loop_lag_seconds": "histogram",
    "process_cpu_seconds_total": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_virtual_memory_bytes": "gauge",
    "process_open_fds": "gauge",
    "process_max_fds": "gauge",
    "process_threads": "gauge",
    "process_start_time_seconds": "gauge",
}


def busy() -> Metrics:
    metrics = Metrics(lambda: 0.0)
    for kind in OutcomeKind:
        metrics.record_request(0.02, kind, task_name="hello")
    metrics.record_request(0.005, "success", True, "hello")
    metrics.record_request(60.0, "success", False, "hello")
    metrics.record_request(0.1, "invalid", False, "unheard-of")
    metrics.emit(
        events.InstanceStarted(
            at=0, task_name="hello", instance_id="i", pid=1, origin="blank", init_s=0.03
        )
    )
    metrics.emit(events.PoolScaled(0, "hello", direction="up", size=1, reason="waiters"))
    metrics.emit(events.BreakerChanged(0, "hello", old="closed", new="half-open"))
    metrics.emit(events.StartFailedEvent(0, "hello", reason="none"))
    for number in (1, 2, 3):
        metrics.emit(events.ExecutionAccepted(0, "hello", execution_id=f"e-{number}"))
    for recovered in (True, False, False):
        metrics.emit(
            events.AttemptFailed(
                at=0,
                task_name="hello",
                execution_id="e-1",
                attempt=1,
                code="INSTANCE_LOST",
                retry_in_s=1.0,
                recovered=recovered,
            )
        )
    metrics.emit(
        events.CallRetried(
            at=0,
            task_name="hello",
            execution_id="e-3",
            attempt=1,
            code="INSTANCE_LOST",
            retry_in_s=0.1,
            queued_at=0.0,
            started_at=None,
        )
    )
    metrics.emit(
        events.ExecutionDied(0, "hello", execution_id="e-1", attempts=4, code="INSTANCE_LOST")
    )
    metrics.emit(events.CallbackTried(0, "hello", execution_id="e-2", tries=1, failure="refused"))
    metrics.emit(events.CallbackTried(0, "calc", execution_id="e-9", tries=3, failure="refused"))
    metrics.emit(events.CallbackTried(0, "hello", execution_id="e-2", tries=2))
    return metrics


SERVICE = ServiceScrape(
    version="1.2",
    python="3.11",
    tasks=2,
    executions=4,
    executions_limit=1000,
    waiting=5,
    waiting_limit=900,
    inflight_bytes=10,
    inflight_limit_bytes=99,
    memory_limit_bytes=98,
    queue_limit=1000,
    records_dropped={"rate": 6, "store": 2},
    callbacks={"told": 1, "failed": 2},
    trace_records={"exported": 7, "dropped": 1},
    lag=LagFigures((3, *[0] * 11, 1), 20.5),
    process=ProcessFigures(1.5, 1000, 2000, 12, 1024, 3, 1e9),
)


def text(metrics: Metrics | None = None, *, openmetrics: bool = False) -> str:
    metrics = metrics or busy()
    page = Page(openmetrics=openmetrics)
    for name in sorted({*metrics.names(), "calc"}):
        own: dict[str, Any] = {"queue": TaskQueue("calc")} if name == "calc" else {}
        if name == "hello":
            own = {
                "pool": PoolFigures(
                    "hello", total=4, in_use=2, available=2, starting=1, waiting=5, max_size=12,
                    total_requests=9, utilization=0.25,
                ),
                "breaker_states": (OPEN,),
                "breaker_rejections": 3,
                "queue": TaskQueue("hello", ready=3, delayed=2, leased=1, dead=2, oldest_s=1.5),
                "memory_bytes": 10,
            }  # fmt: skip
        page.add([TaskScrape(label=task_label(name), figures=metrics.figures(name), **own)])
    return page.text(SERVICE).decode()


def samples(rendered: str) -> Samples:
    found: Samples = {}
    for line in rendered.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            key = (match[1], frozenset(LABEL.findall(match[2] or "")))
            assert key not in found, f"twice: {line}"
            found[key] = float(match[3])
    return found


def value(rendered: str, name: str, **labels: str) -> float:
    return samples(rendered)[name, frozenset(labels.items())]


@pytest.mark.parametrize(("name", "kind"), NAMES.items())
def test_every_name_is_there_with_its_type_and_help(name: str, kind: str) -> None:
    lines = text().splitlines()
    assert f"# TYPE {name} {kind}" in lines
    assert any(line.startswith(f"# HELP {name} ") for line in lines)


def test_counters_end_in_total_and_nothing_else_does() -> None:
    for line in text().splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            assert name.endswith("_total") == (kind == "counter"), line


def test_counters_agree_with_the_statistics_d44() -> None:
    metrics = busy()
    rendered, stats = text(metrics), metrics.stats()
    hello = {"faas_name": "hello"}
    assert value(rendered, "faas_invocations_total", **hello) == stats.success_count == 3
    assert value(rendered, "faas_errors_total", **hello) == stats.error_count == 3
    assert value(rendered, "faas_timeouts_total", **hello) == stats.timeout_count == 1
    assert value(rendered, "faas_coldstarts_total", **hello) == stats.cold_start_count == 1
    assert value(rendered, "atlatl_executions_total", outcome="rejected", **hello) == 1
    by_outcome = {
        kind.value: sum(
            count
            for (name, labels), count in samples(rendered).items()
            if name == "atlatl_executions_total" and ("outcome", kind.value) in labels
        )
        for kind in OutcomeKind
    }
    assert by_outcome["success"] == stats.success_count
    assert by_outcome["invalid"] == stats.invalid_count == 2


def test_calls_without_a_name_of_their_own_are_under_other_d49() -> None:
    rendered = text()
    assert value(rendered, "atlatl_executions_total", faas_name=OTHER, outcome="invalid") == 1
    assert "unheard-of" not in rendered


def test_histograms_are_cumulative_in_seconds_and_end_without_bound_d39_d40() -> None:
    rendered = text()
    name, hello = "faas_invoke_duration_seconds", {"faas_name": "hello"}
    buckets = [
        value(rendered, f"{name}_bucket", le=le, **hello)
        for le in ("0.001", "0.005", "0.01", "0.025", "10.0", "+Inf")
    ]
    assert buckets == [0, 1, 1, 5, 5, 6]
    assert value(rendered, f"{name}_count", **hello) == 6
    assert value(rendered, f"{name}_sum", **hello) == pytest.approx(60.085)
    init = value(rendered, "faas_init_duration_seconds_bucket", le="0.05", **hello)
    assert init == value(rendered, "faas_init_duration_seconds_count", **hello) == 1


def test_gauges_come_from_their_owners_d46() -> None:
    rendered = text()
    hello = {"faas_name": "hello"}
    assert value(rendered, "faas_mem_usage_bytes", **hello) == 10
    for state, count in {"in_use": 2, "available": 2, "starting": 1}.items():
        assert value(rendered, "atlatl_pool_instances", state=state, **hello) == count
    assert value(rendered, "atlatl_pool_max_instances", **hello) == 12
    assert value(rendered, "atlatl_pool_waiting", **hello) == 5
    assert value(rendered, "atlatl_pool_utilization_ratio", **hello) == 0.25
    assert value(rendered, "atlatl_pool_requests_total", **hello) == 9
    assert value(rendered, "atlatl_breaker_rejections_total", **hello) == 3
    for state, here in {"closed": 0, "open": 1, "half-open": 0}.items():
        assert value(rendered, "atlatl_breaker_state", state=state, **hello) == here
    assert value(rendered, "atlatl_records_dropped_total", reason="rate") == 6
    assert value(rendered, "atlatl_records_dropped_total", reason="store") == 2


def test_the_service_as_a_whole_is_there() -> None:
    rendered = text()
    assert value(rendered, "atlatl_build_info", version="1.2", python="3.11") == 1
    assert value(rendered, "atlatl_tasks") == 2
    assert value(rendered, "atlatl_concurrent_executions") == 4
    assert value(rendered, "atlatl_concurrent_executions_limit") == 1000
    assert value(rendered, "atlatl_waiting_executions") == 5
    assert value(rendered, "atlatl_waiting_executions_limit") == 900
    assert value(rendered, "atlatl_inflight_bytes") == 10
    assert value(rendered, "atlatl_inflight_limit_bytes") == 99
    assert value(rendered, "atlatl_memory_limit_bytes") == 98
    assert value(rendered, "atlatl_trace_records_total", outcome="exported") == 7
    assert value(rendered, "atlatl_trace_records_total", outcome="dropped") == 1
    lag = "atlatl_event_loop_lag_seconds"
    assert value(rendered, f"{lag}_bucket", le="0.001") == 3
    assert value(rendered, f"{lag}_count") == value(rendered, f"{lag}_bucket", le="+Inf") == 4
    assert value(rendered, f"{lag}_sum") == 20.5
    assert value(rendered, "process_cpu_seconds_total") == 1.5
    assert value(rendered, "process_open_fds") == 12


def test_what_the_kernel_says_of_the_process() -> None:
    before = process_figures()
    with open(os.devnull) as one, open(os.devnull) as two:  # noqa: PTH123
        after = process_figures()
        assert one.fileno() != two.fileno()
    assert after.open_fds == before.open_fds + 2
    assert after.cpu_s == pytest.approx(time.process_time(), abs=1.0)
    assert 2**20 < after.resident_bytes < after.virtual_bytes
    assert after.threads >= 1
    assert after.max_fds >= after.open_fds
    assert 0 < time.time() - after.started_at < 86_400


def test_the_queue_is_there_by_task_with_its_limit() -> None:
    rendered = text()
    hello, calc = {"faas_name": "hello"}, {"faas_name": "calc"}
    for state, count in {"ready": 3, "delayed": 2, "leased": 1}.items():
        assert value(rendered, "atlatl_queue_executions", state=state, **hello) == count
        assert value(rendered, "atlatl_queue_executions", state=state, **calc) == 0
    assert value(rendered, "atlatl_queue_limit") == 1000
    assert value(rendered, "atlatl_queue_oldest_seconds", **hello) == 1.5
    assert value(rendered, "atlatl_queue_oldest_seconds", **calc) == 0
    assert value(rendered, "atlatl_dead_letters", **hello) == 2


def test_what_happens_to_durable_executions_is_counted() -> None:
    rendered = text()
    hello = {"faas_name": "hello"}
    assert value(rendered, "atlatl_executions_accepted_total", **hello) == 3
    assert value(rendered, "atlatl_execution_retries_total", **hello) == 2
    assert value(rendered, "atlatl_call_retries_total", **hello) == 1
    assert value(rendered, "atlatl_execution_recoveries_total", **hello) == 1
    assert value(rendered, "atlatl_executions_died_total", **hello) == 1
    for outcome, count in {"told": 1, "failed": 2, "given_up": 0}.items():
        assert value(rendered, "atlatl_callbacks_total", outcome=outcome) == count


def test_happenings_have_their_counters() -> None:
    rendered = text()
    hello = {"faas_name": "hello"}
    assert value(rendered, "atlatl_pool_scalings_total", direction="up", **hello) == 1
    assert value(rendered, "atlatl_breaker_transitions_total", state="half-open", **hello) == 1
    assert value(rendered, "atlatl_start_failures_total", **hello) == 1


def test_failures_are_counted_by_the_code_of_the_error() -> None:
    metrics = busy()
    for error in (OutOfMemory("its limit is 1 MiB"), KilledOutOfMemory("killed"), Draining("no")):
        execution = Execution(
            execution_id="e",
            task_id="t",
            task_name="hello",
            function_name="main",
            mode=Mode.SYNC,
            status=ExecutionStatus.FAILED,
            outcome=failed(error),
        )
        metrics.emit(events.ExecutionFinished(0, "hello", execution=execution, latency_s=0.1))
    rendered, hello = text(metrics), {"faas_name": "hello"}
    name = "atlatl_failures_total"
    assert value(rendered, name, error_code="RESOURCE_LIMIT_EXCEEDED", **hello) == 2
    assert value(rendered, name, error_code="INSTANCE_CRASHED", **hello) == 0
    assert "DRAINING" not in rendered


def test_what_may_happen_is_counted_from_nought() -> None:
    """A series that begins at 1 has not risen, for Prometheus: an alert would miss the first."""
    rendered = text()
    assert value(rendered, "atlatl_start_failures_total", faas_name=OTHER) == 0
    assert value(rendered, "atlatl_instances_lost_total", faas_name="hello") == 0
    for state in ("closed", "open"):
        name = "atlatl_breaker_transitions_total"
        assert value(rendered, name, faas_name="hello", state=state) == 0
    assert value(rendered, "atlatl_pool_scalings_total", faas_name=OTHER, direction="down") == 0
    assert value(rendered, "atlatl_trace_records_total", outcome="failed") == 0
    assert value(rendered, "atlatl_executions_died_total", faas_name=OTHER) == 0
    assert value(rendered, "atlatl_callbacks_total", outcome="given_up") == 0


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ('say "hi"', r"say \"hi\""),
        ("back\\slash", r"back\\slash"),
        ("two\nlines", r"two\nlines"),
        ("näme", "näme"),
    ],
)
@pytest.mark.parametrize("openmetrics", [False, True])
def test_labels_are_escaped(name: str, written: str, openmetrics: bool) -> None:
    metrics = Metrics(lambda: 0.0)
    metrics.record_request(0.01, "success", task_name=name)
    rendered = text(metrics, openmetrics=openmetrics)
    assert f'faas_invocations_total{{faas_name="{written}"}} 1' in rendered.splitlines()
    samples(rendered.removesuffix("# EOF\n"))


def test_openmetrics_has_its_own_family_names_units_and_end() -> None:
    lines = text(openmetrics=True).splitlines()
    assert lines[-1] == "# EOF"
    assert lines.count("# EOF") == 1
    assert "# TYPE faas_invocations counter" in lines
    assert "# UNIT faas_invoke_duration_seconds seconds" in lines
    assert "# UNIT faas_mem_usage_bytes bytes" in lines
    assert "# UNIT atlatl_queue_oldest_seconds seconds" in lines
    assert "# TYPE atlatl_callbacks counter" in lines
    assert 'faas_invocations_total{faas_name="hello"} 3' in lines
    assert samples(text()) == samples(text(openmetrics=True))


def test_the_classic_format_ends_with_a_line_end_and_has_no_units() -> None:
    rendered = text()
    assert rendered.endswith("\n")
    assert "# UNIT" not in rendered
    assert "# EOF" not in rendered


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2", OPENMETRICS),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.1", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=often", TEXT),
    ],
)
def test_the_format_follows_the_accept_header(accept: str, expected: str) -> None:
    assert content_type(accept) == expected
