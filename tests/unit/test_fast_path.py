"""Calls that go the short way over HTTP, on a connection that is none and a clock that jumps."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from atlatl.errors import InvalidRequest, NoCapacity, QueueFull, StoreUnavailable
from tests.unit.fast_fakes import asks, bodies, connected, problem, result, served, warm
from tests.unit.front_fakes import TOKEN, fails
from tests.virtual_time import virtual

TIMEOUT_S = 10.0


# --- whole requests and pieces of them ---


@virtual
async def test_a_call_needs_no_application() -> None:
    service = served()
    connection = connected(service)
    await connection.sends(asks("echo", b'{"a":1}', b"X-Own: \xe9", b"Idempotency-Key: k-1"))
    (answer,) = connection.answers()
    assert (answer.status, answer.body) == (200, b'{"a":1}')
    assert answer.header("atlatl-execution-id") == "k-1"
    assert connection.long_way == []
    (ticket,) = service.tickets
    request: Any = ticket.call.payload
    assert (request.method, request.path, request.query) == ("POST", "/", "")
    assert request.headers["x-own"] == "\xe9"
    assert ticket.call.id_given


@virtual
async def test_requests_cut_at_every_byte() -> None:
    whole = asks("echo", b'{"a":1}') + asks("fails") + asks("echo", b"2")
    for cut in range(1, len(whole)):
        connection = connected(served())
        await connection.sends(whole[:cut], whole[cut:])
        assert [answer.status for answer in connection.answers()] == [200, 500, 200]
        assert connection.answers()[0].body == b'{"a":1}'
        assert connection.long_way == []


@virtual
async def test_a_request_that_comes_byte_by_byte() -> None:
    connection = connected(served())
    whole = asks("echo", b'{"a":1}') + asks("slow") + asks("echo", b"2")
    await connection.sends(*(whole[n : n + 1] for n in range(len(whole))))
    await asyncio.sleep(TIMEOUT_S)
    assert bodies(connection) == [b'{"a":1}', b'"slow"', b"2"]


@virtual
async def test_a_body_in_many_pieces_is_kept_as_one() -> None:
    """A list of small pieces would take many times the memory of the body."""
    service = served()
    connection = connected(service)
    body = bytes(range(256)) * 8
    head, _, _ = asks("echo", body).partition(b"\r\n\r\n")
    await connection.sends(head + b"\r\n\r\n", *(body[n : n + 2] for n in range(0, 2000, 2)))
    held = connection.protocol.cycle._body
    assert len(held) == 2
    assert b"".join(held) == body[:2000]
    await connection.sends(body[2000:])
    assert bodies(connection) == [body]


@virtual
async def test_the_short_and_the_long_way_on_one_connection() -> None:
    """In the order asked, however long each takes; `slow` holds up all that come after it."""
    service = served()
    connection = connected(service)
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    chunked = b"POST /functions/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    await connection.sends(
        asks("echo", b"1")
        + get
        + asks("slow")
        + head
        + chunked
        + b"\r\n1\r\n3\r\n0\r\n\r\n"
        + asks("echo", b"4"),
        asks("slow") + get + asks("echo", b"5"),
    )
    await asyncio.sleep(100)
    methods = ["POST", "GET", "POST", "HEAD", "POST", "POST", "POST", "GET", "POST"]
    answers = connection.answers(*methods)
    assert [answer.status for answer in answers] == [200] * 9
    assert [answers[n].body for n in (0, 2, 3, 4, 5, 6, 8)] == [
        b"1", b'"slow"', b"", b"3", b"4", b'"slow"', b"5",
    ]  # fmt: skip
    assert connection.long_way == ["/healthz", "/healthz", "/functions/echo", "/healthz"]
    assert not connection.transport.is_closing()


@virtual
async def test_a_continue_is_said_on_the_long_way() -> None:
    connection = connected(served())
    head, _, _ = asks("echo", b"12345", b"Expect: 100-continue").partition(b"12345")
    await connection.sends(head, b"", every_s=1.0)
    assert connection.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.sends(b"12345", asks("echo", b"6"), every_s=1.0)
    assert connection.long_way == ["/functions/echo"]
    assert connection.written.endswith(b"\r\n\r\n6")


@virtual
async def test_thousands_refused_at_once() -> None:
    """Each while the one before it is answered: a stack as deep would overflow."""
    service = served()
    service.add("full", fails(NoCapacity("no room")))
    connection = connected(service)
    await connection.sends(asks("full") * 5000)
    assert [answer.status for answer in connection.answers()] == [503] * 5000
    await connection.sends(asks("slow") + asks("full") * 5000, every_s=TIMEOUT_S)
    assert [answer.status for answer in connection.answers()][5000:] == [200] + [503] * 5000
    assert connection.long_way == []


@virtual
async def test_what_waits_for_its_turn_stops_the_reading() -> None:
    """Else a caller could fill the memory with requests behind one that takes its time."""
    connection = connected(served())
    await connection.sends(asks("slow"), *[asks("echo", b"1")] * 1000)
    assert len(connection.protocol.pipeline) == 1
    await asyncio.sleep(TIMEOUT_S)
    assert bodies(connection) == [b'"slow"'] + [b"1"] * 1000


# --- who must not come this way ---


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 1", b"Content-Length: 1"),
        (b"Content-Length: 1", b"Content-Length: 2"),
        (b"Content-Length: 1, 1",),
        (b"Content-Length: 1", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: 1"),
        (b"Content-Length:",),
        (b"Content-Length: 0x1",),
    ],
)
@virtual
async def test_lengths_that_conflict(lines: tuple[bytes, ...]) -> None:
    service = served()
    connection = connected(service)
    start = (b"POST /functions/echo HTTP/1.1", b"Host: localhost")
    await connection.sends(b"\r\n".join((*start, *lines)) + b"\r\n\r\n1" + asks("echo", b"2"))
    (answer,) = connection.answers()
    assert (answer.status, problem(answer)) == (400, "INVALID_REQUEST")
    assert service.tickets == []
    assert connection.transport.is_closing()


@virtual
async def test_a_length_with_thousands_of_zeros_is_a_length() -> None:
    connection = connected(served())
    await connection.sends(asks("echo", b"1").replace(b"Length: ", b"Length: " + b"0" * 5000))
    assert bodies(connection) == [b"1"]


@virtual
async def test_a_body_that_says_it_is_too_large() -> None:
    service = served()
    connection = connected(service)
    await connection.sends(asks("echo", b"x" * 100_001)[:300])
    (answer,) = connection.answers()
    assert (answer.status, problem(answer)) == (413, "PAYLOAD_TOO_LARGE")
    assert answer.header("connection") == "close"
    assert service.tickets == []
    connection = connected(service)
    await connection.sends(asks("echo", b"x" * 100_000))
    assert bodies(connection) == [b"x" * 100_000]


@pytest.mark.parametrize(
    "lines",
    [
        (b"Authorization: Bearer wrong", b"X-Forwarded-For: 10.0.0.1"),
        (b"Origin: http://evil.example",),
        (b"Sec-Fetch-Site: cross-site",),
        (b"Host: evil.example",),
        (b"Host: localhost",),
    ],
)
@virtual
async def test_who_is_not_let_in(lines: tuple[bytes, ...]) -> None:
    answers = []
    for fast in (True, False):
        service = served()
        connection = connected(service, fast=fast)
        await connection.sends(asks("echo", b"1", *lines))
        answers.append(connection.answers())
        assert [answer.status for answer in answers[-1]] in ([401], [403])
        assert service.tickets == []
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "lines",
    [
        (b"Authorization: Bearer " + TOKEN.encode(),),
        (b"Authorization: Bearer other", b"Authorization: Bearer " + TOKEN.encode()),
        (b"Authorization: Bearer " + TOKEN.encode(), b"Authorization: Bearer other"),
    ],
)
@pytest.mark.parametrize("fast", [True, False])
@virtual
async def test_the_own_token_is_not_shown_to_functions(
    lines: tuple[bytes, ...], fast: bool
) -> None:
    service = served()
    connection = connected(service, fast=fast)
    await connection.sends(asks("echo", b"1", *lines))
    assert bodies(connection) == [b"1"]
    (ticket,) = service.tickets
    assert "authorization" not in ticket.call.headers
    await connection.sends(asks("echo", b"1", b"Authorization: Bearer other"))
    assert service.tickets[-1].call.headers["authorization"] == "Bearer other"


# --- what goes wrong ---


@pytest.mark.parametrize("name", ["start", "new_execution_id", "task", "accept"])
@virtual
async def test_a_bug_is_answered_500_and_logged(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: Any) -> Any:
        raise ZeroDivisionError("a bug")

    service = served()
    monkeypatch.setattr(service, name, bug)
    lines = (b"Prefer: respond-async",) if name == "accept" else ()
    connection = connected(service)
    with caplog.at_level(logging.ERROR):
        await connection.sends(asks("echo", b"1", *lines), b"", b"")
    (answer,) = connection.answers()
    assert (answer.status, problem(answer)) == (500, "RUNTIME_ERROR")
    assert "ZeroDivisionError: a bug" in caplog.text
    assert b"ZeroDivisionError" not in connection.written
    monkeypatch.undo()
    await connection.sends(asks("echo", b"2"))
    assert connection.answers()[-1].body == b"2" or connection.transport.is_closing()


@virtual
async def test_a_bug_in_an_answer_is_answered_500(caplog: pytest.LogCaptureFixture) -> None:
    service = served()
    service.add("odd", warm(result("no such kind", b"1"), after_s=1.0))
    connection = connected(service)
    await connection.sends(asks("odd") + asks("echo", b"2"), every_s=TIMEOUT_S)
    first, second = connection.answers()
    assert (first.status, second.status) == (500, 200)
    assert "no such kind" in caplog.text


@virtual
async def test_headers_that_no_call_can_have_go_the_long_way() -> None:
    connection = connected(served())
    await connection.sends(asks("echo", b"1", b"Priority: u=9"))
    assert len(connection.long_way) == 1


# --- in the background ---


@virtual
async def test_an_async_call_is_accepted_in_its_turn() -> None:
    service = served()
    connection = connected(service)
    background = asks("echo", b"1", b"Prefer: respond-async", b"Idempotency-Key: a")
    await connection.sends(asks("slow") + background + asks("echo", b"2"), every_s=TIMEOUT_S)
    _, accepted, last = connection.answers()
    assert accepted.status == 202
    assert accepted.header("location") == "/api/v1/executions/a"
    assert accepted.header("preference-applied") == "respond-async"
    assert json.loads(accepted.body)["status"] == "PENDING"
    assert last.body == b"2"
    assert connection.long_way == []
    assert len(service.tickets) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("no"), 400),
        (QueueFull("full", retry_after_s=5.0), 429),
        (StoreUnavailable("gone"), 503),
    ],
)
@virtual
async def test_an_async_call_that_is_refused(error: Exception, status: int) -> None:
    service = served()
    service.accept_error = error  # type: ignore[assignment]
    connection = connected(service)
    await connection.sends(asks("echo", b"1", b"Prefer: respond-async"), b"", asks("echo", b"2"))
    first, second = connection.answers()
    assert (first.status, second.body) == (status, b"2")
    assert problem(first)


@virtual
async def test_an_async_call_is_stored_although_its_caller_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = served()
    accept, stored = service.accept, []

    async def slowly(call: Any) -> Any:
        await asyncio.sleep(3)
        stored.append(await accept(call))
        return stored[0]

    monkeypatch.setattr(service, "accept", slowly)
    connection = connected(service)
    await connection.sends(asks("echo", b"1", b"Prefer: respond-async") + asks("echo", b"2"))
    connection.transport.vanishes()
    await asyncio.sleep(TIMEOUT_S)
    assert len(stored) == 1
    assert connection.written == connection.transport.late == b""
    assert connection.state.tasks == set()
    assert service.tickets == []
