"""Traces of a running service, as a collector sees them: both fronts, the queue, callbacks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto.function_pb2_grpc import FunctionServiceStub
from tests.collector import Collector, collecting
from tests.e2e.server import Server, eventually, serving
from tests.receiver import answers, receiver

pytest.importorskip("opentelemetry.sdk", reason='needs pip install "atlatl[traces]"')
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}
NEVER = "2099-01-01T00:00:00Z"

CODE = """
import os

def main(context):
    return context.traceparent

def whole(request):
    return request.headers["traceparent"]

def dies_if_told(dies=False):
    if dies:
        os._exit(3)

def fails_once(context):
    if context.attempt == 1:
        os._exit(3)
    return context.traceparent
"""


@contextmanager
def traced(
    tmp_path: Path, ratio: float = 0.0, **settings: Any
) -> Iterator[tuple[Server, Collector]]:
    with (
        collecting() as collector,
        serving(
            tmp_path / "data",
            telemetry__traces_endpoint=collector.url,
            telemetry__traces_sample_ratio=ratio,
            **settings,
        ) as server,
    ):
        server.deployed("hello", CODE)
        yield server, collector


def test_a_call_over_http_is_traced_from_its_caller_into_the_function(tmp_path: Path) -> None:
    with traced(tmp_path) as (server, collector):
        inner = server.call("hello", headers=SAMPLED).text
        server.deployed("whole", CODE, handler="main.py:whole")
        header = server.call("whole", headers={"traceparent": f"00-{'ab' * 16}-{PARENT}-01"}).text
        eventually(lambda: len(collector.of(TRACE)) == len(collector.of("ab" * 16)) == 3)
        whole = collector.named(TRACE, "hello")
        assert (whole.parent_id, whole.service, whole.failed) == (PARENT, "atlatl", False)
        assert whole.attributes["faas.coldstart"] is True
        run, queue = collector.named(TRACE, "run"), collector.named(TRACE, "queue")
        assert {run.parent_id, queue.parent_id} == {whole.span_id}
        assert inner == f"00-{TRACE}-{run.span_id}-01"
        assert whole.began_ns <= queue.began_ns <= queue.ended_ns <= run.began_ns
        assert run.began_ns <= run.ended_ns <= whole.ended_ns
        assert header == f"00-{'ab' * 16}-{collector.named('ab' * 16, 'run').span_id}-01"
        record = server.http.get(
            f"/api/v1/executions/{whole.attributes['faas.invocation_id']}"
        ).json()
        assert record["trace_id"] == TRACE
        lines = server.http.get("/metrics").text.splitlines()
        assert 'atlatl_trace_records_total{outcome="exported"} 2' in lines


def test_a_cold_start_is_a_span_in_the_time_that_the_call_waited(tmp_path: Path) -> None:
    with traced(tmp_path) as (server, collector):
        server.deployed("dies", CODE, handler="main.py:dies_if_told")
        # The instance that is there since the deploy is gone with this one.
        assert server.call("dies", {"dies": True}).status_code == 502
        assert server.call("dies", headers=SAMPLED).status_code == 200
        eventually(lambda: len(collector.of(TRACE)) == 4)
        whole, queue, start, run = (
            collector.named(TRACE, name) for name in ("dies", "queue", "start", "run")
        )
        assert start.parent_id == whole.span_id
        assert whole.attributes["faas.coldstart"] is True
        assert start.attributes["faas.instance"] == whole.attributes["faas.instance"]
        assert start.attributes["atlatl.origin"] in ("blank", "fork", "task_zygote")
        assert queue.began_ns <= start.began_ns < start.ended_ns <= queue.ended_ns <= run.began_ns


def test_a_call_over_grpc_is_traced_too(tmp_path: Path) -> None:
    with traced(tmp_path) as (server, collector):
        task_id = server.http.get("/api/v1/tasks/hello").json()["task_id"]
        with grpc.insecure_channel(server.grpc) as channel:
            stub: Any = FunctionServiceStub(channel)  # type: ignore[no-untyped-call]
            request = pb.InvokeFunctionRequest(
                invocation_type=pb.INVOCATION_TYPE_EXISTING_TASK, task_id=task_id, wait=True
            )
            answer = stub.InvokeFunction(request, metadata=tuple(SAMPLED.items()), timeout=30)
        assert answer.success, answer
        eventually(lambda: len(collector.of(TRACE)) == 3)
        assert collector.named(TRACE, "hello").parent_id == PARENT
        run = collector.named(TRACE, "run")
        assert f"00-{TRACE}-{run.span_id}-01".encode() in answer.result.result.value


def test_the_trace_goes_through_the_queue_and_a_retry_and_out_on_the_callback(
    tmp_path: Path,
) -> None:
    received: list[dict[str, str]] = []
    with (
        receiving(received) as url,
        traced(tmp_path, callbacks__allowed_hosts=[urlsplit(url).netloc]) as (server, collector),
    ):
        server.deployed("once", CODE, handler="main.py:fails_once", retry={"initial_backoff_s": 0})
        answer = server.call(
            "once",
            headers={
                **SAMPLED,
                "prefer": "respond-async",
                "atlatl-callback-url": url,
                "atlatl-max-retries": "2",
            },
        )
        assert answer.status_code == 202, answer.text
        execution_id = answer.headers["atlatl-execution-id"]
        eventually(lambda: any(span.name == "callback" for span in collector.of(TRACE)))
        eventually(lambda: any(span.name == "once" for span in collector.of(TRACE)))
        whole, callback = collector.named(TRACE, "once"), collector.named(TRACE, "callback")
        first, second = sorted(
            (span for span in collector.of(TRACE) if span.name == "run"),
            key=lambda span: span.began_ns,
        )
        assert whole.parent_id == PARENT
        assert whole.attributes["atlatl.mode"] == "async"
        assert {first.parent_id, second.parent_id, callback.parent_id} == {whole.span_id}
        assert (first.attributes["atlatl.attempt"], second.attributes["atlatl.attempt"]) == (1, 2)
        assert (first.failed, second.failed, whole.failed) == (True, False, False)
        assert first.attributes["error.type"] == "INSTANCE_CRASHED"
        assert collector.named(TRACE, "queue").ended_ns <= first.began_ns
        assert received[0]["traceparent"] == f"00-{TRACE}-{callback.span_id}-01"
        assert received[0]["tracestate"] == "a=b"
        result = server.http.get(f"/api/v1/executions/{execution_id}/result").text
        assert result == f"00-{TRACE}-{second.span_id}-01"


def test_a_trace_survives_the_service_in_the_queue(tmp_path: Path) -> None:
    with collecting() as collector:
        settings = {"telemetry__traces_endpoint": collector.url}
        with serving(tmp_path / "data", **settings) as server:
            server.deployed("hello", CODE)
            later = {
                **SAMPLED,
                "prefer": "respond-async",
                "atlatl-not-before": NEVER,
            }
            execution_id = server.call("hello", headers=later).headers["atlatl-execution-id"]
            server.http.post(f"/api/v1/executions/{execution_id}/cancel", json={})
            eventually(lambda: collector.of(TRACE))
            soon = {**SAMPLED, "prefer": "respond-async", "atlatl-not-before": soon_at()}
            assert server.call("hello", headers=soon).status_code == 202
        before = len(collector.of(TRACE))
        with serving(tmp_path / "data", **settings):
            eventually(lambda: len(collector.of(TRACE)) > before, within_s=20)
        ended = [span for span in collector.of(TRACE) if span.name == "hello"]
        assert [span.parent_id for span in ended] == [PARENT, PARENT]
        assert [span.failed for span in ended] == [True, False]


def test_calls_without_a_trace_are_sampled(tmp_path: Path) -> None:
    with traced(tmp_path, ratio=1.0) as (server, collector):
        assert server.call("hello").text.startswith("00-")
        assert server.call("nobody").status_code == 404
        unsampled = f"00-{'cd' * 16}-{PARENT}-00"
        assert server.call("hello", headers={"traceparent": unsampled}).text == unsampled
        eventually(lambda: len({span.trace_id for span in collector.spans}) == 2)
        roots = [span for span in collector.spans if not span.parent_id]
        assert {span.name for span in roots} == {"hello", "unknown task"}
        assert not collector.of("cd" * 16)


def test_a_collector_that_is_not_there_holds_up_neither_calls_nor_the_end(tmp_path: Path) -> None:
    with collecting() as collector:
        collector.held.set()
        with serving(
            tmp_path / "data",
            telemetry__traces_endpoint=collector.url,
            telemetry__traces_sample_ratio=1.0,
        ) as server:
            server.deployed("hello", CODE)
            for _ in range(200):
                assert server.call("hello").status_code == 200
            lines = server.http.get("/metrics").text.splitlines()
            assert 'atlatl_trace_records_total{outcome="exported"} 0' in lines
        collector.release.set()


def test_without_an_endpoint_the_callers_context_goes_through_as_it_came(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.deployed("hello", CODE)
        assert server.call("hello", headers=SAMPLED).text == SAMPLED["traceparent"]
        assert server.call("hello").text == ""


def soon_at() -> str:
    return (datetime.now(UTC) + timedelta(seconds=3)).isoformat()


@contextmanager
def receiving(received: list[dict[str, str]]) -> Iterator[str]:
    """A receiver of callbacks in a thread of its own."""
    ready, stop = threading.Event(), threading.Event()
    where: list[str] = []

    async def watched() -> None:
        async with receiver(answers(200)) as it:
            where.append(it.url)
            ready.set()
            while not stop.is_set():
                received[:] = [each.headers for each in it.received]
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=asyncio.run, args=(watched(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield where[0]
    finally:
        stop.set()
        thread.join()
