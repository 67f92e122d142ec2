"""What is needed to be there: memory of an instance and of the service, and what a long time of
full load adds to it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from bench.comparison import Aim
from bench.plane import functions, peers
from bench.plane.load import Load, Target, load, pinned
from bench.plane.processes import descriptors, family, pss_mib
from bench.plane.scenario import ATLATL, Scenario, Size
from bench.rounds import Measured, Turns, Wrong
from bench.service import Service

CALLS_EACH = 20
SETTLED_S = 2.0
"""In which the service does what it had put off: blanks, writes."""
EMPTY_WITHIN_S = 60.0

# --- PSS ---


SLEEP_MS = 5
LOADS = 60


def pss(size: Size) -> Turns:
    return {
        "instances": partial(_instances, size),
        "idle": partial(_service, "idle", 0),
        "deployed": partial(_service, "with many tasks", size.tasks),
    }


def _instances(size: Size) -> Measured:
    """The median of all of them, which have answered some calls each."""
    pool = {"pool": {"min_size": size.instances, "max_size": size.instances}}
    with peers.atlatl() as service:
        # Short calls would all go to the same few instances.
        service.deploy("sleeps", functions.SLEEPS, pool)
        content = json.dumps({"ms": SLEEP_MS}).encode()
        target = pinned(
            service.port, "/functions/sleeps", content, lambda body: json.loads(body) == SLEEP_MS
        )
        for _ in range(LOADS):
            load(target, 32, 1)
            if min(_uses(service)) >= CALLS_EACH:
                break
        else:
            raise Wrong(f"after {LOADS} s of load an instance has answered hardly any call")
        pids = service.instance_pids("sleeps")
        if len(pids) != size.instances:
            raise Wrong(f"{len(pids)} instances instead of {size.instances}")
        return {f"{ATLATL}: MiB of an instance": median(map(pss_mib, pids))}


def _uses(service: Service) -> list[int]:
    return [row["uses"] for row in service.get("/api/v1/instances").json()["instances"]]


def _service(state: str, tasks: int) -> Measured:
    """The service, its zygotes and its blanks, without an instance of any task."""
    with peers.atlatl() as service:
        for number in range(tasks):
            service.deploy(f"work-{number:04d}", functions.WORK, functions.UNUSED)
        _wait_until(lambda: not _uses(service), "instances were still there")
        time.sleep(SETTLED_S)
        return {f"{ATLATL}: MiB of the service {state}": sum(map(pss_mib, family(service.pid)))}


def _wait_until(held: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + EMPTY_WITHIN_S
    while not held():
        if time.monotonic() > end:
            raise Wrong(f"{what} after {EMPTY_WITHIN_S:.0f} s")
        time.sleep(0.1)


# --- soak ---

SAMPLES = 120


def soak(size: Size) -> Turns:
    return {ATLATL: partial(_soak, size)}


def _soak(size: Size) -> Measured:
    seconds = size.soak_minutes * 60
    with peers.atlatl() as service:
        service.deploy("work", functions.WORK, functions.WARM)
        target = pinned(service.port, "/functions/work", peers.CONTENT, peers.is_work)
        load(target, 32, max(size.warm_s, seconds / 20))
        instances = set(service.instance_pids("work"))
        open_before = _settled_descriptors(service)
        found, memory = _load_and_memory(target, service, seconds)
        open_after = _settled_descriptors(service)
        lost = instances ^ set(service.instance_pids("work"))
    if lost:
        raise Wrong(f"{len(lost)} instances came or went under steady load")
    return {
        f"{ATLATL}: calls": found.calls,
        f"{ATLATL}: calls/s": found.per_s,
        f"{ATLATL}: p99 ms": found.percentile_us(99) / 1000,
        f"{ATLATL}: MiB at first": first_tenth(memory),
        f"{ATLATL}: MiB at last": first_tenth(memory[::-1]),
        f"{ATLATL}: descriptors more": open_after - open_before,
    }


def _load_and_memory(target: Target, service: Service, seconds: float) -> tuple[Load, list[float]]:
    """All memory of the service and its instances, sampled while it is under load."""
    samples: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(seconds / SAMPLES):
            samples.append(sum(map(pss_mib, family(service.pid))))

    sampler = threading.Thread(target=sample, name="memory")
    sampler.start()
    try:
        return load(target, 32, seconds), samples
    finally:
        over.set()
        sampler.join()


def first_tenth(samples: Sequence[float]) -> float:
    """Its median: of ten minutes that is the first one."""
    return median(samples[: max(1, len(samples) // 10)])


def _settled_descriptors(service: Service) -> int:
    """Of the service, its zygotes, blanks and instances, with no call under way."""
    time.sleep(SETTLED_S)
    return sum(map(descriptors, family(service.pid)))


SCENARIOS = (
    Scenario(
        "pss", "memory of a further warm instance, and of the service", pss,
        [
            Aim("MiB of an instance", f"{ATLATL}: MiB of an instance", most=3, stretch=2.2),
            Aim("MiB of the service idle", f"{ATLATL}: MiB of the service idle",
                most=64, stretch=55),
            Aim("MiB of the service with many tasks",
                f"{ATLATL}: MiB of the service with many tasks", most=128, stretch=90),
        ],
        {"work": {"pool": {"min_size": "as many as are measured"}}, "many": functions.UNUSED},
    ),
    Scenario(
        "soak", "full load on 32 connections for minutes", soak,
        [
            Aim("MiB at last, to at first", f"{ATLATL}: MiB at last", f"{ATLATL}: MiB at first",
                most=1.02),
            Aim("descriptors more", f"{ATLATL}: descriptors more", most=0),
        ],
        {"work": functions.WARM}, rounds=1,
    ),
)  # fmt: skip
