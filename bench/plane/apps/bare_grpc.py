"""The work on grpc.aio: nothing between the server and the function.

usage: python -m bench.plane.apps.bare_grpc PORT uvloop | asyncio

The messages are those of atlatl's InvokeFunction, with the same fields filled in.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable
from typing import Any

import grpc
import uvloop
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto import function_pb2_grpc as rpc
from bench.work import answer

IDENTITY = "00000000-0000-0000-0000-000000000000"


class Servicer(rpc.FunctionServiceServicer):
    async def InvokeFunction(  # noqa: N802
        self, request: pb.InvokeFunctionRequest, context: Any
    ) -> pb.InvokeFunctionResponse:
        number, text = Int64Value(), StringValue()
        request.parameters[0].value.Unpack(number)
        request.parameters[1].value.Unpack(text)
        done = answer(number.value, text.value)
        result = pb.ExecutionResult(status=pb.EXECUTION_STATUS_COMPLETED)
        result.result.value = json.dumps(done, separators=(",", ":")).encode()
        result.started_at.FromNanoseconds(time.time_ns())
        result.completed_at.FromNanoseconds(time.time_ns())
        return pb.InvokeFunctionResponse(
            success=True, message="completed", execution_id=IDENTITY, task_id=IDENTITY,
            instance_id=IDENTITY, result=result,
        )  # fmt: skip


async def main(port: str) -> None:
    server = grpc.aio.server()
    rpc.add_FunctionServiceServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    waiting: Awaitable[object] = server.wait_for_termination()
    await waiting


if __name__ == "__main__":
    factory = uvloop.new_event_loop if sys.argv[2] == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(sys.argv[1]))
