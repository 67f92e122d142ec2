"""A function that computes for 1 ms, beside the same loop in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import Any

from bench.comparison import Aim
from bench.plane import functions, peers
from bench.plane.load import load, pinned
from bench.plane.scenario import ATLATL, Scenario, Size, figures
from bench.results import ROOT
from bench.rounds import Measured, Turns, Wrong

TWO = "two processes"
CONNECTIONS = 8
"""Enough for the next call to be there when an instance is free."""
SECOND_NS = 10**9

CALIBRATION = """
from time import process_time_ns
def cost(rounds):
    began = process_time_ns()
    spin(rounds)
    return process_time_ns() - began
least = min(cost(10_000) for _ in range(50))
rounds = round(10_000 * 1_000_000 / least)
print(rounds, spin(rounds))
"""
LOOP = """
import sys
from time import monotonic_ns
rounds, wanted, warm_ns, loop_ns = map(int, sys.argv[1:])
print("ready", flush=True)
sys.stdin.readline()
count, began = 0, monotonic_ns() + warm_ns
while monotonic_ns() < began:
    spin(rounds)
end = began + loop_ns
while monotonic_ns() < end:
    count += spin(rounds) == wanted
print(count, monotonic_ns() - began)
"""


def cpu_1ms(size: Size) -> Turns:
    rounds, wanted = map(int, _python(CALIBRATION).split())
    return {
        ATLATL: partial(_atlatl, rounds, wanted, size),
        TWO: partial(_two_processes, rounds, wanted, size),
    }


def _atlatl(rounds: int, wanted: int, size: Size) -> Measured:
    content = json.dumps({"rounds": rounds}).encode()
    with peers.atlatl() as service:
        service.deploy("spin", functions.SPIN, functions.WARM)
        target = pinned(
            service.port, "/functions/spin", content, lambda body: json.loads(body) == wanted
        )
        load(target, CONNECTIONS, size.warm_s)
        found = load(target, CONNECTIONS, size.seconds)
    return figures(ATLATL, found)


def _two_processes(rounds: int, wanted: int, size: Size) -> Measured:
    arguments = [rounds, wanted, int(size.warm_s * SECOND_NS), int(size.seconds * SECOND_NS)]
    processes = [_start(LOOP, *arguments) for _ in range(functions.INSTANCES)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    per_s = 0.0
    for process in processes:
        said, _ = process.communicate(timeout=size.warm_s + size.seconds + 60)
        count, ns = map(int, said.split())
        if not count:
            raise Wrong("a bare process did nothing, or something else")
        per_s += count * SECOND_NS / ns
    return {f"{TWO}: calls/s": per_s}


def _python(code: str) -> str:
    process = _start(code)
    said: str = process.communicate(timeout=60)[0]
    return said


def _start(code: str, *arguments: int) -> subprocess.Popen[Any]:
    """The same interpreter, and the same function before this code."""
    return subprocess.Popen(
        [sys.executable, "-c", functions.SPIN + code, *map(str, arguments)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


SCENARIOS = (
    Scenario(
        "cpu-1ms", "a function of 1 ms of CPU on two instances, and two processes without service",
        cpu_1ms,
        [Aim(f"calls/s, to {TWO}", f"{ATLATL}: calls/s", f"{TWO}: calls/s",
             least=0.85, stretch=0.9)],
        {"spin": functions.WARM},
    ),
)  # fmt: skip
