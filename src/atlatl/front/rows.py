"""The domain's objects as the JSON objects of the management API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from atlatl.core.timeline import Explanation
from atlatl.engine.views import BreakerView, Deployment, InstanceView, PoolView, TaskView
from atlatl.model import DeadLetter, Execution, Task

Row = dict[str, Any]


def timestamp(at: float | None) -> str | None:
    """Unix seconds as RFC 3339 in UTC; None stays None."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def execution_row(execution: Execution) -> Row:
    """The record of an execution, without its output."""
    outcome = execution.outcome
    error = outcome.error if outcome else None
    began = execution.started_at is not None
    return {
        "execution_id": execution.execution_id,
        "task_id": execution.task_id,
        "task_name": execution.task_name,
        "function_name": execution.function_name,
        "mode": execution.mode.value,
        "status": execution.status.value,
        "outcome": outcome.kind.value if outcome else None,
        "attempt": execution.attempt,
        "error_code": error.code if error else None,
        "error_message": error.message if error else None,
        "queued_at": timestamp(execution.queued_at),
        "started_at": timestamp(execution.started_at),
        "completed_at": timestamp(execution.completed_at),
        "execution_time_ms": outcome.run_s * 1000 if outcome else None,
        "queue_time_ms": execution.queue_s * 1000 if began else None,
        "memory_used_bytes": outcome.memory_bytes if outcome else None,
        "instance_id": execution.instance_id or (outcome.instance_id if outcome else ""),
        "version": execution.version,
        "cold_start": execution.cold_start,
        "trace_id": execution.trace_id,
        "metadata": execution.metadata,
    }


def explanation_row(explanation: Explanation) -> Row:
    """The timeline of an execution; `after_ms` counts from its acceptance."""
    execution = explanation.execution
    return {
        "execution_id": execution.execution_id,
        "task_name": execution.task_name,
        "status": execution.status.value,
        "summary": explanation.summary,
        "steps": [
            {
                "at": timestamp(step.at),
                "after_ms": round((step.at - execution.queued_at) * 1000, 3),
                "kind": step.kind,
                "text": step.text,
                "details": step.details,
            }
            for step in explanation.steps
        ],
    }


def dead_letter_row(letter: DeadLetter) -> Row:
    """The record of an execution that failed for good, and when it was given up."""
    return {
        **execution_row(letter.execution),
        "attempts": letter.execution.attempt,
        "died_at": timestamp(letter.died_at),
    }


def task_row(view: TaskView) -> Row:
    """A task as it stands now."""
    task = view.task
    artifact = task.artifact
    return {
        "task_id": task.task_id,
        "task_name": task.name,
        "version": task.version,
        "state": view.state.value,
        "description": task.settings.description,
        "labels": task.settings.labels,
        "handler": task.handler,
        "functions": [_function(task, name) for name in sorted(task.shapes)],
        "artifact": {
            "artifact_id": artifact.artifact_id,
            "artifact_type": artifact.artifact_type,
            "version": artifact.version,
            "checksum": artifact.checksum,
            "filename": artifact.filename,
            "size_bytes": artifact.size_bytes,
        },
        "settings": _shown(task.overrides),
        "created_by_call": task.created_by_call,
        "created_at": timestamp(task.created_at),
        "updated_at": timestamp(task.updated_at),
        "execution_count": view.execution_count,
        "last_status": view.last_status.value if view.last_status else None,
        "instances": view.instances,
    }


def _function(task: Task, name: str) -> Row:
    shape = task.shapes[name]
    return {
        "name": name,
        "kind": shape.kind,
        "streams": shape.streams,
        "is_async": shape.is_async,
        "parameters": [
            {"name": each.name, "type": each.annotation, "required": each.required}
            for each in shape.parameters
        ],
    }


def _shown(overrides: dict[str, Any]) -> dict[str, Any]:
    """The settings of a deploy; of `env` the names alone, because its values are often secrets."""
    env = overrides.get("env")
    return {**overrides, "env": dict.fromkeys(env, "***")} if env else overrides


def deployment_row(deployment: Deployment, view: TaskView) -> Row:
    return {
        **task_row(view),
        "created": deployment.created,
        "changed": deployment.changed,
        "log": deployment.log,
    }


def instance_row(view: InstanceView) -> Row:
    return {**msgspec.structs.asdict(view), "state": view.state.value}


def pool_row(view: PoolView) -> Row:
    row: Row = msgspec.to_builtins(view)
    return row


def breaker_row(view: BreakerView) -> Row:
    return {
        **msgspec.structs.asdict(view),
        "last_failure_at": timestamp(view.last_failure_at),
        "last_state_change_at": timestamp(view.last_state_change_at),
    }
