"""Calls with an id of their caller when the service dies under them, and records after it."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, eventually
from tests.notes import NOTE, Notes

COUNTING = """
import os, time
def main(s: float = 0.0):
    _note({port}, b"ran")
    time.sleep(s)
    return os.urandom(8).hex()
"""


@pytest.fixture
def ran() -> Iterator[Notes]:
    """Counts each time that the function ran."""
    with Notes() as notes:
        yield notes


def start(tmp_path: Path) -> Server:
    return Server(tmp_path / "data")


def deploy(server: Server, ran: Notes, **settings: Any) -> None:
    server.deployed("counting", NOTE + COUNTING.format(port=ran.port), **settings)


def call(server: Server, key: str, **arguments: Any) -> httpx.Response:
    return server.call("counting", arguments, headers={"Idempotency-Key": key})


def killed_in_mid_call(server: Server, ran: Notes, **arguments: Any) -> None:
    """Kills the service as soon as the function of a call with the id `mine` runs."""
    before = len(ran.words())
    failed: list[Exception] = []

    def caller() -> None:
        try:
            call(server, "mine", **arguments)
        except httpx.TransportError as error:
            failed.append(error)

    thread = threading.Thread(target=caller)
    thread.start()
    eventually(lambda: len(ran.words()) > before)
    server.process.send_signal(signal.SIGKILL)
    thread.join(30)
    assert failed
    server.kill()


def test_after_a_kill_the_same_id_is_lost_and_not_run_again(tmp_path: Path, ran: Notes) -> None:
    server = start(tmp_path)
    deploy(server, ran)
    killed_in_mid_call(server, ran, s=60.0)
    server = start(tmp_path)
    try:
        for _ in range(2):
            again = call(server, "mine", s=60.0)
            assert (again.status_code, again.json()["code"]) == (502, "INSTANCE_LOST")
        record = server.http.get("/api/v1/executions/mine").json()
        assert (record["status"], record["error_code"]) == ("FAILED", "INSTANCE_LOST")
        assert record["completed_at"]
        other = call(server, "mine", s=1.0)
        assert (other.status_code, other.json()["code"]) == (409, "CONFLICT")
        assert len(ran.words()) == 1
        assert call(server, "another").status_code == 200
    finally:
        server.stop()


def test_after_a_kill_max_retries_allows_another_attempt_and_no_more(
    tmp_path: Path, ran: Notes
) -> None:
    server = start(tmp_path)
    deploy(server, ran, retry={"max_retries": 1})
    killed_in_mid_call(server, ran, s=2.0)
    server = start(tmp_path)
    killed_in_mid_call(server, ran, s=2.0)
    server = start(tmp_path)
    try:
        again = call(server, "mine", s=2.0)
        assert (again.status_code, again.json()["code"]) == (502, "INSTANCE_LOST")
        assert server.http.get("/api/v1/executions/mine").json()["attempt"] == 2
        assert len(ran.words()) == 2
    finally:
        server.stop()


def test_after_a_kill_the_second_attempt_may_succeed(tmp_path: Path, ran: Notes) -> None:
    server = start(tmp_path)
    deploy(server, ran, retry={"max_retries": 1})
    killed_in_mid_call(server, ran, s=1.0)
    server = start(tmp_path)
    try:
        answers = {call(server, "mine", s=1.0).text for _ in range(3)}
        assert len(answers) == 1
        assert server.http.get("/api/v1/executions/mine").json()["attempt"] == 2
        assert len(ran.words()) == 2
    finally:
        server.stop()


def test_what_was_answered_is_answered_again_after_a_stop_and_after_a_kill(
    tmp_path: Path, ran: Notes
) -> None:
    server = start(tmp_path)
    deploy(server, ran)
    first = call(server, "mine").text
    server.stop()
    server = start(tmp_path)
    assert call(server, "mine").text == first
    second = call(server, "second").text
    # It is written behind the answer: the docs say by how much.
    eventually(lambda: stored(tmp_path, "second") == "COMPLETED")
    server.kill()
    server = start(tmp_path)
    try:
        assert call(server, "mine").text == first
        assert call(server, "second").text == second
        assert len(ran.words()) == 2
        assert server.http.get("/api/v1/executions/second/result").text == second
    finally:
        server.stop()


def stored(tmp_path: Path, execution_id: str) -> str:
    database = sqlite3.connect(f"file:{tmp_path}/data/atlatl.db?mode=ro", uri=True)
    try:
        query = "SELECT status FROM executions WHERE execution_id = ?"
        row = database.execute(query, (execution_id,)).fetchone()
        return "" if row is None else str(row[0])
    finally:
        database.close()


def test_a_clean_stop_loses_no_record(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    server.deployed("hello", "def main(n: int = 0):\n    print('said', n)\n    return n\n")
    server.deployed("fails", "def main():\n    print('x' * 100_000)\n    raise ValueError('no')\n")
    ids = [server.call("hello", {"n": n}).headers["atlatl-execution-id"] for n in range(50)]
    failed = server.call("fails").headers["atlatl-execution-id"]
    server.stop()
    server = Server(tmp_path / "data")
    try:
        listed: list[str] = []
        cursor = ""
        while cursor is not None:
            page = server.http.get(
                "/api/v1/executions", params={"limit": 7, "start_after": cursor}
            ).json()
            listed += [row["execution_id"] for row in page["executions"]]
            cursor = page["next_start_after"]
        assert listed == [failed, *reversed(ids)]
        one = server.http.get(f"/api/v1/executions/{ids[3]}")
        assert (one.status_code, one.json()["status"]) == (200, "COMPLETED")
        assert server.http.get(f"/api/v1/executions/{ids[3]}/result").json() == 3
        logs = server.http.get(f"/api/v1/executions/{ids[3]}/logs").json()
        assert "said 3" in str(logs["lines"])
        logs = server.http.get(f"/api/v1/executions/{failed}/logs").json()
        assert "x" * 100_000 in str(logs["lines"])
        assert "ValueError" in logs["traceback"]
        gone = server.http.delete("/api/v1/tasks/hello", params={"cleanup_executions": "true"})
        assert gone.status_code in (200, 204)
        rest = server.http.get("/api/v1/executions").json()["executions"]
        assert [row["execution_id"] for row in rest] == [failed]
        figures = server.http.get("/metrics").text.splitlines()
        for reason in ("rate", "store"):
            assert f'atlatl_records_dropped_total{{reason="{reason}"}} 0' in figures
    finally:
        server.stop()
