"""A web server in the test's own loop that takes callbacks, well and badly."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@dataclass
class Received:
    """One request."""

    line: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


Behaviour = Callable[[Received, Writer], Awaitable[None]]


@dataclass
class Receiver:
    """Answers each request with the next of `behaviours`, the last of them for ever."""

    behaviours: list[Behaviour]
    scheme: str = "http"
    port: int = 0
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    names: list[str | None] = field(default_factory=list)
    """That encrypted connections asked for (SNI)."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}/ended"

    async def serve(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                request = await _read(reader)
                self.received.append(request)
                left = self.behaviours
                await (left.pop(0) if len(left) > 1 else left[0])(request, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)  # the loop closes the socket then


async def _read(reader: Reader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in fields)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(line, headers, body)


def answers(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Answers at once."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]

    async def answer(_: Received, writer: Writer) -> None:
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return answer


async def hangs(_: Received, __: Writer) -> None:
    """Never answers."""
    await asyncio.Event().wait()


async def resets(_: Received, writer: Writer) -> None:
    """Breaks the connection off."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def drips_head(_: Received, writer: Writer) -> None:
    """Sends a head that never ends, a little at a time."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def drips_body(_: Received, writer: Writer) -> None:
    """Takes the request, and sends a body that never ends, a little at a time."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def pours(_: Received, writer: Writer) -> None:
    """Takes the request, and sends a body that never ends, as fast as it is read."""
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def talks_nonsense(_: Received, writer: Writer) -> None:
    """Speaks no HTTP."""
    writer.write(b"220 mail.example ESMTP\r\n\r\n")


@asynccontextmanager
async def receiver(
    *behaviours: Behaviour, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Listens while inside; without behaviours it takes every request."""
    it = Receiver(list(behaviours) or [answers(204)], "https" if tls else "http")
    if tls is not None:
        tls.sni_callback = lambda _, name, __: it.names.append(name)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: Reader, writer: Writer) -> None:
        task = asyncio.ensure_future(it.serve(reader, writer))
        connections.add(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
