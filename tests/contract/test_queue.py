"""What every store promises of durable executions, from acceptance to their end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from atlatl.errors import InstanceLost, InvalidRequest, StoreUnavailable
from atlatl.model import (
    Arguments,
    Callback,
    Event,
    ExecutionStatus,
    HttpRequest,
)
from atlatl.ports import Store
from tests.contract.conftest import Run, reopen
from tests.contract.queueing import (
    LARGE,
    LOST,
    dead,
    depth,
    enqueue,
    execution,
    ids,
    lease,
    leased,
    letters,
    recover,
)
from tests.store_samples import TRIED, accepted, claim, ended, failure, plain, queued, success

# --- accepting ---


@pytest.mark.parametrize(
    "payload",
    [
        Arguments(values={"n": 2**64 - 1, "m": -(2**63), "x": [1.5, None, True, {"ü": "☃"}]}),
        Arguments(values={"raw": b"\0\xff", "nan": []}),
        Event(value="text"),
        Event(value=b"bytes"),
        HttpRequest(
            method="POST", path="/a", query="b=c", headers={"content-type": "x/y"}, body=LARGE
        ),
    ],
)
def test_a_call_comes_back_equal_after_a_restart(run: Run, payload: Any) -> None:
    options = {
        "function": "other",
        "timeout_ms": 5,
        "max_retries": 0,
        "priority": 7,
        "id_given": True,
        "headers": {"a": "b"},
        "environment": {"c": "d"},
        "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "tracestate": "v=1",
        "metadata": {"e": "f"},
        "not_before": 12.5,
        "callback_url": "https://example.org/told",
    }
    entry = queued(
        payload=payload,
        call=options,
        ready_at=12.5,
        turn=27.5,
        expires_at=99.5,
        attempt=2,
        failures=1,
        recoveries=3,
    )

    async def work(store: Store) -> None:
        kept = accepted(entry, fingerprint=b"f" * 32)
        assert await store.queue.enqueue(kept, entry) is None
        assert await store.execution("e-1") == kept
        await reopen(store)
        assert await store.execution("e-1") == kept
        assert await store.queue.take("e-1", until=50.0) == replace(entry, lease=1)

    run(work)


def test_it_is_ready_delayed_or_leased_from_the_start(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(
            store,
            queued("now", ready_at=10.0),
            queued("late", ready_at=10.5),
            queued("at-once", lease=1),
            queued("at-once-and-late", lease=1, ready_at=10.5),
        )
        assert await depth(store) == {"ready": 1, "delayed": 1, "leased": 2}
        assert ids(await lease(store)) == ["now"]

    run(work)


def test_an_id_is_accepted_once(run: Run) -> None:
    async def work(store: Store) -> None:
        entries = [queued(turn=float(n)) for n in range(10)]
        kept = [accepted(one, bytes([n])) for n, one in enumerate(entries)]
        answers = await asyncio.gather(
            *(store.queue.enqueue(*each) for each in zip(kept, entries, strict=True))
        )
        (first,) = (n for n, answer in enumerate(answers) if answer is None)
        assert [answer for answer in answers if answer is not None] == [kept[first]] * 9
        assert await depth(store) == {"ready": 1}
        await reopen(store)
        assert await store.queue.enqueue(kept[3], entries[3]) == kept[first]
        (entry,) = await lease(store)
        assert await store.queue.settle(ended(entry), 1)
        again = await store.queue.enqueue(kept[3], entries[3])
        assert again is not None and again.fingerprint == kept[first].fingerprint
        assert again.execution.status is ExecutionStatus.COMPLETED
        assert await depth(store) == {}

    run(work)


def test_one_that_is_taken_among_many_is_refused_alone(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.claim_execution(claim("e-3"))
        entries = [queued(f"e-{n}", payload=Event(value=LARGE[:n])) for n in range(70)]
        answers = await asyncio.gather(
            *(store.queue.enqueue(accepted(entry), entry) for entry in entries)
        )
        assert answers == [None] * 3 + [claim("e-3")] + [None] * 66
        assert {(one.call.execution_id, one.call.payload) for one in await lease(store, 99)} == {
            (one.call.execution_id, one.call.payload) for one in entries[:3] + entries[4:]
        }

    run(work)


def test_an_id_that_another_call_took_is_not_accepted(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.claim_execution(claim())
        assert await store.queue.enqueue(accepted(queued()), queued()) == claim()
        assert await store.queue.depths() == []
        assert await store.execution("e-1") == claim()

    run(work)


@pytest.mark.parametrize(
    ("value", "trouble"),
    [(2**64, "64 bits"), (-(2**63) - 1, "64 bits"), ("\udc80", "no Unicode")],
)
def test_what_cannot_be_kept_is_refused_by_name(run: Run, value: Any, trouble: str) -> None:
    async def work(store: Store) -> None:
        entry = queued(payload=Arguments(values={"deep": [value]}))
        with pytest.raises(InvalidRequest, match=f"'e-1' cannot be kept.*{trouble}"):
            await store.queue.enqueue(accepted(entry), entry)
        assert await store.execution("e-1") is None
        assert await store.queue.depths() == []

    run(work)


def test_values_nested_too_deeply_are_refused(run: Run) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]

    async def work(store: Store) -> None:
        entry = queued(payload=Event(value=value))
        with pytest.raises(InvalidRequest, match="nested"):
            await store.queue.enqueue(accepted(entry), entry)

    run(work)


# --- leasing ---


def test_the_lowest_turn_is_next_and_the_id_decides_between_equals(run: Run) -> None:
    async def work(store: Store) -> None:
        turns = {"d": 2.0, "b": 2.0, "a": 3.0, "c": 1.0, "e": 3.0}
        await enqueue(store, *(queued(key, turn=turn) for key, turn in turns.items()))
        first = await lease(store, 2)
        assert ids(first) == ["c", "b"]
        assert [entry.lease for entry in first] == [1, 1]
        assert ids(await lease(store, 9)) == ["d", "a", "e"]
        assert await lease(store) == []

    run(work)


def test_one_lease_serves_several_tasks_each_to_its_measure(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(
            store,
            *(
                queued(f"{task}{n}", task, turn=float(n))
                for task in ("one", "two", "three")
                for n in range(3)
            ),
        )
        wanted = {"two": 1, "one": 2, "three": 0, "nobody": 5}
        found = await store.queue.lease(wanted, now=10.0, until=70.0)
        assert [each for each in ids(found) if each.startswith("one")] == ["one0", "one1"]
        assert [each for each in ids(found) if each.startswith("two")] == ["two0"]
        assert len(found) == 3
        assert [(one.task_name, one.ready, one.leased) for one in await store.queue.depths()] == [
            ("one", 1, 2),
            ("three", 3, 0),
            ("two", 2, 1),
        ]

    run(work)


def test_two_leases_at_once_share_nothing(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, *(queued(f"e-{n}") for n in range(20)))
        found = await asyncio.gather(*(lease(store, 4) for _ in range(8)))
        every = [each for some in found for each in ids(some)]
        assert len(every) == 20 == len(set(every))

    run(work)


def test_the_expired_are_left_for_those_who_end_them(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(
            store,
            queued("gone", expires_at=19.0, turn=1.0),
            queued("edge", expires_at=20.0, turn=2.0),
            queued("due", expires_at=20.5, turn=3.0),
            queued("never", turn=4.0),
            queued("late", expires_at=20.0, ready_at=40.0),
            queued("taken", expires_at=1.0, lease=1),
        )
        assert ids(await lease(store, 1, now=20.0)) == ["due"]
        assert ids(await lease(store, now=20.0)) == ["never"]
        first = await store.queue.take_expired(now=20.0, until=80.0, limit=1)
        assert ids(first) == ["gone"]
        assert first[0].lease == 1
        rest = await store.queue.take_expired(now=20.0, until=80.0, limit=9)
        assert sorted(ids(rest)) == ["edge", "late"]
        assert await store.queue.take_expired(now=99.0, until=80.0, limit=9) == []
        assert await depth(store) == {"leased": 6}

    run(work)


def test_a_certain_one_is_taken_while_it_waits(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, queued("ready"), queued("late", ready_at=50.0), queued("no", lease=1))
        await dead(store, "dead", 20.0)
        for key in ("ready", "late"):
            entry = await store.queue.take(key, until=60.0)
            assert entry is not None
            assert (entry.call.execution_id, entry.lease) == (key, 1)
            assert await store.queue.take(key, until=60.0) is None
        for key in ("no", "dead", "nobody", "\udc80", ""):
            assert await store.queue.take(key, until=60.0) is None
        assert await depth(store) == {"leased": 3, "dead": 1}

    run(work)


# --- back ---


def test_what_is_put_back_waits_again_with_what_was_tried(run: Run) -> None:
    async def work(store: Store) -> None:
        entry = await leased(store)
        known = (TRIED, replace(TRIED, attempt=3, code="TIMEOUT"))
        tried = replace(entry, attempt=4, failures=2, recoveries=1, ready_at=30.0, tried=known)
        assert await store.queue.put_back(replace(tried, turn=0.0, expires_at=1.0), now=30.0)
        assert await depth(store) == {"ready": 1}
        assert (await execution(store)).attempt == 4
        assert (await execution(store)).status is ExecutionStatus.PENDING
        await reopen(store)
        assert (await execution(store)).tried == known
        assert await lease(store) == [replace(tried, lease=2)]  # turn and expiry stay
        assert await store.queue.put_back(replace(tried, lease=2, ready_at=30.5), now=30.0)
        assert await depth(store) == {"delayed": 1}
        assert await lease(store) == []

    run(work)


def test_the_delayed_wake_when_their_time_comes(run: Run) -> None:
    async def work(store: Store) -> None:
        assert await store.queue.wake(now=99.0) == ([], None)
        await enqueue(
            store,
            queued("a", "one", ready_at=20.0),
            queued("b", "one", ready_at=20.0),
            queued("c", "two", ready_at=20.5),
            queued("d", "one", ready_at=21.0),
        )
        names, after = await store.queue.wake(now=19.5)
        assert (list(names), after) == ([], 20.0)
        names, after = await store.queue.wake(now=20.5)
        assert (sorted(names), after) == (["one", "two"], 21.0)
        assert ids(await lease(store, task="one")) == ["a", "b"]
        names, after = await store.queue.wake(now=21.0)
        assert (list(names), after) == (["one"], None)

    run(work)


def test_a_thousand_wake_at_once(run: Run) -> None:
    async def work(store: Store) -> None:
        await asyncio.gather(
            *(enqueue(store, queued(f"e-{n}", ready_at=20.0)) for n in range(1100))
        )
        names, after = await store.queue.wake(now=20.0)
        assert (list(names), after) == (["hello"], None)
        assert await depth(store) == {"ready": 1100}

    run(work)


# --- the end ---


@pytest.mark.parametrize("odd", ["", "lost", "dead", "told", "moved", "large", "twice", "gone"])
def test_each_of_many_that_end_at_once_ends_as_it_would_alone(run: Run, odd: str) -> None:
    """Among plain ones there is one that has something about it."""

    async def work(store: Store) -> None:
        small, large = Event(value=1), Event(value=LARGE)
        entries = [
            queued(f"e-{n}", lease=1, payload=large if (odd, n) == ("large", 2) else small)
            for n in range(5)
        ]
        await enqueue(store, *entries)
        ends = [ended(entry, success(b"%d" % n)) for n, entry in enumerate(entries)]
        callback = None
        if odd == "moved":
            ends[2] = ended(entries[2], success(b"2"), task_id="t-2")
        if odd == "told":
            callback = Callback("e-2", "https://example.org", "", "", ready_at=20.0)
        if odd == "gone":
            assert await store.queue.settle(ends[2], 1)
        wanted = [True] * 5
        wanted[2] = odd not in ("lost", "gone")
        asked = [
            store.queue.settle(
                end,
                2 if (odd, n) == ("lost", 2) else 1,
                died_at=20.0 if (odd, n) == ("dead", 2) else None,
                callback=callback if n == 2 else None,
            )
            for n, end in enumerate(ends)
        ]
        if odd == "twice":
            asked.append(store.queue.settle(ends[2], 1))
            wanted.append(False)
        assert await asyncio.gather(*asked) == wanted
        kept = {end.execution.execution_id: end for end in ends}
        if odd == "lost":
            kept["e-2"] = accepted(entries[2])
        for execution_id, record in kept.items():
            assert plain(await store.execution(execution_id)) == plain(record)
        assert await depth(store) == {"lost": {"leased": 1}, "dead": {"dead": 1}}.get(odd, {})
        assert [one.execution_id for one in await store.queue.callbacks(now=99.0, limit=9)] == (
            ["e-2"] if odd == "told" else []
        )

    run(work)


@pytest.mark.parametrize("payload", [b"small", LARGE])
def test_an_end_is_the_record_and_no_entry(run: Run, payload: bytes) -> None:
    async def work(store: Store) -> None:
        entry = queued(payload=Event(value=payload))
        assert await store.queue.enqueue(accepted(entry, b"f" * 32), entry) is None
        (entry,) = await lease(store)
        end = ended(entry, success(payload, payload), attempt=3, trace_id="a" * 32, task_id="t-2")
        end = replace(end, execution=replace(end.execution, function_name="resolved"))
        assert await store.queue.settle(end, 1)
        await reopen(store)
        assert plain(await store.execution("e-1")) == plain(replace(end, fingerprint=b"f" * 32))
        assert await store.queue.depths() == []
        assert await store.queue.take("e-1", until=60.0) is None
        assert await letters(store) == []
        assert list(await store.forget_executions("t-2")) == ["e-1"]

    run(work)


def test_an_end_without_a_run_keeps_the_function_and_the_trace_of_acceptance(run: Run) -> None:
    async def work(store: Store) -> None:
        entry = queued(lease=1)
        kept = accepted(entry)
        kept = replace(kept, execution=replace(kept.execution, trace_id="a" * 32))
        assert await store.queue.enqueue(kept, entry) is None
        assert await store.queue.settle(ended(entry, failure(), function_name="", trace_id=""), 1)
        end = await execution(store)
        assert (end.function_name, end.trace_id) == ("main", "a" * 32)

    run(work)


def test_one_that_fails_for_good_stays_as_a_dead_letter(run: Run) -> None:
    async def work(store: Store) -> None:
        entry = await leased(store, payload=Event(value=LARGE))
        end = ended(entry, failure(LARGE), attempt=5)
        assert await store.queue.settle(end, 1, died_at=40.5)
        await reopen(store)
        assert plain(await store.execution("e-1")) == plain(end)
        assert await depth(store) == {"dead": 1}
        (letter,) = await store.queue.dead_letters(before=None, limit=9)
        assert letter.died_at == 40.5
        outcome = letter.execution.outcome
        assert outcome is not None and outcome.error is not None
        assert outcome.error.message == "ValueError: no"
        assert (outcome.result, outcome.output) == (None, b"")
        assert replace(letter.execution, outcome=None) == replace(end.execution, outcome=None)
        assert await lease(store) == []

    run(work)


@pytest.mark.parametrize("died_at", [None, 40.0])
def test_an_older_lease_changes_nothing_d106(run: Run, died_at: float | None) -> None:
    async def work(store: Store) -> None:
        old = await leased(store)
        assert await store.queue.put_back(old, now=10.0)
        told = Callback(execution_id="e-1", url="http://example.org")

        async def try_all() -> None:
            before = await store.execution("e-1"), await depth(store)
            for stale in (old, replace(old, lease=0), replace(old, lease=9)):
                late = replace(stale, attempt=8, ready_at=99.0)
                assert not await store.queue.put_back(late, now=10.0)
                end = ended(stale, success(LARGE, LARGE))
                held = stale.lease
                assert not await store.queue.settle(end, held, died_at=died_at, callback=told)
                await store.queue.extend({"e-1": stale.lease}, until=9999.0)
            assert (plain(await store.execution("e-1")), await depth(store)) == (
                plain(before[0]),
                before[1],
            )
            assert await store.queue.next_callback_at() is None

        await try_all()  # it is ready again
        (new,) = await lease(store)
        assert new.lease == 2
        await try_all()  # another one holds it
        assert len(await recover(store, lapsed_before=71.0)) == 1  # and was not extended
        (newer,) = await lease(store)
        assert await store.queue.settle(ended(newer), 3, died_at=died_at)
        await try_all()  # it has ended
        assert not await store.queue.settle(ended(newer), 3)

    run(work)


def test_nothing_is_settled_that_is_not_there(run: Run) -> None:
    async def work(store: Store) -> None:
        entry = queued(lease=1)
        assert not await store.queue.settle(ended(entry), 1)
        assert not await store.queue.settle(ended(entry), 1, died_at=5.0)
        assert not await store.queue.put_back(entry, now=10.0)
        await store.queue.extend({"e-1": 1}, until=99.0)
        assert await store.execution("e-1") is None
        assert await store.queue.depths() == []

    run(work)


# --- the end of a service ---


def test_at_a_start_all_leases_are_taken_back(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(
            store,
            queued("at-once", lease=1, attempt=2, failures=1),
            queued("leased", turn=1.0),
            queued("waiting", turn=2.0),
            queued("late", ready_at=99.0),
        )
        await lease(store, 1)
        assert await store.queue.take("late", until=1e9) is not None
        await reopen(store)
        taken = await recover(store)
        assert [(one.call.execution_id, is_dead) for one, is_dead in taken] == [
            ("at-once", False),
            ("late", False),
            ("leased", False),
        ]
        first = taken[0][0]
        assert (first.attempt, first.failures, first.recoveries, first.lease) == (3, 1, 1, 1)
        assert (await execution(store, "at-once")).attempt == 3
        assert (await execution(store, "at-once")).status is ExecutionStatus.PENDING
        # What was taken before its time waits on for it.
        assert await depth(store) == {"ready": 3, "delayed": 1}
        assert await recover(store) == []
        assert sorted(await lease(store), key=lambda one: one.turn)[0].call.execution_id == "leased"

    run(work)


def test_only_lapsed_leases_are_taken_back_from_others(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, queued("a"), queued("b"), queued("c"), queued("at-once", lease=1))
        await lease(store)  # until 70.0
        await store.queue.extend({"a": 1, "b": 7, "nobody": 1}, until=80.0)
        assert await recover(store, lapsed_before=70.0) == []
        assert [one.call.execution_id for one, _ in await recover(store, 75.0)] == ["b", "c"]
        # One that was leased from the start lapses once it has been extended, not before.
        await store.queue.extend({"at-once": 1}, until=80.0)
        assert [one.call.execution_id for one, _ in await recover(store, 81.0)] == ["a", "at-once"]

    run(work)


def test_one_that_ends_the_service_every_time_becomes_a_dead_letter(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, queued("poison", recoveries=2, attempt=3), queued("other"))
        for _ in range(2):
            await lease(store)
            taken = await recover(store, limit=3)
        assert [(one.call.execution_id, is_dead) for one, is_dead in taken] == [
            ("other", False),
            ("poison", True),
        ]
        poison = taken[1][0]
        assert (poison.attempt, poison.recoveries) == (4, 3)
        end = await execution(store, "poison")
        assert (end.status, end.attempt, end.completed_at) == (ExecutionStatus.FAILED, 4, 30.0)
        assert end.outcome is not None and isinstance(end.outcome.error, InstanceLost)
        assert [
            letter.died_at for letter in await store.queue.dead_letters(before=None, limit=9)
        ] == [30.0]
        assert await depth(store) == {"ready": 1, "dead": 1}

    run(work)


# --- closed ---


def test_a_closed_queue_says_so(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.close()
        queue = store.queue
        told = Callback(execution_id="e-1", url="http://example.org")
        for use in (
            lambda: queue.enqueue(accepted(queued()), queued()),
            lambda: queue.lease({"hello": 1}, now=1.0, until=2.0),
            lambda: queue.take("e-1", until=2.0),
            lambda: queue.take_expired(now=1.0, until=2.0, limit=1),
            lambda: queue.extend({"e-1": 1}, until=2.0),
            lambda: queue.put_back(queued(lease=1), now=1.0),
            lambda: queue.settle(ended(queued()), 1),
            lambda: queue.wake(now=1.0),
            lambda: queue.recover(lapsed_before=None, now=1.0, limit=1, outcome=LOST),
            queue.depths,
            lambda: queue.waiting_ids("hello", 1),
            lambda: queue.dead_letters(before=None, limit=1),
            lambda: queue.redrive("e-1", now=1.0),
            lambda: queue.delete_dead_letter("e-1"),
            lambda: queue.prune_dead_letters(died_before=1.0),
            lambda: queue.callbacks(now=1.0, limit=1),
            queue.next_callback_at,
            lambda: queue.put_callback(told, tries=1, ready_at=2.0),
            lambda: queue.drop_callback(told),
        ):
            with pytest.raises(StoreUnavailable, match="closed"):
                await use()

    run(work)
