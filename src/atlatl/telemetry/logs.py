"""Structured logs: one line at the end of each execution, and what the service itself says.

JSON on a pipe, readable text on a terminal. Lines are written by a thread, so a reader that
stalls never stalls a call; when it stalls for long, lines are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO

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
MAX_KEPT = 4096
"""Bytes of result and output that an execution may have whose line is not made at once."""
MAX_TEXT = 500
"""Characters of an error in a line."""

_ADDRESS = re.compile(r"\b([a-z][a-z0-9+.-]*://)(?:[^\s/?#]*@)?([^\s/?#]*)\S*", re.IGNORECASE)


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
        self._texts: list[bytes] = []
        self._lines = 0
        """In the texts."""
        self._ended: deque[ExecutionFinished] = deque()
        # Held by whoever adds or takes texts, and while lines are made, so that they keep their
        # order. Who holds it may log: a collection of garbage comes at any moment.
        self._making = threading.RLock()
        self._more = threading.Event()
        self._closed = False
        # Started by the first line, not here: the zygote is to exist before any thread does.
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Takes a line without its newline; never waits."""
        with self._making:
            self._make()
            if self._room(1):
                self._texts.append(line + b"\n")
        self._wake()

    def write_later(self, event: ExecutionFinished) -> None:
        """Takes an execution whose line is made together with others; never waits.

        Called by one thread only.
        """
        ended = self._ended
        ended.append(event)
        if len(ended) == 1:  # else the thread knows already, or has just taken all there was
            self._wake()
        if len(ended) >= AT_ONCE or _is_large(event):
            with self._making:
                self._make()

    def _make(self) -> None:
        ended = self._ended
        events = []
        while ended:
            events.append(ended.popleft())
        if room := self._room(len(events)):
            self._texts.append(_encoded(events[:room]))

    def _room(self, lines: int) -> int:
        """How many of so many lines may wait; the others are dropped."""
        room = min(lines, self._max_lines - self._lines)
        self._lines += room
        self.dropped += lines - room
        return room

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
        while not (self._closed and not self._texts and not self._ended):
            self._more.wait()
            if not self._closed:
                time.sleep(PAUSE_S)
            self._more.clear()
            try:
                self._flush()
            except (OSError, ValueError):
                return  # nobody reads any more

    def _flush(self) -> None:
        with self._making:
            self._make()
            texts, self._texts, self._lines = self._texts, [], 0
            if self.dropped:
                texts.append(b'{"event": "log lines dropped", "count": %d}\n' % self.dropped)
                self.dropped = 0
        self._stream.write(b"".join(texts))
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
        if self._lines is not None:
            self._lines.write_later(event)
            return
        fields = msgspec.to_builtins(_line(event))
        for name in ("level", "timestamp"):
            del fields[name]
        self._logger.info(fields.pop("event"), **fields)


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


def _is_large(event: ExecutionFinished) -> bool:
    outcome = event.execution.outcome
    assert outcome is not None
    result = outcome.result
    return len(outcome.output) + (0 if result is None else len(result.body)) > MAX_KEPT


def _line(event: ExecutionFinished) -> _ExecutionLine:
    execution = event.execution
    outcome = execution.outcome
    assert outcome is not None
    line = _ExecutionLine(  # by position: by name it takes half as long again
        execution.task_name,
        execution.task_id,
        execution.execution_id,
        execution.instance_id,
        execution.function_name,
        outcome.kind,
        # To the microsecond; `round` takes four times as long.
        int(outcome.run_s * 1_000_000 + 0.5) / 1000,
        int(execution.queue_s * 1_000_000 + 0.5) / 1000,
        execution.cold_start,
        execution.attempt,
        datetime.fromtimestamp(event.at, UTC),
    )
    if execution.mode is Mode.ASYNC:
        line.mode = "async"
    if outcome.error is not None:
        line.error_code = outcome.error.code
        line.error = outcome.error.message[:MAX_TEXT]
    if execution.trace_id:
        line.trace_id = execution.trace_id
    return line


_encode_lines = msgspec.json.Encoder().encode_lines


def _encoded(events: Sequence[ExecutionFinished]) -> bytes:
    lines = [_line(event) for event in events]
    try:
        return _encode_lines(lines)
    except UnicodeEncodeError:  # half of a surrogate pair, which no UTF-8 has
        return b"".join(json.dumps(msgspec.to_builtins(line)).encode() + b"\n" for line in lines)


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
