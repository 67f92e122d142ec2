"""Prometheus' own tool on the alert rules and on the metrics of a running service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server import eventually, serving

ALERTS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
TOOL = shutil.which("promtool", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")

needs_promtool = pytest.mark.skipif(
    TOOL is None,
    reason="promtool is not installed; get it with: sudo apt-get install prometheus",
)


def promtool(*args: str, text: str = "") -> None:
    assert TOOL is not None
    done = subprocess.run(
        [TOOL, *args], cwd=ALERTS, input=text, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_alert_rules_load() -> None:
    promtool("check", "rules", "alerts.yml")


@needs_promtool
def test_the_alert_rules_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")


@needs_promtool
def test_the_metrics_of_a_service_are_well_formed(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.deployed("hello", "def main(fail=False):\n    return 1 / (not fail)\n")
        assert server.call("hello").status_code == 200
        assert server.call("hello", {"fail": True}).status_code == 500
        assert server.call("nobody").status_code == 404
        text = server.http.get("/metrics").text
    assert 'faas_errors_total{faas_name="hello"} 1' in text
    promtool("check", "metrics", text=text)


LATER = "2099-01-01T00:00:00Z"


def test_the_queue_is_seen_in_all_figures_and_in_the_log(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.deployed("hello", "def main(fail=False):\n    return 1 / (not fail)\n")
        accepted = [
            server.call("hello", body, headers={"prefer": "respond-async", **more})
            for body, more in (
                ({}, {}),
                ({"fail": True}, {"atlatl-max-retries": "1"}),
                ({}, {"atlatl-not-before": LATER}),
            )
        ]
        assert [answer.status_code for answer in accepted] == [202, 202, 202]

        def figures() -> dict[str, float]:
            answer = server.http.get("/api/serverless/metrics", params={"task": "hello"}).json()
            return {**answer["total"], **answer["queue"]}

        told = eventually(lambda: (told := figures())["request_count"] == 2 and told)
        told = eventually(lambda: (told := figures())["dead_letters"] == 1 and told)
        assert (told["success_count"], told["error_count"]) == (1, 1)
        assert (told["accepted_count"], told["retry_count"], told["died_count"]) == (3, 1, 1)
        assert (told["delayed"], told["ready"], told["leased"]) == (1, 0, 0)
        assert (
            told["depth"]
            == server.http.get("/api/v1/health").json()["details"]["pending_executions"]
        )
        text = server.http.get("/metrics").text
        for line in (
            'atlatl_queue_executions{faas_name="hello",state="delayed"} 1',
            'atlatl_queue_oldest_seconds{faas_name="hello"} 0.0',
            'atlatl_dead_letters{faas_name="hello"} 1',
            "atlatl_queue_limit 100000",
            'atlatl_executions_accepted_total{faas_name="hello"} 3',
            'atlatl_execution_retries_total{faas_name="hello"} 1',
            'atlatl_executions_died_total{faas_name="hello"} 1',
            'faas_errors_total{faas_name="hello"} 1',
        ):
            assert line in text.splitlines()
        if TOOL is not None:
            promtool("check", "metrics", text=text)
    log = [json.loads(line) for line in server.lines if line.startswith("{")]
    ended = [line for line in log if line["event"] == "Task execution completed"]
    assert [(line["mode"], line["attempt"]) for line in ended] == [("async", 1), ("async", 2)]
    assert [line["error_code"] for line in log if line["event"] == "Dead letter"] == [
        "EXECUTION_ERROR"
    ]
    assert len([line for line in log if line["event"] == "Task execution is tried again"]) == 1


def test_check_against_a_running_service(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.deployed("hello", "def main():\n    return 1\n", pool={"min_size": 1})
        assert server.call("hello").status_code == 200
        done = server.cli("check")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "figures agree with /metrics" in done.stdout
        assert "measured on 1 of the instances" in done.stdout
        server.deployed("hello", "def main():\n    return 1\n", breaker={"failure_threshold": 200})
        done = server.cli("check", "--json")
        assert done.returncode == 1, done.stdout
        assert '"ok": false' in done.stdout
