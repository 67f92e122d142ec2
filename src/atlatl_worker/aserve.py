"""The server for artifacts with `async def`: many calls in flight on one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import types
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from atlatl_worker import faults, output, wire
from atlatl_worker.calls import Calls, Refused, Started
from atlatl_worker.environment import added_environment

_END = object()


def serve_async(
    sock: socket.socket,
    decoder: wire.Decoder,
    frames: deque[wire.Frame],
    calls: Calls,
    concurrency: int,
) -> None:
    """Returns when the service hangs up.

    Args:
        sock: the way to the service.
        decoder: holds what was received of an incomplete frame.
        frames: what came already.
        calls: reads and answers calls.
        concurrency: threads for the artifact's plain functions.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_default_executor(ThreadPoolExecutor(max_workers=concurrency))
    server = AsyncServer(loop, decoder, calls)
    loop.run_until_complete(loop.create_unix_connection(lambda: server, sock=sock))
    for frame in frames:
        server.take(frame)
    loop.run_forever()


class Running:
    """One call on the loop."""

    __slots__ = ("cancelled", "credited", "outstanding", "task")

    def __init__(self) -> None:
        self.cancelled = False
        self.outstanding = 0
        self.credited = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def credit(self, n_bytes: int) -> None:
        self.outstanding -= min(self.outstanding, n_bytes)
        self.credited.set()

    def cancel(self) -> None:
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()


class AsyncServer(asyncio.BufferedProtocol):
    """Each call is a task; frames that are ready in one turn of the loop go out together."""

    def __init__(self, loop: asyncio.AbstractEventLoop, decoder: wire.Decoder, calls: Calls):
        self._loop = loop
        self._decoder = decoder
        self._calls = calls
        self._running: dict[int, Running] = {}
        self._out: list[bytes] = []
        self._buffer = bytearray(wire.RECEIVE_BYTES)
        self._transport: asyncio.Transport | None = None

    # --- the socket ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        for frame in self._decoder.feed(memoryview(self._buffer)[:nbytes]):
            self.take(frame)

    def eof_received(self) -> None:
        self._loop.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._loop.stop()

    def _send(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    # --- calls ---

    def take(self, frame: wire.Frame) -> None:
        """Does what one frame says."""
        running = self._running.get(frame.request_id)
        if frame.kind == wire.CALL:
            running = self._running[frame.request_id] = Running()
            running.task = self._loop.create_task(self._call(frame, running))
        elif frame.kind == wire.PING:
            self._send(wire.encode(wire.PONG, frame.request_id))
        elif running is not None and frame.kind == wire.CREDIT:
            running.credit(wire.amount_of(frame))
        elif running is not None and frame.kind == wire.CANCEL:
            # In the next turn: a task that is cancelled before its first step never answers.
            self._loop.call_soon(running.cancel)

    async def _call(self, frame: wire.Frame, running: Running) -> None:
        request_id = frame.request_id
        try:
            started = self._calls.start(frame, lambda: running.cancelled)
        except Refused as error:
            reply = self._calls.refusal(request_id, str(error))
        else:
            output.current.set(started.capture)
            added = started.environment if self._calls.alone else {}
            with added_environment(added) if added else contextlib.nullcontext():
                reply = await self._run(request_id, started, running)
        del self._running[request_id]
        # For threads that the function left behind.
        running.cancelled = True
        self._send(reply)

    async def _run(self, request_id: int, started: Started, running: Running) -> bytes:
        kind = wire.REPLY
        function = started.function
        try:
            value = await self._value(started)
            if isinstance(value, types.GeneratorType | types.AsyncGeneratorType):
                kind = wire.END
                await self._stream(request_id, function, value, running)
                return self._calls.end(request_id, started)
        except BaseException as error:
            # Not even SystemExit may end the loop under the other calls.
            if isinstance(error, asyncio.CancelledError) and running.cancelled:
                fault = faults.cancelled(function)
            else:
                fault = faults.describe(function, error)
        else:
            return self._calls.answer(request_id, started, value)
        return self._calls.failure(kind, request_id, started, fault)

    async def _value(self, started: Started) -> Any:
        call, arguments, named = started.target.call, started.arguments, started.named
        if started.target.shape.is_async or started.target.shape.streams:
            value = call(*arguments, **named)
        else:
            value = await _in_thread(lambda: call(*arguments, **named))
        return await value if inspect.isawaitable(value) else value

    async def _stream(
        self,
        request_id: int,
        function: str,
        items: types.GeneratorType[Any, Any, Any] | types.AsyncGeneratorType[Any, Any],
        running: Running,
    ) -> None:
        source = items if isinstance(items, types.AsyncGeneratorType) else _from_plain(items)
        async with contextlib.aclosing(source):
            async for item in source:
                frame, cost = self._calls.chunk(request_id, function, item)
                while not wire.may_send(running.outstanding, cost):
                    running.credited.clear()
                    await running.credited.wait()
                running.outstanding += cost
                self._send(frame)


async def _from_plain(items: types.GeneratorType[Any, Any, Any]) -> AsyncGenerator[Any, None]:
    """A plain generator, each step in a thread: it must not stop the loop."""
    try:
        while (item := await _in_thread(lambda: next(items, _END))) is not _END:
            yield item
    finally:
        items.close()


async def _in_thread(function: Callable[[], Any]) -> Any:
    """What the function returns or raises, StopIteration and SystemExit included.

    A cancellation waits for the thread: the work is not gone before.
    """

    def attempt() -> tuple[Any, BaseException | None]:
        try:
            return function(), None
        except BaseException as error:
            return None, error

    thread = asyncio.ensure_future(asyncio.to_thread(attempt))
    try:
        value, error = await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
    if error is not None:
        if isinstance(error, StopIteration):
            # Inside a coroutine it would turn into a RuntimeError of no meaning.
            raise RuntimeError("the function raised StopIteration") from error
        raise error
    return value
