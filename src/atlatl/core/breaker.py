"""The circuit breaker as a machine: closed, open, half-open.

Time and chance come in as numbers; nothing here waits, locks or looks at a clock.
The pattern is Nygard's ("Release It!", 2007). An open breaker turns half-open when the
next call asks, not by a timer, and a call that finds the open time over is the probe.

Every admission gives a permit. Permits of an earlier generation (before the last
transition) change nothing when they report, and neither do probes that took too long.
"""

from __future__ import annotations

import enum
from collections import deque

import msgspec

from atlatl.core.window import Ring, Row, add_rows
from atlatl.settings import CircuitBreakerSettings

Permit = int
"""The generation of a call admitted while closed (from 0); probes have numbers below 0."""

RATE_SLOTS = 20
"""Slots of the window of the rate rule."""
PROBE_HINT_S = 1.0
"""Longest hint to a caller refused because probes are out: when they end nobody knows."""

_CALLS, _FAILURES, _SLOW = 0, 1, 2


class CircuitState(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"

    def __str__(self) -> str:
        return self.value


class CircuitMode(enum.Enum):
    """Who decides the state: the results, or an operator."""

    AUTO = "auto"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"

    def __str__(self) -> str:
        return self.value


class Verdict(enum.Enum):
    """What the end of a call says about the function."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


Transition = tuple[CircuitState, CircuitState]


class CircuitStats(msgspec.Struct, frozen=True, kw_only=True):
    """A breaker as it stands.

    Times are monotonic seconds of the breaker's clock.
    """

    state: CircuitState
    mode: str
    """`auto`, `forced_open` or `disabled`."""
    failure_count: int
    """Failures since it was made or last reset, as are the successes."""
    success_count: int
    rejected_count: int
    """Calls refused since it was made."""
    last_error: str
    last_failure_at: float | None
    last_state_change_at: float
    retry_after_s: float | None
    """What a caller refused now would be told; None while closed."""
    generation: int
    """Number of transitions so far."""


class Breaker:
    """The machine. `now` is monotonic seconds, `chance` a number in [0, 1).

    Attributes:
        closed_permit: the permit of every call while closed, else None. State and
            generation are this one attribute, so one read of it decides an admission.
        transitions: those not yet told to anybody, oldest first.
    """

    __slots__ = (
        "_consecutive_failures",
        "_failures",
        "_generation",
        "_last_error",
        "_last_failure_at",
        "_last_probe",
        "_mode",
        "_open_until",
        "_probe_successes",
        "_probes",
        "_rates",
        "_rejected",
        "_reopenings",
        "_settings",
        "_since",
        "_state",
        "_successes",
        "closed_permit",
        "transitions",
    )

    def __init__(self, settings: CircuitBreakerSettings, now: float) -> None:
        self._settings = settings
        self._mode = _mode_of(settings)
        self._state = CircuitState.CLOSED
        self._generation = 0
        self._since = now
        self._consecutive_failures = 0
        self._failures = 0
        self._successes = 0
        self._rejected = 0
        self._last_error = ""
        self._last_failure_at: float | None = None
        self._open_until = now
        self._reopenings = 0
        self._probes: dict[Permit, float] = {}
        """Probes that have not reported, with the moment at which they count as failed."""
        self._probe_successes = 0
        self._last_probe = 0
        self._rates = _new_rates(settings)
        self.closed_permit: Permit | None = 0
        self.transitions: deque[Transition] = deque()

    @property
    def state(self) -> CircuitState:
        return self._state

    def stats(self, now: float) -> CircuitStats:
        closed = self._state is CircuitState.CLOSED
        return CircuitStats(
            state=self._state,
            mode=self._mode.value,
            failure_count=self._failures,
            success_count=self._successes,
            rejected_count=self._rejected,
            last_error=self._last_error,
            last_failure_at=self._last_failure_at,
            last_state_change_at=self._since,
            retry_after_s=None if closed else self.retry_after_s(now),
            generation=self._generation,
        )

    # --- admission ---

    def admit(self, now: float, chance: float) -> Permit | None:
        """A permit, or None: the call is refused and counted as that."""
        if self._mode is not CircuitMode.FORCED_OPEN:
            self._expire_probes(now, chance)
            if self._state is CircuitState.OPEN and now >= self._open_until:
                self._enter(CircuitState.HALF_OPEN, now)
            if self.closed_permit is not None:
                return self.closed_permit
            if (
                self._state is CircuitState.HALF_OPEN
                and len(self._probes) < self._settings.half_open_max_calls
            ):
                return self._new_probe(now)
        self._rejected += 1
        return None

    def retry_after_s(self, now: float) -> float:
        """Seconds after which a refused caller should try again; 0 when it would get in."""
        if self._mode is CircuitMode.FORCED_OPEN:
            return self._settings.timeout_s
        if self._state is CircuitState.OPEN:
            return max(0.0, self._open_until - now)
        if len(self._probes) < self._settings.half_open_max_calls:
            return 0.0
        return min(PROBE_HINT_S, max(0.0, min(self._probes.values()) - now))

    def _new_probe(self, now: float) -> Permit:
        self._last_probe -= 1
        self._probes[self._last_probe] = now + self._settings.probe_timeout_s
        return self._last_probe

    def _expire_probes(self, now: float, chance: float) -> None:
        """A probe out of time failed when its time was up, not when somebody noticed."""
        if not self._probes:
            return
        limit = min(self._probes.values())
        if now >= limit:
            timeout_s = self._settings.probe_timeout_s
            self._note_failure(limit, f"a probe did not report within {timeout_s:g} s")
            self._open(limit, chance)

    # --- results ---

    def succeed(self, permit: Permit, now: float, duration_s: float, chance: float) -> None:
        """The call with `permit` ended well after `duration_s`."""
        if permit == self.closed_permit:
            self._successes += 1
            self._consecutive_failures = 0
            if self._rates is not None:
                self._count_rates(now, duration_s, chance, failed=False)
        elif self._take_probe(permit, now, chance):
            self._successes += 1
            self._probe_successes += 1
            if self._probe_successes >= self._settings.success_threshold:
                self._close(now)

    def fail(
        self, permit: Permit, now: float, duration_s: float, chance: float, error: str
    ) -> None:
        """The call with `permit` failed; `error` is kept for the statistics."""
        if permit == self.closed_permit:
            self._note_failure(now, error)
            if self._mode is CircuitMode.DISABLED:
                return
            self._consecutive_failures += 1
            if self._consecutive_failures >= self._settings.failure_threshold:
                self._open(now, chance)
            elif self._rates is not None:
                self._count_rates(now, duration_s, chance, failed=True)
        elif self._take_probe(permit, now, chance):
            self._note_failure(now, error)
            self._open(now, chance)

    def ignore(self, permit: Permit, now: float, chance: float) -> None:
        """The call with `permit` ended in a way that says nothing; a probe's place is free."""
        self._take_probe(permit, now, chance)

    def _take_probe(self, permit: Permit, now: float, chance: float) -> bool:
        """Frees the place of a probe; False when the permit is none, or its time is up."""
        if permit not in self._probes:
            return False
        self._expire_probes(now, chance)
        return self._probes.pop(permit, None) is not None

    def _note_failure(self, now: float, error: str) -> None:
        self._failures += 1
        self._last_error = error
        self._last_failure_at = now

    def _count_rates(self, now: float, duration_s: float, chance: float, *, failed: bool) -> None:
        settings, rates = self._settings, self._rates
        if rates is None or self._mode is CircuitMode.DISABLED:
            return
        row = rates.row(now)
        row[_CALLS] += 1
        row[_FAILURES] += failed
        row[_SLOW] += duration_s >= settings.slow_call_duration_s
        sums = add_rows(rates.rows_since(now - settings.window_s))
        if sums[_CALLS] >= settings.minimum_calls and (
            _reached(sums[_FAILURES] / sums[_CALLS], settings.failure_rate_threshold)
            or _reached(sums[_SLOW] / sums[_CALLS], settings.slow_call_rate_threshold)
        ):
            self._open(now, chance)

    # --- transitions ---

    def reset(self, now: float, settings: CircuitBreakerSettings | None = None) -> None:
        """Closed as when new; with `settings` these hold from now on."""
        self._settings = settings or self._settings
        self._mode = _mode_of(self._settings)
        self._failures = 0
        self._successes = 0
        self._close(now)

    def force_open(self, now: float) -> None:
        """Refuses every call until `reset`."""
        self._mode = CircuitMode.FORCED_OPEN
        self._enter(CircuitState.OPEN, now)

    def disable(self, now: float) -> None:
        """Admits every call until `reset`, whatever the results; reports closed."""
        self._mode = CircuitMode.DISABLED
        self._close(now)

    def _close(self, now: float) -> None:
        self._reopenings = 0
        self._rates = _new_rates(self._settings)
        self._enter(CircuitState.CLOSED, now)

    def _open(self, now: float, chance: float) -> None:
        if self._state is CircuitState.HALF_OPEN:
            self._reopenings += 1
        self._open_until = now + open_time_s(self._settings, self._reopenings, chance)
        self._enter(CircuitState.OPEN, now)

    def _enter(self, state: CircuitState, now: float) -> None:
        """Every transition goes through here: a new generation with nothing counted yet."""
        self.transitions.append((self._state, state))
        self._state = state
        self._generation += 1
        self._since = now
        self._consecutive_failures = 0
        self._probe_successes = 0
        self._probes.clear()
        self.closed_permit = self._generation if state is CircuitState.CLOSED else None


def open_time_s(settings: CircuitBreakerSettings, reopenings: int, chance: float) -> float:
    """How long the breaker stays open.

    It doubles with each reopening up to `max_timeout_s`, and varies by `jitter_ratio`.
    For example `timeout_s` 30, `max_timeout_s` 100, second reopening: min(30 x 4, 100) = 100;
    with `jitter_ratio` 0.2 from 80 to 120.
    """
    cap = settings.timeout_s if settings.max_timeout_s is None else settings.max_timeout_s
    # 2 ** 60 times any open time is beyond every cap, and no float overflows on the way.
    grown: float = min(settings.timeout_s * 2 ** min(reopenings, 60), cap)
    return grown * (1 + settings.jitter_ratio * (2 * chance - 1))


def _mode_of(settings: CircuitBreakerSettings) -> CircuitMode:
    return CircuitMode.AUTO if settings.enabled else CircuitMode.DISABLED


def _new_rates(settings: CircuitBreakerSettings) -> Ring[Row] | None:
    if settings.failure_rate_threshold is None and settings.slow_call_rate_threshold is None:
        return None
    return Ring(lambda: [0, 0, 0], settings.window_s / RATE_SLOTS, settings.window_s)


def _reached(rate: float, threshold: float | None) -> bool:
    return threshold is not None and rate >= threshold
