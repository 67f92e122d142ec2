"""How a caller brings about each error that a caller can bring about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

from atlatl import errors
from atlatl.errors import AtlatlError
from atlatl.stores.sqlite import SqliteStore
from tests.contract.fronts.front import Answer, Front
from tests.contract.fronts.stand import CODE, MAX_BYTES, Stand
from tests.notes import Notes

GATED = """
import os, socket
try:
    socket.create_connection(("127.0.0.1", {port})).close()
except OSError:
    os._exit(3)
"""
"""Before a function's source: it imports as long as somebody listens."""

Provoke = Callable[[Front, Stand], Awaitable[Answer]]
"""Gives the answer that has the error; what is special about it is checked there."""


@asynccontextmanager
async def held(
    front: Front, stand: Stand, name: str, *, in_use: int = 1, **arguments: Any
) -> AsyncIterator[str]:
    """Inside, one more instance of a task is taken, by the call whose id this gives."""
    execution_id = stand.new_name("held")
    call = front.begin(name, {"s": 60.0, **arguments}, execution_id=execution_id)
    await stand.busy(name, in_use=in_use)
    try:
        yield execution_id
    finally:
        await front.cancel(execution_id)
        await call


async def _invalid(front: Front, stand: Stand) -> Answer:
    answer = await front.call(await stand.task("greet"), {"times": 2})
    assert "name" in answer.message
    return answer


async def _unknown_task(front: Front, stand: Stand) -> Answer:
    return await front.call("nobody")


async def _raised(front: Front, stand: Stand) -> Answer:
    answer = await front.call(await stand.task("boom"))
    assert "no such luck" in answer.message
    return answer


async def _no_json(front: Front, stand: Stand) -> Answer:
    return await front.call(await stand.task("a_set"))


async def _out_of_memory(front: Front, stand: Stand) -> Answer:
    return await front.call(await stand.task("no_memory"))


async def _killed_for_memory(front: Front, stand: Stand) -> Answer:
    answer = await front.call(await stand.deploy("hog", confinement={"memory_bytes": 64 << 20}))
    assert "out of memory" in answer.message
    assert "limit 64 MiB (`confinement.memory_bytes`)" in answer.message
    return answer


async def _too_much_cpu(front: Front, stand: Stand) -> Answer:
    answer = await front.call(await stand.deploy("spin", confinement={"cpu_s": 0.1}))
    assert "more than 0.1 s of CPU time (`confinement.cpu_s`)" in answer.message
    return answer


async def _crashed(front: Front, stand: Stand) -> Answer:
    answer = await front.call(await stand.task("leave"))
    assert "7" in answer.message
    return answer


async def _timed_out(front: Front, stand: Stand) -> Answer:
    name = await stand.deploy("count")
    answer = await front.call(name, {"s": 60.0}, timeout_ms=100)
    await stand.until(lambda: answer.instance_id not in stand.instance_ids(), "end of the instance")
    return answer


async def _timed_out_waiting(front: Front, stand: Stand) -> Answer:
    name = await stand.deploy("count", pool={"max_size": 1})
    async with held(front, stand, name):
        answer = await front.call(name, timeout_ms=100)
    assert "before an instance was free" in answer.message
    return answer


async def _cancelled(front: Front, stand: Stand) -> Answer:
    name, execution_id = await stand.deploy("count"), stand.new_name("count")
    waiting = front.begin(name, {"s": 60.0}, execution_id=execution_id)
    await stand.busy(name)
    assert await front.cancel(execution_id) == (True, "CANCELLED")
    return await waiting


async def _queue_full(front: Front, stand: Stand) -> Answer:
    name = await stand.deploy("count", pool={"max_size": 1, "max_waiting": 1})
    async with held(front, stand, name):
        waiting = front.begin(name)
        await stand.busy(name, waiting=1)
        answer = await front.call(name)
    assert (await waiting).status == "COMPLETED"
    return answer


async def _rate_limited(front: Front, stand: Stand) -> Answer:
    name = await stand.deploy("count", rate_limit_per_s=0.5)
    assert (await front.call(name)).status == "COMPLETED"
    answer = await front.call(name)
    assert answer.retry_after_s is not None
    assert answer.retry_after_s <= 2
    return answer


async def _circuit_open(front: Front, stand: Stand) -> Answer:
    breaker = {"enabled": True, "failure_threshold": 1, "timeout_s": 30}
    name = await stand.deploy("boom", breaker=breaker)
    assert (await front.call(name)).code == "EXECUTION_ERROR"
    answer = await front.call(name)
    assert answer.retry_after_s is not None
    assert 10 < answer.retry_after_s <= 30
    return answer


async def _conflict(front: Front, stand: Stand) -> Answer:
    name, execution_id = await stand.task("greet"), stand.new_name("greet")
    await front.call(name, {"name": "Ada"}, execution_id=execution_id)
    return await front.call(name, {"name": "Bob"}, execution_id=execution_id)


async def _too_large(front: Front, stand: Stand) -> Answer:
    return await front.call(await stand.task("echo"), b"x" * (MAX_BYTES + 1))


async def _no_room(front: Front, stand: Stand) -> Answer:
    """The second body does not fit beside the first one."""
    name, pad = await stand.deploy("count"), "x" * (MAX_BYTES * 3 // 5)
    async with held(front, stand, name, pad=pad), held(front, stand, name, in_use=2, pad=pad):
        return await front.call(name, {"pad": pad})


async def _no_import(front: Front, stand: Stand) -> Answer:
    """Its module imports when it is deployed, and ends the process from then on."""
    name = stand.new_name("gated")
    with Notes() as deploying:
        code = GATED.format(port=deploying.port).encode() + CODE
        await stand.deploy("leave", name=name, code=code)
    assert (await front.call(name)).code == "INSTANCE_CRASHED"
    return await front.call(name)


async def _store_gone(front: Front, stand: Stand) -> Answer:
    """Only a call with an id needs the store before it begins."""
    gone = errors.StoreUnavailable("the disk is gone", retry_after_s=1.0)
    with mock.patch.object(SqliteStore, "claim_execution", side_effect=gone):
        assert (await front.call(await stand.task("seen"))).status == "COMPLETED"
        return await front.call(await stand.task("seen"), execution_id=stand.new_name("seen"))


PROVOKED: dict[type[AtlatlError], Provoke] = {
    errors.InvalidRequest: _invalid,
    errors.TaskNotFound: _unknown_task,
    errors.FunctionRaised: _raised,
    errors.ResultInvalid: _no_json,
    errors.OutOfMemory: _out_of_memory,
    errors.KilledOutOfMemory: _killed_for_memory,
    errors.CpuTimeExceeded: _too_much_cpu,
    errors.InstanceCrashed: _crashed,
    errors.TimedOut: _timed_out,
    errors.TimedOutWaiting: _timed_out_waiting,
    errors.Cancelled: _cancelled,
    errors.QueueFull: _queue_full,
    errors.RateLimited: _rate_limited,
    errors.CircuitOpenError: _circuit_open,
    errors.Conflict: _conflict,
    errors.PayloadTooLarge: _too_large,
    errors.NoCapacity: _no_room,
    errors.ArtifactInvalid: _no_import,
    errors.StoreUnavailable: _store_gone,
}
HINTED = {
    errors.QueueFull,
    errors.RateLimited,
    errors.CircuitOpenError,
    errors.NoCapacity,
    errors.StoreUnavailable,
}
"""Errors that say when to try again."""
