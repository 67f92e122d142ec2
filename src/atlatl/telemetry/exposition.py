"""How Prometheus' two text formats write families of samples.

They are the classic text format 0.0.4 and OpenMetrics 1.0.0. They differ in the names of
counter families, the order and number of the comment lines, and the end mark. Lines are put
together as text at once: a service with 1000 tasks has 60 000 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from atlatl.core.window import BOUNDS_S

S = TypeVar("S")

_BOUNDS = (*map(repr, BOUNDS_S), "+Inf")
_UNITS = ("seconds", "bytes", "ratio")


class Family(Generic[S]):
    """All samples of one name.

    Attributes:
        name: without the `_total` of counters.
        kind: `counter`, `gauge` or `histogram`.
        help: what it is, for people.
        lines: the lines of the samples that one source has; the same in both formats.
    """

    __slots__ = ("help", "kind", "lines", "name")

    def __init__(self, name: str, kind: str, text: str, lines: Callable[[S], str]) -> None:
        self.name = name
        self.kind = kind
        self.help = text
        self.lines = lines

    def head(self, *, openmetrics: bool) -> str:
        """The lines before the samples.

        In the classic format a counter's family has the name of its samples, `_total` included.
        """
        if not openmetrics:
            name = f"{self.name}_total" if self.kind == "counter" else self.name
            return f"# HELP {name} {self.help}\n# TYPE {name} {self.kind}\n"
        unit = self.name.rpartition("_")[2]
        stated = f"# UNIT {self.name} {unit}\n" if unit in _UNITS else ""
        return f"# TYPE {self.name} {self.kind}\n{stated}# HELP {self.name} {self.help}\n"


def label(name: str, value: str) -> str:
    """One label as it stands between the braces."""
    return f'{name}="{escape(value)}"'


def escape(value: str) -> str:
    r"""A label's value as it stands between quotes: `\`, `"` and line ends are escaped."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def histogram(name: str, labels: str, buckets: Sequence[int], sum_s: float) -> str:
    """The lines of a histogram with the bounds of latencies.

    Args:
        name: of the family.
        labels: as they stand between the braces; may be empty.
        buckets: count of each bucket alone, the one without a bound included.
        sum_s: of what was observed.
    """
    before = f"{labels}," if labels else ""
    after = f"{{{labels}}}" if labels else ""
    total = 0
    lines = []
    for bound, total in zip(_BOUNDS, accumulate(buckets), strict=True):
        lines.append(f'{name}_bucket{{{before}le="{bound}"}} {total}\n')
    lines.append(f"{name}_sum{after} {sum_s!r}\n{name}_count{after} {total}\n")
    return "".join(lines)
