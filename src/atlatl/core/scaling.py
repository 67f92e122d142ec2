"""How many instances a pool should have. Pure: the same facts give the same decision.

A decision is a wish. Who carries it out keeps the limits, counts only what really
happened, and says so with `Past.stepped`, from which the cool-downs run.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from atlatl.model import Record
from atlatl.settings import ScalingSettings

LOW_TICKS = 2
"""Ticks in a row with low usage before a pool shrinks: one sample of an instant proves little."""


class Load(Record, frozen=True):
    """A pool at one moment."""

    size: int
    """Instances that serve or are starting; those on their way out do not count."""
    in_use: int
    """Calls that are lent an instance."""
    waiting: int
    """Calls that wait for one."""
    capacity: int
    """Calls that one instance runs at once."""
    min_size: int
    max_size: int

    @property
    def usage(self) -> float:
        """(in use + waiting) / places; without places 1 when somebody waits, else 0."""
        if self.size == 0:
            return 1.0 if self.waiting else 0.0
        return (self.in_use + self.waiting) / (self.size * self.capacity)

    @property
    def concurrency(self) -> int:
        return self.in_use + self.waiting


class Past(Record, frozen=True):
    """What a policy remembers between ticks."""

    last_step_at: float = -math.inf
    low_ticks: int = 0
    samples: tuple[tuple[float, int], ...] = ()
    """(time, concurrency) of the ticks within the stable window, oldest first."""
    panic_since: float | None = None
    """Last time that the panic condition held; None outside panic."""
    panic_size: int = 0
    """Largest size wished for during this panic."""

    def stepped(self, now: float) -> Past:
        """The past after the pool really grew or shrank."""
        return msgspec.structs.replace(self, last_step_at=now)


class Decision(msgspec.Struct, frozen=True):
    target: int
    """Size that the pool should have."""
    reason: str
    past: Past
    """To be handed in at the next tick."""


def threshold(settings: ScalingSettings, load: Load, past: Past, now: float) -> Decision:
    """One more above the upper threshold, one less below the lower one."""
    usage = load.usage
    low = usage < settings.scale_down_threshold
    past = msgspec.structs.replace(past, low_ticks=past.low_ticks + 1 if low else 0)
    if load.size < load.min_size:
        return Decision(load.min_size, f"{load.size} is below min_size {load.min_size}", past)
    if usage > settings.scale_up_threshold and load.size < load.max_size:
        reason = f"usage {usage:.2f} is above {settings.scale_up_threshold:.2f}"
        return _unless_cooling(settings, load, Decision(load.size + 1, reason, past), now)
    if low and load.size > load.min_size:
        reason = f"usage {usage:.2f} is below {settings.scale_down_threshold:.2f}"
        if past.low_ticks < LOW_TICKS:
            return Decision(load.size, f"{reason} for the first time", past)
        return _unless_cooling(settings, load, Decision(load.size - 1, reason, past), now)
    return Decision(load.size, f"usage {usage:.2f} asks for no change", past)


def target_concurrency(settings: ScalingSettings, load: Load, past: Past, now: float) -> Decision:
    """As many as keep each instance at its target share of concurrency.

    Averages over a stable window, and over a short one that takes over while it asks for
    `panic_threshold` times the present size; no shrinking in a panic, which lasts until the
    condition has not held for a stable window. Example: 12 calls on average, one at a time
    per instance, target 0.7: ceil(12 / 0.7) = 18 instances. Source: Knative serving,
    `pkg/autoscaler/scaling/autoscaler.go`.
    """
    horizon = now - settings.stable_window_s
    kept = tuple(sample for sample in past.samples if sample[0] > horizon)
    past = msgspec.structs.replace(past, samples=(*kept, (now, load.concurrency)))
    per_instance = load.capacity * settings.target_utilization
    stable = math.ceil(_mean(past.samples, horizon) / per_instance)
    panic = math.ceil(_mean(past.samples, now - settings.panic_window_s) / per_instance)
    past = _panicked(settings, load, past, panic, now)
    if past.panic_since is not None:
        wished, why = past.panic_size, f"panic: the last {settings.panic_window_s:g} s"
    else:
        wished, why = stable, f"the last {settings.stable_window_s:g} s"
    target = max(load.min_size, min(wished, load.max_size))
    if load.size < load.min_size:
        return Decision(target, f"{load.size} is below min_size {load.min_size}", past)
    return _unless_cooling(settings, load, Decision(target, f"{why} ask for {wished}", past), now)


def _panicked(settings: ScalingSettings, load: Load, past: Past, wished: int, now: float) -> Past:
    """The past with panic begun, prolonged or over."""
    since = past.panic_since
    if wished / max(1, load.size) >= settings.panic_threshold:
        since = now
    elif since is not None and now - since > settings.stable_window_s:
        since = None
    size = 0 if since is None else max(past.panic_size, wished, load.size)
    return msgspec.structs.replace(past, panic_since=since, panic_size=size)


def _mean(samples: tuple[tuple[float, int], ...], after: float) -> float:
    """Mean of the samples younger than `after`; the newest is always one of them."""
    values = [concurrency for at, concurrency in samples if at > after]
    return sum(values) / len(values)


def _unless_cooling(settings: ScalingSettings, load: Load, wish: Decision, now: float) -> Decision:
    """The wish, or no change while the cool-down of its direction lasts."""
    if wish.target == load.size:
        return wish
    up = wish.target > load.size
    cooldown_s = settings.scale_up_cooldown_s if up else settings.scale_down_cooldown_s
    left_s = wish.past.last_step_at + cooldown_s - now
    if left_s <= 0:
        return wish
    reason = f"{wish.reason}, but the cool-down lasts {left_s:.1f} s more"
    return Decision(load.size, reason, wish.past)


ScalingPolicy = Callable[[ScalingSettings, Load, Past, float], Decision]

POLICIES: dict[str, ScalingPolicy] = {
    "threshold": threshold,
    "target_concurrency": target_concurrency,
}
"""By their names in `scaling.policy`."""
