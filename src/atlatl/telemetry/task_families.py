"""The families of samples that each task has in a scrape."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from atlatl.core.breaker import CircuitState
from atlatl.model import OutcomeKind, Record
from atlatl.telemetry.exposition import Family, histogram, label
from atlatl.telemetry.figures import PoolFigures, TaskFigures
from atlatl.telemetry.queues import TaskQueue

_ERRORS = (OutcomeKind.ERROR, OutcomeKind.TIMEOUT, OutcomeKind.CRASHED)
FAILURES = (
    "EXECUTION_ERROR",
    "EXECUTION_TIMEOUT",
    "INSTANCE_CRASHED",
    "RESOURCE_LIMIT_EXCEEDED",
    "SERIALIZATION_ERROR",
)
"""Codes of what functions do wrong: counted from nought. The others come when they happen."""


class TaskScrape(Record, frozen=True):
    """What one scrape shows of one task, or of all that have no label of their own."""

    label: str
    """As it stands between braces; see `task_label`."""
    figures: TaskFigures | None = None
    pool: PoolFigures | None = None
    breaker_states: tuple[CircuitState, ...] = ()
    """None without a breaker; several for what is put together."""
    breaker_rejections: int = 0
    queue: TaskQueue | None = None
    memory_bytes: int | None = None


def task_label(task_name: str) -> str:
    return label("faas_name", task_name)


_OfTask = Family[TaskScrape]


def _count(name: str, text: str, value: Callable[[TaskFigures], int]) -> _OfTask:
    """A counter of executions."""

    def lines(task: TaskScrape) -> str:
        figures = task.figures
        return "" if figures is None else f"{name}_total{{{task.label}}} {value(figures)}\n"

    return Family(name, "counter", text, lines)


def _happened(name: str, text: str, kind: str) -> _OfTask:
    """A counter of happenings.

    It is there from the beginning: Prometheus takes a series that begins at 1 for one that has
    not risen, so the first happening would never be seen.
    """
    return _count(name, text, lambda own: own.happenings.get((kind, ""), 0))


def _happened_by(
    name: str, text: str, kind: str, detail_name: str, details: Sequence[str]
) -> _OfTask:
    """The same with a sample for each detail that there may be; `detail_name` is its label."""

    def lines(task: TaskScrape) -> str:
        figures = task.figures
        if figures is None:
            return ""
        before = f"{name}_total{{{task.label},{detail_name}="
        return "".join(
            [f'{before}"{one}"}} {figures.happenings.get((kind, one), 0)}\n' for one in details]
        )

    return Family(name, "counter", text, lines)


def _of_pool(name: str, kind: str, text: str, value: Callable[[PoolFigures], float]) -> _OfTask:
    suffix = "_total" if kind == "counter" else ""

    def lines(task: TaskScrape) -> str:
        pool = task.pool
        return "" if pool is None else f"{name}{suffix}{{{task.label}}} {value(pool)!r}\n"

    return Family(name, kind, text, lines)


def _of_queue(name: str, text: str, value: Callable[[TaskQueue], float]) -> _OfTask:
    def lines(task: TaskScrape) -> str:
        queue = task.queue
        return "" if queue is None else f"{name}{{{task.label}}} {value(queue)!r}\n"

    return Family(name, "gauge", text, lines)


def _outcomes(task: TaskScrape) -> str:
    if task.figures is None:
        return ""
    before = f"atlatl_executions_total{{{task.label},outcome="
    return "".join(
        [f'{before}"{kind.value}"}} {count}\n' for kind, count in task.figures.outcomes.items()]
    )


def _failures(task: TaskScrape) -> str:
    own = task.figures
    if own is None:
        return ""
    before = f"atlatl_failures_total{{{task.label},error_code="
    counted = dict.fromkeys(FAILURES, 0)
    counted |= {code: n for (kind, code), n in own.happenings.items() if kind == "failed"}
    return "".join([f'{before}"{code}"}} {count}\n' for code, count in counted.items()])


def _invocations(task: TaskScrape) -> str:
    own = task.figures
    if own is None:
        return ""
    name = "faas_invoke_duration_seconds"
    return histogram(name, task.label, own.latency_buckets, own.latency_sum_s)


def _starts(task: TaskScrape) -> str:
    own = task.figures
    if own is None:
        return ""
    return histogram("faas_init_duration_seconds", task.label, own.init_buckets, own.init_sum_s)


def _memory(task: TaskScrape) -> str:
    used = task.memory_bytes
    return "" if used is None else f"faas_mem_usage_bytes{{{task.label}}} {used}\n"


def _instances(task: TaskScrape) -> str:
    pool = task.pool
    if pool is None:
        return ""
    before = f"atlatl_pool_instances{{{task.label},state="
    return (
        f'{before}"in_use"}} {pool.in_use}\n'
        f'{before}"available"}} {pool.available}\n'
        f'{before}"starting"}} {pool.starting}\n'
    )


def _breaker(task: TaskScrape) -> str:
    states = task.breaker_states
    if not states:
        return ""
    before = f"atlatl_breaker_state{{{task.label},state="
    return "".join(
        [f'{before}"{state.value}"}} {int(state in states)}\n' for state in CircuitState]
    )


def _rejections(task: TaskScrape) -> str:
    if not task.breaker_states:
        return ""
    return f"atlatl_breaker_rejections_total{{{task.label}}} {task.breaker_rejections}\n"


def _queued(task: TaskScrape) -> str:
    queue = task.queue
    if queue is None:
        return ""
    before = f"atlatl_queue_executions{{{task.label},state="
    return (
        f'{before}"ready"}} {queue.ready}\n'
        f'{before}"delayed"}} {queue.delayed}\n'
        f'{before}"leased"}} {queue.leased}\n'
    )


TASK_FAMILIES: tuple[_OfTask, ...] = (
    Family(
        "atlatl_executions",
        "counter",
        "Executions that ended and calls that were turned away, by outcome.",
        _outcomes,
    ),
    _count(
        "faas_invocations", "Successful executions.", lambda own: own.outcomes[OutcomeKind.SUCCESS]
    ),
    _count(
        "faas_errors",
        "Executions that failed, timed out or crashed.",
        lambda own: sum([own.outcomes[kind] for kind in _ERRORS]),
    ),
    _count(
        "faas_timeouts",
        "Executions that timed out.",
        lambda own: own.outcomes[OutcomeKind.TIMEOUT],
    ),
    _count(
        "faas_coldstarts",
        "Executions for which an instance had to be created, or was fresh.",
        lambda own: own.cold_starts,
    ),
    Family(
        "atlatl_failures",
        "counter",
        "Executions that failed, timed out or crashed, by the code of the error.",
        _failures,
    ),
    Family(
        "faas_invoke_duration_seconds",
        "histogram",
        "Latency of executions, waiting included; of async ones the last attempt alone.",
        _invocations,
    ),
    Family(
        "faas_init_duration_seconds",
        "histogram",
        "Time that instances needed to start.",
        _starts,
    ),
    _happened("atlatl_instances_lost", "Instances that died unbidden.", "instance_lost"),
    _happened("atlatl_start_failures", "Instances that did not start.", "start_failed"),
    _happened_by("atlatl_pool_scalings", "Scaling steps.", "scaled", "direction", ("up", "down")),
    _happened_by(
        "atlatl_breaker_transitions",
        "Changes of breakers' states.",
        "breaker",
        "state",
        [str(each) for each in CircuitState],
    ),
    Family(
        "faas_mem_usage_bytes",
        "gauge",
        "Memory of the instances, as proportional set size.",
        _memory,
    ),
    Family("atlatl_pool_instances", "gauge", "Instances, by what they do.", _instances),
    _of_pool(
        "atlatl_pool_max_instances",
        "gauge",
        "Instances that there may be at most.",
        lambda pool: pool.max_size,
    ),
    _of_pool(
        "atlatl_pool_waiting",
        "gauge",
        "Calls that wait for an instance.",
        lambda pool: pool.waiting,
    ),
    _of_pool(
        "atlatl_pool_utilization_ratio",
        "gauge",
        "Share of their lives in which the pool's instances, those that are gone included, had "
        "a call.",
        lambda pool: pool.utilization,
    ),
    _of_pool(
        "atlatl_pool_requests",
        "counter",
        "Instances that calls asked for; begins anew with each version of the task.",
        lambda pool: pool.total_requests,
    ),
    Family(
        "atlatl_breaker_state",
        "gauge",
        "1 for the state that the breaker is in; of /other, for each that one of them is in.",
        _breaker,
    ),
    Family(
        "atlatl_breaker_rejections",
        "counter",
        "Calls that the breaker refused.",
        _rejections,
    ),
    Family(
        "atlatl_queue_executions",
        "gauge",
        "Async executions that have not ended: ready to begin, delayed, or under way (leased).",
        _queued,
    ),
    _of_queue(
        "atlatl_queue_oldest_seconds",
        "How long the async execution that waits the longest could have run; 0 is none.",
        lambda queue: queue.oldest_s,
    ),
    _of_queue(
        "atlatl_dead_letters",
        "Async executions that failed for good and can be redriven.",
        lambda queue: queue.dead,
    ),
    _happened(
        "atlatl_call_retries",
        "Attempts of calls that somebody waits for that failed and were followed by another one.",
        "call_retried",
    ),
    _happened("atlatl_executions_accepted", "Async executions accepted.", "accepted"),
    _happened(
        "atlatl_execution_retries",
        "Attempts of async executions that failed and were followed by another one.",
        "retried",
    ),
    _happened(
        "atlatl_execution_recoveries",
        "Attempts of async executions that the end of the service cut off.",
        "recovered",
    ),
    _happened("atlatl_executions_died", "Async executions that became dead letters.", "died"),
)
