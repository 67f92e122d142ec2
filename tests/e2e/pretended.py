"""A service that only pretends: the real page, with made-up answers of any size."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from atlatl.front.dashboard import static_files

FILES = static_files()


class Pretended:
    """What is answered; tests change it while it runs.

    Attributes:
        events: whether there is a stream of them; else the route answers 501.
        hurried: a second takes ten milliseconds.
        seconds: that were told of.
        asked: paths, in order.
    """

    def __init__(self, n_tasks: int, calls_per_s: int) -> None:
        self.names = [f"task-{i:03}" for i in range(n_tasks)]
        self.calls_per_s = calls_per_s
        self.events = True
        self.hurried = False
        self.seconds = 0
        self.stopped = False
        self.asked: list[str] = []
        self.url = ""

    def answer(self, path: str) -> tuple[int, Any]:
        if path == "/api/v1/tasks":
            return 200, {"tasks": [_task(name) for name in self.names], "next_start_after": None}
        if path == "/api/v1/pools":
            return 200, {"pools": [_pool(name) for name in self.names]}
        if path == "/api/v1/breakers":
            return 200, {"breakers": [_breaker(name) for name in self.names]}
        if path == "/api/v1/health":
            return 200, {"status": "healthy", "details": {"uptime_seconds": "60"}}
        if path == "/api/serverless/metrics":
            return 200, _metrics()
        if path == "/api/v1/executions":
            return 200, {"executions": [], "next_start_after": None}
        return 501, {"detail": "not here", "code": "UNSUPPORTED_OPERATION"}

    def figures(self, second: int) -> dict[str, Any]:
        each = self.calls_per_s / max(1, len(self.names))
        rows = [
            {
                "task_name": name,
                "calls_per_s": each + (second + i) % 3,
                "errors_per_s": 0.5 if i % 50 == 0 else 0.0,
                "p50_ms": 1.0 + i % 7,
                "p99_ms": 9.0 + second % 5,
                "in_use": i % 3,
                "idle": 1,
                "starting": 0,
                "waiting": 0,
            }
            for i, name in enumerate(self.names)
        ]
        return {"at": _now(second if self.hurried else 0), "kind": "figures", "tasks": rows}

    def finished(self, number: int) -> dict[str, Any]:
        return {
            "at": _now(),
            "kind": "execution_finished",
            "task_name": self.names[number % len(self.names)],
            "execution_id": f"e-{number}",
            "outcome": "error" if number % 5 == 0 else "success",
            "error_code": "EXECUTION_ERROR",
            "error_message": f"failure {number}",
        }


def _now(ahead_s: int = 0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat()


def _task(name: str) -> dict[str, Any]:
    return {"task_name": name, "version": 1, "state": "READY", "execution_count": 7, "instances": 1}


def _pool(name: str) -> dict[str, Any]:
    return {"task_name": name, "total": 1, "available": 1, "last_decision": "stay at 1: calm"}


def _breaker(name: str) -> dict[str, Any]:
    return {"task_name": name, "state": "closed", "mode": "normal"}


def _metrics() -> dict[str, Any]:
    window = {"duration_seconds": 10, "qps": 3.5, "error_count": 0, "rejected_count": 0}
    total = {"request_count": 35, "memory_used_bytes": 1, "memory_limit_bytes": 2}
    queue = {"ready": 0, "delayed": 0, "dead_letters": 0}
    latencies = {"p50_latency_ms": 1.0, "p99_latency_ms": 2.0}
    return {"total": {**total, **latencies}, "window": window, "queue": queue}


class _Handler(BaseHTTPRequestHandler):
    pretended: Pretended

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.pretended.asked.append(path)
        name = "index.html" if path == "/" else path.removeprefix("/static/")
        if name in FILES:
            self._send(200, FILES[name].media_type, FILES[name].content)
        elif path == "/api/v1/events" and self.pretended.events:
            self._stream()
        else:
            status, value = self.pretended.answer(path)
            self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, media_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        number = second = 0
        try:
            while self.pretended.events and not self.pretended.stopped:
                for _ in range(5):
                    for _ in range(1 if self.pretended.hurried else 10):
                        number += 1
                        self._event("execution_finished", self.pretended.finished(number))
                    time.sleep(0.002 if self.pretended.hurried else 0.2)
                self.pretended.seconds = second = second + 1
                self._event("figures", self.pretended.figures(second))
        except OSError:
            pass  # the page has gone

    def _event(self, kind: str, value: Any) -> None:
        self.wfile.write(f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode())

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def pretending(n_tasks: int, calls_per_s: int) -> Iterator[Pretended]:
    pretended = Pretended(n_tasks, calls_per_s)
    handler = type("Handler", (_Handler,), {"pretended": pretended})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    pretended.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield pretended
    finally:
        pretended.stopped = True
        server.shutdown()
        server.server_close()
        thread.join(10)
