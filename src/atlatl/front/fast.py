"""The short way of a call over HTTP: `POST /functions/{task}` without ASGI and without a task.

Whatever is not plain goes the long way through the ASGI application, which knows all: other
paths and methods, streams, tasks that are not there, callers that are not let in, bodies whose
length is not stated. So the rules stand once; only the order of the work is another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from atlatl.errors import AtlatlError, RateLimited
from atlatl.front.access import Gate, Visitor
from atlatl.front.auth import Grant, Scope
from atlatl.front.calls import call_options, headers_of, make_call, prefers_async
from atlatl.front.outcomes import accepted, answer
from atlatl.front.problems import crashed, problem_response
from atlatl.front.sending import PIECE_BYTES
from atlatl.model import Call, Execution, HttpRequest, Mode
from atlatl.service import HANG_UP_GRACE_S

if TYPE_CHECKING:
    from atlatl.engine.ticket import Ticket
    from atlatl.front.protocol import BoundedProtocol
    from atlatl.service import FunctionService

Fields = Iterable[tuple[bytes, bytes]]

OWN_PIECE_BYTES = 16_384
"""Smaller pieces of a body are put together: a list of them takes many times as much memory."""

_PATH = re.compile(rb"/functions/([A-Za-z0-9._~-]{1,128})")
_LONG_WAY = frozenset({"expect", "transfer-encoding", "upgrade"})


class Wanted:
    """A call that may go the short way.

    Attributes:
        name: of the task.
        mode: SYNC or ASYNC.
        headers: of the request, as the function gets them.
        options: what they say about the call, as fields of Call.
        grant: of the caller.
    """

    __slots__ = ("grant", "headers", "mode", "name", "options")

    def __init__(
        self,
        name: str,
        mode: Mode,
        headers: dict[str, str],
        options: dict[str, Any],
        grant: Grant,
    ) -> None:
        self.name = name
        self.mode = mode
        self.headers = headers
        self.options = options
        self.grant = grant


class FastPath:
    """Picks the calls that go the short way.

    Args:
        service: runs the calls.
        gate: lets callers in.
    """

    def __init__(self, service: FunctionService, gate: Gate) -> None:
        self.service = service
        self.authorizer = gate.authorizer
        self._gate = gate
        self._max_body_bytes = service.settings.http.max_body_bytes

    def pick(self, method: bytes, url: bytes, fields: Fields, host: str) -> Wanted | None:
        """What the request asks for; None when it has to go the long way.

        The answer depends on the arguments alone, so a connection that repeats itself need not
        ask again until other tokens are held; what changes with each call is asked by `serves`.

        Args:
            method: as received.
            url: as received.
            fields: the header, names in lower case.
            host: address that the request comes from.
        """
        match = _PATH.fullmatch(url) if method == b"POST" else None
        if match is None:
            return None
        headers = headers_of(fields, without=frozenset())
        if not _LONG_WAY.isdisjoint(headers):
            return None
        mode = Mode.ASYNC if prefers_async(headers) else Mode.SYNC
        visitor = Visitor(headers, host)
        try:
            if int(headers.get("content-length", "0")) > self._max_body_bytes:
                return None
            grant = self._gate.look_at(visitor, Scope.CALL)
            grant.touch(match[1].decode())
            options = call_options(headers, mode)
        except Exception:  # also a bug is answered, and logged, on the long way
            return None
        if "authorization" in headers and self._gate.holds_token(visitor):
            # The service's own token is none of the function's business.
            del headers["authorization"]
        return Wanted(match[1].decode(), mode, headers, options, grant)

    def serves(self, wanted: Wanted) -> bool:
        """Whether such a call can go the short way now."""
        if not self.service.is_open:
            return False
        try:
            task = self.service.task(wanted.name)
        except Exception:  # as above
            return False
        shape = task.shapes.get(task.function)
        if shape is None or (wanted.mode is Mode.SYNC and shape.streams):
            return False
        return not wanted.grant.metered or _takes(wanted.grant)


def _takes(grant: Grant) -> bool:
    """Counts a call; False when there are too many, which is said on the long way."""
    try:
        grant.take()
    except RateLimited:
        return False
    return True


class FastCycle:
    """One call from its header to the end of its answer; stands where uvicorn has a cycle.

    Args:
        connection: that it came by.
        service: runs it.
        wanted: what it asks for.
        keep_alive: the connection may carry another request.
    """

    __slots__ = (
        "_body", "_connection", "_gone", "_service", "_ticket", "_wanted", "disconnected",
        "keep_alive", "message_event", "more_body", "response_complete", "response_started",
    )  # fmt: skip

    def __init__(
        self,
        connection: BoundedProtocol,
        service: FunctionService,
        wanted: Wanted,
        *,
        keep_alive: bool,
    ) -> None:
        self._connection = connection
        self._service = service
        self._wanted = wanted
        self._body: list[bytes | bytearray] = []
        self._ticket: Ticket | None = None
        self._gone = False
        # What uvicorn reads and writes of a cycle:
        self.keep_alive = keep_alive
        self.more_body = True
        self.response_started = self.response_complete = self.disconnected = False
        self.message_event = _UNHEARD

    def add(self, piece: bytes) -> None:
        """A piece of the body came; nearly always it is the only one."""
        pieces = self._body
        if not pieces or len(piece) >= OWN_PIECE_BYTES:
            pieces.append(piece)
        elif isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))

    def begin(self) -> None:
        """Makes the call: its body is whole, and the requests before it are answered."""
        if self._gone or self._connection.transport.is_closing():
            return
        try:
            self._call()
        except AtlatlError as error:
            self._answer(problem_response(error))
        except Exception as error:
            self._answer(crashed("POST", self._path, error))

    @property
    def _path(self) -> str:
        return f"/functions/{self._wanted.name}"

    def _call(self) -> None:
        wanted, pieces, self._body = self._wanted, self._body, []
        request = HttpRequest(
            method="POST",
            path="/",
            query="",
            headers=wanted.headers,
            body=bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces),
        )
        new_id = self._service.new_execution_id()
        call = make_call(wanted.name, request, wanted.mode, wanted.options, new_id)
        if call.mode is Mode.ASYNC:
            self._connection.do(self._accept(call))
            return
        ticket = self._service.start(call, self._ended)
        if not (self.response_started or call.id_given):
            self._ticket = ticket

    async def _accept(self, call: Call) -> None:
        try:
            response = accepted(await self._service.accept(call), "")
        except AtlatlError as error:
            response = problem_response(error)
        except Exception as error:
            response = crashed("POST", self._path, error)
        self._answer(response)

    def hang_up(self) -> None:
        """The connection is gone: a call to which nobody gave an id is nobody's any more."""
        self._gone = True
        if self._ticket is not None:
            self._ticket.cancel("the caller hung up", grace_s=HANG_UP_GRACE_S)
            self._ticket = None

    # --- the answer ---

    def _ended(self, execution: Execution) -> None:
        self._ticket = None
        if not self._gone:
            try:
                self._say_how(execution)
            except Exception as error:
                self._answer(crashed("POST", self._path, error))

    def _say_how(self, execution: Execution) -> None:
        outcome = execution.outcome
        result = None if outcome is None or outcome.error is not None else outcome.result
        plain = self.keep_alive and execution.instance_id and not execution.cold_start
        if outcome is None or result is None or result.kind == "response" or not plain:
            sandbox = self._service.settings.http.sandbox_pages
            self._answer(answer(execution, sandbox=sandbox))
            return
        # The same as `answer` makes, for the case that has to be quick.
        fields = (
            b"content-type: %b\r\natlatl-execution-id: %b\r\natlatl-instance-id: %b\r\n"
            b"atlatl-duration-ms: %.3f\r\ncontent-length: %d\r\n"
        ) % (
            result.content_type.encode(),
            execution.execution_id.encode(),
            execution.instance_id.encode(),
            outcome.run_s * 1000,
            len(result.body),
        )
        self._write(200, fields, result.body)

    def _answer(self, response: Response) -> None:
        if self._gone:
            return
        fields = b"".join(b"%b: %b\r\n" % field for field in response.raw_headers)
        if (b"connection", b"close") in response.raw_headers:
            self.keep_alive = False
        elif not self.keep_alive:
            fields += b"connection: close\r\n"
        self._write(response.status_code, fields, bytes(response.body))

    def _write(self, status: int, fields: bytes, body: bytes) -> None:
        connection = self._connection
        if connection.transport.is_closing():
            return
        self.response_started = True
        head = b"%b%b%b\r\n" % (STATUS_LINE[status], connection.default_fields(), fields)
        if len(body) > PIECE_BYTES or connection.flow.write_paused:
            connection.do(self._write_slowly(head, body))
            return
        connection.transport.write(head + body)
        self._complete()

    async def _write_slowly(self, head: bytes, body: bytes) -> None:
        """In pieces, each when there is room for it; what is not sent counts as bytes in flight."""
        connection = self._connection
        pieces: list[bytes | memoryview] = [head]
        whole = memoryview(body)
        pieces += (whole[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))
        with self._service.hold_answer(len(body)):
            await connection.flow.drain()
            for piece in pieces:
                if self._gone:
                    return
                connection.transport.write(piece)
                await connection.flow.drain()
        if not self._gone:
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()


class _Unheard:
    """What uvicorn tells a cycle by an event, a FastCycle is told by `hang_up`."""

    def set(self) -> None:
        pass


_UNHEARD = _Unheard()
