"""A Runtime without processes: functions run in the test's own loop, or as a script says.

It keeps the promises of `atlatl.ports` (the contract suite runs over it), so the engine can be
tested on it, on the virtual clock too.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import traceback
import types
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from atlatl.errors import (
    ArtifactInvalid,
    AtlatlError,
    Cancelled,
    FunctionRaised,
    InstanceCrashed,
    InstanceLost,
    ResultInvalid,
)
from atlatl.model import Call, Encoded, Outcome, OutcomeKind, Result, Shape, Task, failed
from atlatl.ports import Done, OnChunk
from atlatl.runtimes.answers import KINDS, Joined
from atlatl.settings import TaskSettings
from atlatl_worker import binding, shapes
from atlatl_worker.api import Context
from atlatl_worker.results import ResultError, encode_result

Script = Callable[[Call], Outcome | None]
"""Says how a call ends; None lets it run for ever (until it is cancelled)."""


class FakeChannel:
    """One instance. `crash()` and `finish()` are for tests."""

    origin = "blank"
    process_s = 0.0
    takes_ahead = False

    def __init__(
        self, instance_id: str, module: types.ModuleType, task: Task, script: Script | None
    ) -> None:
        self.id = instance_id
        self.pid = 0
        self.task = task
        self.on_lost: Callable[[AtlatlError], None] | None = None
        self.accepting = True
        self.sent: list[Call] = []
        self._script = script
        self._calls: dict[str, Done] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._credit: dict[str, asyncio.Semaphore] = {}
        self._functions = shapes.public_functions(module)
        self._found = {name: shapes.read_shape(name, f) for name, f in self._functions.items()}
        plain = {name: shape.plain() for name, shape in self._found.items()}
        self.shapes = msgspec.convert(plain, dict[str, Shape])

    # --- the port ---

    def send(
        self,
        call: Call,
        encoded: Encoded,
        done: Done,
        *,
        deadline: float,
        attempt: int = 1,
        on_chunk: OnChunk | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        if not self.accepting:
            loop.call_soon(done, failed(InstanceLost("the instance has ended")))
            return
        self.sent.append(call)
        self._calls[call.execution_id] = done
        if self._script is not None:
            outcome = self._script(call)
            if outcome is not None:
                loop.call_soon(self.finish, call.execution_id, outcome)
            return
        context = Context(call.execution_id, deadline, attempt, task_name=self.task.name)
        self._credit[call.execution_id] = asyncio.Semaphore(0)
        work = loop.create_task(self._run(call, encoded, context, on_chunk))
        self._work[call.execution_id] = work

    def credit(self, execution_id: str, n_bytes: int) -> None:
        if execution_id in self._credit:
            self._credit[execution_id].release()

    def cancel(self, execution_id: str, *, grace_s: float | None = None) -> None:
        if execution_id not in self._calls:
            return
        if len(self._calls) == 1 and not grace_s:
            self.accepting = False
        work = self._work.pop(execution_id, None)
        if work is not None:
            work.cancel()
        loop = asyncio.get_running_loop()
        loop.call_soon(self.finish, execution_id, failed(Cancelled("the call was cancelled")))

    def take_back(self) -> None:
        """It begins whatever it gets."""

    def memory_bytes(self) -> int:
        return 1 if self.accepting else 0

    async def ping(self) -> None:
        await asyncio.sleep(0)
        if not self.accepting:
            raise InstanceLost("the instance has ended")

    def kill(self) -> None:
        self._end(InstanceLost("the instance was ended by the service"))

    async def stop(self, grace_s: float) -> None:
        self.kill()
        await asyncio.sleep(0)

    # --- for tests ---

    def finish(self, execution_id: str, outcome: Outcome) -> None:
        """Ends a call with that outcome; a call that has ended already stays as it is."""
        done = self._calls.pop(execution_id, None)
        self._work.pop(execution_id, None)
        self._credit.pop(execution_id, None)
        if done is not None:
            done(outcome)

    def crash(self, message: str = "exited with code 1") -> None:
        """Dies as a process would, calls and all."""
        if not self.accepting:
            return
        kind = InstanceCrashed if len(self._calls) == 1 else InstanceLost
        self._end(kind(f"the instance {message} while it ran this call"))
        if self.on_lost is not None:
            self.on_lost(InstanceLost(f"the instance {message}"))

    def _end(self, error: AtlatlError) -> None:
        self.accepting = False
        for work in self._work.values():
            work.cancel()
        for execution_id in list(self._calls):
            self.finish(execution_id, failed(error))

    # --- running ---

    async def _run(
        self, call: Call, encoded: Encoded, context: Context, on_chunk: OnChunk | None
    ) -> None:
        try:
            result = await self._value(call, encoded, context, on_chunk)
            outcome = Outcome(kind=OutcomeKind.SUCCESS, result=result, instance_id=self.id)
        except asyncio.CancelledError:
            return
        except ResultError as error:
            outcome = failed(ResultInvalid(str(error)))
        except AtlatlError as error:
            outcome = failed(error)
        except (Exception, SystemExit) as error:
            outcome = failed(FunctionRaised(f"{type(error).__name__}: {error}"))
        self.finish(call.execution_id, outcome)

    async def _value(
        self, call: Call, encoded: Encoded, context: Context, on_chunk: OnChunk | None
    ) -> Result | None:
        name = call.function or self.task.function
        meta = {"payload": encoded.kind, **encoded.meta}
        arguments, named = binding.bind(self._found[name], meta, encoded.body, context)
        value = self._functions[name](*arguments, **named)
        if inspect.isawaitable(value):
            value = await value
        if not inspect.isgenerator(value) and not inspect.isasyncgen(value):
            return _result(name, value)
        joined = Joined()
        async for item in _items(value):
            chunk = _result(name, item)
            if on_chunk is None:
                joined.add(chunk)
            else:
                on_chunk(chunk)
                await self._credit[call.execution_id].acquire()
        return joined.result() if on_chunk is None else None


async def _items(value: Any) -> AsyncIterator[Any]:
    if inspect.isasyncgen(value):
        async for item in value:
            yield item
    else:
        for item in value:
            yield item


def _result(name: str, value: Any) -> Result:
    content, body, meta = encode_result(name, value)
    if not meta:
        return Result(kind=KINDS[content], body=body)
    headers = tuple(meta["headers"])
    return Result(kind="response", body=body, status=meta["status"], headers=headers)


class FakeRuntime:
    """Starts `FakeChannel`s.

    Args:
        script: how calls end; None runs the functions.
        start_s: how long a start takes.
        fails: raised by the next starts, in order.
    """

    def __init__(
        self,
        script: Script | None = None,
        start_s: float = 0.0,
        fails: list[AtlatlError] | None = None,
    ) -> None:
        self.script = script
        self.start_s = start_s
        self.fails = fails or []
        self.channels: list[FakeChannel] = []
        self.ready = False
        self.reserve = None
        self.lacking: list[str] = []
        """What it says that it cannot keep."""
        self._numbers = itertools.count(1)

    async def open(self) -> None:
        self.ready = True

    def not_kept(self, settings: TaskSettings) -> list[str]:
        return self.lacking

    async def start(self, task: Task, code: Path, deps: Path | None) -> FakeChannel:
        await asyncio.sleep(self.start_s)
        if self.fails:
            raise self.fails.pop(0)
        module = _load(task, code)
        channel = FakeChannel(f"fake-{next(self._numbers)}", module, task, self.script)
        if task.function not in channel.shapes:
            raise ArtifactInvalid(f"the artifact has no function {task.function!r}")
        self.channels.append(channel)
        return channel

    async def close(self) -> None:
        self.ready = False
        for channel in self.channels:
            channel.kill()


def _load(task: Task, code: Path) -> types.ModuleType:
    file = task.handler.rpartition(":")[0]
    module = types.ModuleType(file.removesuffix(".py"))
    try:
        exec(compile((code / file).read_text(), file, "exec"), module.__dict__)
    except SyntaxError as error:
        raise ArtifactInvalid(f"{file}, line {error.lineno}: SyntaxError: {error.msg}") from None
    except Exception as error:
        line = [line for _, line in traceback.walk_tb(error.__traceback__)][1]
        raise ArtifactInvalid(f"{file}, line {line}: {type(error).__name__}: {error}") from None
    return module
