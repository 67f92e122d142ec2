"""Calling functions: `/functions/{task}` and everything below it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from atlatl.errors import TaskNotFound
from atlatl.front.access import Gate, visitor
from atlatl.front.answers import address, bounded
from atlatl.front.auth import Scope
from atlatl.front.calls import accepts, call_from, headers_of, prefers_async
from atlatl.front.outcomes import accepted, answer, execution_headers
from atlatl.front.problems import MethodNotAllowed, RouteNotFound, StreamCut
from atlatl.front.reach import Reach
from atlatl.front.reading import Reading
from atlatl.front.routes import ANY_METHOD, Endpoint
from atlatl.front.streaming import Chunked, ServerSentEvents
from atlatl.model import Call, Execution, HttpRequest, Mode, Result, Shape
from atlatl.service import HANG_UP_GRACE_S

if TYPE_CHECKING:
    from atlatl.engine.ticket import Ticket
    from atlatl.service import FunctionService

PLAIN_METHODS = ["GET", "HEAD", "POST"]
"""For handlers that take arguments; those that take the whole request get any method."""


class Functions:
    """Answers calls of deployed functions."""

    def __init__(self, service: FunctionService, gate: Gate) -> None:
        self._service = service
        self._gate = gate

    def endpoints(self) -> list[Endpoint]:
        # A function answers with any status and media type that it likes.
        answers = {"202": ["application/json"], "default": ["*/*"]}
        return [
            Endpoint(ANY_METHOD, path, self.invoke, Scope.CALL, answers=answers, reach=Reach.NAMED)
            for path in ("/functions/{task}", "/functions/{task}/{path:path}")
        ]

    async def invoke(self, request: Request) -> Response | StreamAnswer:
        """Calls a function; what it returns is the answer."""
        name = request.path_params["task"]
        path = "/" + request.path_params.get("path", "")
        shape = self._shape(name)
        if shape is not None and shape.kind != "request":
            _check_plain(request.method, name, path)
        whole = await self._whole(request, path)
        call = call_from(
            name,
            whole,
            mode=_mode(whole, shape),
            new_execution_id=self._service.new_execution_id(),
        )
        if call.mode is Mode.ASYNC:
            return accepted(await self._service.accept(call), address(request))
        if call.mode is Mode.STREAM:
            return StreamAnswer(
                self._service, call, as_events=accepts(whole.headers, "text/event-stream")
            )
        ended = await self._finished(request, call)
        return answer(ended, sandbox=self._service.settings.http.sandbox_pages)

    def _shape(self, name: str) -> Shape | None:
        try:
            task = self._service.task(name)
        except TaskNotFound:
            return None  # refused, and counted, by the call itself
        return task.shapes.get(task.function)

    async def _whole(self, request: Request, path: str) -> HttpRequest:
        # The service's own token is none of the function's business: with it, it could deploy.
        secret = {"authorization"} if self._gate.holds_token(visitor(request)) else set()
        limit = self._service.settings.http.max_body_bytes
        return HttpRequest(
            method=request.method,
            path=path,
            query=request.scope["query_string"].decode("latin-1"),
            headers=headers_of(request.headers.raw, without=frozenset(secret)),
            body=await bounded(request, limit, "http.max_body_bytes").body(),
        )

    async def _finished(self, request: Request, call: Call) -> Execution:
        ended: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()

        def done(execution: Execution) -> None:
            if not ended.done():
                ended.set_result(execution)

        ticket = self._service.start(call, done)
        async with cancelled_with_caller(request.receive, call, ticket):
            return await ended


class StreamAnswer:
    """The answer of a generator handler: its items as they come.

    A failure before the first item is an ordinary problem. After it, server-sent events end
    with `event: error`, and a chunked answer is broken off, so that no client takes it for
    complete.
    """

    def __init__(self, service: FunctionService, call: Call, *, as_events: bool) -> None:
        self._service = service
        self._call = call
        self._form: Chunked | ServerSentEvents = ServerSentEvents() if as_events else Chunked()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        with Reading(self._service, self._call) as reading:
            async with cancelled_with_caller(receive, self._call, reading.ticket):
                first = await reading.next()
                if isinstance(first, Execution):
                    await self._without_items(first)(scope, receive, send)
                else:
                    await self._with_items(first, reading, send)

    def _without_items(self, execution: Execution) -> Response:
        outcome = execution.outcome
        repeated = outcome is not None and outcome.result is not None and outcome.result.body
        if (outcome is not None and outcome.error is not None) or repeated:
            return answer(execution, sandbox=self._service.settings.http.sandbox_pages)
        return Response(
            headers=execution_headers(execution), media_type=self._form.media_type(None)
        )

    async def _with_items(self, first: Result, reading: Reading, send: Send) -> None:
        headers = {
            "content-type": self._form.media_type(first),
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            # What is known by now: not how long it takes, even if it has ended meanwhile.
            **execution_headers(replace(reading.ticket.view(), outcome=None)),
        }
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        item: Result | Execution = first
        while isinstance(item, Result):
            await _send_body(send, self._form.item(item))
            reading.sent()
            item = await reading.next()
        await self._end(item, send)

    async def _end(self, execution: Execution, send: Send) -> None:
        error = execution.outcome.error if execution.outcome else None
        if error is not None:
            last_words = self._form.failure(error, execution.execution_id)
            if last_words is None:
                raise StreamCut(f"execution {execution.execution_id}: {error.message}")
            await _send_body(send, last_words)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


@asynccontextmanager
async def cancelled_with_caller(
    receive: Receive, call: Call, ticket: Ticket
) -> AsyncIterator[None]:
    """Inside, a caller who hangs up cancels the call, unless its id was given by the caller.

    Such a call belongs to its id: the caller may come back and ask for it.
    """
    if call.id_given:
        yield
        return
    listener = asyncio.create_task(_cancel_when_gone(receive, ticket))
    try:
        yield
    except asyncio.CancelledError:
        ticket.cancel("the connection was closed", grace_s=HANG_UP_GRACE_S)
        raise
    finally:
        listener.cancel()


async def _cancel_when_gone(receive: Receive, ticket: Ticket) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.cancel("the caller hung up", grace_s=HANG_UP_GRACE_S)


def _check_plain(method: str, name: str, path: str) -> None:
    if path != "/":
        raise RouteNotFound(
            f"task {name!r} takes no path: its handler has no parameter called `request`"
        )
    if method not in PLAIN_METHODS:
        raise MethodNotAllowed(method, PLAIN_METHODS)


def _mode(request: HttpRequest, shape: Shape | None) -> Mode:
    if prefers_async(request.headers):
        return Mode.ASYNC
    return Mode.STREAM if shape is not None and shape.streams else Mode.SYNC
