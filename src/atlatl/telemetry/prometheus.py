"""The same counters for Prometheus: rendered as text when asked for, kept nowhere.

Two formats: the classic text format 0.0.4 and OpenMetrics 1.0.0. They differ in the names
of counter families, the order and number of the comment lines, and the end mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from atlatl.core.breaker import CircuitState
from atlatl.core.window import BOUNDS_S
from atlatl.model import OutcomeKind, Record
from atlatl.telemetry.figures import BreakersFigures, MemoryFigures, PoolFigures, TaskFigures
from atlatl.telemetry.metrics import Metrics

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_ERRORS = (OutcomeKind.ERROR, OutcomeKind.TIMEOUT, OutcomeKind.CRASHED)
_BOUNDS = (*map(repr, BOUNDS_S), "+Inf")

Sample = tuple[str, Mapping[str, str], float]
"""Suffix of the name, labels, value."""


class Family(Record, frozen=True):
    """All samples of one name, which stands here without the `_total` of counters."""

    name: str
    kind: str
    """`counter`, `gauge` or `histogram`."""
    help: str
    samples: list[Sample]


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
    *,
    records_dropped: int = 0,
    queue_oldest_s: float | None = None,
    dead_letters: int | None = None,
    openmetrics: bool = False,
) -> str:
    """The text of one scrape, all counters from one moment.

    Args:
        metrics: the counters.
        pools: of all tasks.
        memory: of all tasks.
        breakers: of all tasks.
        records_dropped: executions whose records were not stored.
        queue_oldest_s: age of the oldest queued execution; None where there is no queue.
        dead_letters: those that wait for a decision; None where there is no queue.
        openmetrics: OpenMetrics 1.0.0 rather than the classic text format.
    """
    families = [
        *_execution_families(metrics.tasks()),
        _memory_family(memory),
        *_pool_families(pools),
        _breaker_family(breakers),
        _counter(
            "atlatl_records_dropped",
            "Executions whose records were not stored, because of their number or of the disk.",
            [({}, records_dropped)],
        ),
        *_queue_families(queue_oldest_s, dead_letters),
    ]
    lines = [line for family in families for line in _lines(family, openmetrics=openmetrics)]
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


# --- families ---


def _execution_families(tasks: Sequence[TaskFigures]) -> list[Family]:
    return [
        _counter(
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
        _counter(
            "faas_coldstarts",
            "Executions for which an instance had to be created, or was fresh.",
            [({"faas_name": task.task_name}, task.cold_starts) for task in tasks],
        ),
        _histogram(
            "faas_invoke_duration_seconds",
            "Latency of executions.",
            [(task.task_name, task.latency_buckets, task.latency_sum_s) for task in tasks],
        ),
        _histogram(
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
    return _gauge(
        "faas_mem_usage_bytes",
        "Memory of the instances, as proportional set size.",
        [({"faas_name": name}, used) for name, used in sorted(memory.by_task.items())],
    )


def _pool_families(pools: Sequence[PoolFigures]) -> list[Family]:
    return [
        _gauge("atlatl_pool_instances", "Instances, by what they do.", _pool_samples(pools)),
        _gauge(
            "atlatl_pool_max_instances",
            "Instances that there may be at most.",
            _pool_sums(pools, "max_size"),
        ),
        _gauge(
            "atlatl_pool_waiting",
            "Calls that wait for an instance.",
            _pool_sums(pools, "waiting"),
        ),
    ]


def _breaker_family(breakers: BreakersFigures) -> Family:
    return _gauge(
        "atlatl_breaker_state",
        "1 for the state that the breaker is in.",
        [
            ({"faas_name": one.task_name, "state": str(state)}, int(one.state is state))
            for one in breakers.breakers
            for state in CircuitState
        ],
    )


def _queue_families(oldest_s: float | None, dead_letters: int | None) -> Iterator[Family]:
    if oldest_s is not None:
        text = "Age of the oldest queued execution."
        yield _gauge("atlatl_queue_oldest_seconds", text, [({}, oldest_s)])
    if dead_letters is not None:
        text = "Failed asynchronous executions that wait for somebody's decision."
        yield _gauge("atlatl_dead_letters", text, [({}, dead_letters)])


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
    return _counter(
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
    return _counter(name, text, samples)


def _counter(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Family:
    return Family(name, "counter", text, [("_total", labels, value) for labels, value in samples])


def _gauge(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Family:
    return Family(name, "gauge", text, [("", labels, value) for labels, value in samples])


def _histogram(name: str, text: str, series: Iterable[tuple[str, Sequence[int], float]]) -> Family:
    samples: list[Sample] = []
    for task_name, buckets, sum_s in series:
        labels = {"faas_name": task_name}
        cumulative = list(accumulate(buckets))
        for bound, count in zip(_BOUNDS, cumulative, strict=True):
            samples.append(("_bucket", labels | {"le": bound}, count))
        samples += [("_sum", labels, sum_s), ("_count", labels, cumulative[-1])]
    return Family(name, "histogram", text, samples)


# --- text ---


def _lines(family: Family, *, openmetrics: bool) -> Iterator[str]:
    """The lines of one family.

    In the classic format a counter's family has the name of its samples, `_total` included.
    """
    classic_counter = family.kind == "counter" and not openmetrics
    name = f"{family.name}_total" if classic_counter else family.name
    if openmetrics:
        yield f"# TYPE {name} {family.kind}"
        unit = name.rpartition("_")[2]
        if unit in ("seconds", "bytes"):
            yield f"# UNIT {name} {unit}"
        yield f"# HELP {name} {family.help}"
    else:
        yield f"# HELP {name} {family.help}"
        yield f"# TYPE {name} {family.kind}"
    for suffix, labels, value in family.samples:
        yield f"{family.name}{suffix}{_labels(labels)} {value!r}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}"


def escape(value: str) -> str:
    r"""A label's value as it stands between quotes: `\`, `"` and line ends are escaped."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
