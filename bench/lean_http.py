"""A lean HTTP client on keep-alive connections, so that the load and not the client is measured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, NamedTuple, TypeVar, cast

import uvloop

T = TypeVar("T")

PATIENCE_S = 60.0
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class BadAnswer(AssertionError):
    """None came, or it is not what it should be."""


class Answer(NamedTuple):
    status: int
    head: bytes
    """Lower case, line ends kept."""
    body: bytes

    def header(self, name: str) -> str:
        """Its value; empty when it is not there."""
        _, _, rest = self.head.partition(f"\r\n{name}:".encode())
        return rest.partition(b"\r\n")[0].strip().decode("latin-1")


def request(
    method: str, path: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """A whole request; one with a body has JSON in it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{n}: {v}" for n, v in headers)]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._got = b""
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def ask(self, content: bytes) -> asyncio.Future[Answer]:
        """The answer to a request; fails with BadAnswer when the connection ends before it."""
        self._answer = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            self._answer.set_exception(BadAnswer("the service closed a connection"))
        else:
            self._transport.write(content)
        return self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._got += data
        found = read(self._got)
        if found is not None and self._answer is not None and not self._answer.done():
            self._got = b""
            self._answer.set_result(found)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(BadAnswer(f"a connection ended without an answer: {exc!r}"))


def read(got: bytes) -> Answer | None:
    """The answer that these bytes are, None while they are only its beginning.

    Raises:
        BadAnswer: it has no length.
    """
    end = got.find(_HEAD_END)
    if end < 0:
        return None
    head = got[: end + 2].lower()
    length = head.find(_LENGTH)
    if length < 0:
        raise BadAnswer(f"an answer without a length: {head[:200]!r}")
    begin = length + len(_LENGTH)
    size = int(head[begin : head.index(b"\r\n", begin)])
    body = got[end + len(_HEAD_END) :]
    return Answer(int(head[9:12]), head, body) if len(body) >= size else None


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """So many connections to a service on loopback."""
    connections: list[Connection] = []
    try:
        for _ in range(count):
            connections.append(await _connect(port))
        yield connections
    finally:
        for each in connections:
            each.close()


async def _connect(port: int) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    return connection


async def each_once(connections: Sequence[Connection], requests: Sequence[bytes]) -> list[Answer]:
    """Answers in the order of the requests; a connection that is free takes the next one."""
    answers: list[Answer | None] = [None] * len(requests)
    places = iter(range(len(requests)))

    async def work(connection: Connection, places: Iterator[int]) -> None:
        for place in places:
            answers[place] = await connection.ask(requests[place])

    async with asyncio.timeout(PATIENCE_S + len(requests) / 50):
        await asyncio.gather(*(work(each, places) for each in connections))
    return [each for each in answers if each is not None]


async def for_a_while(
    connections: Sequence[Connection], content: bytes, wanted: Any, seconds: float
) -> list[float]:
    """Asks the same again and again; how long each answer took, in seconds.

    Raises:
        BadAnswer: an answer has another status than 200, or other JSON than `wanted`.
    """
    took: list[float] = []

    async def work(connection: Connection) -> None:
        while (began := perf_counter()) < end:
            answer = await connection.ask(content)
            took.append(perf_counter() - began)
            if answer.status != 200 or json.loads(answer.body) != wanted:
                raise BadAnswer(f"a sync call answered {answer.status} {answer.body[:200]!r}")

    end = perf_counter() + seconds
    async with asyncio.timeout(PATIENCE_S + seconds):
        await asyncio.gather(*(work(each) for each in connections))
    return took


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
