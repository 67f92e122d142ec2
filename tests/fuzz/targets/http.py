"""What comes over HTTP: requests as bytes, header fields, forms, bodies in JSON."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from atlatl.core.moments import parse_moment
from atlatl.core.turns import wished_delay_s
from atlatl.errors import AtlatlError, PayloadTooLarge
from atlatl.front import answers, calls, invocations, tasks
from atlatl.front.access import Gate, GrpcGate, Visitor
from atlatl.front.auth import Authorizer, Scope
from atlatl.front.executions import Cancellation
from atlatl.front.trace_context import trace_context
from atlatl.model import HttpRequest, Mode
from tests.fuzz.fuzzing import Target
from tests.fuzz.test_fast_path_fuzz import field
from tests.unit.fast_fakes import TOKEN, connected
from tests.virtual_time import run

LONG_S = 10_000.0
CRASH = b"its log says why"

# --- requests ---


@contextmanager
def requests() -> Iterator[Callable[[bytes], None]]:
    """The first byte says how the bytes are cut, and whether there is the short way."""
    yield lambda data: run(_request(data))


async def _request(data: bytes) -> None:
    cut, rest = (data[0] if data else 0), data[1:]
    service = field()
    connection = connected(service, fast=bool(cut & 1))
    transport = connection.transport
    step = max(cut >> 1, len(rest) // 500) or max(1, len(rest))
    for at in range(0, len(rest), step):
        transport.sends(rest[at : at + step])
        await asyncio.sleep(0)
    await asyncio.sleep(20.0)
    for ticket in service.tickets:
        if not ticket.ended:
            ticket.cancel()
    for _ in range(30):
        if transport.is_lost:
            break
        await asyncio.sleep(LONG_S)
        for ticket in service.tickets:
            if not ticket.ended:
                ticket.cancel()
    assert transport.is_lost, "the connection stays for ever"
    assert not connection.state.tasks
    assert not connection.state.connections
    assert service.bytes.held == 0
    assert CRASH not in connection.written, connection.written
    assert b" 500 " not in connection.written.partition(b"\r\n")[0]


def _request_seeds() -> list[bytes]:
    host = b"Host: localhost\r\n"
    whole = [
        b"POST /functions/echo HTTP/1.1\r\n" + host + b'Content-Length: 7\r\n\r\n{"a":1}',
        b"POST /functions/items HTTP/1.1\r\n" + host + b"Accept: text/event-stream\r\n\r\n",
        b"POST /functions/echo HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhi\r\n0\r\nX: y\r\n\r\n",
        b"GET /functions/whole/deep?a=%zz HTTP/1.0\r\n\r\n",
        b"POST /api/v1/invocations HTTP/1.1\r\n" + host + b"Content-Length: 15\r\n\r\n"
        b'{"task_id":"e"}',
        b"GET /healthz HTTP/1.1\r\n" + host + b"\r\n" * 2,
        b"PUT /api/v1/tasks/x HTTP/1.1\r\n" + host + b"Authorization: Bearer " + TOKEN.encode()
        + b"\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 78\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="artifact"; filename="a.py"\r\n\r\n'
        b"x\r\n--b--",
        b"POST /functions/echo HTTP/1.1\r\n" + host + b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
        b"Content-Length: 2\r\n\r\n{}",
        b"POST /functions/slow HTTP/1.1\r\n" + host + b"Prefer: respond-async\r\nPriority: u=1\r\n"
        b"Idempotency-Key: k\r\nContent-Length: 0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
    ]  # fmt: skip
    return [bytes([cut]) + data for cut in (0, 1, 6, 7) for data in [*whole, whole[0] * 3]]


# --- header fields ---


@contextmanager
def headers() -> Iterator[Callable[[bytes], None]]:
    """A field in each line."""
    gates = [Gate(Authorizer(TOKEN), "127.0.0.1"), GrpcGate(Authorizer(TOKEN), "127.0.0.1")]
    yield lambda data: _headers(gates, data)


def _headers(gates: list[Gate], data: bytes) -> None:
    raw = [line.partition(b":")[::2] for line in data.split(b"\n")]
    fields = calls.headers_of(raw, without=frozenset({"cookie"}))
    request = HttpRequest(method="POST", path="/", query="", headers=fields, body=b"")
    assert request.content_type.islower() or not request.content_type.isalpha()
    for mode in Mode:
        with contextlib.suppress(AtlatlError):
            call = calls.call_from("t", request, mode=mode, new_execution_id="new")
            assert call.execution_id.isascii()
            assert call.priority is None or 0 <= call.priority <= 7
            assert call.not_before is None or abs(call.not_before) < 1e12

    calls.prefers_async(fields)
    calls.accepts(fields, "text/event-stream")
    traced = trace_context(fields)
    assert not traced or len(traced["traceparent"]) == 55
    for gate in gates:
        for host in ("127.0.0.1", "::1", "10.0.0.1", "", "ipv4:127.0.0.1:5", "ipv6:%5B::1%5D:5"):
            for scope in Scope:
                with contextlib.suppress(AtlatlError):
                    gate.admit(Visitor(fields, host), scope)
                    assert scope not in (Scope.ADMIN, Scope.DEPLOY) or TOKEN in str(fields)
    for value in fields.values():
        assert wished_delay_s(value, 1_700_000_000.0) >= 0.0
        with contextlib.suppress(ValueError):
            parse_moment(value)
        if answers.is_whole_number(value):
            int(value)


def _header_seeds() -> list[bytes]:
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    return [
        b'idempotency-key: "k-1"\npriority: u=3, i\natlatl-timeout-ms: 500\nprefer: respond-async',
        b"traceparent: " + trace + b"\ntracestate: a=1,b=2",
        b"atlatl-not-before: 2026-01-01T00:00:00.5+01:00\natlatl-callback-url: https://a.invalid:1/x",
        b"atlatl-not-before: 9999-12-31T23:59:59.999999999-23:59\nprefer: wait=1, respond-async",
        b"host: localhost:8081\norigin: http://localhost:8081\nsec-fetch-site: same-origin",
        b"host: [::1\norigin: http://[\nauthorization: Bearer " + TOKEN.encode() + b", Basic x",
        b"retry-after: Wed, 21 Oct 2015 07:28:00 GMT\nx: " + b"9" * 400,
        b"priority: u=" + b"9" * 5000,
        b"atlatl-max-retries: " + b"9" * 5000 + b"\ncontent-length: \xb2",
        b"cookie: a=1\ncookie: b=2\naccept: text/event-stream;q=0.1, */*\ncontent-type: TEXT/plain",
        b"forwarded: for=1\nx-forwarded-for: 1\nauthorization: bearer  \xff\xfe",
        b"authorization: Bearer x\n" * 500,
    ]


# --- forms ---

CHARSETS = (b"", b"; charset=utf-7", b"; charset=utf-16", b"; charset=unicode_escape",
            b"; charset=idna", b"; charset=bogus", b"; charset=\xff", b"; boundary=c")  # fmt: skip


@contextmanager
def forms() -> Iterator[Callable[[bytes], None]]:
    """Two bytes choose the charset and how the rest is cut."""
    loop = asyncio.new_event_loop()
    try:
        yield lambda data: loop.run_until_complete(_read_form(data))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _read_form(data: bytes) -> None:
    which, cut, rest = (*data[:2].ljust(2, b"\0"), data[2:])
    media_type = b"multipart/form-data; boundary=b" + CHARSETS[which % len(CHARSETS)]
    step = max(cut, len(rest) // 500) or max(1, len(rest))
    pieces = [rest[at : at + step] for at in range(0, len(rest), step)] or [b""]
    inbox = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    inbox[-1]["more_body"] = False

    async def receive() -> Any:
        return inbox.pop(0)

    scope = {"type": "http", "method": "PUT", "headers": [(b"content-type", media_type)]}
    request = answers.bounded(Request(scope, receive), 100_000, "http.max_body_bytes")
    try:
        content, filename, settings = await tasks._form(request)
    except AtlatlError as error:
        assert error.http_status == 400 or isinstance(error, PayloadTooLarge)
    else:
        assert isinstance(content, bytes)
        assert isinstance(filename, str)
        assert isinstance(settings, dict)


def _form_seeds() -> list[bytes]:
    def part(head: bytes, content: bytes) -> bytes:
        return b"--b\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n"

    artifact = part(b'name="artifact"; filename="a.py"', b"x = 1")
    end = b"--b--\r\n"
    whole = [
        artifact + part(b'name="settings"', b'{"timeout_ms": 5}') + end,
        artifact + part(b'name="settings"; filename="s.json"', b"{}") + end,
        part(b'name="artifact"', b"+2AA-") + part(b'name="settings"', b"\\ud800") + end,
        part(b"name*=utf-8''artifact; filename*=utf-8''%ff", b"x") + end,
        artifact * 100 + end,
        artifact + b"--b\r\n" + b"X: y\r\n" * 2000 + b"\r\n" + end,
        part(b'name="settings"', b"[" * 100_000) + artifact + end,
        artifact,
        b"preamble" + artifact + end + b"epilogue",
    ]
    return [bytes([which, cut]) + data for which in (0, 1, 3) for cut in (0, 5) for data in whole]


# --- JSON ---


@contextmanager
def json_bodies() -> Iterator[Callable[[bytes], None]]:
    yield _json


def _json(data: bytes) -> None:
    for kind in (dict[str, Any], Any, Cancellation):
        with contextlib.suppress(AtlatlError):
            answers.json_answer(answers.read_json(data, kind, "body"))
    with contextlib.suppress(AtlatlError):
        message = invocations.request_from_json(data)
        message.SerializeToString()


def _json_seeds() -> list[bytes]:
    deep = 100_000
    return [
        b'{"task_id":"a","execution_mode":"EXECUTION_MODE_SYNC","parameters":[{"name":"a","value":'
        b'{"@type":"type.googleapis.com/google.protobuf.Struct","value":{"x":[1,null,true,"s"]}}}]}',
        b'{"parameters":[{"value":{"@type":"type.googleapis.com/spearlet.ExecutionData","value":'
        b'"aGk="}}]}',
        b'{"context":{"timeout_ms":"100","headers":{"a":"b"},"environment":{"A":"1"}},"wait":true}',
        b'{"artifact_spec":{"artifact_id":"a","location":"data:,x","metadata":{"k":"v"}}}',
        b'{"parameters":[{"value":{"@type":"type.googleapis.com/google.protobuf.Any"}}]}',
        b'{"parameters":[{"value":{"@type":"type.googleapis.com/google.protobuf.Duration",'
        b'"value":"1e9s"}}]}',
        b'{"reason":"r","force":true}', b'{"a":1,"a":2}', b'{"a":1e999}', b'{"a":NaN}', b"-0",
        b'{"a":' + b"9" * 5000 + b"}", b'{"timeout_ms":99999999999999999999999999}', b'"\\ud800"',
        b"[" * deep + b"]" * deep, b"[" * deep, b'{"a":' * deep, b"\xef\xbb\xbf{}", b"\xff\xfe",
        b'{"parameters":' + b'[{"value":' * 5000, b'"' + b"\\" * 999, b'{"\\u0000":"\\u0000"}',
    ]  # fmt: skip


TARGETS = [
    Target(
        name="http_requests",
        opened=requests,
        traced=("/atlatl/front/", "/uvicorn/protocols/"),
        seeds=_request_seeds,
    ),
    Target(
        name="headers",
        opened=headers,
        traced=("/atlatl/front/", "/atlatl/core/", "/email/_parseaddr", "/email/utils"),
        seeds=_header_seeds,
    ),
    Target(
        name="forms",
        opened=forms,
        traced=("/atlatl/front/", "/starlette/formparsers", "/multipart"),
        seeds=_form_seeds,
    ),
    Target(
        name="json",
        opened=json_bodies,
        traced=("/atlatl/front/", "/google/protobuf/json_format"),
        seeds=_json_seeds,
    ),
]
