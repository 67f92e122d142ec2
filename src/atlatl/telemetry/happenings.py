"""Events as the plain members of a JSON object."""

from __future__ import annotations

from typing import Any

import msgspec

from atlatl.events import CallbackTried, Event, ExecutionFinished
from atlatl.telemetry.logs import without_secrets

MAX_TEXT = 500
"""Characters of an error or a reason."""


def fields_of(event: Event) -> dict[str, Any]:
    """What the kind of event has besides `at` and `task_name`."""
    if isinstance(event, ExecutionFinished):
        return _of_end(event)
    fields = msgspec.structs.asdict(event)
    del fields["at"], fields["task_name"]
    if isinstance(event, CallbackTried):
        fields["failure"] = without_secrets(event.failure)
    return {
        name: value[:MAX_TEXT] if isinstance(value, str) else value
        for name, value in fields.items()
    }


def _of_end(event: ExecutionFinished) -> dict[str, Any]:
    execution = event.execution
    outcome = execution.outcome
    error = outcome.error if outcome is not None else None
    return {
        "execution_id": execution.execution_id,
        "function_name": execution.function_name,
        "mode": execution.mode.value,
        "status": execution.status.value,
        "outcome": outcome.kind.value if outcome is not None else None,
        "error_code": error.code if error is not None else None,
        "error_message": error.message[:MAX_TEXT] if error is not None else None,
        "attempt": execution.attempt,
        "version": execution.version,
        "instance_id": execution.instance_id,
        "cold_start": execution.cold_start,
        "latency_ms": event.latency_s * 1000,
        "execution_time_ms": outcome.run_s * 1000 if outcome is not None else None,
        "queue_time_ms": execution.queue_s * 1000,
        "trace_id": execution.trace_id,
    }
