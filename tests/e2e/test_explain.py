"""What happens, seen from outside: a function that breaks is seen to, and why, within 5 s."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, eventually, serving
from tests.e2e.watching import Watch

pytestmark = pytest.mark.slow

SEEN_S = 5.0
"""What the promise is."""

CODE = """
import os, signal, time

def main(how: str = "well"):
    print("it goes", how, flush=True)
    if how == "raise":
        raise ValueError("no such customer")
    if how == "hang":
        time.sleep(60)
    if how == "crash":
        os._exit(3)
    if how == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "memory":
        kept = bytearray(200_000_000)
        while kept:
            kept += bytearray(200_000_000)
    return how
"""


@contextmanager
def watched(directory: Path, **settings: Any) -> Iterator[tuple[Server, Watch]]:
    with serving(directory / "data", **settings) as server:
        watch = Watch(server)
        eventually(lambda: watch.of("figures"))
        yield server, watch
    assert watch.ended.wait(5.0), "the stream did not end with the service"


def story(server: Server, execution_id: str) -> dict[str, Any]:
    answer = server.http.get(f"/api/v1/executions/{execution_id}/explain")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


BREAKS = [
    ("raise", "EXECUTION_ERROR", "ValueError: no such customer"),
    ("crash", "INSTANCE_CRASHED", "exited with code 3"),
    ("signal", "INSTANCE_CRASHED", "SIGSEGV"),
    ("memory", "RESOURCE_LIMIT_EXCEEDED", "memory"),
]


def test_a_function_that_breaks_is_seen_and_its_cause_named_within_5_s(tmp_path: Path) -> None:
    with watched(tmp_path) as (server, watch):
        for how, code, cause in BREAKS:
            server.deployed(
                how,
                CODE,
                confinement={"memory_bytes": 134_217_728},
                breaker={"failure_threshold": 2},
            )
            _break(server, watch, how, code, cause)


def _break(server: Server, watch: Watch, how: str, code: str, cause: str) -> None:
    began = time.monotonic()
    ids = [server.call(how, {"how": how}).headers["atlatl-execution-id"] for _ in range(2)]
    eventually(
        lambda: [event for event in watch.of("breaker_changed") if event["task_name"] == how],
        within_s=SEEN_S,
    )
    ends = eventually(
        lambda: [event for event in watch.of("execution_finished") if event["execution_id"] in ids],
        within_s=SEEN_S,
    )
    assert ends[0]["error_code"] == code, ends
    assert cause in ends[0]["error_message"]
    told = story(server, ids[1])
    assert time.monotonic() - began < SEEN_S
    assert code in told["summary"]
    assert cause in told["summary"]
    kinds = [step["kind"] for step in told["steps"]]
    assert kinds[0] == "accepted"
    assert {"breaker_changed", "runs", "ended"} <= set(kinds)
    refused = server.call(how, {"how": how})
    assert refused.status_code == 503
    told = story(server, refused.headers["atlatl-execution-id"])
    assert "circuit breaker of the task is open" in str(told["steps"])
    # Of what is refused nothing is an execution; the figures show it all the same.
    eventually(lambda: (watch.row(how) or {}).get("breaker") == "open", within_s=SEEN_S)


def test_a_function_that_hangs_is_seen_while_it_hangs(tmp_path: Path) -> None:
    with watched(tmp_path) as (server, watch):
        server.deployed("hangs", CODE, timeout_ms=60_000, pool={"max_size": 1})
        began = time.monotonic()
        for _ in range(2):
            threading.Thread(target=_call_and_forget, args=(server.url,), daemon=True).start()
        row = eventually(
            lambda: (row := watch.row("hangs")) and row["waiting"] and row, within_s=SEEN_S
        )
        assert (row["in_use"], row["idle"], row["waiting"]) == (1, 0, 1)
        listed = server.http.get("/api/v1/executions?task=hangs&status=RUNNING").json()
        told = story(server, listed["executions"][0]["execution_id"])
        assert time.monotonic() - began < SEEN_S
        assert told["steps"][-1]["kind"] == "now"
        assert "has run for" in told["steps"][-1]["text"]
        assert "it is ended 60.0 s after it was accepted" in told["steps"][-1]["text"]
        waits = server.http.get("/api/v1/executions?task=hangs&status=PENDING").json()
        told = story(server, waits["executions"][0]["execution_id"])
        assert "1 of 1 instances work" in told["steps"][-1]["text"]
        for row in (*listed["executions"], *waits["executions"]):
            server.http.post(f"/api/v1/executions/{row['execution_id']}/cancel")


def _call_and_forget(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{url}/functions/hangs", json={"how": "hang"}, timeout=60)


def test_a_life_is_told_from_the_queue_to_the_callback_and_after_a_restart(tmp_path: Path) -> None:
    with watched(tmp_path) as (server, watch):
        server.deployed("later", CODE, retry={"initial_backoff_s": 0.05})
        accepted = server.call(
            "later",
            {"how": "raise"},
            headers={"prefer": "respond-async", "atlatl-max-retries": "1"},
        )
        execution_id = accepted.json()["execution_id"]
        eventually(lambda: watch.of("execution_died"))
        server.http.get(f"/api/v1/executions/{execution_id}?wait=10")
        told = eventually(
            lambda: (told := story(server, execution_id))["steps"][-1]["kind"] == "died" and told
        )
        kinds = [step["kind"] for step in told["steps"]]
        order = ["accepted", "attempt_failed", "taken", "breaker", "instance", "runs", "ended"]
        assert [kind for kind in kinds if kind in order] == order
        assert "ValueError: no such customer" in told["summary"]
        printed = next(step for step in told["steps"] if step["kind"] == "output")
        assert printed["details"]["lines"] == ["it goes raise"]
        shown = server.cli("explain", execution_id)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.splitlines()[0] == told["summary"]
        assert "attempt 1 on instance" in shown.stdout
        cold = server.call("later").headers["atlatl-execution-id"]
    with serving(tmp_path / "data") as server:
        again = story(server, execution_id)
        assert again["summary"] == told["summary"]
        steps = {step["kind"]: step for step in again["steps"]}
        assert "attempt 1 on instance" in steps["attempt_failed"]["text"]
        assert story(server, cold)["summary"].startswith("execution of 'later': COMPLETED")


def test_a_reader_who_does_not_read_harms_nobody(tmp_path: Path) -> None:
    with watched(tmp_path) as (server, watch):
        server.deployed("busy", CODE)
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\n"
            deaf.sendall(f"{head}Authorization: Bearer {server.token}\r\n\r\n".encode())
            for _ in range(300):
                assert server.call("busy").status_code == 200
            row = eventually(lambda: watch.row("busy"))
            assert row["calls_per_s"] > 0
            assert row["errors_per_s"] == 0
        ends = len(watch.of("execution_finished"))
        eventually(
            lambda: (
                ends + sum(event["skipped"] for event in watch.of("figures")) >= 300
                or len(watch.of("figures")) > 30
            )
        )
        told = len(watch.of("execution_finished"))
        assert told + sum(event["skipped"] for event in watch.of("figures")) == 300


def test_top_shows_one_frame_where_there_is_no_terminal(tmp_path: Path) -> None:
    with watched(tmp_path) as (server, _):
        server.deployed("hello", CODE)
        server.deployed("world", CODE)
        plain = server.cli("top")
        assert plain.returncode == 0, plain.stderr
        assert {"hello", "world"} <= set(plain.stdout.split())
        frame = json.loads(server.cli("top", "--json").stdout)
        assert [row["task_name"] for row in frame["tasks"]] == ["hello", "world"]
        assert {row["breaker"] for row in frame["tasks"]} == {"closed"}
        assert frame["service"]["tasks"] == 2
        token = {"ATLATL_TOKEN": "wrong"}
        refused = server.cli("top", env=token)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
