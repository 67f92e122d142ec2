"""Calls and executions between the wire and the model: the only table of the two.

Pure functions. What comes in is checked here as far as the message alone tells. Reports on tasks
and on the service go out through `reports`, the values of parameters come in by `parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from atlatl.core.timeline import log_lines
from atlatl.engine.views import (
    ArtifactSpec,
    CancelAnswer,
    InvocationTarget,
    Page,
)
from atlatl.errors import AtlatlError, InvalidRequest, StreamModeNotSupported, UnknownExecutionMode
from atlatl.front.calls import deferral
from atlatl.front.parameters import payload, shown
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.trace_context import trace_context
from atlatl.model import (
    Call,
    Execution,
    ExecutionStatus,
    Mode,
    Result,
    check_execution_id,
    failed,
)

EXECUTION_DATA = "type.googleapis.com/spearlet.ExecutionData"
"""Marks raw bytes. There is no message of that name: clients read `value` as it is."""

MAX_VARIABLES = 1000
"""Of a call's environment; time grows with the square: 1000 cost 8 ms, 100 000 over a minute."""

_TYPES: dict[int, Literal["new", "existing"]] = {
    pb.INVOCATION_TYPE_NEW_TASK: "new",
    pb.INVOCATION_TYPE_EXISTING_TASK: "existing",
}
_MODES = {
    Mode.SYNC: pb.EXECUTION_MODE_SYNC,
    Mode.ASYNC: pb.EXECUTION_MODE_ASYNC,
    Mode.STREAM: pb.EXECUTION_MODE_STREAM,
}
STATUSES = {
    ExecutionStatus.PENDING: pb.EXECUTION_STATUS_PENDING,
    ExecutionStatus.RUNNING: pb.EXECUTION_STATUS_RUNNING,
    ExecutionStatus.COMPLETED: pb.EXECUTION_STATUS_COMPLETED,
    ExecutionStatus.FAILED: pb.EXECUTION_STATUS_FAILED,
    ExecutionStatus.CANCELLED: pb.EXECUTION_STATUS_CANCELLED,
    ExecutionStatus.TIMEOUT: pb.EXECUTION_STATUS_TIMEOUT,
}
_FILTERS: dict[int, ExecutionStatus] = {number: status for status, number in STATUSES.items()}


# --- in ---


def target(request: pb.InvokeFunctionRequest) -> InvocationTarget:
    """Which task the call is for, as the caller said it."""
    return InvocationTarget(
        invocation_type=_TYPES.get(request.invocation_type, "unknown"),
        task_name=request.task_name,
        task_description=request.task_description,
        task_id=request.task_id,
        create_if_not_exists=request.create_if_not_exists,
        spec=_spec_in(request.artifact_spec) if request.HasField("artifact_spec") else None,
    )


def _spec_in(spec: pb.ArtifactSpec) -> ArtifactSpec:
    return ArtifactSpec(
        artifact_id=spec.artifact_id,
        artifact_type=spec.artifact_type,
        location=spec.location,
        version=spec.version,
        checksum=spec.checksum,
        metadata=dict(spec.metadata),
    )


def asked_mode(request: pb.InvokeFunctionRequest) -> Mode:
    """SYNC or ASYNC, as InvokeFunction understands the request.

    Raises:
        StreamModeNotSupported: the caller wants a stream.
        UnknownExecutionMode: the caller states no mode that is known, and not `wait` either.
    """
    asked = request.execution_mode
    if asked == pb.EXECUTION_MODE_STREAM:
        raise StreamModeNotSupported("InvokeFunction answers once; call StreamFunction instead")
    if request.wait or asked == pb.EXECUTION_MODE_SYNC:
        return Mode.SYNC
    if asked == pb.EXECUTION_MODE_ASYNC:
        return Mode.ASYNC
    raise UnknownExecutionMode(
        "execution_mode is not stated: EXECUTION_MODE_SYNC (1) and EXECUTION_MODE_ASYNC (2) "
        "are possible"
    )


def wanted_id(request: pb.InvokeFunctionRequest) -> str:
    """The execution id that the caller wants; empty lets the service choose.

    Raises:
        InvalidRequest: no execution can have that id.
    """
    wanted = request.execution_id or request.context.execution_id
    return check_execution_id(wanted) if wanted else ""


def call(
    request: pb.InvokeFunctionRequest,
    mode: Mode,
    execution_id: str,
    transport_headers: Mapping[str, str],
) -> Call:
    """The call, still without the name of its task.

    Args:
        request: as it came.
        mode: how it is to run.
        execution_id: the caller's or a new one.
        transport_headers: names in lower case; a trace context in the message goes before
            theirs.

    Raises:
        InvalidRequest: a parameter, a limit, a header or the environment is impossible.
    """
    context = request.context
    headers = {name.lower(): value for name, value in context.headers.items()}
    return Call(
        execution_id=execution_id,
        task_name="",
        payload=payload(request.parameters),
        function=request.function_name,
        mode=mode,
        timeout_ms=not_negative("context.timeout_ms", context.timeout_ms),
        max_retries=_max_retries(request),
        force_new_instance=request.force_new_instance,
        id_given=bool(request.execution_id or context.execution_id),
        headers=headers,
        environment=_environment(context.environment),
        metadata=_labels(request),
        **deferral(headers, mode),
        **trace_context(headers if "traceparent" in headers else transport_headers),
    )


def not_negative(field: str, value: int) -> int:
    if value < 0:
        raise InvalidRequest(f"`{field}` must be 0 or more, it is {value}")
    return value


def _max_retries(request: pb.InvokeFunctionRequest) -> int | None:
    """A context says how many, 0 is none; without one the task's own setting holds."""
    if not request.HasField("context"):
        return None
    return not_negative("context.max_retries", request.context.max_retries)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    if len(variables) > MAX_VARIABLES:
        raise InvalidRequest(f"`context.environment` may have {MAX_VARIABLES} variables at most")
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidRequest(
                f"environment variable {shown(name)} is refused: a name is not empty and has "
                "no `=`, and neither name nor value has a NUL"
            )
    return dict(variables)


def _labels(request: pb.InvokeFunctionRequest) -> dict[str, str]:
    """The caller's labels; session and user, where stated, are kept beside them."""
    context = request.context
    labels = {"session_id": context.session_id, "user_id": context.user_id}
    return {k: v for k, v in labels.items() if v} | dict(request.invocation_metadata)


def status_filter(number: int) -> ExecutionStatus | None:
    """None, for 0 and for unknown numbers, is no filter."""
    return _FILTERS.get(number)


def page_size(field: str, wanted: int, default: int) -> int:
    """At most 1000; 0 is the default.

    Raises:
        InvalidRequest: it is negative.
    """
    return min(not_negative(field, wanted) or default, 1000)


# --- out ---


def invoked(execution: Execution) -> pb.InvokeFunctionResponse:
    """The answer to a call that has ended."""
    outcome = execution.outcome
    error = outcome.error if outcome else None
    return pb.InvokeFunctionResponse(
        success=execution.status is ExecutionStatus.COMPLETED,
        message=text(error.message) if error else "completed",
        execution_id=execution.execution_id,
        task_id=execution.task_id,
        instance_id=execution.instance_id,
        result=execution_result(execution),
    )


def accepted(execution: Execution, estimate_ms: int) -> pb.InvokeFunctionResponse:
    """The answer to an asynchronous call: where to look for its end.

    Args:
        execution: the record; of the first one under the id, which may have ended.
        estimate_ms: how long an execution of its task takes.
    """
    answer = invoked(execution)
    answer.status_endpoint = f"/api/v1/executions/{quote(execution.execution_id, safe='')}/status"
    if not execution.status.terminal:
        answer.success = True
        answer.message = "accepted"
        answer.estimated_completion_ms = estimate_ms
    return answer


def refused(error: AtlatlError, execution_id: str, task_id: str) -> pb.InvokeFunctionResponse:
    """The answer to a call that never became an execution."""
    result = pb.ExecutionResult(
        status=STATUSES[failed(error).status],
        error_message=text(error.message),
        error_code=error.code,
        metrics=_hint(error),
    )
    return pb.InvokeFunctionResponse(
        success=False,
        message=text(error.message),
        execution_id=execution_id,
        task_id=task_id,
        result=result,
    )


def execution_result(execution: Execution) -> pb.ExecutionResult:
    outcome = execution.outcome
    message = pb.ExecutionResult(
        status=STATUSES[execution.status],
        metrics=_metrics(execution),
        started_at=_started_at(execution),
        completed_at=_timestamp(execution.completed_at),
    )
    if outcome is None:
        return message
    message.execution_time_ms = round(outcome.run_s * 1000)
    message.memory_used_bytes = outcome.memory_bytes
    if outcome.result is not None:
        message.result.CopyFrom(raw(outcome.result))
    if outcome.error is not None:
        message.error_message = text(outcome.error.message)
        message.error_code = outcome.error.code
    return message


def _metrics(execution: Execution) -> dict[str, str]:
    metrics = {
        "attempt": str(execution.attempt),
        "cold_start": "1" if execution.cold_start else "0",
        "queue_time_ms": str(round(execution.queue_s * 1000)),
    }
    outcome = execution.outcome
    if outcome is not None and outcome.result is not None:
        metrics["content_type"] = text(outcome.result.content_type)
    if outcome is not None and outcome.error is not None:
        metrics |= _hint(outcome.error)
    return metrics


def _hint(error: AtlatlError) -> dict[str, str]:
    """When to try again, where that is known."""
    if error.retry_after_s is None:
        return {}
    return {"retry_after_ms": str(max(1, round(error.retry_after_s * 1000)))}


def raw(result: Result) -> AnyMessage:
    return AnyMessage(type_url=EXECUTION_DATA, value=result.body)


def execution_status(execution: Execution, *, include_logs: bool) -> pb.GetExecutionStatusResponse:
    output = execution.outcome.output if include_logs and execution.outcome else b""
    return pb.GetExecutionStatusResponse(
        found=True,
        result=execution_result(execution),
        logs=log_lines(output),
        message=execution.status.value.lower(),
    )


def execution_info(execution: Execution) -> pb.ExecutionInfo:
    outcome = execution.outcome
    error = outcome.error if outcome else None
    return pb.ExecutionInfo(
        execution_id=execution.execution_id,
        task_id=execution.task_id,
        function_name=text(execution.function_name),
        execution_mode=_MODES[execution.mode],
        status=STATUSES[execution.status],
        started_at=_started_at(execution),
        completed_at=_timestamp(execution.completed_at),
        execution_time_ms=round(outcome.run_s * 1000) if outcome else 0,
        memory_used_bytes=outcome.memory_bytes if outcome else 0,
        error_message=text(error.message) if error else "",
        metadata=texts(execution.metadata),
    )


def executions(page: Page[Execution]) -> pb.ListExecutionsResponse:
    return pb.ListExecutionsResponse(
        executions=[execution_info(execution) for execution in page.items],
        has_more=page.next_start_after is not None,
        next_start_after=page.next_start_after or "",
    )


def cancelled(answer: CancelAnswer) -> pb.CancelExecutionResponse:
    status = answer.final_status
    return pb.CancelExecutionResponse(
        success=answer.success,
        message=text(answer.message),
        final_status=STATUSES[status] if status else pb.EXECUTION_STATUS_UNKNOWN,
    )


def stream_item(execution_id: str, chunk: Result) -> pb.StreamExecutionResult:
    return pb.StreamExecutionResult(
        execution_id=execution_id,
        status=pb.EXECUTION_STATUS_RUNNING,
        chunk_data=raw(chunk),
        metadata={"content_type": text(chunk.content_type)},
    )


def stream_end(execution: Execution, *, with_result: bool) -> pb.StreamExecutionResult:
    """The last item of a stream.

    Args:
        execution: as it ended.
        with_result: nothing was streamed before, so the result is the one piece of data.
    """
    outcome = execution.outcome
    item = pb.StreamExecutionResult(
        execution_id=execution.execution_id,
        status=STATUSES[execution.status],
        is_final=True,
        metadata=_metrics(execution),
    )
    if with_result and outcome is not None and outcome.result is not None:
        item.chunk_data.CopyFrom(raw(outcome.result))
    if outcome is not None and outcome.error is not None:
        item.error_message = text(outcome.error.message)
        item.metadata["error_code"] = outcome.error.code
    return item


# --- the small change ---


def text(anything: str) -> str:
    """A text that UTF-8 can hold: lone surrogates, which Python allows, become `?`."""
    return anything.encode("utf-8", "replace").decode()


def texts(labels: Mapping[str, str]) -> dict[str, str]:
    return {text(key): text(value) for key, value in labels.items()}


def _started_at(execution: Execution) -> Timestamp | None:
    """What has not begun shows when it was accepted: clients expect the field to be set."""
    return _timestamp(execution.started_at or execution.queued_at or None)


def _timestamp(at: float | None) -> Timestamp | None:
    if at is None:
        return None
    seconds, rest = divmod(at, 1.0)
    return Timestamp(seconds=int(seconds), nanos=int(rest * 1e9))
