"""One try of a callback: what is sent, where to, and what counts as taken (D105)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from atlatl.core.hosts import Address
from atlatl.engine.messenger import Messenger, Refusal, check_callback_url, message
from atlatl.errors import FunctionRaised, InvalidRequest, TimedOut
from atlatl.model import (
    Callback,
    Execution,
    Mode,
    Outcome,
    OutcomeKind,
    Result,
    failed,
)
from atlatl.settings import CallbackSettings
from tests import receiver as receivers
from tests import turned_time
from tests.receiver import Behaviour, receiver
from tests.virtual_time import virtual

PUBLIC = "93.184.216.34"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "00000000000000ab"
CALLBACK = Callback(execution_id="e-1", url="https://example.org/ended?key=secret")
LIMIT_S = 1000.0


def ended(outcome: Outcome, **facts: Any) -> Execution:
    known: dict[str, Any] = {
        "execution_id": "e-1",
        "task_id": "t-1",
        "task_name": "hello",
        "function_name": "main",
        "mode": Mode.ASYNC,
        "status": outcome.status,
        "outcome": outcome,
    }
    return Execution(**known | facts)


def succeeded(result: Result | None) -> Execution:
    return ended(Outcome(kind=OutcomeKind.SUCCESS, result=result))


DONE = succeeded(Result(kind="json", body=b'{"a":1}'))


# --- what is sent ---


def test_a_result_is_sent_as_it_is_with_its_own_type() -> None:
    sent = message(replace(DONE, attempt=3), CALLBACK, SPAN)
    assert sent.body == b'{"a":1}'
    agent = sent.headers.pop("User-Agent")
    assert agent.startswith("atlatl/")
    assert sent.headers == {
        "Connection": "close",
        "Atlatl-Execution-Id": "e-1",
        "Atlatl-Task": "hello",
        "Atlatl-Status": "COMPLETED",
        "Atlatl-Attempt": "3",
        "Idempotency-Key": "e-1:3",
        "Content-Type": "application/json",
    }


def test_of_a_response_only_body_and_type_are_sent() -> None:
    fields = (("Content-Type", "image/png"), ("Set-Cookie", "a=1"), ("Host", "evil"))
    sent = message(succeeded(Result(kind="response", body=b"png", headers=fields)), CALLBACK, SPAN)
    assert sent.body == b"png"
    assert sent.headers["Content-Type"] == "image/png"
    assert not {"Set-Cookie", "Host"} & set(sent.headers)


@pytest.mark.parametrize("stated", ["text/plain\r\nX-Evil: 1", "", "bücher", " ", "a\0"])
def test_a_type_that_is_no_header_value_is_not_sent(stated: str) -> None:
    result = Result(kind="response", body=b"", headers=(("content-type", stated),))
    sent = message(succeeded(result), CALLBACK, SPAN)
    assert sent.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        (failed(FunctionRaised("ValueError: no", detail="Traceback")), "FAILED", "EXECUTION_ERROR"),
        (failed(TimedOut("too slow")), "TIMEOUT", "EXECUTION_TIMEOUT"),
    ],
)
def test_a_failure_is_a_problem_document(outcome: Outcome, status: str, code: str) -> None:
    sent = message(ended(outcome), CALLBACK, SPAN)
    document = json.loads(sent.body)
    assert sent.headers["Atlatl-Status"] == status
    assert sent.headers["Content-Type"] == "application/problem+json"
    assert document["execution_id"] == "e-1"
    assert document["code"] == code
    assert "Traceback" not in sent.body.decode()


def test_a_result_that_is_not_kept_any_more_is_said_to_be_omitted() -> None:
    sent = message(succeeded(None), CALLBACK, SPAN)
    assert sent.body == b""
    assert sent.headers["Atlatl-Result-Omitted"] == "1"
    assert sent.headers["Atlatl-Status"] == "COMPLETED"
    assert "Content-Type" not in sent.headers


def test_a_task_name_of_any_script_fits_into_a_header() -> None:
    sent = message(replace(DONE, task_name="grüße 100%"), CALLBACK, SPAN)
    assert sent.headers["Atlatl-Task"] == "gr%C3%BC%C3%9Fe%20100%25"


def test_the_trace_goes_on_with_a_span_of_its_own() -> None:
    traced = replace(CALLBACK, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01", tracestate="a=1,b=2")
    sent = message(DONE, traced, SPAN)
    assert sent.headers["traceparent"] == f"00-{TRACE}-00000000000000ab-01"
    assert sent.headers["tracestate"] == "a=1,b=2"


@pytest.mark.parametrize(
    ("parent", "state"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", "a=1\r\nx: y"),
        (f"00-{TRACE}-00f067aa0ba902b7-01", "a" * 513),
        (f"00-{TRACE}-00f067aa0ba902b7-01", ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", "a=1"),
        (f"00-{TRACE}-00f067aa0ba902b7-01\r\nx: y", "a=1"),
        ("", "a=1"),
    ],
)
def test_a_malformed_trace_is_not_sent(parent: str, state: str) -> None:
    sent = message(DONE, replace(CALLBACK, traceparent=parent, tracestate=state), SPAN)
    assert "tracestate" not in sent.headers
    assert ("traceparent" in sent.headers) == (state != "a=1")


# --- what is accepted ---


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://example.org/", "no http"),
        ("example.org/ended", "no http"),
        ("http://", "no http"),
        ("", "no http"),
        ("http://user:secret@example.org/", "user name"),
        ("http://example.org/" + "a" * 2030, "2049 characters; at most 2048"),
        ("http://[::1/", "no URL"),
        ("http://example.org:99999/", "not from 1 to 65535"),
        ("http://example.org:0/", "not from 1 to 65535"),
        ("http://example.org\n.test/", "no URL"),
        ("http://127.0.0.1:8080/", "callbacks.allowed_hosts"),
        ("http://169.254.169.254/latest", "callbacks.allowed_hosts"),
        ("http://[::ffff:10.0.0.1]/", "callbacks.allowed_hosts"),
        ("http://localhost/", "callbacks.allowed_hosts"),
        (f"http://{127}.1/", "neither a name nor an address"),
    ],
)
def test_urls_that_are_refused_at_acceptance_d105(url: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_callback_url(url, ["127.0.0.1:9000"])
    assert says in str(refused.value)
    assert "`Atlatl-Callback-Url`" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_urls_that_are_accepted() -> None:
    for url in ("https://example.org", "http://example.org:81/a?b=c", "https://bücher.example/"):
        check_callback_url(url, [])
    check_callback_url("http://127.0.0.1:9000/", ["127.0.0.1:9000"])
    check_callback_url("http://example.org/" + "a" * 2029, [])


# --- where to ---


def reply(status: int, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, stream=httpx.ByteStream(b"thanks"))


class Net:
    """Names that lead where a test says, and a host that answers what it says."""

    def __init__(self, *answers: httpx.Response, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): found for name, found in names.items()}
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    async def resolve(self, host: str) -> Sequence[Address]:
        found = self.names[host]
        return [ip_address(one) for one in (found.pop(0) if len(found) > 1 else found[0])]

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answers.pop(0) if self.answers else reply(204)

    async def tell(self, callback: Callback = CALLBACK, *allowed: str) -> str:
        one = messenger(
            CallbackSettings(allowed_hosts=allowed),
            resolve=self.resolve,
            transport=httpx.MockTransport(self.handle),
        )
        return reason(await one.tell(callback, DONE))


def reason(refusal: Refusal | None) -> str:
    """Empty when the receiver took it."""
    return "" if refusal is None else refusal.reason


def messenger(settings: CallbackSettings, **parts: Any) -> Messenger:
    return Messenger(settings, **parts)


@virtual
async def test_the_address_that_was_checked_is_connected_to_d105() -> None:
    """A second look-up would lead to this machine: DNS rebinding."""
    net = Net(example_org=[[PUBLIC], ["127.0.0.1"]])
    assert await net.tell() == ""
    (request,) = net.requests
    assert request.method == "POST"
    assert request.url == f"https://{PUBLIC}/ended?key=secret"
    assert request.headers["host"] == "example.org"
    assert request.extensions["sni_hostname"] == "example.org"
    assert "python" not in request.headers["user-agent"]
    assert request.content == b'{"a":1}'


@virtual
async def test_a_name_is_looked_up_and_checked_at_each_try_d105() -> None:
    net = Net(reply(500), example_org=[[PUBLIC], [PUBLIC, "10.0.0.1"], [PUBLIC]])
    assert await net.tell() == "it answered 500 Internal Server Error"
    assert "example.org of `Atlatl-Callback-Url` leads to 10.0.0.1" in await net.tell()
    assert len(net.requests) == 1
    assert await net.tell() == ""


@virtual
async def test_a_listed_name_may_lead_to_a_private_address() -> None:
    net = Net(hooks_test=[["10.0.0.7"]])
    callback = replace(CALLBACK, url="http://hooks.test/ended")
    assert "`callbacks.allowed_hosts`" in await net.tell(callback)
    assert await net.tell(callback, "*.test") == ""
    assert [str(one.url) for one in net.requests] == ["http://10.0.0.7/ended"]


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("http://127.0.0.1/x", " (to http://127.0.0.1/x)"),
        ("http://169.254.169.254/latest?token=secret", " (to http://169.254.169.254/latest)"),
        ("//10.0.0.1/x", " (to https://10.0.0.1/x)"),
        ("/elsewhere", " (to https://example.org/elsewhere)"),
        ("http://user:secret@a.test/", " (to no http(s) URL)"),
        ("file:///etc/passwd", " (to no http(s) URL)"),
        ("s:////[", " (to no http(s) URL)"),
        (None, ""),
    ],
)
@virtual
async def test_a_redirect_is_a_failure_and_never_connected_to_d105(
    location: str | None, shown: str
) -> None:
    headers = {} if location is None else {"location": location}
    net = Net(reply(307, **headers), example_org=[[PUBLIC]])
    failure = await net.tell()
    assert failure == (f"it answered 307 Temporary Redirect, and redirects are not followed{shown}")
    assert [str(one.url) for one in net.requests] == [f"https://{PUBLIC}/ended?key=secret"]


@virtual
async def test_a_redirect_to_what_is_no_url_is_a_failure() -> None:
    net = Net(reply(302, location="http://[::1"), example_org=[[PUBLIC]])
    assert "Invalid URL in location header" in await net.tell()


@virtual
async def test_when_a_receiver_wants_the_next_try_is_passed_on() -> None:
    net = Net(reply(503, retry_after="120"), example_org=[[PUBLIC]])
    one = messenger(
        CallbackSettings(), resolve=net.resolve, transport=httpx.MockTransport(net.handle)
    )
    assert await one.tell(CALLBACK, DONE) == Refusal("it answered 503 Service Unavailable", "120")


@virtual
async def test_no_cookie_of_one_try_comes_back_in_another() -> None:
    net = Net(reply(503, set_cookie="a=1"), example_org=[[PUBLIC]])
    await net.tell()
    await net.tell()
    assert "cookie" not in net.requests[1].headers


@virtual
async def test_an_address_that_does_not_answer_gives_way_to_the_next() -> None:
    net = Net(example_org=[["2606:4700::1", PUBLIC]])

    def handle(request: httpx.Request) -> httpx.Response:
        net.requests.append(request)
        if ":" in request.url.host:
            raise httpx.ConnectError("network is unreachable")
        return reply(202)

    one = messenger(CallbackSettings(), resolve=net.resolve, transport=httpx.MockTransport(handle))
    assert await one.tell(CALLBACK, DONE) is None
    assert [request.url.host for request in net.requests] == ["2606:4700::1", PUBLIC]


@virtual
async def test_a_stored_url_that_is_none_is_a_failure_like_others() -> None:
    net = Net()
    for url in ("", "http://[::1/", "ftp://a.test/", "http://user@a.test/"):
        assert "`Atlatl-Callback-Url`" in await net.tell(replace(CALLBACK, url=url))
    assert net.requests == []


@virtual
async def test_a_stored_url_with_an_address_is_checked_at_each_try_d105() -> None:
    """It may have been listed when it was accepted."""
    net = Net()
    for host in ("127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]"):
        assert "no public address" in await net.tell(replace(CALLBACK, url=f"http://{host}/"))
    assert net.requests == []


@virtual
async def test_a_look_up_that_hangs_is_part_of_the_try() -> None:
    async def resolve(_: str) -> Sequence[Address]:
        await asyncio.Event().wait()
        return []

    refusal = await messenger(CallbackSettings(timeout_s=7), resolve=resolve).tell(CALLBACK, DONE)
    assert refusal == Refusal("it did not answer within `callbacks.timeout_s` (7 s)")
    assert asyncio.get_running_loop().time() == 7


@virtual
async def test_a_bug_is_a_failure_too(caplog: pytest.LogCaptureFixture) -> None:
    async def resolve(_: str) -> Sequence[Address]:
        raise ZeroDivisionError

    refusal = await messenger(CallbackSettings(), resolve=resolve).tell(CALLBACK, DONE)
    assert refusal == Refusal("the service failed at it: ZeroDivisionError")
    assert "callback of execution e-1" in caplog.text


# --- with sockets ---


def tell(*behaviours: Behaviour, execution: Execution = DONE) -> Any:
    """One try with a real receiver; the failure, and what it received."""

    async def told() -> tuple[str, list[receivers.Received]]:
        async with receiver(*behaviours) as it:
            settings = CallbackSettings(allowed_hosts=(it.address,), timeout_s=LIMIT_S)
            one = messenger(settings)
            try:
                refusal = await one.tell(replace(CALLBACK, url=it.url + "?key=1"), execution)
            finally:
                one.close()
            return reason(refusal), it.received

    return turned_time.run(told())


def too_long(behaviour: Behaviour) -> Behaviour:
    """A receiver that goes on with it until the try has no time left."""

    async def goes_on(request: receivers.Received, writer: receivers.Writer) -> None:
        clock = asyncio.ensure_future(turned_time.turn(LIMIT_S))
        try:
            await behaviour(request, writer)
        finally:
            clock.cancel()

    return goes_on


def test_a_receiver_gets_the_request() -> None:
    failure, (request,) = tell()
    assert failure == ""
    assert request.line == "POST /ended?key=1 HTTP/1.1"
    assert request.body == b'{"a":1}'
    assert request.headers["host"].startswith("127.0.0.1:")
    assert request.headers["atlatl-status"] == "COMPLETED"
    assert request.headers["accept-encoding"] == "identity"


def test_an_omitted_result_has_a_length_of_0() -> None:
    _, (request,) = tell(execution=succeeded(None))
    assert request.headers["content-length"] == "0"


def test_large_results_arrive_whole() -> None:
    body = bytes(range(256)) * 4096 * 4
    failure, (request,) = tell(execution=succeeded(Result(kind="bytes", body=body)))
    assert failure == ""
    assert request.body == body


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (too_long(receivers.hangs), "`callbacks.timeout_s` (1000 s)"),
        (too_long(receivers.drips_head), "`callbacks.timeout_s` (1000 s)"),
        (receivers.answers(500, b"no"), "it answered 500 Said"),
        (receivers.answers(404), "it answered 404 Said"),
        (receivers.answers(301, location="/x"), "redirects are not followed"),
    ],
)
def test_receivers_that_do_not_take_it(behaviour: Behaviour, says: str) -> None:
    failure, received = tell(behaviour)
    assert says in failure
    assert len(received) == 1


@pytest.mark.parametrize("behaviour", [receivers.resets, receivers.talks_nonsense])
def test_receivers_that_break_off(behaviour: Behaviour) -> None:
    failure, received = tell(behaviour)
    assert failure
    assert len(received) == 1


def test_a_status_counts_however_the_rest_of_the_answer_comes() -> None:
    assert tell(too_long(receivers.drips_body))[0] == ""
    assert tell(receivers.pours)[0] == ""
    assert tell(receivers.answers(200, b"x" * 100_000))[0] == ""


def test_a_port_where_nobody_listens() -> None:
    async def told() -> str:
        async with receiver() as it:
            pass
        settings = CallbackSettings(allowed_hosts=(it.address,))
        return reason(await messenger(settings).tell(replace(CALLBACK, url=it.url), DONE))

    assert asyncio.run(told())


def test_a_redirect_to_this_machine_is_not_followed_even_where_that_is_listed_d105() -> None:
    async def told() -> tuple[str, int]:
        async with receiver() as inner:
            redirect = receivers.answers(307, location=inner.url)
            async with receiver(redirect) as outer:
                settings = CallbackSettings(allowed_hosts=(outer.address, inner.address))
                refusal = await messenger(settings).tell(replace(CALLBACK, url=outer.url), DONE)
                return reason(refusal), inner.connections

    failure, connections = asyncio.run(told())
    assert "redirects are not followed" in failure
    assert connections == 0


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert tell()[0] == ""


def test_a_name_that_nobody_knows() -> None:
    label = "a" * 64  # longer than a name server may be asked for: no look-up leaves the machine
    one = messenger(CallbackSettings())
    callback = replace(CALLBACK, url=f"http://{label}.test/")
    assert "can't be looked up" in reason(asyncio.run(one.tell(callback, DONE)))
    one.close()
