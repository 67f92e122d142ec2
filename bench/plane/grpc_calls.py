"""Makes load with unary InvokeFunction calls, and looks at the status and result of each.

usage: python -m bench.plane.grpc_calls PORT TASK_ID IN_FLIGHT SECONDS

Prints a line when it begins, and at the end one of JSON, the same as `check.lua`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter

import uvloop
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from hpack import Decoder

from atlatl.front.proto import function_pb2 as pb
from bench import work
from bench.plane.generator import Tally
from bench.plane.http2 import Client

PATH = "/spearlet.FunctionService/InvokeFunction"
NUMBER = 41
ANSWER = work.answer(**work.arguments(NUMBER))
START_S, PATIENCE_S = 30.0, 60.0


def request(task_id: str) -> bytes:
    """Calls a task with the arguments of the work, one parameter each."""
    message = pb.InvokeFunctionRequest(
        invocation_type=pb.INVOCATION_TYPE_EXISTING_TASK, task_id=task_id,
        execution_mode=pb.EXECUTION_MODE_SYNC,
    )  # fmt: skip
    arguments = work.arguments(NUMBER)
    values: dict[str, Message] = {
        "number": Int64Value(value=arguments["number"]),
        "text": StringValue(value=arguments["text"]),
    }
    for name, value in values.items():
        message.parameters.add(name=name).value.Pack(value)
    content: bytes = message.SerializeToString()
    return content


def right(body: bytes) -> bool:
    """Whether an answer has the result, and says that the execution completed."""
    answer = pb.InvokeFunctionResponse.FromString(body)
    return bool(
        answer.success
        and answer.result.status == pb.EXECUTION_STATUS_COMPLETED
        and json.loads(answer.result.result.value) == ANSWER
    )


class Calls:
    """So many calls at once on one connection, until the time is over."""

    def __init__(self, task_id: str, in_flight: int) -> None:
        self.tally = Tally(b"")
        self.over = asyncio.get_running_loop().create_future()
        self._message = request(task_id)
        self._began = [0.0] * in_flight
        self._under_way = 0
        self._stopping = False
        self.client = Client(PATH, Decoder(), self._done, self._broken)

    def start(self) -> None:
        for number in range(len(self._began)):
            self._ask(number)
        self.client.flush()

    def stop(self) -> None:
        self._stopping = True

    def _ask(self, number: int) -> None:
        self._under_way += 1
        self._began[number] = perf_counter()
        self.client.ask(number, self._message)

    def _done(self, number: int, body: bytes, fault: str) -> None:
        took = perf_counter() - self._began[number]
        self._under_way -= 1
        if fault:
            self.tally.add(0, False, fault.encode(), took)
        else:
            self.tally.add(200, right(body), body, took)
        if not self._stopping:
            self._ask(number)
        elif not self._under_way and not self.over.done():
            self.over.set_result(None)

    def _broken(self, why: str) -> None:
        self.tally.broken += 1
        self.tally.example = why
        if not self.over.done():
            self.over.set_result(None)
        if not self.client.ready.done():
            self.client.ready.set_exception(ConnectionError(why))


async def main(arguments: list[str]) -> None:
    port, task_id, in_flight, seconds = arguments
    calls = Calls(task_id, int(in_flight))
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: calls.client, "127.0.0.1", int(port))
    await asyncio.wait_for(calls.client.ready, START_S)
    began = perf_counter()
    calls.start()
    print("began", flush=True)
    await asyncio.wait([calls.over], timeout=float(seconds))
    calls.stop()
    await asyncio.wait([calls.over], timeout=PATIENCE_S)
    calls.tally.broken += not calls.over.done()
    print(json.dumps(calls.tally.report(perf_counter() - began)), flush=True)
    calls.client.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1:]))
