import pytest

from atlatl.core.retrying import FLOOR_RETRIES, RetryBudget, backoff, next_delay
from atlatl.settings import RetrySettings

SETTINGS = RetrySettings(max_retries=3, initial_backoff_s=0.1, max_backoff_s=10, jitter_ratio=0)


def delay(attempt, settings=SETTINGS, chance=0.5, left_s=1000.0, **options):
    return next_delay(attempt, settings, lambda: chance, left_s=left_s, **options)


def test_the_delay_grows_up_to_its_maximum():
    assert [round(backoff(n, 0.1, 2.0, 0.5), 3) for n in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.5]
    assert backoff(100_000, 0.1, 10.0, 7.0) == 7.0


def test_stops_after_max_retries_of_the_task_or_of_the_call():
    assert [delay(n) is None for n in (1, 3, 4)] == [False, False, True]
    assert delay(1, max_retries=0) is None
    assert delay(4, max_retries=4) == pytest.approx(0.8)


def test_jitter_spreads_to_both_sides():
    jittery = RetrySettings(max_retries=3, jitter_ratio=0.1)
    assert delay(1, jittery, chance=0.0) == pytest.approx(0.09)
    assert delay(1, jittery, chance=0.5) == pytest.approx(0.1)
    assert delay(1, jittery, chance=1.0) == pytest.approx(0.11)


def test_d55_never_past_the_deadline():
    assert delay(1, left_s=0.11) == pytest.approx(0.1)
    assert delay(1, left_s=0.1) is None


def test_the_budget_lets_retries_be_a_share_of_the_calls():
    budget = RetryBudget(0.2, 0.0, floor=0)
    assert not budget.take(0.0)
    for _ in range(10):
        budget.called()
    assert [budget.take(0.0) for _ in range(3)] == [True, True, False]


def test_what_is_saved_up_is_bounded():
    budget = RetryBudget(1.0, 0.0, floor=0)
    for _ in range(1000):
        budget.called()
    assert sum(budget.take(0.0) for _ in range(1000)) == 100


def test_a_lone_failing_call_may_still_be_tried_again_and_again_later():
    budget = RetryBudget(0.2, 0.0)
    assert sum(budget.take(0.0) for _ in range(100)) == FLOOR_RETRIES
    assert [budget.take(2.0) for _ in range(3)] == [True, True, False]
    assert sum(budget.take(10_000.0) for _ in range(100)) == FLOOR_RETRIES
