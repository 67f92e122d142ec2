"""Messages of gRPC, and of a task's zygote."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from google.protobuf.message import DecodeError, Message

from atlatl.errors import AtlatlError, StartFailed
from atlatl.front import rpcs
from atlatl.front.auth import Grant, Scope, Token
from atlatl.front.grpc import UNARY
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto_json import to_json
from atlatl.runtimes import task_zygote
from atlatl.runtimes.limits import Limits
from atlatl.runtimes.task_zygote import TaskZygote
from atlatl.runtimes.zygote import Exit, Order, decode
from atlatl.settings import ConfinementSettings
from tests.fuzz import messages
from tests.fuzz.fuzzing import Target
from tests.unit.fast_fakes import result, served, warm
from tests.virtual_time import run

# --- gRPC ---


@contextmanager
def grpc_messages() -> Iterator[Callable[[bytes], None]]:
    """The first byte chooses the RPC."""
    yield lambda data: run(_rpc(data))


async def _rpc(data: bytes) -> None:
    which, rest = (data[0] if data else 0), data[1:]
    names = [*UNARY, "StreamFunction"]
    name = names[(which & 127) % len(names)]
    kind = UNARY[name].request if name in UNARY else pb.InvokeFunctionRequest
    try:
        request = kind.FromString(rest)
    except DecodeError:
        return
    service = served()
    service.add("echo", warm(result("json", b'{"a":1}')))
    grant = LIMITED if which & 128 else Grant(frozenset(Scope))
    exchange = rpcs.Exchange(service, {"traceparent": "00-x"}, grant)  # type: ignore[arg-type]
    with contextlib.suppress(AtlatlError):
        if name == "StreamFunction":
            written: list[Message] = []

            async def write(item: Message) -> None:
                written.append(item)

            async with asyncio.timeout(100.0):
                await rpcs.stream_function(exchange, request, write)
            _check(*written)
        else:
            async with asyncio.timeout(100.0):
                _check(await UNARY[name].answer(exchange, request))


LIMITED = Grant(
    frozenset(Scope),
    token=Token(
        name="some",
        scope="deploy",
        sha256="",
        tasks=("ec*", "made-*"),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    ),
)


def _check(*answers: Any) -> None:
    for answer in answers:
        answer.SerializeToString()
        assert "its log says why" not in str(answer)
        if not isinstance(answer, pb.StreamExecutionResult):
            to_json(answer)


def _grpc_seeds() -> list[bytes]:
    call = pb.InvokeFunctionRequest(
        task_id="id-echo", execution_mode=1, execution_id="k", wait=True
    )
    call.context.headers["a"] = "b"
    call.context.environment["A"] = "1"
    call.context.timeout_ms = 100
    call.invocation_metadata["m"] = "v"
    call.artifact_spec.location = "data:,x"
    parameter = call.parameters.add(name="x", type="json")
    parameter.value.value = b'{"a":1}'
    typed = pb.InvokeFunctionRequest(task_id="id-echo", execution_mode=2)
    for kind, content in (
        ("ListValue", messages.nested(50)), ("Int64Value", b"\x08\x01"), ("StringValue", b"he"),
        ("Struct", b"\x0a\x05\x0a\x01a\x12\x00"), ("BytesValue", b"\x0a\x01\xff"), ("Value", b""),
        ("DoubleValue", b"\x09\0\0\0\0\0\0\xf0\x7f"),
    ):  # fmt: skip
        value = typed.parameters.add(name=kind).value
        value.type_url = "type.googleapis.com/google.protobuf." + kind
        value.value = content
    event = pb.InvokeFunctionRequest(task_id="id-echo", execution_mode=1)
    event.parameters.add(type="string").value.value = b"\xff"
    deep = pb.InvokeFunctionRequest(task_id="id-echo", execution_mode=1)
    value = deep.parameters.add(name="x").value
    value.type_url, value.value = (
        "type.googleapis.com/google.protobuf.ListValue",
        messages.nested(99),
    )
    raw = [message.SerializeToString() for message in (call, typed, event, deep)]
    return [bytes([which]) + data for which in range(len(UNARY) + 1) for data in [*raw, b""]]


# --- task zygotes ---

ZYGOTE_PID = 77


@contextmanager
def zygote_messages() -> Iterator[Callable[[bytes], None]]:
    """A packet in each line. Whatever process it names is there; only even ones are its own."""

    def parent_of(pid: int) -> int:
        if pid % 7 == 0:
            raise ProcessLookupError(pid)
        return ZYGOTE_PID if pid % 2 == 0 else 1

    def pidfd_open(pid: int) -> int:
        if not -(2**31) <= pid < 2**31:
            raise OverflowError("signed integer is greater than maximum")
        return os.open(os.devnull, os.O_RDONLY)

    with (
        patch.object(task_zygote, "parent_of", parent_of),
        patch.object(task_zygote.os, "pidfd_open", pidfd_open),
        patch.object(task_zygote, "kill", lambda pidfd: None),
    ):
        # The loop is told of the descriptors, which are none that it could wait for.
        yield lambda data: run(_zygote(data))


async def _zygote(data: bytes) -> None:
    loop = asyncio.get_running_loop()
    before = _open_descriptors()
    readers: dict[int, Any] = {}
    exits: list[Exit] = []
    gone: list[str] = []
    base: Any = SimpleNamespace(descendants=set())
    with (
        patch.object(
            loop, "add_reader", lambda fd, call, *args: readers.update({fd: (call, args)})
        ),
        patch.object(loop, "remove_reader", lambda fd: readers.pop(fd, None)),
    ):
        limits = Limits(ConfinementSettings(), None)
        zygote = TaskZygote(base, gone.append, limits, ConfinementSettings())
        zygote._process = SimpleNamespace(pid=ZYGOTE_PID, pidfd=-1, close=lambda: None)  # type: ignore[assignment]
        zygote._starting = False
        answers = []
        for number in range(4):
            answer: asyncio.Future[tuple[int, int]] = loop.create_future()
            answers.append(answer)
            zygote._orders[number] = Order(answer, exits.append)
        answers[3].cancel()  # whoever asked has given up
        for packet in data.split(b"\n")[:50]:
            zygote._take(packet[:4096], [])
            if zygote._told:
                break
            await asyncio.sleep(0)
        adopted = len(zygote._watched)
        for call, args in list(readers.values()):
            call(*args)
        await asyncio.sleep(1.0)
        zygote.end("the test is over")
        zygote._process = None
        await asyncio.sleep(1.0)
    for answer in answers:
        if answer.done() and not answer.cancelled() and answer.exception() is None:
            _, pidfd = answer.result()
            if pidfd >= 0:
                os.close(pidfd)
        elif answer.done() and not answer.cancelled():
            assert isinstance(answer.exception(), StartFailed)
    assert len(exits) == adopted, (exits, adopted)
    assert not zygote._watched
    assert not base.descendants
    assert all("\n" not in str(how) for how in exits)
    assert _open_descriptors() == before
    with contextlib.suppress(Exception):
        decode(data)


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _zygote_seeds() -> list[bytes]:
    return [
        b'{"op":"ready"}\n{"op":"spawned","id":1,"pid":100}\n{"op":"exited","pid":100,"code":3}',
        b'{"op":"spawned","id":3,"pid":102}\n{"op":"failed","id":2,"message":"no \\u0000\\n more"}',
        b'{"op":"spawned","id":1,"pid":101}', b'{"op":"spawned","id":1,"pid":99999999999999999999}',
        b'{"op":"spawned","id":1,"pid":-2147483649}', b'{"op":"exited","pid":5}', b"", b"\xff",
        b'{"op":"spawned","id":1,"pid":100}\n{"op":"exited","pid":100,"signal":999999999999}',
        b'{"op":"spawned","id":1,"pid":100}\n{"op":"spawned","id":2,"pid":100}',
        b'{"op":"ready","id":0}\n{"op":"ready","id":0}', b'{"x":' + b"[" * 4000,
        b'{"op":"failed","id":1,"message":"\\ud800"}', b'{"op":"exited","pid":112,"pid":112}',
    ]  # fmt: skip


TARGETS = [
    Target(
        name="grpc_messages",
        opened=grpc_messages,
        traced=("/atlatl/front/",),
        seeds=_grpc_seeds,
    ),
    Target(
        name="zygote_messages",
        opened=zygote_messages,
        traced=("/atlatl/runtimes/",),
        seeds=_zygote_seeds,
    ),
]
