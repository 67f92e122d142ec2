"""The instance: waits for its assignment, then frame in, function, frame out.

This is the server for synchronous functions: one call at a time in the main thread, as a
function would run anywhere else. Artifacts with `async def` get `aserve.py`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import select
import socket
import sys
import threading
import types
from collections import deque
from functools import partial
from typing import Any, Final, NoReturn

from atlatl_worker import confine, faults, rehearsal, wire
from atlatl_worker.aserve import serve_async
from atlatl_worker.calls import Calls, Refused, Started
from atlatl_worker.confine import TOKENS_FD
from atlatl_worker.environment import added_environment, current
from atlatl_worker.loading import Assignment, Function, NotLoaded, Program, load, run_hooks
from atlatl_worker.shapes import read_shape
from atlatl_worker.task_zygote import become


class CallCancelled(Exception):
    """The service wants no more of this stream."""


def run(descriptor: int, program: Program | None, in_stock: bool) -> NoReturn:
    """Lives the life of an instance; never returns.

    Args:
        descriptor: the socket to the service.
        program: what this process has imported already.
        in_stock: nobody waits for it yet, so there is time for a rehearsal.
    """
    status = 1
    try:
        if in_stock and program is None:
            rehearse()
        elif in_stock:
            rehearse_call(OURS, REHEARSED)
        with socket.socket(fileno=descriptor) as sock:
            # A child that a function forks must neither answer calls nor keep the socket open.
            os.register_at_fork(after_in_child=sock.close)
            serve(sock, program)
        atexit._run_exitfuncs()
        status = 0
    except OSError:
        # The service or the socket is gone; there is nobody to tell.
        pass
    finally:
        _flush()
        os._exit(status)


def rehearse() -> None:
    """Goes through an assignment and a call with an artifact of our own, and forgets both.

    The memory that they touch is shared with the zygote until then. Copied now, while nobody
    waits, it makes the first answer of a blank come in half the time.
    """
    assignment = REHEARSED._replace(environment=current())
    confine.rehearse()
    program = load(assignment)
    sys.path.remove(assignment.code)
    sys.path_importer_cache.pop(assignment.code, None)
    del sys.modules["rehearsal"]
    rehearse_call(program, assignment)


HERE: Final = os.path.dirname(__file__)  # noqa: PTH120
REHEARSED: Final = Assignment(HERE, "", "rehearsal.py:main", {}, "", 0, 1, 1, 1_000, {})
OURS: Final = {"main": Function(rehearsal.main, read_shape("main", rehearsal.main))}


def rehearse_call(program: Program, assignment: Assignment) -> None:
    """The part that needs no import, which is all for a fork of one that has imported."""
    json.dumps({name: function.shape.plain() for name, function in program.items()})
    calls = Calls(program, assignment)
    meta = {"function": "main", "execution_id": "", "deadline": 0.0, "payload": "arguments"}
    call = wire.encode(wire.CALL, 1, json.dumps(meta).encode(), b'{"name":"a"}')
    for frame in wire.Decoder().feed(call):
        started = calls.start(frame, lambda: False)
        calls.answer(1, started, started.target.call(*started.arguments, **started.named))


def serve(sock: socket.socket, program: Program | None) -> None:
    """Becomes an instance of what the first frame says; returns when the service hangs up."""
    decoder = wire.Decoder()
    frames: deque[wire.Frame] = deque()
    assignment = _await_assignment(sock, decoder, frames)
    if assignment is None:
        return
    try:
        if program is None:
            confine_as(assignment)
            program = load(assignment)
        if not assignment.forks:
            run_hooks(assignment)
    except NotLoaded as error:
        sock.sendall(wire.encode(wire.REPLY, 0, b"", error.fault.encode(), wire.ERROR))
        return
    finally:
        _flush()
    shapes = {name: function.shape.plain() for name, function in program.items()}
    sock.sendall(wire.encode(wire.REPLY, 0, b"", json.dumps(shapes).encode()))
    if assignment.forks:
        become(sock, partial(run, sock.fileno(), program))
    calls = Calls(program, assignment)
    if _needs_loop(program):
        serve_async(sock, decoder, frames, calls, assignment.concurrency)
    else:
        SyncServer(sock, decoder, frames, calls).run()


def confine_as(assignment: Assignment) -> None:
    """Takes away what the task's functions must not have; raises NotLoaded."""
    try:
        places = [path for path in (assignment.code, assignment.deps) if path]
        confine.confine(confine.Confinement(**assignment.confinement), places)
    except confine.Unconfined as error:
        raise NotLoaded(faults.Fault("start", str(error))) from None


def _await_assignment(
    sock: socket.socket, decoder: wire.Decoder, frames: deque[wire.Frame]
) -> Assignment | None:
    """What to become; None when the service hangs up first. Pings are answered meanwhile."""
    while True:
        data = sock.recv(wire.RECEIVE_BYTES)
        if not data:
            return None
        frames.extend(decoder.feed(data))
        while frames:
            frame = frames.popleft()
            if frame.kind == wire.CALL:
                return Assignment(**json.loads(frame.meta))
            if frame.kind == wire.PING:
                sock.sendall(wire.encode(wire.PONG, frame.request_id))


def _needs_loop(program: Program) -> bool:
    return any(function.shape.is_async for function in program.values())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A function may have put anything there.
        with contextlib.suppress(Exception):
            stream.flush()


def _token_taken() -> bool:
    """Whether a call that was sent ahead is still ours to begin."""
    try:
        return bool(os.read(TOKENS_FD, 1))
    except BlockingIOError:
        return False


class SyncServer:
    """One call after the other."""

    def __init__(
        self,
        sock: socket.socket,
        decoder: wire.Decoder,
        frames: deque[wire.Frame],
        calls: Calls,
    ) -> None:
        self._sock = sock
        self._decoder = decoder
        self._frames = frames
        self._calls = calls
        self._running = 0
        self._cancelled = False
        self._outstanding = 0
        self._receiving = threading.Lock()
        """Held by who receives while a call runs, and to end one: between calls no other
        thread than ours may take frames."""

    def run(self) -> None:
        """Returns when the service hangs up."""
        while True:
            while self._frames:
                self._take(self._frames.popleft())
            data = self._sock.recv(wire.RECEIVE_BYTES)
            if not data:
                return
            self._frames.extend(self._decoder.feed(data))

    def _take(self, frame: wire.Frame) -> None:
        if frame.kind == wire.CALL:
            if not frame.flags & wire.AHEAD or _token_taken():
                self._call(frame)
        elif frame.kind == wire.PING:
            self._sock.sendall(wire.encode(wire.PONG, frame.request_id))

    def _call(self, frame: wire.Frame) -> None:
        request_id = frame.request_id
        self._running, self._cancelled, self._outstanding = request_id, False, 0
        try:
            started = self._calls.start(frame, lambda: self._ask_cancelled(request_id))
        except Refused as error:
            self._sock.sendall(self._calls.refusal(request_id, str(error)))
            return
        try:
            if started.environment:
                with added_environment(started.environment):
                    reply = self._run(request_id, started)
            else:
                reply = self._run(request_id, started)
        finally:
            with self._receiving:
                self._running = 0
        self._sock.sendall(reply)

    def _run(self, request_id: int, started: Started) -> bytes:
        kind = wire.REPLY
        function = started.function
        try:
            value = started.target.call(*started.arguments, **started.named)
            if isinstance(value, types.GeneratorType):
                kind = wire.END
                self._stream(request_id, function, value)
                return self._calls.end(request_id, started)
            if isinstance(value, types.CoroutineType):
                # A plain function that hands out a coroutine: a decorator without `async def`.
                value = asyncio.run(value)
        except CallCancelled:
            fault = faults.cancelled(function)
        except BaseException as error:
            fault = faults.describe(function, error)
        else:
            return self._calls.answer(request_id, started, value)
        return self._calls.failure(kind, request_id, started, fault)

    def _stream(
        self, request_id: int, function: str, items: types.GeneratorType[Any, Any, Any]
    ) -> None:
        try:
            for item in items:
                frame, cost = self._calls.chunk(request_id, function, item)
                while not wire.may_send(self._outstanding, cost) and not self._cancelled:
                    with self._receiving:
                        self._control()
                # A reader that takes everything at once must not keep the news of its end away.
                if self._ask_cancelled(request_id):
                    raise CallCancelled
                self._sock.sendall(frame)
                self._outstanding += cost
        finally:
            items.close()

    def _ask_cancelled(self, request_id: int) -> bool:
        """In any thread, and at any time: a thread may outlive the call that began it."""
        if self._receiving.acquire(blocking=False):
            try:
                if self._running != request_id:
                    return True
                if not self._cancelled and select.select([self._sock], [], [], 0)[0]:
                    self._control()
            finally:
                self._receiving.release()
        return self._running != request_id or self._cancelled

    def _control(self) -> None:
        """Takes in what the service sent while a function runs; calls wait for their turn."""
        data = self._sock.recv(wire.RECEIVE_BYTES)
        if not data:
            raise OSError("the service hung up")
        for frame in self._decoder.feed(data):
            if frame.kind == wire.CREDIT and frame.request_id == self._running:
                self._outstanding -= min(self._outstanding, wire.amount_of(frame))
            elif frame.kind == wire.CANCEL and frame.request_id == self._running:
                self._cancelled = True
            else:
                self._frames.append(frame)
