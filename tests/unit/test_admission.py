import pytest

from atlatl.core.admission import (
    MIN_HISTORY,
    ByteBudget,
    Gate,
    Share,
    TokenBucket,
    expected_wait_s,
    hopeless,
)
from atlatl.errors import NoCapacity, RateLimited


class Queue:
    """A pool that always has waiters and instances, and calls that never end."""

    def __init__(self, gate, name, weight, log, jobs=10**6):
        self.gate, self.name, self.log, self.jobs = gate, name, log, jobs
        self.share = Share(weight, self.serve)

    def offer(self):
        self.gate.offer(self.share)

    def serve(self):
        if not self.jobs:
            return False
        self.jobs -= 1
        self.gate.lent += 1
        self.log.append(self.name)
        self.offer()
        return True


def serve(gate, times):
    for _ in range(times):
        gate.lent -= 1
        gate.settle()


def full_gate(places=1):
    gate = Gate(max_lent=places)
    gate.lent = places
    return gate


def test_a_free_gate_lets_through_and_a_full_one_does_not():
    gate = Gate(max_lent=1)
    assert gate.has_room()
    gate.lent = 1
    assert not gate.has_room()


def test_a_newcomer_does_not_overtake_those_whose_turn_it_is():
    gate, log = full_gate(), []
    Queue(gate, "a", 1, log).offer()
    gate.lent = 0
    assert not gate.has_room()
    assert gate.unsettled


def test_weights_share_the_places_smoothly():
    gate, log = full_gate(), []
    Queue(gate, "a", 2, log).offer()
    Queue(gate, "b", 1, log).offer()
    serve(gate, 6)
    assert "".join(log) == "abaaba"


def test_weights_hold_in_the_long_run():
    gate, log = full_gate(), []
    for name, weight in (("a", 5), ("b", 2), ("c", 1)):
        Queue(gate, name, weight, log).offer()
    serve(gate, 800)
    assert [log.count(name) for name in "abc"] == pytest.approx([500, 200, 100], abs=2)


def test_one_that_comes_back_neither_owes_nor_is_owed():
    gate, log = full_gate(), []
    Queue(gate, "a", 1, log).offer()
    serve(gate, 100)
    Queue(gate, "b", 1, log).offer()
    serve(gate, 20)
    assert abs(log[100:].count("b") - 10) <= 1


def test_a_pool_is_in_line_once_and_one_with_nothing_to_lend_is_passed_over():
    gate, log = full_gate(), []
    empty = Queue(gate, "e", 1, log, jobs=0)
    empty.offer()
    empty.offer()
    Queue(gate, "a", 1, log).offer()
    serve(gate, 3)
    assert log == ["a", "a", "a"]
    assert empty.share.finish == 0.0


def test_calls_that_end_at_once_do_not_deepen_the_stack():
    gate = Gate(max_lent=1)
    gate.lent = 1
    served = []

    def serve_and_end():
        served.append(1)
        if len(served) < 5000:
            gate.offer(share)
            gate.settle()  # as a call that ended at once does
        return True

    share = Share(1.0, serve_and_end)
    gate.offer(share)
    gate.lent = 0
    gate.settle()
    assert len(served) == 5000


def test_an_exception_does_not_shut_the_gate():
    gate = Gate()
    bad = Share(1.0, lambda: 1 / 0)
    gate.offer(bad)
    with pytest.raises(ZeroDivisionError):
        gate.settle()
    log = []
    Queue(gate, "a", 1, log, jobs=2).offer()
    gate.settle()
    assert log == ["a", "a"]


def test_the_bucket_admits_a_burst_and_then_the_rate_with_the_time_until_the_next():
    bucket = TokenBucket(5.0, 0.0)
    for _ in range(5):
        bucket.take(0.0)
    with pytest.raises(RateLimited) as refusal:
        bucket.take(0.0)
    assert refusal.value.retry_after_s == pytest.approx(0.2)
    bucket.take(0.2)
    with pytest.raises(RateLimited):
        bucket.take(0.2)


def test_a_slow_rate_still_admits_one_at_a_time():
    bucket = TokenBucket(0.5, 0.0)
    bucket.take(0.0)
    with pytest.raises(RateLimited, match="rate_limit_per_s") as refusal:
        bucket.take(1.0)
    assert refusal.value.retry_after_s == pytest.approx(1.0)
    bucket.take(2.0)
    bucket.take(100.0)
    with pytest.raises(RateLimited):
        bucket.take(100.0)


def test_bytes_are_bounded_and_come_back():
    budget = ByteBudget(100)
    budget.take(60)
    with pytest.raises(NoCapacity, match="max_inflight_bytes") as refusal:
        budget.take(41)
    assert refusal.value.retry_after_s
    budget.take(40)
    budget.give_back(100)
    assert budget.held == 0


def test_a_wait_is_expected_from_those_ahead():
    assert expected_wait_s(30, 4, 0.2) == pytest.approx(1.5)
    assert expected_wait_s(0, 4, 100.0) == 0.0


@pytest.mark.parametrize(
    ("wait_s", "left_s", "history", "expected"),
    [(21, 10, MIN_HISTORY, True), (20, 10, MIN_HISTORY, False), (99, 1, MIN_HISTORY - 1, False)],
)
def test_only_a_clearly_hopeless_wait_with_history_is_refused(wait_s, left_s, history, expected):
    assert hopeless(wait_s, left_s, history) is expected
