"""What every Runtime promises, over the fake one and over processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from atlatl.errors import (
    ArtifactInvalid,
    AtlatlError,
    Cancelled,
    FunctionRaised,
    InstanceLost,
    InvalidRequest,
    ResultInvalid,
    StartFailed,
    UnsupportedOperation,
)
from atlatl.model import Event, HttpRequest, OutcomeKind, Result, Task
from atlatl.ports import InstanceChannel, Runtime
from atlatl.runtimes.manager import RuntimeManager
from atlatl.runtimes.process import ProcessRuntime
from tests.fakes import FakeRuntime
from tests.running import (
    ALWAYS,
    begin,
    call,
    forked,
    opened,
    process_runtime,
    task_of,
    until,
    value,
)

pytestmark = pytest.mark.slow  # real processes, sockets or packages: `make test`

Scenario = Callable[[InstanceChannel], Awaitable[None]]

SOURCE = """
import asyncio, time
from atlatl_worker import Response, Request

count = 0

def main(name: str = "you", times: int = 1):
    return {"hello": name * times}

def state():
    global count
    count += 1
    return count

def event(event, context):
    return [event, context.execution_id != "", context.attempt, context.task_name]

def web(request: Request):
    return Response(request.method + request.path, 201, {"x-q": request.query["q"]})

def naps(seconds: float):
    time.sleep(seconds)
    return ["slept"]

def text(): return "plain"
def raw(): return b"\\xff"
def fails(): raise ValueError("broken on purpose")
def leaves(): raise SystemExit(3)
def a_set(): return {1}

def items(n: int):
    for i in range(n):
        yield i

def words():
    yield "one "
    yield "two"

def breaks_off():
    yield 1
    raise ValueError("in the middle")
"""

ASYNC_SOURCE = """
import asyncio

async def main(seconds: float = 0):
    await asyncio.sleep(seconds)
    return ["slept"]

async def forever():
    await asyncio.Event().wait()

async def items(n: int):
    for i in range(n):
        yield i
"""


def make(kind: str) -> Runtime:
    if kind == "fake":
        return FakeRuntime()
    return process_runtime(ALWAYS if kind == "task zygote" else None)


async def started(kind: str, runtime: Runtime, task: Task, code: Path) -> InstanceChannel:
    if kind == "task zygote":
        assert isinstance(runtime, ProcessRuntime)
        return await forked(runtime, task, code)
    return await runtime.start(task, code, None)


@pytest.fixture(params=["fake", "process", "task zygote"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def check(
    kind: str, folder: Path, scenario: Scenario, source: str = SOURCE, **settings: Any
) -> None:
    async def run() -> None:
        async with opened(make(kind)) as runtime:
            task, code = task_of(folder, source, **settings)
            await scenario(await started(kind, runtime, task, code))

    asyncio.run(run())


def test_a_function_is_called_and_answers(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        outcome = await call(channel, {"name": "Ada", "times": 2})
        assert value(outcome) == {"hello": "AdaAda"}
        assert outcome.kind is OutcomeKind.SUCCESS
        assert outcome.instance_id == channel.id

    check(kind, tmp_path, scenario)


def test_two_calls_share_one_instance_d75(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        assert [value(await call(channel, function="state")) for _ in range(3)] == [1, 2, 3]

    check(kind, tmp_path, scenario)


def test_shapes_of_every_public_function(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        assert {"main", "state", "event", "web", "items"} <= set(channel.shapes)
        assert channel.shapes["event"].wants_context
        assert channel.shapes["items"].streams
        assert [p.name for p in channel.shapes["main"].parameters] == ["name", "times"]

    check(kind, tmp_path, scenario)


def test_events_requests_and_contexts(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        outcome = await call(channel, Event(value=[1]), function="event", attempt=2)
        assert value(outcome) == [[1], True, 2, "sample"]
        request = HttpRequest(method="PUT", path="/p", query="q=7", headers={}, body=b"")
        answer = (await call(channel, request, function="web")).result
        assert answer is not None
        assert (answer.kind, answer.status, answer.body) == ("response", 201, b"PUT/p")
        assert ("x-q", "7") in answer.headers

    check(kind, tmp_path, scenario)


def test_text_and_bytes_stay_what_they_are(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        text = await call(channel, function="text")
        raw = await call(channel, function="raw")
        assert text.result == Result(kind="text", body=b"plain")
        assert raw.result == Result(kind="bytes", body=b"\xff")

    check(kind, tmp_path, scenario)


@pytest.mark.parametrize(
    ("function", "error", "word"),
    [
        ("fails", FunctionRaised, "ValueError: broken on purpose"),
        ("leaves", FunctionRaised, "SystemExit"),
        ("a_set", ResultInvalid, "set"),
        ("breaks_off", FunctionRaised, "in the middle"),
    ],
)
def test_a_failing_function_fails_alone(
    kind: str, tmp_path: Path, function: str, error: type[AtlatlError], word: str
) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        outcome = await call(channel, function=function)
        assert type(outcome.error) is error
        assert word in str(outcome.error)
        assert value(await call(channel, {"name": "x"})) == {"hello": "x"}

    check(kind, tmp_path, scenario)


def test_a_stream_comes_item_by_item_or_joined(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        seen: list[bytes] = []

        def on_chunk(item: Result) -> None:
            seen.append(item.body)
            loop = asyncio.get_running_loop()
            loop.call_soon(channel.credit, running.execution_id, len(item.body))

        running = begin(channel, {"n": 4}, function="items", on_chunk=on_chunk)
        assert (await running.end()).kind is OutcomeKind.SUCCESS
        assert seen == [b"0", b"1", b"2", b"3"]
        assert value(await call(channel, {"n": 3}, function="items")) == [0, 1, 2]
        assert (await call(channel, function="words")).result == Result(
            kind="text", body=b"one two"
        )

    check(kind, tmp_path, scenario)


def test_the_only_call_is_cancelled_with_its_instance(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        running = begin(channel, function="forever")
        channel.cancel(running.execution_id)
        outcome = await running.end()
        assert isinstance(outcome.error, Cancelled)
        assert not channel.accepting
        assert len(running.answers) == 1

    check(kind, tmp_path, scenario, ASYNC_SOURCE)


def test_one_of_several_is_cancelled_alone(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        other = begin(channel, {"seconds": 0.2})
        stuck = begin(channel, function="forever")
        channel.cancel(stuck.execution_id)
        assert isinstance((await stuck.end()).error, Cancelled)
        assert (await other.end()).kind is OutcomeKind.SUCCESS
        await until(lambda: channel.accepting)
        assert (await call(channel)).kind is OutcomeKind.SUCCESS

    settings = {"pool": {"max_concurrent_requests": 8}}
    check(kind, tmp_path, scenario, ASYNC_SOURCE, **settings)


def test_only_what_was_sent_ahead_is_taken_back(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        running = begin(channel, {"seconds": 0.3}, function="naps")
        ahead = [begin(channel, {"name": "b"}) for _ in range(3 * channel.takes_ahead)]
        channel.take_back()
        assert [each.answers for each in ahead] == [[None]] * len(ahead)
        assert channel.takes_ahead == (kind != "fake" and not ahead)
        assert value(await running.end()) == ["slept"]
        assert value(await call(channel, {"name": "c"})) == {"hello": "c"}
        assert channel.takes_ahead == (kind != "fake")
        channel.take_back()

    check(kind, tmp_path, scenario)


def test_instances_of_async_functions_take_no_calls_ahead(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        assert not channel.takes_ahead
        running = begin(channel, {"seconds": 0.05})
        channel.take_back()
        assert (await running.end()).kind is OutcomeKind.SUCCESS

    check(kind, tmp_path, scenario, ASYNC_SOURCE)


def test_killed_and_stopped_instances_answer_what_they_had(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        told: list[AtlatlError] = []
        channel.on_lost = told.append
        running = begin(channel, function="forever")
        channel.kill()
        assert isinstance((await running.end()).error, InstanceLost)
        await channel.stop(1)
        with pytest.raises(InstanceLost):
            await channel.ping()
        late = begin(channel)
        assert late.answers == []
        assert isinstance((await late.end()).error, InstanceLost)
        assert told == []

    check(kind, tmp_path, scenario, ASYNC_SOURCE)


def test_a_ping_is_answered_and_memory_measured(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        await channel.ping()
        assert await asyncio.to_thread(channel.memory_bytes) > 0

    check(kind, tmp_path, scenario)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("import no_such_module_here\n", "app.py, line 1: ModuleNotFoundError"),
        ("x = 1\ndef main(:\n", "app.py, line 2: SyntaxError"),
        ("def other(): ...\n", "no function 'main'"),
        ("1 / 0\ndef main(): ...\n", "app.py, line 1: ZeroDivisionError"),
    ],
)
def test_code_that_does_not_import_is_an_invalid_artifact(
    kind: str, tmp_path: Path, source: str, word: str
) -> None:
    async def run() -> None:
        async with opened(make(kind)) as runtime:
            task, code = task_of(tmp_path, source)
            with pytest.raises(ArtifactInvalid, match=word):
                await runtime.start(task, code, None)

    asyncio.run(run())


def test_the_manager_refuses_unknown_runtimes_d63_d71(kind: str, tmp_path: Path) -> None:
    async def run() -> None:
        manager = RuntimeManager()
        with pytest.raises(StartFailed, match="no runtime is registered"):
            await manager.open()
        manager.register("process", make(kind))
        with pytest.raises(ValueError, match="registered already"):
            manager.register("process", make(kind))
        assert not manager.ready
        async with opened(manager):
            assert manager.ready
            task, code = task_of(tmp_path, SOURCE)
            assert value(await call(await manager.start(task, code, None))) == {"hello": "you"}
            strange, code = task_of(tmp_path, SOURCE, runtime="shell")
            with pytest.raises(UnsupportedOperation, match=r"'shell'.*process"):
                await manager.start(strange, code, None)
        assert not manager.ready

    asyncio.run(run())


def test_bad_arguments_are_found_before_an_instance_is_asked(kind: str, tmp_path: Path) -> None:
    async def scenario(channel: InstanceChannel) -> None:
        with pytest.raises(InvalidRequest, match="`times`"):
            begin(channel, {"times": "many"})

    check(kind, tmp_path, scenario)
