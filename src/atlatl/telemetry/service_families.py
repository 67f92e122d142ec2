"""The families of samples that the service as a whole has in a scrape."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from atlatl.model import Record
from atlatl.telemetry.exposition import Family, histogram, label
from atlatl.telemetry.lag import LagFigures
from atlatl.telemetry.process import ProcessFigures
from atlatl.telemetry.queues import FAILED, GIVEN_UP, TOLD


class ServiceScrape(Record, frozen=True):
    """What one scrape shows of the service as a whole."""

    version: str = ""
    python: str = ""
    tasks: int = 0
    executions: int = 0
    """That hold an instance now."""
    executions_limit: int = 0
    waiting: int = 0
    waiting_limit: int = 0
    inflight_bytes: int = 0
    inflight_limit_bytes: int = 0
    memory_limit_bytes: int = 0
    queue_limit: int = 0
    records_dropped: Mapping[str, int] = {}
    """Executions whose records were not stored, by the reason."""
    trace_records: Mapping[str, int] = {}
    """What happened to traced calls, by whether the collector has it."""
    callbacks: Mapping[str, int] = {}
    """Tries, by how they ended."""
    lag: LagFigures = LagFigures()
    process: ProcessFigures = ProcessFigures()


_OfService = Family[ServiceScrape]


def _gauge(name: str, text: str, value: Callable[[ServiceScrape], float]) -> _OfService:
    return Family(name, "gauge", text, lambda service: f"{name} {value(service)!r}\n")


def _total(name: str, text: str, value: Callable[[ServiceScrape], float]) -> _OfService:
    return Family(name, "counter", text, lambda service: f"{name}_total {value(service)!r}\n")


def _by(
    name: str, text: str, label_name: str, counts: Callable[[ServiceScrape], Mapping[str, int]]
) -> _OfService:
    def lines(service: ServiceScrape) -> str:
        return "".join(
            f"{name}_total{{{label(label_name, value)}}} {count}\n"
            for value, count in counts(service).items()
        )

    return Family(name, "counter", text, lines)


def _build(service: ServiceScrape) -> str:
    labels = f"{label('version', service.version)},{label('python', service.python)}"
    return f"atlatl_build_info{{{labels}}} 1\n"


def _lag(service: ServiceScrape) -> str:
    name = "atlatl_event_loop_lag_seconds"
    return histogram(name, "", service.lag.buckets, service.lag.sum_s)


SERVICE_FAMILIES: tuple[_OfService, ...] = (
    Family("atlatl_build_info", "gauge", "1; the labels say what runs.", _build),
    _gauge("atlatl_tasks", "Tasks that are deployed.", lambda it: it.tasks),
    _gauge(
        "atlatl_concurrent_executions",
        "Calls that have an instance now, all tasks together.",
        lambda it: it.executions,
    ),
    _gauge(
        "atlatl_concurrent_executions_limit",
        "Calls that may have an instance at the same time, all tasks together.",
        lambda it: it.executions_limit,
    ),
    _gauge(
        "atlatl_waiting_executions",
        "Calls that wait for an instance, all tasks together.",
        lambda it: it.waiting,
    ),
    _gauge(
        "atlatl_waiting_executions_limit",
        "Calls that may wait for an instance, all tasks together.",
        lambda it: it.waiting_limit,
    ),
    _gauge(
        "atlatl_inflight_bytes",
        "Bodies and unread answers that the service holds.",
        lambda it: it.inflight_bytes,
    ),
    _gauge(
        "atlatl_inflight_limit_bytes",
        "Bodies and unread answers that the service may hold.",
        lambda it: it.inflight_limit_bytes,
    ),
    _gauge(
        "atlatl_memory_limit_bytes",
        "Memory that all instances together may use.",
        lambda it: it.memory_limit_bytes,
    ),
    _gauge(
        "atlatl_queue_limit",
        "Async executions that there may be, all tasks together.",
        lambda it: it.queue_limit,
    ),
    _by(
        "atlatl_records_dropped",
        "Executions whose records were not stored: successes beyond the rate, or the store "
        "did not take them.",
        "reason",
        lambda it: it.records_dropped,
    ),
    _by(
        "atlatl_callbacks",
        "Tries of callbacks, by how they ended; the last try of those given up is `given_up`.",
        "outcome",
        lambda it: {end: it.callbacks.get(end, 0) for end in (TOLD, FAILED, GIVEN_UP)},
    ),
    _by(
        "atlatl_trace_records",
        "Ends, retries, refusals and callbacks of traced calls: exported, dropped because the "
        "collector does not keep up, or failed because it did not take them.",
        "outcome",
        lambda it: {end: it.trace_records.get(end, 0) for end in ("exported", "dropped", "failed")},
    ),
    Family(
        "atlatl_event_loop_lag_seconds",
        "histogram",
        "How late the event loop comes to what is due, asked four times a second.",
        _lag,
    ),
    _total(
        "process_cpu_seconds",
        "CPU time of the service's process, its instances left out.",
        lambda it: it.process.cpu_s,
    ),
    _gauge(
        "process_resident_memory_bytes",
        "Resident memory of the service's process.",
        lambda it: it.process.resident_bytes,
    ),
    _gauge(
        "process_virtual_memory_bytes",
        "Virtual memory of the service's process.",
        lambda it: it.process.virtual_bytes,
    ),
    _gauge(
        "process_open_fds",
        "File descriptors that the service's process has open.",
        lambda it: it.process.open_fds,
    ),
    _gauge(
        "process_max_fds",
        "File descriptors that the service's process may have open.",
        lambda it: it.process.max_fds,
    ),
    _gauge("process_threads", "Threads of the service's process.", lambda it: it.process.threads),
    _gauge(
        "process_start_time_seconds",
        "When the service's process began, in Unix seconds.",
        lambda it: it.process.started_at,
    ),
)
