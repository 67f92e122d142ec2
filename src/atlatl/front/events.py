"""What happens, as it happens: `GET /api/v1/events`, server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Send
from starlette.types import Scope as AsgiScope

from atlatl.front.answers import text_parameter
from atlatl.front.auth import Scope
from atlatl.front.routes import Endpoint

if TYPE_CHECKING:
    from atlatl.service import FunctionService
    from atlatl.telemetry.feed import Listener

MEDIA_TYPE = "text/event-stream; charset=utf-8"
QUIET_S = 15.0
"""When nothing happens for so long a comment goes out: what lies between keeps the connection."""
RETRY_MS = 2000
"""When a browser whose stream broke asks again."""
LONGEST_S = 900.0
"""Then the stream ends, and whoever still may asks again: a token may be gone by then."""


class Events:
    """Answers `/api/v1/events`."""

    def __init__(self, service: FunctionService) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        answers = {"200": ["text/event-stream"]}
        query = ("kinds", "task")
        return [Endpoint("GET", "/api/v1/events", self.stream, Scope.ADMIN, query, answers=answers)]

    async def stream(self, request: Request) -> Response | EventStream:
        """Streams what happens, and figures once a second, until the service drains."""
        kinds = [kind for kind in text_parameter(request, "kinds").split(",") if kind.strip()]
        listener = self._service.events([kind.strip() for kind in kinds], _task(request))
        if request.method == "HEAD":
            listener.leave()
            return Response(media_type="text/event-stream")
        return EventStream(listener)


def _task(request: Request) -> str:
    return text_parameter(request, "task")


class EventStream:
    """An answer that goes on until the caller hangs up or the service drains."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        until = asyncio.get_running_loop().time() + LONGEST_S
        gone = asyncio.create_task(_gone(receive, self._listener))
        try:
            headers = {
                "content-type": MEDIA_TYPE,
                "cache-control": "no-store",
                "x-accel-buffering": "no",
            }
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            await send(_body(b"retry: %d\n\n" % RETRY_MS))
            over = False
            while not over:
                over = self._listener.ended or asyncio.get_running_loop().time() >= until
                items = await self._listener.take(QUIET_S)
                lines = [b"event: %s\ndata: %s\n\n" % (kind.encode(), data) for kind, data in items]
                await send(_body(b"".join(lines) or b": all is quiet\n\n"))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self._listener.leave()


def _body(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _gone(receive: Receive, listener: Listener) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.leave()
    listener.end()
