"""Prometheus' own tool on the alert rules and on the metrics of a running service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server import serving

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


def test_check_against_a_running_service(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.deployed("hello", "def main():\n    return 1\n", pool={"min_size": 1})
        assert server.call("hello").status_code == 200
        done = server.cli("check")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "figures agree with /metrics" in done.stdout
        assert "measured on 1 of them" in done.stdout
        server.deployed("hello", "def main():\n    return 1\n", breaker={"failure_threshold": 200})
        done = server.cli("check", "--json")
        assert done.returncode == 1, done.stdout
        assert '"ok": false' in done.stdout
