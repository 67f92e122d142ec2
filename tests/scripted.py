"""Instances whose calls say themselves how long they take and how they end.

A call's payload is `Event({"s": seconds, "then": outcome})`; outcomes are `ok`, `raise`,
`crash` (the instance dies), `hang` (until it is cancelled).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from atlatl.core.admission import ByteBudget, Gate
from atlatl.engine.breaker import Breakers
from atlatl.engine.executions import Executions
from atlatl.engine.manager import TaskExecutionManager
from atlatl.engine.pool import InstancePool
from atlatl.engine.registry import Deployed, Registry
from atlatl.errors import (
    AtlatlError,
    Cancelled,
    FunctionRaised,
    InstanceCrashed,
    InstanceLost,
    StartFailed,
)
from atlatl.events import Event as Happened
from atlatl.model import (
    Artifact,
    Call,
    Encoded,
    Event,
    Execution,
    Outcome,
    OutcomeKind,
    Result,
    Shape,
    Task,
    failed,
)
from atlatl.ports import Done, InstanceChannel, OnChunk, Store
from atlatl.settings import Settings, task_settings
from atlatl.stores.memory import MemoryStore

KILL_S = 0.05
"""How long a killed process takes to be gone."""


class ScriptedChannel:
    origin = "blank"
    process_s = 0.0
    takes_ahead = False

    def __init__(self, instance_id: str, shapes: dict[str, Shape]) -> None:
        self.id = instance_id
        self.pid = 1
        self.shapes = shapes
        self.on_lost: Callable[[AtlatlError], None] | None = None
        self.accepting = True
        self.dead = False
        self.attempts: list[int] = []
        self._calls: dict[str, tuple[Done, asyncio.TimerHandle | None]] = {}

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
        assert not self.dead
        assert not self._calls, "an instance was leased twice"
        self.attempts.append(attempt)
        script = msgspec.json.decode(encoded.body)
        loop = asyncio.get_running_loop()
        timer = None
        if script["then"] != "hang":
            timer = loop.call_later(script["s"], self._finish, call.execution_id, script["then"])
        self._calls[call.execution_id] = (done, timer)

    def _finish(self, execution_id: str, how: str) -> None:
        done, _ = self._calls.pop(execution_id)
        if how == "ok":
            result = Result(kind="json", body=b'"ok"')
            done(Outcome(kind=OutcomeKind.SUCCESS, result=result, instance_id=self.id))
        elif how == "raise":
            done(failed(FunctionRaised("ValueError: no")))
        else:
            self._die(done, InstanceCrashed("the instance exited with 1"))

    def _die(self, done: Done | None, error: AtlatlError) -> None:
        self.dead, self.accepting = True, False
        if done is not None:
            done(failed(error))
        if self.on_lost is not None:
            self.on_lost(InstanceLost("gone"))

    def die_now(self) -> None:
        """The process dies by itself, whatever it was doing."""
        calls, self._calls = self._calls, {}
        self.dead, self.accepting = True, False
        for done, timer in calls.values():
            if timer is not None:
                timer.cancel()
            done(failed(InstanceCrashed("killed by signal 9 (SIGKILL)")))
        if self.on_lost is not None:
            self.on_lost(InstanceLost("gone"))

    def cancel(self, execution_id: str, *, grace_s: float | None = None) -> None:
        _, timer = self._calls[execution_id]
        loop = asyncio.get_running_loop()
        if grace_s:
            # It goes on, and ends by itself if its time comes before the grace is over.
            loop.call_later(grace_s, self._cut_off, execution_id)
            return
        if timer is not None:
            timer.cancel()
        self._cut_off(execution_id)

    def _cut_off(self, execution_id: str) -> None:
        if execution_id in self._calls:
            self.accepting = False
            asyncio.get_running_loop().call_later(KILL_S, self._ended, execution_id)

    def _ended(self, execution_id: str) -> None:
        if execution_id in self._calls:
            done, _ = self._calls.pop(execution_id)
            self._die(done, Cancelled("killed"))

    def credit(self, execution_id: str, n_bytes: int) -> None: ...
    def memory_bytes(self) -> int:
        return 1

    async def ping(self) -> None: ...
    def kill(self) -> None:
        calls, self._calls = self._calls, {}
        self.dead = True
        for done, timer in calls.values():
            if timer is not None:
                timer.cancel()
            done(failed(InstanceLost("killed")))

    async def stop(self, grace_s: float) -> None:
        assert not self._calls, "an instance in use was stopped"
        self.dead = True


class House:
    """A manager with one scripted task, to be made inside a running loop."""

    def __init__(
        self, settings: Settings | None = None, *, store: Store | None = None, **overrides: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        self.settings = settings or Settings()
        self.events: list[Happened] = []
        self.channels: list[ScriptedChannel] = []
        self.failing_starts = 0
        self.answers: dict[str, list[Execution]] = {}
        self._ids = itertools.count(1)
        self.clock = loop.time
        self.gate = Gate(
            self.settings.limits.max_concurrent_executions,
            self.settings.limits.max_queued_executions,
        )
        self.breakers = Breakers(clock=loop.time)
        self.registry = Registry()
        self.store = store or MemoryStore()
        self.executions = Executions(self.settings, self.store, clock=loop.time, wall=loop.time)
        self.opening = loop.create_task(self._open())
        self.bytes = ByteBudget(self.settings.limits.max_inflight_bytes)
        self.manager = TaskExecutionManager(
            self.registry,
            self.bytes,
            self.executions,
            self,
            clock=loop.time,
            wall=loop.time,
            chance=lambda: 0.5,
        )
        self.deployed = self.deploy("task", **overrides)

    async def _open(self) -> None:
        await self.store.open()
        await self.executions.open()

    def emit(self, event: Happened) -> None:
        self.events.append(event)

    def deploy(self, name: str, **overrides: Any) -> Deployed:
        task = self._task(name, 1, overrides)
        breaker = self.breakers.get(name, task.settings.breaker)
        deployed = Deployed(task, self._pool(task), breaker, self.clock())
        self.registry.add(deployed)
        return deployed

    def redeploy(self) -> InstancePool:
        """A new version of the task takes over; returns the old pool, to be closed."""
        task = self._task("task", self.deployed.task.version + 1, self.deployed.task.overrides)
        old = self.deployed.pool
        breaker = self.breakers.renew("task", task.settings.breaker)
        self.deployed.switch(task, self._pool(task), breaker, self.clock())
        self.deployed.pool.adopt(old.take_waiters())
        return old

    def _task(self, name: str, version: int, overrides: dict[str, Any]) -> Task:
        return Task(
            task_id=f"id-{name}",
            name=name,
            version=version,
            artifact=Artifact("a", "1", "c" * 64, "main.py", 1),
            handler="main.py:main",
            overrides=overrides,
            settings=task_settings(self.settings, overrides),
            shapes={"main": Shape(function="main", kind="event")},
        )

    def _pool(self, task: Task) -> InstancePool:
        async def start() -> InstanceChannel:
            await asyncio.sleep(0.05)
            if self.failing_starts:
                self.failing_starts -= 1
                raise StartFailed("no process")
            channel = ScriptedChannel(f"i{len(self.channels)}", task.shapes)
            self.channels.append(channel)
            return channel

        return InstancePool(
            task.name,
            _typed(start),
            pool=task.settings.pool,
            scaling=task.settings.scaling,
            gate=self.gate,
            clock=self.clock,
            on_event=self.emit,
        )

    def call(self, then: str = "ok", s: float = 0.1, **fields: Any) -> Call:
        return Call(
            **{
                "execution_id": f"e{next(self._ids)}",
                "task_name": "task",
                "payload": Event(value={"s": s, "then": then}),
                **fields,
            }
        )

    def start(self, call: Call) -> Any:
        answers = self.answers.setdefault(call.execution_id, [])
        return self.manager.start(call, answers.append)

    async def run(self, then: str = "ok", s: float = 0.1, **fields: Any) -> Execution:
        """The final record of one call."""
        future: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        self.manager.start(self.call(then, s, **fields), future.set_result)
        return await future


def _typed(start: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[InstanceChannel]]:
    return start
