"""The arithmetic of the benchmarks, on made-up times."""

from __future__ import annotations

import json

import pytest

from bench.comparison import (
    Spread,
    behind,
    ratio_of,
    ratios,
    report,
    spread_of,
    spreads,
    together_ns,
)

ROUNDS = {"ours": [10.0, 20.0, 30.0], "peer": [20.0, 40.0, 40.0], "more": [5.0, 5.0, 5.0]}
PIECES = {"ours": ("peer",), "more": ("peer",)}


def test_the_spread_is_the_middle_half() -> None:
    assert spread_of([2.0, 90.0, 1.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert spread_of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_disturbed_round_moves_neither_middle_nor_spread() -> None:
    calm = spread_of([10.0, 10.0, 11.0, 11.0, 12.0, 12.0, 12.0])
    assert spread_of([10.0, 10.0, 11.0, 11.0, 12.0, 12.0, 900.0]) == calm


def test_ratios_are_taken_round_by_round() -> None:
    """The machine was twice as slow in the second round: the ratio is what it was."""
    assert ratio_of(ROUNDS, "ours", "peer") == Spread(0.5, 0.5, 0.625)
    slow = {"ours": [10.0, 20.0, 10.0], "peer": [20.0, 40.0, 20.0]}
    assert ratio_of(slow, "ours", "peer") == Spread(0.5, 0.5, 0.5)


def test_rounds_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio_of({"ours": [1.0, 2.0], "peer": [1.0]}, "ours", "peer")


def test_sums_are_taken_round_by_round() -> None:
    assert together_ns(ROUNDS, ("ours", "more")) == Spread(25.0, 20.0, 30.0)


def test_every_pair_has_a_ratio() -> None:
    assert list(ratios(ROUNDS, PIECES)) == ["ours / peer", "more / peer"]


WAS = {"ours / peer": Spread(0.50, 0.48, 0.53)}


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (Spread(0.50, 0.48, 0.53), True),
        (Spread(0.10, 0.09, 0.11), True),
        (Spread(0.54, 0.52, 0.56), True),
        (Spread(0.56, 0.54, 0.58), False),
        (Spread(0.56, 0.50, 0.61), True),
        (Spread(0.62, 0.61, 0.63), False),
    ],
    ids=["same", "better", "within-its-spread", "behind", "too-wide-to-say", "far-behind"],
)
def test_behind_is_worse_by_more_than_the_spread(now: Spread, kept: bool) -> None:
    faults = behind(WAS, {"ours / peer": now})
    assert (faults == []) is kept, faults
    if not kept:
        assert f"ours / peer is {now.median:.3f}, it was 0.500" in faults[0]


def test_what_only_one_side_has_is_a_fault() -> None:
    now = {"other / peer": Spread(1.0, 1.0, 1.0)}
    assert behind(WAS, now) == [
        "other / peer is not in the baseline: store it again",
        "ours / peer is no longer measured",
    ]


def test_spreads_survive_json() -> None:
    assert spreads(json.loads(json.dumps({name: list(one) for name, one in WAS.items()}))) == WAS


def test_the_table_is_made_from_the_raw_rounds_d103() -> None:
    """Whatever a result says of its medians: the table says what its rounds say."""
    result = {"rounds": ROUNDS, "together_ns": 1, "ratios": {"ours / peer": [9, 9, 9]}}
    text = report(result, PIECES, ("ours", "more"), aim_ns=24.0)
    lines = [line.split() for line in text.splitlines()]
    assert ["ours", "20", "15", "25"] in lines
    assert ["ours", "/", "peer", "0.50", "0.50", "0.62"] in lines
    assert "together: 25 ns (20 to 30), the aim of 24 ns is missed" in text
    assert "aim of 25 ns is kept" in report(result, PIECES, ("ours", "more"), aim_ns=25.0)
