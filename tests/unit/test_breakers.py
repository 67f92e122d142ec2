"""One breaker per task."""

from __future__ import annotations

from atlatl.engine.breaker import Breakers, CircuitState
from atlatl.errors import CircuitOpenError
from atlatl.settings import CircuitBreakerSettings

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FIRST = CircuitBreakerSettings(failure_threshold=1, timeout_s=10.0)


def break_it(breakers: Breakers, name: str) -> None:
    breaker = breakers.get(name, FIRST)
    breaker.record(breaker.try_acquire(), ValueError("no"))


def refused(breakers: Breakers, name: str) -> bool:
    try:
        breakers.get(name, FIRST).try_acquire()
    except CircuitOpenError:
        return True
    return False


def test_a_broken_task_stops_no_other_d14() -> None:
    breakers = Breakers()
    break_it(breakers, "bad")
    assert refused(breakers, "bad")
    assert not refused(breakers, "good")
    assert breakers.not_closed() == {"bad": OPEN}


def test_the_worst_state_is_told_d14() -> None:
    now = [0.0]
    breakers = Breakers(clock=lambda: now[0])
    assert breakers.worst() is CLOSED
    break_it(breakers, "a")
    now[0] = 10.0
    breakers.get("a", FIRST).try_acquire()
    assert breakers.worst() is HALF_OPEN
    break_it(breakers, "b")
    assert breakers.worst() is OPEN
    assert breakers.not_closed() == {"a": HALF_OPEN, "b": OPEN}


def test_their_number_is_bounded_and_closed_ones_go_first_d14() -> None:
    breakers = Breakers(max_breakers=3)
    break_it(breakers, "bad")
    for name in ("a", "b", "a", "c"):
        breakers.get(name, FIRST)
    assert list(breakers.all()) == ["a", "bad", "c"]


def test_when_none_is_closed_the_oldest_goes_d14() -> None:
    breakers = Breakers(max_breakers=2)
    for name in ("a", "b", "c"):
        break_it(breakers, name)
    assert list(breakers.all()) == ["b", "c"]


def test_a_removed_one_is_gone_but_its_refusals_stay_counted_d14_d16() -> None:
    breakers = Breakers()
    break_it(breakers, "bad")
    assert refused(breakers, "bad")
    breakers.remove("bad")
    breakers.remove("bad")
    assert breakers.all() == {}
    assert breakers.rejected_count() == 1
    assert breakers.get("bad", FIRST).state is CLOSED


def test_a_new_version_closes_it_with_its_own_settings_d10() -> None:
    breakers = Breakers()
    break_it(breakers, "task")
    old = breakers.get("task", FIRST)
    late = old.stats().generation - 1
    second = CircuitBreakerSettings(failure_threshold=2)
    renewed = breakers.renew("task", second)
    assert renewed is old
    assert (renewed.state, renewed.settings) == (CLOSED, second)
    renewed.record(late, ValueError("of the old version"))
    renewed.record(renewed.try_acquire(), ValueError("of the new one"))
    assert renewed.state is CLOSED


def test_transitions_are_told_with_the_name_and_only_when_the_state_changes() -> None:
    told: list[tuple[str, str, str]] = []
    breakers = Breakers(on_change=lambda name, old, new: told.append((name, str(old), str(new))))
    break_it(breakers, "a")
    breakers.renew("a", FIRST)
    breakers.renew("b", FIRST)
    assert told == [("a", "closed", "open"), ("a", "open", "closed")]


def test_a_disabled_one_never_refuses() -> None:
    breakers = Breakers()
    breaker = breakers.get("free", CircuitBreakerSettings(enabled=False, failure_threshold=1))
    for _ in range(5):
        breaker.record(breaker.try_acquire(), ValueError("no"))
    assert breaker.state is CLOSED
