"""Calling functions over HTTP, against a service without processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from atlatl import errors
from atlatl.front.outcomes import SANDBOX
from atlatl.front.problems import StreamCut
from atlatl.model import Call, HttpRequest, Mode, Outcome, OutcomeKind, Result, failed
from tests.unit.front_fakes import (
    FakeService,
    FakeTicket,
    ask,
    body,
    front,
    hangs,
    hello,
    post,
    returns,
    run,
)

HELLO = "/functions/hello"


def called(service: FakeService) -> Call:
    return service.tickets[-1].call


# --- what comes back ---


@pytest.mark.parametrize(
    ("kind", "body", "media_type"),
    [
        ("json", b'{"a": 1}', "application/json"),
        ("text", "ä".encode(), "text/plain; charset=utf-8"),
        ("bytes", b"\0\xff", "application/octet-stream"),
    ],
)
def test_the_functions_value_is_the_answer(kind: str, body: bytes, media_type: str) -> None:
    answer = ask(hello(kind, body), "POST", HELLO, json={"name": "Ada"})
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["Content-Type"] == media_type
    assert answer.headers["Atlatl-Execution-Id"] == "new-1"
    assert answer.headers["Atlatl-Instance-Id"] == "i-1"
    assert answer.headers["Atlatl-Duration-Ms"] == "12.500"
    assert answer.headers["Atlatl-Cold-Start"] == "1"


def test_a_response_says_its_own_status_and_headers_but_not_ours() -> None:
    headers = (
        ("Content-Type", "text/html"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Content-Length", "99999"),
        ("Service-Worker-Allowed", "/"),
        ("Clear-Site-Data", '"*"'),
        ("Atlatl-Execution-Id", "forged"),
    )
    service = hello("response", b"<p>", status=201, headers=headers)
    answer = ask(service, "POST", HELLO)
    assert (answer.status_code, answer.text) == (201, "<p>")
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers.get_list("Set-Cookie") == ["a=1", "b=2"]
    assert not {"service-worker-allowed", "clear-site-data"} & set(answer.headers)
    assert answer.headers["Content-Length"] == "3"
    assert answer.headers["Atlatl-Execution-Id"] == "new-1"


PAGES = (
    "text/html", "TEXT/HTML; charset=utf-8", "image/svg+xml", "application/xhtml+xml", "text/xml",
    "multipart/x-mixed-replace; boundary=x", "text/plain, text/html", "", "nonsense",
)  # fmt: skip
NO_PAGES = (
    "text/plain; charset=utf-8", "Application/JSON", "application/octet-stream", "image/png",
    "application/pdf", "video/mp4", "text/event-stream",
)  # fmt: skip


@pytest.mark.parametrize("media_type", PAGES)
def test_a_page_gets_an_origin_of_its_own(media_type: str) -> None:
    service = hello("response", b"<p>", headers=(("Content-Type", media_type),))
    answer = ask(service, "GET", HELLO)
    assert answer.headers["Content-Security-Policy"] == SANDBOX
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "allow-same-origin" not in SANDBOX


@pytest.mark.parametrize("media_type", NO_PAGES)
def test_what_is_no_page_needs_no_policy(media_type: str) -> None:
    service = hello("response", b"<p>", headers=(("Content-Type", media_type),))
    answer = ask(service, "GET", HELLO)
    assert "Content-Security-Policy" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("own", "enough"),
    [
        ("sandbox", True),
        ("default-src 'none';\tSandbox  allow-scripts", True),
        ("default-src 'self'", False),
        ("sandbox allow-scripts allow-same-origin", False),
        ("sandbox; sandbox Allow-Same-Origin", False),
        ("script-src sandbox", False),
        ("sandbox \xe9", False),
    ],
)
def test_a_stricter_policy_of_its_own_stays_and_any_other_holds_besides(
    own: str, enough: bool
) -> None:
    headers = (("Content-Type", "text/html"), ("Content-Security-Policy", own))
    answer = ask(hello("response", b"<p>", headers=headers), "GET", HELLO)
    policies = [
        value.decode("latin-1")
        for name, value in answer.headers.raw
        if name.lower() == b"content-security-policy"
    ]
    assert policies == ([own] if enough else [own, SANDBOX])


def test_pages_stay_in_the_origin_of_the_service_where_the_setting_says_so() -> None:
    service = FakeService(http={"sandbox_pages": False})
    html = (("Content-Type", "text/html"),)
    service.add("hello", returns("response", b"<p>", headers=html))
    answer = ask(service, "GET", HELLO)
    assert "Content-Security-Policy" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "more",
    [
        {"status": 99},
        {"status": 600},
        {"headers": (("X", "a\r\nY: b"),)},
        {"headers": (("", "a"),)},
    ],
)
def test_a_response_that_http_cannot_carry_is_the_functions_fault(more: dict[str, Any]) -> None:
    answer = ask(hello("response", b"", **more), "POST", HELLO)
    assert (answer.status_code, answer.json()["code"]) == (500, "SERIALIZATION_ERROR")


def test_an_unknown_task_is_refused_by_the_call_so_that_it_is_counted() -> None:
    service = FakeService()
    answer = ask(service, "POST", "/functions/nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "TASK_NOT_FOUND")
    assert len(service.tickets) == 1


# --- what goes in ---


def test_the_whole_request_reaches_the_function() -> None:
    service = FakeService()
    service.add("hello", returns("json", b"1"), kind="request")
    ask(service, "PATCH", HELLO + "/a%20b//c?x=1&y=%20", content=b"raw", headers={"X-A": "b"})
    payload = called(service).payload
    assert isinstance(payload, HttpRequest)
    assert (payload.method, payload.path, payload.query) == ("PATCH", "/a b//c", "x=1&y=%20")
    assert (payload.body, payload.headers["x-a"]) == (b"raw", "b")


def test_repeated_headers_are_joined() -> None:
    service = hello()
    ask(
        service,
        "POST",
        HELLO,
        headers=[("X", "1"), ("x", "2"), ("Cookie", "a=1"), ("Cookie", "b=2")],
    )
    assert called(service).headers["x"] == "1, 2"
    assert called(service).headers["cookie"] == "a=1; b=2"


def test_a_handler_with_arguments_takes_no_path_and_no_odd_method() -> None:
    service = hello()
    assert ask(service, "GET", HELLO + "?name=Ada").status_code == 200
    assert ask(service, "GET", HELLO + "/").status_code == 200
    assert ask(service, "POST", HELLO + "/below").status_code == 404
    refused = ask(service, "DELETE", HELLO)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD, POST")


def test_headers_say_how_to_call() -> None:
    service = hello()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {
        "Idempotency-Key": '"key-1"',
        "Priority": "i, u=5;x=1",
        "Atlatl-Timeout-Ms": "250",
        "Atlatl-Max-Retries": "0",
        "traceparent": trace,
        "tracestate": "a=b",
    }
    ask(service, "POST", HELLO, headers=headers)
    call = called(service)
    assert (call.execution_id, call.id_given, call.mode) == ("key-1", True, Mode.SYNC)
    assert (call.priority, call.timeout_ms, call.max_retries) == (5, 250, 0)
    assert (call.traceparent, call.tracestate) == (trace, "a=b")


def test_without_headers_the_tasks_own_settings_hold() -> None:
    service = hello()
    ask(service, "POST", HELLO, headers={"Priority": "i", "traceparent": "00-broken"})
    call = called(service)
    assert (call.priority, call.timeout_ms, call.max_retries, call.id_given) == (
        None,
        0,
        None,
        False,
    )
    assert call.traceparent == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Idempotency-Key", ""),
        ("Idempotency-Key", "a b"),
        ("Idempotency-Key", "x" * 129),
        ("Priority", "u=8"),
        ("Priority", "u"),
        ("Priority", "u=-1"),
        ("Priority", "u=" + "9" * 5000),
        ("Atlatl-Timeout-Ms", "0"),
        ("Atlatl-Timeout-Ms", "-5"),
        ("Atlatl-Timeout-Ms", "1.5"),
        ("Atlatl-Timeout-Ms", "9" * 5000),
        ("Atlatl-Max-Retries", "many"),
        ("Atlatl-Callback-Url", "http://localhost/"),
        ("Atlatl-Not-Before", "2030-01-01T00:00:00Z"),
    ],
)
def test_an_impossible_header_is_400_and_named(name: str, value: str) -> None:
    service = hello()
    answer = ask(service, "POST", HELLO, headers={name: value})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert f"`{name}`" in answer.json()["detail"]
    assert service.tickets == []


def test_respond_async_answers_202_with_the_address_of_the_record() -> None:
    service = hello()
    headers = {"Prefer": "wait=5, Respond-Async", "Idempotency-Key": "a/b"}
    answer = ask(service, "POST", HELLO, headers=headers)
    assert answer.status_code == 202
    assert answer.headers["Location"] == "/api/v1/executions/a%2Fb"
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert answer.json()["status"] == "PENDING"
    assert service.asked[0].mode is Mode.ASYNC
    refused = ask(service, "POST", "/functions/other", headers=headers)
    assert refused.status_code == 404


# --- limits ---


def test_a_body_that_says_it_is_too_large_is_not_read_at_all() -> None:
    """D104: 413 over the limit, never cut silently."""
    service = FakeService(http={"max_body_bytes": 10})
    service.add("hello", returns("json", b"1"))
    header = {"content-length": "11"}
    sent, read = run(post(service, HELLO, [body(b"x" * 11)], **header))
    assert (sent[0]["status"], read) == (413, 0)
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_chunked_body_is_read_up_to_the_limit_only() -> None:
    """D104: the same without a stated length."""
    service = FakeService(http={"max_body_bytes": 10})
    service.add("hello", returns("json", b"1"))
    endless = [body(b"xxxx", more=True)] * 50
    sent, read = run(post(service, HELLO, endless))
    assert (sent[0]["status"], read) == (413, 3)
    sent, _ = run(post(service, HELLO, [body(b"x" * 10)]))
    assert sent[0]["status"] == 200


# --- a caller who hangs up ---


def test_a_caller_who_hangs_up_cancels_the_call() -> None:
    service = FakeService()
    service.add("hello", hangs)
    run(post(service, HELLO, [body(b"{}"), {"type": "http.disconnect"}]))
    assert service.tickets[0].cancelled == ["the caller hung up"]


def test_a_call_with_an_id_goes_on_without_its_caller() -> None:
    service = FakeService()
    service.add("hello", hangs)

    async def hang_up_and_end() -> None:
        messages = [body(b"{}"), {"type": "http.disconnect"}]
        key = {"idempotency-key": "k"}
        answering = asyncio.create_task(post(service, HELLO, messages, **key))
        await service.started.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert service.tickets[0].cancelled == []
        service.tickets[0].finish(failed(errors.TimedOut("over")))
        await answering

    run(hang_up_and_end())


def test_a_request_that_the_server_gives_up_cancels_the_call() -> None:
    service = FakeService()
    service.add("hello", hangs)

    async def give_up() -> None:
        answering = asyncio.create_task(post(service, HELLO, [body(b"{}")]))
        await service.started.wait()
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering

    run(give_up())
    assert service.tickets[0].cancelled == ["the connection was closed"]


def test_a_caller_who_hangs_up_before_the_body_is_complete_calls_nothing() -> None:
    service = hello()
    run(post(service, HELLO, [body(b"{", more=True), {"type": "http.disconnect"}]))
    assert service.tickets == []


# --- streams ---


def generator(*items: Result, end: Outcome | None = None) -> FakeService:
    def behave(ticket: FakeTicket) -> None:
        for item in items:
            ticket.on_chunk(item)
        ticket.finish(end or Outcome(kind=OutcomeKind.SUCCESS))

    service = FakeService()
    service.add("hello", behave, streams=True)
    return service


JSON, TEXT, BYTES = Result("json", b'{"n":1}'), Result("text", b"a\nb"), Result("bytes", b"\xff")
EVENTS = {"Accept": "text/html, text/event-stream;q=0.9"}
BROKEN = failed(errors.FunctionRaised("ValueError: no", detail="Traceback"))


def test_items_go_out_as_server_sent_events() -> None:
    service = generator(JSON, TEXT, BYTES)
    answer = ask(service, "POST", HELLO, headers=EVENTS)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Atlatl-Execution-Id"] == "new-1"
    events = 'data: {"n":1}\n\ndata: a\ndata: b\n\nevent: bytes\ndata: /w==\n\n'
    assert answer.text == events
    assert service.tickets[0].credits == [7, 3, 1]
    assert called(service).mode is Mode.STREAM


def test_items_go_out_in_chunks_without_that() -> None:
    json_answer = ask(generator(JSON, JSON), "POST", HELLO)
    assert json_answer.text == '{"n":1}\n{"n":1}\n'
    assert json_answer.headers["Content-Type"] == "application/x-ndjson"
    text = ask(generator(TEXT, TEXT), "POST", HELLO)
    assert (text.text, text.headers["Content-Type"]) == ("a\nba\nb", "text/plain; charset=utf-8")


def test_each_item_is_credited_after_it_was_sent() -> None:
    service = FakeService()

    def one_at_a_time(ticket: FakeTicket) -> None:
        """Like an instance whose window is one item: the next one goes out upon credit."""
        left = [JSON, JSON, JSON]

        def credit(n_bytes: int) -> None:
            if left:
                ticket.on_chunk(left.pop())
            else:
                ticket.finish(Outcome(kind=OutcomeKind.SUCCESS))

        ticket.credit = credit  # type: ignore[method-assign]
        credit(0)

    service.add("hello", one_at_a_time, streams=True)
    sent, _ = run(post(service, HELLO, [body(b"")]))
    assert [message.get("body") for message in sent[1:]] == [b'{"n":1}\n'] * 3 + [b""]


def test_a_failure_before_the_first_item_is_an_ordinary_problem() -> None:
    for headers in (EVENTS, {}):
        answer = ask(generator(end=BROKEN), "POST", HELLO, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (500, "EXECUTION_ERROR")


def test_a_failure_after_the_first_item_is_an_error_event() -> None:
    answer = ask(generator(JSON, end=BROKEN), "POST", HELLO, headers=EVENTS)
    assert answer.status_code == 200
    first, last = answer.text.strip().split("\n\n")
    assert first == 'data: {"n":1}'
    kind, _, data = last.partition("\ndata: ")
    assert kind == "event: error"
    assert msgspec.json.decode(data)["code"] == "EXECUTION_ERROR"
    assert "Traceback" not in answer.text


def test_a_chunked_answer_that_fails_is_broken_off_without_its_last_chunk(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = generator(JSON, end=BROKEN)

    async def broken_off() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        app = front(service)
        scope = {
            "type": "http",
            "method": "POST",
            "path": HELLO,
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 5),
        }
        with pytest.raises(StreamCut):
            await app(scope, _receiver(body(b"")), send)
        return sent

    sent = run(broken_off())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"] is True
    assert caplog.records == []  # the function's failure is no fault of the service


def _receiver(*messages: dict[str, Any]) -> Callable[[], Any]:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def test_a_generator_without_items_is_an_empty_answer() -> None:
    for headers in (EVENTS, {}):
        answer = ask(generator(), "POST", HELLO, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_plain_function_answers_plainly_whatever_is_accepted() -> None:
    answer = ask(hello(), "POST", HELLO, headers=EVENTS)
    assert answer.json() == {"a": 1}


def test_a_listener_who_hangs_up_cancels_the_stream() -> None:
    service = FakeService()
    service.add("hello", lambda ticket: ticket.on_chunk(JSON), streams=True)
    sent, _ = run(post(service, HELLO, [body(b""), {"type": "http.disconnect"}]))
    assert service.tickets[0].cancelled == ["the caller hung up"]
    assert sent[0]["status"] == 200
