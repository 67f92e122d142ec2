"""Which callback is made next."""

from __future__ import annotations

import pytest

from atlatl.core.turns import (
    JITTER_RATIO,
    MAX_BACKOFF_S,
    MAX_WISH_S,
    Turns,
    delay_after,
    wished_delay_s,
)
from atlatl.model import Callback


def turns(*hosts: str, places: int = 4, per_host: int = 2) -> Turns:
    """With one callback for each host that is named, `a0`, `a1`, `b2`, ... by its place."""
    it = Turns(places, per_host)
    for number, host in enumerate(hosts):
        it.add(Callback(execution_id=f"{host}{number}", url=""), host)
    return it


def taken(it: Turns) -> list[str]:
    found = []
    while (callback := it.take()) is not None:
        found.append(callback.execution_id)
    return found


def test_hosts_take_turns_and_the_longest_due_of_each_comes_first() -> None:
    assert taken(turns(*"aaab")) == ["a0", "b3", "a1"]


def test_a_host_that_is_full_waits_for_itself_alone() -> None:
    it = turns(*"aaaab", per_host=1)
    assert taken(it) == ["a0", "b4"]
    it.finish("b4")
    assert taken(it) == []
    it.finish("a0")
    assert taken(it) == ["a1"]


def test_places_are_for_all_hosts_together() -> None:
    it = turns(*"abcdef")
    assert taken(it) == ["a0", "b1", "c2", "d3"]
    assert not it.free
    it.finish("c2")
    assert it.free
    assert taken(it) == ["e4"]


def test_what_is_known_is_not_added_again() -> None:
    it = turns(*"aa")
    assert taken(it) == ["a0", "a1"]
    again = Callback(execution_id="a0", url="")
    it.add(again, "a")
    assert len(it) == 2
    it.finish("a0", forget=False)
    it.add(again, "a")
    assert taken(it) == []
    it.finish("a1")
    it.add(Callback(execution_id="a1", url=""), "a")
    assert taken(it) == ["a1"]


def test_the_host_with_most_is_thinned_out_from_behind() -> None:
    it = turns(*"abaaab")
    assert [one.execution_id for one in it.thin_out(2)] == ["a4", "a3"]
    assert it.waiting == 4
    assert sorted(taken(it)) == ["a0", "a2", "b1", "b5"]
    assert Turns(1, 1).thin_out(5) == []


def test_everything_is_taken_once_whatever_order_it_ends_in() -> None:
    it = turns(*"aabcaabbbcad" * 5, places=5, per_host=2)
    seen: list[str] = []
    under_way: list[str] = []
    while len(it):
        new = taken(it)
        seen += new
        under_way += new
        assert len(under_way) <= 5
        assert max(sum(one[0] == host for one in under_way) for host in "abcd") <= 2
        it.finish(under_way.pop(len(seen) % len(under_way)))
    assert len(seen) == len(set(seen)) == 60
    assert it.waiting == 0


@pytest.mark.parametrize(("tries", "delay_s"), [(1, 1), (2, 2), (3, 4), (9, 256), (10, 300)])
def test_delays_double_up_to_five_minutes(tries: int, delay_s: float) -> None:
    assert delay_after(tries, 0.5) == delay_s
    assert delay_after(tries, 0.0) == pytest.approx(0.8 * delay_s)
    assert delay_after(10_000, 1.0) == pytest.approx(1.2 * MAX_BACKOFF_S)


def test_a_wish_makes_a_delay_longer_and_never_shorter() -> None:
    assert delay_after(1, 0.5, 0.1) == delay_after(1, 0.5)
    assert delay_after(9, 0.5, 100.0) == 256.0
    assert delay_after(1, 0.0, 60.0) == 60.0
    assert delay_after(1, 1.0, 60.0) == pytest.approx(60.0 * (1 + JITTER_RATIO))
    assert delay_after(1, 0.0, float("inf")) == MAX_WISH_S


@pytest.mark.parametrize(
    ("retry_after", "wish_s"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 5000, float("inf")),
        # The three forms of RFC 9110, 5.6.7, of the same moment.
        ("Sun, 06 Nov 1994 08:49:37 GMT", 77.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 77.0),
        ("Sun Nov  6 08:49:37 1994", 77.0),
        ("Sun, 06 Nov 1994 08:40:00 GMT", 0.0),
        ("", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("nan", 0.0),
        ("\u0663", 0.0),
        ("soon", 0.0),
        ("Sun, 99 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT" + "(" * 100_000, 0.0),
    ],
)
def test_what_a_receiver_wishes(retry_after: str, wish_s: float) -> None:
    assert wished_delay_s(retry_after, 784111700.0) == wish_s
