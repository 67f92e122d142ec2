"""Async calls over HTTP, from acceptance to dead letters, against a service without processes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from atlatl import errors
from atlatl.model import Call, Event, ExecutionStatus, Mode, Outcome, OutcomeKind, Result, failed
from tests.unit.front_fakes import (
    BEARER,
    FakeService,
    ask,
    front,
    hello,
    make_execution,
    make_pending,
    run,
    speaking_to,
)

HELLO = "/functions/hello"
ASYNC = {"Prefer": "respond-async"}


def accepted(service: FakeService) -> Call:
    call = service.asked[-1]
    assert isinstance(call, Call)
    assert call.mode is Mode.ASYNC
    return call


# --- acceptance ---


def test_what_goes_with_an_async_call() -> None:
    service = hello()
    headers = {
        **ASYNC,
        "Idempotency-Key": "k-1",
        "Priority": "u=1",
        "Atlatl-Timeout-Ms": "700",
        "Atlatl-Max-Retries": "4",
        "Atlatl-Not-Before": " 2030-01-01T01:00:00+01:00 ",
        "Atlatl-Callback-Url": "https://example.org:8443/done?job=7#x",
    }
    answer = ask(service, "POST", HELLO, headers=headers, json={"name": "Ada"})
    assert (answer.status_code, answer.headers["Atlatl-Execution-Id"]) == (202, "k-1")
    assert answer.headers["Location"] == "/api/v1/executions/k-1"
    assert (answer.json()["mode"], answer.json()["status"]) == ("ASYNC", "PENDING")
    assert answer.json()["started_at"] is None
    call = accepted(service)
    assert (call.id_given, call.priority, call.timeout_ms, call.max_retries) == (True, 1, 700, 4)
    assert call.not_before == 1_893_456_000.0
    assert call.callback_url == "https://example.org:8443/done?job=7#x"


def test_by_default_nothing_goes_with_it() -> None:
    service = hello()
    assert ask(service, "POST", HELLO, headers=ASYNC).status_code == 202
    call = accepted(service)
    assert (call.id_given, call.not_before, call.callback_url) == (False, None, "")


def test_a_moment_that_is_over_is_as_good_as_none() -> None:
    service = hello()
    headers = {**ASYNC, "Atlatl-Not-Before": "1969-07-20T20:17:40Z"}
    assert ask(service, "POST", HELLO, headers=headers).status_code == 202
    assert accepted(service).not_before == -14_182_940.0


LONGEST = "https://example.org/" + "a" * (2048 - len("https://example.org/"))


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "HTTPS://EXAMPLE.ORG",
        "http://127.0.0.1:9000/x",
        "http://[::1]:80/?q=@",
        LONGEST,
    ],
)
def test_addresses_that_may_be_told_of_the_end(url: str) -> None:
    """Whether a host may be called is the service's to say: here it is read only."""
    service = hello()
    headers = {**ASYNC, "Atlatl-Callback-Url": url}
    assert ask(service, "POST", HELLO, headers=headers).status_code == 202
    assert accepted(service).callback_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("Atlatl-Not-Before", value)
            for value in ("", "tomorrow", "1893456000", "2030-01-01", "2030-01-01T00:00:00")
        ),
        *(
            ("Atlatl-Callback-Url", value)
            for value in (
                "",
                "/done",
                "//example.org/",
                "example.org",
                "ftp://example.org/",
                "http://",
                "http:///done",
                "http://user@example.org/",
                "http://user:secret@example.org/",
                "http://@example.org/",
                "http://[::1",
                "http://example.org:99999/",
                "http://example.org:0/",
                "http://example.org:port/",
                "http://example.org\\@elsewhere/",
                "http://example.org/a b",
                "http://example.org/, http://example.com/",
                "http://example.org/ä",
                LONGEST + "a",
            )
        ),
        ("Atlatl-Max-Retries", "-1"),
        ("Atlatl-Timeout-Ms", "0"),
        ("Priority", "u=8"),
        ("Idempotency-Key", "a b"),
    ],
)
def test_nonsense_is_400_and_named(name: str, value: str) -> None:
    service = hello()
    answer = ask(service, "POST", HELLO, headers={**ASYNC, name: value.encode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert f"`{name}`" in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 400
    assert service.asked == []


def test_the_same_id_again_answers_with_the_first_execution_as_it_is() -> None:
    service = hello()
    headers = {**ASYNC, "Idempotency-Key": "k-1"}
    first = ask(service, "POST", HELLO, headers=headers).json()
    assert ask(service, "POST", HELLO, headers=headers).json() == first
    done = Outcome(kind=OutcomeKind.SUCCESS, result=Result("json", b"1"))
    service.known["k-1"] = make_execution(accepted(service), done)
    again = ask(service, "POST", HELLO, headers=headers)
    assert (again.status_code, again.json()["status"]) == (202, "COMPLETED")
    assert again.headers["Location"] == "/api/v1/executions/k-1"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("parameter `name` is missing"), 400),
        (errors.Conflict("another call"), 409),
        (errors.PayloadTooLarge("too large"), 413),
        (errors.QueueFull("100000 wait already", retry_after_s=7.0), 429),
        (errors.Draining("shutting down", retry_after_s=1.0), 503),
        (errors.StoreUnavailable("the disk is full"), 503),
    ],
)
def test_what_is_not_accepted_is_refused_now(error: errors.AtlatlError, status: int) -> None:
    service = hello()
    service.accept_error = error
    answer = ask(service, "POST", HELLO, headers=ASYNC)
    assert (answer.status_code, answer.json()["code"]) == (status, error.code)
    assert "Preference-Applied" not in answer.headers
    if error.retry_after_s is not None:
        assert answer.headers["Retry-After"] == f"{error.retry_after_s:.0f}"


def test_an_invocation_may_be_async_too() -> None:
    service = hello()
    content = {
        "task_id": "id-hello",
        "execution_mode": "EXECUTION_MODE_ASYNC",
        "context": {"headers": {"Atlatl-Callback-URL": "https://example.org/"}},
    }
    tree = ask(service, "POST", "/api/v1/invocations", json=content, headers={}).json()
    assert (tree["success"], tree["result"]["status"]) == (True, "EXECUTION_STATUS_PENDING")
    assert tree["estimated_completion_ms"] == "250"
    assert ask(service, "GET", tree["status_endpoint"], headers={}).status_code == 200
    assert accepted(service).callback_url == "https://example.org/"
    content["context"] = {"headers": {"Atlatl-Callback-URL": "example.org"}}
    tree = ask(service, "POST", "/api/v1/invocations", json=content).json()
    assert (tree["success"], tree["result"]["error_code"]) == (False, "INVALID_REQUEST")
    assert "`Atlatl-Callback-Url`" in tree["message"]


# --- waiting for the end ---

CALL = Call(execution_id="e-1", task_name="hello", payload=Event(value=None), mode=Mode.ASYNC)
DONE = make_execution(CALL, Outcome(kind=OutcomeKind.SUCCESS, result=Result("text", b"hi")))
ONE = "/api/v1/executions/e-1"


def waiting() -> FakeService:
    service = FakeService()
    service.known["e-1"] = make_pending(CALL)
    return service


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["", "/status", "/result"])
def test_an_answer_waits_for_the_end(path: str) -> None:
    async def go() -> Any:
        service = waiting()
        async with speaking_to(service) as client:
            asking = asyncio.create_task(client.get(f"{ONE}{path}?wait=59.5"))
            await until(lambda: service.waiting)
            service.known["e-1"] = DONE
            service.ended.set()
            answer = await asking
        assert service.asked == [("e-1", 59.5)]
        assert service.waiting == 0
        return answer

    answer = run(go())
    assert answer.status_code == 200
    assert "COMPLETED" in answer.text or answer.text == "hi"


def test_an_end_that_does_not_come_in_time() -> None:
    service = waiting()
    answer = ask(service, "GET", ONE + "/result?wait=0.01", headers={})
    assert (answer.status_code, answer.headers["Retry-After"]) == (202, "1")
    assert answer.json()["status"] == "PENDING"
    assert ask(waiting(), "GET", ONE + "?wait=0.01").json()["status"] == "PENDING"


@pytest.mark.parametrize("query", ["", "?wait=", "?wait=0", "?wait=0.0"])
def test_without_a_wait_the_answer_comes_at_once(query: str) -> None:
    service = waiting()
    assert ask(service, "GET", ONE + "/result" + query).status_code == 202
    assert service.asked == []


@pytest.mark.parametrize("wait", ["-1", "60.001", "61", "1e1", "NaN", "inf", "٣", "9" * 5000, "x"])
def test_waits_that_are_none(wait: str) -> None:
    service = waiting()
    answer = ask(service, "GET", ONE + "/result", params={"wait": wait})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert "`wait`" in answer.json()["detail"]


def test_what_is_waited_for_may_fail_or_be_unknown() -> None:
    service = waiting()
    assert ask(service, "GET", "/api/v1/executions/other/result?wait=1").status_code == 404
    service.known["e-1"] = make_execution(CALL, failed(errors.FunctionRaised("ValueError: no")))
    service.ended.set()
    assert ask(service, "GET", ONE + "/result?wait=1").status_code == 500


def test_a_caller_who_hangs_up_frees_the_waiter() -> None:
    async def go() -> None:
        service = waiting()
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        sent: list[Any] = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": ONE + "/result",
            "raw_path": b"",
            "query_string": b"wait=60",
            "root_path": "",
            "headers": [(b"host", b"localhost:8081")],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 8081),
            "scheme": "http",
        }
        asking = asyncio.create_task(front(service)(scope, receive, send))
        await until(lambda: service.waiting)
        gone.set()
        await until(lambda: not service.waiting)
        async with asyncio.timeout(5):
            await asking
        assert sent[0]["status"] == 499

    run(go())


def test_the_description_says_what_a_wait_is() -> None:
    paths = ask(FakeService(), "GET", "/openapi.json").json()["paths"]
    for path in ("", "/status", "/result"):
        parameters = paths["/api/v1/executions/{id}" + path]["get"]["parameters"]
        (wait,) = (each for each in parameters if each["name"] == "wait")
        assert wait["schema"] == {"type": "number", "minimum": 0, "maximum": 60}


# --- dead letters ---

DEAD = "/api/v1/dead-letters"


def with_a_dead_one(execution_id: str = "e-1") -> FakeService:
    service = FakeService()
    call = replace(CALL, execution_id=execution_id)
    service.known[execution_id] = make_execution(call, failed(errors.FunctionRaised("no")))
    service.give_up(execution_id)
    return service


def test_dead_letters_are_listed() -> None:
    service = with_a_dead_one()
    tree = ask(service, "GET", DEAD).json()
    assert tree["next_start_after"] == "cursor"
    (row,) = tree["dead_letters"]
    record = ask(service, "GET", ONE).json()
    assert row == {
        **record,
        "attempt": 3,
        "attempts": 3,
        "died_at": "2023-11-14T22:13:22.000000Z",
    }
    ask(service, "GET", DEAD + "?limit=5000&start_after=e-0")
    assert service.asked == [
        {"limit": 100, "start_after": ""},
        {"limit": 1000, "start_after": "e-0"},
    ]
    assert ask(service, "GET", DEAD + "?limit=-1").status_code == 400


def test_a_dead_letter_is_redriven_under_its_id() -> None:
    service = with_a_dead_one("a/b")
    answer = ask(service, "POST", DEAD + "/a%2Fb/redrive")
    assert answer.status_code == 200
    assert (answer.json()["execution_id"], answer.json()["status"]) == ("a/b", "PENDING")
    assert service.known["a/b"].status is ExecutionStatus.PENDING
    again = ask(service, "POST", DEAD + "/a%2Fb/redrive")
    assert (again.status_code, again.json()["code"]) == (404, "EXECUTION_NOT_FOUND")


def test_a_dead_letter_is_let_go() -> None:
    service = with_a_dead_one("a/b")
    answer = ask(service, "DELETE", DEAD + "/a%2Fb")
    assert (answer.status_code, answer.content) == (204, b"")
    assert ask(service, "DELETE", DEAD + "/a%2Fb").status_code == 404
    assert ask(service, "GET", "/api/v1/executions/a%2Fb").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("POST", "/e-1/redrive"), ("DELETE", "/e-1")]
)
def test_dead_letters_need_the_token(method: str, path: str) -> None:
    service = with_a_dead_one()
    assert ask(service, method, DEAD + path, headers={}).status_code == 401
    assert "e-1" in service.dead
    assert ask(service, method, DEAD + path, headers=BEARER).status_code < 300
