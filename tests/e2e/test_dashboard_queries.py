"""Every query of deploy/grafana is asked of a real Prometheus that scrapes a running service."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server, eventually, serving
from tests.unit.test_prometheus import NAMES

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "atlatl.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PROMETHEUS = shutil.which("prometheus", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/sbin")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

VARIABLES = {
    "$__rate_interval": "1m",
    "$job": "atlatl",
    "$task": ".+",
    "${datasource}": "prometheus",
}
CODE = """
import os

def main(how="well"):
    if how == "raise":
        raise ValueError("no")
    if how == "die":
        os._exit(3)
    return how
"""


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Each panel's title and one of its queries, with the variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], filled(target["expr"])
    for annotation in dashboard()["annotations"]["list"]:
        yield annotation["name"], filled(annotation["expr"])


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"an unknown variable in {expression}"
    return expression


def test_every_metric_of_the_dashboard_is_one_of_ours_and_none_is_left_out() -> None:
    asked = " ".join(expression for _, expression in queries())
    named = set(re.findall(r"\b(?:atlatl|faas|process)_[a-z_]+", asked)) - {"faas_name"}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert ours <= set(NAMES)
    assert set(NAMES) - ours == {"process_virtual_memory_bytes"}


def test_the_panels_are_whole() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, panel["title"]
                taken.add((x, y))


@pytest.mark.skipif(
    PROMETHEUS is None,
    reason="prometheus is not installed; get it with: sudo apt-get install prometheus",
)
def test_every_query_has_data_from_a_running_service(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "data") as server,
        prometheus(tmp_path / "prometheus", server) as client,
    ):
        server.deployed("hello", CODE, breaker={"failure_threshold": 5, "timeout_s": 1000})
        server.deployed("broken", CODE, breaker={"failure_threshold": 1, "timeout_s": 1000})
        eventually(lambda: answer(client, "atlatl_tasks == 2"), within_s=30)

        def something_happens() -> None:
            """Of every kind: what a query asks for may not have been there before."""
            for how in ("well", "well", "well", "raise", "die", "well"):
                server.call("hello", {"how": how})
            server.call("hello", {"how": "well"}, headers={"prefer": "respond-async"})
            server.call("broken", {"how": "raise"})
            server.call("broken")

        def lacking() -> list[str]:
            something_happens()
            return [f"{title}: {each}" for title, each in queries() if not answer(client, each)]

        missing = lacking()

        def all_there() -> bool:
            nonlocal missing
            missing = lacking()
            return not missing

        try:
            eventually(all_there, within_s=60)
        except AssertionError:
            raise AssertionError("no data for\n" + "\n".join(missing)) from None
        rules = client.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert len(rules) >= 10
        [target] = client.get("/api/v1/targets").json()["data"]["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")


def answer(client: httpx.Client, expression: str) -> list[float]:
    """The values of a query that are numbers."""
    told = client.get("/api/v1/query", params={"query": expression})
    assert told.status_code == 200, f"{expression}: {told.text}"
    values = [float(each["value"][1]) for each in told.json()["data"]["result"]]
    return [value for value in values if math.isfinite(value)]


@contextmanager
def prometheus(data_dir: Path, server: Server) -> Iterator[httpx.Client]:
    """A Prometheus that scrapes the service each second."""
    assert PROMETHEUS is not None
    data_dir.mkdir()
    config = data_dir / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(ALERTS)],
                "scrape_configs": [
                    {
                        "job_name": "atlatl",
                        "static_configs": [{"targets": [server.url.removeprefix("http://")]}],
                    }
                ],
            }
        )
    )
    port = free_port()
    with (data_dir / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={config}",
                f"--storage.tsdb.path={data_dir / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            eventually(lambda: is_ready(client), within_s=30)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port
