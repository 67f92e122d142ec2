"""A lean HTTP client on keep-alive connections, so that the load and not the client is measured."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def code(self) -> str:
        """The problem's code; empty for a success."""
        return "" if self.status < 400 else str(json.loads(self.body).get("code"))


class NotAnswered(Exception):
    """The connection could not be had, or ended without an answer."""


@dataclass
class Caller:
    """One connection; it is opened again after it was closed."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        writer = self._writer
        self.close()
        if writer is not None:
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def call(self, task: str, body: Any = None, headers: str = "") -> Answer:
        """Raises NotAnswered."""
        content = json.dumps({} if body is None else body).encode()
        head = (
            f"POST /functions/{task} HTTP/1.1\r\nHost: {urlsplit(self.url).netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
        )
        began = time.perf_counter()
        try:
            reader, writer = await self._connection()
            writer.write(head.encode() + content)
            status, named, answer = await _read(reader)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise NotAnswered(repr(error)) from None
        if named.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, named, answer, time.perf_counter() - began)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self.close()
            where = urlsplit(self.url)
            self._reader, self._writer = await asyncio.open_connection(where.hostname, where.port)
        return self._reader, self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    named = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        named[name.lower()] = value.strip()
    body = await reader.readexactly(int(named.get("content-length", 0)))
    return int(head[0].split()[1]), named, body


async def flood(
    url: str, task: str, *, callers: int, seconds: float, body: Any = None
) -> list[Answer]:
    """Calls as fast as answers come, on `callers` connections, for so long; all answers."""
    answers: list[Answer] = []

    async def one() -> None:
        async with Caller(url) as caller:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                answers.append(await caller.call(task, body))

    await asyncio.gather(*(one() for _ in range(callers)))
    return answers


def quantile(answers: list[Answer], q: float) -> float:
    """Of the seconds that answers took."""
    times = sorted(answer.seconds for answer in answers)
    return times[min(len(times) - 1, int(q * len(times)))]


async def once(url: str, task: str, body: Any = None) -> Answer:
    """One call on a connection of its own."""
    async with Caller(url) as caller:
        return await caller.call(task, body)
