"""The log: one line an execution, and a reader who stalls stalls nobody."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from atlatl.errors import FunctionRaised
from atlatl.events import (
    AttemptFailed,
    BreakerChanged,
    CallbackTried,
    CallRetried,
    Event,
    ExecutionAccepted,
    ExecutionDied,
    ExecutionFinished,
    InstanceEnded,
    InstanceStarted,
    StartFailedEvent,
    TaskDeleted,
    TaskDeployed,
)
from atlatl.model import Execution, ExecutionStatus, Mode, Outcome, OutcomeKind, Result, failed
from atlatl.telemetry import logs
from atlatl.telemetry.logs import ExecutionLog, LineWriter, configure, without_secrets

BOUND_S = 10.0


class Reader(io.BytesIO):
    """A stream whose writer is stalled until `go` is set."""

    def __init__(self, *, stalled: bool = False) -> None:
        super().__init__()
        self.go = threading.Event()
        self.asked = threading.Event()
        if not stalled:
            self.go.set()

    def write(self, data: Any) -> int:
        self.asked.set()
        assert self.go.wait(BOUND_S)
        return super().write(data)

    def lines(self) -> list[bytes]:
        return self.getvalue().splitlines()


@pytest.fixture
def standard_log() -> Iterator[None]:
    """Puts the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Log:
    """A whole log with a reader; `lines` closes it."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._writer = LineWriter(self._reader)
        self.logger = configure(self._writer, colours=False)
        self.events = ExecutionLog(self.logger)

    def lines(self) -> list[dict[str, Any]]:
        self._writer.close(BOUND_S)
        return [json.loads(line) for line in self._reader.lines()]


@pytest.fixture
def log(standard_log: None) -> Log:
    return Log()


def finished(
    outcome: Outcome, *, cold_start: bool = False, mode: Mode = Mode.SYNC, attempt: int = 1
) -> ExecutionFinished:
    completed = outcome.kind is OutcomeKind.SUCCESS
    execution = Execution(
        execution_id="e-1",
        task_id="t-1",
        task_name="hello",
        function_name="main",
        mode=mode,
        status=ExecutionStatus.COMPLETED if completed else ExecutionStatus.FAILED,
        outcome=outcome,
        instance_id="i-1",
        cold_start=cold_start,
        queue_s=0.0015,
        attempt=attempt,
    )
    return ExecutionFinished(at=0.0, task_name="hello", execution=execution, latency_s=0.3)


def test_an_execution_is_one_line_with_its_fields(log: Log) -> None:
    done = Outcome(kind=OutcomeKind.SUCCESS, instance_id="i-1", run_s=0.25)
    log.events.emit(finished(done, cold_start=True))
    (line,) = log.lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "Task execution completed",
        "level": "info",
        "task": "hello",
        "task_id": "t-1",
        "execution_id": "e-1",
        "instance_id": "i-1",
        "function_name": "main",
        "outcome": "success",
        "execution_time_ms": 250.0,
        "queue_time_ms": 1.5,
        "cold_start": True,
        "attempt": 1,
    }


def test_a_failed_execution_is_one_line_too_with_its_error_cut(log: Log) -> None:
    error = FunctionRaised("ValueError: first\nsecond " + "x" * 1000)
    log.events.emit(finished(failed(error)))
    (line,) = log.lines()
    assert (line["outcome"], line["error_code"]) == ("error", "EXECUTION_ERROR")
    assert line["error"].startswith("ValueError: first\nsecond")
    assert len(line["error"]) == 500


def test_an_async_execution_says_so_and_which_attempt_it_was(log: Log) -> None:
    done = Outcome(kind=OutcomeKind.SUCCESS, instance_id="i-1", run_s=0.25)
    log.events.emit(finished(done, mode=Mode.ASYNC, attempt=3))
    log.events.emit(finished(done, mode=Mode.STREAM))
    durable, stream = log.lines()
    assert (durable["mode"], durable["attempt"]) == ("async", 3)
    assert "mode" not in stream


def attempt_failed(*, recovered: bool) -> AttemptFailed:
    return AttemptFailed(
        at=0.0,
        task_name="hello",
        execution_id="e-1",
        attempt=2,
        code="INSTANCE_LOST",
        retry_in_s=0.25,
        recovered=recovered,
    )


def callback_given_up(failure: str) -> CallbackTried:
    return CallbackTried(
        at=0.0, task_name="hello", execution_id="e-1", tries=8, failure=failure, given_up=True
    )


@pytest.mark.parametrize(
    ("event", "level", "fields"),
    [
        (
            BreakerChanged(at=0.0, task_name="hello", old="closed", new="open"),
            "warning",
            {"event": "Circuit breaker changed", "old": "closed", "new": "open"},
        ),
        (
            InstanceEnded(
                at=0.0, task_name="hello", instance_id="i-1", reason="it died", expected=False
            ),
            "warning",
            {"event": "Instance lost", "instance_id": "i-1", "reason": "it died"},
        ),
        (
            StartFailedEvent(at=0.0, task_name="hello", reason="no such module"),
            "error",
            {"event": "Instance start failed", "reason": "no such module"},
        ),
        (
            TaskDeployed(at=0.0, task_name="hello", version=2, created=False),
            "info",
            {"event": "Task deployed", "version": 2},
        ),
        (TaskDeleted(at=0.0, task_name="hello"), "info", {"event": "Task deleted"}),
        (
            attempt_failed(recovered=False),
            "info",
            {
                "event": "Task execution is tried again",
                "execution_id": "e-1",
                "attempt": 2,
                "error_code": "INSTANCE_LOST",
                "retry_in_ms": 250.0,
            },
        ),
        (
            attempt_failed(recovered=True),
            "warning",
            {
                "event": "Task execution recovered",
                "execution_id": "e-1",
                "attempt": 2,
                "error_code": "INSTANCE_LOST",
            },
        ),
        (
            ExecutionDied(
                at=0.0, task_name="hello", execution_id="e-1", attempts=4, code="TIMEOUT"
            ),
            "warning",
            {
                "event": "Dead letter",
                "execution_id": "e-1",
                "attempts": 4,
                "error_code": "TIMEOUT",
            },
        ),
        (
            callback_given_up("https://hooks.test answered 503"),
            "warning",
            {
                "event": "Callback given up",
                "execution_id": "e-1",
                "tries": 8,
                "reason": "https://hooks.test answered 503",
            },
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_what_an_operator_wants_to_read_is_a_line(
    log: Log, event: Event, level: str, fields: dict[str, Any]
) -> None:
    log.events.emit(event)
    (line,) = log.lines()
    assert line.pop("timestamp")
    assert line == fields | {"level": level, "task": "hello"}


def test_what_goes_as_planned_is_no_line(log: Log) -> None:
    ended = InstanceEnded(at=0.0, task_name="hello", instance_id="i", reason="idle", expected=True)
    started = InstanceStarted(
        at=0.0, task_name="hello", instance_id="i", pid=1, origin="blank", init_s=0.01
    )
    log.events.emit(started)
    log.events.emit(ended)
    log.events.emit(ExecutionAccepted(at=0.0, task_name="hello", execution_id="e-1"))
    log.events.emit(CallbackTried(at=0.0, task_name="hello", execution_id="e-1", tries=1))
    failed_try = CallbackTried(0.0, "hello", execution_id="e-1", tries=1, failure="refused")
    log.events.emit(failed_try)
    assert log.lines() == []


def test_a_callback_leaves_no_secret_in_the_log(log: Log) -> None:
    """Whatever the failure says; a path may be a secret as well as a query."""
    failure = "POST 'https://ada:pass@hooks.test:8443/T0/key?token=abc#x' failed, " + "x" * 1000
    log.events.emit(callback_given_up(failure))
    (line,) = log.lines()
    assert line["reason"].startswith("POST 'https://hooks.test:8443 failed, xxx")
    assert len(line["reason"]) == 500


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://u:p@h.test:8443/path?q=1 answered 503", "https://h.test:8443 answered 503"),
        ("HTTP://u:p@h.test", "HTTP://h.test"),
        ("http://u:p@[::1]:80/x", "http://[::1]:80"),
        ("http://a@b@h.test/x", "http://h.test"),
        ("http://h.test?q=1", "http://h.test"),
        ("http://h.test#f and https://i.test/k", "http://h.test and https://i.test"),
        ("no address at all: see a/b?c", "no address at all: see a/b?c"),
    ],
)
def test_urls_are_cut_to_their_host(text: str, left: str) -> None:
    assert without_secrets(text) == left


def test_the_standard_log_joins_with_its_traceback(log: Log) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("some.library").exception("it %s", "failed")
    logging.getLogger("some.library").info("too quiet to be heard")
    (line,) = log.lines()
    assert (line["event"], line["level"], line["logger"]) == ("it failed", "error", "some.library")
    assert line["exception"].endswith("ValueError: broken")


def test_a_value_that_json_cannot_hold_is_written_as_text(log: Log) -> None:
    log.logger.info("odd", value=ValueError("x"))
    assert log.lines()[0]["value"] == "x"


def write_all(writer: LineWriter, lines: list[bytes]) -> threading.Thread:
    """Writes from a thread: if `write` waited, the thread would not end."""

    def work() -> None:
        for line in lines:
            writer.write(line)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_stalled_reader_never_blocks_write_and_drops_are_counted() -> None:
    reader = Reader(stalled=True)
    writer = LineWriter(reader, max_lines=3)
    writer.write(b"first")
    assert reader.asked.wait(BOUND_S)
    thread = write_all(writer, [b"%d" % number for number in range(10)])
    thread.join(BOUND_S)
    assert not thread.is_alive()
    assert not reader.go.is_set()
    assert writer.dropped == 7
    reader.go.set()
    writer.close(BOUND_S)
    assert [line for line in reader.lines() if line.isdigit()] == [b"0", b"1", b"2"]
    told = [json.loads(line) for line in reader.lines() if line.startswith(b"{")]
    assert told == [{"event": "log lines dropped", "count": 7}]
    assert writer.dropped == 0


def test_text_that_is_no_utf_8_ends_no_log() -> None:
    reader = Reader()
    writer = LineWriter(reader)
    events = ExecutionLog(None, writer)
    for message in ("half of \ud83d", "whole"):
        error = FunctionRaised(message)
        events.emit(finished(Outcome(kind=OutcomeKind.ERROR, error=error)))
    writer.close(BOUND_S)
    assert [json.loads(line)["error"] for line in reader.lines()] == ["half of \ud83d", "whole"]


@pytest.mark.parametrize(
    "large",
    [
        {"result": Result(kind="bytes", body=bytes(logs.MAX_KEPT + 1))},
        {"output": bytes(logs.MAX_KEPT + 1)},
        {"result": Result(kind="bytes", body=bytes(logs.MAX_KEPT)), "output": b"1"},
    ],
    ids=["result", "output", "both"],
)
def test_an_execution_whose_line_waits_is_not_kept_when_it_is_large(large: dict[str, Any]) -> None:
    """A reader who stalls lets many lines wait."""
    reader = Reader(stalled=True)
    writer = LineWriter(reader)
    writer.write(b"{}")
    assert reader.asked.wait(BOUND_S)
    small, event = (
        finished(Outcome(kind=OutcomeKind.SUCCESS, **facts), attempt=attempt)
        for attempt, facts in enumerate(({}, large))
    )
    before = sys.getrefcount(small), sys.getrefcount(event)
    events = ExecutionLog(None, writer)
    events.emit(small)
    assert sys.getrefcount(small) == before[0] + 1
    events.emit(event)
    assert (sys.getrefcount(small), sys.getrefcount(event)) == before
    reader.go.set()
    writer.close(BOUND_S)
    assert [json.loads(line).get("attempt") for line in reader.lines()] == [None, 0, 1]


def test_what_is_logged_while_lines_are_made_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection of garbage may come at any moment, and what it finds may log."""
    reader = Reader()
    writer = LineWriter(reader)
    make = logs._line

    def talkative(event: ExecutionFinished) -> Any:
        writer.write(b"{}")
        return make(event)

    monkeypatch.setattr(logs, "_line", talkative)
    monkeypatch.setattr(logs, "AT_ONCE", 2)
    events = ExecutionLog(None, writer)

    def work() -> None:
        for number in range(4):
            events.emit(finished(Outcome(kind=OutcomeKind.SUCCESS), attempt=number))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(BOUND_S)
    assert not thread.is_alive()
    writer.close(BOUND_S)
    found = [json.loads(line).get("attempt") for line in reader.lines()]
    assert [each for each in found if each is not None] == [0, 1, 2, 3]
    assert found.count(None) == 4


def test_of_executions_that_no_line_has_room_for_none_is_kept() -> None:
    reader = Reader(stalled=True)
    writer = LineWriter(reader, max_lines=logs.AT_ONCE // 2)
    writer.write(b"0")
    assert reader.asked.wait(BOUND_S)
    events = ExecutionLog(None, writer)
    for number in range(2 * logs.AT_ONCE):
        events.emit(finished(Outcome(kind=OutcomeKind.SUCCESS), attempt=number))
    assert writer.dropped == 2 * logs.AT_ONCE - logs.AT_ONCE // 2
    reader.go.set()
    writer.close(BOUND_S)
    _, *found = [json.loads(line) for line in reader.lines()]
    (told,) = [line for line in found if "count" in line]
    assert told["count"] == 2 * logs.AT_ONCE - logs.AT_ONCE // 2
    assert [line["attempt"] for line in found if line is not told] == [*range(logs.AT_ONCE // 2)]


def test_lines_come_in_the_order_of_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "AT_ONCE", 3)
    reader = Reader()
    writer = LineWriter(reader)
    events = ExecutionLog(None, writer)
    for number in range(10):
        events.emit(finished(Outcome(kind=OutcomeKind.SUCCESS), attempt=number))
        if number % 4 == 0:
            writer.write(b"%d" % -number)
    writer.close(BOUND_S)
    found = [json.loads(line) for line in reader.lines()]
    order = [line if isinstance(line, int) else line["attempt"] for line in found]
    assert order == [0, 0, 1, 2, 3, 4, -4, 5, 6, 7, 8, -8, 9]


def test_close_gives_up_on_a_reader_who_never_takes_anything() -> None:
    reader = Reader(stalled=True)
    writer = LineWriter(reader)
    writer.write(b"never read")
    writer.close(timeout_s=0.01)
    assert reader.lines() == []
    reader.go.set()


def test_close_writes_what_waits_and_twice_is_harmless() -> None:
    reader = Reader()
    writer = LineWriter(reader)
    for number in range(1000):
        writer.write(b"%d" % number)
    writer.close(BOUND_S)
    writer.close(BOUND_S)
    assert reader.lines() == [b"%d" % number for number in range(1000)]


def test_a_writer_that_nobody_used_starts_no_thread() -> None:
    before = threading.active_count()
    LineWriter(Reader()).close()
    assert threading.active_count() == before


def test_a_reader_who_left_is_no_failure_of_the_service() -> None:
    class Gone(io.BytesIO):
        def write(self, data: Any) -> int:
            raise BrokenPipeError

    writer = LineWriter(Gone())
    for _ in range(3):
        writer.write(b"into the void")
    writer.close(BOUND_S)


def test_executions_can_be_left_out_of_the_log(log: Log) -> None:
    quiet = ExecutionLog(log.logger, executions=False)
    quiet.emit(finished(Outcome(kind=OutcomeKind.SUCCESS)))
    quiet.emit(BreakerChanged(0.0, "hello", old="closed", new="open"))
    assert [line["event"] for line in log.lines()] == ["Circuit breaker changed"]


def test_a_call_that_is_tried_again_is_a_line(log: Log) -> None:
    log.events.emit(
        CallRetried(
            at=0.0,
            task_name="hello",
            execution_id="e-1",
            attempt=1,
            code="INSTANCE_LOST",
            retry_in_s=0.25,
            queued_at=0.0,
            started_at=None,
        )
    )
    [line] = log.lines()
    assert (line["event"], line["retry_in_ms"]) == ("Task execution is tried again", 250)
