"""Durable executions while the service is killed: what was accepted is done."""

from __future__ import annotations

import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, eventually

CLIENTS, EACH, KILLS = 16, 313, 10
EVERY_BAD = 50
"""Each so many is made to fail."""

FUNCTION = """
import os
def main(n: int, bad: bool = False):
    if bad:
        raise ValueError("made to fail")
    return {"n": n, "by": os.urandom(8).hex()}
"""

POISON = """
import os, signal
def main():
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Service:
    """The service in one life after another, as clients find it."""

    def __init__(self, tmp_path: Path) -> None:
        self._tmp_path = tmp_path
        self.changed = threading.Condition()
        self.server = self._start()

    def _start(self) -> Server:
        return Server(self._tmp_path / "data", drain={"timeout_s": 5})

    def kill_and_start(self) -> None:
        self.server.process.send_signal(signal.SIGKILL)
        self.server.kill()
        server = self._start()
        with self.changed:
            self.server = server
            self.changed.notify_all()


def submit_all(service: Service, client: int, accepted: dict[str, bool], done: list[int]) -> None:
    """Submits executions with ids of its own until each is accepted."""
    with httpx.Client() as http:
        for number in range(EACH):
            execution_id = f"c{client}-{number}"
            bad = number % EVERY_BAD == 7
            end = time.monotonic() + 100
            while not submitted(http, service.server, execution_id, number, bad=bad):
                assert time.monotonic() < end, "the service does not come back"
                with service.changed:
                    service.changed.wait(0.1)
            accepted[execution_id] = bad
    done.append(client)


def submitted(
    http: httpx.Client, server: Server, execution_id: str, number: int, *, bad: bool
) -> bool:
    headers = {"Prefer": "respond-async", "Idempotency-Key": execution_id}
    try:
        answer = http.post(
            f"{server.url}/functions/work", json={"n": number, "bad": bad}, headers=headers
        )
    except httpx.TransportError:
        return False
    assert answer.status_code in (202, 503), answer.text
    return answer.status_code == 202


def record_of(server: Server, execution_id: str) -> dict[str, Any]:
    return dict(server.http.get(f"/api/v1/executions/{execution_id}").json())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_accepted_is_lost_over_ten_kills(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        service.server.deployed("work", FUNCTION, pool={"max_size": 2}, breaker={"enabled": False})
        accepted: dict[str, bool] = {}
        done: list[int] = []
        clients = [
            threading.Thread(target=submit_all, args=(service, client, accepted, done))
            for client in range(CLIENTS)
        ]
        for thread in clients:
            thread.start()
        dice = random.Random(5)
        told: dict[str, str] = {}
        for kill in range(KILLS):
            # By how far the work is, not by the time, so that a slow machine is killed in it too.
            goal = min(CLIENTS * EACH, (kill + 1) * CLIENTS * EACH // (KILLS + 2))
            eventually(lambda goal=goal: len(accepted) >= goal, within_s=120)
            for execution_id in dice.sample(sorted(accepted), 20):
                remember(service.server, execution_id, told)
            time.sleep(dice.random() * 0.05)  # the moment itself is left to chance
            service.kill_and_start()
        for thread in clients:
            thread.join(120)
        assert len(done) == CLIENTS
        assert len(accepted) == CLIENTS * EACH
        server = service.server
        eventually(lambda: not unfinished(server), within_s=120)
        statuses = Counter(
            (bad, record_of(server, execution_id)["status"])
            for execution_id, bad in accepted.items()
        )
        bad = sum(accepted.values())
        assert statuses == {(False, "COMPLETED"): len(accepted) - bad, (True, "FAILED"): bad}
        assert {row["execution_id"] for row in dead_letters(server)} == {
            execution_id for execution_id, bad in accepted.items() if bad
        }
        for execution_id, result in told.items():
            remember(server, execution_id, told)
            assert told[execution_id] == result
        stored = sqlite3.connect(server.data_dir / "atlatl.db").execute(
            "SELECT count(*), count(DISTINCT execution_id) FROM executions WHERE mode = 'ASYNC'"
        )
        assert stored.fetchone() == (len(accepted), len(accepted))
    finally:
        service.server.kill()


def remember(server: Server, execution_id: str, told: dict[str, str]) -> None:
    """Notes the result that was told, which must never be another one later."""
    answer = server.http.get(f"/api/v1/executions/{execution_id}/result")
    if answer.status_code == 200:
        assert told.setdefault(execution_id, answer.text) == answer.text


def unfinished(server: Server) -> int:
    return sum(
        len(server.http.get(f"/api/v1/executions?status={status}&limit=1").json()["executions"])
        for status in ("PENDING", "RUNNING")
    )


def dead_letters(server: Server) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = server.http.get(
            "/api/v1/dead-letters", params={"limit": 100, "start_after": cursor}
        ).json()
        rows += page["dead_letters"]
        cursor = page["next_start_after"]
        if not cursor:
            return rows


@pytest.mark.slow
def test_a_poison_function_becomes_dead_letters_and_others_go_on(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    try:
        server.deployed("poison", POISON, breaker={"enabled": False})
        server.deployed("work", FUNCTION)
        headers = {"Prefer": "respond-async", "Atlatl-Max-Retries": "2"}
        bad = [server.call("poison", headers=headers) for _ in range(5)]
        good = [server.call("work", {"n": n}, headers=headers) for n in range(20)]
        assert {answer.status_code for answer in (*bad, *good)} == {202}
        for answer in good:
            result = server.http.get(answer.headers["location"] + "/result", params={"wait": "30"})
            assert result.status_code == 200
        for answer in bad:
            server.http.get(answer.headers["location"], params={"wait": "30"})
            record = record_of(server, answer.headers["atlatl-execution-id"])
            assert (record["status"], record["error_code"]) == ("FAILED", "INSTANCE_CRASHED")
            assert record["attempt"] == 3
        assert len(dead_letters(server)) == 5
        server.stop()
    finally:
        server.kill()
