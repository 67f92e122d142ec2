"""Calls that find everything warm."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial

from bench import installing
from bench.comparison import Aim
from bench.plane import functions, peers
from bench.plane.load import load, pinned
from bench.plane.peers import Start
from bench.plane.scenario import ATLATL, Scenario, Size, figures
from bench.rounds import Measured, Turns

BARE, FASTAPI, FRAMEWORK, RAY, WORKERD = (
    "bare ASGI", "FastAPI", "functions-framework", "Ray Serve", "workerd",
)  # fmt: skip
PACKAGES = ("fastapi", "functions-framework", "gunicorn", "httptools", "uvicorn", "uvloop")
SETTINGS = {"work": functions.WARM}


def _turn(side: str, start: Start, connections: int, size: Size) -> Measured:
    with start() as target:
        load(target, connections, size.warm_s)
        return figures(side, load(target, connections, size.seconds))


def _sides(sides: Mapping[str, Start], connections: int, size: Size) -> Turns:
    return {side: partial(_turn, side, start, connections, size) for side, start in sides.items()}


def http_32(size: Size) -> Turns:
    sides: dict[str, Start] = {
        ATLATL: peers.atlatl_work,
        BARE: peers.bare_asgi,
        FASTAPI: peers.fastapi,
        FRAMEWORK: peers.functions_framework,
    }
    return _sides(sides, 32, size)


def http_1(size: Size) -> Turns:
    return _sides({ATLATL: peers.atlatl_work, BARE: peers.bare_asgi}, 1, size)


def _beside(peer: str, start: Start) -> Callable[[Size], Turns]:
    """Atlatl and one peer, with 32 connections and with 1."""

    def turn(side: str, start: Start, size: Size) -> Measured:
        found: dict[str, float] = {}
        with start() as target:
            for connections in (32, 1):
                load(target, connections, size.warm_s)
                done = load(target, connections, size.seconds)
                found |= figures(side, done, f" at {connections}")
        return found

    def turns(size: Size) -> Turns:
        sides = {ATLATL: peers.atlatl_work, peer: start}
        return {side: partial(turn, side, start, size) for side, start in sides.items()}

    return turns


def _rate(peer: str, least: float, stretch: float) -> Aim:
    name = f"calls/s, to {peer}"
    return Aim(name, f"{ATLATL}: calls/s", f"{peer}: calls/s", least=least, stretch=stretch)


# --- many tasks ---

ONE, MANY, ONE_OF_MANY = "one task", "every task in turn", "one of many tasks"


def many_tasks(size: Size) -> Turns:
    def turn(side: str, count: int, called: int) -> Measured:
        names = [f"work-{number:04d}" for number in range(count)]
        with peers.atlatl() as service:
            for name in names:
                service.deploy(name, functions.WORK)
            paths = [f"/functions/{name}" for name in names[:called]]
            target = pinned(service.port, paths[0], peers.CONTENT, peers.is_work)
            target = target._replace(paths=paths)
            load(target, 32, size.warm_s)
            return figures(side, load(target, 32, size.seconds))

    return {
        ONE: partial(turn, ONE, 1, 1),
        MANY: partial(turn, MANY, size.tasks, size.tasks),
        ONE_OF_MANY: partial(turn, ONE_OF_MANY, size.tasks, 1),
    }


# --- bodies ---

BODIES = {"1 KiB": 2**10, "64 KiB": 2**16, "1 MiB": 2**20, "16 MiB": 2**24}
BODY_CONNECTIONS = 4
LARGE, LARGE_S = 2**24, 3.0
"""What is so large needs so many seconds for enough of them."""
RAW = "application/octet-stream"


def bodies(size: Size) -> Turns:
    def rates(side: str, port: int, path: str) -> Measured:
        found: dict[str, float] = {}
        for name, length in BODIES.items():
            content = random.Random(length).randbytes(length)
            target = pinned(port, path, content, partial(content.__eq__), RAW)
            if not found:
                load(target, BODY_CONNECTIONS, size.warm_s)
            seconds = size.seconds if length < LARGE else max(size.seconds, LARGE_S)
            done = load(target, BODY_CONNECTIONS, seconds)
            found[f"{side}: MB/s of {name}"] = done.per_s * 2 * length / 1e6
        return found

    def atlatl() -> Measured:
        with peers.atlatl() as service:
            service.deploy("echo", functions.ECHO, functions.WARM)
            return rates(ATLATL, service.port, "/functions/echo")

    def fastapi() -> Measured:
        with peers.fastapi() as target:
            return rates(FASTAPI, target.port, "/echo")

    return {ATLATL: atlatl, FASTAPI: fastapi}


SCENARIOS = (
    Scenario(
        "http-32", "warm HTTP on 32 connections, 100 bytes of JSON in, JSON out", http_32,
        [_rate(BARE, 2.0, 2.5), _rate(FASTAPI, 6, 8), _rate(FRAMEWORK, 20, 25)],
        SETTINGS, PACKAGES,
    ),
    Scenario(
        "http-1", "the same on one connection", http_1,
        [
            Aim(f"p50, to {BARE}", f"{ATLATL}: p50 ms", f"{BARE}: p50 ms", most=2.3, stretch=1.8),
            Aim("p99, to own p50", f"{ATLATL}: p99 ms", f"{ATLATL}: p50 ms", most=5, stretch=4),
        ],
        SETTINGS, PACKAGES,
    ),
    Scenario(
        "many-tasks", "calls of many tasks in turn on 32 connections, and of one", many_tasks,
        [
            Aim(f"calls/s of {many}, to {ONE}", f"{many}: calls/s", f"{ONE}: calls/s",
                least=0.9, stretch=0.97)
            for many in (MANY, ONE_OF_MANY)
        ],
        {"work": {}}, ("httptools", "uvloop"),
    ),
    Scenario(
        "bodies", f"raw bytes there and back on {BODY_CONNECTIONS} connections", bodies,
        [
            Aim(f"MB/s of {name}, to {FASTAPI}", f"{ATLATL}: MB/s of {name}",
                f"{FASTAPI}: MB/s of {name}", least=0.9, stretch=1.5)
            for name in BODIES
        ],
        {"echo": functions.WARM}, PACKAGES,
    ),
    *(
        Scenario(
            name, f"warm HTTP beside {peer} {of}, on 32 connections and on one",
            _beside(peer, start),
            [
                Aim(f"calls/s at 32, to {peer}", f"{ATLATL}: calls/s at 32",
                    f"{peer}: calls/s at 32"),
                Aim(f"p50 at 1, to {peer}", f"{ATLATL}: p50 ms at 1", f"{peer}: p50 ms at 1"),
            ],
            SETTINGS, on_demand=True,
        )
        for name, peer, of, start in (
            ("ray", RAY, installing.RAY, peers.ray_serve),
            ("workerd", WORKERD, installing.WORKERD, peers.workerd),
        )
    ),
)  # fmt: skip
