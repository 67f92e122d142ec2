"""Answers of the short way: the same as those of the long one, whoever reads them."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from atlatl.errors import FunctionRaised, NoCapacity
from atlatl.front.sending import PIECE_BYTES
from atlatl.model import Outcome, OutcomeKind, failed
from tests.connections import HIGH_WATER_BYTES
from tests.unit.fast_fakes import LARGE, asks, bodies, connected, result, served, warm
from tests.unit.front_fakes import Behaviour, fails, returns
from tests.virtual_time import virtual

TIMEOUT_S = 10.0


# --- the same answer, whichever way it came ---


RESPONSE = (("Content-Type", "text/html"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
ENDS: dict[str, Behaviour] = {
    "json": warm(result("json", b'{"a": 1}')),
    "text": warm(result("text", "grüße".encode())),
    "bytes": warm(result("bytes", bytes(range(256)))),
    "empty": warm(result("bytes", b"")),
    "large": warm(result("bytes", b"x" * LARGE)),
    "late": warm(result("json", b"1"), after_s=3.0),
    "cold": returns("json", b"1"),
    "cold text": returns("text", b"1"),
    "no instance": warm(result("json", b"1"), instance_id=""),
    "instance of the attempt": warm(
        replace(result("json", b"1"), instance_id="i-9"), instance_id=""
    ),
    "no result": warm(Outcome(kind=OutcomeKind.SUCCESS)),
    "error": warm(failed(FunctionRaised("ValueError: no"))),
    "refused": fails(NoCapacity("no room", retry_after_s=1.5)),
    "cancelled": warm(Outcome(kind=OutcomeKind.CANCELLED)),
    "response": warm(result("response", b"<p>", headers=RESPONSE)),
    "page with a policy": warm(
        result(
            "response",
            b"<p>",
            headers=(*RESPONSE, ("Content-Security-Policy", "default-src 'none'")),
        )
    ),
    "own headers": warm(
        result(
            "response",
            b"x",
            headers=(
                ("Connection", "close"),
                ("Content-Length", "7"),
                ("Atlatl-Execution-Id", "mine"),
                ("Date", "never"),
                ("X-Own", "\xe9"),
            ),
        )
    ),
    "bad header": warm(result("response", b"x", headers=(("X-Own", "a\r\nX-Other: b"),))),
    "large response": warm(result("response", b"x" * LARGE, status=201)),
} | {
    f"status {status}": warm(result("response", b"body", status=status))
    for status in (200, 201, 204, 205, 301, 304, 404, 418, 499, 500, 599, 600, 150)
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("lines", [(), (b"Connection: close",), (b"Idempotency-Key: k",)])
@virtual
async def test_the_answer_is_that_of_the_long_way(end: str, lines: tuple[bytes, ...]) -> None:
    said = []
    for fast in (True, False):
        service = served()
        service.add("one", ENDS[end])
        connection = connected(service, fast=fast)
        connection.state.default_headers = [(b"date", b"today"), (b"x-every", b"time")]
        await connection.sends(asks("one", b"1", *lines) + asks("echo", b"2"))
        await asyncio.sleep(TIMEOUT_S)
        said.append((connection.answers(), connection.transport.is_closing()))
        assert (connection.long_way == []) == fast
        assert connection.transport.late == b""
    assert said[0] == said[1]


# --- answers that are large, and readers that are slow ---


@virtual
async def test_a_slow_reader_of_large_answers_has_them_in_pieces() -> None:
    service = served()
    connection = connected(service)
    transport = connection.transport
    transport.stops_taking()
    await connection.sends(asks("large") + asks("echo", b"2") + asks("large"))
    assert service.bytes.held == LARGE
    while len(service.tickets) < 3 or service.bytes.held:
        transport.takes(50_000)
        await asyncio.sleep(1)
    transport.takes_all()
    assert transport.most_unsent <= PIECE_BYTES + HIGH_WATER_BYTES + 1000
    assert bodies(connection) == [b"x" * LARGE, b"2", b"x" * LARGE]
    assert not transport.is_closing()


@virtual
async def test_small_answers_that_nobody_reads_are_counted_and_bounded() -> None:
    service = served()
    service.add("page", warm(result("bytes", b"x" * 60_000)))
    connection = connected(service)
    connection.transport.stops_taking()
    await connection.sends(asks("page") * 100)
    assert len(service.tickets) == 3
    assert service.bytes.held == 60_000
    connection.transport.takes_all()
    await asyncio.sleep(1)
    assert bodies(connection) == [b"x" * 60_000] * 100
    assert service.bytes.held == 0


@pytest.mark.parametrize("taken", [0, 300_000])
@virtual
async def test_a_reader_who_vanishes_leaves_no_bytes_behind(taken: int) -> None:
    service = served()
    connection = connected(service)
    connection.transport.stops_taking()
    await connection.sends(asks("large") + asks("echo"))
    connection.transport.takes(taken)
    await asyncio.sleep(1)
    assert service.bytes.held == LARGE
    connection.transport.vanishes(ConnectionResetError())
    await asyncio.sleep(1)
    assert service.bytes.held == 0
    assert connection.transport.late == b""
    assert len(service.tickets) == 1
    assert connection.state.tasks == set()
