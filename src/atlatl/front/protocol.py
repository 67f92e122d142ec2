"""Uvicorn's HTTP protocol, stricter.

A head is bounded in time and size, a body has to keep coming, and an upgrade is no end.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, NoReturn

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from atlatl.errors import AtlatlError, InvalidRequest
from atlatl.front.fast import FastCycle, FastPath, Wanted
from atlatl.problem import MEDIA_TYPE, problem
from atlatl.settings import HttpSettings

MAX_HEAD_BYTES = 65_536
"""Request line, header fields and trailers; a chunk's extensions have as much again."""

FIELD_OVERHEAD_BYTES = 4
"""Colon, space and line break, which the parser does not hand on."""


MIN_BODY_BYTES_PER_S = 500
"""A byte now and then must not hold a connection for ever; a slow modem is ten times faster."""


class HeadTooLarge(AtlatlError):
    """The head of a request is larger than anybody needs."""

    code = "PAYLOAD_TOO_LARGE"
    http_status = 431
    grpc_status = "RESOURCE_EXHAUSTED"
    outcome = "invalid"


class BodyTooSlow(AtlatlError):
    """The body of a request stopped coming, or comes byte by byte."""

    code = "REQUEST_TIMEOUT"
    http_status = 408
    grpc_status = "DEADLINE_EXCEEDED"
    retryable = True
    outcome = "invalid"


def protocol(settings: HttpSettings, fast: FastPath | None = None) -> type[HttpToolsProtocol]:
    """The protocol with the time limits of these settings.

    Args:
        settings: of the listener.
        fast: picks the requests that don't need ASGI.
    """

    class Protocol(BoundedProtocol):
        head_timeout_s = settings.header_timeout_s
        body_timeout_s = settings.body_timeout_s
        idle_timeout_s = settings.idle_timeout_s
        fast_path = fast

    return Protocol


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Without the bounds a client that sends one byte a minute keeps it for ever,
    and one that sends header fields without an end fills the memory.
    """

    head_timeout_s: float
    body_timeout_s: float
    idle_timeout_s: float
    fast_path: FastPath | None

    _turn: FastCycle | RequestResponseCycle | None = None
    """The request that is being answered; those behind it wait in `pipeline`."""
    _host = ""
    _picked: tuple[bytes, bytes, list[tuple[bytes, bytes]]] | None = None
    """The last request; a connection mostly repeats itself."""
    _generation = -1
    """Of the tokens, when it came."""
    _wanted: Wanted | None = None
    """What it asked for."""
    _fields_of: object = None
    _fields = b""
    _head_timer: asyncio.TimerHandle | None = None
    _head_timer_at = math.inf
    _head_until: float | None = None
    """When a request that is waited for, or whose head is coming in, has no time left."""
    _idle = False
    """All requests are answered, and no byte of another has come."""
    _in_head = True
    _head_bytes = 0
    _idle_bytes = 0
    """Received since a head was complete or a piece of a body came."""
    _too_large = False
    _in_body = False
    _body_timer: asyncio.TimerHandle | None = None
    _body_until = 0.0
    """When the body that is coming in has no time left."""
    _body_bytes = 0
    """Of it, that have bought no time yet."""
    _last_words = b""
    """To be said when what came before is answered; nothing more is read."""
    _again = False
    """A head goes through a second parser: it has been seen already."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._host = self.client[0] if self.client else ""
        self._wait_for_head(self.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_until = None
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._body_arrived()
        turn, self._turn = self._turn, None
        if isinstance(turn, FastCycle):
            turn.hang_up()
        elif turn is not None:
            # Uvicorn tells the last request only.
            turn.disconnected = True
            turn.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._last_words:
            return
        was_idle, self._idle = self._idle, False
        self._idle_bytes += len(data)
        try:
            self._feed(memoryview(data))
        except httptools.HttpParserError:
            self.send_400_response("")
        if was_idle and not self._idle and self._head_until is not None:
            # A lone line break begins no request, and ends the wait for one.
            self._wait_for_head(self.head_timeout_s)
        if self._idle_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")
        if self._in_body:
            self._give_time()

    def _feed(self, data: memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """Goes on with the body of a request that asks for another protocol (RFC 9110, 7.8).

        The parser takes such a request to end with its head, so that the body would be lost, or
        read as the next request: Java's client asks for HTTP/2 with every first request. Another
        parser, which does not hear of the upgrade, reads the body.
        """
        fields = [
            name + b": " + value + b"\r\n"
            for name, value in self.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._again = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + b"".join(fields) + b"\r\n")
        self._again = False

    def on_message_begin(self) -> None:
        if self._again:
            return
        if self.transport.is_closing():
            raise ConnectionResetError("what comes after the last request is not read")
        if self._idle or self._head_until is None:  # idle: the one before it is answered already
            self._idle = False
            self._wait_for_head(self.head_timeout_s)
        self._in_head = True
        self._head_bytes = 0
        self.url = b""
        self.headers = []

    def on_url(self, url: bytes) -> None:
        if self._again:
            return
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._again:
            return
        self._head_bytes += len(name) + len(value) + FIELD_OVERHEAD_BYTES
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        # A trailer is no header (RFC 9110, 6.5.1): a proxy in front has not looked at it.
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._again:
            return
        self._in_head = False
        self._in_body = True
        self._idle_bytes = 0
        self._head_until = None
        cycle = self._fast_cycle()
        if cycle is None:
            self._to_application()
        elif self.cycle is None or self.cycle.response_complete:
            self.cycle = self._turn = cycle  # type: ignore[assignment]
        else:
            self.cycle = cycle  # type: ignore[assignment]
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _fast_cycle(self) -> FastCycle | None:
        if self.fast_path is None:
            return None
        parser, request = self.parser, (self.parser.get_method(), self.url, self.headers)
        fast_path = self.fast_path
        generation = fast_path.authorizer.generation
        if request != self._picked or generation != self._generation:
            self._picked, self._generation = request, generation
            self._wanted = fast_path.pick(*request, self._host)
        wanted = self._wanted
        if wanted is None or not fast_path.serves(wanted):
            return None
        keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        return FastCycle(self, fast_path.service, wanted, keep_alive=keep_alive)

    def _to_application(self) -> None:
        """Has uvicorn make what the application needs, of what has come in."""
        url, fields = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in fields:
            super().on_header(name, value)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._turn = cycle
        if self._in_body:  # which was not read while others were answered
            self._body_until = self.loop.time() + self.body_timeout_s
        if not isinstance(cycle, FastCycle):
            super()._start_asgi_task(cycle, app)
        elif not cycle.more_body:
            # Not here: a thousand that are refused at once would be a thousand calls deep.
            self.loop.call_soon(cycle.begin)

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if isinstance(cycle, FastCycle):
            self._body_arrived()
            cycle.more_body = False
            if cycle is self._turn:
                cycle.begin()
        elif not self.parser.should_upgrade():
            self._body_arrived()
            if cycle.response_complete:  # before its body was
                self._wait_for_next()
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        self._body_bytes += len(body)
        if isinstance(self.cycle, FastCycle):
            self.cycle.add(body)
        else:
            super().on_body(body)

    def on_response_complete(self) -> None:
        """Goes on with the next request, or begins to wait for one."""
        self.server_state.total_requests += 1
        self._turn = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._last_words:
            self.transport.write(self._last_words)
            self.transport.close()
        else:
            self._wait_for_next()

    def _wait_for_next(self) -> None:
        if not self._in_body and self._head_until is None:
            self._idle = True
            self._wait_for_head(self.idle_timeout_s)

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Has a part of an answer done that waits; the server's end waits for it."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def default_fields(self) -> bytes:
        """The header fields of every answer; uvicorn makes new ones each second."""
        fields = self.server_state.default_headers
        if fields is not self._fields_of:
            self._fields_of = fields
            self._fields = b"".join(b"%b: %b\r\n" % field for field in fields)
        return self._fields

    def send_400_response(self, msg: str) -> None:
        """Says what is wrong with the bytes that came, and closes the connection.

        Requests that came whole before them are answered first: the words would be taken for the
        answer to one of them.
        """
        if self.transport.is_closing():
            return
        turn, in_body = self._turn, self._in_body
        self._body_arrived()
        if in_body and self.pipeline:
            self.pipeline.popleft()
        elif in_body or turn is None:
            if turn is None or not turn.response_started:
                self.transport.write(_last_words(self._fault()))
            self.transport.close()
            return
        self._last_words = _last_words(self._fault())

    def _fault(self) -> AtlatlError:
        if self._too_large:
            return HeadTooLarge(f"the head of the request is larger than {MAX_HEAD_BYTES} bytes")
        return InvalidRequest("this is no HTTP/1.1 request")

    def _refuse_head(self) -> NoReturn:
        self._too_large = True
        raise HeadTooLarge("ends the parser; the answer is written by send_400_response")

    def _wait_for_head(self, timeout_s: float) -> None:
        self._head_until = until = self.loop.time() + timeout_s
        if until < self._head_timer_at:
            if self._head_timer is not None:
                self._head_timer.cancel()
            self._head_timer, self._head_timer_at = self.loop.call_at(until, self._head_due), until

    def _head_due(self) -> None:
        """The timer is not moved with each request; here it turns out whether time is left."""
        self._head_timer, self._head_timer_at = None, math.inf
        until = self._head_until
        if until is None:
            return
        if self._turn is not None:  # what is answered is not to end with it
            self._head_until = until = self.loop.time() + self.head_timeout_s
        if until > self.loop.time():
            self._head_timer, self._head_timer_at = self.loop.call_at(until, self._head_due), until
        else:
            self.transport.close()

    def _give_time(self) -> None:
        """A body begins with `body_timeout_s`, and buys more of it with each byte that comes.

        It never has more than `body_timeout_s` in hand. So a large body may take its time, and
        one that stops coming, or falls behind `MIN_BODY_BYTES_PER_S` for that long, is cut off.
        """
        now = self.loop.time()
        full = now + self.body_timeout_s
        if self._body_timer is None:
            self._body_until = full
            self._body_timer = self.loop.call_at(full, self._body_due)
        else:
            bought = self._body_bytes / MIN_BODY_BYTES_PER_S
            self._body_until = min(full, self._body_until + bought)
        self._body_bytes = 0

    def _body_due(self) -> None:
        """The timer is not moved with each piece; here it turns out whether time is left."""
        now = self.loop.time()
        if self.flow.read_paused or self.pipeline:  # it is we who do not take it
            self._body_until = now + self.body_timeout_s
        if self._body_until > now:
            self._body_timer = self.loop.call_at(self._body_until, self._body_due)
            return
        self._body_timer = None
        if not self.cycle.response_started:
            self.transport.write(_last_words(self._slowness()))
        self.transport.close()

    def _slowness(self) -> BodyTooSlow:
        return BodyTooSlow(
            f"the body of the request fell {self.body_timeout_s:g} s (`http.body_timeout_s`) "
            f"behind {MIN_BODY_BYTES_PER_S} bytes a second; send it again"
        )

    def _body_arrived(self) -> None:
        self._in_body, self._body_bytes = False, 0
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None


def _last_words(error: AtlatlError) -> bytes:
    """A whole answer, after which the connection is closed."""
    body = msgspec.json.encode(problem(error))
    head = (
        f"HTTP/1.1 {error.http_status} {HTTPStatus(error.http_status).phrase}\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
