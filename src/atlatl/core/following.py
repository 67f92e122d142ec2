"""What follows an attempt of a durable execution: its end, another attempt, or patience."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from atlatl.core.retrying import RETRIED, backoff
from atlatl.errors import TimedOutWaiting
from atlatl.model import Outcome, OutcomeKind
from atlatl.settings import RetrySettings

MAX_RECOVERIES = 20
"""Attempts that the end of the service may cut off before an execution is given up."""

PATIENCE_S = 0.1
MAX_PATIENCE_S = 5.0
"""Bounds of the pause after a refusal; a breaker's hint may be wrong by then."""


class End(NamedTuple):
    """It has ended; `dead` when it failed for good and may be redriven."""

    dead: bool


class Again(NamedTuple):
    """The attempt failed by itself, and another one follows."""

    delay_s: float


class Later(NamedTuple):
    """The function did not begin: the same attempt is made later, the task left alone so long."""

    pause_s: float


def after_attempt(
    outcome: Outcome,
    failures: int,
    settings: RetrySettings,
    chance: Callable[[], float],
    *,
    max_retries: int | None,
) -> End | Again | Later:
    """Decides what follows.

    Args:
        outcome: of the attempt.
        failures: attempts that failed by themselves before this one.
        settings: back-off and `max_retries` of the task.
        chance: from 0 to 1; spreads the delay by `jitter_ratio` to both sides.
        max_retries: of the call; None is the task's own.
    """
    error = outcome.error
    if error is None or outcome.kind is OutcomeKind.CANCELLED:
        return End(dead=False)
    if outcome.kind is OutcomeKind.REJECTED or isinstance(error, TimedOutWaiting):
        hint = PATIENCE_S if error.retry_after_s is None else error.retry_after_s
        return Later(min(max(hint, PATIENCE_S), MAX_PATIENCE_S))
    most = settings.max_retries if max_retries is None else max_retries
    if not isinstance(error, RETRIED) or failures >= most:
        return End(dead=True)
    delay_s = backoff(
        failures + 1, settings.initial_backoff_s, settings.multiplier, settings.max_backoff_s
    )
    return Again(delay_s * (1 + settings.jitter_ratio * (2 * chance() - 1)))
