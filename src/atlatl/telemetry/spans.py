"""What happened to traced calls, as spans: the execution, and in it queue, start and run.

Names and attributes follow OpenTelemetry's conventions for functions (FaaS) where they have one.
"""

from __future__ import annotations

from typing import Any

from atlatl.core.tracing import (
    EXECUTION,
    QUEUE,
    START,
    TraceContext,
    is_root,
    run_part,
    sampled,
    span_id,
)
from atlatl.events import (
    AttemptFailed,
    CallbackTried,
    CallRefused,
    CallRetried,
    ExecutionFinished,
    InstanceStarted,
)
from atlatl.model import Execution, Mode, Record
from atlatl.telemetry.logs import MAX_TEXT, without_secrets

Traced = ExecutionFinished | AttemptFailed | CallRetried | CallRefused | CallbackTried
"""Events that spans are made of."""

SERVER, CONSUMER, CLIENT, INTERNAL = "SERVER", "CONSUMER", "CLIENT", "INTERNAL"


class Span(Record, frozen=True):
    """One span that has ended; times are Unix seconds."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first of a trace."""
    name: str
    kind: str
    began: float
    ended: float
    flags: str = "01"
    remote_parent: bool = False
    attributes: dict[str, Any] = {}
    error: str = ""
    """Empty when it went well."""


def spans_of(event: Traced, start: InstanceStarted | None = None) -> list[Span]:
    """The spans that an event ends; none when its call is not traced.

    Args:
        event: of a call.
        start: of the instance that ran it, when it was a cold start and that is known.
    """
    context = sampled(event.traceparent)
    if context is None:
        return []
    match event:
        case ExecutionFinished():
            return _of_end(event, context, start)
        case CallRefused():
            return [_refusal(event, context)]
        case CallbackTried():
            return [_callback(event, context)]
        case AttemptFailed() | CallRetried():
            return _of_attempt(event, context)


def _of_end(
    event: ExecutionFinished, context: TraceContext, start: InstanceStarted | None
) -> list[Span]:
    execution = event.execution
    ended = execution.completed_at or event.at
    # Without an instance it is that of an attempt before.
    began = execution.started_at if execution.instance_id else None
    error = _error(execution)
    code = execution.outcome.error.code if execution.outcome and execution.outcome.error else ""
    # One that was redriven has ended before, and its first end has a span.
    again = f" {execution.attempt}" if event.redriven else ""
    whole = Span(
        trace_id=context.trace_id,
        span_id=span_id(context, execution.execution_id, EXECUTION + again),
        parent_id="" if is_root(context) else context.parent_id,
        remote_parent=True,
        name=event.task_name,
        kind=CONSUMER if execution.mode is Mode.ASYNC else SERVER,
        began=execution.queued_at,
        ended=ended,
        flags=context.flags,
        attributes=_about(execution, code),
        error=error,
    )
    spans = [whole]
    if execution.attempt == 1:
        until = ended if began is None else began
        spans.append(_part(whole, context, execution, QUEUE, "queue", whole.began, until))
    if start is not None and began is not None:
        spans += _start(whole, context, execution, start, began)
    if began is not None:
        run_s = execution.outcome.run_s if execution.outcome else 0.0
        until = min(ended, began + run_s) if run_s else ended
        part = run_part(execution.attempt)
        about = {"atlatl.attempt": execution.attempt}
        spans.append(
            _part(whole, context, execution, part, "run", began, until, error=error, about=about)
        )
    return spans


def _start(
    whole: Span,
    context: TraceContext,
    execution: Execution,
    start: InstanceStarted,
    until: float,
) -> list[Span]:
    """The part of an instance's start that the call waited for; an earlier one is no part of it."""
    began, ended = max(whole.began, start.at - start.init_s), min(start.at, until)
    if ended <= began:
        return []
    about = {
        "faas.instance": start.instance_id,
        "atlatl.origin": start.origin,
        "atlatl.init_ms": start.init_s * 1000,
    }
    return [_part(whole, context, execution, START, "start", began, ended, about=about)]


def _part(
    whole: Span,
    context: TraceContext,
    execution: Execution,
    part: str,
    name: str,
    began: float,
    ended: float,
    *,
    error: str = "",
    about: dict[str, Any] | None = None,
) -> Span:
    return Span(
        trace_id=context.trace_id,
        span_id=span_id(context, execution.execution_id, part),
        parent_id=whole.span_id,
        name=name,
        kind=INTERNAL,
        began=began,
        ended=max(began, ended),
        flags=context.flags,
        attributes=about or {},
        error=error,
    )


def _about(execution: Execution, code: str) -> dict[str, Any]:
    about: dict[str, Any] = {
        "faas.name": execution.task_name,
        "faas.version": str(execution.version),
        "faas.invocation_id": execution.execution_id,
        "faas.coldstart": execution.cold_start,
        "faas.instance": execution.instance_id,
        "atlatl.function": execution.function_name,
        "atlatl.mode": execution.mode.value.lower(),
        "atlatl.attempt": execution.attempt,
    }
    if code:
        about["error.type"] = code
    return {name: value for name, value in about.items() if value != ""}


def _error(execution: Execution) -> str:
    if execution.outcome is None or execution.outcome.error is None:
        return ""
    error = execution.outcome.error
    return (error.message or error.code)[:MAX_TEXT]


def _of_attempt(event: AttemptFailed | CallRetried, context: TraceContext) -> list[Span]:
    """An attempt that another one follows; the span that they are in ends with the last one."""
    whole = span_id(context, event.execution_id, EXECUTION)

    def part(what: str, name: str, began: float, ended: float, **more: Any) -> Span:
        return Span(
            trace_id=context.trace_id,
            span_id=span_id(context, event.execution_id, what),
            parent_id=whole,
            name=name,
            kind=INTERNAL,
            began=began,
            ended=max(began, ended),
            flags=context.flags,
            **more,
        )

    began = event.started_at
    if began is None:
        return []
    spans = []
    if event.attempt == 1:
        spans.append(part(QUEUE, "queue", event.queued_at, began))
    about = {"atlatl.attempt": event.attempt, "error.type": event.code}
    run = part(run_part(event.attempt), "run", began, event.at, attributes=about, error=event.code)
    return [*spans, run]


def _refusal(event: CallRefused, context: TraceContext) -> Span:
    about = {"faas.invocation_id": event.execution_id, "error.type": event.code}
    if event.task_name:
        about["faas.name"] = event.task_name
    return Span(
        trace_id=context.trace_id,
        span_id=span_id(context, event.execution_id, EXECUTION),
        parent_id="" if is_root(context) else context.parent_id,
        remote_parent=True,
        name=event.task_name or "unknown task",
        kind=SERVER,
        began=event.at,
        ended=event.at,
        flags=context.flags,
        attributes=about,
        error=event.code,
    )


def _callback(event: CallbackTried, context: TraceContext) -> Span:
    return Span(
        trace_id=context.trace_id,
        span_id=event.span_id,
        parent_id=span_id(context, event.execution_id, EXECUTION),
        name="callback",
        kind=CLIENT,
        began=event.at - event.took_s,
        ended=event.at,
        flags=context.flags,
        attributes={"faas.invocation_id": event.execution_id, "atlatl.tries": event.tries},
        error=without_secrets(event.failure)[:MAX_TEXT],
    )
