"""The time that a request's body may take, on a connection that is none and a clock that jumps."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from atlatl.errors import SettingInvalid
from atlatl.front.protocol import MIN_BODY_BYTES_PER_S
from atlatl.settings import Settings, parse
from tests.connections import Connection
from tests.virtual_time import virtual

TIMEOUT_S = 10.0
HEAD = b"POST /x HTTP/1.1\r\nHost: localhost\r\n"


class Reader(Connection):
    """A connection to an application that says how large the body was."""

    def __init__(self, app: Any = None) -> None:
        self.received: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        super().__init__(app or self._app, body_timeout_s=TIMEOUT_S)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        size, more = 0, True
        while more:
            await self.reads.wait()
            message = await receive()
            self.received.append(message)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"%d" % size
        length = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": body})

    def gave_up_at(self) -> float:
        """When it was closed, with the 408 that it has to have said."""
        assert self.transport.closed_at is not None
        head, _, body = self.written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"content-type: application/problem+json" in head
        assert b"connection: close" in head
        problem = json.loads(body)
        assert (problem["status"], problem["code"]) == (408, "REQUEST_TIMEOUT")
        assert "http.body_timeout_s" in problem["detail"]
        return self.transport.closed_at


def head(n_bytes: int) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % n_bytes


@virtual
async def test_a_body_that_does_not_come_is_cut_off() -> None:
    connection = Reader()
    await connection.sends(head(5))
    await asyncio.sleep(1000)
    assert connection.gave_up_at() == TIMEOUT_S
    assert connection.received[-1]["type"] == "http.disconnect"


@virtual
async def test_a_body_that_stops_coming_is_cut_off() -> None:
    connection = Reader()
    await connection.sends(head(1_000_000), every_s=3.0)
    await connection.sends(b"x" * 50_000)
    await asyncio.sleep(1000)
    assert connection.gave_up_at() == 3.0 + TIMEOUT_S


@virtual
async def test_a_byte_a_second_is_no_body() -> None:
    connection = Reader()
    await connection.sends(head(1_000_000), *[b"x"] * 100, every_s=1.0)
    assert TIMEOUT_S <= connection.gave_up_at() < TIMEOUT_S + 1


@virtual
async def test_no_time_is_saved_up() -> None:
    """A good start is no licence to hold the connection for hours."""
    connection = Reader()
    await connection.sends(head(10_000_000), b"x" * 9_000_000, *[b"x"] * 100, every_s=1.0)
    assert connection.gave_up_at() < 2 * TIMEOUT_S + 2


@virtual
async def test_a_slow_body_that_keeps_coming_is_taken_however_long_it_takes() -> None:
    connection = Reader()
    n, size, pause_s = 200, 4000, 7.0
    assert size / pause_s > MIN_BODY_BYTES_PER_S
    await connection.sends(head(n * size), *[b"x" * size] * n, every_s=pause_s)
    assert connection.written.endswith(b"\r\n\r\n%d" % (n * size))
    assert not connection.transport.is_closing()


@virtual
async def test_a_chunked_body_has_the_same_time() -> None:
    connection = Reader()
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    await connection.sends(chunked, b"5\r\nhello\r\n", b"0\r\n\r\n", every_s=4.0)
    assert connection.written.endswith(b"\r\n\r\n5")
    await connection.sends(chunked, *[b"0" * 100] * 100, every_s=1.0)
    assert connection.transport.is_closing()


@virtual
async def test_what_we_do_not_read_is_not_late() -> None:
    connection = Reader()
    connection.reads.clear()
    await connection.sends(head(200_000), b"x" * 100_000)
    await asyncio.sleep(20 * TIMEOUT_S)
    assert not connection.transport.is_closing()
    connection.reads.set()
    await connection.sends(b"x" * 100_000, every_s=1.0)
    assert connection.written.endswith(b"\r\n\r\n200000")


@virtual
async def test_between_requests_and_while_an_answer_is_made_nothing_is_due() -> None:
    connection = Reader()
    connection.reads.clear()
    await connection.sends(head(5) + b"hello", every_s=10 * TIMEOUT_S)
    connection.reads.set()
    await asyncio.sleep(10 * TIMEOUT_S)
    await connection.sends(head(2) + b"ab")
    assert connection.written.count(b" 200 OK") == 2
    assert not connection.transport.is_closing()


@virtual
async def test_a_body_that_nobody_wants_gets_no_second_answer() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        nothing = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 401, "headers": nothing})
        await send({"type": "http.response.body", "body": b""})

    connection = Reader(refuse)
    await connection.sends(head(5))
    await asyncio.sleep(1000)
    assert connection.transport.closed_at == TIMEOUT_S
    assert connection.written.count(b"HTTP/1.1 ") == 1


@virtual
async def test_a_client_that_hangs_up_leaves_no_timer() -> None:
    connection = Reader()
    await connection.sends(head(5))
    connection.transport.close()
    await asyncio.sleep(1000)
    assert connection.written == b""


@virtual
async def test_the_body_of_an_upgrade_has_its_time_too() -> None:
    connection = Reader()
    upgrade = HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n"
    await connection.sends(upgrade, b"he")
    await asyncio.sleep(1000)
    assert connection.gave_up_at() == TIMEOUT_S
    connection = Reader()
    await connection.sends(upgrade, b"he", b"llo")
    assert connection.written.endswith(b"\r\n\r\n5")
    await asyncio.sleep(5 * TIMEOUT_S)
    assert not connection.transport.is_closing()


def test_the_time_is_more_than_none() -> None:
    with pytest.raises(SettingInvalid, match="body_timeout_s"):
        parse(Settings, {"http": {"body_timeout_s": 0}})
