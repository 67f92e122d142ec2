"""All figures agree with what the callers of 10 000 mixed calls saw."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from atlatl import errors
from scripts.stranger import Stranger
from tests.e2e.browser import browsing, needs_chromium
from tests.e2e.load import Answer, Caller
from tests.e2e.server import Server, eventually, serving
from tests.e2e.watching import Watch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CODE = """
import os, time

def main(how="well"):
    if how == "raise":
        raise ValueError("no")
    if how == "die":
        os._exit(3)
    if how == "hang":
        time.sleep(60)
    return how
"""
CALLERS = 16
BY_OUTCOME = re.compile(r'atlatl_executions_total{faas_name="(.*)",outcome="(.*)"}')

OUTCOMES = {
    kind.code: kind.outcome
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.AtlatlError) and "code" in vars(kind)
}
"""How an error is counted, by the code that its caller sees."""

SORTS = {
    "well": 6800,
    "raise": 500,
    "hang": 60,
    "die": 60,
    "wrong": 300,
    "nobody": 300,
    "limited": 300,
    "open": 300,
    "cancelled": 20,
    "async": 900,
    "async raise": 100,
    "grpc": 300,
    "grpc raise": 60,
}

Key = tuple[str, str]
"""Task and outcome."""


class Load:
    """Makes the calls, and counts what it is answered."""

    def __init__(self, server: Server, stranger: Stranger, mixed_id: str) -> None:
        self.server = server
        self.stranger = stranger
        self.mixed_id = mixed_id
        self.seen: Counter[Key] = Counter()
        self.accepted: list[str] = []
        self.cold = 0

    async def run(self) -> None:
        assert sum(SORTS.values()) == 10_000
        sorts = [sort for sort, count in SORTS.items() for _ in range(count)]
        random.Random(1).shuffle(sorts)
        left = iter(sorts)

        async def caller() -> None:
            async with Caller(self.server.url, {}) as one:
                for sort in left:
                    await self._one(sort, one)

        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(caller())

    async def _one(self, sort: str, caller: Caller) -> None:
        how, _, again = sort.partition(" ")
        if how == "grpc":
            answered = await asyncio.to_thread(
                self.stranger.invoke, self.mixed_id, how=again or "well"
            )
            # Counted here, not in the thread: `+=` of two threads may lose one.
            code = str(answered.result.error_code)
            self.seen["mixed", OUTCOMES[code] if code else "success"] += 1
        elif how == "async":
            answer = await caller.call("mixed", {"how": again or "well"}, LATER)
            assert answer.status == 202, answer
            self.accepted.append(answer.headers["atlatl-execution-id"])
        elif how in ("nobody", "limited", "open"):
            # Strangers choose names: what is called that is not there has none in the figures.
            name = "/other" if how == "nobody" else how
            self._count(name, await caller.call(how))
        elif how == "wrong":
            self._count("mixed", await caller.call("mixed", {"no such parameter": 1}))
        elif how == "cancelled":
            await self._cancelled(caller)
        else:
            limit = "Atlatl-Timeout-Ms: 100\r\n" if how == "hang" else ""
            self._count("mixed", await caller.call("mixed", {"how": how}, limit))

    def _count(self, name: str, answer: Answer) -> None:
        self.seen[name, OUTCOMES[answer.code] if answer.code else "success"] += 1
        self.cold += "atlatl-cold-start" in answer.headers

    async def _cancelled(self, caller: Caller) -> None:
        key = f"cancel-{id(caller)}-{self.seen['mixed', 'cancelled']}-{random.getrandbits(40)}"
        header = f"Idempotency-Key: {key}\r\n"
        call = asyncio.create_task(caller.call("mixed", {"how": "hang"}, header))
        status = ""
        while status != "RUNNING":
            status = await asyncio.to_thread(self._status, key)
        path = f"/api/v1/executions/{key}/cancel"
        told = await asyncio.to_thread(self.server.http.post, path, json={})
        assert told.json().get("cancelled") is True, (told.text, await call)
        answer = await call
        assert answer.code == "CANCELLED"
        self._count("mixed", answer)

    def _status(self, execution_id: str) -> str:
        found = self.server.http.get(f"/api/v1/executions/{execution_id}")
        return str(found.json().get("status", ""))

    async def ends(self) -> None:
        """Adds how the async ones ended."""
        for execution_id in self.accepted:
            path = f"/api/v1/executions/{execution_id}?wait=60"
            record = (await asyncio.to_thread(self.server.http.get, path)).json()
            self.seen["mixed", record["outcome"]] += 1

    def total(self, *outcomes: str) -> int:
        return sum(count for (_, outcome), count in self.seen.items() if outcome in outcomes)


LATER = "Prefer: respond-async\r\n"


def samples(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


class Run(NamedTuple):
    """The calls have been made, and all of them have ended."""

    server: Server
    stranger: Stranger
    load: Load
    watch: Watch


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with serving(tmp_path_factory.mktemp("figures") / "data") as server:
        lenient = {"breaker": {"failure_threshold": 1_000_000}, "pool": {"max_size": 8}}
        for name in ("mixed", "open"):
            server.deployed(name, CODE, **lenient)
        server.deployed("limited", CODE, rate_limit_per_s=0.0001)
        assert server.http.post("/api/v1/breakers/open/open").status_code == 200
        mixed_id = server.http.get("/api/v1/tasks/mixed").json()["task_id"]
        watch = Watch(server, "?kinds=figures")
        eventually(lambda: watch.seen)
        with Stranger(server.grpc, token=server.token) as stranger:
            load = Load(server, stranger, mixed_id)

            async def all_of_it() -> None:
                await load.run()
                await load.ends()

            asyncio.run(all_of_it())
            # The end of an execution is told after it is written, and counted with that; dead
            # letters are counted by the store, once a tick.
            eventually(lambda: exported(server)[0] >= sum(load.seen.values()))
            eventually(lambda: sums(exported(server)[1])["atlatl_dead_letters"] >= 100)
            yield Run(server, stranger, load, watch)


def test_prometheus_metrics_and_stats_say_what_the_callers_saw(ran: Run) -> None:
    agree(ran.server, ran.stranger, ran.load)


def test_what_the_page_is_told_sums_up_to_the_same(ran: Run) -> None:
    load, figures = ran.load, ran.watch.seen
    done, wrong = load.total("success"), load.total("error", "timeout", "crashed")
    refused = load.total("rejected", "invalid")

    def summed(rate: str, task: str = "") -> int:
        rows = [(event["service"], event["span_s"]) for event in figures]
        if task:
            rows = [
                (row, event["span_s"])
                for event in figures
                for row in event["tasks"]
                if row["task_name"] == task
            ]
        return round(sum(row[rate] * span_s for row, span_s in rows))

    eventually(lambda: figures[-1]["service"]["executions"] == done + wrong)
    eventually(lambda: summed("calls_per_s") >= done + wrong)
    assert summed("calls_per_s") == done + wrong
    assert summed("errors_per_s") == wrong == figures[-1]["service"]["errors"]
    assert summed("refused_per_s") == refused
    assert figures[-1]["queue"]["dead"] == 100
    mixed = [load.seen["mixed", outcome] for outcome in ("success", "error", "timeout", "crashed")]
    assert summed("calls_per_s", "mixed") == sum(mixed)
    assert summed("errors_per_s", "mixed") == sum(mixed[1:])
    assert summed("refused_per_s", "open") == load.seen["open", "rejected"]


@needs_chromium
def test_the_page_shows_the_same(ran: Run, tmp_path: Path) -> None:
    load = ran.load
    ended = load.total("success", "error", "timeout", "crashed")
    # Of a task all that were let in, those that were cancelled then included.
    of_mixed = sum(
        count
        for (task, outcome), count in load.seen.items()
        if task == "mixed" and outcome not in ("invalid", "rejected")
    )
    with browsing(tmp_path) as browser:
        told = ran.server.cli("dashboard", "--url", ran.server.url)
        browser.open(told.stdout.strip())
        browser.until(f"{ended:,} since the start", ".tiles")
        browser.until("100", "#dead")
        browser.until("1 breaker not closed", ".tiles")
        browser.run("location.hash = '#/tasks/mixed'")
        browser.until(f"Executions\n{of_mixed:,}", ".tiles")


def exported(server: Server) -> tuple[float, dict[str, float]]:
    found = samples(server.http.get("/metrics").text)
    counted = (v for k, v in found.items() if k.startswith("atlatl_executions_total"))
    return sum(counted), found


def agree(server: Server, stranger: Stranger, load: Load) -> None:
    assert sum(load.seen.values()) == 10_000
    assert {outcome for _, outcome in load.seen} == {
        "success", "error", "timeout", "crashed", "rejected", "invalid", "cancelled",
    }  # fmt: skip
    _, found = exported(server)
    by_key = {
        (match[1], match[2]): int(value)
        for name, value in found.items()
        if (match := BY_OUTCOME.fullmatch(name))
    }
    assert {key: count for key, count in by_key.items() if count} == dict(load.seen)

    done, wrong = load.total("success"), load.total("error", "timeout", "crashed")
    summed = sums(found)
    assert summed["faas_invocations_total"] == done
    assert summed["faas_errors_total"] == summed["atlatl_failures_total"] == wrong
    assert summed["faas_timeouts_total"] == load.total("timeout")
    assert summed["faas_invoke_duration_seconds_count"] == done + wrong
    assert summed["atlatl_breaker_rejections_total"] == load.seen["open", "rejected"] == 300
    assert summed["atlatl_executions_accepted_total"] == len(load.accepted) == 1000
    assert summed["atlatl_executions_died_total"] == summed["atlatl_dead_letters"] == 100

    metrics = server.http.get("/api/serverless/metrics").json()
    total = metrics["total"]
    assert (total["request_count"], total["success_count"]) == (done + wrong, done)
    for outcome in ("timeout", "crashed", "rejected", "cancelled", "invalid"):
        assert total[f"{outcome}_count"] == load.total(outcome), outcome
    assert total["error_count"] == wrong
    assert sum(bucket["count"] for bucket in total["latency_histogram"]) == done + wrong
    assert total["cold_start_count"] == summed["faas_coldstarts_total"] >= load.cold > 0
    assert metrics["queue"]["dead_letters"] == 100
    mixed = server.http.get("/api/serverless/metrics?task=mixed").json()["total"]
    assert mixed["success_count"] == load.seen["mixed", "success"]

    asked = {"include_task_stats": True, "include_execution_stats": True}
    over_grpc = stranger.ask("GetStats", **asked)
    assert over_grpc.execution_stats.completed_executions == done
    assert over_grpc.execution_stats.failed_executions == wrong
    assert over_grpc.service_stats.total_executions == done + wrong
    assert over_grpc.function_service_stats.execution_count == done + wrong
    assert over_grpc.function_service_stats.successful_executions == done
    assert over_grpc.function_service_stats.failed_executions == wrong
    assert dict(over_grpc.execution_stats.executions_by_function) == {"main": done + wrong}
    over_http = server.http.get("/api/v1/stats").json()["execution_stats"]
    assert (over_http["completed_executions"], over_http["failed_executions"]) == (done, wrong)


def sums(found: dict[str, float]) -> Counter[str]:
    summed: Counter[str] = Counter()
    for name, value in found.items():
        summed[name.partition("{")[0]] += value  # type: ignore[assignment]
    return summed
