"""The public circuit breaker, on a clock that the test turns."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import logging
import threading
from collections.abc import Callable

import pytest

from atlatl import errors
from atlatl.engine.breaker import CircuitBreaker, CircuitState, Verdict, classify
from atlatl.errors import CircuitOpenError
from atlatl.settings import CircuitBreakerSettings

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Log(list[tuple[CircuitState, CircuitState]]):
    def __call__(self, old: CircuitState, new: CircuitState) -> None:
        self.append((old, new))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def raises() -> None:
    raise ValueError("no")


def fails(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ValueError):
            breaker.execute(raises)


def test_three_failures_open_it_and_the_fourth_call_does_not_run(clock: Clock) -> None:
    settings = CircuitBreakerSettings(failure_threshold=3, timeout_s=1.0, success_threshold=0)
    breaker = CircuitBreaker("orders", settings, clock=clock)
    fails(breaker, 3)
    calls: list[int] = []
    with pytest.raises(CircuitOpenError, match=r"^circuit breaker is open") as refusal:
        breaker.execute(lambda: calls.append(1))
    assert calls == []
    assert (refusal.value.name, refusal.value.retry_after_s) == ("orders", 1.0)
    assert breaker.stats().rejected_count == 1


def test_half_open_after_the_open_time_and_a_success_closes(clock: Clock) -> None:
    settings = CircuitBreakerSettings(failure_threshold=1, success_threshold=1, timeout_s=0.1)
    breaker = CircuitBreaker("b", settings, clock=clock)
    fails(breaker)
    assert breaker.state is OPEN
    clock.now += 0.1
    assert breaker.state is OPEN, "the change is lazy"
    with breaker.admit():
        assert breaker.state is HALF_OPEN
    assert breaker.state is CLOSED


def test_ten_successes_leave_it_closed() -> None:
    breaker = CircuitBreaker("b")
    assert [breaker.execute(lambda: 7) for _ in range(10)] == [7] * 10
    assert str(breaker.state) == "closed"


def together(count: int, work: Callable[[], None]) -> None:
    """Runs `work` in `count` threads that begin at the same moment."""
    barrier = threading.Barrier(count)

    def run() -> None:
        barrier.wait(30)
        work()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def test_of_100_callers_at_the_moment_of_half_open_one_runs_d1_d2(clock: Clock) -> None:
    settings = CircuitBreakerSettings(failure_threshold=1, success_threshold=1, timeout_s=1.0)
    breaker = CircuitBreaker("b", settings, clock=clock)
    fails(breaker)
    clock.now += 1.0
    running, refused = [], []
    all_asked = threading.Event()

    def call() -> None:
        running.append(1)
        all_asked.wait(30)

    def caller() -> None:
        try:
            breaker.execute(call)
        except CircuitOpenError:
            refused.append(1)
            if len(refused) == 99:
                all_asked.set()

    together(100, caller)
    assert (len(running), len(refused)) == (1, 99)
    assert breaker.state is CLOSED
    assert breaker.stats().rejected_count == 99


def test_an_exception_is_recorded_and_passed_on_unchanged_d4() -> None:
    breaker = CircuitBreaker("b", CircuitBreakerSettings(failure_threshold=1))
    error = ValueError("mine")

    def raises_mine() -> None:
        raise error

    with pytest.raises(ValueError) as caught:
        breaker.execute(raises_mine)
    assert caught.value is error
    assert breaker.state is OPEN
    assert breaker.stats().last_error == "ValueError: mine"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_stops_the_caller_is_neither_and_frees_the_place_d4(
    kind: type[BaseException], clock: Clock
) -> None:
    settings = CircuitBreakerSettings(failure_threshold=1, success_threshold=1, timeout_s=1.0)
    breaker = CircuitBreaker("b", settings, clock=clock)
    fails(breaker)
    clock.now += 1.0
    with pytest.raises(kind), breaker.admit():
        raise kind
    assert breaker.state is HALF_OPEN
    assert breaker.execute(lambda: "probe") == "probe"
    assert breaker.state is CLOSED


def test_a_cancelled_coroutine_is_neither_d4() -> None:
    breaker = CircuitBreaker("b", CircuitBreakerSettings(failure_threshold=1))

    async def cancelled() -> None:
        task = asyncio.ensure_future(breaker.execute(lambda: asyncio.sleep(60)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    stats = breaker.stats()
    assert (stats.state, stats.failure_count, stats.success_count) == (CLOSED, 0, 0)


async def answer() -> str:
    return "value"


async def refuse() -> str:
    raise ValueError("no")


def in_a_plain_function(fn: Callable[[], object]) -> Callable[[], object]:
    def plain() -> object:
        return fn()

    return plain


@pytest.mark.parametrize("wrap", [lambda fn: fn, functools.partial, in_a_plain_function])
def test_coroutines_are_recorded_when_they_end(wrap: Callable[..., Callable[[], object]]) -> None:
    breaker = CircuitBreaker("b", CircuitBreakerSettings(failure_threshold=1))

    async def calls() -> None:
        assert await breaker.execute(wrap(answer)) == "value"
        with pytest.raises(ValueError):
            await breaker.execute(wrap(refuse))
        with pytest.raises(CircuitOpenError):
            await breaker.execute(wrap(answer))

    asyncio.run(calls())
    stats = breaker.stats()
    assert (stats.success_count, stats.failure_count, stats.rejected_count) == (1, 1, 1)


def test_a_permit_that_is_never_given_back_does_not_block_for_ever_d5(clock: Clock) -> None:
    settings = CircuitBreakerSettings(failure_threshold=1, timeout_s=1.0, probe_timeout_s=5.0)
    breaker = CircuitBreaker("b", settings, clock=clock)
    fails(breaker)
    clock.now += 1.0
    breaker.try_acquire()
    clock.now += 5.0
    with pytest.raises(CircuitOpenError):
        breaker.try_acquire()
    clock.now += 1.0
    breaker.try_acquire()
    assert breaker.state is HALF_OPEN


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (errors.FunctionRaised("x"), Verdict.FAILURE),
        (errors.ResultInvalid("x"), Verdict.FAILURE),
        (errors.OutOfMemory("x"), Verdict.FAILURE),
        (errors.TimedOut("x"), Verdict.FAILURE),
        (errors.InstanceCrashed("x"), Verdict.FAILURE),
        (errors.TimedOutWaiting("x"), Verdict.IGNORED),
        (errors.InvalidRequest("x"), Verdict.IGNORED),
        (errors.TaskNotFound("x"), Verdict.IGNORED),
        (errors.QueueFull("x"), Verdict.IGNORED),
        (errors.NoCapacity("x"), Verdict.IGNORED),
        (errors.Cancelled("x"), Verdict.IGNORED),
        (errors.InstanceLost("x"), Verdict.IGNORED),
        (errors.StartFailed("x"), Verdict.IGNORED),
        (RuntimeError("x"), Verdict.FAILURE),
        (TimeoutError("x"), Verdict.FAILURE),
        (concurrent.futures.CancelledError(), Verdict.IGNORED),
        (asyncio.CancelledError(), Verdict.IGNORED),
        (GeneratorExit(), Verdict.IGNORED),
    ],
)
def test_what_counts_d6(error: BaseException, verdict: Verdict) -> None:
    assert classify(error) is verdict


def test_the_classifier_can_be_replaced_d6() -> None:
    def judge(error: BaseException) -> Verdict:
        return Verdict.SUCCESS if isinstance(error, ValueError) else Verdict.FAILURE

    settings = CircuitBreakerSettings(failure_threshold=1)
    breaker = CircuitBreaker("b", settings, classifier=judge)
    fails(breaker)
    assert breaker.stats().success_count == 1
    breaker.record(breaker.try_acquire(), KeyError("k"))
    assert breaker.state is OPEN


def test_a_classifier_that_fails_is_logged_and_its_call_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def judge(error: BaseException) -> Verdict:
        raise RuntimeError("cannot judge")

    breaker = CircuitBreaker("b", CircuitBreakerSettings(failure_threshold=1), classifier=judge)
    fails(breaker)
    assert breaker.state is OPEN
    assert "cannot judge" in caplog.text


def test_an_error_without_a_text_is_named_by_its_kind() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    breaker = CircuitBreaker("b")
    breaker.record(breaker.try_acquire(), MuteError())
    assert breaker.stats().last_error == "MuteError"


def test_callbacks_arrive_in_order_d9(clock: Clock) -> None:
    told = Log()
    settings = CircuitBreakerSettings(failure_threshold=1, success_threshold=1, timeout_s=1.0)
    breaker = CircuitBreaker("b", settings, clock=clock, on_state_change=told)
    for _ in range(50):
        fails(breaker)
        clock.now += 1.0
        breaker.execute(lambda: None)
    assert told == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)] * 50


def test_callbacks_of_many_threads_form_one_chain_d9() -> None:
    told = Log()
    breaker = CircuitBreaker("b", on_state_change=told)

    def toggle() -> None:
        for _ in range(50):
            breaker.force_open()
            breaker.reset()

    together(8, toggle)
    assert len(told) == 800
    assert all(before[1] is after[0] for before, after in itertools.pairwise(told))
    assert told[0][0] is CLOSED


def test_a_callback_may_use_the_breaker_and_hears_of_it_afterwards_d9() -> None:
    told = Log()

    def heal(old: CircuitState, new: CircuitState) -> None:
        told(old, new)
        if new is OPEN:
            breaker.reset()
            told(new, new)

    breaker = CircuitBreaker("b", CircuitBreakerSettings(failure_threshold=1), on_state_change=heal)
    fails(breaker)
    assert told == [(CLOSED, OPEN), (OPEN, OPEN), (OPEN, CLOSED)]
    assert breaker.state is CLOSED


def test_what_piles_up_during_a_callback_keeps_its_order_d9() -> None:
    told = Log()

    def meddle(old: CircuitState, new: CircuitState) -> None:
        if not told:
            breaker.reset()
            breaker.force_open()
        told(old, new)

    breaker = CircuitBreaker("b", on_state_change=meddle)
    breaker.force_open()
    assert told == [(CLOSED, OPEN), (OPEN, CLOSED), (CLOSED, OPEN)]


def test_a_transition_just_before_the_teller_lets_go_is_told_d9() -> None:
    told = Log()
    breaker = CircuitBreaker("b", on_state_change=told)

    class LateTransition:
        """A lock that is still held when one more transition happens."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.meddled = False

        def acquire(self, blocking: bool) -> bool:
            return self.lock.acquire(blocking=blocking)

        def release(self) -> None:
            if not self.meddled:
                self.meddled = True
                breaker.reset()
            self.lock.release()

    breaker._telling = LateTransition()  # type: ignore[assignment]
    breaker.force_open()
    assert told == [(CLOSED, OPEN), (OPEN, CLOSED)]


def test_a_callback_that_fails_is_logged_and_hurts_nobody_d9(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fall(old: CircuitState, new: CircuitState) -> None:
        raise RuntimeError("callback fell")

    breaker = CircuitBreaker("b", on_state_change=fall)
    with caplog.at_level(logging.ERROR):
        breaker.force_open()
    assert "callback fell" in caplog.text
    breaker.reset()
    assert breaker.execute(lambda: 1) == 1


def test_manual_modes_are_transitions_with_their_callback_d10() -> None:
    told = Log()
    breaker = CircuitBreaker("b", on_state_change=told)
    breaker.force_open()
    breaker.disable()
    breaker.reset()
    assert told == [(CLOSED, OPEN), (OPEN, CLOSED), (CLOSED, CLOSED)]
    assert breaker.stats().generation == 3


def test_a_forced_refusal_hints_but_promises_no_probe_d16() -> None:
    breaker = CircuitBreaker("b")
    breaker.force_open()
    with pytest.raises(CircuitOpenError) as refusal:
        breaker.execute(lambda: None)
    assert refusal.value.retry_after_s == 30.0
    assert str(refusal.value) == "circuit breaker is open for 'b'"


def test_a_released_permit_says_nothing(clock: Clock) -> None:
    settings = CircuitBreakerSettings(failure_threshold=1, success_threshold=1, timeout_s=1.0)
    breaker = CircuitBreaker("b", settings, clock=clock)
    breaker.release(breaker.try_acquire())
    fails(breaker)
    clock.now += 1.0
    breaker.release(breaker.try_acquire())
    assert breaker.state is HALF_OPEN
    breaker.record(breaker.try_acquire())
    assert breaker.state is CLOSED


def test_the_time_of_a_call_is_measured_for_the_slow_rate_d7(clock: Clock) -> None:
    settings = CircuitBreakerSettings(
        slow_call_rate_threshold=1.0, slow_call_duration_s=2.0, minimum_calls=1
    )
    breaker = CircuitBreaker("b", settings, clock=clock)

    def slow() -> None:
        clock.now += 2.0

    breaker.execute(slow)
    assert breaker.state is OPEN


def test_jitter_takes_the_chance_given_d15(clock: Clock) -> None:
    settings = CircuitBreakerSettings(failure_threshold=1, timeout_s=10.0, jitter_ratio=0.5)
    breaker = CircuitBreaker("b", settings, clock=clock, chance=lambda: 0.0)
    fails(breaker)
    assert breaker.stats().retry_after_s == 5.0


def test_many_threads_lose_no_result() -> None:
    breaker = CircuitBreaker("b")

    def work() -> None:
        for _ in range(200):
            breaker.execute(lambda: None)

    together(8, work)
    assert breaker.stats().success_count == 1600
