"""Whatever arrives over gRPC, the answer is one that clients know, and nothing stays behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from atlatl.front.grpc import UNARY
from atlatl.front.proto import function_pb2 as pb
from tests.fuzz import messages
from tests.fuzz.field import MAX_MESSAGE_BYTES, STEADY, Field, examples, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# DEADLINE_EXCEEDED is not here: no client of these tests states a deadline that may pass.
ALLOWED = {
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.UNIMPLEMENTED,
    StatusCode.UNAUTHENTICATED,
    StatusCode.PERMISSION_DENIED,
    StatusCode.CANCELLED,
    StatusCode.UNAVAILABLE,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.ABORTED,
    StatusCode.ALREADY_EXISTS,
}
BUGS = {"RUNTIME_ERROR", "SYNC_EXECUTION_FAILED", "IO_ERROR"}
RESPONSES: dict[str, type[Message]] = {name: getattr(pb, f"{name}Response") for name in UNARY}
ALL = [*UNARY, "StreamFunction"]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with opened(tmp_path_factory.mktemp("grpc") / "data") as field:
        yield field


async def ask(field: Field, rpc: str, content: bytes) -> list[Any] | StatusCode:
    """The checked answers of an RPC, or the checked status that it ended with."""
    try:
        if rpc == "StreamFunction":
            items = [pb.StreamExecutionResult.FromString(i) for i in await field.stream(content)]
            check_stream(items)
            return items
        answer = RESPONSES[rpc].FromString(await field.unary(rpc, content))
    except grpc.aio.AioRpcError as error:
        assert error.code() in ALLOWED, (rpc, error)
        check_words(error.details() or "")
        return error.code()
    check_answer(answer)
    return [answer]


def check_answer(answer: Message) -> None:
    check_words(str(answer))
    if isinstance(answer, pb.InvokeFunctionResponse):
        result = answer.result
        assert answer.success == (result.status in (1, 2, 3)), answer
        assert bool(result.error_code) != answer.success, answer
        assert result.error_code not in BUGS, answer


def check_stream(items: list[pb.StreamExecutionResult]) -> None:
    assert [item.is_final for item in items] == [False] * (len(items) - 1) + [True]
    assert len({item.execution_id for item in items}) == 1
    for item in items:
        check_words(str(item))
        assert item.metadata["error_code"] not in BUGS, item


def check_words(words: str) -> None:
    assert "Traceback" not in words, words
    assert 'File "' not in words, words
    assert "its log says why" not in words, words


async def exchange(field: Field, rpc: str, content: bytes) -> None:
    before = {task.task_id for task in field.service.tasks().items}
    answer = await ask(field, rpc, content)
    await field.at_rest()
    if rpc == "InvokeFunction" and not (isinstance(answer, list) and answer[0].task_id):
        # Refused before there was a task to call: then none has been made.
        assert {task.task_id for task in field.service.tasks().items} == before


@examples(250)
@given(st.one_of([st.tuples(st.just(n), messages.messages(u.request)) for n, u in UNARY.items()]))
def test_every_unary_rpc_takes_any_message(field: Field, asked: tuple[str, Message]) -> None:
    rpc, request = asked
    field.run(exchange(field, rpc, request.SerializeToString()))
    if rpc in ("DeleteTask", "InvokeFunction"):
        field.run(field.restore())


@examples(150)
@given(st.sampled_from(["InvokeFunction", "StreamFunction"]), messages.calls)
def test_calls_that_get_further(field: Field, rpc: str, request: Message) -> None:
    field.run(exchange(field, rpc, request.SerializeToString()))


@examples(200)
@given(st.sampled_from(ALL), st.binary(max_size=200))
def test_any_bytes(field: Field, rpc: str, content: bytes) -> None:
    field.run(exchange(field, rpc, content))


@examples(100)
@given(st.sampled_from(ALL), messages.calls, st.data())
def test_messages_with_bits_flipped(
    field: Field, rpc: str, request: Message, data: st.DataObject
) -> None:
    content = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4)) if content else 0):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    field.run(exchange(field, rpc, bytes(content)))


@pytest.fixture(autouse=True)
def good_afterwards(field: Field) -> Iterator[None]:
    yield
    field.run(field.restore())
    field.run(field.check())


# --- one by one ---


def steady(**fields: Any) -> pb.InvokeFunctionRequest:
    return pb.InvokeFunctionRequest(task_id=STEADY, execution_mode=1, **fields)


@pytest.mark.parametrize("rpc", ALL)
def test_the_empty_message(field: Field, rpc: str) -> None:
    field.run(exchange(field, rpc, b""))


def test_maps_of_100_000_entries(field: Field) -> None:
    many = {f"k{n}": "v" for n in range(100_000)}
    spec = pb.ArtifactSpec(artifact_id="mapped", location=messages.DATA, metadata=many)
    x = pb.FunctionParameter(name="x", type="json", value={"value": b"1"})
    for request, code in (
        (steady(parameters=[x], context=pb.ExecutionContext(headers=many)), ""),
        (steady(parameters=[x], invocation_metadata=many), ""),
        (pb.InvokeFunctionRequest(execution_mode=1, artifact_spec=spec), ""),
        # Setting so many would take an instance minutes.
        (steady(context=pb.ExecutionContext(environment=many)), "INVALID_REQUEST"),
    ):
        answers = field.run(ask(field, "InvokeFunction", request.SerializeToString()))
        assert isinstance(answers, list)
        assert answers[0].result.error_code == code, str(answers[0])[:1000]
        field.run(field.at_rest())


def test_100_000_parameters(field: Field) -> None:
    request = steady()
    for n in range(100_000):
        request.parameters.add(name=f"p{n}")
    field.run(exchange(field, "InvokeFunction", request.SerializeToString()))


@pytest.mark.parametrize("depth", [90, 99, 100, 101, 200, 1000, 20_000])
def test_values_nested_deep(field: Field, depth: int) -> None:
    for kind in ("ListValue", "Value", "Struct", "StringValue"):
        request = steady()
        value = request.parameters.add(name="x").value
        value.type_url = "type.googleapis.com/google.protobuf." + kind
        value.value = messages.nested(depth)
        field.run(exchange(field, "InvokeFunction", request.SerializeToString()))


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
def test_json_nested_deep(field: Field, depth: int) -> None:
    request = steady()
    parameter = request.parameters.add(name="x", type="json")
    parameter.value.value = b"[" * depth + b"]" * depth
    field.run(exchange(field, "InvokeFunction", request.SerializeToString()))


def of_size(n_bytes: int) -> pb.InvokeFunctionRequest:
    """A request whose message has exactly that size."""
    request = steady()
    value = request.parameters.add(name="x").value
    value.value = b"x" * n_bytes
    value.value = b"x" * (n_bytes - (request.ByteSize() - n_bytes))
    assert request.ByteSize() == n_bytes
    return request


@pytest.mark.parametrize("over", [-1, 0, 1, 1_000_000])
def test_messages_at_and_over_the_limit(field: Field, over: int) -> None:
    content = of_size(MAX_MESSAGE_BYTES + over).SerializeToString()
    answer = field.run(ask(field, "InvokeFunction", content))
    field.run(field.at_rest())
    assert (answer is StatusCode.RESOURCE_EXHAUSTED) == (over > 0)


def test_an_answer_over_the_limit(field: Field) -> None:
    """A function may return more than a message can hold."""
    code = f"def main():\n    return b'x' * {MAX_MESSAGE_BYTES + 1}\n".encode()
    field.run(field.service.deploy("huge", code, filename="huge.py"))
    request = pb.InvokeFunctionRequest(task_id="huge", execution_mode=1)
    for rpc in ("InvokeFunction", "StreamFunction"):
        field.run(exchange(field, rpc, request.SerializeToString()))


def test_a_client_that_vanishes_ends_its_stream(field: Field) -> None:
    code = (
        b"import time\ndef main():\n    while True:\n        yield 'x'\n        time.sleep(0.01)\n"
    )
    field.run(field.service.deploy("endless", code, filename="endless.py"))

    async def vanish() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{field.grpc_port}") as channel:
            call = channel.unary_stream("/spearlet.FunctionService/StreamFunction")(
                pb.InvokeFunctionRequest(task_id="endless").SerializeToString()
            )
            await call.read()
        await field.at_rest()

    field.run(vanish())


@pytest.mark.parametrize("same", ["grpc+grpc", "grpc+http", "http+http"])
def test_one_execution_id_twice_at_once_is_one_run(field: Field, same: str) -> None:
    """Both callers get the one answer, whichever door each of them took."""
    code = (
        b"import os, time\n"
        b"def main(event):\n    time.sleep(0.1)\n    return {'run': os.urandom(8).hex()}\n"
    )
    field.run(field.service.deploy("once", code, filename="once.py"))
    key = f"twice-{same}"

    async def over_grpc() -> Any:
        request = pb.InvokeFunctionRequest(task_id="once", execution_mode=1, execution_id=key)
        parameter = request.parameters.add(name="who", type="json")
        parameter.value.value = b'"Ada"'
        answer = pb.InvokeFunctionResponse.FromString(
            await field.unary("InvokeFunction", request.SerializeToString())
        )
        assert answer.success, answer
        assert answer.execution_id == key
        return json.loads(answer.result.result.value)

    async def over_http() -> Any:
        answer = await field.http.post(
            "/functions/once", json={"who": "Ada"}, headers={"Idempotency-Key": key}
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["atlatl-execution-id"] == key
        return answer.json()

    async def both() -> None:
        doors = {"grpc": over_grpc, "http": over_http}
        before = field.service.stats().completed
        answers = await asyncio.gather(*(doors[door]() for door in same.split("+") for _ in "ab"))
        assert len({answer["run"] for answer in answers}) == 1, answers
        assert field.service.stats().completed == before + 1
        later = [await doors[door]() for door in same.split("+")]
        assert [*later] == answers[:2]

    field.run(both())


def test_without_a_token_everything_that_needs_one_says_so(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    open_ones = {"InvokeFunction", "StreamFunction", "GetExecutionStatus", "GetHealth", "GetStats"}

    async def statuses(field: Field) -> dict[str, Any]:
        return {rpc: await ask(field, rpc, b"") for rpc in ALL}

    with opened(tmp_path_factory.mktemp("auth") / "data", required="auto") as field:
        for rpc, answer in field.run(statuses(field)).items():
            refused = answer is StatusCode.UNAUTHENTICATED
            assert refused == (rpc not in open_ones), (rpc, answer)
