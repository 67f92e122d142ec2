"""A function that breaks is seen within 5 s, with its cause, wherever one looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.browser import Browser, browsing, needs_chromium
from tests.e2e.server import Server, eventually, serving

pytestmark = pytest.mark.slow

SEEN_S = 5.0
"""What the promise is."""

CODE = """
import os, signal, time

def main(how: str):
    print("it goes on until it breaks")
    if how == "raise":
        raise ValueError("no such customer")
    if how == "hang":
        time.sleep(60)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "memory":
        kept = bytearray(200_000_000)
        while kept:
            kept += bytearray(200_000_000)
"""

CAUSES = {
    "raise": ("EXECUTION_ERROR", "ValueError: no such customer"),
    "hang": ("EXECUTION_TIMEOUT", "500 ms"),
    "crash": ("INSTANCE_CRASHED", "SIGSEGV"),
    "memory": ("RESOURCE_LIMIT_EXCEEDED", "memory"),
}
"""Code and words that tell each from the others."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("breaks") / "data") as server:
        for how in CAUSES:
            server.deployed(
                how,
                CODE,
                timeout_ms=500 if how == "hang" else 30_000,
                confinement={"memory_bytes": 134_217_728},
                breaker={"failure_threshold": 1000},
            )
        yield server


@pytest.fixture(scope="module")
def page(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        told = server.cli("dashboard", "--url", server.url)
        browser.open(told.stdout.strip())
        browser.until("live", "#link")
        yield browser


def breaks(server: Server, how: str) -> str:
    """The id of an execution that has just broken."""
    answer = server.call(how, {"how": how})
    assert answer.json()["code"] == CAUSES[how][0], answer.text
    return str(answer.headers["atlatl-execution-id"])


@pytest.mark.parametrize("how", CAUSES)
def test_in_the_metrics(server: Server, how: str) -> None:
    name = f'atlatl_failures_total{{faas_name="{how}",error_code="{CAUSES[how][0]}"}} '

    def count() -> int:
        lines = server.http.get("/metrics").text.splitlines()
        return next(int(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = count()
    breaks(server, how)
    eventually(lambda: count() == before + 1, within_s=SEEN_S)


@pytest.mark.parametrize("how", CAUSES)
def test_in_the_log(server: Server, how: str) -> None:
    code, cause = CAUSES[how]
    execution_id = breaks(server, how)

    def said() -> dict[str, Any]:
        lines = [json.loads(line) for line in server.lines if execution_id in line]
        return next((line for line in lines if "outcome" in line), {})

    line = eventually(said, within_s=SEEN_S)
    assert (line["task"], line["error_code"]) == (how, code)
    assert cause in line["error"]


@pytest.mark.parametrize("how", CAUSES)
def test_in_what_explain_tells(server: Server, how: str) -> None:
    code, cause = CAUSES[how]
    told = server.http.get(f"/api/v1/executions/{breaks(server, how)}/explain").json()
    assert code in told["summary"]
    assert cause in told["summary"]
    assert {"accepted", "runs", "ended"} <= {step["kind"] for step in told["steps"]}


@needs_chromium
@pytest.mark.parametrize("how", CAUSES)
def test_on_the_dashboard(server: Server, page: Browser, how: str) -> None:
    code, cause = CAUSES[how]
    execution_id = breaks(server, how)
    row = (
        "return [...document.querySelectorAll('.feed li')].find(item => "
        "item.innerHTML.includes(arguments[0]))?.innerText ?? ''"
    )
    shown = page.until_true(row, execution_id, within_s=SEEN_S)
    assert how in shown
    assert code in shown
    assert cause in shown
