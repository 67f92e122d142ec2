"""The clients, against the real HTTP front in memory."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from atlatl import errors, exchange
from atlatl.client import AsyncClient, Client, ServiceUnreachable
from atlatl.events import BreakerChanged
from atlatl.exchange import error_from
from atlatl.model import Call, Event, Mode, Outcome, OutcomeKind, Result, failed
from atlatl.problem import problem
from tests.unit.front_fakes import (
    LOCAL,
    TOKEN,
    FakeService,
    FakeTicket,
    FrontTransport,
    fails,
    front,
    hello,
    make_execution,
    make_pending,
)


def client(service: FakeService) -> Client:
    return Client(LOCAL, token=TOKEN, transport=FrontTransport(service))


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        ("json", b'{"a": [1, null]}', {"a": [1, None]}),
        ("text", "ä".encode(), "ä"),
        ("bytes", b"\0\xff", b"\0\xff"),
    ],
)
def test_invoke_gives_the_value(kind: str, body: bytes, value: Any) -> None:
    with client(hello(kind, body)) as service:
        assert service.invoke("hello", {"n": 1}) == value
        answer = service.call("hello")
        assert (answer.status, answer.execution_id, answer.instance_id) == (200, "new-2", "i-1")
        assert (answer.duration_ms, answer.cold_start) == (12.5, True)


@pytest.mark.parametrize(
    ("value", "content", "content_type"),
    [
        (None, b"", None),
        ({"a": 1}, b'{"a":1}', "application/json"),
        ([1], b"[1]", "application/json"),
        (False, b"false", "application/json"),
        ("ä", "ä".encode(), "text/plain; charset=utf-8"),
        (b"\0", b"\0", "application/octet-stream"),
    ],
)
def test_what_is_sent(value: Any, content: bytes, content_type: str | None) -> None:
    transport = FrontTransport(hello())
    Client(LOCAL, transport=transport).invoke("hello", value)
    sent = transport.requests[0]
    assert (sent.content, sent.headers.get("content-type")) == (content, content_type)
    assert "authorization" not in sent.headers


def test_options_of_a_call() -> None:
    fake = hello()
    own = {"X-A": "b"}
    client(fake).call(
        "hello", timeout_ms=7, execution_id="k", priority=0, max_retries=2, headers=own
    )
    call = fake.tickets[0].call
    assert (call.timeout_ms, call.execution_id, call.id_given) == (7, "k", True)
    assert (call.priority, call.max_retries, call.headers["x-a"]) == (0, 2, "b")


def test_options_of_a_call_that_is_submitted() -> None:
    fake = hello()
    east = timezone(timedelta(hours=1))
    record = client(fake).submit(
        "hello",
        {"n": 1},
        not_before=datetime(2030, 1, 1, 1, tzinfo=east),
        callback_url="https://example.org/",
        max_retries=0,
        execution_id="k",
    )
    assert (record["execution_id"], record["status"]) == ("k", "PENDING")
    call = fake.asked[-1]
    assert (call.not_before, call.callback_url) == (1_893_456_000.0, "https://example.org/")
    assert (call.mode, call.max_retries, call.id_given) == (Mode.ASYNC, 0, True)
    client(fake).submit("hello", not_before=1_893_456_000.25)
    assert fake.asked[-1].not_before == 1_893_456_000.25


@pytest.mark.parametrize("moment", [datetime(2030, 1, 1), float("nan"), 1e300])
def test_a_moment_that_is_none_is_refused_here(moment: datetime | float) -> None:
    with pytest.raises(errors.InvalidRequest, match="`not_before`"):
        client(hello()).submit("hello", not_before=moment)


LATER = Call(execution_id="e/1", task_name="hello", payload=Event(value=None), mode=Mode.ASYNC)


def pending() -> FakeService:
    fake = FakeService()
    fake.known["e/1"] = make_pending(LATER)
    return fake


def test_waiting_asks_until_the_time_is_over() -> None:
    moments = iter([0.0, 20.0, 40.5, 50.0])
    questions = exchange.waits("e/1", 50.0, lambda: next(moments))
    waits = [question.options["params"]["wait"] for question in questions]
    assert waits == ["20.000", "20.000", "9.500"]


def test_waiting_ends_with_the_execution() -> None:
    fake = pending()
    assert client(fake).wait("e/1", 0)["status"] == "PENDING"
    assert fake.asked == []
    done = Outcome(kind=OutcomeKind.SUCCESS, result=Result("json", b"7"))
    fake.known["e/1"] = make_execution(LATER, done)
    fake.ended.set()
    assert client(fake).wait("e/1", 60)["status"] == "COMPLETED"
    assert [asked[0] for asked in fake.asked] == ["e/1"]
    with pytest.raises(errors.ExecutionNotFound):
        client(fake).wait("other", 60)


def test_dead_letters() -> None:
    fake = pending()
    fake.give_up("e/1")
    with client(fake) as service:
        page = service.dead_letters(limit=7, start_after="x")
        assert [row["attempts"] for row in page["dead_letters"]] == [3]
        assert fake.asked[-1] == {"limit": 7, "start_after": "x"}
        assert service.redrive("e/1")["status"] == "PENDING"
        fake.give_up("e/1")
        service.delete_dead_letter("e/1")
        for gone in (service.redrive, service.delete_dead_letter):
            with pytest.raises(errors.ExecutionNotFound):
                gone("e/1")


def test_a_functions_own_404_is_an_answer_and_no_error() -> None:
    with client(hello("response", b"{}", status=404)) as service:
        assert service.call("hello").status == 404


LEAVES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.AtlatlError) and "code" in vars(kind)
]


@pytest.mark.parametrize("kind", [*LEAVES, errors.TimedOutWaiting, errors.KilledOutOfMemory])
def test_every_error_arrives_as_what_it_was(kind: type[errors.AtlatlError]) -> None:
    error = kind.__new__(kind)
    errors.AtlatlError.__init__(error, "what happened", detail="not for strangers")
    arrived = error_from(problem(error, execution_id="e-1"), 3.0)
    assert type(arrived) is kind
    assert (arrived.message, arrived.retry_after_s) == ("what happened", 3.0)
    assert (arrived.execution_id, arrived.detail) == ("e-1", "")


def test_errors_of_strangers_are_told_by_their_code() -> None:
    assert type(error_from({"code": "CONFLICT", "detail": "x"})) is errors.Conflict
    assert type(error_from({"code": "NEWER", "title": "Newer"})) is errors.AtlatlError
    assert error_from({}).message
    open_breaker = error_from(problem(errors.CircuitOpenError("hello", retry_after_s=2.0)), 2.0)
    assert isinstance(open_breaker, errors.CircuitOpenError)
    assert open_breaker.name == "hello"


def test_a_refusal_carries_its_hint() -> None:
    fake = FakeService()
    fake.add("hello", fails(errors.QueueFull("full", retry_after_s=1.5)))
    with pytest.raises(errors.QueueFull) as caught:
        client(fake).invoke("hello")
    assert caught.value.retry_after_s == 2.0


def test_nobody_there() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    service = Client(LOCAL, transport=httpx.MockTransport(refuse))
    with pytest.raises(ServiceUnreachable, match=r"127\.0\.0\.1:8081.*refused"):
        service.tasks()
    with pytest.raises(ServiceUnreachable):
        list(service.stream("hello"))


def test_something_else_there() -> None:
    page = httpx.MockTransport(lambda request: httpx.Response(404, text="<h1>nginx"))
    service = Client(LOCAL, transport=page)
    for use in (service.tasks, lambda: service.delete_dead_letter("e-1")):
        with pytest.raises(ServiceUnreachable, match="no atlatl service"):
            use()


def test_management() -> None:
    fake = FakeService()
    call = Call(execution_id="e/1", task_name="hello", payload=Event(value=None))
    done = Outcome(kind=OutcomeKind.SUCCESS, result=Result("json", b"7"), output=b"out\n")
    fake.known["e/1"] = make_execution(call, done)
    with client(fake) as service:
        row = service.deploy("hello", b"x = 1", settings={"timeout_ms": 9})
        assert (row["created"], row["task_name"]) == (True, "hello")
        assert fake.deployed[0]["filename"] == "main.py"
        service.deploy("zipped", b"PK\x03\x04\xff\x00")
        assert fake.deployed[1]["filename"] == "main.zip"
        assert fake.deployed[1]["source"] == b"PK\x03\x04\xff\x00"
        assert [task["task_name"] for task in service.tasks(prefix="h")["tasks"]]
        assert service.task("hello")["settings"] == {"timeout_ms": 9}
        assert service.executions(status="FAILED")["next_start_after"] is None
        assert fake.asked[-1]["start_after"] == ""
        assert service.logs("e/1")["lines"] == ["out"]
        assert service.result("e/1").value == 7
        assert service.cancel("e/1", reason="r", force=True)["cancelled"] is True
        assert service.instances()[0]["pid"] == 42
        assert service.pools()[0]["total"] == 2
        assert service.prewarm("hello", 3)["instances"] == 3
        assert service.set_breaker("hello", "open")["state"] == "open"
        assert service.breakers()[0]["mode"] == "forced_open"
        assert service.health()["status"] == "healthy"
        assert "service_stats" in service.stats(hours=2)
        assert service.submit("hello", 1, execution_id="s")["execution_id"] == "s"
        assert service.delete("hello", force=True)["deleted"] is True
        with pytest.raises(errors.TaskNotFound):
            service.task("hello")


def streaming(end: Outcome) -> FakeService:
    def behave(ticket: FakeTicket) -> None:
        for kind, body in (("json", b'{"n":1}'), ("text", b"a\nb"), ("bytes", b"\xff")):
            ticket.on_chunk(Result(kind, body))
        ticket.finish(end)

    fake = FakeService()
    fake.add("hello", behave, streams=True)
    return fake


GOOD = Outcome(kind=OutcomeKind.SUCCESS)
BAD = failed(errors.FunctionRaised("ValueError: no"))
ITEMS = ['{"n":1}', "a\nb", b"\xff"]


def test_a_stream_gives_its_items_and_then_its_error() -> None:
    assert list(client(streaming(GOOD)).stream("hello")) == ITEMS
    items = client(streaming(BAD)).stream("hello")
    assert [next(items), next(items), next(items)] == ITEMS
    with pytest.raises(errors.FunctionRaised, match="no"):
        next(items)


def test_a_generator_called_plainly_gives_a_list_of_its_items() -> None:
    def behave(ticket: FakeTicket) -> None:
        for number in (b"1", b"2"):
            ticket.on_chunk(Result("json", number))
        ticket.finish(GOOD)

    fake = FakeService()
    fake.add("hello", behave, streams=True)
    assert client(fake).invoke("hello") == [1, 2]


def test_a_generator_called_plainly_that_fails_late_has_failed() -> None:
    def break_off(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("peer closed connection (incomplete chunked read)")

    service = Client(LOCAL, transport=httpx.MockTransport(break_off))
    with pytest.raises(errors.ExecutionError, match="broken off"):
        service.invoke("hello")


def test_a_function_that_does_not_stream_gives_one_item() -> None:
    assert list(client(hello()).stream("hello")) == ['{"a": 1}']
    assert list(client(hello("bytes", b"\xff")).stream("hello")) == [b"\xff"]
    with pytest.raises(errors.TaskNotFound):
        list(client(hello()).stream("nobody"))


def happening() -> FakeService:
    service = hello()
    service.happened = [
        BreakerChanged(at=0.5, task_name=name, old="closed", new="open") for name in ("a", "hello")
    ]
    return service


def test_what_happens_comes_as_objects() -> None:
    told = list(client(happening()).events())
    assert [event["task_name"] for event in told] == ["a", "hello"]
    assert told[0]["kind"] == "breaker_changed"
    assert told[0]["at"] == "1970-01-01T00:00:00.500000Z"
    assert [event["new"] for event in client(happening()).events(task="hello")] == ["open"]
    assert list(client(happening()).events(kinds=["task_deployed", "figures"])) == []
    with pytest.raises(errors.InvalidRequest, match="nonsense"):
        list(client(happening()).events(kinds=["nonsense"]))


def test_the_awaited_client_does_the_same() -> None:
    async def go(service: FakeService, use: Callable[[AsyncClient], Any]) -> Any:
        transport = httpx.ASGITransport(front(service))
        async with AsyncClient(LOCAL, token=TOKEN, transport=transport) as awaited:
            return await use(awaited)

    async def items(awaited: AsyncClient) -> list[Any]:
        return [item async for item in awaited.stream("hello")]

    assert asyncio.run(go(hello(), lambda c: c.invoke("hello"))) == {"a": 1}
    assert asyncio.run(go(pending(), lambda c: c.wait("e/1", 0)))["status"] == "PENDING"
    assert asyncio.run(go(hello(), lambda c: c.dead_letters()))["dead_letters"] == []
    assert asyncio.run(go(hello(), lambda c: c.instances()))[0]["pid"] == 42

    async def kinds(awaited: AsyncClient) -> list[Any]:
        return [event["kind"] async for event in awaited.events()]

    assert asyncio.run(go(happening(), kinds)) == ["breaker_changed", "breaker_changed"]
    assert asyncio.run(go(hello(), items)) == ['{"a": 1}']
    assert asyncio.run(go(streaming(GOOD), items)) == ITEMS
    with pytest.raises(errors.TaskNotFound):
        asyncio.run(go(FakeService(), lambda c: c.task("hello")))


def test_both_clients_offer_the_same() -> None:
    def offered(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: [*inspect.signature(method).parameters]
            for name, method in methods
            if not name.startswith("_")
        }

    assert offered(Client) == offered(AsyncClient)


def test_loopback_is_reached_without_the_environments_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    from atlatl.exchange import client_options

    assert client_options("http://127.0.0.1:8081", "")["trust_env"] is False
    assert client_options("http://[::1]:8081", "")["trust_env"] is False
    assert client_options("http://functions.example", "")["trust_env"] is True
