"""The pure machine: every moment is a number."""

from __future__ import annotations

import pytest

from atlatl.core.breaker import PROBE_HINT_S, Breaker, CircuitState, Permit, open_time_s
from atlatl.errors import SettingInvalid
from atlatl.settings import CircuitBreakerSettings, parse

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
CHANCE = 0.5
"""The middle: jitter adds nothing."""


def breaker(**settings: object) -> Breaker:
    return Breaker(parse(CircuitBreakerSettings, settings), 0.0)


def admitted(machine: Breaker, now: float) -> Permit:
    permit = machine.admit(now, CHANCE)
    assert permit is not None
    return permit


def succeed(machine: Breaker, permit: Permit, now: float, duration_s: float = 0.0) -> None:
    machine.succeed(permit, now, duration_s, CHANCE)


def fail(machine: Breaker, permit: Permit, now: float, duration_s: float = 0.0) -> None:
    machine.fail(permit, now, duration_s, CHANCE, "ValueError: no")


def opened(now: float = 0.0, **settings: object) -> Breaker:
    machine = breaker(failure_threshold=1, **settings)
    fail(machine, admitted(machine, now), now)
    assert machine.state is OPEN
    return machine


def transitions(machine: Breaker) -> list[tuple[CircuitState, CircuitState]]:
    return list(machine.transitions)


def test_stays_closed_under_ten_successes() -> None:
    machine = breaker()
    for second in range(10):
        succeed(machine, admitted(machine, second), second)
    assert machine.state is CLOSED
    assert machine.stats(10).success_count == 10


def test_opens_after_consecutive_failures_only() -> None:
    machine = breaker(failure_threshold=3)
    for result in (fail, fail, succeed, fail, fail):
        result(machine, admitted(machine, 0), 0)
    assert machine.state is CLOSED
    fail(machine, admitted(machine, 0), 0)
    assert machine.state is OPEN


def test_admits_at_exactly_the_open_time_d12() -> None:
    machine = opened(timeout_s=1.0)
    assert machine.admit(0.99, CHANCE) is None
    assert machine.admit(1.0, CHANCE) is not None
    assert machine.state is HALF_OPEN


def test_reading_the_state_changes_nothing_and_the_remaining_time_is_told_d11() -> None:
    machine = opened(timeout_s=30.0)
    assert machine.stats(10.0).retry_after_s == 20.0
    assert machine.stats(99.0).retry_after_s == 0.0
    assert machine.state is OPEN
    assert machine.stats(99.0).generation == 1


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_probes_in_flight_are_limited_d1(limit: int) -> None:
    machine = opened(timeout_s=1.0, half_open_max_calls=limit)
    permits = [machine.admit(1.0, CHANCE) for _ in range(100)]
    assert sum(permit is not None for permit in permits) == limit
    assert machine.stats(1.0).rejected_count == 100 - limit


def test_a_probe_that_reports_frees_its_place_d1() -> None:
    machine = opened(timeout_s=1.0, success_threshold=3)
    for _ in range(2):
        succeed(machine, admitted(machine, 1.0), 1.0)
        assert machine.state is HALF_OPEN
    succeed(machine, admitted(machine, 1.0), 1.0)
    assert machine.state is CLOSED


def test_admission_and_transition_are_one_step_d2() -> None:
    machine = opened(timeout_s=1.0)
    permit = admitted(machine, 1.0)
    fail(machine, permit, 1.0)
    assert machine.admit(1.0, CHANCE) is None, "reopened: the time counts anew"
    assert machine.closed_permit is None


def test_late_successes_do_not_close_d3() -> None:
    machine = breaker(failure_threshold=1, success_threshold=2, timeout_s=1.0)
    late = [admitted(machine, 0) for _ in range(2)]
    fail(machine, admitted(machine, 0), 0)
    admitted(machine, 1.0)
    for permit in late:
        succeed(machine, permit, 1.0)
    assert machine.state is HALF_OPEN


def test_a_late_failure_does_not_reopen_d3() -> None:
    machine = breaker(failure_threshold=1, success_threshold=2, timeout_s=1.0)
    late = admitted(machine, 0)
    fail(machine, admitted(machine, 0), 0)
    admitted(machine, 1.0)
    fail(machine, late, 1.0)
    assert machine.state is HALF_OPEN
    assert machine.stats(1.0).failure_count == 1


def test_a_late_success_does_not_end_a_row_of_failures_d3() -> None:
    machine = breaker(failure_threshold=2)
    late = admitted(machine, 0)
    machine.reset(0)
    fail(machine, admitted(machine, 0), 0)
    succeed(machine, late, 0)
    fail(machine, admitted(machine, 0), 0)
    assert machine.state is OPEN


def test_successful_probes_count_within_one_half_open_time_only_d3() -> None:
    machine = opened(timeout_s=1.0, success_threshold=2)
    succeed(machine, admitted(machine, 1.0), 1.0)
    fail(machine, admitted(machine, 1.0), 1.0)
    succeed(machine, admitted(machine, 2.0), 2.0)
    assert machine.state is HALF_OPEN


def test_results_from_before_a_reset_change_nothing_d10() -> None:
    machine = breaker(failure_threshold=1)
    late = admitted(machine, 0)
    machine.reset(0)
    fail(machine, late, 0)
    assert machine.state is CLOSED
    assert transitions(machine) == [(CLOSED, CLOSED)]


def test_a_second_report_of_a_probe_changes_nothing() -> None:
    machine = opened(timeout_s=1.0, success_threshold=2)
    probe = admitted(machine, 1.0)
    succeed(machine, probe, 1.0)
    succeed(machine, probe, 1.0)
    fail(machine, probe, 1.0)
    assert machine.state is HALF_OPEN


def test_a_silent_probe_counts_as_failed_and_frees_its_place_d5() -> None:
    machine = opened(timeout_s=1.0, probe_timeout_s=5.0, success_threshold=1)
    silent = admitted(machine, 1.0)
    assert machine.admit(5.9, CHANCE) is None
    assert machine.state is HALF_OPEN
    assert machine.admit(6.0, CHANCE) is None
    assert machine.state is OPEN
    assert machine.stats(6.0).last_error == "a probe did not report within 5 s"
    second = admitted(machine, 7.0)
    succeed(machine, silent, 7.0)
    assert machine.state is HALF_OPEN, "the silent probe speaks too late"
    succeed(machine, second, 7.0)
    assert machine.state is CLOSED


def test_a_silent_probe_failed_when_its_time_was_up_not_when_noticed_d5() -> None:
    machine = opened(timeout_s=1.0, probe_timeout_s=5.0)
    admitted(machine, 1.0)
    assert machine.admit(1000.0, CHANCE) is not None
    assert transitions(machine)[1:] == [(OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (OPEN, HALF_OPEN)]


def test_a_late_result_of_an_ordinary_call_does_not_end_a_probe_d3_d5() -> None:
    machine = breaker(failure_threshold=1, timeout_s=1.0, probe_timeout_s=5.0)
    late = admitted(machine, 0)
    fail(machine, admitted(machine, 0), 0)
    admitted(machine, 1.0)
    succeed(machine, late, 100.0)
    assert machine.state is HALF_OPEN


def test_a_probe_reporting_after_its_time_is_too_late_d5() -> None:
    machine = opened(timeout_s=1.0, probe_timeout_s=5.0, success_threshold=1)
    probe = admitted(machine, 1.0)
    succeed(machine, probe, 6.0)
    assert machine.state is OPEN


def test_an_ignored_probe_frees_its_place_and_counts_as_neither_d4() -> None:
    machine = opened(timeout_s=1.0, success_threshold=1)
    machine.ignore(admitted(machine, 1.0), 1.0, CHANCE)
    assert machine.state is HALF_OPEN
    stats = machine.stats(1.0)
    assert (stats.failure_count, stats.success_count) == (1, 0)
    succeed(machine, admitted(machine, 1.0), 1.0)
    assert machine.state is CLOSED


def test_an_ignored_call_keeps_the_row_of_failures_d6() -> None:
    machine = breaker(failure_threshold=2)
    fail(machine, admitted(machine, 0), 0)
    machine.ignore(admitted(machine, 0), 0, CHANCE)
    fail(machine, admitted(machine, 0), 0)
    assert machine.state is OPEN


def test_every_second_call_failing_opens_by_the_rate_d7() -> None:
    machine = breaker(failure_threshold=3, failure_rate_threshold=0.5, minimum_calls=10)
    for call in range(9):
        (fail if call % 2 else succeed)(machine, admitted(machine, call), call)
    assert machine.state is CLOSED, "too few calls"
    fail(machine, admitted(machine, 9), 9)
    assert machine.state is OPEN


def test_without_the_rate_rule_every_second_failure_never_opens_d7() -> None:
    machine = breaker(failure_threshold=3)
    for call in range(1000):
        (fail if call % 2 else succeed)(machine, admitted(machine, call), call)
    assert machine.state is CLOSED


def test_a_success_may_complete_the_number_of_calls_d7() -> None:
    machine = breaker(failure_threshold=99, failure_rate_threshold=0.5, minimum_calls=4)
    for result in (fail, fail, fail, succeed):
        result(machine, admitted(machine, 0), 0)
    assert machine.state is OPEN


def test_what_left_the_window_counts_no_more_d7() -> None:
    machine = breaker(
        failure_threshold=99, failure_rate_threshold=0.5, minimum_calls=4, window_s=10.0
    )
    for _ in range(3):
        fail(machine, admitted(machine, 0), 0)
    fail(machine, admitted(machine, 11.0), 11.0)
    assert machine.state is CLOSED


def test_slow_calls_open_by_their_rate_d7() -> None:
    machine = breaker(slow_call_rate_threshold=1.0, slow_call_duration_s=2.0, minimum_calls=3)
    for duration_s in (2.0, 3.0):
        succeed(machine, admitted(machine, 0), 0, duration_s)
    assert machine.state is CLOSED
    succeed(machine, admitted(machine, 0), 0, 2.0)
    assert machine.state is OPEN


def test_fast_calls_do_not_open_by_the_slow_rate_d7() -> None:
    machine = breaker(slow_call_rate_threshold=1.0, slow_call_duration_s=2.0, minimum_calls=3)
    for duration_s in (2.0, 2.0, 1.9, 2.0):
        succeed(machine, admitted(machine, 0), 0, duration_s)
    assert machine.state is CLOSED


def test_zero_is_the_default_d8() -> None:
    machine = breaker(failure_threshold=0, success_threshold=0, timeout_s=0)
    for _ in range(4):
        fail(machine, admitted(machine, 0), 0)
    assert machine.state is CLOSED
    fail(machine, admitted(machine, 0), 0)
    assert machine.stats(0).retry_after_s == 30.0


@pytest.mark.parametrize("name", ["failure_threshold", "success_threshold", "timeout_s"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_negative_and_nan_settings_are_refused_d8(name: str, value: float) -> None:
    with pytest.raises(SettingInvalid):
        breaker(**{name: value})


def test_forced_open_lasts_until_reset() -> None:
    machine = breaker(timeout_s=1.0)
    machine.force_open(0.0)
    assert machine.admit(1e6, CHANCE) is None
    stats = machine.stats(1e6)
    assert (stats.state, stats.mode, stats.retry_after_s) == (OPEN, "forced_open", 1.0)
    machine.reset(1e6)
    assert machine.admit(1e6, CHANCE) is not None
    assert machine.stats(1e6).mode == "auto"


def test_disabled_admits_all_and_reports_closed_until_reset() -> None:
    machine = breaker(failure_threshold=1, failure_rate_threshold=0.1, minimum_calls=1)
    machine.disable(0.0)
    for _ in range(10):
        fail(machine, admitted(machine, 0), 0)
        succeed(machine, admitted(machine, 0), 0)
    stats = machine.stats(0.0)
    assert (stats.state, stats.mode, stats.failure_count) == (CLOSED, "disabled", 10)
    machine.reset(0.0)
    fail(machine, admitted(machine, 0), 0)
    assert machine.state is OPEN


def test_a_breaker_that_is_not_enabled_is_disabled_after_a_reset_too() -> None:
    machine = breaker(enabled=False)
    assert machine.stats(0).mode == "disabled"
    machine.force_open(0)
    machine.reset(0)
    assert machine.stats(0).mode == "disabled"


def test_reset_takes_new_settings_and_counts_anew() -> None:
    machine = opened()
    machine.admit(0, CHANCE)
    machine.reset(5.0, parse(CircuitBreakerSettings, {"failure_threshold": 2}))
    fail(machine, admitted(machine, 5.0), 5.0)
    stats = machine.stats(5.0)
    assert stats.state is CLOSED
    assert (stats.failure_count, stats.success_count, stats.rejected_count) == (1, 0, 1)


def test_statistics_tell_the_last_failure_and_change_d13() -> None:
    machine = breaker(failure_threshold=2)
    fail(machine, admitted(machine, 3.0), 3.0)
    fail(machine, admitted(machine, 4.0), 4.0)
    machine.admit(5.0, CHANCE)
    stats = machine.stats(5.0)
    assert stats.last_error == "ValueError: no"
    assert stats.last_failure_at == 4.0
    assert stats.last_state_change_at == 4.0
    assert stats.rejected_count == 1
    assert stats.failure_count == 2


@pytest.mark.parametrize(
    ("reopenings", "chance", "seconds"),
    [(0, 0.5, 10.0), (1, 0.5, 20.0), (2, 0.5, 35.0), (10_000, 0.5, 35.0), (0, 0.0, 8.0)],
)
def test_open_time_grows_to_its_cap_and_has_jitter_d15(
    reopenings: int, chance: float, seconds: float
) -> None:
    settings = CircuitBreakerSettings(timeout_s=10.0, max_timeout_s=35.0, jitter_ratio=0.2)
    assert open_time_s(settings, reopenings, chance) == pytest.approx(seconds)


def test_open_time_is_fixed_by_default_d15() -> None:
    settings = CircuitBreakerSettings(timeout_s=10.0)
    assert {open_time_s(settings, n, chance) for n in (0, 5) for chance in (0.0, 0.9)} == {10.0}


def test_reopening_doubles_and_closing_starts_over_d15() -> None:
    machine = opened(timeout_s=1.0, max_timeout_s=100.0, success_threshold=1)
    fail(machine, admitted(machine, 1.0), 1.0)
    assert machine.stats(1.0).retry_after_s == 2.0
    succeed(machine, admitted(machine, 3.0), 3.0)
    fail(machine, admitted(machine, 3.0), 3.0)
    assert machine.stats(3.0).retry_after_s == 1.0


def test_a_caller_refused_beside_a_probe_gets_a_short_hint_d16() -> None:
    machine = opened(timeout_s=1.0, probe_timeout_s=30.0)
    admitted(machine, 1.0)
    assert machine.retry_after_s(1.0) == PROBE_HINT_S
    assert machine.retry_after_s(30.75) == 0.25


@pytest.mark.parametrize(
    ("state", "text"), [(CLOSED, "closed"), (OPEN, "open"), (HALF_OPEN, "half-open")]
)
def test_states_have_texts_d17(state: CircuitState, text: str) -> None:
    assert str(state) == f"{state}" == text
