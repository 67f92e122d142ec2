"""Calls that find no instance: one alone, and a hundred at once."""

from __future__ import annotations

import http.client
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench import installing
from bench.comparison import Aim, percentiles
from bench.lean_http import connected, each_once, request, run_loop
from bench.plane import functions, peers
from bench.plane.load import PATIENCE_S
from bench.plane.scenario import ATLATL, Scenario, Size
from bench.rounds import Measured, Turns, Wrong
from bench.service import Service

FRESH, WITH_NUMPY = "fresh interpreter", " with numpy"
WARM_UP = 5
PAUSE_S = 0.02
"""Between two starts, as between two callers who do not know each other."""
LEAST = 20
"""Starts of which a 99th percentile is taken: in a short run it is the longest of them."""


def cold(size: Size) -> Turns:
    turns: dict[str, Any] = {}
    for with_numpy in (False, True):
        turns |= {
            f"{ATLATL}{WITH_NUMPY * with_numpy}": partial(_atlatl, with_numpy, size),
            f"{FRESH}{WITH_NUMPY * with_numpy}": partial(_fresh, with_numpy, size),
        }
    return turns


def _figures(side: str, took: list[float]) -> Measured:
    p50, p99 = percentiles([each * 1000 for each in took], LEAST)
    return {f"{side}: p50 ms": p50, f"{side}: p99 ms": p99}


def _atlatl(with_numpy: bool, size: Size) -> Measured:
    """Each call has an instance of its own, which is one that has answered nobody before."""
    content: str | bytes = functions.PLAIN
    if with_numpy:
        numpy = f"numpy=={installing.need('numpy')}"
        content = functions.with_requirements(functions.NUMPY, numpy)
    seen: set[int] = set()
    took: list[float] = []
    with peers.atlatl() as service:
        service.deploy("fresh", content, functions.COLD)
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE_S)
        for _ in range(WARM_UP + size.starts):
            took.append(start(connection, "fresh", seen))
        connection.close()
    return _figures(f"{ATLATL}{WITH_NUMPY * with_numpy}", took[WARM_UP:])


def start(connection: http.client.HTTPConnection, task: str, seen: set[int]) -> float:
    """Seconds of a call that has to be the first one of its instance, after a pause.

    Args:
        connection: to the service.
        task: `functions.PLAIN` or its like, with `functions.COLD`.
        seen: process ids that have answered; this one is added.

    Raises:
        Wrong: the answer is not right, or from an instance that has answered before.
    """
    time.sleep(PAUSE_S)
    began = time.perf_counter()
    connection.request("POST", f"/functions/{task}", b"{}")
    answer = connection.getresponse()
    body = answer.read()
    took = time.perf_counter() - began
    _check(answer.status, body, seen)
    return took


def _check(status: int, body: bytes, seen: set[int]) -> None:
    found = json.loads(body)
    if status != 200 or found["value"] != functions.FRESH_VALUE:
        raise Wrong(f"a cold call answered {status} {body[:300]!r}")
    if found["calls"] != 1 or found["pid"] in seen:
        raise Wrong(f"a cold call was answered by an instance that was used before: {found}")
    seen.add(found["pid"])


def _fresh(with_numpy: bool, size: Size) -> Measured:
    """An interpreter that imports the same function, calls it and prints the result."""
    if with_numpy:
        installing.need("numpy")
    call = "import json, main; print(json.dumps(main.main()), flush=True)"
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="atlatl-bench-") as directory:
        source = functions.NUMPY if with_numpy else functions.PLAIN
        Path(directory, "main.py").write_text(source, encoding="utf-8")
        for _ in range(WARM_UP + size.starts):
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-c", call], cwd=directory, stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            line = process.stdout.readline()
            took.append(time.perf_counter() - began)
            process.communicate()
            if json.loads(line)["value"] != functions.FRESH_VALUE:
                raise Wrong(f"a fresh interpreter printed {line!r}")
    return _figures(f"{FRESH}{WITH_NUMPY * with_numpy}", took[WARM_UP:])


def _times_sooner(
    quantile: str, least: float | None, stretch: float | None, where: str = ""
) -> Aim:
    ours, peer = (f"{side}{where}: {quantile} ms" for side in (ATLATL, FRESH))
    return Aim(f"{quantile} of {FRESH}{where}, to ours", peer, ours, least=least, stretch=stretch)


# --- a burst ---

AT_ONCE, SLEEP_MS = 100, 50
SIZE_0_WITHIN_S = 30.0


def burst(size: Size) -> Turns:
    return {ATLATL: partial(_bursts, size)}


def _bursts(size: Size) -> Measured:
    starts: list[float] = []
    bursts: list[float] = []
    with peers.atlatl() as service:
        service.deploy("sleeps", functions.SLEEPS, functions.BURST)
        for _ in range(size.bursts):
            for _ in range(3):
                starts.append(_at_once(service, 1, 0))
            bursts.append(_at_once(service, AT_ONCE, SLEEP_MS))
    return beyond_the_work(median(bursts), median(starts), functions.BURST)


def beyond_the_work(burst_s: float, start_s: float, settings: Mapping[str, Any]) -> Measured:
    """What a burst took, less what the calls themselves take on all instances.

    Example: 100 calls of 50 ms on 16 instances are 7 rounds, 0.35 s: 0.37 s are 20 ms beyond
    it, which are 4 cold starts of 5 ms.
    """
    work_s = math.ceil(AT_ONCE / settings["pool"]["max_size"]) * SLEEP_MS / 1000
    return {
        f"{ATLATL}: burst ms": burst_s * 1000,
        f"{ATLATL}: one cold start ms": start_s * 1000,
        f"{ATLATL}: cold starts beyond the work": (burst_s - work_s) / start_s,
    }


def _at_once(service: Service, calls: int, ms: int) -> float:
    """Seconds from the first request to the last answer, with no instance at the beginning."""
    _wait_for_size_0(service)
    content = request("POST", "/functions/sleeps", json.dumps({"ms": ms}).encode())

    async def ask() -> float:
        async with connected(service.port, calls) as connections:
            began = time.perf_counter()
            answers = await each_once(connections, [content] * calls)
            took = time.perf_counter() - began
        for answer in answers:
            if answer.status != 200 or json.loads(answer.body) != ms:
                raise Wrong(f"a call of a burst answered {answer.status} {answer.body[:300]!r}")
        return took

    return run_loop(ask())


def _wait_for_size_0(service: Service) -> None:
    end = time.monotonic() + SIZE_0_WITHIN_S
    while service.instance_pids("sleeps"):
        if time.monotonic() > end:
            raise Wrong(f"the pool was not empty after {SIZE_0_WITHIN_S:.0f} s without a call")
        time.sleep(0.05)
    time.sleep(PAUSE_S)


SCENARIOS = (
    Scenario(
        "cold", "cold start to the first result, beside a fresh interpreter with the same imports",
        cold,
        [
            _times_sooner("p50", 12, 25),
            _times_sooner("p99", 4, 8),
            _times_sooner("p50", 25, 40, WITH_NUMPY),
            _times_sooner("p99", None, None, WITH_NUMPY),
        ],
        {"fresh": functions.COLD}, ("numpy",),
    ),
    Scenario(
        "burst", f"{AT_ONCE} calls of {SLEEP_MS} ms at once on a function without an instance",
        burst,
        [Aim("cold starts beyond the work", f"{ATLATL}: cold starts beyond the work",
             most=10, stretch=5)],
        {"sleeps": functions.BURST},
    ),
)  # fmt: skip
