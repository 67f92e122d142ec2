"""`scripts/check_contract.py` says which points a server keeps, whoever wrote the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from scripts.stranger import CLASSES, RPCS
from tests.e2e.server import serving

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_contract.py"


def check(address: str, *options: str) -> tuple[int, list[str], list[str]]:
    """Exit status, the points that are kept, those that differ."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), address, *options],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stderr == ""
    lines = [line.partition(" ") for line in done.stdout.splitlines()[:-1]]
    said = {word: [text.strip() for one, _, text in lines if one == word] for word, _, _ in lines}
    kept, differ = said.pop("kept", []), said.pop("differs", [])
    assert said == {}
    assert done.stdout.splitlines()[-1] == f"{len(kept)} kept, {len(differ)} differ"
    return done.returncode, kept, differ


def test_our_service_keeps_every_point(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        status, kept, differ = check(server.grpc, "--token", server.token)
        left = server.http.get("/api/v1/tasks").json()["tasks"]
    assert differ == []
    assert status == 0
    assert len(kept) >= 42
    assert left == []


def test_a_server_that_wants_a_token_differs_in_what_needs_one(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        status, kept, differ = check(server.grpc)
    assert status == 1
    assert any(line.startswith("GetHealth: ") for line in kept)
    assert any("gRPC status UNAUTHENTICATED" in line for line in differ)


def empty_answer(name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
    return lambda request, context: CLASSES[name]()


@contextmanager
def server_of_empty_answers() -> Iterator[str]:
    """Knows every RPC, and answers with the empty message, streams with no item."""
    handlers = {}
    for line in RPCS.strip().splitlines():
        name, request, *streams, answer = line.split()
        kind = (
            grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        )
        handlers[name] = kind(
            (lambda request, context: iter(())) if streams else empty_answer(answer),
            request_deserializer=CLASSES[request].FromString,
            response_serializer=CLASSES[answer].SerializeToString,
        )
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("spearlet.FunctionService", handlers),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait(10)


def test_a_server_that_answers_nothing_is_told_apart_from_one_that_does() -> None:
    with server_of_empty_answers() as address:
        status, kept, differ = check(address)
    assert status == 1
    assert {line.partition(":")[0] for line in kept} == {
        "GetExecutionStatus",
        "CancelExecution",
        "GetTask",
    }
    assert len(kept) == 3  # the ones about unknown ids
    assert len(differ) >= 35


def test_no_server_at_all() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "127.0.0.1:1", "--timeout", "0.5"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nothing speaks gRPC at 127.0.0.1:1\n"
