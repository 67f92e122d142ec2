"""Unary gRPC calls, and what they leave of the machine for HTTP."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench import installing
from bench.comparison import Aim
from bench.plane import functions, peers
from bench.plane.load import START_S, Load, load, parse, pinned
from bench.plane.scenario import ATLATL, Scenario, Size, figures
from bench.results import ROOT
from bench.rounds import Measured, Turns, Wrong

IN_FLIGHT = 32
PEERS = ("uvloop", "asyncio")
ALONE, BESIDE = "HTTP alone", "HTTP beside gRPC"


def grpc_32(size: Size) -> Turns:
    installing.need("hpack")
    return {
        ATLATL: partial(_atlatl, size),
        **{_bare(loop): partial(_peer, loop, size) for loop in PEERS},
    }


def _bare(loop: str) -> str:
    return f"grpc.aio on {loop}"


def _atlatl(size: Size) -> Measured:
    with peers.atlatl() as service:
        service.deploy("work", functions.WORK, functions.WARM)
        return _figures(ATLATL, service.grpc_port, service.task_id("work"), size)


def _peer(loop: str, size: Size) -> Measured:
    port = peers.free_port()
    command = [sys.executable, "-m", "bench.plane.apps.bare_grpc", str(port), loop]
    with peers.running(command):
        end = time.monotonic() + START_S
        while not _serves(port):
            if time.monotonic() > end:
                raise Wrong(f"{_bare(loop)} does not answer")
        return _figures(_bare(loop), port, "0" * 36, size)


def _serves(port: int) -> bool:
    try:
        return _calls(port, "0" * 36, 0).calls > 0
    except Wrong:
        return False


def _figures(side: str, port: int, task_id: str, size: Size) -> Measured:
    _calls(port, task_id, size.warm_s)
    found = _calls(port, task_id, size.seconds)
    return figures(side, found)


def _calls(port: int, task_id: str, seconds: float) -> Load:
    """Raises Wrong: an answer was not what it should be."""
    process = _start(port, task_id, seconds)
    return _ended(process, seconds)


def _start(port: int, task_id: str, seconds: float) -> subprocess.Popen[Any]:
    command = [
        sys.executable, "-m", "bench.plane.grpc_calls", str(port), task_id, str(IN_FLIGHT),
        str(seconds),
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _ended(process: subprocess.Popen[Any], seconds: float) -> Load:
    said, errors = process.communicate(timeout=seconds + 120)
    if process.returncode:
        raise Wrong(f"gRPC calls failed: {errors[-500:]}")
    return parse(said)


# --- HTTP beside it ---


def http_beside_grpc(size: Size) -> Turns:
    installing.need("hpack")
    return {ALONE: partial(_http, ALONE, size), BESIDE: partial(_http, BESIDE, size)}


def _http(side: str, size: Size) -> Measured:
    """Calls of another task than those over gRPC, on one connection."""
    with peers.atlatl() as service:
        service.deploy("work", functions.WORK, functions.WARM)
        service.deploy("other", functions.WORK, functions.WARM)
        target = pinned(service.port, "/functions/work", peers.CONTENT, peers.is_work)
        load(target, 1, size.warm_s)
        if side == ALONE:
            return figures(side, load(target, 1, size.seconds))
        with _grpc_load(service.grpc_port, service.task_id("other"), size):
            found = load(target, 1, size.seconds)
        return figures(side, found)


@contextmanager
def _grpc_load(port: int, task_id: str, size: Size) -> Iterator[None]:
    """As long as the block and a little longer on both ends."""
    seconds = size.warm_s + size.seconds + 1.0
    process = _start(port, task_id, seconds)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(size.warm_s)
        yield
        if process.poll() is not None:
            raise Wrong("the load over gRPC was over before that over HTTP")
        _ended(process, seconds)
    finally:
        process.kill()
        process.wait()


SCENARIOS = (
    Scenario(
        "grpc-32", f"unary InvokeFunction, {IN_FLIGHT} in flight on one connection", grpc_32,
        [
            Aim(f"calls/s, to {_bare(loop)}", f"{ATLATL}: calls/s", f"{_bare(loop)}: calls/s",
                least=least, stretch=stretch)
            for loop, least, stretch in (("uvloop", 0.8, 0.95), ("asyncio", 1.0, 1.2))
        ],
        {"work": functions.WARM}, ("grpcio", "hpack", "protobuf", "uvloop"),
    ),
    Scenario(
        "http-beside-grpc", "HTTP on one connection while gRPC runs at full load, and alone",
        http_beside_grpc,
        [
            Aim("p99 beside gRPC, to alone", f"{BESIDE}: p99 ms", f"{ALONE}: p99 ms",
                most=3, stretch=2),
        ],
        {"work": functions.WARM, "other": functions.WARM},
        ("grpcio", "hpack", "protobuf", "uvloop"),
    ),
)  # fmt: skip
