"""Makes load where there is no wrk: the portable way, for about 20 us of CPU a checked call.

usage: python -m bench.plane.generator PORT CONNECTIONS SECONDS PATHS CONTENT ANSWER MEDIA_TYPE

PATHS, CONTENT and ANSWER are files. Prints one line of JSON, the same as `check.lua`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import uvloop

PATIENCE_S = 60.0
BUFFER_BYTES = 64 * 1024
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class Tally:
    """What all connections together have seen."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.answered = self.wrong = self.broken = 0
        self.example = ""
        self.times_us: Counter[int] = Counter()

    def add(self, status: int, right: bool, body: bytes, seconds: float) -> None:
        self.answered += 1
        self.times_us[round(seconds * 1e6)] += 1
        if status != 200 or not right:
            self.wrong += 1
            self.example = f"{status} {body[:200]!r}"

    def report(self, seconds: float) -> dict[str, Any]:
        return {
            "answered": self.answered, "wrong": self.wrong, "broken": self.broken,
            "seconds": seconds, "example": self.example, "times": list(self.times_us.items()),
        }  # fmt: skip


class Caller(asyncio.BufferedProtocol):
    """One connection: asks again as soon as it is answered, until it is told to stop.

    The bytes of an answer gather in one buffer and are compared there, without a copy.
    """

    def __init__(self, next_request: Callable[[], bytes], tally: Tally) -> None:
        self._next, self._tally = next_request, tally
        self._buffer = bytearray(BUFFER_BYTES + len(tally.answer))
        self._view = memoryview(self._buffer)
        self._filled, self._head, self._size = 0, 0, 0
        self._began = 0.0
        self._transport: asyncio.Transport | None = None
        self.stopping = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        assert self._transport is not None
        self._began = perf_counter()
        self._transport.write(self._next())

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._filled == len(self._buffer):  # an answer that is longer than it should be
            # Not extended: the loop may still hold a view of the old one.
            self._buffer = self._buffer + bytes(len(self._buffer))
            self._view = memoryview(self._buffer)
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if not self._head and not self._read_head():
            return
        if self._filled >= self._head + self._size:
            self._answered()

    def _read_head(self) -> bool:
        end = self._buffer.find(_HEAD_END, 0, self._filled)
        if end < 0:
            return False
        head = bytes(self._buffer[: end + 2]).lower()
        begin = head.find(_LENGTH)
        if begin < 0:
            self._lost(f"an answer without a length: {head[:200]!r}")
            return False
        begin += len(_LENGTH)
        self._size = int(head[begin : head.index(b"\r\n", begin)])
        self._head = end + len(_HEAD_END)
        return True

    def _answered(self) -> None:
        took, head, size = perf_counter() - self._began, self._head, self._size
        right = size == len(self._tally.answer) and self._buffer.startswith(
            self._tally.answer, head
        )
        body = b"" if right else bytes(self._buffer[head : head + size])
        self._tally.add(int(self._buffer[9:12]), right, body, took)
        self._filled = self._head = self._size = 0
        if self.stopping:
            self.close()
        else:
            self._ask()

    def _lost(self, why: str) -> None:
        self._tally.broken += 1
        self._tally.example = why
        self.close()

    def close(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self._lost(f"a connection ended without an answer: {exc!r}")


def requests(port: int, paths: list[str], content: bytes, media_type: str) -> list[bytes]:
    """One whole request for each path."""
    return [
        (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {media_type}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        ).encode()
        + content
        for path in paths
    ]


def main(arguments: list[str]) -> None:
    port, connections, seconds = int(arguments[0]), int(arguments[1]), float(arguments[2])
    paths, content, answer = (Path(name).read_bytes() for name in arguments[3:6])
    ready = requests(port, paths.decode().splitlines(), content, arguments[6])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(load(port, connections, seconds, ready, answer))
    print(json.dumps(found), flush=True)


async def load(
    port: int, connections: int, seconds: float, ready: list[bytes], answer: bytes
) -> dict[str, Any]:
    """Sends these requests in turn, on so many connections for so long."""
    tally, next_request = Tally(answer), cycle(ready).__next__
    loop = asyncio.get_running_loop()
    began = perf_counter()
    callers = [
        (await loop.create_connection(lambda: Caller(next_request, tally), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.wait([each.ended for each in callers], timeout=seconds)
    for each in callers:
        each.stopping = True
    _, late = await asyncio.wait([each.ended for each in callers], timeout=PATIENCE_S)
    tally.broken += len(late)
    return tally.report(perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1:])
