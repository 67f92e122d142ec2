"""When to try again, and when not to."""

from __future__ import annotations

from collections.abc import Callable

from atlatl.errors import (
    FunctionRaised,
    InstanceCrashed,
    InstanceLost,
    OutOfMemory,
    StartFailed,
)
from atlatl.settings import RetrySettings

RETRIED = (FunctionRaised, InstanceCrashed, InstanceLost, OutOfMemory, StartFailed)
"""What another attempt may follow; never a caller's error, a refusal or a deadline."""

FLOOR_RETRIES = 10.0
"""Retries that a task has at hand however few calls it has."""
FLOOR_PER_S = 1.0
"""How fast that floor comes back."""


def backoff(attempt: int, initial_s: float, multiplier: float, max_s: float) -> float:
    """`initial_s` after the first attempt, `multiplier` times as long after each further one."""
    try:
        return min(max_s, initial_s * multiplier ** (attempt - 1))
    except OverflowError:
        return max_s


def next_delay(
    attempt: int,
    settings: RetrySettings,
    chance: Callable[[], float],
    *,
    left_s: float,
    max_retries: int | None = None,
) -> float | None:
    """Seconds to wait before the next attempt, or None when there must not be one.

    Args:
        attempt: number of the attempt that failed, from 1.
        settings: back-off and the task's own `max_retries`.
        chance: from 0 to 1, as `random.Random.random` gives it; spreads the delay by
            `jitter_ratio` to both sides.
        left_s: time until the deadline; an attempt that could only begin at or after it is
            not made.
        max_retries: of the call; None is the task's own.
    """
    if attempt > (settings.max_retries if max_retries is None else max_retries):
        return None
    delay_s = backoff(
        attempt, settings.initial_backoff_s, settings.multiplier, settings.max_backoff_s
    )
    delay_s *= 1 + settings.jitter_ratio * (2 * chance() - 1)
    return delay_s if delay_s < left_s else None


class RetryBudget:
    """Keeps the retries of a task to a share of its calls, so that they cannot pile up.

    A call pays in `ratio`, a retry takes out 1. What is saved up is bounded, and a small
    floor comes back with time, so that a lone failing call may still be tried again.
    Source: Finagle's `RetryBudget`.
    """

    def __init__(self, ratio: float, now: float, *, floor: float = FLOOR_RETRIES) -> None:
        self._ratio = ratio
        self._earned = 0.0
        self._max_earned = 100.0
        self._floor = self._max_floor = floor
        self._floor_at = now

    def called(self) -> None:
        """A first attempt was made."""
        self._earned = min(self._max_earned, self._earned + self._ratio)

    def take(self, now: float) -> bool:
        """Takes out one retry; False when none is left."""
        self._floor = min(self._max_floor, self._floor + (now - self._floor_at) * FLOOR_PER_S)
        self._floor_at = now
        if self._earned >= 1 - 1e-9:  # ten times 0.2 is not quite 2
            self._earned -= 1
            return True
        if self._floor >= 1:
            self._floor -= 1
            return True
        return False
