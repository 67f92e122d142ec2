"""One CALL from its frame to its answer: what the two servers share."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from typing import Any

from atlatl_worker import binding, faults, results, wire
from atlatl_worker.api import Context
from atlatl_worker.confine import BODIES_FD
from atlatl_worker.loading import Assignment, Function, Program
from atlatl_worker.output import Capture

OUTPUT_FD = 4
"""A duplicate of the memory file that a function cannot close by mistake."""


class Started:
    """A call that runs."""

    __slots__ = (
        "ahead", "arguments", "began", "capture", "context", "environment", "named", "target",
    )  # fmt: skip
    target: Function
    arguments: list[Any]
    named: dict[str, Any]
    context: Context
    environment: dict[str, str]
    ahead: bool

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.capture: Capture | None = None

    @property
    def function(self) -> str:
        return self.target.shape.function


class Refused(Exception):
    """A CALL that cannot be carried out as it stands."""


class Calls:
    """Reads CALLs and writes their answers.

    Args:
        program: the functions that a call may name.
        assignment: names, limits, and whether executions share the instance.
    """

    def __init__(self, program: Program, assignment: Assignment) -> None:
        self._program = program
        self._assignment = assignment
        self.alone = assignment.concurrency == 1
        self._mark = position()

    def start(self, frame: wire.Frame, ask_cancelled: Callable[[], bool]) -> Started:
        """Reads the frame; raises Refused."""
        started = Started()
        if self.alone:
            self._mark = position()
        else:
            started.capture = Capture(self._assignment.output_bytes)
        try:
            meta = json.loads(frame.meta)
            started.target = self._program[meta["function"]]
            started.environment = meta.get("environment") or {}
            started.context = self._context(meta, ask_cancelled)
            body = _shared(frame) if frame.flags & wire.SHARED else frame.body
            started.ahead = bool(frame.flags & wire.AHEAD)
            started.arguments, started.named = binding.bind(
                started.target.shape, meta, body, started.context
            )
        except (ValueError, LookupError, RecursionError, OSError) as error:
            raise Refused(f"{type(error).__name__}: {error}") from None
        return started

    def _context(self, meta: dict[str, Any], ask_cancelled: Callable[[], bool]) -> Context:
        return Context(
            execution_id=meta["execution_id"],
            deadline=meta["deadline"],
            attempt=meta.get("attempt", 1),
            headers=meta.get("context_headers") or meta.get("headers"),
            traceparent=meta.get("traceparent", ""),
            task_name=self._assignment.task_name,
            version=self._assignment.version,
            environment=meta.get("environment"),
            ask_cancelled=ask_cancelled,
        )

    def content(self, function: str, value: Any) -> tuple[int, bytes, dict[str, Any]]:
        """A returned value, or an item of a stream; raises ResultError."""
        content, body, meta = results.encode_result(function, value)
        limit = self._assignment.response_bytes
        if len(body) > limit:
            raise results.ResultError(
                f"{function}() returned {len(body)} bytes, over the limit of {limit} "
                "(`confinement.response_bytes`)"
            )
        return content, body, meta

    def chunk(self, request_id: int, function: str, value: Any) -> tuple[bytes, int]:
        """The frame of one item of a stream, and the credit that it costs; raises ResultError."""
        content, body, _ = self.content(function, value)
        if content == wire.RESPONSE:
            raise results.ResultError(f"{function}() yielded a Response; yield text, bytes or JSON")
        return wire.encode(wire.CHUNK, request_id, b"", body, content), wire.cost(len(body))

    def answer(self, request_id: int, started: Started, value: Any) -> bytes:
        """The REPLY for a returned value."""
        try:
            content, body, meta = self.content(started.function, value)
            if self.alone and not started.ahead and _share(body):
                body, content = wire.AMOUNT.pack(len(body)), content | wire.SHARED
            told = self._meta(started, meta)
            return wire.encode(wire.REPLY, request_id, told, body, content)
        except BaseException as error:
            # To encode a value of the function's own class runs the function's own code.
            fault = faults.describe(started.function, error)
            return self.failure(wire.REPLY, request_id, started, fault)

    def end(self, request_id: int, started: Started) -> bytes:
        """The END of a stream that went well."""
        return wire.encode(wire.END, request_id, self._meta(started, {}), b"", wire.JSON)

    def failure(self, kind: int, request_id: int, started: Started, fault: faults.Fault) -> bytes:
        """A REPLY or END that says what went wrong."""
        meta = self._meta(started, {})
        return wire.encode(kind, request_id, meta, fault.encode(), wire.ERROR)

    def refusal(self, request_id: int, message: str) -> bytes:
        """The REPLY to a CALL that could not be read."""
        fault = faults.Fault("invalid", message)
        return wire.encode(wire.REPLY, request_id, b"", fault.encode(), wire.ERROR)

    def _meta(self, started: Started, meta: dict[str, Any]) -> bytes:
        run_s = time.perf_counter() - started.began
        memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self.alone:
            end = position()
            if end != self._mark:
                meta["printed"] = (self._mark, end)
        elif started.capture is not None and started.capture.written:
            meta["output"] = started.capture.text()
            meta["written"] = started.capture.written
        if not meta:
            return b'{"run_s":%.6f,"memory_bytes":%d}' % (run_s, memory_bytes)
        meta["run_s"] = run_s
        meta["memory_bytes"] = memory_bytes
        return json.dumps(meta, ensure_ascii=False).encode()


def _shared(frame: wire.Frame) -> bytes:
    """The body that lies in the file."""
    n_bytes = wire.amount_of(frame)
    body = os.pread(BODIES_FD, n_bytes, 0)
    if len(body) < n_bytes:
        raise ValueError("the file for large bodies was changed")
    return body


def _share(body: bytes) -> bool:
    """Puts a body into the file; False when it has to go through the socket."""
    if len(body) <= wire.SHARED_FROM_BYTES:
        return False
    try:
        return os.pwrite(BODIES_FD, body, 0) == len(body)
    except OSError:  # it is larger than the file, or the function has closed it
        return False


def position() -> int:
    """How much has been written to the memory file, by whomever."""
    try:
        return os.lseek(OUTPUT_FD, 0, os.SEEK_CUR)
    except OSError:
        return 0
