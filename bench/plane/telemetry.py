"""What it costs to be seen: log and traces on, as with a collector by default, and both off."""

from __future__ import annotations

import http.server
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.comparison import Aim
from bench.installing import need
from bench.plane import functions, peers
from bench.plane.confinement import CONNECTIONS, PAIRS, WARM, per_call_us, used
from bench.plane.load import Target, load, pinned
from bench.plane.scenario import ATLATL, Scenario, Size
from bench.rounds import Measured, Turns
from bench.service import Service

ON, OFF = "on", "off"
TASK = "work"
TURNS = 4
"""Of load on each service in a pair: the machine's fast and slow states last for seconds."""
EXPORTER = "opentelemetry-exporter-otlp-proto-http"


def environment(collector: str) -> Mapping[str, Mapping[str, str]]:
    """What the two services are started with; all else is alike."""
    return {
        ON: {"ATLATL__TELEMETRY__TRACES_ENDPOINT": collector},
        OFF: {"ATLATL__TELEMETRY__LOG_EXECUTIONS": "false"},
    }


def in_turn(number: int) -> Sequence[str]:
    """Nobody always comes first."""
    return (ON, OFF) if number % 2 else (OFF, ON)


def telemetry_cpu(size: Size) -> Turns:
    need(EXPORTER)
    numbers = itertools.count()
    return {ATLATL: lambda: _pair(next(numbers), size)}


def _pair(number: int, size: Size) -> Measured:
    """Both services at once, and the load on them in turn: what the machine does meets both."""
    took_s, calls = dict.fromkeys((ON, OFF), 0.0), dict.fromkeys((ON, OFF), 0)
    with collector() as url, ExitStack() as services:
        asked: dict[str, tuple[Service, Target]] = {}
        for state in in_turn(number):
            service = services.enter_context(peers.atlatl(environment(url)[state]))
            service.deploy(TASK, functions.WORK, WARM)
            target = pinned(service.port, f"/functions/{TASK}", peers.CONTENT, peers.is_work)
            load(target, CONNECTIONS, size.warm_s / 2)
            asked[state] = service, target
        for turn in range(TURNS):
            for state in in_turn(number + turn):
                service, target = asked[state]
                more_s, more = used(service, TASK, target, size.seconds / 2 / TURNS)
                took_s[state] += more_s
                calls[state] += more
    return {f"{state}: CPU us a call": per_call_us(took_s[state], calls[state]) for state in asked}


@contextmanager
def collector() -> Iterator[str]:
    """The URL of one that takes everything and keeps nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
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
