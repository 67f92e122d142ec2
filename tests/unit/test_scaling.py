import math

import pytest

from atlatl.core.scaling import POLICIES, Load, Past, target_concurrency, threshold
from atlatl.settings import ScalingSettings

EAGER = ScalingSettings(scale_up_threshold=0.5, scale_down_threshold=0.2, scale_down_cooldown_s=0)


def load(size, in_use=0, waiting=0, *, capacity=1, min_size=0, max_size=8):
    return Load(size=size, in_use=in_use, waiting=waiting, capacity=capacity,
                min_size=min_size, max_size=max_size)  # fmt: skip


def low(times=2):
    return Past(low_ticks=times)


def test_every_name_of_the_setting_has_a_policy():
    for name in POLICIES:
        assert ScalingSettings(policy=name).policy == name


@pytest.mark.parametrize(
    ("facts", "usage"),
    [
        (load(0), 0.0),  # D21: not 0 / 0
        (load(0, waiting=3), 1.0),
        (load(4, in_use=3), 0.75),
        (load(4, in_use=3, waiting=1), 1.0),  # D24: those who wait count
        (load(2, in_use=3, capacity=3), 0.5),
    ],
)
def test_usage(facts, usage):
    assert facts.usage == usage


def test_d22_restoring_min_size_comes_before_everything_else():
    decision = threshold(EAGER, load(1, in_use=1, min_size=3), Past(), 0.0)
    assert decision.target == 3
    assert "min_size" in decision.reason


def test_d24_growth_begins_before_everybody_waits():
    assert threshold(EAGER, load(4, in_use=3), Past(), 0.0).target == 5


def test_the_upper_threshold_is_strict():
    assert threshold(EAGER, load(2, in_use=1), Past(), 0.0).target == 2
    assert threshold(EAGER, load(2, in_use=2), Past(), 0.0).target == 3


def test_d36_never_above_max_size():
    assert threshold(EAGER, load(8, in_use=8, waiting=99), Past(), 0.0).target == 8


def test_never_below_min_size():
    assert threshold(EAGER, load(2, min_size=2), low(9), 0.0).target == 2


def test_d25_one_low_sample_does_not_shrink():
    first = threshold(EAGER, load(4), Past(), 0.0)
    assert first.target == 4
    assert "first time" in first.reason
    assert threshold(EAGER, load(4), first.past, 1.0).target == 3


def test_d25_a_busy_sample_in_between_begins_anew():
    past = threshold(EAGER, load(4), Past(), 0.0).past
    past = threshold(EAGER, load(4, in_use=2), past, 1.0).past
    assert threshold(EAGER, load(4), past, 2.0).target == 4


def test_d25_cool_downs_are_separate_and_run_from_the_last_step_in_either_direction():
    settings = ScalingSettings(
        scale_up_threshold=0.5, scale_down_threshold=0.2,
        scale_up_cooldown_s=5, scale_down_cooldown_s=10,
    )  # fmt: skip
    up, down = load(4, in_use=4), load(4)
    stepped = low().stepped(100.0)
    assert threshold(settings, up, stepped, 104.9).target == 4
    assert threshold(settings, up, stepped, 105.0).target == 5
    waiting = threshold(settings, down, stepped, 109.0)
    assert waiting.target == 4
    assert "1.0 s more" in waiting.reason
    assert threshold(settings, down, stepped, 110.0).target == 3


def test_every_decision_has_a_reason():
    assert "no change" in threshold(EAGER, load(4, in_use=1), Past(), 0.0).reason
    assert "above 0.50" in threshold(EAGER, load(4, in_use=4), Past(), 0.0).reason
    assert "below 0.20" in threshold(EAGER, load(4), low(), 0.0).reason


# --- target_concurrency ---

KNATIVE = ScalingSettings(policy="target_concurrency", scale_down_cooldown_s=0)


def after(samples, *, size, now, settings=KNATIVE, past=None, **sizes):
    """The decision at `now` after earlier ticks with the given (time, concurrency)."""
    past = past or Past()
    for at, concurrency in samples:
        past = target_concurrency(settings, load(size, concurrency, **sizes), past, at).past
    last = samples[-1][1]
    return target_concurrency(settings, load(size, last, **sizes), past, now)


def test_wants_the_mean_of_the_stable_window_at_the_target_share():
    steady = [(t, 12) for t in range(0, 60, 2)]
    assert after(steady, size=18, now=60, max_size=50).target == math.ceil(12 / 0.7)


def test_more_places_per_instance_need_fewer_instances():
    steady = [(t, 12) for t in range(0, 60, 2)]
    assert after(steady, size=2, now=60, capacity=10).target == 2


def test_stays_within_its_limits():
    steady = [(t, 12) for t in range(0, 60, 2)]
    assert after(steady, size=8, now=60, max_size=8).target == 8
    assert after([(0, 0)], size=3, now=2, min_size=2).target == 2


def test_below_min_size_is_restored_whatever_the_cool_down():
    settings = ScalingSettings(policy="target_concurrency", scale_up_cooldown_s=99)
    decision = target_concurrency(settings, load(1, min_size=3), Past(last_step_at=0), 1.0)
    assert decision.target == 3


def test_an_old_sample_counts_no_more():
    assert after([(0, 50)], size=1, now=61, past=Past(), max_size=99).past.samples == ((61, 50),)


def test_a_burst_begins_a_panic_that_never_shrinks_and_ends_after_a_stable_window():
    calm = Past()
    for at in range(0, 60, 2):
        calm = target_concurrency(KNATIVE, load(2, 1, max_size=50), calm, at).past
    burst = target_concurrency(KNATIVE, load(2, 40, max_size=50), calm, 60)
    assert burst.past.panic_since == 60
    assert burst.target == math.ceil((1 + 1 + 40) / 3 / 0.7)
    assert "panic" in burst.reason
    quiet = target_concurrency(KNATIVE, load(20, 0, max_size=50), burst.past, 70)
    assert quiet.target == 20
    over = target_concurrency(KNATIVE, load(20, 0, max_size=50), quiet.past, 121)
    assert over.past.panic_since is None
    assert over.target < 20


def test_cool_downs_hold_for_it_too():
    decision = target_concurrency(KNATIVE, load(4), Past(last_step_at=5.0), 5.0)
    assert decision.target == 0
    slow = ScalingSettings(policy="target_concurrency", scale_down_cooldown_s=10)
    assert target_concurrency(slow, load(4), Past(last_step_at=5.0), 6.0).target == 4
