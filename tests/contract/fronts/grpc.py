"""The gRPC front, by the stubs in the package."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import grpc

from atlatl.errors import AtlatlError, Draining, PayloadTooLarge, Unauthenticated
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto.function_pb2_grpc import FunctionServiceStub
from tests.contract.fronts.front import (
    Answer,
    Front,
    GaveUp,
    Health,
    How,
    Listed,
    Reading,
    Record,
    Stats,
)
from tests.contract.fronts.stand import LONG_S

RAISED = (Draining, Unauthenticated)
"""Errors that are a status: there is no answer to put them into, or nobody to read it."""


class GrpcFront(Front):
    """Calls by InvokeFunction and StreamFunction."""

    name = "grpc"
    can: ClassVar[frozenset[str]] = frozenset({"stream", "function", "environment", "fresh"})

    async def open(self) -> None:
        limits = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        self._channel = grpc.aio.insecure_channel(self.stand.grpc_address, options=limits)
        self._stub: Any = FunctionServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._metadata = (("authorization", f"Bearer {self.stand.token}"),)

    async def close(self) -> None:
        await self._channel.close(None)

    def expected(self, leaf: type[AtlatlError], *, streaming: bool = False) -> tuple[str, str]:
        if leaf is PayloadTooLarge:  # refused by the transport, which knows no codes
            return "RESOURCE_EXHAUSTED", ""
        refused = streaming and leaf.outcome in ("invalid", "rejected")
        return leaf.grpc_status if refused or leaf in RAISED else "OK", leaf.code

    async def _rpc(self, rpc: str, request: Any, timeout_s: float = LONG_S) -> Any:
        return await getattr(self._stub, rpc)(request, timeout=timeout_s, metadata=self._metadata)

    # --- calls ---

    async def ask(self, name: str, value: Any, how: How) -> Answer:
        request = pb.InvokeFunctionRequest(**invocation(name, value, how))
        try:
            return answer_of(await self._rpc("InvokeFunction", request, how.patience_s))
        except grpc.aio.AioRpcError as error:
            return refused(error)

    @asynccontextmanager
    async def read(self, name: str, value: Any, how: How) -> AsyncIterator[Reading]:
        request = pb.InvokeFunctionRequest(**invocation(name, value, how))
        call = self._stub.StreamFunction(request, timeout=LONG_S, metadata=self._metadata)
        try:
            yield Reading(_items(call))
        finally:
            call.cancel()

    # --- executions ---

    async def status(self, execution_id: str) -> Record | None:
        request = pb.GetExecutionStatusRequest(
            execution_id=execution_id, include_result=True, include_logs=True
        )
        answer = await self._rpc("GetExecutionStatus", request)
        if not answer.found:
            return None
        result = answer.result
        return Record(
            status=status_of(result.status),
            code=result.error_code,
            value=result.result.value,
            logs=tuple(answer.logs),
        )

    async def cancel(self, execution_id: str, *, force: bool = False) -> tuple[bool, str]:
        request = pb.CancelExecutionRequest(
            execution_id=execution_id, reason="the suite asks", force=force
        )
        answer = await self._rpc("CancelExecution", request)
        return answer.success, status_of(answer.final_status)

    async def executions(
        self, task: str, *, limit: int, after: str = "", status: str = ""
    ) -> Listed:
        request = pb.ListExecutionsRequest(
            task_id=task,
            limit=limit,
            start_after=after,
            status_filter=f"EXECUTION_STATUS_{status or 'UNKNOWN'}",
        )
        answer = await self._rpc("ListExecutions", request)
        assert answer.has_more == bool(answer.next_start_after)
        ids = [each.execution_id for each in answer.executions]
        return Listed(ids=ids, after=answer.next_start_after)

    # --- tasks ---

    async def tasks(self, prefix: str, *, limit: int, after: str = "") -> Listed:
        request = pb.ListTasksRequest(prefix=prefix, limit=limit, start_after=after)
        answer = await self._rpc("ListTasks", request)
        assert answer.has_more == bool(answer.next_start_after)
        return Listed(ids=[each.task_id for each in answer.tasks], after=answer.next_start_after)

    async def create(self, name: str, code: bytes, *, kind: str = "py", token: bool = True) -> str:
        """By calling it: that is how tasks are made over gRPC."""
        request = pb.InvokeFunctionRequest(**creation(name, code, kind))
        metadata = self._metadata if token else ()
        try:
            answer = await self._stub.InvokeFunction(request, timeout=LONG_S, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return refused(error).code
        return str(answer.result.error_code)

    async def delete(self, name: str, *, force: bool = False) -> bool:
        answer = await self._rpc("DeleteTask", pb.DeleteTaskRequest(task_id=name, force=force))
        return bool(answer.deleted)

    # --- figures ---

    async def health(self) -> Health:
        answer = await self._rpc("GetHealth", pb.GetHealthRequest(include_details=True))
        details = answer.details
        return Health(
            status=answer.status,
            running=details.running_executions,
            pending=details.pending_executions,
            total=details.total_executions,
            memory_bytes=details.total_memory_used,
        )

    async def stats(self) -> Stats:
        answer = await self._rpc("GetStats", pb.GetStatsRequest(include_execution_stats=True))
        return Stats(
            total=answer.service_stats.total_executions,
            completed=answer.execution_stats.completed_executions,
            failed=answer.execution_stats.failed_executions,
            tasks=answer.service_stats.total_tasks,
        )


# --- what is asked ---


def invocation(name: str, value: Any, how: How) -> dict[str, Any]:
    """Members of an InvokeFunctionRequest; the values of parameters are raw bytes."""
    context = {
        "headers": dict(how.headers),
        "environment": dict(how.environment),
        "timeout_ms": how.timeout_ms,
        "max_retries": how.max_retries or 0,
    }
    stated = any((how.headers, how.environment, how.timeout_ms, how.max_retries is not None))
    return {
        "invocation_type": "INVOCATION_TYPE_EXISTING_TASK",
        "execution_mode": "EXECUTION_MODE_ASYNC" if how.later else "EXECUTION_MODE_SYNC",
        "task_id": name,
        "function_name": how.function,
        "execution_id": how.execution_id,
        "force_new_instance": how.fresh,
        "parameters": _parameters(value),
    } | ({"context": context} if stated else {})


def creation(name: str, code: bytes, kind: str) -> dict[str, Any]:
    """The same for a call that brings its code."""
    location = "data:text/x-python;base64," + base64.b64encode(code).decode()
    artifact_type = "" if kind == "py" else kind
    return {
        "invocation_type": "INVOCATION_TYPE_NEW_TASK",
        "execution_mode": "EXECUTION_MODE_SYNC",
        "task_name": name,
        "artifact_spec": {
            "artifact_id": name,
            "artifact_type": artifact_type,
            "location": location,
        },
    }


def _parameters(value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    if isinstance(value, dict):
        return [_parameter(name, each) for name, each in value.items()]
    return [_parameter("", value)]


def _parameter(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bytes):
        return {"name": name, "value": {"value": value}}
    if isinstance(value, str):
        return {"name": name, "type": "string", "value": {"value": value.encode()}}
    return {"name": name, "type": "json", "value": {"value": json.dumps(value).encode()}}


# --- what comes back ---


def status_of(number: int) -> str:
    word: str = pb.ExecutionStatus.Name(number).removeprefix("EXECUTION_STATUS_")
    return "" if word == "UNKNOWN" else word


def answer_of(answer: Any) -> Answer:
    """Of an InvokeFunctionResponse, whose parts have to agree."""
    result = answer.result
    status = status_of(result.status)
    assert answer.success == (status in ("COMPLETED", "PENDING", "RUNNING"))
    assert bool(answer.estimated_completion_ms) == (status in ("PENDING", "RUNNING"))
    metrics = result.metrics
    hint = metrics.get("retry_after_ms")
    return Answer(
        status=status,
        told="OK",
        code=result.error_code,
        message=result.error_message,
        value=result.result.value,
        content_type=metrics.get("content_type", ""),
        execution_id=answer.execution_id,
        instance_id=answer.instance_id,
        cold=metrics.get("cold_start") == "1",
        retry_after_s=None if hint is None else int(hint) / 1000,
    )


def refused(error: grpc.aio.AioRpcError) -> Answer:
    """A status instead of an answer."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        raise GaveUp from None
    trailers: dict[str, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    hint = trailers.get("retry-after-ms")
    return Answer(
        status="FAILED",
        told=error.code().name,
        code=str(trailers.get("error-code", "")),
        message=error.details() or "",
        retry_after_s=None if hint is None else int(hint) / 1000,
    )


async def _items(call: Any) -> AsyncIterator[bytes | Answer]:
    """The chunks, then the final item, which has to be the last."""
    seen: set[str] = set()
    try:
        async for item in call:
            seen.add(item.execution_id)
            assert len(seen) == 1
            if not item.is_final:
                assert status_of(item.status) == "RUNNING"
                yield item.chunk_data.value
                continue
            end = Answer(
                status=status_of(item.status),
                told="OK",
                code=item.metadata.get("error_code", ""),
                message=item.error_message,
                value=item.chunk_data.value,
                execution_id=item.execution_id,
            )
            assert [more async for more in call] == []
            yield end
    except grpc.aio.AioRpcError as error:
        yield refused(error)
