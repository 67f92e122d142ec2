"""From the times of many rounds to figures, a table and a verdict. Pure.

A round times everything once, so the two sides of a ratio come from the same moments.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import quantiles
from typing import Any, NamedTuple

Rounds = Mapping[str, Sequence[float]]
"""Nanoseconds per operation by the operation's name, one for each round."""


class Spread(NamedTuple):
    """The middle of all rounds, and between what the middle half of them lies."""

    median: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""

    @property
    def width(self) -> float:
        return self.high - self.low


def spread_of(values: Sequence[float]) -> Spread:
    """Quartiles: a round or two that somebody disturbed do not move them.

    Example: of 1, 2, 3, 4 and 90 they are 2, 3 and 4. Of one value all three are that value.
    """
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def upper_bound(values: Sequence[float], confidence: float = 0.95) -> float:
    """What the true median is not above, with that confidence, whatever the values are spread like.

    The least value of which enough lie below it: that so many do by chance alone is as likely as
    so many heads of a coin. A value that somebody disturbed counts no more than any other.

    Example: of 20 it is the 15th, as 15 heads or more of 20 come in 2 % of all cases, 14 or more in
    6 %. Of fewer than 5 it is the largest, which promises less.
    """
    ordered, count = sorted(values), len(values)
    below = 0.0
    for place, value in enumerate(ordered):
        below += math.comb(count, place) / 2**count
        if below >= confidence:
            return value
    return ordered[-1]


def ratio_of(rounds: Rounds, ours: str, peer: str) -> Spread:
    """Ours by the peer's, taken round by round: 0.5 is half the time of the peer."""
    return spread_of(paired(rounds, ours, peer))


def paired(rounds: Rounds, ours: str, peer: str) -> list[float]:
    """The ratio of each round."""
    return [one / other for one, other in zip(rounds[ours], rounds[peer], strict=True)]


def ratios(rounds: Rounds, pieces: Mapping[str, Sequence[str]]) -> dict[str, Spread]:
    """All of them, by `ours / peer`."""
    return {
        f"{ours} / {peer}": ratio_of(rounds, ours, peer)
        for ours, peers in pieces.items()
        for peer in peers
    }


def together_ns(rounds: Rounds, names: Sequence[str]) -> Spread:
    """The sum of some operations, round by round."""
    return spread_of([sum(times) for times in zip(*(rounds[n] for n in names), strict=True)])


def behind(
    baseline: Mapping[str, Spread],
    now: Mapping[str, Spread],
    higher: Collection[str] = (),
) -> list[str]:
    """Ratios that are worse than the baseline by more than the middle half of the rounds is wide.

    The wider of both spreads counts. Example: 0.50 from 0.48 to 0.53 before, 0.56 from 0.54 to
    0.58 now: worse by 0.06, the spreads are 0.05 and 0.04, so it has fallen behind.
    A ratio that only one side has is a fault too: what is no longer measured cannot be kept.

    Args:
        baseline: the ratios as they were.
        now: the ratios as they are.
        higher: names of those of which more is better; of all others less is.
    """
    faults = [f"{name} is no longer measured" for name in baseline if name not in now]
    faults += [f"{name} is not in the baseline: store it again" for name in now.keys() - baseline]
    for name in baseline.keys() & now.keys():
        was, is_ = baseline[name], now[name]
        allowed = max(was.width, is_.width)
        worse = (was.median - is_.median) * (1 if name in higher else -1)
        if worse > allowed:
            faults.append(
                f"{name} is {is_.median:.3f}, it was {was.median:.3f}: worse by "
                f"{worse:.3f}, the spread is {allowed:.3f}"
            )
    return sorted(faults)


def spreads(stored: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """As they come back from JSON."""
    return {name: Spread(*values) for name, values in stored.items()}


# --- table ---


def report(
    result: Mapping[str, Any],
    pieces: Mapping[str, Sequence[str]],
    names: Sequence[str],
    aim_ns: float,
) -> str:
    """A result as text, worked out again from its raw rounds: medians and quartiles.

    Args:
        result: with its `rounds`.
        pieces: ours, and what each is compared with.
        names: of those that are to stay below the aim together.
        aim_ns: the aim.
    """
    rounds: Rounds = result["rounds"]
    found = ratios(rounds, pieces)
    order = list(dict.fromkeys(name for ours, peers in pieces.items() for name in (ours, *peers)))
    times = [(name, *numbers(spread_of(rounds[name]), ".0f")) for name in order]
    shares = [(name, *numbers(spread, ".2f")) for name, spread in found.items()]
    whole = together_ns(rounds, names)
    verdict = "kept" if whole.median <= aim_ns else "missed"
    return "\n".join(
        [
            columns([("operation", "ns", "from", "to"), *times]),
            "",
            columns([("ratio", "median", "from", "to"), *shares]),
            "",
            f"{', '.join(names)} together: {whole.median:,.0f} ns "
            f"({whole.low:,.0f} to {whole.high:,.0f}), the aim of {aim_ns:,.0f} ns is {verdict}",
        ]
    )


class Aim(NamedTuple):
    """A ratio that is looked at, or a value where there is no peer."""

    name: str
    ours: str
    peer: str = ""
    """Empty: the value itself counts."""
    least: float | None = None
    most: float | None = None
    """Neither is a ratio without an aim."""
    stretch: float | None = None
    """What is really wanted, in the same direction."""
    upper: bool = False
    """The upper 95 % bound of the median counts, and stands in its place."""

    def spread(self, rounds: Rounds) -> Spread:
        values = self._values(rounds)
        spread = spread_of(values)
        return spread._replace(median=upper_bound(values)) if self.upper else spread

    def _values(self, rounds: Rounds) -> Sequence[float]:
        if self.peer:
            return paired(rounds, self.ours, self.peer)
        return rounds[self.ours]

    def measured(self, rounds: Rounds) -> bool:
        return {self.ours, self.peer} - {""} <= rounds.keys()

    def bound(self) -> str:
        stretch = "" if self.stretch is None else f" ({self.stretch:g})"
        if self.least is not None:
            return f">= {self.least:g}{stretch}"
        return f"<= {self.most:g}{stretch}" if self.most is not None else ""

    def verdict(self, rounds: Rounds) -> str:
        """`missed`, `kept`, or `stretch` when that is kept too; empty without an aim."""
        bound = self.least if self.least is not None else self.most
        if bound is None:
            return ""
        median, sign = self.spread(rounds).median, 1 if self.higher_is_better else -1
        if sign * median < sign * bound:
            return "missed"
        far = self.stretch is not None and sign * median >= sign * self.stretch
        return "stretch" if far else "kept"

    @property
    def higher_is_better(self) -> bool:
        return self.least is not None


def verdicts(rounds: Rounds, aims: Sequence[Aim]) -> str:
    """A table of the aims whose sides were measured, from the raw rounds."""
    rows = [
        (aim.name, *numbers(aim.spread(rounds), ".2f"), aim.bound(), aim.verdict(rounds))
        for aim in aims
        if aim.measured(rounds)
    ]
    return columns([("ratio", "median", "from", "to", "aim", ""), *rows])


def medians(rounds: Rounds) -> str:
    """A table of everything that was measured, from the raw rounds."""
    rows = [(name, *numbers(spread_of(values), ",.2f")) for name, values in rounds.items()]
    return columns([("measured", "median", "from", "to"), *rows])


def percentiles(values: Sequence[float], least: int = 200) -> tuple[float, float]:
    """The 50th and the 99th; raises ValueError when there are too few values to know."""
    if len(values) < least:
        raise ValueError(f"{len(values)} values are too few for a 99th percentile")
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def numbers(spread: Spread, style: str) -> tuple[str, str, str]:
    return format(spread.median, style), format(spread.low, style), format(spread.high, style)


def columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )
