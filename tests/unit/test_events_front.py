"""`GET /api/v1/events` and `/explain` as HTTP answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from atlatl.errors import FunctionRaised
from atlatl.events import BreakerChanged, TaskDeployed
from atlatl.front.events import EventStream
from atlatl.model import Call, Event, failed
from atlatl.telemetry.fanout import Fanout
from atlatl.telemetry.feed import Feed
from tests.unit.front_fakes import FakeService, ask, make_execution
from tests.virtual_time import virtual


def happening() -> FakeService:
    service = FakeService()
    service.happened = [
        TaskDeployed(at=1.0, task_name="hello", version=1, created=True),
        BreakerChanged(at=2.0, task_name="hello", old="closed", new="open"),
    ]
    return service


def test_events_are_server_sent() -> None:
    answer = ask(happening(), "GET", "/api/v1/events")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    retry, deployed, changed, *rest = answer.text.split("\n\n")
    assert retry == "retry: 2000"
    assert deployed.splitlines()[0] == "event: task_deployed"
    assert changed.splitlines()[0] == "event: breaker_changed"
    assert json.loads(changed.splitlines()[1].removeprefix("data: ")) == {
        "at": "1970-01-01T00:00:02Z",
        "kind": "breaker_changed",
        "task_name": "hello",
        "old": "closed",
        "new": "open",
    }
    assert rest == [""]


def test_kinds_and_a_task_are_chosen_by_the_query() -> None:
    one = ask(happening(), "GET", "/api/v1/events?kinds=breaker_changed,%20figures&task=hello")
    assert one.text.count("event: ") == 1
    assert "event: " not in ask(happening(), "GET", "/api/v1/events?task=other").text
    wrong = ask(happening(), "GET", "/api/v1/events?kinds=nonsense")
    assert (wrong.status_code, wrong.json()["code"]) == (400, "INVALID_REQUEST")
    assert "breaker_changed" in wrong.json()["detail"]


def test_a_head_request_ends_at_once() -> None:
    answer = ask(happening(), "HEAD", "/api/v1/events")
    assert (answer.status_code, answer.text) == (200, "")


@virtual
async def test_a_caller_who_hangs_up_is_listened_to_no_more() -> None:
    loop = asyncio.get_running_loop()
    fanout = Fanout([])
    feed = Feed(fanout, lambda *_: {"tasks": []}, clock=loop.time, wall=loop.time)
    gone = asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    stream = EventStream(feed.listen(["task_deleted"]))
    streaming = loop.create_task(stream({"type": "http"}, receive, send))
    await asyncio.sleep(40.0)
    assert [message["body"] for message in sent[2:]] == [b": all is quiet\n\n"] * 2
    gone.set()
    await streaming
    assert fanout._listeners == ()
    assert loop.time() == 40.0


@virtual
async def test_a_stream_comes_to_its_end_so_that_a_token_is_asked_for_again() -> None:
    loop = asyncio.get_running_loop()
    feed = Feed(Fanout([]), lambda *_: {"tasks": []}, clock=loop.time, wall=loop.time)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    await EventStream(feed.listen())({"type": "http"}, receive, send)
    assert 900 <= loop.time() <= 920
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert sum(message.get("body", b"").count(b"event: figures") for message in sent) >= 899


def test_explain_counts_from_acceptance() -> None:
    service = FakeService()
    call = Call(execution_id="e/1", task_name="hello", payload=Event(value=None))
    service.known["e/1"] = make_execution(call, failed(FunctionRaised("ValueError: no")))
    told = ask(service, "GET", "/api/v1/executions/e/1/explain").json()
    assert told["execution_id"] == "e/1"
    assert told["summary"].startswith("execution of 'hello': FAILED with EXECUTION_ERROR")
    assert [(step["kind"], step["after_ms"]) for step in told["steps"]] == [
        ("accepted", 0),
        ("breaker", 250),
        ("instance", 250),
        ("runs", 250),
        ("ended", 750),
    ]
    assert told["steps"][0]["at"] == "2023-11-14T22:13:20.250000Z"
    missing = ask(service, "GET", "/api/v1/executions/e/2/explain")
    assert (missing.status_code, missing.json()["code"]) == (404, "EXECUTION_NOT_FOUND")
