"""What the circuit breaker, the pool and the figures promise to programs that import them.

Each case runs on a clock that jumps and once in real time, and uses the public names only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from atlatl import (
    CircuitBreaker,
    CircuitBreakerSettings,
    CircuitOpenError,
    InstancePool,
    Metrics,
    PoolSettings,
    ScalingSettings,
)
from tests import virtual_time

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[virtual_time.run, asyncio.run], ids=["virtual", "real"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


def clock() -> Callable[[], float]:
    """Monotonic seconds of the running loop, virtual or real."""
    return asyncio.get_running_loop().time


class Channel:
    """The least that a pool needs of an instance."""

    origin = "blank"
    process_s = 0.0
    takes_ahead = False
    accepting = True
    on_lost = None
    pid = 0

    def __init__(self, number: int) -> None:
        self.id = f"engine-{number}"
        self.alive = True

    def memory_bytes(self) -> int:
        return 0

    async def ping(self) -> None:
        """Answers at once."""

    def kill(self) -> None:
        self.alive = False

    async def stop(self, grace_s: float) -> None:
        self.alive = False


class Engines:
    """Starts channels and remembers them."""

    def __init__(self) -> None:
        self.made: list[Channel] = []

    async def __call__(self) -> Channel:
        self.made.append(Channel(len(self.made)))
        return self.made[-1]

    @property
    def alive(self) -> int:
        return sum(channel.alive for channel in self.made)


def elastic(engines: Engines) -> InstancePool:
    return InstancePool(
        "engines",
        engines,
        pool=PoolSettings(min_size=2, max_size=8),
        scaling=ScalingSettings(
            scale_up_threshold=0.5,
            scale_down_threshold=0.2,
            scale_interval_s=0.1,
            scale_down_cooldown_s=0,
        ),
        clock=clock(),
    )


def fail() -> None:
    raise ValueError("a failure")


def test_the_breaker_stays_closed_under_ten_successes(run: Run) -> None:
    async def case() -> None:
        breaker = CircuitBreaker("test", clock=clock())
        for number in range(10):
            assert breaker.execute(lambda value=number: value) == number
        assert str(breaker.state) == "closed"

    run(case())


def test_the_breaker_opens_after_three_failures_and_a_fourth_call_does_not_run(run: Run) -> None:
    async def case() -> None:
        settings = CircuitBreakerSettings(failure_threshold=3, timeout_s=1.0)
        breaker = CircuitBreaker("test", settings, clock=clock())
        for _ in range(3):
            with pytest.raises(ValueError, match="a failure"):
                breaker.execute(fail)
        assert str(breaker.state) == "open"
        ran = []
        with pytest.raises(CircuitOpenError, match=r"^circuit breaker is open") as refusal:
            breaker.execute(lambda: ran.append(1))
        assert not ran
        assert refusal.value.name == "test"
        assert 0 < refusal.value.retry_after_s <= 1.0

    run(case())


def test_the_breaker_is_half_open_after_its_time_and_a_success_closes_it(run: Run) -> None:
    async def case() -> None:
        settings = CircuitBreakerSettings(failure_threshold=1, success_threshold=1, timeout_s=0.1)
        breaker = CircuitBreaker("test", settings, clock=clock())
        with pytest.raises(ValueError, match="a failure"):
            breaker.execute(fail)
        assert str(breaker.state) == "open"
        await asyncio.sleep(0.11)
        with breaker.admit():
            assert str(breaker.state) == "half-open"
        assert str(breaker.state) == "closed"

    run(case())


def test_d1_of_a_hundred_callers_at_the_moment_of_half_open_exactly_one_runs(run: Run) -> None:
    async def case() -> None:
        settings = CircuitBreakerSettings(failure_threshold=1, success_threshold=1, timeout_s=0.1)
        breaker = CircuitBreaker("test", settings, clock=clock())
        with pytest.raises(ValueError, match="a failure"):
            breaker.execute(fail)
        await asyncio.sleep(0.11)
        ran = []

        async def probe() -> None:
            ran.append(1)
            await asyncio.sleep(0.01)

        answers = await asyncio.gather(
            *(breaker.execute(probe) for _ in range(100)), return_exceptions=True
        )
        assert len(ran) == 1
        assert sum(isinstance(answer, CircuitOpenError) for answer in answers) == 99

    run(case())


def test_d23_the_pool_grows_beyond_two_within_two_ticks_under_two_leases(run: Run) -> None:
    async def case() -> None:
        async with elastic(Engines()) as pool:
            assert pool.stats().total == 2
            async with pool.lease(), pool.lease():
                assert pool.stats().in_use == 2
                async with asyncio.timeout(0.2 + 1.0):  # the second is for a busy machine
                    while pool.stats().total == 2:
                        await asyncio.sleep(0.005)
                if run is virtual_time.run:
                    assert clock()() <= 0.2
            assert pool.stats().scale_up_count >= 1

    run(case())


def test_d18_the_pool_returns_to_two_live_instances_that_serve(run: Run) -> None:
    async def case() -> None:
        engines = Engines()
        async with elastic(engines) as pool:
            async with pool.lease(), pool.lease():
                await asyncio.sleep(0.15)
            async with asyncio.timeout(5.0):
                while engines.alive != 2 or pool.stats().total != 2:
                    await asyncio.sleep(0.01)
            for _ in range(4):
                async with pool.lease(timeout_s=1.0) as channel:
                    assert channel.alive
            assert pool.stats().total == pool.stats().available == engines.alive == 2
        assert engines.alive == 0

    run(case())


def test_the_figures_count_what_was_recorded(run: Run) -> None:
    async def case() -> None:
        metrics = Metrics(clock())
        metrics.record_request(0.1, "success")
        metrics.record_request(0.2, "success", cold_start=True)
        metrics.record_request(0.3, "error")
        await asyncio.sleep(0.01)
        stats, window = metrics.stats(), metrics.window_stats(60.0)
        assert (stats.request_count, stats.success_count, stats.error_count) == (3, 2, 1)
        assert stats.cold_start_count == 1
        assert stats.avg_latency_ms == pytest.approx(200.0)
        assert window.request_count == metrics.window_stats(60.0).request_count == 3

    run(case())
