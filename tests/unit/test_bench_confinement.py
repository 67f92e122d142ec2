"""What the benchmark of confinement makes of its times, without a service."""

from __future__ import annotations

import os
import random
import time
from typing import cast

import pytest

from bench import report
from bench.comparison import Aim, upper_bound
from bench.plane import confinement, functions, run
from bench.plane.load import Target
from bench.plane.processes import cpu_s
from bench.plane.scenario import QUICK, SMOKE, WHOLE
from bench.rounds import Wrong
from bench.service import Service

COLD, CPU = run.SCENARIOS["confinement-cold"], run.SCENARIOS["confinement-cpu"]


def test_both_levels_have_all_other_settings_alike() -> None:
    for scenario in (COLD, CPU):
        standard, none = (dict(scenario.settings[level]) for level in ("standard", "none"))
        assert standard.pop("confinement") == {"level": "standard"}
        assert none.pop("confinement") == {"level": "none"}
        assert standard == none
    assert "confinement" not in functions.COLD


def test_nobody_always_comes_first() -> None:
    orders = [tuple(confinement.in_turn(number)) for number in range(4)]
    assert orders == [("none", "standard"), ("standard", "none")] * 2


def test_what_a_confined_start_takes_more_is_between_medians() -> None:
    took = {"standard": [0.003, 0.0031, 0.9], "none": [0.002, 0.0021, 0.0022]}
    assert confinement.more_ms(took) == {
        "standard: p50 ms": pytest.approx(3.1), "none: p50 ms": pytest.approx(2.1),
        "standard: p50 ms more": pytest.approx(1.0),
    }  # fmt: skip


@pytest.mark.parametrize(("more", "verdict"), [(0.9, "kept"), (1.0, "kept"), (1.1, "missed")])
def test_a_start_may_take_a_millisecond_more(more: float, verdict: str) -> None:
    (aim,) = COLD.aims
    assert aim.verdict({"standard: p50 ms more": [more] * 5}) == verdict


def test_cpu_time_is_by_call() -> None:
    assert confinement.per_call_us(0.5, 2000) == 250.0
    with pytest.raises(Wrong, match="99 calls are too few"):
        confinement.per_call_us(0.5, 99)


def test_cpu_time_of_a_process_is_that_of_its_clock() -> None:
    before = cpu_s(os.getpid())
    began = time.process_time()
    while time.process_time() < began + 0.02:
        pass
    assert 0.02 <= cpu_s(os.getpid()) - before < 10
    with pytest.raises(OSError, match="Invalid argument"):
        cpu_s(2**22 + 1)


def test_a_process_that_ends_while_it_is_measured_is_named() -> None:
    class Ended:
        pid = 2**22 + 1

        def instance_pids(self, _: str) -> list[int]:
            return [os.getpid()]

    service, target = cast(Service, Ended()), cast(Target, None)
    with pytest.raises(Wrong, match=rf"\[{2**22 + 1}, {os.getpid()}\] .* of work\) ended"):
        confinement.cpu_us(service, "work", target, 0.1)


def test_there_are_20_pairs_and_fewer_in_a_short_run() -> None:
    assert [CPU.rounds_in(size) for size in (WHOLE, QUICK, SMOKE)] == [20, 8, 4]
    assert [COLD.rounds_in(size) for size in (WHOLE, QUICK)] == [WHOLE.rounds, QUICK.rounds]
    assert [run.SCENARIOS["soak"].rounds_in(size) for size in (WHOLE, SMOKE)] == [1, 1]


# --- the bound ---


def test_the_bound_of_20_is_the_15th() -> None:
    assert upper_bound([float(number) for number in range(20, 0, -1)]) == 15.0
    assert upper_bound([1.0, 2.0, 3.0, 4.0, 5.0]) == 5.0
    assert upper_bound([1.0, 3.0, 2.0]) == 3.0


def test_a_few_disturbed_pairs_do_not_move_the_bound() -> None:
    calm = [1.0 + number / 1000 for number in range(20)]
    assert upper_bound([*calm[:16], 9.0, 9.0, 9.0, 9.0]) == upper_bound(calm)


def test_the_bound_lies_above_the_true_median_as_often_as_it_says() -> None:
    chance = random.Random(7)
    above = sum(
        upper_bound([chance.lognormvariate(0, 1) for _ in range(20)]) >= 1 for _ in range(2000)
    )
    assert above / 2000 > 0.95


@pytest.mark.parametrize(
    ("slow_pairs", "verdict"), [(0, "kept"), (5, "kept"), (6, "missed"), (20, "missed")]
)
def test_the_verdict_is_by_the_bound(slow_pairs: int, verdict: str) -> None:
    ours = [110.0] * slow_pairs + [102.0] * (20 - slow_pairs)
    rounds = {"standard: CPU us a call": ours, "none: CPU us a call": [100.0] * 20}
    median, bound = CPU.aims
    assert median.verdict(rounds) == ""
    assert bound.verdict(rounds) == verdict
    assert bound.spread(rounds).median == (1.10 if slow_pairs > 5 else 1.02)


def test_the_documents_show_the_bound_in_its_own_row() -> None:
    rounds = {"standard: CPU us a call": [1.04] * 15 + [1.2] * 5, "none: CPU us a call": [1.0] * 20}
    rows = report.aim_rows(rounds, CPU.aims)
    assert [(row[0], row[1], row[3], row[4]) for row in rows] == [
        ("CPU time a call, to without", "1.04", "", ""),
        ("its upper 95 % bound", "1.04", "≤ 1.05", "kept"),
    ]


def test_an_aim_without_a_peer_may_have_a_bound_too() -> None:
    values = {"atlatl: ms": [1.0] * 10 + [2.0] * 10}
    assert Aim("a", "atlatl: ms", upper=True).spread(values).median == 2.0
