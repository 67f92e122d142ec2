"""What it costs to be seen: log and traces on, as with a collector by default, and both off."""

from __future__ import annotations

import asyncio
import http.server
import itertools
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

from bench.comparison import Aim
from bench.installing import need
from bench.lean_http import connected, for_a_while, request, run_loop
from bench.plane import functions, peers
from bench.plane.confinement import CONNECTIONS, PAIRS, WARM, Both, per_call_us
from bench.plane.load import Target, pinned
from bench.plane.scenario import ATLATL, Scenario, Size
from bench.rounds import Measured, Turns

ON, OFF = "on", "off"
TASK = "work"
SERVICES = 5
"""Of each side in a pair: two processes of the same program differ by some 3.5 %, which lasts as
long as they do."""
TURN_S = 0.1
"""Of load on one of them: the machine's fast and slow states last for seconds."""
WARM_S = 0.5
LATER_S = 6.0
"""Log and traces are written that much later, at most; and for so long it is seen what services do
anyway."""
EXPORTER = "opentelemetry-exporter-otlp-proto-http"


def environment(collector: str) -> Mapping[str, Mapping[str, str]]:
    """What the two services are started with; all else is alike."""
    return {
        ON: {"ATLATL__TELEMETRY__TRACES_ENDPOINT": collector},
        OFF: {"ATLATL__TELEMETRY__LOG_EXECUTIONS": "false"},
    }


def in_turn(number: int) -> list[str]:
    """Nobody always comes first."""
    return [ON, OFF] if number % 2 else [OFF, ON]


def telemetry_cpu(size: Size) -> Turns:
    need(EXPORTER)
    numbers = itertools.count()
    return {ATLATL: lambda: _pair(next(numbers), size)}


def _pair(number: int, size: Size) -> Measured:
    """All at once, and the load on two of them in turn: what the machine does meets both sides."""
    with collector() as url, ExitStack() as services:
        sides: dict[str, list[tuple[Both, Target]]] = {ON: [], OFF: []}
        for state in in_turn(number) * SERVICES:
            seed = {"PYTHONHASHSEED": str(1 + number)}
            service = services.enter_context(peers.atlatl({**environment(url)[state], **seed}))
            service.deploy(TASK, functions.WORK, WARM)
            target = pinned(service.port, f"/functions/{TASK}", peers.CONTENT, peers.is_work)
            sides[state].append((Both(service, TASK), target))
        return run_loop(_measured(number, sides, size.seconds))


async def _measured(
    number: int, sides: Mapping[str, Sequence[tuple[Both, Target]]], seconds: float
) -> Measured:
    async with AsyncExitStack() as stack:
        connections = {
            state: [
                await stack.enter_async_context(connected(target.port, CONNECTIONS))
                for _, target in side
            ]
            for state, side in sides.items()
        }

        async def turn_of(state: str, place: int, seconds: float) -> int:
            _, target = sides[state][place]
            content = request("POST", target.paths[0], target.content)
            wanted = json.loads(target.answer)
            return len(await for_a_while(connections[state][place], content, wanted, seconds))

        for place in range(SERVICES):
            for state in sides:
                await turn_of(state, place, WARM_S)
        await asyncio.sleep(LATER_S)  # what that has left to be done
        quiet_s = _used_s(sides[OFF])
        await asyncio.sleep(LATER_S)
        before_s = {state: _used_s(side) for state, side in sides.items()}
        idle = (before_s[OFF] - quiet_s) / LATER_S
        calls, began = dict.fromkeys(sides, 0), time.monotonic()
        # One of each side after the other, until their work is done: what is done once for many
        # calls, such as a message with spans, is not to be done for the few of a short turn.
        for place, turn in itertools.product(range(SERVICES), range(math.ceil(seconds * 4))):
            for state in in_turn(number + turn):
                calls[state] += await turn_of(state, place, TURN_S)
        await asyncio.sleep(LATER_S)
        idle_s = idle * (time.monotonic() - began)
        used_s = {state: _used_s(side) - before_s[state] for state, side in sides.items()}
    return per_call(used_s, calls, idle_s)


def _used_s(side: Sequence[tuple[Both, Target]]) -> float:
    return sum(both.used_s() for both, _ in side)


def per_call(used_s: Mapping[str, float], calls: Mapping[str, int], idle_s: float) -> Measured:
    """CPU time of a call, also what is done about it when the load has gone over to the other.

    Args:
        used_s: CPU seconds of each from the first turn to the last and beyond.
        calls: of each.
        idle_s: CPU seconds of what services do anyway in that time.
    """
    return {
        f"{state}: CPU us a call": per_call_us(used_s[state] - idle_s, calls[state])
        for state in used_s
    }


@contextmanager
def collector() -> Iterator[str]:
    """The URL of one that takes everything and keeps nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # collectors keep connections open

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/traces"
        finally:
            server.shutdown()
            thread.join()


SCENARIOS = (
    Scenario(
        "telemetry-cpu", "CPU time of a warm call, with log and traces and without", telemetry_cpu,
        [
            Aim("CPU time a call, to without", f"{ON}: CPU us a call", f"{OFF}: CPU us a call"),
            Aim("its upper 95 % bound", f"{ON}: CPU us a call", f"{OFF}: CPU us a call",
                most=1.05, upper=True),
        ],
        {state: {**WARM, **environment("a collector")[state]} for state in (ON, OFF)},
        rounds=PAIRS,
    ),
)  # fmt: skip
