"""The life of one execution as a timeline, out of its record and of what else is known of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from atlatl.core.timeline import Explanation, Facts, Step, count, log_lines, span
from atlatl.errors import CircuitOpenError
from atlatl.events import BreakerChanged, CallbackTried, ExecutionDied
from atlatl.model import (
    Execution,
    ExecutionStatus,
    Mode,
    Outcome,
    OutcomeKind,
    Tried,
    Way,
)

MAX_LINES = 200
"""Lines of output in a timeline; of more the last ones."""

_ORIGINS = {
    "blank": "a process that stood ready",
    "fork": "a process forked for it, for none stood ready",
    "task_zygote": "a fork of the task's own zygote, which has imported the code",
}


def explain(execution: Execution, facts: Facts) -> Explanation:
    """What happened to an execution, step by step."""
    steps = [
        _accepted(execution),
        *_attempts_before(execution),
        *_taken(execution),
        *_admission(execution),
        *_waiting(execution),
        *_instance(execution, facts),
        *_run(execution),
        *_meanwhile(execution, facts),
        *_end(execution),
        *_output(execution),
        *_aftermath(facts),
        *_now(execution, facts),
    ]
    # Those of the same moment stay in the order in which they are named above.
    steps.sort(key=lambda step: step.at)
    return Explanation(execution=execution, summary=_summary(execution), steps=tuple(steps))


# --- the parts of a life, in their order ---


def _accepted(execution: Execution) -> Step:
    of = f"task {execution.task_name!r}"
    if execution.function_name:
        of += f", function {execution.function_name!r}"
    if execution.mode is Mode.ASYNC:
        text = f"accepted and stored ({of}); it waits in the durable queue"
    else:
        text = f"accepted ({of})"
    details = {"mode": execution.mode.value, "version": execution.version}
    if execution.trace_id:
        details["trace_id"] = execution.trace_id
    return Step(at=execution.queued_at, kind="accepted", text=text, details=details)


def _attempts_before(execution: Execution) -> Iterator[Step]:
    for tried in execution.tried:
        yield _failed_attempt(tried)
    unknown = execution.attempt - 1 - len(execution.tried)
    if unknown > 0:
        text = (
            f"{count(unknown, 'attempt')} before this one ended in a way that is not kept: the "
            "service ended in the middle, a dead letter was redriven, or there were very many"
        )
        at = execution.queued_at
        yield Step(at=at, kind="attempts_unknown", text=text, details={"count": unknown})


def _failed_attempt(tried: Tried) -> Step:
    on = f" on instance {tried.instance_id}" if tried.instance_id else ""
    if tried.recovered:
        follows = "the service ended in the middle; it goes on in its next life"
    else:
        follows = f"tried again in {span(tried.retry_in_s)}"
    return Step(
        at=tried.ended_at,
        kind="attempt_failed",
        text=f"attempt {tried.attempt}{on} failed after {span(tried.run_s)}: {tried.code}: "
        f"{tried.message}; {follows}",
        details={
            "attempt": tried.attempt,
            "error_code": tried.code,
            "error_message": tried.message,
            "instance_id": tried.instance_id,
            "execution_time_ms": tried.run_s * 1000,
            "retry_in_ms": tried.retry_in_s * 1000,
            "recovered": tried.recovered,
        },
    )


def _taken(execution: Execution) -> Iterator[Step]:
    if execution.mode is not Mode.ASYNC or not _began(execution):
        return
    at = _asked_at(execution)
    text = f"taken from the queue {span(at - execution.queued_at)} after it was accepted"
    details = {"after_ms": (at - execution.queued_at) * 1000, "attempt": execution.attempt}
    yield Step(at=at, kind="taken", text=text, details=details)


def _began(execution: Execution) -> bool:
    """Whether the latest attempt got an instance; `started_at` may be of the one before."""
    return execution.started_at is not None and bool(execution.instance_id)


def _was_refused(execution: Execution) -> bool:
    """Whether the latest attempt was refused, so that it ended as the one before it had."""
    error = execution.outcome.error if execution.outcome is not None else None
    if error is None or not execution.tried or _began(execution):
        return False
    last = execution.tried[-1]
    return error.code == last.code and error.message.startswith(last.message)


def _admission(execution: Execution) -> Iterator[Step]:
    if _was_refused(execution):
        text = (
            f"attempt {execution.attempt} was not begun, for example because the circuit breaker "
            "had opened; it ends as the attempt before did"
        )
        at = execution.completed_at or _asked_at(execution)
        yield Step(at=at, kind="refused", text=text, details={"attempt": execution.attempt})
        return
    error = execution.outcome.error if execution.outcome is not None else None
    at = _asked_at(execution)
    if isinstance(error, CircuitOpenError) and execution.started_at is None:
        details: dict[str, Any] = {"state": "open"}
        if error.retry_after_s is not None:
            details["retry_after_s"] = error.retry_after_s
        text = "the circuit breaker of the task is open: refused without running"
        yield Step(at=at, kind="breaker", text=text, details=details)
    elif execution.way is not None and execution.way.probe:
        text = "the circuit breaker is half-open: this call is its probe"
        yield Step(at=at, kind="breaker", text=text, details={"state": "half-open"})
    elif execution.started_at is not None or execution.way is not None:
        text = "the circuit breaker admits it"
        yield Step(at=at, kind="breaker", text=text, details={"state": "closed"})


def _asked_at(execution: Execution) -> float:
    """When the last attempt asked for an instance."""
    way, began = execution.way, execution.started_at
    if began is not None and _began(execution):
        return max(execution.queued_at, began - (0.0 if way is None else way.waited_s))
    if execution.tried:
        last = execution.tried[-1]
        asked = last.ended_at + last.retry_in_s
    else:
        asked = execution.queued_at
    if execution.completed_at is None:
        return asked
    return min(asked, execution.completed_at)


def _waiting(execution: Execution) -> Iterator[Step]:
    way = execution.way
    if way is None or not (way.waited_s or way.waiting or not way.uses):
        return
    ahead = f"{count(way.waiting, 'call')} waited before it" if way.waiting else "nobody waited"
    text = (
        f"no instance was free: {ahead}, {count(way.lent, 'call')} ran on "
        f"{count(way.size, 'instance')} (those that were starting included)"
    )
    details = {
        "waiting": way.waiting,
        "running": way.lent,
        "instances": way.size,
        "waited_ms": way.waited_s * 1000,
    }
    yield Step(at=_asked_at(execution), kind="waits", text=text, details=details)


def _instance(execution: Execution, facts: Facts) -> Iterator[Step]:
    began, instance_id = execution.started_at, execution.instance_id
    if began is None or not _began(execution):
        return
    way, known = execution.way or Way(), facts.instance
    origin = way.origin or (known.origin if known is not None else "")
    policy = way.policy or facts.policy
    details: dict[str, Any] = {
        "instance_id": instance_id,
        "policy": policy,
        "origin": origin,
        "cold_start": execution.cold_start,
    }
    if execution.cold_start and way.init_s:
        yield _cold_start(execution, way, origin)
    waited = f" after {span(way.waited_s)}" if way.waited_s else ""
    text = f"got instance {instance_id}{waited}"
    if way.uses:
        details["uses"] = way.uses
    if execution.cold_start:
        text += ": cold, its first call"
    else:
        text += f": warm, its call number {way.uses}" if way.uses else ": warm"
        text += f", picked by the policy {policy}" if policy else ""
        text += f", origin {origin}" if origin else ""
    if known is not None:
        details["pid"] = known.pid
    yield Step(at=began, kind="instance", text=text, details=details)


def _cold_start(execution: Execution, way: Way, origin: str) -> Step:
    began = execution.started_at or execution.queued_at
    ready_at = _asked_at(execution) - way.spare_s if way.spare_s else began
    code_s = max(0.0, way.init_s - way.process_s)
    what = _ORIGINS.get(origin, f"origin {origin}" if origin else "a new process")
    text = (
        f"cold start, {span(way.init_s)}: {what} ({span(way.process_s)}), then the code was "
        f"loaded ({span(code_s)})"
    )
    if way.spare_s:
        text += f"; it had been ready for {span(way.spare_s)}"
    return Step(
        at=max(ready_at, execution.queued_at),
        kind="cold_start",
        text=text,
        details={
            "origin": origin,
            "init_ms": way.init_s * 1000,
            "process_ms": way.process_s * 1000,
            "load_ms": code_s * 1000,
            "ready_before_ms": way.spare_s * 1000,
        },
    )


def _run(execution: Execution) -> Iterator[Step]:
    if execution.started_at is None or not _began(execution):
        return
    attempt = f", attempt {execution.attempt}" if execution.attempt > 1 else ""
    yield Step(
        at=execution.started_at,
        kind="runs",
        text=f"runs version {execution.version}{attempt}",
        details={"attempt": execution.attempt, "version": execution.version},
    )


def _meanwhile(execution: Execution, facts: Facts) -> Iterator[Step]:
    """What happened to its breaker and its instance."""
    for change in facts.changes:
        if isinstance(change, BreakerChanged):
            text = f"the circuit breaker of the task goes from {change.old} to {change.new}"
            details: dict[str, Any] = {"old": change.old, "new": change.new}
            yield Step(at=change.at, kind="breaker_changed", text=text, details=details)
        elif execution.started_at is None or change.at <= execution.started_at:
            text = f"an instance could not be started: {change.reason}"
            yield Step(
                at=change.at, kind="start_failed", text=text, details={"reason": change.reason}
            )
    ended = facts.instance_ended
    if ended is not None:
        text = f"instance {ended.instance_id} ended: {ended.reason or 'no longer wanted'}"
        details = {"reason": ended.reason, "expected": ended.expected}
        yield Step(at=ended.at, kind="instance_ended", text=text, details=details)


def _end(execution: Execution) -> Iterator[Step]:
    outcome, at = execution.outcome, execution.completed_at
    if outcome is None or at is None:
        return
    details: dict[str, Any] = {"status": execution.status.value, "outcome": outcome.kind.value}
    if execution.started_at is not None:
        details["execution_time_ms"] = outcome.run_s * 1000
    if outcome.memory_bytes:
        details["memory_used_bytes"] = outcome.memory_bytes
    error = outcome.error
    if error is not None:
        details["error_code"] = error.code
        details["error_message"] = error.message
        details["retryable"] = error.retryable
        if error.detail:
            details["traceback"] = error.detail
    yield Step(at=at, kind="ended", text=_how(execution, outcome), details=details)


def _how(execution: Execution, outcome: Outcome) -> str:
    error = outcome.error
    if error is None:
        return f"{execution.status.value}: ran {span(outcome.run_s)}"
    ran = ""
    if execution.started_at is None:
        ran = "" if execution.tried else "; the function never ran"
    elif outcome.run_s:
        ran = f"; it had run {span(outcome.run_s)}"
    return f"{execution.status.value} with {error.code}: {error.message}{ran}"


def _output(execution: Execution) -> Iterator[Step]:
    outcome = execution.outcome
    if outcome is None or not outcome.output:
        return
    lines = log_lines(outcome.output)
    shown = lines[-MAX_LINES:]
    left = f", of which the last {len(shown)} follow" if len(shown) < len(lines) else ""
    yield Step(
        at=execution.completed_at or execution.queued_at,
        kind="output",
        text=f"it printed {count(len(lines), 'line')}{left}",
        details={"lines": shown, "count": len(lines)},
    )


def _aftermath(facts: Facts) -> Iterator[Step]:
    for event in facts.happened:
        if isinstance(event, ExecutionDied):
            text = f"a dead letter after {count(event.attempts, 'attempt')}; it can be redriven"
            details: dict[str, Any] = {"attempts": event.attempts, "error_code": event.code}
            yield Step(at=event.at, kind="died", text=text, details=details)
        elif isinstance(event, CallbackTried):
            text = f"callback, try {event.tries}: "
            text += f"failed: {event.failure}" if event.failure else "the receiver was told"
            text += "; given up" if event.given_up else ""
            details = {
                "tries": event.tries,
                "failure": event.failure,
                "given_up": event.given_up,
            }
            yield Step(at=event.at, kind="callback", text=text, details=details)


def _now(execution: Execution, facts: Facts) -> Iterator[Step]:
    """Where it stands, if it has not ended."""
    if execution.status.terminal:
        return
    details: dict[str, Any] = {**facts.pool}
    if facts.breaker:
        details["breaker"] = facts.breaker
    if execution.status is ExecutionStatus.RUNNING and execution.started_at is not None:
        text = f"has run for {span(facts.now - execution.started_at)}"
    else:
        text = f"has waited for {span(facts.now - execution.queued_at)}"
        if facts.breaker in ("open", "half-open"):
            text += f"; the circuit breaker of the task is {facts.breaker}"
        elif facts.pool:
            text += (
                f"; {count(facts.pool.get('waiting', 0), 'call')} of the task wait, "
                f"{facts.pool.get('in_use', 0)} of {facts.pool.get('total', 0)} instances work"
            )
    if facts.limit_s is not None:
        text += f"; it is ended {span(facts.limit_s)} after it was accepted"
        details["limit_ms"] = facts.limit_s * 1000
    yield Step(at=max(facts.now, execution.queued_at), kind="now", text=text, details=details)


# --- in words ---


def _summary(execution: Execution) -> str:
    """The whole life in one line: how it ended and why."""
    outcome = execution.outcome
    of = f"execution of {execution.task_name!r}"
    if outcome is None:
        return f"{of}: {execution.status.value}, attempt {execution.attempt}"
    number = execution.attempt - _was_refused(execution)
    attempts = f" in attempt {number}" if number > 1 else ""
    if outcome.kind is OutcomeKind.SUCCESS:
        waited = f", waited {span(execution.queue_s)}" if execution.queue_s >= 0.001 else ""
        cold = ", cold start" if execution.cold_start else ""
        return f"{of}: COMPLETED{attempts}, ran {span(outcome.run_s)}{waited}{cold}"
    return f"{of}: {_how(execution, outcome)}{attempts}"
