"""The life of an execution out of its record: one row of a table for each kind of life."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from atlatl.core.explaining import explain
from atlatl.core.timeline import Facts, span
from atlatl.errors import (
    AtlatlError,
    CircuitOpenError,
    FunctionRaised,
    InstanceCrashed,
    QueueFull,
    TimedOut,
    TimedOutWaiting,
)
from atlatl.events import (
    BreakerChanged,
    CallbackTried,
    ExecutionDied,
    InstanceEnded,
    InstanceStarted,
    StartFailedEvent,
)
from atlatl.model import (
    Execution,
    ExecutionStatus,
    Mode,
    Outcome,
    OutcomeKind,
    Tried,
    Way,
    failed,
)


def execution(outcome: Outcome | None = None, **facts: Any) -> Execution:
    """Accepted at 100.0; ran, if it did, from 100.5."""
    known: dict[str, Any] = {
        "task_id": "t-1",
        "task_name": "hello",
        "function_name": "main",
        "mode": Mode.SYNC,
        "status": ExecutionStatus.RUNNING if outcome is None else outcome.status,
        "queued_at": 100.0,
        "started_at": 100.5,
        "queue_s": 0.5,
        "completed_at": None if outcome is None else 101.0,
        "outcome": outcome,
        "instance_id": "i-1",
        "version": 3,
    }
    return Execution(execution_id="e-1", **known | facts)


def never_ran(error: AtlatlError, **facts: Any) -> Execution:
    known = {"started_at": None, "instance_id": "", "queue_s": 0.0, "version": 3}
    return execution(failed(error), **known | facts)


DONE = Outcome(kind=OutcomeKind.SUCCESS, run_s=0.25)
RAISED = failed(FunctionRaised("ValueError: no", detail="Traceback ..."), run_s=0.25)
STARTED = InstanceStarted(
    at=99.0, task_name="hello", instance_id="i-1", pid=7, origin="task_zygote", init_s=0.01
)
FIRST = Tried(
    attempt=1,
    ended_at=100.2,
    code="EXECUTION_ERROR",
    message="ValueError: no",
    instance_id="i-0",
    run_s=0.1,
    retry_in_s=0.2,
)


class Life(NamedTuple):
    record: Execution
    facts: Facts
    kinds: list[str]
    """Of the steps, in their order."""
    says: dict[str, str]
    """By kind, what the text of the step has in it; `summary` is the line above."""


LIVES = {
    "warm and idle": Life(
        execution(DONE, queue_s=0.0, started_at=100.0),
        Facts(policy="round_robin", instance=STARTED),
        ["accepted", "breaker", "instance", "runs", "ended"],
        {
            "summary": "COMPLETED, ran 250 ms",
            "instance": "i-1: warm, picked by the policy round_robin, origin task_zygote",
            "runs": "version 3",
        },
    ),
    "nothing known but the record": Life(
        execution(DONE),
        Facts(),
        ["accepted", "breaker", "instance", "runs", "ended"],
        {"instance": "got instance i-1: warm", "summary": "waited 500 ms"},
    ),
    "waited behind others": Life(
        execution(
            DONE,
            way=Way(waited_s=0.5, waiting=3, lent=4, size=4, policy="random", uses=57, origin="b"),
        ),
        Facts(),
        ["accepted", "breaker", "waits", "instance", "runs", "ended"],
        {
            "waits": "3 calls waited before it, 4 calls ran on 4 instances",
            "instance": "after 500 ms: warm, its call number 57, picked by the policy random",
        },
    ),
    "an instance was started for it": Life(
        execution(
            DONE,
            cold_start=True,
            way=Way(waited_s=0.5, size=0, uses=1, origin="fork", init_s=0.5, process_s=0.1),
        ),
        Facts(),
        ["accepted", "breaker", "waits", "cold_start", "instance", "runs", "ended"],
        {
            "waits": "nobody waited, 0 calls ran on 0 instances",
            "cold_start": "500 ms: a process forked for it, for none stood ready (100 ms), then "
            "the code was loaded (400 ms)",
            "instance": "cold, its first call",
            "summary": "cold start",
        },
    ),
    "the first on one that stood ready": Life(
        execution(
            DONE,
            cold_start=True,
            way=Way(uses=1, origin="blank", init_s=0.02, process_s=0.01, spare_s=60.0),
        ),
        Facts(),
        ["accepted", "cold_start", "breaker", "instance", "runs", "ended"],
        {"cold_start": "it had been ready for 60.0 s"},
    ),
    "probe of a half-open breaker": Life(
        execution(RAISED, way=Way(probe=True, uses=2)),
        Facts(
            changes=(
                BreakerChanged(at=100.1, task_name="hello", old="open", new="half-open"),
                BreakerChanged(at=100.99, task_name="hello", old="half-open", new="open"),
            )
        ),
        [
            "accepted", "breaker_changed", "breaker", "instance", "runs", "breaker_changed",
            "ended",
        ],
        {"breaker": "half-open: this call is its probe"},
    ),
    "refused by the breaker": Life(
        never_ran(CircuitOpenError("hello", retry_after_s=12.0)),
        Facts(),
        ["accepted", "breaker", "ended"],
        {"breaker": "is open: refused", "summary": "CIRCUIT_OPEN", "ended": "never ran"},
    ),
    "refused by a full queue": Life(
        never_ran(
            QueueFull("9 calls wait already", retry_after_s=1.0), way=Way(waiting=9, lent=2, size=2)
        ),
        Facts(),
        ["accepted", "breaker", "waits", "ended"],
        {"waits": "9 calls waited before it", "ended": "9 calls wait already; the function never"},
    ),
    "its time passed while it waited": Life(
        never_ran(TimedOutWaiting("no instance was free"), way=Way(waited_s=1.0, lent=1, size=1)),
        Facts(
            changes=(StartFailedEvent(at=100.4, task_name="hello", reason="does not import"),)
        ),
        ["accepted", "breaker", "waits", "start_failed", "ended"],
        {"start_failed": "could not be started: does not import", "ended": "EXECUTION_TIMEOUT"},
    ),
    "it raised": Life(
        execution(failed(FunctionRaised("ValueError: no", detail="Traceback"), output=b"a\nb\n")),
        Facts(),
        ["accepted", "breaker", "instance", "runs", "ended", "output"],
        {"summary": "FAILED with EXECUTION_ERROR: ValueError: no", "output": "it printed 2 lines"},
    ),
    "it hung": Life(
        execution(failed(TimedOut("ran into its time limit of 500 ms"))),
        Facts(
            instance_ended=InstanceEnded(
                at=101.05, task_name="hello", instance_id="i-1", reason="killed", expected=True
            )
        ),
        ["accepted", "breaker", "instance", "runs", "ended", "instance_ended"],
        {"ended": "TIMEOUT with EXECUTION_TIMEOUT: ran into its time limit"},
    ),
    "it hangs": Life(
        execution(),
        Facts(now=104.5, limit_s=30.0, breaker="closed", pool={"in_use": 1, "total": 1}),
        ["accepted", "breaker", "instance", "runs", "now"],
        {"now": "has run for 4.0 s; it is ended 30.0 s after it was accepted"},
    ),
    "it waits for the breaker": Life(
        execution(
            mode=Mode.ASYNC, status=ExecutionStatus.PENDING, started_at=None, instance_id=""
        ),
        Facts(now=103.0, breaker="open", pool={"waiting": 0}),
        ["accepted", "now"],
        {"accepted": "stored", "now": "waited for 3.0 s; the circuit breaker of the task is open"},
    ),
    "it waits for an instance": Life(
        execution(status=ExecutionStatus.PENDING, started_at=None, instance_id=""),
        Facts(now=103.0, breaker="closed", pool={"waiting": 5, "in_use": 2, "total": 2}),
        ["accepted", "now"],
        {"now": "5 calls of the task wait, 2 of 2 instances work"},
    ),
    "the second attempt succeeded": Life(
        execution(DONE, attempt=2, tried=(FIRST,)),
        Facts(),
        ["accepted", "attempt_failed", "breaker", "instance", "runs", "ended"],
        {
            "attempt_failed": "attempt 1 on instance i-0 failed after 100 ms: EXECUTION_ERROR: "
            "ValueError: no; tried again in 200 ms",
            "runs": "attempt 2",
            "summary": "COMPLETED in attempt 2",
        },
    ),
    "the second attempt was refused": Life(
        execution(RAISED, attempt=2, tried=(FIRST,), started_at=100.1, instance_id=""),
        Facts(),
        ["accepted", "attempt_failed", "refused", "ended"],
        {"refused": "attempt 2 was not begun", "summary": "EXECUTION_ERROR"},
    ),
    "crashed for good, and the receiver did not listen": Life(
        execution(
            failed(InstanceCrashed("killed by signal 11 (SIGSEGV)")),
            mode=Mode.ASYNC,
            attempt=3,
            tried=(FIRST,),
        ),
        Facts(
            happened=(
                ExecutionDied(
                    at=101.1, task_name="hello", execution_id="e-1", attempts=3, code="X"
                ),
                CallbackTried(
                    at=101.2, task_name="hello", execution_id="e-1", tries=1, failure="no answer"
                ),
                CallbackTried(at=102.2, task_name="hello", execution_id="e-1", tries=2),
            )
        ),
        [
            "accepted", "attempts_unknown", "attempt_failed", "taken", "breaker", "instance",
            "runs", "ended", "died", "callback", "callback",
        ],
        {
            "attempts_unknown": "1 attempt before this one ended in a way that is not kept",
            "ended": "killed by signal 11 (SIGSEGV)",
            "died": "a dead letter after 3 attempts",
            "callback": "try 1: failed: no answer",
        },
    ),
    "the service ended in the middle": Life(
        execution(
            DONE, mode=Mode.ASYNC, attempt=2, tried=(Tried(1, 100.1, "DRAINING", "over",
                                                         recovered=True),)
        ),
        Facts(),
        ["accepted", "attempt_failed", "taken", "breaker", "instance", "runs", "ended"],
        {"attempt_failed": "the service ended in the middle"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIVES)
def test_a_life_is_told_step_by_step(name: str) -> None:
    life = LIVES[name]
    told = explain(life.record, life.facts)
    assert [step.kind for step in told.steps] == life.kinds
    times = [step.at for step in told.steps]
    assert times == sorted(times)
    assert times[0] == life.record.queued_at
    for kind, words in life.says.items():
        text = told.summary if kind == "summary" else _first(told.steps, kind).text
        assert words in text


def _first(steps: Any, kind: str) -> Any:
    return next(step for step in steps if step.kind == kind)


def test_every_failure_names_its_cause_and_whether_to_try_again() -> None:
    ended = _first(explain(execution(RAISED), Facts()).steps, "ended").details
    assert (ended["error_code"], ended["error_message"]) == ("EXECUTION_ERROR", "ValueError: no")
    assert (ended["traceback"], ended["retryable"]) == ("Traceback ...", False)
    assert ended["execution_time_ms"] == 250


def test_of_much_output_the_last_lines_are_shown() -> None:
    output = b"".join(b"line %d\n" % number for number in range(1000))
    done = Outcome(kind=OutcomeKind.SUCCESS, output=output)
    printed = _first(explain(execution(done), Facts()).steps, "output")
    assert printed.details["lines"][-1] == "line 999"
    assert (len(printed.details["lines"]), printed.details["count"]) == (200, 1000)
    assert "1000 lines, of which the last 200 follow" in printed.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 ms"), (0.0004, "0.4 ms"), (0.0123, "12 ms"), (3.21, "3.2 s"), (303, "5 min 3 s")],
)
def test_durations_are_written_as_people_read_them(seconds: float, text: str) -> None:
    assert span(seconds) == text
