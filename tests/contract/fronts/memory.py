"""An application as httpx's transport, without a server in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx


class InMemory(httpx.AsyncBaseTransport):
    """Hands on what the application sends as it comes, and tells it when its reader goes away.

    `httpx.ASGITransport` gives an answer out when it is whole: no stream of it can be left.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._exchanges: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _Exchange(await request.aread())
        work = asyncio.create_task(exchange.run(self._app, _scope(request)))
        self._exchanges.add(work)
        work.add_done_callback(self._exchanges.discard)
        try:
            async with asyncio.timeout(request.extensions["timeout"]["read"]):
                head = await exchange.next()
        except BaseException as error:
            await exchange.aclose()
            if isinstance(error, TimeoutError):
                raise httpx.ReadTimeout("the application did not answer in time") from None
            raise
        return httpx.Response(head["status"], headers=head["headers"], stream=exchange)

    async def aclose(self) -> None:
        await asyncio.gather(*self._exchanges)


class _Exchange(httpx.AsyncByteStream):
    """One request and its answer."""

    def __init__(self, body: bytes) -> None:
        self._inbox = [{"type": "http.request", "body": body, "more_body": False}]
        self._outbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(1)
        self._gone = asyncio.Event()

    async def run(self, app: Any, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            pass  # what was sent so far shows that it is not the whole, as with a server
        finally:
            if not self._gone.is_set():
                await self._outbox.put(None)

    async def _receive(self) -> dict[str, Any]:
        if self._inbox:
            return self._inbox.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if not self._gone.is_set():
            await self._outbox.put(message)

    async def next(self) -> dict[str, Any]:
        message = await self._outbox.get()
        if message is None:
            raise httpx.RemoteProtocolError("the answer broke off")
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.next()
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def aclose(self) -> None:
        self._gone.set()
        while not self._outbox.empty():  # whoever waits to send is not kept
            self._outbox.get_nowait()


def _scope(request: httpx.Request) -> dict[str, Any]:
    url = request.url
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.partition(b"?")[0],
        "query_string": url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 50000),
        "server": (url.host, url.port),
    }
