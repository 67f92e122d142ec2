"""Callers who leave, who do not read what they asked for, and who do not send what they said."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from atlatl import FunctionService, Settings
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto.function_pb2_grpc import FunctionServiceStub
from tests.e2e.server import Server, alive, eventually, serving
from tests.notes import NOTE, Notes
from tests.running import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MIB = 1024 * 1024
LONG_S = 30.0

CODE = (
    NOTE
    + """
import os, time

def main(context, path: str):
    print("begun", flush=True)
    _mark(path + ".begun")
    while not context.cancelled: time.sleep(0.005)
    time.sleep(1)
    _mark(path)
    print("tidied up")

def ignores(path: str):
    _mark(path + ".begun")
    time.sleep(600)

def items(path: str):
    try:
        while True:
            yield "x" * 100
            time.sleep(0.005)
    finally:
        _mark(path)

def counted(path: str, n: int):
    for _ in range(n): yield "x" * 50_000
    _mark(path)
"""
)

LARGE = "def main(n: int): return b'x' * n\n"
LARGE_ITEMS = "def main(n: int):\n    while True: yield b'x' * n\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hang-ups")
    with serving(folder / "data") as server:
        for name in ("tidies", "ignores", "items", "counted"):
            handler = "main" if name == "tidies" else name
            server.deployed(name, CODE, handler=f"main.py:{handler}", pool={"max_size": 1})
        yield server


def request(server: Server, name: str, arguments: Any, *lines: str) -> socket.socket:
    """A call on a connection of its own, with next to no room for its answer."""
    host, _, port = server.url.rpartition("/")[2].partition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(LONG_S)
    connection.connect((host, int(port)))
    body = json.dumps(arguments)
    fields = [f"Host: {host}:{port}", f"Content-Length: {len(body)}", *lines, "", body]
    connection.sendall("\r\n".join([f"POST /functions/{name} HTTP/1.1", *fields]).encode())
    return connection


def parameters(**values: Any) -> list[pb.FunctionParameter]:
    """Arguments as InvokeFunction takes them."""
    out = []
    for name, value in values.items():
        parameter = pb.FunctionParameter(name=name)
        kind = StringValue if isinstance(value, str) else Int64Value
        parameter.value.Pack(kind(value=value))
        out.append(parameter)
    return out


def last(server: Server, name: str) -> dict[str, Any]:
    rows = server.http.get("/api/v1/executions", params={"task": name, "limit": 1}).json()
    row: dict[str, Any] = rows["executions"][0]
    return row


def pid(server: Server, name: str) -> int:
    (row,) = server.instances(name)
    return int(row["pid"])


def nothing_runs(server: Server, name: str) -> None:
    def idle() -> bool:
        pools = server.http.get("/api/v1/pools").json()["pools"]
        return not any(pool["in_use"] for pool in pools if pool["task_name"] == name)

    eventually(idle, LONG_S)


@pytest.fixture
def notes() -> Iterator[Notes]:
    with Notes() as notes:
        yield notes


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_who_tidies_up_after_a_hang_up_gets_to_finish(
    server: Server, notes: Notes, front: str
) -> None:
    path = notes.mark("tidied")
    with ExitStack() as stack:
        if front == "http":
            connection = stack.enter_context(request(server, "tidies", {"path": str(path)}))
            leave = connection.close
        else:
            channel = stack.enter_context(grpc.insecure_channel(server.grpc))
            asked = pb.InvokeFunctionRequest(
                task_id="tidies", execution_mode=1, parameters=parameters(path=str(path))
            )
            leave = FunctionServiceStub(channel).InvokeFunction.future(asked).cancel
        eventually(path.begun.exists, LONG_S)
        instance = pid(server, "tidies")
        leave()
    eventually(lambda: last(server, "tidies")["status"] == "CANCELLED", LONG_S)
    assert not path.exists()  # the record does not wait for the work
    eventually(path.exists, LONG_S)
    nothing_runs(server, "tidies")
    assert pid(server, "tidies") == instance
    logs = f"/api/v1/executions/{last(server, 'tidies')['execution_id']}/logs"
    eventually(lambda: "tidied up" in server.http.get(logs).json()["lines"], LONG_S)


def test_who_ignores_a_hang_up_is_killed(server: Server, notes: Notes) -> None:
    path = notes.mark("x")
    with request(server, "ignores", {"path": str(path)}):
        eventually(path.begun.exists, LONG_S)
        instance = pid(server, "ignores")
    eventually(lambda: last(server, "ignores")["status"] == "CANCELLED", LONG_S)
    assert alive(instance)
    eventually(lambda: not alive(instance), LONG_S)
    nothing_runs(server, "ignores")


def test_an_explicit_cancel_waits_for_nobody(server: Server, notes: Notes) -> None:
    path = notes.mark("tidied")
    with request(server, "tidies", {"path": str(path)}) as connection:
        eventually(path.begun.exists, LONG_S)
        instance = pid(server, "tidies")
        execution_id = last_running(server, "tidies")
        assert server.http.post(f"/api/v1/executions/{execution_id}/cancel").json()["cancelled"]
        assert b" 499 " in connection.recv(4096)
    eventually(lambda: not alive(instance), LONG_S)
    assert not path.exists()


def last_running(server: Server, name: str) -> str:
    rows = server.http.get("/api/v1/executions", params={"task": name, "status": "RUNNING"}).json()
    (row,) = rows["executions"]
    return str(row["execution_id"])


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_a_generator_ends_when_its_reader_leaves(server: Server, notes: Notes, front: str) -> None:
    path = notes.mark("closed")
    if front == "http":
        with request(server, "items", {"path": str(path)}) as connection:
            assert b" 200 " in connection.recv(4096)
            instance = pid(server, "items")
    else:
        with grpc.insecure_channel(server.grpc) as channel:
            asked = pb.InvokeFunctionRequest(
                task_id="items", execution_mode=3, parameters=parameters(path=str(path))
            )
            stream = FunctionServiceStub(channel).StreamFunction(asked)
            next(stream)
            instance = pid(server, "items")
            stream.cancel()
    eventually(path.exists, LONG_S)
    nothing_runs(server, "items")
    assert pid(server, "items") == instance
    assert last(server, "items")["status"] == "CANCELLED"


@pytest.mark.parametrize("front", ["http", "grpc"])
def test_a_stream_with_an_id_goes_on_when_its_reader_leaves(
    server: Server, notes: Notes, front: str
) -> None:
    path = notes.mark("whole")
    arguments = {"path": str(path), "n": 400}
    if front == "http":
        with request(server, "counted", arguments, "Idempotency-Key: mine-http") as connection:
            assert b" 200 " in connection.recv(4096)
    else:
        with grpc.insecure_channel(server.grpc) as channel:
            asked = pb.InvokeFunctionRequest(
                task_id="counted",
                execution_mode=3,
                execution_id="mine-grpc",
                parameters=parameters(**arguments),
            )
            stream = FunctionServiceStub(channel).StreamFunction(asked)
            next(stream)
            stream.cancel()
    eventually(path.exists, LONG_S)
    record = f"/api/v1/executions/mine-{front}"
    eventually(lambda: server.http.get(record).json()["status"] == "COMPLETED", LONG_S)


def test_a_caller_in_the_same_program_leaves_a_grace_too(tmp_path: Path, notes: Notes) -> None:
    """And a service that is closed meanwhile does not wait for it."""

    async def main() -> None:
        async with FunctionService(Settings(data_dir=str(tmp_path / "data"))) as service:
            await service.deploy("tidies", CODE.encode(), filename="main.py")
            for name in ("stays", "closes"):
                path = notes.mark(name)
                calling = asyncio.create_task(service.invoke("tidies", {"path": str(path)}))
                await until(path.begun.exists)
                calling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await calling
                assert not path.exists()
                if name == "stays":
                    await until(path.exists)
            pids = [view.pid for view in service.instances()]
        assert not path.exists()
        assert pids
        assert not any(alive(pid) for pid in pids)

    asyncio.run(main())


def test_a_body_that_stops_coming_is_answered_408(tmp_path: Path) -> None:
    with serving(tmp_path / "data", http__body_timeout_s=0.5) as server:
        server.deployed("large", LARGE)
        host, _, port = server.url.rpartition("/")[2].partition(":")
        with socket.create_connection((host, int(port)), LONG_S) as connection:
            head = f"POST /functions/large HTTP/1.1\r\nHost: {host}:{port}\r\n"
            connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + b"{")
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
        head, _, body = answer.decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 408 ")
        assert json.loads(body)["code"] == "REQUEST_TIMEOUT"
        assert server.call("large", {"n": 1}).content == b"x"


# --- answers that nobody reads ---


@contextmanager
def stalled(target: str) -> Iterator[tuple[str, threading.Event]]:
    """A way to a server on which its answers wait for the event: a client that does not read."""
    opens = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = [listener]

    def forward(source: socket.socket, sink: socket.socket, gate: threading.Event | None) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if gate is not None and passed > 65536:  # the greetings go through
                    gate.wait()
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2])))
                sockets.extend((near, far))
                for ends in ((near, far, None), (far, near, opens)):
                    threading.Thread(target=forward, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", opens
    finally:
        opens.set()
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("narrow")
    with serving(
        folder / "data",
        limits__max_inflight_bytes=16 * MIB,
        grpc__max_message_bytes=64 * MIB,
    ) as server:
        server.deployed("large", LARGE, confinement={"response_bytes": 32 * MIB})
        server.deployed("items", LARGE_ITEMS, pool={"max_size": 32})
        yield server


def refused(server: Server) -> bool:
    answer = server.call("large", {"n": 1})
    if answer.status_code == 200:
        return False
    assert (answer.status_code, answer.json()["code"]) == (503, "RESOURCE_EXHAUSTED")
    assert "limits.max_inflight_bytes" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1
    return True


def served(server: Server) -> bool:
    return not refused(server)


@pytest.mark.parametrize("reads", [True, False])
def test_unread_answers_over_http_keep_new_calls_out(narrow: Server, reads: bool) -> None:
    n = 12 * MIB
    with ExitStack() as stack:
        slow = [
            stack.enter_context(request(narrow, "large", {"n": n}, "Connection: close"))
            for _ in range(2)
        ]
        eventually(lambda: refused(narrow), LONG_S)
        if reads:
            for connection in slow:
                answer = b"".join(iter(lambda c=connection: c.recv(65536), b""))
                assert answer.partition(b"\r\n\r\n")[2] == b"x" * n
    eventually(lambda: served(narrow), LONG_S)


@pytest.mark.parametrize("reads", [True, False])
def test_unread_answers_over_grpc_keep_new_calls_out(narrow: Server, reads: bool) -> None:
    n = 12 * MIB
    options = [("grpc.max_receive_message_length", 64 * MIB)]
    asked = pb.InvokeFunctionRequest(task_id="large", execution_mode=1, parameters=parameters(n=n))
    with (
        stalled(narrow.grpc) as (target, opens),
        grpc.insecure_channel(target, options) as channel,
    ):
        stub = FunctionServiceStub(channel)
        slow = [stub.InvokeFunction.future(asked) for _ in range(2)]
        eventually(lambda: refused(narrow), LONG_S)
        if reads:
            opens.set()
            for call in slow:
                assert len(call.result(LONG_S).result.result.value) == n
    eventually(lambda: served(narrow), LONG_S)


def test_unread_streams_keep_new_calls_out(narrow: Server) -> None:
    """Each holds no more than its window, or one item."""
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(request(narrow, "items", {"n": 2 * MIB}))
        eventually(lambda: refused(narrow), LONG_S)
    eventually(lambda: served(narrow), LONG_S)
