"""The ring of slots, the histogram and its quantiles."""

from __future__ import annotations

import pytest

from atlatl.core.window import (
    BOUNDS_MS,
    COLD,
    LATENCY_S,
    N_BUCKETS,
    NameCounts,
    Ring,
    Row,
    Series,
    add_execution,
    add_rows,
    bucket_of,
    count_of,
    new_row,
    quantile_ms,
    requests,
)
from atlatl.model import OutcomeKind

SUCCESS, ERROR = OutcomeKind.SUCCESS, OutcomeKind.ERROR


def row_of(*latencies_s: float, kind: OutcomeKind = SUCCESS) -> Row:
    row = new_row()
    for latency_s in latencies_s:
        add_execution((row, new_row()), kind, latency_s, 0.0, False)
    return row


def record(series: Series, now: float, kind: OutcomeKind = SUCCESS) -> None:
    add_execution((series.row(now), new_row()), kind, 0.01, 0.01, False)


@pytest.mark.parametrize("place", range(len(BOUNDS_MS)))
def test_bounds_are_inclusive_d39(place: int) -> None:
    bound_s = BOUNDS_MS[place] / 1000
    assert bucket_of(bound_s) == place
    assert bucket_of(bound_s * 1.0001) == place + 1


def test_the_last_bucket_has_no_bound_and_the_sum_is_the_count_d39() -> None:
    row = row_of(0.0, 0.001, 0.3, 10.0, 10.1, 1e6)
    assert row[N_BUCKETS - 1] == 2
    assert sum(row[:N_BUCKETS]) == requests(row) == 6


@pytest.mark.parametrize(
    ("latencies_s", "q", "expected_ms"),
    [
        ([0.006] * 10, 0.5, 7.5),
        ([0.006] * 10, 1.0, 10.0),
        ([0.0005] * 4, 0.25, 0.25),
        ([0.0005] * 50 + [0.4] * 50, 0.5, 1.0),
        ([0.0005] * 50 + [0.4] * 50, 0.95, 475.0),
        ([0.0005] * 99 + [30.0], 0.99, 1.0),
        ([0.0005] * 9 + [20.0, 40.0], 0.95, 30_000.0),
    ],
)
def test_quantiles_d40(latencies_s: list[float], q: float, expected_ms: float) -> None:
    assert quantile_ms(row_of(*latencies_s), q) == pytest.approx(expected_ms)


def test_no_data_has_no_quantile_d40() -> None:
    assert quantile_ms(new_row(), 0.5) is None


def test_successes_are_what_the_errors_leave_d44() -> None:
    row = add_rows((row_of(0.1, 0.2, 0.3), row_of(1.0, 2.0, kind=ERROR)))
    assert (count_of(row, SUCCESS), count_of(row, ERROR), requests(row)) == (3, 2, 5)


def test_a_ring_keeps_only_its_span() -> None:
    ring = Ring(lambda: [0.0], slot_s=1.0, keep_s=5.0)
    for second in range(1000):
        ring.row(float(second))[0] += 1
    assert len(ring.rows_since(-1.0)) == 6


def test_a_slot_lasts_from_its_first_record() -> None:
    ring = Ring(lambda: [0.0], slot_s=1.0, keep_s=5.0)
    assert ring.row(0.7) is ring.row(1.6)
    assert ring.row(0.7) is not ring.row(1.7)


def test_the_window_moves_with_the_moment_of_asking_d43() -> None:
    series = Series()
    record(series, 10.5)
    for now, expected in [(10.5, 1), (70.4, 1), (70.5, 1), (70.6, 0), (1000.0, 0)]:
        assert requests(series.window(now - 60)) == expected


def test_reading_changes_nothing_d41() -> None:
    series = Series(history=True)
    for second in range(10):
        record(series, float(second))
    for _ in range(2):
        assert requests(series.window(-1.0)) == 10
        assert requests(series.total()) == 10
        assert requests(series.history(-1.0)) == 10


def test_unread_it_does_not_grow_without_limit_d41() -> None:
    series = Series(history=True)
    for second in range(0, 10_000):
        record(series, float(second))
    assert requests(series.window(0.0)) <= 302
    assert requests(series.total()) == 10_000


def test_totals_hold_every_record_across_slots() -> None:
    series = Series()
    for tenth in range(100):
        record(series, tenth / 10, ERROR if tenth % 4 == 0 else SUCCESS)
    total = series.total()
    assert (count_of(total, SUCCESS), count_of(total, ERROR)) == (75, 25)
    assert total[LATENCY_S] == pytest.approx(1.0)
    assert total[COLD] == 0


def test_hours_are_kept_for_a_week() -> None:
    series = Series(history=True)
    hour = 3600.0
    for half_hour in range(400):
        record(series, half_hour * hour / 2)
    now = 200 * hour
    assert requests(series.history(now - 10 * hour)) == 20
    assert requests(series.history(now - 168 * hour)) == 336
    assert requests(series.history(0.0)) == pytest.approx(336, abs=2)
    assert requests(series.total()) == 400


def test_absorbed_totals_are_in_no_window() -> None:
    series = Series()
    record(series, 1.0)
    series.absorb(row_of(0.1, 0.2))
    assert requests(series.total()) == 3
    assert requests(series.window(0.0)) == 1


def test_names_are_counted_and_bounded_d49() -> None:
    names = NameCounts(max_names=2, rest="/other")
    for now, name in [(0.0, "a"), (1.0, "b"), (2.0, "c"), (700.0, "d"), (701.0, "a")]:
        names.add(now, name)
    assert names.total() == {"a": 2, "b": 1, "/other": 2}
    assert names.since(650.0) == {"a": 1, "/other": 1}
