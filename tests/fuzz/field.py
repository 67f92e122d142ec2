"""The field that is fuzzed: a real service behind both of its fronts, on a loop of its own.

The loop runs in a thread, so that blocking clients (sockets, schemathesis) and coroutines reach
the same service.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import grpc
import httpx
from google.protobuf import wrappers_pb2
from hypothesis import HealthCheck, settings

from atlatl import FunctionService, Settings
from atlatl.front.access import Gate
from atlatl.front.asgi import asgi
from atlatl.front.auth import Authorizer, admin_token
from atlatl.front.fast import FastPath
from atlatl.front.grpc import GrpcServer
from atlatl.front.listener import HttpListener
from atlatl.front.proto import function_pb2 as pb
from atlatl.settings import parse

if TYPE_CHECKING:
    from tests.fuzz.requests import Asked

T = TypeVar("T")

EXAMPLES = int(os.environ.get("ATLATL_FUZZ_EXAMPLES", "0"))
"""Of each property; 0 is as many as fit into an everyday run. The long profile: 5000."""

LONG_S = 30.0
"""Bound of every wait: only a broken service comes near it."""

CODE = b"""
import time
from atlatl_worker import Response

def main(event):
    return event

def add(a: int, b: int = 1):
    return a + b

def many(a: int = 0, b: float = 0.0, c: str = "", d: bool = False, e: bytes = b"",
         f: list = [], g: dict = {}):
    return {"a": a, "b": b, "c": c, "d": d, "e": len(e), "f": f, "g": g}

def whole(request):
    return Response(request.body, status=200, headers={"x-seen": request.headers.get("x-late", "")})

def items(n: int = 2):
    for i in range(min(n, 5)):
        yield {"i": i}

def boom():
    raise ValueError("no such luck")

def nap(s: float = 0.0):
    # Any number may be asked for, and what takes LONG_S is taken for broken.
    time.sleep(min(s, 0.05))
    return "rested"

def sleep():
    time.sleep(60.0)
"""
STEADY = "steady"
"""A task that no strategy names: it answers as long as the service does."""
SLEEPER = "sleeper"
"""Another one, which takes longer than any test."""
OURS = {STEADY: "main", SLEEPER: "sleep"}
"""Functions of the tasks that no strategy names."""

HANDLERS = ("main", "add", "many", "whole", "items", "boom", "nap")
"""Each is deployed as a task of its name, which strategies may name, change and delete."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MAX_BODY_BYTES = 1024 * 1024


def examples(everyday: int) -> settings:
    """How often a property is tried; a failing example of CI is printed and can be repeated."""
    return settings(
        max_examples=EXAMPLES or everyday,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


class Field:
    """A service with its fronts.

    Args:
        data_dir: of the service.
        required: as the setting `auth.required`.
    """

    def __init__(self, data_dir: Path, *, required: bool | str) -> None:
        self.settings = parse(
            Settings,
            {
                "data_dir": str(data_dir),
                "http": {
                    "port": 0,
                    "max_body_bytes": MAX_BODY_BYTES,
                    "header_timeout_s": 1.0,
                },
                "grpc": {"port": 0, "max_message_bytes": MAX_MESSAGE_BYTES},
                "artifacts": {"max_bytes": MAX_BODY_BYTES},
                "pool": {"max_size": 4},
                "breaker": {"enabled": False},
                "blank_pool": {"min_size": 1, "max_size": 2},
                "records": {"recent_executions": 200},
                "auth": {"required": required},
            },
        )
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="field")
        self.service = FunctionService(self.settings)

    def open(self) -> None:
        self._thread.start()
        self.run(self._open())

    def close(self) -> None:
        try:
            self.run(self._close())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(LONG_S)
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine where the service lives; it has to end within LONG_S."""
        return asyncio.run_coroutine_threadsafe(
            asyncio.wait_for(work, 1.2 * LONG_S), self.loop
        ).result()

    async def _open(self) -> None:
        await self.service.open()
        self.token = admin_token(Path(self.settings.data_dir))
        authorizer = Authorizer(self.token, self.settings.auth.required)
        self.app = asgi(self.service, authorizer=authorizer)
        self.listener = HttpListener(
            self.app,
            self.settings.http,
            FastPath(self.service, Gate(authorizer, self.settings.http.host)),
        )
        await self.listener.start()
        self._grpc = GrpcServer(self.settings.grpc, self.service, authorizer)
        await self._grpc.start()
        self.grpc_port = self._grpc.port
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{self.grpc_port}",
            options=(
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
            ),
        )
        # A bug has to be seen as the answer that a client gets, so it is not raised here.
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        for name, function in OURS.items():
            await self._deploy(name, function)
        await self.restore()
        self.deployed = {*OURS, *HANDLERS}

    async def _close(self) -> None:
        await self.http.aclose()
        await self.channel.close()
        await self._grpc.stop(0)
        await self.listener.stop()
        await self.service.close()

    async def _deploy(self, name: str, function: str) -> None:
        await self.service.deploy(
            name, CODE, filename="app.py", settings={"handler": f"app.py:{function}"}
        )

    async def restore(self) -> None:
        """Deploys again what a test may have deleted or changed, and deletes what it made.

        A breaker that was forced open is closed: async calls would wait for that for ever.
        """
        page = self.service.tasks(limit=1000)
        for task in page.items:
            if task.name not in HANDLERS and task.name not in OURS:
                await self.service.delete_task(task.task_id, force=True)
        known = {task.name: task.handler for task in page.items}
        for name in HANDLERS:
            if known.get(name) != f"app.py:{name}":
                await self._deploy(name, name)
            self.service.breaker(name).reset()

    async def check(self) -> None:
        """The service answers on both fronts, and nothing half-done is left in it."""
        await self.at_rest()
        request = pb.InvokeFunctionRequest(task_id=STEADY, execution_mode=1)
        parameter = request.parameters.add(name="x")
        parameter.value.Pack(wrappers_pb2.Int64Value(value=1))
        answer = pb.InvokeFunctionResponse.FromString(
            await self.unary("InvokeFunction", request.SerializeToString())
        )
        assert answer.result.result.value == b'{"x":1}', answer
        good = await self.http.post(f"/functions/{STEADY}", json={"x": 1})
        assert (good.status_code, good.json()) == (200, {"x": 1}), good.text

    async def at_rest(self) -> None:
        """Waits until nothing runs, waits or is lent; async calls may wait for their time."""
        ends = time.monotonic() + LONG_S
        while busy := await self._busy():
            assert time.monotonic() < ends, f"still {busy}"
            await asyncio.sleep(0.005)

    async def _busy(self) -> str:
        parts = self.service._parts
        running, pending = self.service.health().running, parts.manager.pending
        in_use = [pool.task_name for pool in self.service.pools() if pool.in_use or pool.waiting]
        if running or pending or in_use:
            return f"{running} running, {pending} pending, {in_use}"
        queued = [each for each in await parts.store.queue.depths() if each.ready or each.leased]
        return f"queued: {queued}" if queued else ""

    async def asgi(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        """What the application answers: status, headers and body."""
        path, _, query = asked.path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": asked.method,
            "scheme": "http",
            # As uvicorn does it.
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": _with_host(asked.headers),
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8081),
        }
        inbox = [{"type": "http.request", "body": asked.body, "more_body": False}]
        outbox: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if inbox:
                return inbox.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            outbox.append(message)

        # A crash is raised after it was answered; the answer gives it away.
        with contextlib.suppress(Exception):
            await self.app(scope, receive, send)
        head, *chunks = outbox
        headers = {
            name.decode().lower(): value.decode("latin-1") for name, value in head["headers"]
        }
        return head["status"], headers, b"".join(chunk["body"] for chunk in chunks)

    async def unary(self, rpc: str, content: bytes, **more: Any) -> bytes:
        """The bytes that an RPC answers to bytes; raises grpc.aio.AioRpcError."""
        call = self.channel.unary_unary(f"/spearlet.FunctionService/{rpc}")
        answer = await call(content, timeout=LONG_S, **more)
        assert isinstance(answer, bytes)
        return answer

    async def stream(self, content: bytes, **more: Any) -> list[bytes]:
        call = self.channel.unary_stream("/spearlet.FunctionService/StreamFunction")
        return [item async for item in call(content, timeout=LONG_S, **more)]


def _with_host(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    if any(name == b"host" for name, _ in headers):
        return headers
    return [(b"host", b"127.0.0.1"), *headers]


@contextmanager
def opened(data_dir: Path, *, required: bool | str = False) -> Iterator[Field]:
    field = Field(data_dir, required=required)
    field.open()
    try:
        yield field
    finally:
        field.close()
