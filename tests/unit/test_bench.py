"""The pure parts of the benchmarks: arithmetic on made-up times, checks of made-up answers."""

from __future__ import annotations

import asyncio
import json

import pytest

from bench.comparison import (
    Aim,
    Spread,
    behind,
    medians,
    percentiles,
    ratio_of,
    ratios,
    report,
    spread_of,
    spreads,
    together_ns,
    verdicts,
)
from bench.lean_http import Answer, BadAnswer, read, request
from bench.pieces.ours import TOGETHER, our_operations
from bench.rounds import Wrong
from bench.work import Ran, answer, arguments, body, check, ended_well, shares

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


@pytest.mark.parametrize(("median", "kept"), [(0.60, True), (0.46, True), (0.44, False)])
def test_of_what_should_be_high_less_is_worse(median: float, kept: bool) -> None:
    now = {"ours / peer": Spread(median, median, median)}
    faults = behind(WAS, now, higher={"ours / peer"})
    assert (faults == []) is kept, faults


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


# --- aims ---


def _cells(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()[1:]]


@pytest.mark.parametrize(
    ("aim", "words"),
    [
        (Aim("a", "ours", "peer", least=0.5), ["0.50", "0.50", "0.62", ">=", "0.5", "kept"]),
        (Aim("a", "ours", "peer", least=0.6), ["0.50", "0.50", "0.62", ">=", "0.6", "missed"]),
        (Aim("a", "ours", "peer", most=0.4), ["0.50", "0.50", "0.62", "<=", "0.4", "missed"]),
        (Aim("a", "ours", most=20), ["20.00", "15.00", "25.00", "<=", "20", "kept"]),
        (Aim("a", "ours", "peer"), ["0.50", "0.50", "0.62"]),
    ],
    ids=["kept", "missed", "too-much", "no-peer", "no-aim"],
)
def test_an_aim_is_kept_or_missed_by_the_raw_rounds_d103(aim: Aim, words: list[str]) -> None:
    assert _cells(verdicts(ROUNDS, [aim])) == [["a", *words]]


@pytest.mark.parametrize(
    ("aim", "verdict"),
    [
        (Aim("a", "ours", "peer", least=0.4, stretch=0.5), "stretch"),
        (Aim("a", "ours", "peer", least=0.4, stretch=0.6), "kept"),
        (Aim("a", "ours", "peer", most=0.6, stretch=0.5), "stretch"),
        (Aim("a", "ours", "peer", most=0.6, stretch=0.4), "kept"),
        (Aim("a", "ours", "peer", most=0.4, stretch=0.6), "missed"),
    ],
)
def test_a_stretch_lies_beyond_the_aim(aim: Aim, verdict: str) -> None:
    assert aim.verdict(ROUNDS) == verdict
    assert aim.bound().endswith(f"({aim.stretch:g})")


def test_an_aim_whose_sides_were_not_measured_is_left_out() -> None:
    assert _cells(verdicts(ROUNDS, [Aim("a", "ours", "nobody", least=1)])) == []


def test_the_table_of_medians_has_everything_that_was_measured() -> None:
    assert _cells(medians(ROUNDS))[:2] == [
        ["ours", "20.00", "15.00", "25.00"],
        ["peer", "40.00", "30.00", "40.00"],
    ]


def test_percentiles_need_enough_values() -> None:
    assert percentiles([float(n) for n in range(201)]) == (100.0, 198.0)
    with pytest.raises(ValueError, match="199 values are too few"):
        percentiles([1.0] * 199)


# --- the work of the queue benchmark ---


@pytest.mark.parametrize("number", [0, 9, 10, 99_999])
def test_every_body_is_100_bytes_and_has_its_number(number: int) -> None:
    assert len(body(number)) == 100
    assert json.loads(body(number)) == arguments(number)
    assert answer(**arguments(number))["number"] == number + 1


def test_answers_are_counted_when_each_is_that_of_its_number() -> None:
    assert check((number, answer(**arguments(number))) for number in range(3)) == 3


@pytest.mark.parametrize("found", [None, {}, answer(**arguments(2))], ids=["none", "empty", "next"])
def test_the_answer_of_another_execution_is_no_answer_d103(found: object) -> None:
    with pytest.raises(Wrong, match="execution 1 answered"):
        check([(0, answer(**arguments(0))), (1, found)])


def test_shares_are_all_numbers_once() -> None:
    assert shares(10, 3) == [range(3), range(3, 6), range(6, 10)]
    assert [each for part in shares(5, 8) for each in part] == list(range(5))


def test_rates_are_executions_a_second() -> None:
    assert Ran(2.0, 5.0).rates(1000) == {"submitted": 500.0, "completed": 200.0}


def test_ended_executions_are_read_from_the_metrics() -> None:
    metrics = (
        "# TYPE faas_invocations_total counter\n"
        'faas_invocations_total{faas_name="other"} 7\n'
        'faas_invocations_total{faas_name="work"} 1234\n'
    )
    assert ended_well(metrics, "work") == 1234
    assert ended_well(metrics, "wor") == 0


# --- its client ---


def test_a_request_has_the_length_of_its_body() -> None:
    content = request("POST", "/functions/work", b"{}", [("Prefer", "respond-async")])
    head, _, sent = content.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /functions/work HTTP/1.1\r\n")
    assert {b"Content-Length: 2", b"Prefer: respond-async"} <= set(head.split(b"\r\n"))
    assert sent == b"{}"
    assert b"Content-Length" not in request("GET", "/")


WHOLE = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nAtlatl-Execution-Id: a-1\r\n\r\n{}"


def test_an_answer_is_read_once_it_is_whole() -> None:
    assert [read(WHOLE[:end]) for end in range(len(WHOLE))] == [None] * len(WHOLE)
    found = read(WHOLE)
    assert isinstance(found, Answer)
    assert (found.status, found.body, found.header("atlatl-execution-id")) == (202, b"{}", "a-1")
    assert found.header("location") == ""


def test_an_answer_without_a_length_is_refused() -> None:
    with pytest.raises(BadAnswer, match="without a length"):
        read(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")


def test_the_services_own_pieces_do_what_is_timed() -> None:
    """Peers are not installed here; what is timed of ours must not fall behind the code."""

    async def run() -> list[str]:
        async with our_operations() as operations:
            for operation in operations:
                for _ in range(2):
                    operation.run(60)
                    operation.check(60)
            return [operation.name for operation in operations]

    assert set(TOGETHER) <= set(asyncio.run(run()))
