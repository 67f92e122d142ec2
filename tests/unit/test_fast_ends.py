"""The short way when a caller leaves, a connection ends, or a time is over."""

from __future__ import annotations

import asyncio

import pytest

from atlatl.model import Result
from tests.unit.fast_fakes import LARGE, asks, bodies, connected, problem, result, served, warm
from tests.unit.front_fakes import FakeTicket, hangs
from tests.virtual_time import virtual

TIMEOUT_S = 10.0


# --- callers who leave ---


@virtual
async def test_a_caller_who_leaves_ends_the_call() -> None:
    service = served()
    connection = connected(service)
    await connection.sends(asks("hangs"))
    connection.transport.vanishes(ConnectionResetError())
    await asyncio.sleep(0)
    (ticket,) = service.tickets
    assert ticket.cancelled == ["the caller hung up"]
    assert ticket.graces[0]
    assert connection.transport.late == b""


@virtual
async def test_a_call_with_an_id_goes_on_without_its_caller() -> None:
    service = served()
    connection = connected(service)
    await connection.sends(asks("slow", b"", b"Idempotency-Key: k"))
    connection.transport.vanishes()
    await asyncio.sleep(TIMEOUT_S)
    (ticket,) = service.tickets
    assert ticket.ended
    assert ticket.cancelled == []
    assert connection.transport.late == b""


@pytest.mark.parametrize("first", ["/functions/hangs", "/functions/hangs/", "/functions/items"])
@pytest.mark.parametrize("second", ["/functions/echo", "/healthz"])
@virtual
async def test_who_leaves_with_calls_in_line_ends_the_one_and_begins_none(
    first: str, second: str
) -> None:
    """`/functions/items` is a stream, and `/functions/hangs/` takes the long way too."""
    service = served()
    service.add("hangs", hangs, kind="request")
    service.add("items", hangs, streams=True)
    connection = connected(service)
    asked = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in (first, second))
    await connection.sends(*(line.encode() for line in asked), b"", b"")
    connection.transport.vanishes()
    await asyncio.sleep(TIMEOUT_S)
    (ticket,) = service.tickets
    assert ticket.cancelled == ["the caller hung up"]
    assert connection.transport.late == b""


@virtual
async def test_who_leaves_before_the_body_is_whole_calls_nothing() -> None:
    service = served()
    connection = connected(service)
    await connection.sends(asks("echo", b"12345")[:-1])
    connection.transport.vanishes()
    await asyncio.sleep(2000)
    assert service.tickets == []
    assert connection.written == b""


@virtual
async def test_who_leaves_at_the_turn_of_a_call_does_not_begin_it() -> None:
    service = served()
    connection = connected(service)
    await connection.sends(asks("hangs") + asks("echo"))
    service.tickets[0].finish(result("json", b"1"))
    connection.transport.vanishes()
    await asyncio.sleep(1)
    assert len(service.tickets) == 1


# --- the end of a connection ---


@pytest.mark.parametrize("name", ["echo", "cold", "fails", "slow", "large"])
@pytest.mark.parametrize("lines", [(b"Connection: close",), ()])
@virtual
async def test_the_last_answer_says_that_it_is(name: str, lines: tuple[bytes, ...]) -> None:
    """A client would send its next request into nothing."""
    version = b"1.1" if lines else b"1.0"
    connection = connected(served())
    await connection.sends(asks(name, b"1", *lines, version=version), every_s=TIMEOUT_S)
    (answer,) = connection.answers()
    assert answer.header("connection") == "close"
    assert connection.transport.is_closing()


@pytest.mark.parametrize("name", ["echo", "slow"])
@virtual
async def test_what_comes_after_the_last_request_is_not_done(name: str) -> None:
    """RFC 9112, 9.6."""
    service = served()
    connection = connected(service)
    last = asks(name, b"1", b"Connection: close")
    await connection.sends(last + asks("echo", b"2") + asks("echo", b"3"), every_s=TIMEOUT_S)
    assert len(connection.answers()) == len(service.tickets) == 1
    assert connection.transport.late == b""
    connection = connected(service)
    connection.transport.stops_taking()  # so that there is something left to be sent
    await connection.sends(asks("echo", b"1") * 2 + last + asks("echo", b"2"), every_s=TIMEOUT_S)
    connection.transport.takes_all()
    assert len(connection.answers()) == 3
    assert len(service.tickets) == 4


@pytest.mark.parametrize("name", ["slow", "large", "cold"])
@virtual
async def test_a_call_under_way_at_the_servers_end_gets_its_answer(name: str) -> None:
    connection = connected(served())
    connection.transport.stops_taking()
    await connection.sends(asks(name))
    connection.protocol.shutdown()
    connection.transport.takes_all()
    await asyncio.sleep(TIMEOUT_S)
    (answer,) = connection.answers()
    assert answer.status == 200
    assert connection.transport.is_closing()
    if name == "slow":  # the others had begun to be answered
        assert answer.header("connection") == "close"


@virtual
async def test_calls_in_line_at_the_servers_end_get_their_answers() -> None:
    connection = connected(served())
    await connection.sends(asks("slow") + asks("echo", b"1") + asks("slow"))
    connection.protocol.shutdown()
    await asyncio.sleep(2 * TIMEOUT_S)
    assert bodies(connection) == [b'"slow"', b"1", b'"slow"']
    assert connection.answers()[-1].header("connection") == "close"
    assert connection.transport.is_closing()


@virtual
async def test_a_body_under_way_at_the_servers_end_is_taken() -> None:
    connection = connected(served())
    whole = asks("echo", b"12345")
    await connection.sends(whole[:-2])
    connection.protocol.shutdown()
    await connection.sends(whole[-2:])
    (answer,) = connection.answers()
    assert (answer.body, answer.header("connection")) == (b"12345", "close")
    assert connection.transport.is_closing()


@virtual
async def test_an_idle_connection_ends_with_the_server() -> None:
    connection = connected(served())
    await connection.sends(asks("echo", b"1"))
    connection.protocol.shutdown()
    assert connection.transport.is_closing()


# --- time ---


@virtual
async def test_an_idle_connection_has_its_time_after_each_answer() -> None:
    connection = connected(served(), idle_timeout_s=60.0, header_timeout_s=10.0)
    await connection.sends(asks("echo", b"1"), asks("slow"), asks("echo", b"2"), every_s=59.0)
    assert not connection.transport.is_closing()
    await asyncio.sleep(1000)
    assert connection.transport.closed_at == 2 * 59.0 + 60.0
    assert len(connection.answers()) == 3


@virtual
async def test_a_head_has_its_time_after_a_fast_answer() -> None:
    connection = connected(served(), idle_timeout_s=60.0, header_timeout_s=10.0)
    await connection.sends(asks("echo", b"1"), every_s=30.0)
    await connection.sends(asks("echo", b"1")[:20], every_s=5.0)
    await connection.sends(asks("echo", b"1")[20:25])
    await asyncio.sleep(1000)
    assert connection.transport.closed_at == 30.0 + 10.0


@virtual
async def test_a_head_has_no_more_time_behind_a_request() -> None:
    """It begins in the bytes in which a request came that was answered at once."""
    connection = connected(served(), idle_timeout_s=60.0, header_timeout_s=10.0)
    for _ in range(2):
        await connection.sends(asks("echo", b"1") + asks("echo", b"1")[:20], every_s=5.0)
        await connection.sends(asks("echo", b"1")[20:], every_s=30.0)
    await connection.sends(asks("echo", b"1") + asks("echo", b"1")[:20])
    await asyncio.sleep(1000)
    assert connection.transport.closed_at == 70.0 + 10.0


@virtual
async def test_a_call_may_take_longer_than_a_head() -> None:
    service = served()
    service.add("long", warm(result("json", b"1"), after_s=500.0))
    connection = connected(service, idle_timeout_s=60.0, header_timeout_s=10.0)
    await connection.sends(asks("long"))
    await asyncio.sleep(555.0)
    assert bodies(connection) == [b"1"]
    assert not connection.transport.is_closing()


@virtual
async def test_a_head_that_we_do_not_read_is_not_late() -> None:
    """Two requests in line stop the reading, in the middle of the head of a third."""
    service = served()
    service.add("long", warm(result("json", b"1"), after_s=500.0))
    connection = connected(service, header_timeout_s=10.0)
    whole = asks("long") + asks("echo", b"2") + asks("echo", b"3")
    await connection.sends(whole[:-50], whole[-50:])
    await asyncio.sleep(600)
    assert bodies(connection) == [b"1", b"2", b"3"]


@virtual
async def test_a_body_that_stops_coming_is_answered_408() -> None:
    service = served()
    connection = connected(service, body_timeout_s=TIMEOUT_S)
    await connection.sends(asks("echo", b"1") + asks("echo", b"12345")[:-2])
    await asyncio.sleep(1000)
    assert connection.transport.closed_at == TIMEOUT_S
    first, second = connection.answers()
    assert (first.status, second.status, problem(second)) == (200, 408, "REQUEST_TIMEOUT")
    assert second.header("connection") == "close"
    assert len(service.tickets) == 1
    assert connection.long_way == []


@virtual
async def test_the_time_of_a_body_begins_when_its_turn_comes() -> None:
    """Until then it is we who do not read it."""
    service = served()
    service.add("long", warm(result("json", b"1"), after_s=500.0))
    connection = connected(service, body_timeout_s=TIMEOUT_S)
    whole = asks("long") + asks("echo", b"12345")
    await connection.sends(whole[:-2], whole[-2:])
    await asyncio.sleep(600)
    assert bodies(connection) == [b"1", b"12345"]


BAD_CHUNK = b"POST /%b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"


@pytest.mark.parametrize(
    "wrong", [b"no HTTP\r\n\r\n", BAD_CHUNK % b"healthz", BAD_CHUNK % b"functions/echo"]
)
@pytest.mark.parametrize("before", [1, 2])
@virtual
async def test_what_came_whole_before_nonsense_is_answered(wrong: bytes, before: int) -> None:
    """A 400 at once would be taken for the answer to it."""
    service = served()
    connection = connected(service)
    whole = asks("slow") * before
    await connection.sends(whole + wrong, wrong, asks("echo", b"2"), every_s=1.0)
    assert connection.written == b""
    await asyncio.sleep(100)
    *good, last = connection.answers()
    assert [answer.body for answer in good] == [b'"slow"'] * before
    assert (last.status, problem(last), last.header("connection")) == (
        400,
        "INVALID_REQUEST",
        "close",
    )
    assert connection.transport.is_closing()
    assert len(service.tickets) == before


@pytest.mark.parametrize("tail", [asks("echo", b"12345")[:-2], asks("echo") + b"no HTTP\r\n\r\n"])
@pytest.mark.parametrize("name", ["large", "items"])
@virtual
async def test_nothing_is_said_in_the_middle_of_an_answer(name: str, tail: bytes) -> None:
    """What is wrong with a later request is no part of an earlier one's answer."""
    service = served()

    def begins(ticket: FakeTicket) -> None:
        ticket.on_chunk(Result(kind="bytes", body=b"x" * 1000))

    service.add("items", begins, streams=True)
    connection = connected(service, body_timeout_s=TIMEOUT_S)
    connection.transport.stops_taking()
    await connection.sends(asks(name), b"", tail)
    await asyncio.sleep(5 * TIMEOUT_S)
    while connection.transport.unsent:
        connection.transport.takes(10_000)
        await asyncio.sleep(1)
    await asyncio.sleep(5 * TIMEOUT_S)
    assert connection.written.startswith(b"HTTP/1.1 200 OK\r\n")
    body = connection.written.partition(b"\r\n\r\n")[2]
    if name == "large":
        whole, after = body[:LARGE], body[LARGE:]
        assert whole == b"x" * len(whole)
        assert after == b"" or after.startswith(b"HTTP/1.1 ")
    else:
        assert b"HTTP/1.1 " not in body
