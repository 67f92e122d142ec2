"""A connection that is none: the protocol of the HTTP listener without a socket."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from http.client import HTTPResponse
from typing import Any, NamedTuple

import uvicorn
from uvicorn.server import ServerState

from atlatl.front.fast import FastPath
from atlatl.front.protocol import protocol
from atlatl.settings import HttpSettings

HIGH_WATER_BYTES = 65_536
LOW_WATER_BYTES = 16_384
"""Of what a transport keeps to be sent, as asyncio has them."""


class Transport(asyncio.Transport):
    """Behaves as asyncio's over a socket; the far end takes what is written when it likes to.

    Attributes:
        unsent: what it has not taken yet.
        most_unsent: the most that ever waited for it.
        late: what was written after the end.
        closed_at: when it was closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unsent = bytearray()
        self.most_unsent = 0
        self.late = b""
        self.closed_at: float | None = None
        self.is_lost = False
        self.protocol: Any = None
        self._written = bytearray()
        self._takes = True
        self._reads = True
        self._paused = False
        self._inbox: deque[bytes] = deque()

    @property
    def written(self) -> bytes:
        """What the far end has got."""
        return bytes(self._written)

    # --- what the protocol calls ---

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_lost:
            self.late += bytes(data)
        elif self._takes and not self.unsent:
            self._written += data
        else:
            self.unsent += data
            self.most_unsent = max(self.most_unsent, len(self.unsent))
            if len(self.unsent) > HIGH_WATER_BYTES and not self._paused:
                self._paused = True
                self.protocol.pause_writing()

    def is_closing(self) -> bool:
        return self.closed_at is not None

    def close(self) -> None:
        if self.closed_at is None:
            self.closed_at = asyncio.get_running_loop().time()
            if not self.unsent:
                self._lose(None)

    def abort(self) -> None:
        self.vanishes()

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        if not self._reads:
            self._reads = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 50000)}.get(name, default)

    # --- what the far end does ---

    def sends(self, data: bytes) -> None:
        self._inbox.append(data)
        self._deliver()

    def stops_taking(self) -> None:
        self._takes = False

    def takes(self, n_bytes: int) -> None:
        """Takes so much of what waits for it."""
        self._written += self.unsent[:n_bytes]
        del self.unsent[:n_bytes]
        if self._paused and len(self.unsent) <= LOW_WATER_BYTES:
            self._paused = False
            self.protocol.resume_writing()
        if self.is_closing() and not self.unsent:
            self._lose(None)

    def takes_all(self) -> None:
        """Takes what waits for it and all that comes from now on."""
        self._takes = True
        self.takes(len(self.unsent))

    def vanishes(self, error: Exception | None = None) -> None:
        """The connection breaks; what was not taken is lost."""
        self.closed_at = self.closed_at or asyncio.get_running_loop().time()
        self.unsent.clear()
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)

    def _deliver(self) -> None:
        while self._inbox and self._reads and not self.is_closing():
            self.protocol.data_received(self._inbox.popleft())


class Connection:
    """One connection to an application, to be made inside a running loop.

    Args:
        app: answers what goes the long way.
        fast: picks what goes the short way.
        http: settings of the listener.
    """

    def __init__(self, app: Any, *, fast: FastPath | None = None, **http: Any) -> None:
        self.long_way: list[str] = []
        """Paths of the requests that the application got."""

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            self.long_way.append(scope["path"])
            await app(scope, receive, send)

        config = uvicorn.Config(
            counted, interface="asgi3", lifespan="off", log_config=None, proxy_headers=False
        )
        long = {"header_timeout_s": 1000.0, "body_timeout_s": 1000.0, "idle_timeout_s": 1000.0}
        self.state = ServerState()
        self.transport = Transport()
        self.protocol: Any = protocol(HttpSettings(**{**long, **http}), fast)(
            config, self.state, {}
        )
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)

    async def sends(self, *pieces: bytes, every_s: float = 0.0) -> None:
        """Sends each piece and lets `every_s` pass after it; with 0, one turn of the loop."""
        for piece in pieces:
            self.transport.sends(piece)
            await asyncio.sleep(every_s)

    @property
    def written(self) -> bytes:
        return self.transport.written

    def answers(self, *methods: str) -> list[Answer]:
        """All answers, each whole, and nothing else; `methods` as asked, then POST."""
        return answers(self.written, *methods)


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    """Names in lower case, in alphabetical order."""
    body: bytes

    def header(self, name: str) -> str:
        """Its value, of which there has to be exactly one."""
        (value,) = [value for each, value in self.headers if each == name]
        return value


def answers(written: bytes, *methods: str) -> list[Answer]:
    """The answers that are in these bytes, read as a client reads them."""
    content = _Content(written)
    wanted = deque(methods)
    out = []
    while content.tell() < len(written):
        response = HTTPResponse(content, method=wanted.popleft() if wanted else "POST")  # type: ignore[arg-type]
        response.begin()
        headers = sorted((name.lower(), value) for name, value in response.getheaders())
        out.append(Answer(response.status, headers, response.read()))
    return out


class _Content(io.BytesIO):
    """Bytes that a response may take for a socket, and that it does not close."""

    def makefile(self, mode: str) -> _Content:
        return self

    def close(self) -> None: ...
