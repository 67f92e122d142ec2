"""Structured logs: one line at the end of each execution, and what the service itself says.

JSON on a pipe, readable text on a terminal. Lines are written by a thread, so a reader that
stalls never stalls a call; when it stalls for long, lines are dropped and counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol

import msgspec
import structlog

from atlatl.events import (
    AttemptFailed,
    BreakerChanged,
    CallbackTried,
    CallRetried,
    Event,
    ExecutionDied,
    ExecutionFinished,
    InstanceEnded,
    StartFailedEvent,
    TaskDeleted,
    TaskDeployed,
)
from atlatl.model import Mode, OutcomeKind

MAX_LINES = 10_000
"""Lines that wait for a slow reader; further ones are dropped and counted."""
PAUSE_S = 0.2
"""Between two writes: to wake the thread for each line would cost more than the line."""
AT_ONCE = 64
"""Lines that are made in one go, while what that takes is in the processor's caches."""
MAX_TEXT = 500
"""Characters of an error in a line."""

_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/?#]*@)?([^\s/?#]*)\S*", re.IGNORECASE)


class Line(Protocol):
    """A line to be."""

    def text(self) -> bytes:
        """Without its newline; does not fail."""


class LineWriter:
    """Writes lines to a stream from a thread of its own.

    Args:
        stream: binary, such as `sys.stderr.buffer`.
        max_lines: that may wait.
    """

    def __init__(self, stream: BinaryIO, max_lines: int = MAX_LINES) -> None:
        self.dropped = 0
        """Since the last line was written."""
        self._stream = stream
        self._max_lines = max_lines
        self._lines: deque[bytes] = deque()
        self._later: deque[Line] = deque()
        self._making = threading.Lock()
        self._more = threading.Event()
        self._closed = False
        # Started by the first line, not here: the zygote is to exist before any thread does.
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Takes a line without its newline; never waits."""
        if self._has_room():
            self._make()
            self._lines.append(line)
            self._wake()

    def write_later(self, line: Line) -> None:
        """Takes a line that is made together with others; never waits."""
        if self._has_room():
            self._later.append(line)
            if len(self._later) >= AT_ONCE:
                self._make()
            self._wake()

    def _has_room(self) -> bool:
        if len(self._lines) < self._max_lines:
            return True
        self.dropped += 1
        return False

    def _make(self) -> None:
        """Called by both threads; the lock keeps the lines in their order."""
        with self._making, contextlib.suppress(IndexError):
            while True:
                self._lines.append(self._later.popleft().text())

    def _wake(self) -> None:
        if not self._more.is_set():
            self._more.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Writes what is left, unless the reader does not take it in time."""
        self._closed = True
        self._more.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not (self._closed and not self._lines and not self._later):
            self._more.wait()
            if not self._closed:
                time.sleep(PAUSE_S)
            self._more.clear()
            try:
                self._flush()
            except (OSError, ValueError):
                return  # nobody reads any more

    def _flush(self) -> None:
        self._make()
        while self._lines:
            batch = [self._lines.popleft() for _ in range(min(len(self._lines), 256))]
            if self.dropped:
                dropped, self.dropped = self.dropped, 0
                batch.append(b'{"event": "log lines dropped", "count": %d}' % dropped)
            self._stream.write(b"\n".join(batch) + b"\n")
            self._stream.flush()


class ExecutionLog:
    """Listens to events and writes one line for each that an operator wants to read."""

    def __init__(
        self, logger: Any, lines: LineWriter | None = None, *, executions: bool = True
    ) -> None:
        """Writes with `logger`; executions as JSON to `lines`, which is much quicker, if given.

        Without `executions` there is no line for each execution that ended.
        """
        self._logger = logger
        self._executions = executions
        self._lines = lines

    def emit(self, event: Event) -> None:
        if isinstance(event, ExecutionFinished):
            if self._executions:
                self._execution(event)
        else:
            self._happening(event)

    def _happening(self, event: Event) -> None:
        match event:
            case AttemptFailed():
                self._attempt_failed(event, recovered=event.recovered)
            case CallRetried():
                self._attempt_failed(event)
            case ExecutionDied():
                self._logger.warning(
                    "Dead letter",
                    task=event.task_name,
                    execution_id=event.execution_id,
                    attempts=event.attempts,
                    error_code=event.code,
                )
            case CallbackTried(given_up=True):
                self._logger.warning(
                    "Callback given up",
                    task=event.task_name,
                    execution_id=event.execution_id,
                    tries=event.tries,
                    reason=without_secrets(event.failure)[:MAX_TEXT],
                )
            case BreakerChanged():
                self._logger.warning(
                    "Circuit breaker changed", task=event.task_name, old=event.old, new=event.new
                )
            case InstanceEnded(expected=False):
                self._logger.warning(
                    "Instance lost",
                    task=event.task_name,
                    instance_id=event.instance_id,
                    reason=event.reason,
                )
            case StartFailedEvent():
                self._logger.error(
                    "Instance start failed", task=event.task_name, reason=event.reason
                )
            case TaskDeployed():
                self._logger.info("Task deployed", task=event.task_name, version=event.version)
            case TaskDeleted():
                self._logger.info("Task deleted", task=event.task_name)

    def _attempt_failed(
        self, event: AttemptFailed | CallRetried, *, recovered: bool = False
    ) -> None:
        fields = {
            "task": event.task_name,
            "execution_id": event.execution_id,
            "attempt": event.attempt,
            "error_code": event.code,
        }
        if recovered:
            self._logger.warning("Task execution recovered", **fields)
        else:
            fields["retry_in_ms"] = round(event.retry_in_s * 1000, 3)
            self._logger.info("Task execution is tried again", **fields)

    def _execution(self, event: ExecutionFinished) -> None:
        ended = _ended(event)
        if self._lines is not None:
            self._lines.write_later(ended)
            return
        fields = msgspec.to_builtins(ended.line())
        for name in ("level", "timestamp"):
            del fields[name]
        self._logger.info(fields.pop("event"), **fields)


class _Ended(msgspec.Struct, gc=False):
    """What the line about an execution is made of, and no more: its result may be large."""

    at: float
    task_name: str
    task_id: str
    execution_id: str
    instance_id: str
    function_name: str
    outcome: OutcomeKind
    run_s: float
    queue_s: float
    cold_start: bool
    attempt: int
    mode: Mode
    trace_id: str
    error_code: str = ""
    error: str = ""

    def text(self) -> bytes:
        line = self.line()
        try:
            return msgspec.json.encode(line)
        except UnicodeEncodeError:  # half of a surrogate pair, which no UTF-8 has
            return json.dumps(msgspec.to_builtins(line)).encode()

    def line(self) -> _ExecutionLine:
        line = _ExecutionLine(
            self.task_name,
            self.task_id,
            self.execution_id,
            self.instance_id,
            self.function_name,
            self.outcome,
            _ms(self.run_s),
            _ms(self.queue_s),
            self.cold_start,
            self.attempt,
            datetime.fromtimestamp(self.at, UTC),
        )
        if self.mode is Mode.ASYNC:
            line.mode = "async"
        if self.error_code:
            line.error_code = self.error_code
            line.error = self.error
        if self.trace_id:
            line.trace_id = self.trace_id
        return line


def _ended(event: ExecutionFinished) -> _Ended:
    execution = event.execution
    outcome = execution.outcome
    assert outcome is not None
    ended = _Ended(  # by position: by name it takes half as long again
        event.at,
        execution.task_name,
        execution.task_id,
        execution.execution_id,
        execution.instance_id,
        execution.function_name,
        outcome.kind,
        outcome.run_s,
        execution.queue_s,
        execution.cold_start,
        execution.attempt,
        execution.mode,
        execution.trace_id,
    )
    if outcome.error is not None:
        ended.error_code = outcome.error.code
        ended.error = outcome.error.message[:MAX_TEXT]
    return ended


class _ExecutionLine(msgspec.Struct, gc=False):
    """What is written about an execution that ended."""

    task: str
    task_id: str
    execution_id: str
    instance_id: str
    function_name: str
    outcome: OutcomeKind
    execution_time_ms: float
    queue_time_ms: float
    cold_start: bool
    attempt: int
    timestamp: datetime
    mode: str | msgspec.UnsetType = msgspec.UNSET
    error_code: str | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET
    trace_id: str | msgspec.UnsetType = msgspec.UNSET
    event: str = "Task execution completed"
    level: str = "info"


def _ms(seconds: float) -> float:
    """To the microsecond; `round` takes four times as long."""
    return int(seconds * 1_000_000 + 0.5) / 1000


def without_secrets(text: str) -> str:
    """Leaves of every URL its scheme and host: all that follows, or precedes, may be a secret."""
    return _ADDRESS.sub(r"\1\2", text)


class _Lines:
    """What structlog writes rendered events to."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, line: bytes | str) -> None:
        self._writer.write(line if isinstance(line, bytes) else line.encode())

    debug = info = warning = error = critical = msg


class _StandardLog(logging.Handler):
    """Hands records of the standard library's logging, ours and libraries', to structlog."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say = getattr(self._logger, record.levelname.lower(), self._logger.info)
            fields = {"logger": record.name}
            if record.exc_info:
                fields["exception"] = logging.Formatter().formatException(record.exc_info)
            say(record.getMessage(), **fields)
        except Exception:
            self.handleError(record)


def configure(writer: LineWriter, *, colours: bool) -> Any:
    """A structlog logger that writes to `writer`; the standard library's logging joins it."""
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True)
        if colours
        else structlog.processors.JSONRenderer(serializer=_encode)
    )
    logger = structlog.wrap_logger(
        _Lines(writer),
        processors=[*shared, renderer],
        wrapper_class=structlog.BoundLogger,
    )
    root = logging.getLogger()
    root.handlers[:] = [_StandardLog(logger)]
    root.setLevel(logging.WARNING)
    return logger


def stderr_writer() -> LineWriter:
    return LineWriter(sys.stderr.buffer)


def _encode(fields: MutableMapping[str, Any], **_: Any) -> bytes:
    return msgspec.json.encode(fields, enc_hook=str)
