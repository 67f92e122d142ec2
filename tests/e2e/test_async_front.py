"""Async calls on a running service, from outside: HTTP, gRPC and the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atlatl.client import Client
from atlatl.engine.callbacks import PER_HOST
from scripts.stranger import ASYNC, COMPLETED, EXISTING_TASK, PENDING, Stranger, parameters
from tests.e2e.server import Server, eventually, serving
from tests.notes import Notes
from tests.receiver import Receiver, hangs, receiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LATER = {"Prefer": "respond-async"}

HELLO = """
def main(name: str = "world", context=None):
    print("greeting", name)
    return {"hello": name, "attempt": context.attempt}

def boom():
    raise ValueError("no such luck")
"""
BROKEN = "def main(name: str = 'world', context=None):\n    raise ValueError('no such luck')\n"
GATE = """
import socket

def main(port: int):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        try: sock.recv(1)
        except ConnectionError: pass
    return "open"
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "data") as server:
        server.deployed("hello", HELLO)
        yield server


def test_the_newcomers_path_over_http(server: Server, tmp_path: Path) -> None:
    accepted = server.call("hello", {"name": "Ada"}, headers=LATER)
    assert accepted.status_code == 202
    assert accepted.headers["preference-applied"] == "respond-async"
    execution_id = accepted.headers["atlatl-execution-id"]
    where = accepted.headers["location"]
    assert where == f"/api/v1/executions/{execution_id}"
    result = server.http.get(where + "/result?wait=10")
    assert (result.status_code, result.json()) == (200, {"hello": "Ada", "attempt": 1})
    record = server.http.get(where).json()
    assert (record["mode"], record["status"], record["attempt"]) == ("ASYNC", "COMPLETED", 1)
    assert server.http.get(where + "/logs").json()["lines"] == ["greeting Ada"]
    # On this machine, who knows the id needs no token.
    with Client(server.url) as client:
        assert client.result(execution_id).value["hello"] == "Ada"


def test_the_answer_comes_with_the_end_and_not_before(server: Server) -> None:
    server.deployed("gate", GATE, timeout_ms=60_000)
    gate = Notes()
    with Client(server.url, token=server.token) as client:
        execution_id = client.submit("gate", {"port": gate.port})["execution_id"]
        eventually(lambda: client.execution(execution_id)["status"] == "RUNNING")
        assert client.wait(execution_id, 0.1)["status"] == "RUNNING"
        pending = server.http.get(f"/api/v1/executions/{execution_id}/result?wait=0.1")
        assert (pending.status_code, pending.headers["retry-after"]) == (202, "1")
        opening = threading.Timer(0.1, gate.close)
        opening.start()
        assert client.wait(execution_id, 30)["status"] == "COMPLETED"
        opening.join()
        assert client.result(execution_id).value == "open"


def test_one_id_is_one_execution_and_what_is_wrong_fails_now(server: Server) -> None:
    with_id = {**LATER, "Idempotency-Key": "order/7"}
    first = server.call("hello", {"name": "Ada"}, headers=with_id)
    assert first.status_code == 202
    server.http.get("/api/v1/executions/order%2F7?wait=10")
    again = server.call("hello", {"name": "Ada"}, headers=with_id)
    assert (again.status_code, again.json()["status"]) == (202, "COMPLETED")
    assert again.json()["queued_at"] == first.json()["queued_at"]
    assert server.call("hello", {"name": "Bob"}, headers=with_id).status_code == 409
    assert server.call("hello", {"surname": "x"}, headers=LATER).status_code == 400
    assert server.call("nobody", headers=LATER).status_code == 404
    hidden = {**LATER, "Atlatl-Callback-Url": "http://127.0.0.1:9/"}
    refused = server.call("hello", headers=hidden)
    assert refused.status_code == 400
    assert "callbacks.allowed_hosts" in refused.json()["detail"]
    listed = server.http.get("/api/v1/executions?task=hello").json()["executions"]
    assert [row["execution_id"] for row in listed] == ["order/7"]


def test_it_does_not_begin_before_its_time_and_may_be_cancelled(server: Server) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    waits = server.call("hello", headers={**LATER, "Atlatl-Not-Before": tomorrow})
    begins = server.call("hello", headers={**LATER, "Atlatl-Not-Before": soon})
    record = server.http.get(begins.headers["location"] + "?wait=10").json()
    assert record["status"] == "COMPLETED"
    assert datetime.fromisoformat(record["started_at"]) >= datetime.fromisoformat(soon)
    assert server.http.get(waits.headers["location"]).json()["status"] == "PENDING"
    stopped = server.http.post(waits.headers["location"] + "/cancel", json={})
    assert stopped.json()["status"] == "CANCELLED"
    result = server.http.get(waits.headers["location"] + "/result")
    assert result.json()["code"] == "CANCELLED"
    assert server.http.get("/api/v1/dead-letters").json()["dead_letters"] == []


def test_a_callback_brings_the_result(tmp_path: Path) -> None:
    async def go() -> None:
        async with receiver() as there:
            with serving(tmp_path / "data", callbacks__allowed_hosts=[there.address]) as it:
                await asyncio.to_thread(it.deployed, "hello", HELLO)
                headers = {**LATER, "Atlatl-Callback-Url": there.url}
                accepted = await asyncio.to_thread(it.call, "hello", headers=headers)
                assert accepted.status_code == 202, accepted.text
                async with asyncio.timeout(20):
                    while not there.received:
                        await asyncio.sleep(0.01)
                (request,) = there.received
        assert request.line.startswith("POST /ended ")
        assert request.headers["atlatl-execution-id"] == accepted.json()["execution_id"]
        assert request.headers["atlatl-status"] == "COMPLETED"
        assert json.loads(request.body) == {"hello": "world", "attempt": 1}

    asyncio.run(go())


def test_a_receiver_that_hangs_holds_up_neither_the_queue_nor_other_receivers(
    tmp_path: Path,
) -> None:
    async def go() -> None:
        async with receiver(hangs) as stuck, receiver() as quick:
            await asyncio.to_thread(use_both, tmp_path / "data", stuck, quick)

    asyncio.run(go())


def use_both(data_dir: Path, stuck: Receiver, quick: Receiver) -> None:
    # No try ends by itself while this runs.
    callbacks = {"allowed_hosts": [stuck.address, quick.address], "timeout_s": 600}
    settings = {f"callbacks__{name}": value for name, value in callbacks.items()}
    with serving(data_dir, **settings) as server:
        server.deployed("hello", HELLO)

        def submit(there: Receiver) -> str:
            answer = server.call("hello", headers={**LATER, "Atlatl-Callback-Url": there.url})
            assert answer.status_code == 202, answer.text
            execution_id: str = answer.headers["atlatl-execution-id"]
            return execution_id

        def completed() -> int:
            listed = server.http.get("/api/v1/executions?status=COMPLETED&limit=100").json()
            return len(listed["executions"])

        for _ in range(50):
            submit(stuck)
        eventually(lambda: completed() == 50, within_s=30)
        eventually(lambda: len(stuck.received) == PER_HOST)
        told = {submit(quick) for _ in range(20)}
        assert server.call("hello", {"name": "Ada"}).json()["hello"] == "Ada"
        eventually(lambda: len(quick.received) == 20, within_s=30)
        assert {one.headers["atlatl-execution-id"] for one in quick.received} == told
        assert len(stuck.received) == stuck.connections == PER_HOST
    # And the service has ended well: tries under way do not hold that up either.


def test_the_newcomers_path_over_grpc(server: Server) -> None:
    headers = {"Atlatl-Not-Before": "2020-01-01T00:00:00Z"}
    with Stranger(server.grpc, token=server.token) as client:

        def call(**more: object) -> object:
            fields = {
                "invocation_type": EXISTING_TASK,
                "task_id": "hello",
                "execution_mode": ASYNC,
                "parameters": parameters({"name": "Ada"}),
                "context": {"headers": headers},
            }
            return client.ask("InvokeFunction", **(fields | more))

        accepted = call(execution_id="grpc-1")
        assert (accepted.success, accepted.result.status) == (True, PENDING)
        assert accepted.result.started_at.seconds > 0
        assert not accepted.result.HasField("completed_at")
        assert accepted.estimated_completion_ms > 0
        assert accepted.status_endpoint == "/api/v1/executions/grpc-1/status"
        assert client.ask("GetExecutionStatus", execution_id="grpc-1").found
        status = server.http.get(accepted.status_endpoint + "?wait=10").json()
        assert status["result"]["status"] == "EXECUTION_STATUS_COMPLETED"
        again = call(execution_id="grpc-1")
        assert (again.success, again.result.status) == (True, COMPLETED)
        assert json.loads(again.result.result.value)["hello"] == "Ada"
        late = call(context={"headers": {"atlatl-not-before": "tomorrow"}})
        assert (late.success, late.result.error_code) == (False, "INVALID_REQUEST")


def test_a_dead_letter_is_redriven_by_the_version_that_works(server: Server) -> None:
    server.deployed("hello", BROKEN, retry={"initial_backoff_s": 0.01})
    done = server.cli("invoke", "hello", "--async", "--data", '{"name": "Ada"}', "--max-retries=1")
    assert (done.returncode, done.stderr) == (0, "")
    execution_id = done.stdout.strip()
    record = server.http.get(f"/api/v1/executions/{execution_id}?wait=10").json()
    assert (record["status"], record["error_code"]) == ("FAILED", "EXECUTION_ERROR")
    (letter,) = json.loads(server.cli("dead-letters", "--json").stdout)["dead_letters"]
    assert (letter["execution_id"], letter["attempts"]) == (execution_id, 2)
    assert "no such luck" in server.cli("dead-letters").stdout

    server.deployed("hello", HELLO)
    redriven = server.cli("redrive", execution_id)
    assert (redriven.returncode, redriven.stderr) == (0, "")
    result = server.http.get(f"/api/v1/executions/{execution_id}/result?wait=10")
    assert result.json() == {"hello": "Ada", "attempt": 3}
    assert server.cli("dead-letters").stdout == "there are no dead letters\n"
    assert server.cli("redrive", execution_id).returncode == 1


def test_a_dead_letter_that_is_let_go_keeps_its_record(server: Server) -> None:
    server.deployed("hello", BROKEN)
    accepted = server.call("hello", headers=LATER)
    execution_id = accepted.headers["atlatl-execution-id"]
    assert server.http.get(accepted.headers["location"] + "/result?wait=10").status_code == 500
    done = server.cli("dead-letters", "--delete", execution_id)
    assert (done.returncode, done.stdout) == (0, f"{execution_id} is no dead letter any more\n")
    assert server.cli("redrive", execution_id).returncode == 1
    assert server.http.get(accepted.headers["location"]).json()["status"] == "FAILED"


def test_executions_are_watched_until_ctrl_c(server: Server) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "atlatl.cli", "executions", "--watch", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ATLATL_URL": server.url, "ATLATL_TOKEN": server.token},
    )
    try:
        assert watching.stdout is not None
        server.call("hello", {"name": "Ada"})
        first = json.loads(watching.stdout.readline())
        later = server.call("hello", {"name": "Bob"}, headers=LATER)
        seen = [json.loads(watching.stdout.readline())]
        while seen[-1]["status"] != "COMPLETED":
            seen.append(json.loads(watching.stdout.readline()))
        watching.send_signal(signal.SIGINT)
        _, complaints = watching.communicate(timeout=20)
    finally:
        watching.kill()
        watching.communicate()
    assert first["status"] == "COMPLETED"
    assert {row["execution_id"] for row in seen} == {later.headers["atlatl-execution-id"]}
    assert (watching.returncode, complaints) == (0, "")
