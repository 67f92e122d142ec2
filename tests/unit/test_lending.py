"""The machine of one pool, told by hand what happens and when."""

from __future__ import annotations

import math

import pytest

from atlatl.core.admission import MIN_HISTORY, Gate
from atlatl.core.leases import LeaseError
from atlatl.core.stock import BLOCKED_RETRY_S, START_BACKOFF_S
from atlatl.core.waiting import AGEING_S, WaitingRoom
from atlatl.errors import (
    ArtifactInvalid,
    InstanceLost,
    NoCapacity,
    PoolClosed,
    QueueFull,
    StartFailed,
    TimedOutWaiting,
)
from atlatl.model import IllegalTransition, InstanceState
from atlatl.settings import PoolSettings
from tests.pool_fakes import Asked, FakeInstance, Rig


def busy(rig) -> Asked:
    asked = rig.ask()
    assert asked.leases
    return asked


# --- lending at once ---


def test_an_idle_instance_is_lent_in_the_callers_stack():
    rig = Rig().warm(1)
    asked = Asked()
    lease = rig.lending.ask(asked.waiter, 0.0)
    assert lease is not None
    assert lease.channel is lease.instance.channel
    assert not rig.lending.actions


def test_d51_the_first_call_on_an_instance_is_cold_and_the_second_is_not():
    rig = Rig().warm(1)
    first = rig.ask()
    rig.give_back(first)
    second = rig.ask()
    assert (first.lease.cold, second.lease.cold) == (True, False)


def test_d75_two_calls_share_one_instance_one_after_the_other():
    rig = Rig()
    first = rig.ask()
    rig.start()
    rig.give_back(first)
    assert rig.ask().lease.instance is first.lease.instance
    assert rig.stock.size == 1


def test_d85_choosing_takes_the_place():
    rig = Rig(max_size=1, max_concurrent_requests=2).warm(1)
    assert [bool(rig.ask().leases) for _ in range(3)] == [True, True, False]
    assert rig.stock.instances[0].in_flight == 2


def test_an_instance_that_stopped_accepting_is_retired_and_another_chosen():
    rig = Rig(max_size=3).warm(2)
    deaf = rig.stock.instances[0]
    deaf.channel.accepting = False
    assert rig.ask().lease.instance is not deaf
    assert rig.to_stop == [deaf]


def test_an_instance_that_stopped_accepting_in_use_gets_no_second_call():
    rig = Rig(max_size=1, max_concurrent_requests=2).warm(1)
    first = rig.ask()
    first.lease.channel.accepting = False
    second = rig.ask()
    assert second.waits
    assert not rig.to_stop
    rig.give_back(first)
    rig.stop()
    rig.start()
    assert second.lease.cold


def test_every_state_is_derived_on_reading():
    rig = Rig(max_concurrent_requests=2).warm(1)
    (instance,) = rig.stock.instances
    states = [instance.state]
    calls = [rig.ask()]
    states.append(instance.state)
    calls.append(rig.ask())
    states.append(instance.state)
    for call in calls:
        rig.give_back(call)
    states.append(instance.state)
    ready, running, full = InstanceState.READY, InstanceState.RUNNING, InstanceState.BUSY
    assert states == [ready, running, full, ready]


# --- growing on demand ---


def test_d88_a_full_pool_below_its_maximum_grows_at_once_and_does_not_refuse():
    rig = Rig(max_size=2).warm(1)
    busy(rig)
    second = rig.ask()
    assert len(rig.to_start) == 1
    rig.start()
    assert second.lease.cold


def test_d23_one_start_for_each_waiter_and_no_more():
    rig = Rig(max_size=16)
    waiters = [rig.ask() for _ in range(5)]
    assert len(rig.to_start) == 5
    rig.start()
    assert all(waiter.leases for waiter in waiters)


def test_d23_no_stampede_beyond_max_size():
    rig = Rig(max_size=3)
    for _ in range(50):
        rig.ask()
    assert len(rig.to_start) == 3


def test_one_start_serves_as_many_waiters_as_an_instance_takes_calls():
    rig = Rig(max_size=16, max_concurrent_requests=4)
    waiters = [rig.ask() for _ in range(6)]
    assert len(rig.to_start) == 2
    rig.start()
    assert all(waiter.leases for waiter in waiters)


def test_an_instance_that_comes_back_serves_the_waiter_before_its_own_start_is_done():
    rig = Rig(max_size=2).warm(1)
    first, second = busy(rig), rig.ask()
    rig.give_back(first)
    assert second.lease.instance is first.lease.instance
    rig.start()
    assert rig.ask().leases


def test_growth_on_demand_is_a_step_with_its_reason():
    rig = Rig()
    rig.ask()
    assert [(step.direction, step.size) for step in rig.steps] == [("up", 1)]
    assert rig.stock.counts.scale_ups == 1


# --- the waiting room ---


def test_d32_first_come_first_served_within_a_priority():
    rig = Rig(max_size=1).warm(1)
    first = busy(rig)
    waiters = [rig.ask() for _ in range(4)]
    order = []
    for _ in waiters:
        rig.give_back(first)
        first = next(w for w in waiters if w.leases and w not in order)
        order.append(first)
    assert order == waiters


def test_the_more_urgent_goes_first():
    rig = Rig(max_size=1).warm(1)
    first = busy(rig)
    late, urgent = rig.ask(priority=7), rig.ask(priority=0)
    rig.give_back(first)
    assert urgent.leases
    assert late.waits


@pytest.mark.parametrize(("waited_s", "old_one_first"), [(14.9, False), (15.0, True)])
def test_a_waiter_rises_one_level_each_five_seconds(waited_s, old_one_first):
    rig = Rig(max_size=1).warm(1)
    first = busy(rig)
    old = rig.ask(priority=3)
    rig.now = 10.0
    urgent = rig.ask(priority=0)
    rig.now = waited_s
    rig.give_back(first)
    assert bool(old.leases) is old_one_first
    assert bool(urgent.leases) is not old_one_first
    assert AGEING_S == 5.0


def test_a_waiting_room_looks_like_a_collection():
    room, asked = WaitingRoom(), [Asked(priority=n % 3).waiter for n in range(7)]
    for number, waiter in enumerate(asked):
        waiter.number = number
        room.add(waiter)
    assert len(room) == 7
    assert set(room) == set(asked)
    assert Asked().waiter not in room
    assert room.first(0.0) is asked[0]
    assert WaitingRoom().first(0.0) is None
    assert WaitingRoom().oldest_since() == math.inf


def test_d32_waiters_are_bounded_and_the_refusal_has_a_hint():
    rig = Rig(max_size=1, max_waiting=2).warm(1)
    busy(rig)
    rig.ask(), rig.ask()
    refused = rig.ask()
    assert isinstance(refused.error, QueueFull)
    assert refused.error.retry_after_s > 0
    assert "max_waiting" in refused.error.message
    assert rig.lending.account.refused == 1


def test_d83_the_waiters_of_all_pools_together_are_bounded():
    gate = Gate(max_waiting=1)
    one, other = Rig(gate, max_size=1).warm(1), Rig(gate, max_size=1).warm(1)
    busy(one), busy(other)
    one.ask()
    refused = other.ask()
    assert isinstance(refused.error, QueueFull)
    assert "max_queued_executions" in refused.error.message


def test_a_caller_for_whom_an_instance_is_started_does_not_count_as_one_too_many():
    rig = Rig(Gate(max_waiting=0), max_size=2, max_waiting=0)
    first = rig.ask()
    assert first.waits
    rig.start()
    assert first.leases
    assert rig.ask().waits
    assert isinstance(rig.ask().error, QueueFull)


def test_d32_a_withdrawn_waiter_gets_nothing():
    rig = Rig(max_size=1).warm(1)
    first = busy(rig)
    gone, stays = rig.ask(), rig.ask()
    assert rig.lending.withdraw(gone.waiter, rig.now)
    assert not rig.lending.withdraw(gone.waiter, rig.now)
    rig.give_back(first)
    assert gone.waits
    assert stays.leases
    assert rig.lending.account.withdrawn == 1
    assert rig.gate.waiting == 0


def test_d32_an_instance_never_goes_to_a_waiter_whose_deadline_has_passed():
    rig = Rig(max_size=1).warm(1)
    first = busy(rig)
    late, patient = rig.ask(deadline=1.0), rig.ask()
    rig.now = 1.0
    rig.give_back(first)
    assert isinstance(late.error, TimedOutWaiting)
    assert patient.leases


def test_a_deadline_that_is_over_already_is_refused_at_once():
    rig = Rig().warm(1)
    rig.now = 2.0
    assert isinstance(rig.ask(deadline=2.0).error, TimedOutWaiting)


def test_d29_withdrawals_after_the_deadline_are_time_outs():
    rig = Rig(max_size=1).warm(1)
    busy(rig)
    late = rig.ask(deadline=1.0)
    rig.lending.withdraw(late.waiter, 1.0)
    assert (rig.lending.account.timed_out, rig.lending.account.withdrawn) == (1, 0)


def test_max_wait_s_ends_a_wait():
    rig = Rig(max_size=1, max_wait_s=0.3).warm(1)
    rig.now = 0.1
    busy(rig)
    waiter = rig.ask()
    assert rig.lending.wake_at(rig.now) == pytest.approx(0.4)
    rig.wake(rig.lending.wake_at(rig.now))
    assert isinstance(waiter.error, TimedOutWaiting)
    assert rig.lending.wake_at(rig.now) is None


def test_without_max_wait_s_nothing_has_to_be_woken():
    rig = Rig(max_size=1).warm(1)
    busy(rig)
    waiter = rig.ask()
    assert rig.lending.wake_at(0.0) is None
    rig.wake(1e9)
    assert waiter.waits


def test_a_hopeless_deadline_is_refused_at_once_but_only_with_history():
    rig = Rig(max_size=1).warm(1)

    def uses(count):
        for _ in range(count):
            call = busy(rig)
            rig.now += 1.0
            rig.give_back(call)

    uses(MIN_HISTORY - 1)
    first = busy(rig)
    for _ in range(10):
        rig.ask()
    assert rig.ask(deadline=rig.now + 2.0).waits
    rig.now += 1.0
    rig.give_back(first)
    refused = rig.ask(deadline=rig.now + 2.0)
    assert isinstance(refused.error, QueueFull)
    assert "deadline" in refused.error.message
    assert rig.ask(deadline=rig.now + 30.0).waits
    assert rig.ask(deadline=rig.now + 2.0, priority=0).waits


# --- figures ---


def test_d29_waits_are_those_of_the_granted_only():
    rig = Rig(max_size=1).warm(1)
    first = busy(rig)
    for _ in range(3):
        rig.ask(deadline=0.1)
    served = rig.ask()
    rig.now = 0.2
    rig.give_back(first)
    account = rig.lending.account
    assert served.lease.waited_s == pytest.approx(0.2)
    assert account.mean_wait_s == pytest.approx(0.1)
    assert account.wait_quantile_s(0.95) == pytest.approx(0.2)
    assert (account.granted, account.timed_out) == (2, 3)


def test_d93_quantiles_go_down_again():
    account = Rig().lending.account
    assert account.wait_quantile_s(0.95) is None
    assert account.mean_wait_s == 0.0
    for waited_s in [5.0] * 100 + [0.0] * 2000:
        account.note_grant(waited_s)
    assert account.wait_quantile_s(0.95) == 0.0


def test_d90_utilization_is_busy_time_over_live_time_also_of_those_that_are_gone():
    rig = Rig()
    assert rig.stock.utilization(5.0) == 0.0
    rig.warm(2)
    call = busy(rig)
    rig.now = 1.0
    assert rig.stock.utilization(1.0) == pytest.approx(0.5)
    rig.give_back(call)
    rig.now = 2.0
    rig.lose(call.lease.instance)
    assert rig.stock.utilization(2.0) == pytest.approx(0.25)


def test_load_leaves_out_what_is_on_its_way_out():
    rig = Rig(max_size=3, max_uses=1).warm(2)
    busy(rig)
    load = rig.lending.load()
    assert (load.size, load.in_use, load.waiting) == (1, 0, 0)


# --- giving back ---


def test_d30_a_double_release_is_refused_loudly_and_changes_nothing():
    rig = Rig().warm(1)
    call = busy(rig)
    rig.give_back(call)
    with pytest.raises(LeaseError):
        rig.give_back(call)
    assert rig.gate.lent == 0
    assert rig.stock.instances[0].in_flight == 0


def test_d30_a_foreign_release_is_refused_loudly():
    one, other = Rig().warm(1), Rig().warm(1)
    call = busy(one)
    with pytest.raises(LeaseError, match="another pool"):
        other.give_back(call)
    one.give_back(call)


def test_d31_a_broken_instance_is_discarded_and_replaced_for_the_next_waiter():
    rig = Rig(max_size=1).warm(1)
    call, waiter = busy(rig), rig.ask()
    rig.give_back(call, broken=True)
    assert rig.gate.lent == 0
    assert rig.to_stop == [call.lease.instance]
    assert waiter.waits
    rig.stop()
    rig.start()
    assert waiter.lease.instance is not call.lease.instance


def test_d31_one_that_no_longer_accepts_is_discarded_on_return():
    rig = Rig().warm(1)
    call = busy(rig)
    call.lease.channel.accepting = False
    rig.give_back(call)
    assert rig.to_stop == [call.lease.instance]


def test_max_uses_drains_an_instance_and_stops_it_when_it_is_empty():
    rig = Rig(max_size=1, max_uses=2, max_concurrent_requests=2).warm(1)
    calls = [busy(rig), busy(rig)]
    rig.give_back(calls[0])
    assert not rig.to_stop
    assert rig.stock.instances[0].state is InstanceState.DRAINING
    rig.give_back(calls[1])
    assert len(rig.to_stop) == 1


def test_max_uses_brings_a_new_instance_for_those_who_wait():
    rig = Rig(max_size=1, max_uses=1)
    waiters = [rig.ask() for _ in range(3)]
    for waiter in waiters:
        rig.start()
        assert waiter.lease.cold
        rig.give_back(waiter)
        rig.stop()
    assert rig.stock.size == 0


# --- coming and going ---


def test_d20_an_instance_is_published_only_when_it_has_started():
    rig = Rig()
    asked = rig.ask()
    assert asked.waits
    assert [i.state for i in rig.stock.instances] == [InstanceState.STARTING]
    assert rig.stock.starting == 1


def test_d18_a_lost_instance_counts_no_more_and_a_waiter_gets_another():
    rig = Rig(max_size=1).warm(1)
    call, waiter = busy(rig), rig.ask()
    rig.lose(call.lease.instance)
    assert len(rig.to_start) == 1
    rig.start()
    assert waiter.leases
    rig.give_back(call)
    assert rig.lending.leased == 1
    assert not rig.lending.removed(call.lease.instance, rig.now, lost=True)


def test_an_instance_cannot_start_twice():
    rig = Rig().warm(1)
    with pytest.raises(IllegalTransition):
        rig.lending.started(rig.stock.instances[0], FakeInstance(), 0.0)


def test_d34_a_failed_start_is_told_to_those_whom_nothing_else_can_serve():
    rig = Rig(max_size=2)
    one, other = rig.ask(), rig.ask()
    rig.fail_start()
    assert one.waits
    assert other.waits
    rig.fail_start()
    assert isinstance(one.error, StartFailed)
    assert isinstance(other.error, StartFailed)
    assert one.error is not other.error
    assert one.error.retryable


def test_d34_code_that_cannot_start_is_reported_as_what_it_is():
    rig = Rig()
    asked = rig.ask()
    rig.fail_start(ArtifactInvalid("no module named x", detail="Traceback"))
    assert isinstance(asked.error, ArtifactInvalid)
    assert asked.error.detail == "Traceback"


def test_d34_those_whom_another_instance_can_serve_go_on_waiting_and_it_is_tried_again():
    rig = Rig(max_size=2).warm(1)
    busy(rig)
    waiter = rig.ask()
    rig.fail_start()
    assert waiter.waits
    assert not rig.to_start
    assert rig.lending.wake_at(rig.now) == START_BACKOFF_S
    rig.wake(START_BACKOFF_S)
    assert len(rig.to_start) == 1
    assert rig.stock.counts.failed_starts == 1


def test_d34_the_back_off_grows_one_start_at_a_time_and_ends_with_a_success():
    rig = Rig(max_size=9).warm(1)
    busy(rig)
    waiters = [rig.ask() for _ in range(4)]
    for _ in range(4):
        rig.fail_start()
    assert rig.lending.wake_at(rig.now) == pytest.approx(0.8)
    rig.ask()
    assert not rig.to_start
    rig.wake(0.8)
    assert len(rig.to_start) == 1
    rig.start()
    assert len(rig.to_start) == 4
    rig.start()
    assert all(waiter.leases for waiter in waiters)


def test_d34_a_start_that_succeeds_ends_the_back_off_of_one_that_failed():
    rig = Rig(max_size=3)
    rig.ask(), rig.ask()
    rig.fail_start()
    rig.start()
    assert len(rig.to_start) == 1


def test_bounds_hold_while_starts_are_put_off():
    rig = Rig(max_size=9, max_waiting=1).warm(1)
    busy(rig)
    rig.ask()
    rig.fail_start()
    assert isinstance(rig.ask().error, QueueFull)


def test_d22_min_size_is_restored():
    rig = Rig(min_size=3)
    assert rig.stock.restore(0.0) == 3
    rig.perform()
    rig.start()
    rig.lose(rig.stock.instances[0])
    assert rig.stock.restore(0.0) == 1
    assert rig.stock.restore(0.0) == 0


def test_d26_the_one_idle_longest_is_retired():
    rig = Rig().warm(3)
    calls = [busy(rig) for _ in range(3)]
    for call in (calls[1], calls[2], calls[0]):
        rig.now += 1
        rig.give_back(call)
    rig.lending.scale_to(2, "too many", rig.now)
    rig.perform()
    assert rig.to_stop == [calls[1].lease.instance]


def test_d27_shrinking_never_takes_an_instance_in_use():
    rig = Rig().warm(3)
    calls = [busy(rig) for _ in range(2)]
    rig.lending.scale_to(0, "too many", rig.now)
    rig.perform()
    assert len(rig.to_stop) == 1
    assert all(call.lease.instance.open for call in calls)


def test_d36_steps_are_clamped_where_they_are_made():
    rig = Rig(min_size=1, max_size=3)
    rig.lending.scale_to(99, "more", 0.0)
    rig.perform()
    assert len(rig.to_start) == 3
    rig.start()
    rig.lending.scale_to(-5, "less", 0.0)
    rig.perform()
    assert len(rig.to_stop) == 2


def test_d89_only_steps_that_happened_are_counted():
    rig = Rig(min_size=1, max_size=1).warm(1)
    rig.lending.scale_to(2, "more", 0.0)
    rig.lending.scale_to(0, "less", 0.0)
    rig.stock.retire_unused(1e9)
    assert rig.stock.counts.steps == 0
    assert not rig.steps


def test_d89_an_idle_instance_is_marked_before_it_is_stopped():
    rig = Rig(max_size=2).warm(1)
    rig.lending.scale_to(0, "too many", rig.now)
    asked = rig.ask()
    assert asked.waits
    rig.start()
    assert asked.lease.instance.open


def test_idle_timeout_goes_down_to_min_size_and_not_below():
    rig = Rig(min_size=1, idle_timeout_s=10).warm(3)
    rig.now = 9.9
    rig.stock.retire_unused(rig.now)
    rig.perform()
    assert not rig.to_stop
    rig.give_back(busy(rig))
    rig.now = 10.0
    rig.stock.retire_unused(rig.now)
    rig.perform()
    assert len(rig.to_stop) == 2
    assert rig.stock.size == 1
    assert "idle for 10 s" in rig.steps[-1].reason


def test_max_age_and_max_memory_retire():
    rig = Rig(max_age_s=100, max_memory_bytes=1000).warm(3)
    old_and_busy = busy(rig).lease.instance
    rig.stock.instances[1].memory_bytes = 1001
    rig.stock.retire_worn(50.0)
    rig.perform()
    assert rig.to_stop == [rig.stock.instances[1]]
    rig.stock.retire_worn(100.0)
    rig.perform()
    assert len(rig.to_stop) == 2
    assert old_and_busy.state is InstanceState.DRAINING


def test_d92_health_checks_apply_both_thresholds():
    rig = Rig(max_size=2, health_check_failures=2, health_check_successes=2).warm(1)
    (instance,) = rig.stock.instances
    check = rig.lending.checked
    check(instance, True, 0.0)
    assert instance.state is InstanceState.READY
    check(instance, False, 0.0)
    assert instance.state is InstanceState.UNHEALTHY
    assert rig.ask().waits
    check(instance, True, 0.0)
    assert instance.state is InstanceState.UNHEALTHY
    check(instance, True, 0.0)
    assert instance.state is InstanceState.READY
    rig.settle()
    check(instance, False, 0.0)
    check(instance, False, 0.0)
    rig.settle()
    assert instance.leaving
    check(instance, True, 0.0)
    assert instance.leaving


def test_a_start_that_was_put_off_is_due_however_late_one_looks():
    rig = Rig(max_size=2).warm(1)
    busy(rig)
    rig.memory_left = False
    waits = rig.ask()
    rig.memory_left = True
    rig.now += BLOCKED_RETRY_S
    # Whoever sets the alarm anew at this moment must not forget the one that is due.
    assert rig.lending.wake_at(rig.now) == rig.now
    rig.wake(rig.now)
    assert waits.waits
    assert len(rig.to_start) == 1
    assert rig.lending.wake_at(rig.now) is None


def test_d37_a_start_that_memory_forbids_is_refused_when_nothing_else_serves():
    rig = Rig()
    rig.memory_left = False
    asked = rig.ask()
    assert isinstance(asked.error, NoCapacity)
    assert asked.error.retry_after_s


def test_d37_others_wait_and_the_start_is_tried_again():
    rig = Rig(max_size=2, max_waiting=1).warm(1)
    busy(rig)
    rig.memory_left = False
    waiter = rig.ask()
    assert waiter.waits
    assert isinstance(rig.ask().error, QueueFull)
    assert rig.lending.wake_at(rig.now) == BLOCKED_RETRY_S
    rig.memory_left = True
    rig.wake(BLOCKED_RETRY_S)
    rig.start()
    assert waiter.leases


def test_nothing_more_is_started_once_memory_is_used_up():
    rig = Rig(max_size=4)
    asked = iter([True, False])
    rig.stock._may_start = lambda: next(asked)
    assert rig.stock.reserve(3, 0.0) == 1


def test_d37_a_pool_that_lets_nobody_wait_recovers_when_memory_is_free_again():
    rig = Rig(max_waiting=0)
    rig.memory_left = False
    assert isinstance(rig.ask().error, NoCapacity)
    rig.memory_left = True
    assert isinstance(rig.ask().error, QueueFull)
    rig.now = BLOCKED_RETRY_S
    asked = rig.ask()
    rig.start()
    assert asked.leases


def test_d37_who_can_wait_for_a_place_is_not_told_that_memory_is_lacking():
    rig = Rig(max_size=2).warm(1)
    call = busy(rig)
    rig.memory_left = False
    first = rig.ask()
    rig.memory_left = True
    rig.lending.resize(PoolSettings(max_size=1), BLOCKED_RETRY_S)
    rig.now = BLOCKED_RETRY_S
    rig.give_back(call, broken=True)
    assert first.waits
    rig.stop()
    rig.start()
    assert first.leases


def test_one_who_insists_does_not_wait_for_the_back_off():
    rig = Rig(max_size=4)
    rig.ask()
    rig.fail_start()
    assert rig.stock.reserve(2, 0.0) == 0
    assert rig.stock.reserve(2, 0.0, insist=True) == 2


# --- fresh instances ---


def test_d64_a_fresh_request_gets_an_instance_on_which_nothing_has_run():
    rig = Rig(max_size=2).warm(1)
    rig.give_back(busy(rig))
    fresh = rig.ask(fresh=True)
    assert fresh.waits
    rig.start()
    assert fresh.lease.cold


def test_an_untouched_idle_instance_serves_a_fresh_request_at_once():
    rig = Rig(max_waiting=0, max_size=1).warm(1)
    assert rig.ask(fresh=True).lease.cold


def test_an_untouched_instance_that_does_not_accept_is_replaced():
    rig = Rig(max_size=1).warm(1)
    rig.stock.instances[0].channel.accepting = False
    fresh = rig.ask(fresh=True)
    rig.stop()
    rig.start()
    assert fresh.lease.cold


def test_a_full_pool_makes_room_for_a_fresh_request():
    rig = Rig(max_size=2).warm(2)
    calls = [busy(rig), busy(rig)]
    rig.give_back(calls[0])
    fresh = rig.ask(fresh=True)
    assert rig.to_stop == [calls[0].lease.instance]
    rig.stop()
    rig.start()
    assert fresh.lease.cold


def test_a_full_and_busy_pool_makes_room_when_a_call_ends():
    rig = Rig(max_size=1).warm(1)
    call, fresh = busy(rig), rig.ask(fresh=True)
    assert not rig.to_stop
    rig.give_back(call)
    rig.stop()
    rig.start()
    assert fresh.lease.cold


def test_a_fresh_request_does_not_end_instances_that_others_are_first_in_line_for():
    rig = Rig(max_size=1).warm(1)
    call, first = busy(rig), rig.ask()
    fresh = rig.ask(fresh=True)
    rig.give_back(call)
    assert first.lease.instance is call.lease.instance
    rig.give_back(first)
    rig.stop()
    rig.start()
    assert fresh.lease.cold


def behind_another_at_a_full_gate(**options):
    """A fresh request second in line at a pool with one used, idle instance; and who lends."""
    rig = Rig(Gate(1), max_size=1).warm(1)
    rig.give_back(busy(rig))
    other = Rig(rig.gate, max_size=1).warm(1)
    elsewhere = busy(other)
    first, fresh = rig.ask(**options), rig.ask(fresh=True)
    assert first.waits
    assert fresh.waits
    assert not rig.to_stop
    return rig, lambda: other.give_back(elsewhere), first, fresh


def test_a_fresh_request_is_made_room_for_when_the_one_before_it_leaves():
    rig, _, first, _fresh = behind_another_at_a_full_gate()
    rig.lending.withdraw(first.waiter, 0.0)
    rig.settle()
    assert rig.to_stop == rig.stock.instances


def test_a_fresh_request_is_made_room_for_when_the_one_before_it_comes_too_late():
    rig, give_back, first, fresh = behind_another_at_a_full_gate(deadline=1.0)
    rig.now = 2.0
    give_back()
    assert isinstance(first.error, TimedOutWaiting)
    rig.stop()
    rig.start()
    assert fresh.lease.cold


def test_a_fresh_request_waits_for_a_pool_that_is_sick_all_over():
    rig = Rig(max_size=1).warm(1)
    rig.lending.checked(rig.stock.instances[0], False, 0.0)
    fresh = rig.ask(fresh=True)
    assert fresh.waits
    rig.lending.checked(rig.stock.instances[0], True, 0.0)
    rig.settle()
    assert fresh.leases


def test_an_expired_fresh_request_ends_nothing():
    rig = Rig(max_size=1).warm(1)
    call = busy(rig)
    waiter = rig.ask()
    fresh = rig.ask(fresh=True, deadline=1.0)
    rig.now = 2.0
    rig.give_back(call)
    assert isinstance(fresh.error, TimedOutWaiting)
    assert waiter.lease.instance is call.lease.instance


def test_an_urgent_fresh_request_that_expires_leaves_the_busy_instance_alone():
    rig = Rig(max_size=1).warm(1)
    call, waiter = busy(rig), rig.ask()
    fresh = rig.ask(fresh=True, deadline=1.0, priority=0)
    rig.now = 1.0
    rig.give_back(call)
    assert isinstance(fresh.error, TimedOutWaiting)
    assert waiter.lease.instance is call.lease.instance
    assert not rig.to_stop


def test_an_urgent_fresh_request_that_is_withdrawn_leaves_the_busy_instance_alone():
    rig = Rig(max_size=1).warm(1)
    call, fresh = busy(rig), rig.ask(fresh=True, priority=0)
    rig.lending.withdraw(fresh.waiter, 0.0)
    rig.give_back(call)
    assert rig.ask().lease.instance is call.lease.instance


def test_an_instance_of_many_calls_is_emptied_for_a_fresh_request():
    """It might never be idle by itself, so it takes no more calls from now on."""
    rig = Rig(max_size=1, max_concurrent_requests=2).warm(1)
    calls = [busy(rig), busy(rig)]
    fresh, other = rig.ask(fresh=True), rig.ask()
    rig.give_back(calls[0])
    assert other.waits
    rig.give_back(calls[1])
    rig.stop()
    rig.start()
    assert fresh.lease.cold
    assert other.leases


def test_a_fresh_request_that_has_its_instance_ends_no_other():
    gate = Gate(max_lent=1)
    elsewhere, rig = Rig(gate).warm(1), Rig(gate, max_size=2)
    rig.warm(1)
    rig.give_back(busy(rig))
    rig.warm(1)
    busy(elsewhere)
    fresh = rig.ask(fresh=True, priority=0)
    others = [rig.ask(), rig.ask()]
    assert fresh.waits
    assert all(other.waits for other in others)
    assert not rig.to_stop


def test_a_failed_start_is_told_to_the_fresh_even_while_others_can_be_served():
    rig = Rig(max_size=2).warm(1)
    rig.give_back(busy(rig))
    fresh = rig.ask(fresh=True)
    rig.fail_start()
    assert isinstance(fresh.error, StartFailed)


def test_a_withdrawn_fresh_request_leaves_its_instance_to_the_others():
    rig = Rig(max_size=2).warm(1)
    busy(rig)
    fresh = rig.ask(fresh=True)
    assert rig.lending.withdraw(fresh.waiter, 0.0)
    rig.start()
    assert rig.ask().leases


# --- the gate ---


def test_the_gate_bounds_the_lent_calls_of_all_pools():
    gate = Gate(max_lent=1)
    one, other = Rig(gate).warm(1), Rig(gate).warm(1)
    call, waiter = busy(one), other.ask()
    assert waiter.waits
    assert not other.to_start
    one.give_back(call)
    assert waiter.leases


def test_a_full_gate_keeps_no_pool_from_getting_its_first_instance():
    gate = Gate(max_lent=1)
    one, other = Rig(gate).warm(1), Rig(gate)
    call, waiter = busy(one), other.ask()
    assert len(other.to_start) == 1
    other.start()
    assert waiter.waits
    one.give_back(call)
    assert waiter.leases


def test_a_full_gate_holds_back_a_fresh_request_too():
    gate = Gate(max_lent=1)
    rig = Rig(gate).warm(2)
    call = busy(rig)
    fresh = rig.ask(fresh=True)
    assert fresh.waits
    rig.give_back(call)
    assert fresh.lease.cold


def test_one_who_waits_for_a_fresh_instance_does_not_hold_up_those_behind():
    gate = Gate(max_lent=1)
    rig = Rig(gate, max_size=2).warm(1)
    call = busy(rig)
    fresh, other = rig.ask(fresh=True), rig.ask()
    rig.give_back(call)
    assert other.leases
    rig.start()
    rig.give_back(other)
    assert fresh.lease.cold


def test_a_pool_in_line_whose_waiters_left_is_passed_over():
    gate = Gate(max_lent=1)
    one, other = Rig(gate).warm(1), Rig(gate).warm(1)
    call, gone = busy(one), other.ask()
    other.lending.withdraw(gone.waiter, 0.0)
    one.give_back(call)
    assert gone.waits
    assert gate.lent == 0
    assert busy(other)


# --- closing, resizing, handing over ---


def test_d28_closing_gives_every_waiter_a_typed_error_and_refuses_new_callers():
    rig = Rig(max_size=1).warm(1)
    call = busy(rig)
    waiters = [rig.ask(), rig.ask(fresh=True)]
    rig.lending.close()
    rig.lending.close()
    rig.settle()
    assert all(isinstance(waiter.error, PoolClosed) for waiter in waiters)
    assert isinstance(rig.ask().error, PoolClosed)
    assert not rig.to_stop
    rig.give_back(call)
    rig.stop()
    assert rig.stock.instances == []


def test_an_instance_that_starts_after_closing_is_ended():
    rig = Rig()
    rig.ask()
    rig.lending.close()
    rig.settle()
    rig.start()
    assert len(rig.to_stop) == 1


def test_resizing_retires_idle_ones_at_once_and_the_others_on_return():
    rig = Rig(max_size=4).warm(4)
    calls = [busy(rig) for _ in range(3)]
    rig.lending.resize(PoolSettings(min_size=1, max_size=1), 0.0)
    rig.settle()
    assert len(rig.to_stop) == 1
    rig.stop()
    for call in calls:
        rig.give_back(call)
    rig.stop()
    assert rig.stock.size == 1


def test_resizing_upwards_serves_those_who_wait():
    rig = Rig(max_size=1).warm(1)
    busy(rig)
    waiter = rig.ask()
    rig.lending.resize(PoolSettings(max_size=2), 0.0)
    rig.settle()
    rig.start()
    assert waiter.leases


def test_resizing_a_closed_pool_starts_nothing():
    rig = Rig()
    rig.lending.close()
    rig.lending.resize(PoolSettings(min_size=2), 0.0)
    rig.settle()
    assert not rig.to_start


def test_waiters_move_to_the_successor_and_keep_their_order_and_their_age():
    gate = Gate()
    old, new = Rig(gate, max_size=1).warm(1), Rig(gate, max_size=1).warm(1)
    call = busy(old)
    busy_new = busy(new)
    early = [old.ask(), old.ask(), old.ask(fresh=True)]
    new.now = 1.0
    late = new.ask()
    moved = old.lending.take_waiters()
    assert moved == [asked.waiter for asked in early]
    assert old.lending.account.requests == 1
    new.lending.adopt(moved, 1.0)
    assert gate.waiting == 4
    served = []
    current = busy_new
    for expected in (early[0], early[1]):
        new.give_back(current)
        assert expected.leases
        current = expected
        served.append(expected)
    new.give_back(current)
    new.stop()
    new.start()
    assert early[2].lease.cold
    new.give_back(early[2])
    assert late.leases
    old.give_back(call)


def test_waiters_that_move_to_a_closed_pool_are_refused():
    old, new = Rig(max_size=1).warm(1), Rig()
    busy(old)
    asked = old.ask()
    new.lending.close()
    new.lending.adopt(old.lending.take_waiters(), 0.0)
    new.settle()
    assert isinstance(asked.error, PoolClosed)


def test_errors_that_are_told_twice_are_copies():
    error = InstanceLost("gone", detail="why")
    rig = Rig()
    asked = [rig.ask(), rig.ask(fresh=True)]
    rig.fail_start(error)
    rig.fail_start(error)
    assert asked[0].error is not asked[1].error
    assert asked[0].error.detail == "why"
