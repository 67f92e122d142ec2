"""What one call costs inside the service, piece by piece, beside others in the same run.

usage: python -m bench pieces [--quick] [--check | --store-baseline]

Each round is a fresh process that times every operation in an order of its own, several times,
and takes the least: what was not disturbed. Rounds in which others kept the machine busy are
done again, within a bound. Results go to bench/results/; the table is made from their raw data.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from time import monotonic, perf_counter_ns
from typing import Any

from bench import comparison, machine, results
from bench.pieces import operations
from bench.pieces.ours import TOGETHER, Operation
from bench.results import ROOT, say

AIM_NS = 3000.0
PATIENCE_S = 120.0
"""Spent on rounds that are done again, and on waiting for quiet between them."""
PEERS = ("prometheus-client", "purgatory", "pybreaker")


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    if options.one_round:
        asyncio.run(operations.with_operations(lambda all_: _round(all_, *options.one_round)))
        return 0
    result = measure(5, 5, 0.0) if options.quick else measure(15, 20, PATIENCE_S)
    if not options.quick:
        results.store(result)
    print(comparison.report(result, operations.PIECES, TOGETHER, AIM_NS))
    if options.store_baseline:
        return _store_baseline(result)
    return check(result) if options.check else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="5 short rounds; stored nowhere")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="fail when behind the baseline")
    what.add_argument("--store-baseline", action="store_true", help="make this the baseline")
    parser.add_argument("--one-round", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick and options.store_baseline:
        parser.error("a quick run is no baseline")
    return options


# --- measuring ---


def measure(rounds: int, loop_ms: int, patience_s: float) -> dict[str, Any]:
    """Times everything and gives the result with all that it depends on."""
    quiet = machine.wait_for_quiet(say, patience_s)
    if not quiet:
        say("it did not become quiet: take these times with care")
    load_before = os.getloadavg()[0]
    times, busy, repeated = _rounds(rounds, loop_ms, patience_s)
    found = comparison.ratios(times, operations.PIECES)
    return {
        **results.heading("pieces", PEERS),
        "load": {
            "quiet_before": quiet,
            "load_average_before": round(load_before, 2),
            "others_cores_most": round(max(busy), 2),
            "rounds_repeated": repeated,
        },
        "unit": "ns per operation",
        "together_ns": round(comparison.together_ns(times, TOGETHER).median, 1),
        "ratios": {name: [round(number, 4) for number in spread] for name, spread in found.items()},
        "rounds": times,
    }


def _rounds(
    wanted: int, loop_ms: int, patience_s: float
) -> tuple[dict[str, list[float]], list[float], int]:
    """The times by operation, cores that others used in each round, and how many were repeated."""
    end = monotonic() + patience_s
    times: dict[str, list[float]] = {}
    busy: list[float] = []
    repeated = 0
    while len(busy) < wanted:
        others = machine.Others()
        found = _one_round(len(busy), loop_ms)
        cores = others.cores()
        if cores > machine.QUIET_CORES and monotonic() < end:
            repeated += 1
            machine.wait_for_quiet(say, bound_s=end - monotonic())
            continue
        busy.append(cores)
        for name, ns in found.items():
            times.setdefault(name, []).append(round(ns, 2))
        say(f"round {len(busy)} of {wanted}")
    return times, busy, repeated


def _one_round(seed: int, loop_ms: int) -> dict[str, float]:
    """In a process of its own: where objects lie in memory differs from one to the next."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.pieces.run", "--one-round", str(seed), str(loop_ms)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    times: dict[str, float] = json.loads(done.stdout)
    return times


def _round(timed: list[Operation], seed: int, loop_ms: int) -> None:
    """Prints nanoseconds per operation by name."""
    times: dict[str, list[float]] = {each.name: [] for each in timed}
    loops = {each.name: _loops(each, loop_ms) for each in timed}
    dice = random.Random(seed)
    gc.disable()
    for _ in range(3):
        dice.shuffle(timed)
        for each in timed:
            times[each.name].append(_time(each, loops[each.name]))
            gc.collect()
    print(json.dumps({name: min(all_) for name, all_ in times.items()}))


def _loops(operation: Operation, loop_ms: int) -> int:
    """How many operations fill `loop_ms`; trying it out warms the operation up too."""
    n = 1000
    while (ns := _time(operation, n)) * n < loop_ms * 1e6 / 4:
        n *= 2
    return max(1000, int(loop_ms * 1e6 / ns))


def _time(operation: Operation, n: int) -> float:
    """Nanoseconds per operation, loop included; raises Wrong when one did not do its work."""
    began = perf_counter_ns()
    operation.run(n)
    ended = perf_counter_ns()
    operation.check(n)
    return (ended - began) / n


# --- storing, comparing ---


def _store_baseline(result: dict[str, Any]) -> int:
    cores = result["load"]["others_cores_most"]
    if cores > machine.QUIET_CORES:
        say(f"no baseline was stored: others kept up to {cores} cores busy; try again later")
        return 1
    # What `atlatl check` shows of a baseline stands at its top, and the other ratios stay.
    scenarios = results.baseline().get("scenarios", {})
    results.store_baseline({**result, "scenarios": scenarios})
    return 0


def check(result: dict[str, Any]) -> int:
    baseline = results.baseline()
    if not baseline:
        say("there is no baseline: store one with `python -m bench pieces --store-baseline`")
        return 1
    if baseline["machine"] != result["machine"]:
        say("the baseline is of another machine or Python: the ratios may differ for that alone")
    then, now = (comparison.spreads(each["ratios"]) for each in (baseline, result))
    faults = comparison.behind(then, now)
    for fault in faults:
        print(f"behind the baseline: {fault}")
    print(f"{len(now)} ratios compared with the baseline of {baseline['at']}, {len(faults)} behind")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
