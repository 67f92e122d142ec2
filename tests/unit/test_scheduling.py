import random

import pytest

from atlatl.core.scheduling import POLICIES
from atlatl.settings import SchedulerSettings, parse


class Candidate:
    def __init__(self, name, capacity=1, in_flight=0, open=True, response_s=None, last_used=0.0):  # noqa: A002
        self.name = name
        self.capacity = capacity
        self.in_flight = in_flight
        self.open = open
        self.response_s = response_s
        self.last_used = last_used
        self.smooth = 0.0


def policy(name, seed=1):
    return POLICIES[name](random.Random(seed).randrange)


def names(chosen, candidates, times):
    return "".join(chosen.choose(candidates).name for _ in range(times))


@pytest.fixture(params=POLICIES)
def any_policy(request):
    return policy(request.param)


def test_every_name_of_the_setting_has_a_policy():
    for name in POLICIES:
        assert parse(SchedulerSettings, {"policy": name}).policy == name


def test_chooses_none_when_there_is_none(any_policy):
    assert any_policy.choose([]) is None


def test_d86_capacity_is_a_filter_in_every_policy(any_policy):
    full = [Candidate("a", in_flight=1), Candidate("b", capacity=3, in_flight=3)]
    assert any_policy.choose(full) is None
    free = Candidate("c", capacity=3, in_flight=2)
    assert {any_policy.choose([*full, free]) for _ in range(20)} == {free}


def test_d86_sick_and_draining_ones_are_passed_over(any_policy):
    shut = [Candidate("a", open=False), Candidate("b", open=False)]
    assert any_policy.choose(shut) is None
    well = Candidate("c")
    assert {any_policy.choose([shut[0], well, shut[1]]) for _ in range(20)} == {well}


def test_round_robin_takes_turns_and_survives_a_shorter_list():
    chosen = policy("round_robin")
    candidates = [Candidate(name) for name in "abc"]
    assert names(chosen, candidates, 5) == "abcab"
    assert names(chosen, candidates[:1], 2) == "aa"


@pytest.mark.parametrize(
    "name",
    ["least_connections", "resource_based", "least_response_time", "most_recently_used"],
)
def test_d86_ties_rotate(name):
    candidates = [Candidate(name) for name in "abc"]
    assert names(policy(name), candidates, 6) == "abcabc"


def test_least_connections_takes_the_least_busy():
    candidates = [Candidate("a", 9, 3), Candidate("b", 9, 1), Candidate("c", 9, 2)]
    assert names(policy("least_connections"), candidates, 2) == "bb"


def test_resource_based_looks_at_the_share_not_the_number():
    candidates = [Candidate("a", 2, 1), Candidate("b", 10, 2)]
    assert names(policy("resource_based"), candidates, 2) == "bb"


def test_most_recently_used_takes_the_warmest():
    candidates = [Candidate("a", last_used=1), Candidate("b", last_used=5)]
    assert names(policy("most_recently_used"), candidates, 2) == "bb"


def test_d86_an_untried_instance_counts_as_the_median_and_is_not_flooded():
    tried = [Candidate("a", response_s=0.1), Candidate("b", response_s=0.3),
             Candidate("c", response_s=0.9)]  # fmt: skip
    chosen = policy("least_response_time")
    assert names(chosen, [Candidate("new"), *tried], 3) == "aaa"
    tried[0].in_flight = 1
    assert "new" in names(chosen, [Candidate("new"), *tried], 2)


def test_d86_weights_are_smooth_without_bursts():
    candidates = [Candidate("a", 5), Candidate("b", 1), Candidate("c", 1)]
    assert names(policy("weighted_round_robin"), candidates, 14) == "aabacaa" * 2


def test_random_is_seeded_and_reaches_everybody():
    candidates = [Candidate(name) for name in "abcd"]
    picked = names(policy("random", 7), candidates, 40)
    assert picked == names(policy("random", 7), candidates, 40)
    assert set(picked) == set("abcd")


def test_random_finds_the_only_free_one_among_many():
    candidates = [Candidate("x", in_flight=1) for _ in range(50)] + [Candidate("a")]
    assert names(policy("random"), candidates, 5) == "aaaaa"


def test_power_of_two_prefers_the_less_loaded():
    candidates = [Candidate("a", 100, 50), Candidate("b", 100, 0)]
    picked = names(policy("power_of_two"), candidates, 100)
    assert picked.count("b") > 60
