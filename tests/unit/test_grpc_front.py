"""The gRPC front on a real server, over a service that plays its part by script."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from msgspec.structs import replace

from atlatl.core.admission import ByteBudget
from atlatl.engine.views import (
    CancelAnswer,
    Deletion,
    Figures,
    Health,
    InvocationTarget,
    Page,
    TaskView,
)
from atlatl.errors import (
    CircuitOpenError,
    ConfigurationError,
    Draining,
    ExecutionNotFound,
    FunctionRaised,
    InvalidRequest,
    QueueFull,
    StoreUnavailable,
    TaskNotFound,
)
from atlatl.front.access import GrpcGate
from atlatl.front.auth import Authorizer, Token
from atlatl.front.grpc import GrpcServer, LiveHealth, Reflection
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto.function_pb2_grpc import FunctionServiceStub
from atlatl.model import (
    Artifact,
    Call,
    Execution,
    ExecutionStatus,
    Mode,
    Outcome,
    OutcomeKind,
    Result,
    Task,
    TaskState,
    failed,
)
from atlatl.settings import GrpcSettings, Settings, TaskSettings
from scripts.stranger import ASYNC, CLASSES, NEW_TASK, STREAM, Stranger

TOKEN = "the-admin-token"
GREETER = Task(
    task_id="t-1",
    name="greeter",
    version=1,
    artifact=Artifact(artifact_id="a", version="", checksum="c", filename="a.py", size_bytes=1),
    handler="a.py:main",
    overrides={},
    settings=TaskSettings(),
    shapes={},
)


class FakeTicket:
    def __init__(self) -> None:
        self.reason: str | None = None
        self.cancelled = asyncio.Event()
        self.credits: list[int] = []

    def cancel(self, reason: str = "", *, grace_s: float | None = None) -> bool:
        self.reason = reason
        self.cancelled.set()
        return True

    def credit(self, n_bytes: int) -> None:
        self.credits.append(n_bytes)


class FakeService:
    """One task, `greeter`; each test scripts what calls of it lead to."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.calls: list[Call] = []
        self.targets: list[InvocationTarget] = []
        self.outcome: Outcome = success(b'"hello"')
        self.chunks: list[Result] = []
        self.hangs = False
        self.entered = asyncio.Event()
        self.ticket = FakeTicket()
        self.bytes = ByteBudget(Settings().limits.max_inflight_bytes)
        self.hold_answer = self.bytes.hold
        self.status: Any = "healthy"
        self.breaks_with: Exception | None = None
        self.accept_error: Exception | None = None
        self.hours: list[int] = []

    def new_execution_id(self) -> str:
        return "fresh-id"

    def would_create(self, target: InvocationTarget) -> bool:
        if target.task_id and target.task_id not in ("t-1", "greeter"):
            if target.create_if_not_exists and target.spec is not None:
                return True
            raise TaskNotFound(f"there is no task {target.task_id[:20]!r}")
        if not target.task_id and target.spec is None:
            raise InvalidRequest("a call needs a `task_id`, or an `artifact_spec`")
        return not target.task_id

    async def task_for_invocation(self, target: InvocationTarget) -> Task:
        self.targets.append(target)
        if self.breaks_with is not None:
            raise self.breaks_with
        return GREETER

    def record(self, call: Call) -> Execution:
        return Execution(
            execution_id=call.execution_id,
            task_id="t-1",
            task_name=call.task_name,
            function_name=call.function or "main",
            mode=call.mode,
            status=self.outcome.status,
            outcome=self.outcome,
            instance_id="i-1",
            queued_at=1_700_000_000.0,
        )

    def start(self, call: Call, done: Any, on_chunk: Any = None) -> FakeTicket:
        self.calls.append(call)
        for chunk in self.chunks:
            on_chunk(chunk)
        if not self.hangs:
            done(self.record(call))
        self.entered.set()
        return self.ticket

    async def call(self, call: Call) -> Execution:
        self.calls.append(call)
        self.entered.set()
        try:
            if self.hangs:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ticket.cancel("the caller went away")
            raise
        return self.record(call)

    async def accept(self, call: Call) -> Execution:
        self.calls.append(call)
        if self.accept_error is not None:
            raise self.accept_error
        if call.execution_id == "known":
            return self.record(call)
        return replace(self.record(call), status=ExecutionStatus.PENDING, outcome=None)

    def estimated_completion_ms(self, task_name: str) -> int:
        return {"greeter": 250}[task_name]

    async def execution(self, execution_id: str) -> Execution:
        if execution_id != "known":
            raise ExecutionNotFound(f"no execution {execution_id[:20]!r}")
        return self.record(Call(execution_id="known", task_name="greeter", payload=None))  # type: ignore[arg-type]

    async def executions(self, **query: Any) -> Page[Execution]:
        self.query = query
        call = Call(execution_id="known", task_name="greeter", payload=None)  # type: ignore[arg-type]
        return Page(items=[self.record(call)])

    async def cancel(self, execution_id: str, **how: Any) -> CancelAnswer:
        self.query = how
        if execution_id != "known":
            return CancelAnswer(success=False, message="unknown")
        return CancelAnswer(success=True, message="", final_status=ExecutionStatus.CANCELLED)

    def task(self, ref: str) -> Task:
        if ref not in ("t-1", "greeter"):
            raise TaskNotFound(f"there is no task {ref[:20]!r}")
        return GREETER

    def tasks(self, **query: Any) -> Page[Task]:
        self.query = query
        return Page(items=[GREETER], next_start_after="t-1")

    def task_view(self, task: Task) -> TaskView:
        return TaskView(task=task, state=TaskState.READY, execution_count=7)

    async def delete_task(self, ref: str, **how: Any) -> Deletion:
        self.query = how
        return Deletion(found=ref == "t-1", deleted=ref == "t-1", cleaned_executions=2)

    def health(self) -> Health:
        return Health(status=self.status, message="m", uptime_s=1.5, running=4)

    def stats(self, *, hours: int = 0) -> Figures:
        self.hours.append(hours)
        return Figures(uptime_s=1.5, total_tasks=1)


def success(body: bytes) -> Outcome:
    return Outcome(kind=OutcomeKind.SUCCESS, result=Result(kind="json", body=body))


class Front:
    """A running server, and ways to ask it."""

    def __init__(self, service: FakeService, server: GrpcServer) -> None:
        self.service = service
        self.server = server
        self.address = f"127.0.0.1:{server.port}"

    async def ask(self, rpc: str, *, token: str = TOKEN, **fields: Any) -> Any:
        """Asks as a stranger does, from a thread of its own."""

        def blocking() -> Any:
            with Stranger(self.address, token=token) as stranger:
                answer = stranger.ask(rpc, **fields)
                return list(answer) if rpc == "StreamFunction" else answer

        return await asyncio.to_thread(blocking)

    async def refusal(self, rpc: str, **fields: Any) -> tuple[StatusCode, str, dict[str, str]]:
        with pytest.raises(grpc.RpcError) as caught:
            await self.ask(rpc, **fields)
        error: Any = caught.value
        trailers = dict(error.trailing_metadata() or ())
        return error.code(), error.details(), trailers


@asynccontextmanager
async def served(
    service: FakeService,
    *,
    required: Any = "auto",
    host: str = "127.0.0.1",
    tokens: Sequence[Token] = (),
) -> AsyncIterator[Front]:
    authorizer = Authorizer(TOKEN, required)
    authorizer.hold(tokens)
    server = GrpcServer(GrpcSettings(port=0, host=host), service, authorizer)  # type: ignore[arg-type]
    await server.start()
    try:
        yield Front(service, server)
    finally:
        await server.stop(0)


def run(test: Callable[[Front], Awaitable[None]], **how: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), served(FakeService(), **how) as front:
            await test(front)

    asyncio.run(main())


# --- InvokeFunction ---


def test_sync_call() -> None:
    async def test(front: Front) -> None:
        answer = await front.ask(
            "InvokeFunction", token="", task_id="t-1", execution_mode=1, context={"timeout_ms": 5}
        )
        assert (answer.success, answer.result.result.value) == (True, b'"hello"')
        assert (answer.execution_id, answer.task_id, answer.instance_id) == (
            "fresh-id",
            "t-1",
            "i-1",
        )
        (call,) = front.service.calls
        assert (call.task_name, call.timeout_ms, call.id_given) == ("greeter", 5, False)

    run(test)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "UNKNOWN_EXECUTION_MODE"),
        ({"execution_mode": 77, "task_id": "t-1"}, "UNKNOWN_EXECUTION_MODE"),
        ({"execution_mode": STREAM, "task_id": "t-1"}, "STREAM_MODE_NOT_SUPPORTED"),
        ({"execution_mode": STREAM, "task_id": "t-1", "wait": True}, "STREAM_MODE_NOT_SUPPORTED"),
        ({"execution_mode": ASYNC, "task_id": "nobody"}, "TASK_NOT_FOUND"),
        (
            {
                "execution_mode": ASYNC,
                "task_id": "t-1",
                "context": {"headers": {"Atlatl-Not-Before": "tomorrow"}},
            },
            "INVALID_REQUEST",
        ),
        (
            {
                "execution_mode": ASYNC,
                "wait": True,
                "task_id": "t-1",
                "context": {"headers": {"ATLATL-CALLBACK-URL": "https://example.org/"}},
            },
            "INVALID_REQUEST",
        ),
        ({"execution_mode": 1}, "INVALID_REQUEST"),
        ({"execution_mode": 1, "task_id": "nobody"}, "TASK_NOT_FOUND"),
        ({"execution_mode": 1, "task_id": "x\0" * 10_000}, "TASK_NOT_FOUND"),
        ({"execution_mode": 1, "task_id": "t-1", "execution_id": "é" * 9000}, "INVALID_REQUEST"),
        (
            {"execution_mode": 1, "task_id": "t-1", "context": {"timeout_ms": -1}},
            "INVALID_REQUEST",
        ),
        (
            {"execution_mode": 1, "task_id": "t-1", "parameters": [{"name": "a"}, {"name": "a"}]},
            "INVALID_REQUEST",
        ),
        (
            {"execution_mode": 1, "task_id": "t-1", "parameters": [{"required": True}]},
            "INVALID_REQUEST",
        ),
    ],
)
def test_refusals_stay_in_the_answer(fields: dict[str, Any], code: str) -> None:
    """Also when no token was sent: what is wrong with a call is no secret."""

    async def test(front: Front) -> None:
        answer = await front.ask("InvokeFunction", token="", **fields)
        assert (answer.success, answer.result.status) == (False, 4)
        assert answer.result.error_code == code
        assert answer.message == answer.result.error_message != ""
        assert len(answer.message) < 400
        assert front.service.calls == []

    run(test)


def test_wait_makes_a_call_synchronous() -> None:
    async def test(front: Front) -> None:
        for mode in (0, ASYNC):
            answer = await front.ask(
                "InvokeFunction", task_id="t-1", execution_mode=mode, wait=True
            )
            assert answer.success

    run(test)


def test_an_async_call_answers_with_where_to_look() -> None:
    headers = {
        "ATLATL-NOT-BEFORE": "2030-01-01T01:00:00+01:00",
        "Atlatl-Callback-Url": "https://example.org/done?a=1",
    }

    async def test(front: Front) -> None:
        context = {"headers": headers, "timeout_ms": 5, "max_retries": 2}
        answer = await front.ask(
            "InvokeFunction", token="", task_id="t-1", execution_mode=ASYNC, context=context
        )
        assert (answer.success, answer.result.status, answer.task_id) == (True, 1, "t-1")
        assert answer.result.started_at.seconds == 1_700_000_000
        assert not answer.result.HasField("completed_at")
        assert not answer.result.error_code
        assert answer.status_endpoint == "/api/v1/executions/fresh-id/status"
        assert answer.estimated_completion_ms == 250
        (call,) = front.service.calls
        assert (call.mode, call.task_name, call.timeout_ms) == (Mode.ASYNC, "greeter", 5)
        assert (call.not_before, call.max_retries) == (1_893_456_000.0, 2)
        assert call.callback_url == "https://example.org/done?a=1"

    run(test)


def test_an_async_call_again_answers_with_the_first_one() -> None:
    async def test(front: Front) -> None:
        fields = {"task_id": "t-1", "execution_mode": ASYNC, "execution_id": "known"}
        answer = await front.ask("InvokeFunction", **fields)
        assert (answer.success, answer.result.status) == (True, 3)
        assert answer.result.result.value == b'"hello"'
        assert answer.estimated_completion_ms == 0

    run(test)


def test_an_async_call_that_is_refused_says_so_now() -> None:
    async def test(front: Front) -> None:
        for error, code in (
            (InvalidRequest("no parameter `x`"), "INVALID_REQUEST"),
            (QueueFull("100000 wait", retry_after_s=2.0), "QUEUE_FULL"),
            (StoreUnavailable("the disk is full"), "STORE_UNAVAILABLE"),
        ):
            front.service.accept_error = error
            answer = await front.ask("InvokeFunction", task_id="t-1", execution_mode=ASYNC)
            assert (answer.success, answer.result.error_code) == (False, code)
            assert (answer.status_endpoint, answer.estimated_completion_ms) == ("", 0)
        front.service.accept_error = Draining("shutting down", retry_after_s=1.0)
        status, _, _ = await front.refusal("InvokeFunction", task_id="t-1", execution_mode=ASYNC)
        assert status is StatusCode.UNAVAILABLE

    run(test)


def test_a_failed_function_is_an_answer_d81() -> None:
    async def test(front: Front) -> None:
        front.service.outcome = failed(FunctionRaised("ValueError: no", detail="Traceback"))
        answer = await front.ask("InvokeFunction", task_id="t-1", execution_mode=1)
        assert (answer.success, answer.result.error_code) == (False, "EXECUTION_ERROR")
        front.service.outcome = failed(CircuitOpenError("greeter", retry_after_s=2))
        answer = await front.ask("InvokeFunction", task_id="t-1", execution_mode=1)
        assert answer.result.metrics["retry_after_ms"] == "2000"

    run(test)


def test_a_draining_service_answers_with_a_status() -> None:
    async def test(front: Front) -> None:
        front.service.outcome = failed(Draining("shutting down", retry_after_s=3))
        for rpc in ("InvokeFunction", "StreamFunction"):
            code, details, trailers = await front.refusal(rpc, task_id="t-1", execution_mode=1)
            assert (code, details) == (StatusCode.UNAVAILABLE, "shutting down")
            assert (trailers["error-code"], trailers["retry-after-ms"]) == ("DRAINING", "3000")

    run(test)


def test_a_bug_is_told_without_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def test(front: Front) -> None:
        front.service.breaks_with = KeyError("secret")
        answer = await front.ask("InvokeFunction", task_id="t-1", execution_mode=1)
        assert answer.result.error_code == "SYNC_EXECUTION_FAILED"
        code, details, _ = await front.refusal("StreamFunction", task_id="t-1")
        assert code is StatusCode.INTERNAL
        assert "secret" not in answer.message + details

    with caplog.at_level(logging.ERROR):
        run(test)
    assert caplog.text.count("KeyError: 'secret'") == 2


def test_a_client_that_hangs_up_cancels() -> None:
    async def test(front: Front) -> None:
        front.service.hangs = True
        async with grpc.aio.insecure_channel(front.address) as channel:
            stub: Any = FunctionServiceStub(channel)  # type: ignore[no-untyped-call]
            request = pb.InvokeFunctionRequest(task_id="t-1", execution_mode=pb.EXECUTION_MODE_SYNC)
            for rpc in (stub.InvokeFunction, stub.StreamFunction):
                front.service.entered.clear()
                front.service.ticket = FakeTicket()
                call = rpc(request)
                answer = asyncio.ensure_future(_first(call))
                await front.service.entered.wait()
                call.cancel()
                await front.service.ticket.cancelled.wait()
                assert front.service.ticket.reason == "the caller went away"
                with pytest.raises(asyncio.CancelledError):
                    await answer

    run(test)


async def _first(call: Any) -> Any:
    if hasattr(call, "__aiter__"):
        async for item in call:
            return item
    return await call


def test_trace_context_comes_from_the_metadata() -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def test(front: Front) -> None:
        async with grpc.aio.insecure_channel(front.address) as channel:
            stub: Any = FunctionServiceStub(channel)  # type: ignore[no-untyped-call]
            request = pb.InvokeFunctionRequest(task_id="t-1", wait=True)
            metadata = (("traceparent", trace), ("some-bin", b"\xff"))
            await stub.InvokeFunction(request, metadata=metadata)
        assert front.service.calls[0].traceparent == trace

    run(test)


# --- StreamFunction ---


def chunk(body: bytes) -> Result:
    return Result(kind="text", body=body)


def test_a_stream_has_one_item_a_chunk_and_one_final_item() -> None:
    async def test(front: Front) -> None:
        front.service.chunks = [chunk(b"one"), chunk(b""), chunk(b"three")]
        front.service.outcome = success(b"ignored")
        items = await front.ask("StreamFunction", token="", task_id="t-1", execution_id="mine")
        assert [item.chunk_data.value for item in items] == [b"one", b"", b"three", b""]
        assert [item.is_final for item in items] == [False, False, False, True]
        assert [item.status for item in items] == [2, 2, 2, 3]
        assert {item.execution_id for item in items} == {"mine"}
        assert front.service.ticket.credits == [3, 0, 5]
        assert front.service.ticket.reason is None

    run(test)


def test_a_function_that_streams_nothing_has_its_result_in_the_final_item() -> None:
    async def test(front: Front) -> None:
        (item,) = await front.ask("StreamFunction", task_id="t-1", execution_mode=1)
        assert (item.is_final, item.chunk_data.value, item.error_message) == (True, b'"hello"', "")

    run(test)


@pytest.mark.parametrize("chunks", [[], [b"one"]])
def test_a_run_that_fails_ends_its_stream_with_a_final_item(chunks: list[bytes]) -> None:
    async def test(front: Front) -> None:
        front.service.chunks = [chunk(body) for body in chunks]
        front.service.outcome = failed(FunctionRaised("ValueError: no"))
        items = await front.ask("StreamFunction", task_id="t-1")
        assert [item.is_final for item in items] == [False] * len(chunks) + [True]
        assert (items[-1].error_message, items[-1].status) == ("ValueError: no", 4)
        assert items[-1].metadata["error_code"] == "EXECUTION_ERROR"

    run(test)


def test_a_stream_that_is_refused_has_a_status() -> None:
    async def test(front: Front) -> None:
        refusal = await front.refusal("StreamFunction", task_id="nobody")
        assert (refusal[0], refusal[2]["error-code"]) == (StatusCode.NOT_FOUND, "TASK_NOT_FOUND")
        front.service.outcome = failed(CircuitOpenError("greeter", retry_after_s=0.0001))
        code, _, trailers = await front.refusal("StreamFunction", task_id="t-1")
        assert (code, trailers["retry-after-ms"]) == (StatusCode.UNAVAILABLE, "1")
        code, details, _ = await front.refusal("StreamFunction", task_id="t-1", execution_id=" ")
        assert code is StatusCode.INVALID_ARGUMENT
        assert "execution id" in details

    run(test)


# --- the other RPCs (D80) ---


def test_executions() -> None:
    async def test(front: Front) -> None:
        known = await front.ask("GetExecutionStatus", token="", execution_id="known")
        assert (known.found, known.result.result.value) == (True, b'"hello"')
        for unknown in ("", "x" * 10_000, "\0"):
            answer = await front.ask("GetExecutionStatus", token="", execution_id=unknown)
            assert not answer.found
            assert answer.message
        stopped = await front.ask("CancelExecution", execution_id="known", reason="r", force=True)
        assert (stopped.success, stopped.final_status) == (True, 5)
        assert front.service.query == {"reason": "r", "force": True}
        assert (await front.ask("CancelExecution", execution_id="x")).final_status == 0
        listed = await front.ask(
            "ListExecutions", task_id="t-1", limit=5, status_filter=3, start_after="z"
        )
        assert [each.execution_id for each in listed.executions] == ["known"]
        assert front.service.query == {
            "task": "t-1",
            "limit": 5,
            "status": ExecutionStatus.COMPLETED,
            "start_after": "z",
        }

    run(test)


def test_tasks() -> None:
    async def test(front: Front) -> None:
        listed = await front.ask("ListTasks", prefix="g", start_after="a")
        assert (listed.has_more, listed.next_start_after) == (True, "t-1")
        assert (listed.tasks[0].task_name, listed.tasks[0].execution_count) == ("greeter", 7)
        assert not listed.tasks[0].HasField("artifact_spec")
        assert front.service.query == {"prefix": "g", "limit": 100, "start_after": "a"}
        one = await front.ask("GetTask", task_id="t-1", include_executions=True)
        assert (one.found, one.task.artifact_spec.artifact_id) == (True, "a")
        assert len(one.executions) == 1
        assert front.service.query["limit"] == 10
        assert not (await front.ask("GetTask", task_id="t-1")).executions
        assert not (await front.ask("GetTask", task_id="x" * 10_000)).found
        gone = await front.ask("DeleteTask", task_id="t-1", force=True, cleanup_executions=True)
        assert (gone.success, gone.deleted, gone.cleaned_executions) == (True, True, 2)
        assert front.service.query == {"force": True, "cleanup_executions": True}
        assert (await front.ask("DeleteTask")).success

    run(test)


def test_health_and_stats() -> None:
    async def test(front: Front) -> None:
        health = await front.ask("GetHealth", token="")
        assert (health.status, health.healthy) == ("healthy", True)
        assert health.details.running_executions == 4
        stats = await front.ask("GetStats", token="", include_task_stats=True, time_range_hours=9)
        assert stats.service_stats.total_tasks == 1
        assert stats.HasField("task_stats")
        assert front.service.hours == [9]

    run(test)


@pytest.mark.parametrize(
    ("rpc", "field"),
    [
        ("ListTasks", "limit"),
        ("ListExecutions", "limit"),
        ("GetTask", "execution_limit"),
        ("GetStats", "time_range_hours"),
    ],
)
def test_negative_limits_are_invalid_arguments(rpc: str, field: str) -> None:
    async def test(front: Front) -> None:
        code, details, _ = await front.refusal(rpc, **{field: -1})
        assert code is StatusCode.INVALID_ARGUMENT
        assert f"`{field}`" in details

    run(test)


def test_every_rpc_takes_an_empty_and_a_garbled_message() -> None:
    async def test(front: Front) -> None:
        async with grpc.aio.insecure_channel(front.address) as channel:
            for method in pb.DESCRIPTOR.services_by_name["FunctionService"].methods:
                connect = channel.unary_stream if method.server_streaming else channel.unary_unary
                rpc: Any = connect(f"/spearlet.FunctionService/{method.name}")
                metadata = (("authorization", f"Bearer {TOKEN}"),)
                code, _ = await _status(rpc(b"\x0a\xff", metadata=metadata))
                assert code is StatusCode.INVALID_ARGUMENT, method.name
                code, _ = await _status(rpc(b"", metadata=metadata))
                stream = method.name == "StreamFunction"
                assert code is (StatusCode.INVALID_ARGUMENT if stream else StatusCode.OK)
            unknown: Any = channel.unary_unary("/spearlet.FunctionService/Nothing")
            assert (await _status(unknown(b"")))[0] is StatusCode.UNIMPLEMENTED

    run(test)


async def _status(call: Any) -> tuple[StatusCode, str]:
    with suppress(grpc.aio.AioRpcError):
        await _first(call)
    return await call.code(), await call.details()


# --- access ---

OPEN = {
    "InvokeFunction": {"task_id": "t-1", "execution_mode": 1},
    "StreamFunction": {"task_id": "t-1"},
    "GetExecutionStatus": {},
    "GetHealth": {},
    "GetStats": {},
}
CLOSED: list[tuple[str, dict[str, Any]]] = [
    ("InvokeFunction", {"invocation_type": NEW_TASK, "artifact_spec": {}, "execution_mode": 1}),
    ("StreamFunction", {"artifact_spec": {}}),
    (
        "InvokeFunction",
        {"task_id": "x", "artifact_spec": {}, "create_if_not_exists": True, "execution_mode": 1},
    ),
    ("CancelExecution", {}),
    ("ListTasks", {}),
    ("GetTask", {}),
    ("DeleteTask", {}),
    ("ListExecutions", {}),
]


def test_on_loopback_calling_and_watching_need_no_token() -> None:
    async def test(front: Front) -> None:
        for rpc, fields in OPEN.items():
            await front.ask(rpc, token="", **fields)
        for rpc, fields in CLOSED:
            for token in ("", "wrong"):
                code, _, trailers = await front.refusal(rpc, token=token, **fields)
                assert code is StatusCode.UNAUTHENTICATED, rpc
                assert trailers["error-code"] == "UNAUTHENTICATED"
            await front.ask(rpc, **fields)
        assert front.service.targets[-1].spec is not None

    run(test)


@pytest.mark.parametrize("how", [{"required": True}, {"host": "0.0.0.0"}])
def test_where_tokens_are_required_everything_needs_one(how: dict[str, Any]) -> None:
    async def test(front: Front) -> None:
        for rpc, fields in [*OPEN.items(), *CLOSED]:
            code, _, _ = await front.refusal(rpc, token="", **fields)
            assert code is StatusCode.UNAUTHENTICATED, rpc
            await front.ask(rpc, **fields)
        for probe in (_health_check, _reflection_before_a_message):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await probe(front)
            assert caught.value.code() is StatusCode.UNAUTHENTICATED

    run(test, **how)


def test_without_access_control_everything_is_open() -> None:
    async def test(front: Front) -> None:
        for rpc, fields in [*OPEN.items(), *CLOSED]:
            await front.ask(rpc, token="", **fields)

    run(test, required=False)


# --- health service, reflection, life ---


async def _health_check(front: Front, name: str = "") -> Any:
    async with grpc.aio.insecure_channel(front.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


async def _reflected_services(front: Front) -> list[str]:
    async with grpc.aio.insecure_channel(front.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([request])):
            return [service.name for service in answer.list_services_response.service]
        return []


async def _reflection_before_a_message(front: Front) -> None:
    """A client of `grpc.aio` that still writes while it is refused makes INTERNAL of any status."""
    async with grpc.aio.insecure_channel(front.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        await stub.ServerReflectionInfo(timeout=20).read()


def test_the_health_service_follows_the_service_d59() -> None:
    async def test(front: Front) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING
        for name in ("", "spearlet.FunctionService"):
            front.service.status = "degraded"
            assert await _health_check(front, name) == serving
            front.service.status = "unhealthy"
            assert await _health_check(front, name) == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _health_check(front, "nothing")
        assert caught.value.code() is StatusCode.NOT_FOUND

    run(test)


def test_reflection_names_the_services() -> None:
    async def test(front: Front) -> None:
        assert await _reflected_services(front) == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "spearlet.FunctionService",
        ]

    run(test)


def test_a_port_that_is_taken_is_said_so() -> None:
    """Shared ports would let a second server take half of the calls."""

    async def test(front: Front) -> None:
        settings = GrpcSettings(port=front.server.port)
        second = GrpcServer(settings, front.service, Authorizer(TOKEN))  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match=r"grpc\.port"):
            await second.start()

    run(test)


def test_stopping_cancels_what_outlasts_the_grace() -> None:
    async def test(front: Front) -> None:
        front.service.hangs = True
        asked = asyncio.create_task(front.ask("InvokeFunction", task_id="t-1", execution_mode=1))
        await front.service.entered.wait()
        await front.server.stop(0.05)
        await front.service.ticket.cancelled.wait()
        with pytest.raises(grpc.RpcError):
            await asked

    run(test)


def test_a_message_over_the_limit_is_refused() -> None:
    async def main() -> None:
        service: Any = FakeService()
        server = GrpcServer(
            GrpcSettings(port=0, max_message_bytes=1000), service, Authorizer(TOKEN)
        )
        await server.start()
        front = Front(service, server)
        huge = {"task_id": "t-1", "execution_mode": 1, "invocation_metadata": {"k": "v" * 2000}}
        code, _, _ = await front.refusal("InvokeFunction", **huge)
        assert code is StatusCode.RESOURCE_EXHAUSTED
        await server.stop(0)

    asyncio.run(main())


def test_a_large_map_is_carried() -> None:
    async def test(front: Front) -> None:
        labels = {f"key-{number}": "v" for number in range(20_000)}
        answer = await front.ask(
            "InvokeFunction", task_id="t-1", execution_mode=1, invocation_metadata=labels
        )
        assert answer.success
        assert front.service.calls[0].metadata == labels

    run(test)


def test_the_strangers_messages_are_not_ours() -> None:
    assert CLASSES["GetHealthRequest"] is not pb.GetHealthRequest


class Refused(Exception):
    """What `abort` raises."""


class FarContext:
    """Of an RPC from another machine, as a rule of a firewall may lead it to loopback."""

    def peer(self) -> str:
        return "ipv4:10.0.0.7:5000"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def abort(self, code: StatusCode, details: str, trailers: object = ()) -> None:
        raise Refused(code.name)


def test_what_is_not_ours_looks_at_where_its_caller_is() -> None:
    gate, service, context = GrpcGate(Authorizer(TOKEN), "127.0.0.1"), FakeService(), FarContext()
    health = LiveHealth(service, gate)  # type: ignore[arg-type]
    reflection = Reflection(["a"], gate)

    async def main() -> None:
        for rpc in (health.Check, health.Watch, health.List):
            with pytest.raises(Refused, match="UNAUTHENTICATED"):
                await rpc(health_pb2.HealthCheckRequest(), context)
        with pytest.raises(Refused, match="UNAUTHENTICATED"):
            await anext(reflection.ServerReflectionInfo(iter(()), context))

    asyncio.run(main())
