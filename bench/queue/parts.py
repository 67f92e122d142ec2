"""The parts of the queue benchmark: in each round of one, all sides take their turn."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.comparison import Aim
from bench.queue import atlatl, backlog, celery_worker, redis_server
from bench.queue.embedded import run as run_embedded
from bench.rounds import Turns
from bench.work import Ran

ATLATL, DURABLE, FAST = "atlatl", "Celery durable", "Celery fast"
INSIDE = " in process"
THREADS_INSIDE = 4
"""With which one process gets most out of `delay`; more of them wait for each other."""
CONNECTIONS = (1, 8)
"""Of the synchronous callers beside the queue."""

SIDES = {
    ATLATL: "every acceptance and every end on the disk before it counts",
    DURABLE: "Redis with appendfsync always, acks_late",
    FAST: "Redis with appendfsync everysec, acks early: a crash loses executions",
}


def _queue_beside(connections: int) -> str:
    return f"queue beside sync at {connections}: ended/s" if connections else "queue alone: ended/s"


def _rate_aims(peer: str, least: float | None) -> list[Aim]:
    return [
        Aim(
            f"{what}{where}, to {peer}", f"{ATLATL}{where}: {what}", f"{peer}{where}: {what}", least
        )
        for where in ("", INSIDE)
        for what in ("completed/s", "submitted/s")
    ]


AIMS = (
    *_rate_aims(DURABLE, least=5.0),
    *_rate_aims(FAST, least=None),
    Aim("start with a backlog, s", "start with a backlog, s", most=3.0),
    Aim("start, with a backlog to without", "start with a backlog, s", "start, s"),
    *(
        Aim(f"sync {what} at {each}, beside the queue to alone",
            f"sync at {each} beside the queue: {what} ms", f"sync at {each} alone: {what} ms",
            most=2.0 if what == "p99" else None)
        for each in CONNECTIONS
        for what in ("p99", "p50")
    ),
    *(
        Aim(f"queue ended/s beside sync at {each}, to alone", _queue_beside(each), _queue_beside(0))
        for each in CONNECTIONS
    ),
)  # fmt: skip


class Size(NamedTuple):
    """How much is done in a round."""

    executions: int
    waiting: int
    sync_s: float


def clients(size: Size, directory: Path) -> Turns:
    """Submitted from outside, on 16 connections."""
    n = size.executions
    return {
        ATLATL: lambda: _rates(ATLATL, n, _served(n, directory)),
        DURABLE: lambda: _rates(DURABLE, n, _celery(n, durable=True)),
        FAST: lambda: _rates(FAST, n, _celery(n, durable=False)),
    }


def embedded(size: Size, directory: Path) -> Turns:
    """Submitted inside one process: `service.submit`, and `delay`."""
    n, inside = size.executions, {"clients": 1, "threads": THREADS_INSIDE}
    return {
        ATLATL: lambda: _rates(ATLATL + INSIDE, n, run_embedded(n)),
        DURABLE: lambda: _rates(DURABLE + INSIDE, n, _celery(n, durable=True, **inside)),
        FAST: lambda: _rates(FAST + INSIDE, n, _celery(n, durable=False, **inside)),
    }


def start(size: Size, directory: Path) -> Turns:
    """From the exec of the service to its ready line."""
    stores = backlog.Stores(directory, size.waiting)
    return {
        "empty": lambda: {"start, s": backlog.start(stores, 0)},
        "full": lambda: {"start with a backlog, s": backlog.start(stores, size.waiting)},
    }


def sync(size: Size, directory: Path) -> Turns:
    """Synchronous calls of another task while the queue works through a backlog."""
    stores = backlog.Stores(directory, size.waiting)

    def measured(waiting: int, where: str) -> dict[str, float]:
        found = backlog.sync_calls(stores, waiting, CONNECTIONS, size.sync_s)
        times: dict[str, float] = {}
        for connections, calls in found.items():
            name = f"sync at {connections} {where}"
            if connections:
                times[f"{name}: p50 ms"] = calls.p50_ms
                times[f"{name}: p99 ms"] = calls.p99_ms
                times[f"{name}: calls/s"] = calls.calls_per_s
            if waiting:
                times[_queue_beside(connections)] = calls.queue_per_s
        return times

    return {
        "alone": lambda: measured(0, "alone"),
        "beside": lambda: measured(size.waiting, "beside the queue"),
    }


PARTS: dict[str, Callable[[Size, Path], Turns]] = {
    "clients": clients,
    "embedded": embedded,
    "start": start,
    "sync": sync,
}


def _served(n: int, directory: Path) -> Ran:
    with (
        tempfile.TemporaryDirectory(dir=directory) as own,
        atlatl.running(Path(own, "data")) as service,
    ):
        return service.run(n)


def _celery(n: int, *, durable: bool, clients: int = 2, threads: int = 8) -> Ran:
    fsync: redis_server.Fsync = "always" if durable else "everysec"
    with celery_worker.running(
        fsync, acks_late=durable, clients=clients, threads=threads
    ) as celery:
        return celery.run(n)


def _rates(name: str, n: int, ran: Ran) -> dict[str, float]:
    return {f"{name}: {what}/s": rate for what, rate in ran.rates(n).items()}


def fsync_us(directory: Path) -> float:
    """What the disk takes to make 4 KiB durable: all durable figures stand on it."""
    took: list[float] = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return round(median(took) * 1e6, 1)
