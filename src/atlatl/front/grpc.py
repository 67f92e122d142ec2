"""The gRPC front: one listener with the FunctionService, health checks and reflection.

Here are access, statuses and the life of the server; what an RPC does stands in `rpcs`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from atlatl.errors import AtlatlError, ConfigurationError, InvalidRequest
from atlatl.front import rpcs
from atlatl.front.access import GrpcGate, Visitor
from atlatl.front.auth import Authorizer, Scope
from atlatl.front.codec import text
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.rpcs import Exchange

if TYPE_CHECKING:
    from atlatl.service import FunctionService
    from atlatl.settings import GrpcSettings

log = logging.getLogger(__name__)

SERVICE = "spearlet.FunctionService"
SPARE_RPCS = 256
"""Above the calls that the service itself admits: for health, lists, and clear refusals."""

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")


class Unary(NamedTuple):
    """An RPC that answers once."""

    request: type[Message]
    scope: Scope
    answer: Callable[[Exchange, Any], Awaitable[Message]]


UNARY: dict[str, Unary] = {
    "InvokeFunction": Unary(pb.InvokeFunctionRequest, Scope.CALL, rpcs.invoke_function),
    "GetExecutionStatus": Unary(
        pb.GetExecutionStatusRequest, Scope.CALL, rpcs.get_execution_status
    ),
    "CancelExecution": Unary(pb.CancelExecutionRequest, Scope.INVOKE, rpcs.cancel_execution),
    "ListTasks": Unary(pb.ListTasksRequest, Scope.DEPLOY, rpcs.list_tasks),
    "GetTask": Unary(pb.GetTaskRequest, Scope.DEPLOY, rpcs.get_task),
    "DeleteTask": Unary(pb.DeleteTaskRequest, Scope.ADMIN, rpcs.delete_task),
    "ListExecutions": Unary(pb.ListExecutionsRequest, Scope.DEPLOY, rpcs.list_executions),
    "GetHealth": Unary(pb.GetHealthRequest, Scope.WATCH, rpcs.get_health),
    "GetStats": Unary(pb.GetStatsRequest, Scope.WATCH, rpcs.get_stats),
}
"""All RPCs but StreamFunction. An RPC that creates a task needs DEPLOY besides."""


class GrpcServer:
    """Serves a FunctionService over gRPC.

    Args:
        settings: where to listen, and the largest message.
        service: answers the calls.
        authorizer: knows who may do what.
        tls: speaks TLS with it; None speaks without.
    """

    def __init__(
        self,
        settings: GrpcSettings,
        service: FunctionService,
        authorizer: Authorizer,
        tls: grpc.ServerCredentials | None = None,
    ) -> None:
        self._settings = settings
        self._service = service
        self._tls = tls
        self._gate = GrpcGate(authorizer, settings.host)
        self._health = LiveHealth(service, self._gate)
        self._server: grpc.aio.Server | None = None
        self.port = 0
        """As bound; 0 until `start` has returned."""

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            ConfigurationError: the address cannot be had.
        """
        limits = self._service.settings.limits
        largest = self._settings.max_message_bytes
        server = grpc.aio.server(
            options=(
                # With it a second server on the port would silently take half of the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", largest),
                ("grpc.max_send_message_length", largest),
            ),
            maximum_concurrent_rpcs=limits.max_concurrent_executions
            + limits.max_queued_executions
            + SPARE_RPCS,
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        described = Reflection(names, self._gate)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described, server)
        self.port = _listen(server, self._settings, self._tls)
        await server.start()
        self._server = server

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls at once; what still runs after `grace_s` is cancelled."""
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s)

    def _handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                partial(self._unary, rpc), response_serializer=_serialize
            )
            for name, rpc in UNARY.items()
        }
        methods["StreamFunction"] = grpc.unary_stream_rpc_method_handler(
            self._stream, response_serializer=_serialize
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _unary(self, rpc: Unary, content: bytes, context: Context) -> Message:
        return await _guarded(context, self._answer(rpc, content, context))

    async def _answer(self, rpc: Unary, content: bytes, context: Context) -> Message:
        exchange = self._exchange(context, rpc.scope)
        answer = await rpc.answer(exchange, _decoded(rpc.request, content))
        held = self._service.hold_answer(answer.ByteSize())
        # The RPC is done when its answer is out, or nobody waits for it any more.
        context.add_done_callback(lambda _: held.release())  # type: ignore[arg-type]
        return answer

    async def _stream(self, content: bytes, context: Context) -> None:
        await _guarded(context, self._stream_out(content, context))

    async def _stream_out(self, content: bytes, context: Context) -> None:
        exchange = self._exchange(context, Scope.CALL)
        request = _decoded(pb.InvokeFunctionRequest, content)
        await rpcs.stream_function(exchange, request, context.write)

    def _exchange(self, context: Context, scope: Scope) -> Exchange:
        visitor = _visitor(context)
        return Exchange(self._service, visitor.headers, self._gate.admit(visitor, scope))


# What is not ours looks at its callers itself: an interceptor would cost each of our own calls a
# coroutine, and is not told where a caller is.


class LiveHealth(health.aio.HealthServicer):  # type: ignore[misc, name-defined]
    """`grpc.health.v1`: looks at the service when it is asked, and tells those who watch."""

    def __init__(self, service: FunctionService, gate: GrpcGate) -> None:
        super().__init__()
        self._service = service
        self._gate = gate

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        await _admit(self._gate, context)
        serving = self._service.health().status != "unhealthy"
        kinds = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self.set(name, kinds.SERVING if serving else kinds.NOT_SERVING)
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        await _admit(self._gate, context)
        await super().Watch(request, context)

    async def List(self, request: Any, context: Any) -> None:  # noqa: N802
        await _admit(self._gate, context)
        await context.abort(StatusCode.UNIMPLEMENTED, "`Check` tells of one service at a time")


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc, name-defined]
    """`grpc.reflection.v1alpha`: describes what is served."""

    def __init__(self, names: Sequence[str], gate: GrpcGate) -> None:
        super().__init__(names)
        self._gate = gate

    async def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: Any, unused_context: Any
    ) -> AsyncIterator[Any]:
        await _admit(self._gate, unused_context)
        async for answer in super().ServerReflectionInfo(request_iterator, unused_context):
            yield answer


async def _admit(gate: GrpcGate, context: Context) -> None:
    try:
        gate.admit(_visitor(context), Scope.WATCH)
    except AtlatlError as error:
        await _refuse(error, context)


async def _guarded(context: Context, answer: Awaitable[T]) -> T:
    """The answer; an error becomes a status, and a bug one without its traceback."""
    failure: AtlatlError
    try:
        return await answer
    except AtlatlError as error:
        failure = error
    except Exception:
        if context.cancelled():
            raise
        log.exception("an RPC failed")
        failure = AtlatlError("the service failed at this request; its log says why")
    return await _refuse(failure, context)


async def _refuse(error: AtlatlError, context: Context) -> NoReturn:
    trailers = [("error-code", error.code)]
    if error.retry_after_s is not None:
        trailers.append(("retry-after-ms", str(max(1, round(error.retry_after_s * 1000)))))
    await context.abort(StatusCode[error.grpc_status], text(error.message), tuple(trailers))


def _decoded(kind: type[Message], content: bytes) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise InvalidRequest(f"the message cannot be decoded as {name}") from None


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _visitor(context: Context) -> Visitor:
    """With the textual entries of the metadata; their names are in lower case already."""
    metadata: Any = context.invocation_metadata() or ()
    headers = {name: value for name, value in metadata if isinstance(value, str)}
    return Visitor(headers, context.peer())


def _listen(
    server: grpc.aio.Server, settings: GrpcSettings, tls: grpc.ServerCredentials | None
) -> int:
    host, port = settings.host, settings.port
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if tls is not None:
            return server.add_secure_port(address, tls)
        return server.add_insecure_port(address)
    except RuntimeError:
        raise ConfigurationError(
            f"gRPC cannot listen on {address}: it is in use, or is no address of this machine; "
            "set another `grpc.port` or `grpc.host`, or `grpc.enabled = false`"
        ) from None
