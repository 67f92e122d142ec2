"""How often instances are measured where no cgroup limits their memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from atlatl.runtimes import memory_watch
from atlatl.runtimes.memory_watch import INTERVAL_S, REST_ROUNDS, watch_memory
from tests.virtual_time import virtual

LIMIT = 1000


class Instance:
    gone = False

    def __init__(self, pid: int, *, rests: bool, limit: int = LIMIT) -> None:
        self.pid, self.rests, self.usage = pid, rests, self
        self.memory_limit_bytes = limit
        self.ended_for: list[int] = []

    def end_for_memory(self, n_bytes: int) -> None:
        self.ended_for.append(n_bytes)


async def watched(rounds: int, *instances: Instance) -> None:
    channels: Any = lambda: instances  # noqa: E731
    watching = asyncio.create_task(watch_memory(channels))
    await asyncio.sleep((rounds + 0.5) * INTERVAL_S)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


@virtual
async def test_one_that_works_is_measured_each_time_and_one_that_rests_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: Counter[int] = Counter()
    monkeypatch.setattr(memory_watch, "tree_bytes", lambda pid, _: measured.update([pid]) or 0)
    rest = [Instance(pid, rests=True) for pid in range(100, 100 + 2 * REST_ROUNDS)]
    await watched(
        3 * REST_ROUNDS, Instance(1, rests=False), *rest, Instance(2, rests=True, limit=0)
    )
    assert measured.pop(1) == 3 * REST_ROUNDS
    assert measured == {each.pid: 3 for each in rest}


@virtual
async def test_who_uses_too_much_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_watch, "tree_bytes", lambda pid, _: pid)
    small, large = Instance(LIMIT, rests=False), Instance(LIMIT + 1, rests=False)
    rests = Instance(LIMIT + 2, rests=True)
    await watched(REST_ROUNDS, small, large, rests)
    assert small.ended_for == []
    assert large.ended_for[0] == LIMIT + 1
    assert rests.ended_for == [LIMIT + 2]


@virtual
async def test_a_measurement_that_fails_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [RuntimeError("can't start new thread")]

    def measure(pid: int, _: int) -> int:
        if failures:
            raise failures.pop()
        return pid

    monkeypatch.setattr(memory_watch, "tree_bytes", measure)
    large = Instance(LIMIT + 1, rests=False)
    await watched(2, large)
    assert large.ended_for == [LIMIT + 1]
    assert "could not be measured" in caplog.text
