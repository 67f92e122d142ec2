"""The CPU time of calls, on a clock that jumps and an instance that is made up."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from atlatl.runtimes.cpu_time import CpuGuard, cpu_time_s
from tests.virtual_time import virtual


class Instance:
    """Uses so many processors from its first moment on."""

    def __init__(self, processors: float, limit_s: float = 1.0, cores: int = 2) -> None:
        self.loop = asyncio.get_running_loop()
        self.processors, self.born_at = processors, self.loop.time()
        self.ended_at: list[float] = []
        self.looks = 0
        self.guard = CpuGuard(limit_s, cores, self.used_s, self.end)

    def used_s(self) -> float | None:
        self.looks += 1
        return (self.loop.time() - self.born_at) * self.processors

    def end(self) -> None:
        self.ended_at.append(self.loop.time())


@virtual
@pytest.mark.parametrize(("processors", "ends_at"), [(2.0, 0.5), (1.0, 1.0), (0.5, 2.0)])
async def test_a_call_is_ended_when_it_has_used_its_time(processors: float, ends_at: float) -> None:
    instance = Instance(processors)
    instance.guard.begin()
    await asyncio.sleep(5)
    [at] = instance.ended_at
    assert ends_at <= at < ends_at + 0.02
    assert instance.looks < 40


@virtual
async def test_what_was_used_before_does_not_count() -> None:
    instance = Instance(1.0)
    for _ in range(10):
        instance.guard.begin()
        await asyncio.sleep(0.9)
        instance.guard.rest()
    assert not instance.ended_at
    instance.guard.begin()
    await asyncio.sleep(1.1)
    assert instance.ended_at


@virtual
async def test_calls_at_once_may_use_the_time_of_each() -> None:
    instance = Instance(1.0)
    instance.guard.begin()
    instance.guard.join()
    await asyncio.sleep(1.9)
    assert not instance.ended_at
    await asyncio.sleep(0.2)
    assert instance.ended_at


@virtual
async def test_one_that_has_ended_is_left_alone() -> None:
    instance = Instance(1.0)
    instance.guard.begin()
    instance.guard.close()
    gone = CpuGuard(1.0, 1, lambda: None, instance.end)
    gone.begin()
    await asyncio.sleep(5)
    assert not instance.ended_at


def test_the_clock_of_a_process_is_that_of_all_its_threads() -> None:
    before = cpu_time_s(os.getpid())
    assert before is not None
    assert abs(before - time.process_time()) < 0.5
    assert cpu_time_s(2**22 + 1) is None
