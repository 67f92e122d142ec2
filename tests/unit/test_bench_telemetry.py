"""The benchmark of what it costs to be seen: both sides differ in that alone."""

from __future__ import annotations

import httpx
import pytest

from bench.plane import run, telemetry
from bench.plane.scenario import QUICK, WHOLE

CPU = run.SCENARIOS["telemetry-cpu"]


def test_one_side_has_log_and_traces_and_the_other_neither() -> None:
    both = telemetry.environment("http://127.0.0.1:1/v1/traces")
    assert both["on"] == {"ATLATL__TELEMETRY__TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}
    assert both["off"] == {"ATLATL__TELEMETRY__LOG_EXECUTIONS": "false"}
    on, off = (dict(CPU.settings[state]) for state in ("on", "off"))
    assert on.pop("pool") == off.pop("pool")


def test_nobody_always_comes_first_and_there_are_20_pairs() -> None:
    orders = [tuple(telemetry.in_turn(number)) for number in range(4)]
    assert orders == [("off", "on"), ("on", "off")] * 2
    assert (CPU.rounds_in(WHOLE), CPU.rounds_in(QUICK)) == (20, 8)


def test_what_is_done_later_counts_and_what_is_done_anyway_does_not() -> None:
    found = telemetry.per_call({"on": 1.3, "off": 1.1}, {"on": 1000, "off": 1000}, idle_s=0.1)
    assert found == {
        "on: CPU us a call": pytest.approx(1200.0),
        "off: CPU us a call": pytest.approx(1000.0),
    }


def test_five_percent_are_the_limit() -> None:
    off = {"off: CPU us a call": [100.0] * 20}
    _, bound = CPU.aims
    assert bound.verdict({"on: CPU us a call": [104.9] * 20, **off}) == "kept"
    assert bound.verdict({"on: CPU us a call": [105.1] * 20, **off}) == "missed"


def test_the_collector_takes_what_it_is_sent() -> None:
    with telemetry.collector() as url:
        assert httpx.post(url, content=b"spans").status_code == 200
