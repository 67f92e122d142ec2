"""Any sequence of requests, cut anywhere: with the short way the answers are those without it."""

from __future__ import annotations

import asyncio
import re
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlatl.model import Outcome, OutcomeKind, Result
from tests.connections import Connection
from tests.fuzz.field import examples
from tests.unit.fast_fakes import MAX_BODY_BYTES, connected, echoes, result, served, warm
from tests.unit.front_fakes import TOKEN, FakeService, FakeTicket
from tests.virtual_time import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG_S = 10_000.0
SETTLED_S = 0.01
"""What can begin or end on one way has, after this, on the other too."""
_STATUS = re.compile(rb"(?=HTTP/1\.1 \d{3} )")


def items(ticket: FakeTicket) -> None:
    """A stream of two items."""

    def item(n: int) -> None:
        if not ticket.ended:
            ticket.on_chunk(Result(kind="json", body=b"%d" % n))

    def end() -> None:
        if not ticket.ended:
            ticket.finish(Outcome(kind=OutcomeKind.SUCCESS))

    loop = asyncio.get_running_loop()
    loop.call_later(1, item, 1)
    loop.call_later(2, item, 2)
    loop.call_later(3, end)


def field() -> FakeService:
    service = served()
    service.add("items", items, streams=True)
    own = (("Content-Type", "text/html"), ("X-Own", "\xe9"), ("Set-Cookie", "a=1"))
    service.add("whole", warm(result("response", b"<p>", status=201, headers=own)), kind="request")
    service.add("nothing", warm(result("response", b"x", status=204), after_s=0.5))
    service.add("text", warm(result("text", "grüße".encode()), after_s=0.1))
    return service


# --- requests ---

_names = st.sampled_from(
    ["echo", "echo", "echo", "slow", "slow", "fails", "large", "cold", "items", "whole", "nothing",
     "text", "hangs", "unknown", "id-echo", "e%63ho", "", "..", "x" * 128, "x" * 129]
)  # fmt: skip
_paths = st.one_of(
    _names.map(lambda name: f"/functions/{name}"),
    _names.map(lambda name: f"/functions/{name}"),
    _names.map(lambda name: f"/functions/{name}"),
    st.sampled_from(
        [
            "/functions/echo?a=1",
            "/functions/echo/",
            "/functions/whole/deep?a",
            "/functions/echo#x",
            "//functions/echo",
            "http://localhost/functions/echo",
            "/healthz",
            "/api/v1/executions/k-1",
            "/nothing",
            "*",
        ]
    ),
)
_methods = st.sampled_from(["POST"] * 8 + ["GET", "HEAD", "PUT", "OPTIONS", "post"])
_hosts = st.sampled_from(
    [(b"Host: localhost",)] * 8
    + [(), (b"Host: evil.example",), (b"Host: localhost", b"Host: evil.example"), (b"Host: [",)]
)
_bodies = st.sampled_from([b"", b"1", b'{"a":1}', b"[" * 100, b"x" * 3000, b"\xff"])
_line = st.sampled_from(
    [
        b"Idempotency-Key: k-1",
        b'Idempotency-Key: "k-2"',
        b"Idempotency-Key: a b",
        b"Prefer: respond-async",
        b"Prefer: wait=1, Respond-Async",
        b"Priority: u=1",
        b"Priority: u=9",
        b"Atlatl-Timeout-Ms: 500",
        b"Atlatl-Timeout-Ms: -1",
        b"Atlatl-Not-Before: 2026-01-01T00:00:00Z",
        b"Authorization: Bearer " + TOKEN.encode(),
        b"Authorization: bearer  " + TOKEN.encode() + b" ",
        b"Authorization: Bearer wrong",
        b"Authorization: Basic eA==",
        b"X-Forwarded-For: 10.0.0.1",
        b"Forwarded: for=10.0.0.1",
        b"Origin: http://localhost",
        b"Origin: http://evil.example",
        b"Sec-Fetch-Site: cross-site",
        b"Cookie: a=1",
        b"Cookie: b=2",
        b"X-Own: \xe9",
        b"X-Own:",
        b"Accept: text/event-stream",
        b"Connection: keep-alive",
        b"Connection: close",
        b"Connection: Upgrade\r\nUpgrade: h2c",
        b"Connection: Upgrade, close\r\nUpgrade: websocket",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"Expect: something",
        b"TE: trailers",
    ]
)
_lines = st.lists(_line, max_size=3)
_versions = st.sampled_from([b"1.1"] * 12 + [b"1.0", b"1.0", b"0.9", b"2.0"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method, path, body = draw(_methods), draw(_paths), draw(_bodies)
    lines = [*draw(_hosts), *draw(_lines)]
    framing = draw(st.sampled_from(["length"] * 8 + ["chunks", "none", "large", "both", "zeros"]))
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "zeros":
        lines.append(b"Content-Length: " + b"%d".zfill(50) % len(body))
    elif framing == "large":
        lines.append(b"Content-Length: %d" % (MAX_BODY_BYTES + 1))
    elif framing == "none":
        body = b""
    else:
        lines.append(b"Transfer-Encoding: chunked")
        if framing == "both":
            lines.append(b"Content-Length: %d" % len(body))
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    start = method.encode() + b" " + path.encode() + b" HTTP/" + draw(_versions)
    return b"\r\n".join([start, *lines, b"", body])


_nonsense = st.sampled_from([b"nonsense\r\n\r\n", b"\0", b"GET / HTTP/1.1\r\nA\r\n\r\n", b"\r\n"])
_asked = st.one_of(
    requests(), requests(), requests(), requests(), requests(), requests(), requests(),
    _nonsense,
)  # fmt: skip


# --- histories ---


class Step(NamedTuple):
    """A piece of what is sent, and what happens after it."""

    content: bytes
    pause_s: float
    takes: int | None
    """Bytes that the caller reads: 0 is no more, None all from now on."""
    change: str
    """What becomes of the service meanwhile, if nothing is under way; empty is nothing."""


class History(NamedTuple):
    steps: list[Step]
    leaves: bool
    """Hangs up at the end, instead of waiting for the answers."""


@st.composite
def histories(draw: st.DrawFn) -> History:
    # Mostly a connection repeats itself.
    times = st.sampled_from([1, 1, 1, 2, 3])
    asked = draw(st.lists(st.tuples(_asked, times), min_size=1, max_size=6))
    content = b"".join(each * n for each, n in asked)
    if draw(st.integers(0, 9)) == 0:
        content = content[: -draw(st.integers(1, 20))]
    places = draw(st.lists(st.integers(0, len(content)), max_size=6).map(sorted))
    pauses = st.sampled_from([0.0, 0.0, 0.05, 0.3, 2.0, 7.0])
    takes = st.sampled_from([None, None, None, 0, 0, 10_000, 300_000])
    changes = st.sampled_from([""] * 12 + ["open", "closed", "gone", "there", "streams"])
    steps = [
        Step(content[start:end], draw(pauses), draw(takes), draw(changes))
        for start, end in zip([0, *places], [*places, len(content)], strict=True)
    ]
    return History(steps, draw(st.integers(0, 4)) == 0)


async def lived(history: History, *, fast: bool) -> dict[str, Any]:
    """What there is to be seen of a history, from both ends."""
    service = field()
    connection = connected(service, fast=fast)
    for step in history.steps:
        if step.content:
            connection.transport.sends(step.content)
        await asyncio.sleep(step.pause_s)
        if step.takes is not None or connection.transport.unsent:
            await asyncio.sleep(SETTLED_S)
        if step.takes is None:
            connection.transport.takes_all()
        else:
            connection.transport.stops_taking()
            connection.transport.takes(step.takes)
        if step.change and not connection.transport.unsent:
            await asyncio.sleep(SETTLED_S)
            if all(ticket.ended for ticket in service.tickets):
                _change(service, step.change)
    await asyncio.sleep(SETTLED_S)
    if history.leaves:
        connection.transport.vanishes(ConnectionResetError())
    else:
        connection.transport.takes_all()
    await _ended(connection, service)
    assert connection.transport.late == b""
    assert connection.state.tasks == set()
    assert connection.state.connections == set()
    assert service.bytes.held == 0
    return {
        "answers": _answers(connection.written),
        "calls": [_call(ticket) for ticket in service.tickets],
        "accepted": [each for each in service.asked if not isinstance(each, tuple)],
    }


def _change(service: FakeService, change: str) -> None:
    if change in ("open", "closed"):
        service.is_open = change == "open"
    elif change == "gone":
        service.tasks_by_name.pop("echo", None)
    elif change == "there":
        service.add("echo", echoes)
    else:
        service.add("echo", items, streams=True)


async def _ended(connection: Connection, service: FakeService) -> None:
    """Ends what hangs, one after the other, until the connection has been idle for long enough."""
    for _ in range(20):
        await asyncio.sleep(LONG_S)
        for ticket in service.tickets:
            if not ticket.ended:
                ticket.finish(result("json", b'"at last"'))
    assert connection.transport.is_lost


def _answers(written: bytes) -> list[tuple[list[bytes], bytes]]:
    """The lines of each head, which have no order, and what follows it, perhaps cut off."""
    parted = (part.partition(b"\r\n\r\n") for part in _STATUS.split(written))
    return [(sorted(head.split(b"\r\n")), body) for head, _, body in parted]


def _call(ticket: FakeTicket) -> tuple[Any, ...]:
    return (ticket.call, ticket.cancelled, ticket.graces)


@examples(300)
@given(histories())
def test_any_history(history: History) -> None:
    long, short = (run(lived(history, fast=fast)) for fast in (False, True))
    assert short == long
