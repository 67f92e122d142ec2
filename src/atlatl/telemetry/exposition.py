"""Families of samples, and how Prometheus' two text formats write them.

They are the classic text format 0.0.4 and OpenMetrics 1.0.0. They differ in the names of
counter families, the order and number of the comment lines, and the end mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from atlatl.core.window import BOUNDS_S
from atlatl.model import Record

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


def counter(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Family:
    """A family whose samples are totals; `name` comes without `_total`."""
    return Family(name, "counter", text, [("_total", labels, value) for labels, value in samples])


def gauge(name: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Family:
    """A family whose samples rise and fall."""
    return Family(name, "gauge", text, [("", labels, value) for labels, value in samples])


def histogram(name: str, text: str, series: Iterable[tuple[str, Sequence[int], float]]) -> Family:
    """A family with the bounds of latencies.

    Args:
        name: of the family.
        text: its help.
        series: name of the task, count of each bucket alone, sum in seconds.
    """
    samples: list[Sample] = []
    for task_name, buckets, sum_s in series:
        labels = {"faas_name": task_name}
        cumulative = list(accumulate(buckets))
        for bound, count in zip(_BOUNDS, cumulative, strict=True):
            samples.append(("_bucket", labels | {"le": bound}, count))
        samples += [("_sum", labels, sum_s), ("_count", labels, cumulative[-1])]
    return Family(name, "histogram", text, samples)


def lines(family: Family, *, openmetrics: bool) -> Iterator[str]:
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
