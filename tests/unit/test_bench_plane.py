"""The benchmarks of the data plane without their servers: rounds, checks, aims, plots, tables."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import plots, report, results
from bench.__main__ import NAMES, default_names
from bench.comparison import Aim, Spread
from bench.installing import requirements
from bench.plane import functions, run
from bench.plane.cold import beyond_the_work
from bench.plane.load import Load, parse, percentile
from bench.plane.memory import first_tenth
from bench.plane.processes import parsed_pss_mib
from bench.plane.scenario import figures
from bench.rounds import Measured, Missing, Wrong, interleaved

# --- rounds ---


def test_each_round_goes_the_other_way_round() -> None:
    order: list[str] = []

    def turn(side: str) -> Callable[[], Measured]:
        def take() -> Measured:
            order.append(side)
            return {f"{side}: calls/s": float(len(order))}

        return take

    found, skipped = interleaved({"a": turn("a"), "b": turn("b")}, 3, "test")
    assert "".join(order) == "abbaab"
    assert found == {"a: calls/s": [1, 4, 5], "b: calls/s": [2, 3, 6]}
    assert skipped == {}


def test_a_missing_peer_is_skipped_by_name_and_asked_once() -> None:
    asked = 0

    def missing() -> Measured:
        nonlocal asked
        asked += 1
        raise Missing("install it")

    found, skipped = interleaved({"ours": lambda: {"ours: ms": 1.0}, "peer": missing}, 3, "test")
    assert (found, skipped, asked) == ({"ours: ms": [1.0] * 3}, {"peer": "install it"}, 1)


def test_wrong_work_has_no_figures_d103() -> None:
    def wrong() -> Measured:
        raise Wrong("a call was lost")

    with pytest.raises(Wrong, match="a call was lost"):
        interleaved({"ours": lambda: {"ours: ms": 1.0}, "peer": wrong}, 1, "test")


# --- load ---


def said(**changed: Any) -> str:
    whole = {
        "answered": 3, "wrong": 0, "broken": 0, "seconds": 2.0, "example": "",
        "times": [[10, 2], [30, 1]],
    }  # fmt: skip
    return "Running 2s test\n" + json.dumps({**whole, **changed}) + "\n"


def test_a_load_is_read_from_the_last_line() -> None:
    found = parse(said())
    assert (found.calls, found.per_s, found.percentile_us(50)) == (3, 1.5, 10)


@pytest.mark.parametrize(
    "changed",
    [{"wrong": 1, "example": "500 oops"}, {"broken": 1}, {"answered": 0}],
    ids=["wrong", "broken", "none"],
)
def test_one_wrong_answer_spoils_a_load_d103(changed: dict[str, Any]) -> None:
    with pytest.raises(Wrong, match=re.escape(str(changed.get("example", "for example: -")))):
        parse(said(**changed))


@pytest.mark.parametrize(
    ("percent", "wanted"), [(50, 10), (98, 10), (98.5, 20), (99, 20), (99.5, 900), (100, 900)]
)
def test_percentiles_of_counted_times(percent: float, wanted: int) -> None:
    assert percentile([(900, 1), (10, 98), (20, 1)], percent) == wanted


def test_no_call_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no call"):
        percentile([], 50)


# --- aims and baseline ---


def test_every_aim_is_of_one_quantity_for_each_side() -> None:
    for scenario in run.SCENARIOS.values():
        assert len({aim.name for aim in scenario.aims}) == len(scenario.aims)
        for aim in scenario.aims:
            for name in (aim.ours, aim.peer or aim.ours):
                assert re.fullmatch(r"[^:]+: [^:]+", name), name


def test_a_quick_run_leaves_out_what_takes_long_and_what_is_heavy() -> None:
    whole = default_names(quick=False, check=False, baseline={})
    quick = default_names(quick=True, check=False, baseline={})
    assert set(NAMES) - set(whole) == {"ray", "workerd"}
    assert {"soak", "queue"} <= set(whole) - set(quick)
    assert "http-32" in quick


def test_a_check_runs_what_the_baseline_has() -> None:
    baseline: results.Result = {"scenarios": {"cold": {}, "http-32": {}}}
    assert default_names(quick=False, check=True, baseline=baseline) == [
        "pieces", "http-32", "cold",
    ]  # fmt: skip
    assert default_names(quick=False, check=True, baseline={}) == ["pieces"]


def result(rate: float, name: str = "http-32") -> results.Result:
    return {
        "benchmark": name, "about": "warm HTTP", "at": "then", "commit": "abc", "version": "1",
        "machine": {"cores": 2, "cpu": "x", "system": "Linux", "kernel": "6", "python": "3"},
        "packages": {"uvicorn": "0.1"}, "generator": "wrk 4", "size": {"rounds": 3},
        "load": {"others_cores": 0.1, "took_s": 9}, "skipped": {"FastAPI": "not installed"},
        "rounds": {"atlatl: calls/s": [rate, rate + 1, rate + 2],
                   "bare ASGI: calls/s": [10.0, 10.0, 10.0]},
    }  # fmt: skip


def test_the_baseline_keeps_what_others_stored() -> None:
    pieces = {"ratios": {"x / y": [1, 1, 1]}, "together_ns": 3.0}
    kept = run.into_baseline(run.into_baseline(pieces, result(20, "http-32")), result(20))
    assert kept["ratios"] == pieces["ratios"]
    stored = kept["scenarios"]["http-32"]["ratios"]
    assert stored == {"http-32: calls/s, to bare ASGI": [2.1, 2.05, 2.15]}


@pytest.mark.parametrize(("rate", "faults"), [(20, 0), (30, 0), (19.5, 0), (15, 1)])
def test_fewer_calls_than_in_the_baseline_are_behind(rate: float, faults: int) -> None:
    baseline = run.into_baseline({}, result(20))
    assert len(run.behind(baseline, result(rate))) == faults


def test_what_has_no_baseline_is_a_fault() -> None:
    assert run.behind({}, result(20)) == ["http-32 is not in the baseline: store it"]


def test_the_report_is_made_from_the_raw_rounds_d103() -> None:
    text = run.report({**result(20), "ratios": {"calls/s, to bare ASGI": 99}})
    assert "skipped: FastAPI: not installed" in text
    (row,) = [line for line in text.splitlines() if line.startswith("calls/s, to bare ASGI")]
    assert row.split()[4:7] == ["2.10", "2.05", "2.15"]
    assert row.endswith("kept")


def test_the_newest_result_of_each_benchmark_counts(tmp_path: Path) -> None:
    for number, at in enumerate(["2026-01-01", "2026-03-01", "2026-02-01"]):
        (tmp_path / f"{number}.json").write_text(json.dumps({"benchmark": "a", "at": at}))
    (tmp_path / "b.json").write_text(json.dumps({"benchmark": "b", "at": "2020-01-01"}))
    found = results.newest(tmp_path)
    assert {name: each["at"] for name, each in found.items()} == {
        "a": "2026-03-01", "b": "2020-01-01",
    }  # fmt: skip


# --- arithmetic ---


def test_figures_of_a_load() -> None:
    load = Load(4, 2.0, [(1000, 3), (5000, 1)])
    assert figures("ours", load, " at 1") == {
        "ours: calls/s at 1": 2.0, "ours: p50 ms at 1": 1.0, "ours: p99 ms at 1": 5.0,
    }  # fmt: skip


def test_a_burst_is_counted_beyond_the_work() -> None:
    found = beyond_the_work(0.370, 0.005, {"pool": {"max_size": 16}})
    assert found["atlatl: cold starts beyond the work"] == pytest.approx(4.0)


def test_pss_is_read_from_the_rollup() -> None:
    rollup = "55d-7ff ---p 00000000 00:00 0 [rollup]\nRss: 9000 kB\nPss: 2048 kB\nPss_Anon: 1 kB\n"
    assert parsed_pss_mib(rollup) == 2.0
    with pytest.raises(ValueError, match="no Pss"):
        parsed_pss_mib("Rss: 1 kB")


def test_the_first_tenth_of_few_samples_is_the_first() -> None:
    assert first_tenth([3.0, 9.0, 9.0]) == 3.0
    assert first_tenth([1.0, 2.0] + [9.0] * 18) == 1.5


def test_requirements_are_read_without_comments() -> None:
    assert requirements("# peers\n\nfastapi==1.0  # why\n celery[redis]==2 \n") == [
        "fastapi==1.0", "celery[redis]==2",
    ]  # fmt: skip


# --- the functions that are deployed ---


def called(source: str, *arguments: Any) -> Any:
    names: dict[str, Any] = {}
    exec(compile(source, "main.py", "exec"), names)
    return names["main"](*arguments)


def test_the_functions_do_their_work() -> None:
    assert called(functions.WORK, 1, "x") == {"number": 2, "text": "x"}
    assert called(functions.SPIN, 3) == called(functions.SPIN, 3) != called(functions.SPIN, 4)
    assert called(functions.SLEEPS, 0) == 0
    found = called(functions.PLAIN)
    assert (found["calls"], found["value"]) == (1, functions.FRESH_VALUE)
    compile(functions.NUMPY, "main.py", "exec")


def test_requirements_lie_beside_the_function() -> None:
    content = functions.with_requirements("code", "numpy==1", "x")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("requirements.txt") == b"numpy==1\nx\n"
        assert archive.read("main.py") == b"code"


# --- plots and pages ---


def test_a_panel_has_all_sides_of_a_quantity() -> None:
    rounds = {"a: calls/s": [1.0], "a: p50 ms": [2.0], "b: calls/s": [3.0]}
    assert {what: list(sides) for what, sides in plots.panels(rounds).items()} == {
        "calls/s": ["a", "b"], "p50 ms": ["a"],
    }  # fmt: skip


def test_a_plot_is_an_svg_with_a_bar_for_each_side() -> None:
    one, two = Spread(10, 8, 12), Spread(0, 0, 0)
    drawn = ET.fromstring(plots.svg("a <b>", {"calls/s": {"atlatl": one, "x & y": two}}))
    bars = drawn.findall("{*}rect")[1:]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths == [pytest.approx(210.0, abs=0.1), 0.0]
    words = [each.text for each in drawn.findall("{*}text")]
    assert words == ["a <b>", "calls/s", "atlatl", "10.0", "x & y", "0"]


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.03, 0.05), (1, 1), (12, 20), (21, 50), (51, 100), (999, 1000)]
)
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    assert plots.nice_ceiling(value) == pytest.approx(top)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (0.5, "0.500"),
        (2.104, "2.10"),
        (10, "10.0"),
        (1234.4, "1,234"),
    ],
)
def test_short_numbers_have_three_figures(value: float, text: str) -> None:
    assert plots.short(value) == text


def test_results_are_written_between_their_marks() -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    written = report.between(page, "new")
    assert written == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    assert report.between(written, "new") == written
    with pytest.raises(ValueError, match="missing"):
        report.between("nothing", "new")


def test_the_page_has_a_row_for_each_aim_that_was_measured() -> None:
    stored = {"http-32": result(20)}
    row = "| http-32 | calls/s, to bare ASGI | 2.10 | 2.05 to 2.15 | ≥ 2 (2.5) | kept |"
    assert row in report.summary(stored).splitlines()
    assert row in report.page(stored).splitlines()
    assert "Skipped: FastAPI: not installed." in report.page(stored)
    assert "calls/s, to bare ASGI **2.10** (≥ 2 (2.5)) |" in report.brief(stored)
    assert "no stored result" in report.page({})


def test_an_aim_without_a_bound_has_no_verdict() -> None:
    rows = report.aim_rows(result(20)["rounds"], [Aim("a", "atlatl: calls/s")])
    assert rows == [("a", "21.0", "20.5 to 21.5", "", "")]
