"""Reading and cancelling executions over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from atlatl.core.timeline import log_lines
from atlatl.errors import ExecutionNotFound, InvalidRequest
from atlatl.front import codec
from atlatl.front.answers import (
    bounded,
    json_answer,
    page_parameters,
    read_json,
    text_parameter,
    unless_gone,
    wait_parameter,
)
from atlatl.front.auth import Scope
from atlatl.front.outcomes import answer
from atlatl.front.proto_json import to_json
from atlatl.front.reach import Reach, filtered, grant_of, touch
from atlatl.front.routes import Endpoint
from atlatl.front.rows import execution_row, explanation_row
from atlatl.model import Execution, ExecutionStatus, Mode

if TYPE_CHECKING:
    from atlatl.service import FunctionService

MAX_CANCEL_BYTES = 65_536


_RESULTS = {"202": ["application/json"], "default": ["*/*"]}
"""Answered as the call was: with any status and media type that its function liked."""

_CANCELLATION = {
    "application/json": {
        "type": "object",
        "properties": {"reason": {"type": "string"}, "force": {"type": "boolean"}},
        "additionalProperties": False,
    }
}


class Cancellation(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a cancel request."""

    reason: str = ""
    force: bool = False


class Executions:
    """Answers everything below `/api/v1/executions`."""

    def __init__(self, service: FunctionService) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        every = "/api/v1/executions"
        one = every + "/{id:path}"  # an id may have slashes in it
        filters = ("task", "status", "limit", "start_after")
        own = Reach.EXECUTION
        return [
            Endpoint("GET", every, self.listing, Scope.DEPLOY, filters, reach=Reach.SHOWN),
            Endpoint("GET", one, self.show, Scope.CALL, ("wait",), reach=own),
            Endpoint("GET", one + "/status", self.status, Scope.CALL, ("wait",), reach=own),
            Endpoint(
                "GET",
                one + "/result",
                self.result,
                Scope.CALL,
                ("wait",),
                answers=_RESULTS,
                reach=own,
            ),
            Endpoint("GET", one + "/logs", self.logs, Scope.INVOKE, reach=own),
            Endpoint("GET", one + "/explain", self.explain, Scope.INVOKE, reach=own),
            Endpoint(
                "POST", one + "/cancel", self.cancel, Scope.INVOKE, body=_CANCELLATION, reach=own
            ),
        ]

    async def listing(self, request: Request) -> Response:
        """Lists executions, newest first."""
        grant, task = grant_of(request), text_parameter(request, "task")
        if task:
            touch(grant, self._service, task)
        page = await self._service.executions(
            task=task,
            status=_status_filter(request),
            **page_parameters(request),
            **filtered(grant),
        )
        rows = [execution_row(execution) for execution in page.items]
        return json_answer({"executions": rows, "next_start_after": page.next_start_after})

    async def show(self, request: Request) -> Response:
        """Shows the record of one execution."""
        return json_answer(execution_row(await self._awaited(request)))

    async def status(self, request: Request) -> Response:
        """Answers as GetExecutionStatus does, in proto3 JSON."""
        execution = await self._awaited(request)
        message = codec.execution_status(execution, include_logs=False)
        return json_answer(to_json(message))

    async def result(self, request: Request) -> Response:
        """Answers as the call itself was answered; 202 with the record while it goes on."""
        execution = await self._awaited(request)
        if not execution.status.terminal:
            return json_answer(execution_row(execution), status=202, headers={"Retry-After": "1"})
        _check_kept(execution)
        return answer(execution, sandbox=self._service.settings.http.sandbox_pages)

    async def _awaited(self, request: Request) -> Execution:
        """The record; with `wait`, as it is at its end or when that time is over."""
        execution_id, wait_s = request.path_params["id"], wait_parameter(request)
        if not wait_s:
            return await self._service.execution(execution_id)
        return await unless_gone(request, self._service.wait(execution_id, wait_s))

    async def logs(self, request: Request) -> Response:
        """Shows what an execution printed, and the traceback if it raised."""
        execution = await self._service.execution(request.path_params["id"])
        outcome = execution.outcome
        return json_answer(
            {
                "execution_id": execution.execution_id,
                "lines": log_lines(outcome.output) if outcome else [],
                "traceback": outcome.error.detail if outcome and outcome.error else "",
            }
        )

    async def explain(self, request: Request) -> Response:
        """Tells the life of an execution step by step, up to now or to its end."""
        explanation = await self._service.explain(request.path_params["id"])
        return json_answer(explanation_row(explanation))

    async def cancel(self, request: Request) -> Response:
        """Stops an execution."""
        execution_id = request.path_params["id"]
        wish = await _cancellation(request)
        stopped = await self._service.cancel(execution_id, reason=wish.reason, force=wish.force)
        if stopped.final_status is None:
            raise ExecutionNotFound(f"there is no execution {execution_id!r}")
        return json_answer(
            {
                "execution_id": execution_id,
                "cancelled": stopped.success,
                "status": stopped.final_status.value,
                "message": stopped.message,
            }
        )


def _check_kept(execution: Execution) -> None:
    """Raises ExecutionNotFound when there was a result and it had to go; a stream has none."""
    succeeded = execution.status is ExecutionStatus.COMPLETED and execution.mode is not Mode.STREAM
    if succeeded and execution.outcome and execution.outcome.result is None:
        raise ExecutionNotFound(
            f"the result of execution {execution.execution_id!r} is not kept any more; results "
            "of async calls, and of calls with an `Idempotency-Key`, are kept longest"
        )


def _status_filter(request: Request) -> ExecutionStatus | None:
    value = text_parameter(request, "status").upper()
    if not value:
        return None
    try:
        return ExecutionStatus(value)
    except ValueError:
        known = ", ".join(status.value for status in ExecutionStatus)
        raise InvalidRequest(f"`status` is one of {known}, it is {value[:140]!r}") from None


async def _cancellation(request: Request) -> Cancellation:
    body = await bounded(request, MAX_CANCEL_BYTES, "of a cancel request").body()
    form = 'the body is JSON like {"reason": "...", "force": false}'
    return read_json(body or b"{}", Cancellation, form)
