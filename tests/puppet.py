"""An instance whose process is none: it sends what a test says, and is told what it is told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import msgspec

from atlatl.engine.arguments import encode
from atlatl.model import Arguments, Call, Outcome, Result, Shape, Task
from atlatl.runtimes import link
from atlatl.runtimes.bodies import BodyFile
from atlatl.runtimes.channel import Channel
from atlatl.runtimes.output import OutputFile
from atlatl.runtimes.tokens import Tokens
from atlatl.runtimes.zygote import Exit
from atlatl_worker import wire
from tests.unit.front_fakes import make_task

DEADLINE = 10_000.0
SHAPES = {
    "main": Shape(function="main", kind="event"),
    "items": Shape(function="items", kind="event", streams=True),
}
ASYNC_SHAPES = {
    name: msgspec.structs.replace(shape, is_async=True) for name, shape in SHAPES.items()
}


class Wire:
    """The service's end of the socket; the far end reads as long as `reads` says so."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.unread = 0
        self.reads = True
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.sent += data
        if not self.reads:
            self.unread += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def write_eof(self) -> None: ...


class Pending:
    """A call, and all that its caller was told."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        self.told: list[Outcome | None] = []
        self.items: list[Result] = []


class Puppet:
    """A channel to such an instance.

    Args:
        files: what an instance shares with the service; see `opened`.
        several: it runs calls side by side.
        overrides: settings of the task.
    """

    def __init__(self, files: Any, *, several: bool = False, **overrides: Any) -> None:
        if several:
            overrides["pool"] = {"max_concurrent_requests": 8}
        self.shapes = ASYNC_SHAPES if several else SHAPES
        self.task: Task = make_task("puppet", overrides=overrides)
        self.wire = Wire()
        self.killed = False
        self.lost: list[Any] = []
        self.pending: list[Pending] = []
        self.aside: list[asyncio.Future[None]] = []
        """What goes on beside."""
        self._ids = itertools.count(1)
        loop = asyncio.get_running_loop()
        self.channel = Channel("i-1", cast(Any, files), loop.time)
        self.channel.on_lost = self.lost.append
        self._link = self.channel._link
        files.puppet = self
        self._link.connection_made(cast(Any, self.wire))

    @property
    def fault(self) -> str:
        """What it was killed for; empty while it lives."""
        return self._link.fault if self.killed else ""

    async def assigned(self, *answer: bytes) -> None:
        """Becomes an instance of the task; `answer` is what it sends for it."""
        if not answer:
            body = msgspec.json.encode(self.shapes)
            answer = (wire.encode(wire.REPLY, 0, b"", body),)
        assigning = asyncio.ensure_future(self.channel.assign(self.task, {}))
        await asyncio.sleep(0)
        self.says(*answer)
        if self.killed:
            self.dies()
        await assigning
        self.wire.sent.clear()

    def call(self, function: str = "main", *, stream: bool = False) -> Pending:
        """Hands it a call; its request id is the next number, as is that of a ping."""
        pending = Pending(f"e-{next(self._ids)}")
        self.pending.append(pending)
        call = Call(
            execution_id=pending.execution_id,
            task_name="puppet",
            payload=Arguments(values={}),
            function=function,
        )
        self.channel.send(
            call,
            encode(self.shapes[function], call.payload),
            pending.told.append,
            deadline=DEADLINE,
            on_chunk=pending.items.append if stream else None,
        )
        return pending

    def says(self, *frames: bytes) -> None:
        """Sends bytes, as the socket would bring them."""
        data = b"".join(frames)
        while data and not self.wire.aborted:
            room = self._link.get_buffer(len(data))
            piece, data = data[: len(room)], data[len(room) :]
            room[: len(piece)] = piece
            self._link.buffer_updated(len(piece))

    def heard(self) -> list[wire.Frame]:
        """What it was sent since it was asked last."""
        frames = wire.Decoder().feed(bytes(self.wire.sent))
        self.wire.sent.clear()
        return frames

    def dies(self, how: Exit | None = None) -> None:
        """Its process ends."""
        self._link.connection_lost(None)
        self.channel.process_exited(how or Exit(0, 9 if self.killed else 11))


@contextmanager
def opened() -> Iterator[Any]:
    """The files of one puppet after the other, and what its end does."""
    nothing: Any = SimpleNamespace(recv=lambda n: b"")
    files = SimpleNamespace(
        pid=2**22, pidfd=-1, sock=nothing, output=OutputFile(), tokens=Tokens(), bodies=BodyFile()
    )
    files.close = lambda: None

    def kill(pidfd: int) -> None:
        files.puppet.killed = True

    with patch.object(link, "kill", kill):
        try:
            yield files
        finally:
            files.output.close()
            files.tokens.close()
            files.bodies.close()
