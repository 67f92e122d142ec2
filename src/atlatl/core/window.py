"""A ring of slots over the last seconds, the latency histogram, and quantiles from it.

A row is a flat list of sums, so that recording is a few additions, and merging slots is
one sum per column. `Ring` does not know what the columns mean; `Series` does: it holds
the figures of one name (a task, or the whole service).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from atlatl.model import OutcomeKind

BOUNDS_MS = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
"""Inclusive upper bounds of the latency buckets; one more bucket holds all above."""
BOUNDS_S = tuple(bound / 1000 for bound in BOUNDS_MS)
N_BUCKETS = len(BOUNDS_MS) + 1
OVERFLOW = N_BUCKETS - 1
"""Place of the bucket without a bound."""

SLOT_S = 1.0
KEEP_S = 300.0
"""Longest span of a window."""
HISTORY_SLOT_S = 600.0
HISTORY_KEEP_S = 168 * 3600.0
"""Longest span of the figures over hours."""

EXECUTED = (OutcomeKind.SUCCESS, OutcomeKind.ERROR, OutcomeKind.TIMEOUT, OutcomeKind.CRASHED)
"""Outcomes that are requests; the others are counted apart and have no latency."""

# The columns of a row of `Series`: the buckets come first. Success has no column, it is what
# the other outcomes leave of the buckets: cheaper, and the sums cannot disagree.
OUTCOME_COLUMNS: dict[OutcomeKind, int] = {
    kind: N_BUCKETS + place
    for place, kind in enumerate(kind for kind in OutcomeKind if kind is not OutcomeKind.SUCCESS)
}
COLD = N_BUCKETS + len(OUTCOME_COLUMNS)
LATENCY_S = COLD + 1
RUN_S = COLD + 2
OVERFLOW_S = COLD + 3
"""Sum of the latencies above the last bound: their mean stands in for a bound they lack."""
N_COLUMNS = COLD + 4

_SUCCESS = OutcomeKind.SUCCESS

Row = list[float]
R = TypeVar("R")


def add_rows(rows: Iterable[Row]) -> Row:
    """The sum of `rows`, column by column."""
    return [sum(column) for column in zip(*rows, strict=True)]


class Slot(Generic[R]):
    """What happened from its first record on, for at most one slot's length."""

    __slots__ = ("ends", "first_at", "last_at", "row")

    def __init__(self, row: R, first_at: float, ends: float) -> None:
        self.row = row
        self.first_at = first_at
        self.last_at = first_at
        self.ends = ends


class Ring(Generic[R]):
    """The last `keep_s` seconds in slots of `slot_s`, each with a row made by `make`.

    A slot begins with its first record. Reading changes nothing.
    """

    __slots__ = ("_keep_s", "_make", "_slot_s", "_slots", "current")

    def __init__(self, make: Callable[[], R], slot_s: float, keep_s: float) -> None:
        self._make = make
        self._slot_s = slot_s
        self._keep_s = keep_s
        self._slots: deque[Slot[R]] = deque()
        # Over before it began, so that the first record turns.
        self.current = Slot(make(), -math.inf, -math.inf)

    def row(self, now: float) -> R:
        """The row to add to."""
        slot = self.current
        if now >= slot.ends:
            slot = self.turn(now)
        slot.last_at = now
        return slot.row

    def turn(self, now: float) -> Slot[R]:
        """Begins a new slot at `now` and drops those that are too old to be asked for."""
        while self._slots and self._slots[0].last_at < now - self._keep_s:
            self._slots.popleft()
        self.current = Slot(self._make(), now, now + self._slot_s)
        self._slots.append(self.current)
        return self.current

    def rows_since(self, start: float) -> list[R]:
        """The rows from `start` on, newest first.

        A slot is taken whole, or not at all: it is in when the middle of its records is.
        """
        rows: list[R] = []
        for slot in reversed(self._slots):
            if slot.first_at + slot.last_at < 2 * start:
                break
            rows.append(slot.row)
        return rows


class Series:
    """The figures of one name: since its first record, and over the last 300 s.

    With `history` also over the last 168 h. Only the running slot is written to; it is
    added to the longer spans when it closes, so that a record costs the same however many
    spans there are.
    """

    __slots__ = ("_closed", "_history", "_ring")

    def __init__(self, *, history: bool = False) -> None:
        self._closed = new_row()
        self._ring = Ring(new_row, SLOT_S, KEEP_S)
        self._history = Ring(new_row, HISTORY_SLOT_S, HISTORY_KEEP_S) if history else None

    def row(self, now: float) -> Row:
        """The row to add to."""
        slot = self._ring.current
        if now >= slot.ends:
            self._close(slot)
            slot = self._ring.turn(now)
        slot.last_at = now
        return slot.row

    def _close(self, slot: Slot[Row]) -> None:
        self.absorb(slot.row)
        if self._history is not None and slot.last_at > -math.inf:
            row = self._history.row(slot.last_at)
            row[:] = add_rows((row, slot.row))

    def absorb(self, row: Row) -> None:
        """Adds to the totals, but not to the window."""
        self._closed = add_rows((self._closed, row))

    def total(self) -> Row:
        return add_rows((self._closed, self._ring.current.row))

    def window(self, start: float) -> Row:
        """The sums from `start` on, at most 300 s ago."""
        return add_rows([new_row(), *self._ring.rows_since(start)])

    def history(self, start: float) -> Row:
        """The sums from `start` on, at most 168 h ago; of a series without history, nothing."""
        rows = [new_row()]
        if self._history is not None:
            rows += self._history.rows_since(start)
        current = self._ring.current
        if current.last_at >= start:
            rows.append(current.row)
        return add_rows(rows)


class NameCounts:
    """How often each name occurred, in total and over the last 168 h.

    Beyond `max_names` the rest is counted under the name `rest`.
    """

    __slots__ = ("_closed", "_max_names", "_rest", "_ring")

    def __init__(self, max_names: int, rest: str) -> None:
        self._max_names = max_names
        self._rest = rest
        self._closed: Counter[str] = Counter()
        self._ring: Ring[dict[str, int]] = Ring(dict, HISTORY_SLOT_S, HISTORY_KEEP_S)

    def add(self, now: float, name: str) -> None:
        slot = self._ring.current
        if now >= slot.ends:
            self._closed.update(slot.row)
            slot = self._ring.turn(now)
        slot.last_at = now
        counts = slot.row
        if name not in counts and self._full(name):
            name = self._rest
        counts[name] = counts.get(name, 0) + 1

    def _full(self, name: str) -> bool:
        """Whether `name` would be one too many."""
        if name in self._closed:
            return False
        return len(self._closed.keys() | self._ring.current.row.keys()) >= self._max_names

    def total(self) -> dict[str, int]:
        return self._closed + Counter(self._ring.current.row)

    def since(self, start: float) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for row in self._ring.rows_since(start):
            counts.update(row)
        return counts


def new_row() -> Row:
    return [0] * N_COLUMNS


def bucket_of(duration_s: float) -> int:
    """Place of the bucket that `duration_s` falls into; the bounds are inclusive."""
    return bisect_left(BOUNDS_S, duration_s)


def add_execution(
    rows: tuple[Row, Row], kind: OutcomeKind, latency_s: float, run_s: float, cold: bool
) -> None:
    """Counts one execution that is a request in two rows."""
    bucket = bisect_left(BOUNDS_S, latency_s)
    one, other = rows
    one[bucket] += 1
    other[bucket] += 1
    one[LATENCY_S] += latency_s
    other[LATENCY_S] += latency_s
    one[RUN_S] += run_s
    other[RUN_S] += run_s
    if kind is not _SUCCESS:
        add_to(rows, OUTCOME_COLUMNS[kind], 1)
    if cold:
        add_to(rows, COLD, 1)
    if bucket == OVERFLOW:
        add_to(rows, OVERFLOW_S, latency_s)


def add_to(rows: Sequence[Row], column: int, amount: float) -> None:
    for row in rows:
        row[column] += amount


def requests(row: Sequence[float]) -> int:
    return int(sum(row[:N_BUCKETS]))


def count_of(row: Sequence[float], kind: OutcomeKind) -> int:
    """How many ended as `kind`."""
    if kind is not _SUCCESS:
        return int(row[OUTCOME_COLUMNS[kind]])
    return requests(row) - sum(count_of(row, kind) for kind in EXECUTED if kind is not _SUCCESS)


def quantile_ms(row: Sequence[float], q: float) -> float | None:
    """Estimate of a quantile from the buckets of `row`, in ms; None without data.

    Within a bucket the records are taken as evenly spread, as Prometheus' own
    `histogram_quantile` does. For example 10 records in the bucket from 5 to 10 ms and
    nothing else: p50 is 5 + 5 x 0.5 = 7.5 ms. Above the last bound it is the mean of
    what lies there.
    """
    count = requests(row)
    if not count:
        return None
    rank = q * count
    below = 0.0
    for place, upper in enumerate(BOUNDS_MS):
        inside = row[place]
        if inside and below + inside >= rank:
            lower = BOUNDS_MS[place - 1] if place else 0
            return lower + (upper - lower) * max(0.0, rank - below) / inside
        below += inside
    return row[OVERFLOW_S] / row[OVERFLOW] * 1000
