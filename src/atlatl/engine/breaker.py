"""The public circuit breaker, safe to use from many threads, and one breaker per task."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar, cast, overload

from atlatl.core.breaker import Breaker, CircuitState, CircuitStats, Permit, Verdict
from atlatl.errors import AtlatlError, CircuitOpenError
from atlatl.settings import CircuitBreakerSettings

__all__ = [
    "Breakers",
    "CircuitBreaker",
    "CircuitState",
    "CircuitStats",
    "Permit",
    "Verdict",
    "classify",
]

T = TypeVar("T")

Clock = Callable[[], float]
Classifier = Callable[[BaseException], Verdict]
OnStateChange = Callable[[CircuitState, CircuitState], None]

log = logging.getLogger(__name__)

_chance = random.Random().random  # nosec: B311 # jitter, no secret

DEFAULTS = CircuitBreakerSettings()
MAX_ERROR_CHARACTERS = 200


def classify(error: BaseException) -> Verdict:
    """What an error says about the function, unless a breaker was given another classifier.

    An atlatl error says it itself (`trips_breaker`). Of the rest every `Exception` is a
    failure; a cancellation, an interrupt or an exit is the caller's doing.
    """
    if isinstance(error, AtlatlError):
        return Verdict.FAILURE if error.trips_breaker else Verdict.IGNORED
    if isinstance(error, concurrent.futures.CancelledError | asyncio.CancelledError):
        return Verdict.IGNORED
    return Verdict.FAILURE if isinstance(error, Exception) else Verdict.IGNORED


class Admission:
    """The context manager of `CircuitBreaker.admit`."""

    __slots__ = ("_breaker", "_permit", "_started")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker

    def __enter__(self) -> None:
        self._permit = self._breaker.try_acquire()
        self._started = self._breaker.now()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._breaker.record(self._permit, error, self._breaker.now() - self._started)


class CircuitBreaker:
    """Stops calling a function that keeps failing, and tries it again after a while.

    Worked example, with `failure_threshold` 3 and `timeout_s` 1: the third failure in a row
    opens it; calls are refused for one second; the first call after that is a probe.

    Args:
        name: of what it protects; stands in the refusals.
        settings: thresholds and times.
        clock: monotonic seconds.
        on_state_change: called with the old and the new state after each transition, in
            order, outside every lock. What it raises is logged. Forcing, disabling and
            resetting are transitions too, even when the state stays the same.
        classifier: what an exception of a call says about the function.
        chance: a number in [0, 1), for the jitter of the open time.
    """

    __slots__ = (
        "_chance",
        "_classifier",
        "_lock",
        "_machine",
        "_on_state_change",
        "_settings",
        "_telling",
        "name",
        "now",
    )

    def __init__(
        self,
        name: str,
        settings: CircuitBreakerSettings = DEFAULTS,
        *,
        clock: Clock = time.monotonic,
        on_state_change: OnStateChange | None = None,
        classifier: Classifier = classify,
        chance: Callable[[], float] = _chance,
    ) -> None:
        self.name = name
        self.now = clock
        self._settings = settings
        self._on_state_change = on_state_change
        self._classifier = classifier
        self._chance = chance
        self._machine = Breaker(settings, clock())
        self._lock = threading.Lock()
        self._telling = threading.Lock()

    @property
    def settings(self) -> CircuitBreakerSettings:
        return self._settings

    @property
    def state(self) -> CircuitState:
        """The state now. An open breaker stays open until a call asks after its time."""
        return self._machine.state

    def stats(self) -> CircuitStats:
        """A consistent picture; times are seconds of the breaker's clock."""
        with self._lock:
            return self._machine.stats(self.now())

    # --- calls ---

    @overload
    def execute(self, fn: Callable[[], Awaitable[T]]) -> Awaitable[T]: ...
    @overload
    def execute(self, fn: Callable[[], T]) -> T: ...
    def execute(self, fn: Callable[[], T]) -> T | Awaitable[T]:
        """Calls `fn` unless the breaker refuses, and records how it ended.

        A coroutine function gives an awaitable, and the breaker is asked when that is
        awaited. A plain function that returns an awaitable ends when the awaitable does.

        Raises:
            CircuitOpenError: refused; `fn` was not called.
        """
        if inspect.iscoroutinefunction(fn):
            return self._execute_async(cast("Callable[[], Awaitable[T]]", fn))
        permit = self.try_acquire()
        started = self.now()
        try:
            value = fn()
        except BaseException as error:
            self.record(permit, error, self.now() - started)
            raise
        if hasattr(type(value), "__await__"):
            return self._finish(cast("Awaitable[T]", value), permit, started)
        self.record(permit, None, self.now() - started)
        return value

    async def _execute_async(self, fn: Callable[[], Awaitable[T]]) -> T:
        with self.admit():
            return await fn()

    async def _finish(self, value: Awaitable[T], permit: Permit, started: float) -> T:
        try:
            result = await value
        except BaseException as error:
            self.record(permit, error, self.now() - started)
            raise
        self.record(permit, None, self.now() - started)
        return result

    def admit(self) -> Admission:
        """A context manager around one call.

        Entering raises CircuitOpenError when the breaker refuses. Leaving by an exception
        is a failure, unless the classifier says otherwise; a cancellation is neither a
        failure nor a success.
        """
        return Admission(self)

    def try_acquire(self) -> Permit:
        """The first half of `admit`, for callers that cannot be a `with` block.

        Each permit has to be given back once, by `record` or `release`. A probe whose
        permit is not given back within `probe_timeout_s` counts as failed.

        Raises:
            CircuitOpenError: refused.
        """
        # One read of one attribute: state and generation cannot disagree, without a lock.
        permit = self._machine.closed_permit
        if permit is not None:
            return permit
        machine = self._machine
        with self._lock:
            now = self.now()
            permit = machine.admit(now, self._chance())
            stats = machine.stats(now)
        self._tell()
        if permit is None:
            raise self._refusal(stats)
        return permit

    def record(
        self, permit: Permit, error: BaseException | None = None, duration_s: float = 0.0
    ) -> None:
        """Says how the call with `permit` ended; None is a success."""
        if error is None:
            with self._lock:
                self._machine.succeed(permit, self.now(), duration_s, self._chance())
        else:
            self._record_error(permit, error, duration_s)
        if self._machine.transitions:
            self._tell()

    def release(self, permit: Permit) -> None:
        """Gives a permit back for a call that says nothing about the function."""
        with self._lock:
            self._machine.ignore(permit, self.now(), self._chance())
        self._tell()

    def _record_error(self, permit: Permit, error: BaseException, duration_s: float) -> None:
        verdict = self._judge(error)
        with self._lock:
            now, chance = self.now(), self._chance()
            if verdict is Verdict.FAILURE:
                self._machine.fail(permit, now, duration_s, chance, _describe(error))
            elif verdict is Verdict.SUCCESS:
                self._machine.succeed(permit, now, duration_s, chance)
            else:
                self._machine.ignore(permit, now, chance)

    def _judge(self, error: BaseException) -> Verdict:
        try:
            return self._classifier(error)
        except Exception:
            log.exception("the classifier of circuit breaker %r failed on %r", self.name, error)
            return Verdict.FAILURE

    def _refusal(self, stats: CircuitStats) -> CircuitOpenError:
        if stats.state is CircuitState.OPEN and stats.mode == "auto":
            return CircuitOpenError(self.name, retry_after_s=stats.retry_after_s)
        # Forced open, or probes are out: a hint, but no promise of a probe in the message.
        error = CircuitOpenError(self.name)
        error.retry_after_s = stats.retry_after_s
        return error

    # --- manual modes ---

    def reset(self, settings: CircuitBreakerSettings | None = None) -> None:
        """Closed as when new; results of calls still running change nothing.

        Args:
            settings: hold from now on; None keeps those in force.
        """
        with self._lock:
            self._settings = settings or self._settings
            self._machine.reset(self.now(), self._settings)
        self._tell()

    def force_open(self) -> None:
        """Refuses every call until `reset`."""
        with self._lock:
            self._machine.force_open(self.now())
        self._tell()

    def disable(self) -> None:
        """Admits every call until `reset`, and reports closed."""
        with self._lock:
            self._machine.disable(self.now())
        self._tell()

    def _tell(self) -> None:
        """Delivers transitions in order, by one thread at a time.

        A thread that finds another one telling leaves: that one looks again after letting
        go, so nothing is left behind. A callback that changes the state is told after itself.
        """
        transitions = self._machine.transitions
        while transitions and self._telling.acquire(blocking=False):
            try:
                while transitions:
                    self._call_back(*transitions.popleft())
            finally:
                self._telling.release()

    def _call_back(self, old: CircuitState, new: CircuitState) -> None:
        if self._on_state_change is None:
            return
        try:
            self._on_state_change(old, new)
        except Exception:
            log.exception("on_state_change of circuit breaker %r failed", self.name)


def _describe(error: BaseException) -> str:
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"[:MAX_ERROR_CHARACTERS]
    except Exception:  # `__str__` is foreign code here
        return kind


_SEVERITY = {CircuitState.CLOSED: 0, CircuitState.HALF_OPEN: 1, CircuitState.OPEN: 2}


class Breakers:
    """The breakers of all tasks, one each, so that a broken function stops no other.

    Args:
        clock: monotonic seconds.
        on_change: called with the task's name, the old and the new state when one changes.
        chance: a number in [0, 1), for the jitter of open times.
        max_breakers: beyond it the one least recently asked for goes, a closed one first.
    """

    def __init__(
        self,
        *,
        clock: Clock = time.monotonic,
        on_change: Callable[[str, CircuitState, CircuitState], None] | None = None,
        chance: Callable[[], float] = _chance,
        max_breakers: int = 20_000,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._chance = chance
        self._max_breakers = max_breakers
        self._lock = threading.Lock()
        self._breakers: dict[str, CircuitBreaker] = {}
        self._rejected_by_removed = 0

    def get(self, task_name: str, settings: CircuitBreakerSettings = DEFAULTS) -> CircuitBreaker:
        """The breaker of the task; `settings` are those of one that has to be made."""
        with self._lock:
            breaker = self._breakers.pop(task_name, None)
            if breaker is None:
                self._make_room()
                breaker = self._new(task_name, settings)
            self._breakers[task_name] = breaker
            return breaker

    def renew(self, task_name: str, settings: CircuitBreakerSettings) -> CircuitBreaker:
        """The same breaker, closed and with new settings: the task has a new version."""
        breaker = self.get(task_name, settings)
        breaker.reset(settings)
        return breaker

    def remove(self, task_name: str) -> None:
        with self._lock:
            self._forget(task_name)

    def all(self) -> dict[str, CircuitBreaker]:
        """By task name, in the order of the names."""
        with self._lock:
            return dict(sorted(self._breakers.items()))

    def not_closed(self) -> dict[str, CircuitState]:
        """The states that are not closed, by task name."""
        states = {name: breaker.state for name, breaker in self.all().items()}
        return {name: state for name, state in states.items() if state is not CircuitState.CLOSED}

    def worst(self) -> CircuitState:
        """Open before half-open before closed."""
        states = self.not_closed().values()
        return max(states, key=_SEVERITY.__getitem__, default=CircuitState.CLOSED)

    def rejected_count(self) -> int:
        """Calls refused since the start, by breakers that are gone too."""
        with self._lock:
            living = sum(breaker.stats().rejected_count for breaker in self._breakers.values())
            return self._rejected_by_removed + living

    def _new(self, task_name: str, settings: CircuitBreakerSettings) -> CircuitBreaker:
        def changed(old: CircuitState, new: CircuitState) -> None:
            if self._on_change is not None and old is not new:
                self._on_change(task_name, old, new)

        return CircuitBreaker(
            task_name, settings, clock=self._clock, on_state_change=changed, chance=self._chance
        )

    def _make_room(self) -> None:
        if len(self._breakers) < self._max_breakers:
            return
        closed = (n for n, b in self._breakers.items() if b.state is CircuitState.CLOSED)
        self._forget(next(closed, next(iter(self._breakers))))

    def _forget(self, task_name: str) -> None:
        breaker = self._breakers.pop(task_name, None)
        if breaker is not None:
            self._rejected_by_removed += breaker.stats().rejected_count
