"""The RPCs of `spearlet.FunctionService`, from message to message; no transport.

What a client of that service finds in an answer stays in the answer: a call that fails is an
answer whose `result` says so. An error is raised only where there is no answer to put it into.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from atlatl.engine.views import CancelAnswer
from atlatl.errors import (
    AtlatlError,
    Draining,
    ExecutionNotFound,
    InternalFailure,
    PermissionDenied,
    TaskNotFound,
    Unauthenticated,
)
from atlatl.front import codec, reports
from atlatl.front.auth import Grant, Scope
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.reach import filtered, touch, touch_target, visible_execution
from atlatl.front.reading import Reading
from atlatl.model import Call, Execution, Mode, OutcomeKind, Result

if TYPE_CHECKING:
    from atlatl.service import FunctionService

log = logging.getLogger(__name__)

Write = Callable[[pb.StreamExecutionResult], Awaitable[None]]

RECENT_EXECUTIONS = 10
"""Of GetTask, when the caller does not say how many."""

PAGE = 100


class Exchange(NamedTuple):
    """One request as it arrived, whichever the transport."""

    service: FunctionService
    headers: Mapping[str, str]
    """Of the transport; names in lower case."""
    grant: Grant
    """What the caller may do."""


# --- calls ---


async def invoke_function(
    exchange: Exchange, request: pb.InvokeFunctionRequest
) -> pb.InvokeFunctionResponse:
    """Runs a function.

    Raises:
        Unauthenticated, PermissionDenied: the caller may not create tasks.
        Draining: the service is shutting down.
    """
    execution_id = task_id = ""
    try:
        execution_id = codec.wanted_id(request) or exchange.service.new_execution_id()
        mode = codec.asked_mode(request)
        call = codec.call(request, mode, execution_id, exchange.headers)
        call, task_id = await _addressed(exchange, request, call)
        if mode is Mode.ASYNC:
            accepted = await exchange.service.accept(call)
            estimate_ms = exchange.service.estimated_completion_ms(call.task_name)
            return codec.accepted(accepted, estimate_ms)
        execution = await exchange.service.call(call)
    except (Unauthenticated, PermissionDenied, Draining):
        raise
    except AtlatlError as error:
        return codec.refused(error, execution_id, task_id)
    except Exception:
        log.exception("InvokeFunction failed, execution %s", execution_id)
        failure = InternalFailure("the service failed to run this call; its log says why")
        return codec.refused(failure, execution_id, task_id)
    _raise_if_draining(execution)
    return codec.invoked(execution)


async def _addressed(
    exchange: Exchange, request: pb.InvokeFunctionRequest, call: Call
) -> tuple[Call, str]:
    """The call with the name of its task, and the id of that."""
    target, grant = codec.target(request), exchange.grant
    touch_target(grant, exchange.service, target)
    if exchange.service.would_create(target):
        grant.require(Scope.DEPLOY)
    task = await exchange.service.task_for_invocation(target)
    grant.touch(task.name)
    return replace(call, task_name=task.name), task.task_id


def _raise_if_draining(execution: Execution) -> None:
    """Only with a status does a client, or a balancer, turn to another server by itself."""
    error = execution.outcome.error if execution.outcome else None
    if type(error) is Draining:
        # All refused calls share this one error; its traceback would grow with each of them.
        raise error.with_traceback(None)


async def stream_function(
    exchange: Exchange, request: pb.InvokeFunctionRequest, write: Write
) -> None:
    """Runs a function and writes its output, item by item; the last one says how it ended.

    Raises:
        AtlatlError: the call was refused, so nothing was written.
    """
    service = exchange.service
    execution_id = codec.wanted_id(request) or service.new_execution_id()
    call = codec.call(request, Mode.STREAM, execution_id, exchange.headers)
    call, _ = await _addressed(exchange, request, call)
    streamed = False
    with Reading(service, call) as reading:
        while isinstance(item := await reading.next(), Result):
            await write(codec.stream_item(execution_id, item))
            reading.sent()
            streamed = True
    if not streamed:
        _raise_if_refused(item)
    last = codec.stream_end(item, with_result=not streamed)
    with service.hold_answer(last.ByteSize()):
        await write(last)


def _raise_if_refused(execution: Execution) -> None:
    outcome = execution.outcome
    if outcome is None or outcome.error is None:
        return
    if outcome.kind in (OutcomeKind.REJECTED, OutcomeKind.INVALID):
        raise outcome.error


# --- executions ---


async def get_execution_status(
    exchange: Exchange, request: pb.GetExecutionStatusRequest
) -> pb.GetExecutionStatusResponse:
    try:
        execution = await visible_execution(exchange.grant, exchange.service, request.execution_id)
    except ExecutionNotFound as error:
        return pb.GetExecutionStatusResponse(found=False, message=error.message)
    return codec.execution_status(execution, include_logs=request.include_logs)


async def cancel_execution(
    exchange: Exchange, request: pb.CancelExecutionRequest
) -> pb.CancelExecutionResponse:
    if exchange.grant.limited:
        try:
            await visible_execution(exchange.grant, exchange.service, request.execution_id)
        except ExecutionNotFound as error:
            return codec.cancelled(CancelAnswer(success=False, message=error.message))
    answer = await exchange.service.cancel(
        request.execution_id, reason=request.reason, force=request.force
    )
    return codec.cancelled(answer)


async def list_executions(
    exchange: Exchange, request: pb.ListExecutionsRequest
) -> pb.ListExecutionsResponse:
    """Raises InvalidRequest: the limit is negative, or the cursor names nothing."""
    if request.task_id:
        touch(exchange.grant, exchange.service, request.task_id)
    page = await exchange.service.executions(
        task=request.task_id,
        status=codec.status_filter(request.status_filter),
        limit=codec.page_size("limit", request.limit, PAGE),
        start_after=request.start_after,
        **filtered(exchange.grant),
    )
    return codec.executions(page)


# --- tasks ---


async def list_tasks(exchange: Exchange, request: pb.ListTasksRequest) -> pb.ListTasksResponse:
    """Raises InvalidRequest: the limit is negative."""
    service = exchange.service
    page = service.tasks(
        prefix=request.prefix,
        limit=codec.page_size("limit", request.limit, PAGE),
        start_after=request.start_after,
        **filtered(exchange.grant),
    )
    views = [service.task_view(task) for task in page.items]
    return reports.tasks(views, page.next_start_after, details=request.include_details)


async def get_task(exchange: Exchange, request: pb.GetTaskRequest) -> pb.GetTaskResponse:
    """Raises InvalidRequest: the limit is negative."""
    service = exchange.service
    touch(exchange.grant, service, request.task_id)
    limit = codec.page_size("execution_limit", request.execution_limit, RECENT_EXECUTIONS)
    try:
        task = service.task(request.task_id)
    except TaskNotFound as error:
        return pb.GetTaskResponse(found=False, message=error.message)
    recent = []
    if request.include_executions:
        page = await service.executions(task=task.task_id, limit=limit)
        recent = page.items
    return pb.GetTaskResponse(
        found=True,
        task=reports.task_info(service.task_view(task), details=True),
        executions=[codec.execution_info(execution) for execution in recent],
        message="found",
    )


async def delete_task(exchange: Exchange, request: pb.DeleteTaskRequest) -> pb.DeleteTaskResponse:
    touch(exchange.grant, exchange.service, request.task_id)
    deletion = await exchange.service.delete_task(
        request.task_id, force=request.force, cleanup_executions=request.cleanup_executions
    )
    return reports.deleted(deletion)


# --- the service ---


async def get_health(exchange: Exchange, request: pb.GetHealthRequest) -> pb.GetHealthResponse:
    return reports.health(exchange.service.health())


async def get_stats(exchange: Exchange, request: pb.GetStatsRequest) -> pb.GetStatsResponse:
    """Raises InvalidRequest: the time range is negative."""
    exchange.grant.touch_all()
    hours = codec.not_negative("time_range_hours", request.time_range_hours)
    return reports.stats(
        exchange.service.stats(hours=hours),
        with_tasks=request.include_task_stats,
        with_executions=request.include_execution_stats,
    )
