"""The same counters for Prometheus: rendered as text when asked for, kept nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from atlatl.core.breaker import CircuitState
from atlatl.model import OutcomeKind
from atlatl.telemetry.exposition import Family, counter, gauge, histogram, lines
from atlatl.telemetry.figures import BreakersFigures, MemoryFigures, PoolFigures, TaskFigures
from atlatl.telemetry.metrics import Metrics
from atlatl.telemetry.queues import CALLBACK, FAILED, GIVEN_UP, TOLD, QueueFigures, TaskQueue

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ERRORS = (OutcomeKind.ERROR, OutcomeKind.TIMEOUT, OutcomeKind.CRASHED)
_EMPTY_QUEUE = QueueFigures()
_NONE_DROPPED = {"rate": 0, "store": 0}


def content_type(accept: str) -> str:
    """The format for an `Accept` header: OpenMetrics when it is wanted at least as much."""
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for choice in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type in weights:
            weights[media_type] = max(weights[media_type], _weight(parameters))
    wanted, other = weights.values()
    return OPENMETRICS if wanted > 0 and wanted >= other else TEXT


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def render(
    metrics: Metrics,
    pools: Sequence[PoolFigures],
    memory: MemoryFigures,
    breakers: BreakersFigures,
    queue: QueueFigures = _EMPTY_QUEUE,
    *,
    records_dropped: Mapping[str, int] = _NONE_DROPPED,
    openmetrics: bool = False,
) -> str:
    """The text of one scrape, all counters from one moment.

    Args:
        metrics: the counters.
        pools: of all tasks.
        memory: of all tasks.
        breakers: of all tasks.
        queue: of all tasks.
        records_dropped: executions whose records were not stored, by the reason.
        openmetrics: OpenMetrics 1.0.0 rather than the classic text format.
    """
    tasks = metrics.tasks()
    families = [
        *_execution_families(tasks),
        _memory_family(memory),
        *_pool_families(pools),
        _breaker_family(breakers),
        counter(
            "atlatl_records_dropped",
            "Executions whose records were not stored: successes beyond the rate, or the store "
            "did not take them.",
            [({"reason": reason}, count) for reason, count in records_dropped.items()],
        ),
        *_queue_families(queue),
        *_durable_families(tasks),
    ]
    text = [line for family in families for line in lines(family, openmetrics=openmetrics)]
    if openmetrics:
        text.append("# EOF")
    return "\n".join(text) + "\n"


# --- families ---


def _execution_families(tasks: Sequence[TaskFigures]) -> list[Family]:
    return [
        counter(
            "atlatl_executions",
            "Executions that ended and calls that were turned away, by outcome.",
            [
                ({"faas_name": task.task_name, "outcome": kind.value}, count)
                for task in tasks
                for kind, count in task.outcomes.items()
            ],
        ),
        _of_tasks("faas_invocations", "Successful executions.", tasks, (OutcomeKind.SUCCESS,)),
        _of_tasks("faas_errors", "Executions that failed, timed out or crashed.", tasks, _ERRORS),
        _of_tasks("faas_timeouts", "Executions that timed out.", tasks, (OutcomeKind.TIMEOUT,)),
        counter(
            "faas_coldstarts",
            "Executions for which an instance had to be created, or was fresh.",
            [({"faas_name": task.task_name}, task.cold_starts) for task in tasks],
        ),
        histogram(
            "faas_invoke_duration_seconds",
            "Latency of executions, waiting included; of async ones the last attempt alone.",
            [(task.task_name, task.latency_buckets, task.latency_sum_s) for task in tasks],
        ),
        histogram(
            "faas_init_duration_seconds",
            "Time that instances needed to start.",
            [(task.task_name, task.init_buckets, task.init_sum_s) for task in tasks],
        ),
        _happened(
            "atlatl_instances_lost", "Instances that died unbidden.", tasks, "instance_lost", ""
        ),
        _happened(
            "atlatl_start_failures", "Instances that did not start.", tasks, "start_failed", ""
        ),
        _happened("atlatl_pool_scalings", "Scaling steps.", tasks, "scaled", "direction"),
        _happened(
            "atlatl_breaker_transitions", "Changes of breakers' states.", tasks, "breaker", "state"
        ),
    ]


def _memory_family(memory: MemoryFigures) -> Family:
    return gauge(
        "faas_mem_usage_bytes",
        "Memory of the instances, as proportional set size.",
        [({"faas_name": name}, used) for name, used in sorted(memory.by_task.items())],
    )


def _pool_families(pools: Sequence[PoolFigures]) -> list[Family]:
    return [
        gauge("atlatl_pool_instances", "Instances, by what they do.", _pool_samples(pools)),
        gauge(
            "atlatl_pool_max_instances",
            "Instances that there may be at most.",
            _pool_sums(pools, "max_size"),
        ),
        gauge(
            "atlatl_pool_waiting",
            "Calls that wait for an instance.",
            _pool_sums(pools, "waiting"),
        ),
    ]


def _breaker_family(breakers: BreakersFigures) -> Family:
    return gauge(
        "atlatl_breaker_state",
        "1 for the state that the breaker is in.",
        [
            ({"faas_name": one.task_name, "state": str(state)}, int(one.state is state))
            for one in breakers.breakers
            for state in CircuitState
        ],
    )


def _queue_families(queue: QueueFigures) -> list[Family]:
    return [
        gauge(
            "atlatl_queue_executions",
            "Async executions that have not ended: ready to begin, delayed, or under way (leased).",
            _queue_samples(queue.tasks),
        ),
        gauge(
            "atlatl_queue_limit",
            "Async executions that there may be, all tasks together.",
            [({}, queue.limit)],
        ),
        gauge(
            "atlatl_queue_oldest_seconds",
            "How long the async execution that waits the longest could have run; 0 is none.",
            [({"faas_name": task.task_name}, task.oldest_s) for task in queue.tasks],
        ),
        gauge(
            "atlatl_dead_letters",
            "Async executions that failed for good and can be redriven.",
            [({"faas_name": task.task_name}, task.dead) for task in queue.tasks],
        ),
    ]


def _queue_samples(tasks: Iterable[TaskQueue]) -> Iterator[tuple[Mapping[str, str], float]]:
    for task in tasks:
        for state in ("ready", "delayed", "leased"):
            yield {"faas_name": task.task_name, "state": state}, getattr(task, state)


def _durable_families(tasks: Sequence[TaskFigures]) -> list[Family]:
    return [
        _happened(
            "atlatl_executions_accepted", "Async executions accepted.", tasks, "accepted", ""
        ),
        _happened(
            "atlatl_execution_retries",
            "Attempts of async executions that failed and were followed by another one.",
            tasks,
            "retried",
            "",
        ),
        _happened(
            "atlatl_execution_recoveries",
            "Attempts of async executions that the end of the service cut off.",
            tasks,
            "recovered",
            "",
        ),
        _happened(
            "atlatl_executions_died",
            "Async executions that became dead letters.",
            tasks,
            "died",
            "",
        ),
        counter(
            "atlatl_callbacks",
            "Tries of callbacks, by how they ended; the last try of those given up is `given_up`.",
            [
                ({"outcome": end}, sum(task.happenings.get((CALLBACK, end), 0) for task in tasks))
                for end in (TOLD, FAILED, GIVEN_UP)
            ],
        ),
    ]


def _by_task(pools: Sequence[PoolFigures]) -> list[tuple[str, list[PoolFigures]]]:
    """A task has more than one pool while a new version takes over."""
    names = sorted({pool.task_name for pool in pools})
    return [(name, [pool for pool in pools if pool.task_name == name]) for name in names]


def _pool_samples(pools: Sequence[PoolFigures]) -> Iterator[tuple[Mapping[str, str], float]]:
    for name, own in _by_task(pools):
        for state in ("in_use", "available", "starting"):
            count = sum(getattr(pool, state) for pool in own)
            yield {"faas_name": name, "state": state}, count


def _pool_sums(
    pools: Sequence[PoolFigures], figure: str
) -> Iterator[tuple[Mapping[str, str], float]]:
    for name, own in _by_task(pools):
        yield {"faas_name": name}, sum(getattr(pool, figure) for pool in own)


def _of_tasks(
    name: str, text: str, tasks: Sequence[TaskFigures], kinds: Iterable[OutcomeKind]
) -> Family:
    return counter(
        name,
        text,
        [
            ({"faas_name": task.task_name}, sum(task.outcomes[kind] for kind in kinds))
            for task in tasks
        ],
    )


def _happened(name: str, text: str, tasks: Sequence[TaskFigures], kind: str, label: str) -> Family:
    """One sample for each detail of a kind of happening; `label` names the detail.

    Without details there is a sample from the beginning: Prometheus takes a series that begins
    at 1 for one that has not risen, so the first happening would never be seen.
    """
    samples: list[tuple[Mapping[str, str], float]] = []
    for task in tasks:
        if not label:
            samples.append(({"faas_name": task.task_name}, task.happenings.get((kind, ""), 0)))
            continue
        for (happening, detail), count in sorted(task.happenings.items()):
            if happening == kind:
                samples.append(({"faas_name": task.task_name, label: detail}, count))
    return counter(name, text, samples)
