"""What every store keeps of durable executions: counts, dead letters, records, callbacks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from atlatl.errors import TimedOut
from atlatl.model import (
    Callback,
    Event,
    ExecutionStatus,
    QueueDepth,
    failed,
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
    lease,
    leased,
    letters,
)
from tests.store_samples import accepted, claim, ended, failure, plain, queued, record, success

# --- what is there ---


def test_depths_are_counted_by_task_in_the_order_of_names(run: Run) -> None:
    async def work(store: Store) -> None:
        assert await store.queue.depths() == []
        await enqueue(
            store,
            queued("a", "zeta", ready_at=4.0),
            queued("b", "zeta", ready_at=3.0, lease=1),
            queued("c", "zeta", ready_at=99.0),
            queued("d", "ünder", ready_at=11.0),
            queued("e", "Alpha", ready_at=5.0),
            queued("f", "Alpha", ready_at=6.0),
        )
        await dead(store, "g", 20.0, task_name="zeta", ready_at=1.0)
        await dead(store, "h", 20.0, task_name="gone")
        expected = [
            QueueDepth(task_name="Alpha", ready=2, oldest_ready_at=5.0),
            QueueDepth(task_name="gone", dead=1),
            QueueDepth(task_name="zeta", ready=1, delayed=1, leased=1, dead=1, oldest_ready_at=4.0),
            QueueDepth(task_name="ünder", delayed=1),
        ]
        assert list(await store.queue.depths()) == expected
        await reopen(store)
        assert list(await store.queue.depths()) == expected

    run(work)


def test_ids_that_wait_are_those_ready_and_delayed_of_a_task(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(
            store,
            queued("a"),
            queued("b", ready_at=99.0),
            queued("c", lease=1),
            queued("d", "other"),
        )
        await dead(store, "e", 20.0)
        assert sorted(await store.queue.waiting_ids("hello", 9)) == ["a", "b"]
        assert len(await store.queue.waiting_ids("hello", 1)) == 1
        assert await store.queue.waiting_ids("nobody", 9) == []

    run(work)


# --- dead letters ---


def test_dead_letters_are_listed_the_latest_first_page_by_page(run: Run) -> None:
    async def work(store: Store) -> None:
        for key, died_at in {"a": 3.0, "b": 1.0, "c": 2.0, "d": 2.0, "e": 2.0}.items():
            await dead(store, key, died_at)
        assert await letters(store) == ["a", "e", "d", "c", "b"]
        assert await letters(store, limit=2) == ["a", "e"]
        assert await letters(store, before=(2.0, "e")) == ["d", "c", "b"]
        assert await letters(store, before=(2.0, "cc"), limit=1) == ["c"]
        assert await letters(store, before=(1.5, "\udc80")) == ["b"]
        assert await store.queue.delete_dead_letter("d")
        assert await letters(store, before=(2.0, "d")) == ["c", "b"]

    run(work)


@pytest.mark.parametrize("payload", [b"small", LARGE])
def test_a_dead_letter_can_be_tried_again(run: Run, payload: bytes) -> None:
    async def work(store: Store) -> None:
        entry = queued(
            payload=Event(value=payload), failures=2, recoveries=4, attempt=7, expires_at=15.0
        )
        assert await store.queue.enqueue(accepted(entry, b"f"), entry) is None
        held = await store.queue.take("e-1", until=60.0)
        assert held is not None
        end = ended(held, failed(TimedOut("late"), output=payload, instance_id="i-1", cold=True))
        end = replace(end, execution=replace(end.execution, task_id="t-9"), interrupted=True)
        assert await store.queue.settle(end, 1, died_at=20.0)
        again = await store.queue.redrive("e-1", now=50.0)
        expected = replace(
            held, attempt=8, failures=0, recoveries=0, ready_at=50.0, expires_at=None
        )
        assert again == expected
        assert await letters(store) == []
        pending = replace(accepted(entry, b"f").execution, attempt=8)
        found = await store.execution("e-1")
        assert found == replace(accepted(entry, b"f"), execution=pending)
        assert await store.queue.redrive("e-1", now=50.0) is None
        await reopen(store)
        (leased_again,) = await lease(store, now=50.0)
        assert leased_again == replace(expected, lease=2)
        done = ended(leased_again, success(payload))
        assert await store.queue.settle(done, 2)
        assert plain(await store.execution("e-1")) == plain(replace(done, fingerprint=b"f"))

    run(work)


def test_only_dead_letters_are_redriven_or_deleted(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, queued("a"), queued("b", ready_at=99.0), queued("c", lease=1))
        await store.put_executions([record("d")])
        for key in ("a", "b", "c", "d", "nobody", "\udc80"):
            assert await store.queue.redrive(key, now=50.0) is None
            assert not await store.queue.delete_dead_letter(key)
        assert await depth(store) == {"ready": 1, "delayed": 1, "leased": 1}

    run(work)


def test_the_record_of_a_deleted_dead_letter_stays(run: Run) -> None:
    async def work(store: Store) -> None:
        await dead(store, "a", 20.0, payload=Event(value=LARGE))
        assert await store.queue.delete_dead_letter("a")
        assert not await store.queue.delete_dead_letter("a")
        assert await store.queue.redrive("a", now=50.0) is None
        assert (await execution(store, "a")).status is ExecutionStatus.FAILED
        assert await store.queue.enqueue(accepted(queued("a")), queued("a")) is not None

    run(work)


def test_old_dead_letters_become_ordinary_records(run: Run) -> None:
    async def work(store: Store) -> None:
        for n in range(5):
            await dead(store, f"e-{n}", float(n), payload=Event(value=LARGE))
        await enqueue(store, queued("waits", queued_at=0.0, ready_at=0.0))
        assert await store.queue.prune_dead_letters(died_before=0.0) == 0
        assert await store.queue.prune_dead_letters(died_before=3.0) == 3
        assert await letters(store) == ["e-4", "e-3"]
        assert (await execution(store, "e-0")).status is ExecutionStatus.FAILED
        assert await depth(store) == {"ready": 1, "dead": 2}

    run(work)


def test_a_thousand_dead_letters_go_at_once(run: Run) -> None:
    async def work(store: Store) -> None:
        await asyncio.gather(*(dead(store, f"e-{n}", float(n)) for n in range(1100)))
        assert await store.queue.prune_dead_letters(died_before=1099.0) == 1099
        assert await letters(store) == ["e-1099"]

    run(work)


# --- records and entries ---


async def prune_all(store: Store) -> int:
    return await store.prune_executions(ended_before=1e9, spare_since=1e9, keep=0, keep_bytes=0)


def test_no_bound_removes_what_the_queue_holds(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, queued("a"), queued("b", ready_at=99.0), queued("c", lease=1))
        await dead(store, "dead", 20.0, payload=Event(value=LARGE))
        await dead(store, "deleted", 20.0)
        await store.queue.delete_dead_letter("deleted")
        await dead(store, "old", 2.0)
        await store.queue.prune_dead_letters(died_before=3.0)
        await store.put_executions([record("sync")])
        assert await prune_all(store) == 3
        for key in ("a", "b", "c", "dead"):
            await execution(store, key)
        assert await store.execution("deleted") is None
        assert await store.queue.settle(ended(queued("c")), 1)
        assert await prune_all(store) == 1
        assert await store.queue.redrive("dead", now=5.0) is not None
        assert await prune_all(store) == 0
        assert await depth(store) == {"ready": 2, "delayed": 1}

    run(work)


def test_what_the_queue_holds_does_not_count_against_the_rest(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, *(queued(f"w-{n}") for n in range(5)))
        for n in range(3):
            await dead(store, f"d-{n}", 20.0, outcome=failure(LARGE))
        await store.put_executions([record(f"e-{n}", completed_at=float(n)) for n in range(3)])
        last = await store.execution("e-2")
        bounds: dict[str, Any] = {"ended_before": 0.0, "spare_since": 1e9}
        assert await store.prune_executions(keep=3, keep_bytes=1000, **bounds) == 0
        assert await store.prune_executions(keep=1, keep_bytes=1000, **bounds) == 2
        assert plain(await store.execution("e-2")) == plain(last)

    run(work)


def test_ended_ones_are_promised_and_go_after_the_unpromised(run: Run) -> None:
    async def work(store: Store) -> None:
        entry = await leased(store)
        await store.queue.settle(ended(entry), 1)
        await store.put_executions([record("sync", completed_at=99.0)])
        bounds: dict[str, Any] = {"ended_before": 0.0, "spare_since": 1e9, "keep_bytes": 2**40}
        assert await store.prune_executions(keep=1, **bounds) == 1
        assert (await execution(store)).status is ExecutionStatus.COMPLETED

    run(work)


def test_a_start_does_not_end_what_is_queued(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, queued("a"), queued("b", lease=1))
        assert await store.end_unfinished(LOST, 50.0) == 0
        assert await depth(store) == {"ready": 1, "leased": 1}

    run(work)


def test_forgetting_a_task_leaves_what_is_queued_and_takes_its_dead_letters(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, queued("a"), queued("b", ready_at=99.0), queued("c", lease=1))
        await dead(store, "dead", 20.0, payload=Event(value=LARGE))
        await dead(store, "other", 20.0, task_id="t-2")
        await store.put_executions([record("sync")])
        assert sorted(await store.forget_executions("t-1")) == ["dead", "sync"]
        assert await letters(store) == ["other"]
        assert await depth(store) == {"ready": 1, "delayed": 1, "leased": 1, "dead": 1}
        for key in ("a", "b", "c", "other"):
            await execution(store, key)
        assert await store.queue.redrive("dead", now=50.0) is None
        await enqueue(store, queued("dead"))

    run(work)


def test_other_writes_do_not_touch_what_is_queued(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, queued("a"), queued("b", lease=1))
        await dead(store, "c", 20.0)
        before = [plain(await store.execution(key)) for key in "abc"]
        answers = [await store.claim_execution(claim(key)) for key in "abc"]
        assert [plain(answer) for answer in answers] == before
        await store.put_executions([record(key) for key in "abxc"])
        assert [plain(await store.execution(key)) for key in "abc"] == before
        assert plain(await store.execution("x")) == plain(record("x"))
        assert await store.queue.settle(ended(queued("b")), 1)
        await store.put_executions([record("b")])  # it is the queue's no longer
        assert plain(await store.execution("b")) == plain(record("b"))

    run(work)


def test_waiting_ones_are_listed_as_executions(run: Run) -> None:
    async def work(store: Store) -> None:
        await enqueue(store, queued("a", queued_at=1.0), queued("b", queued_at=2.0))
        found = await store.executions(
            task="hello", status=ExecutionStatus.PENDING, before=None, limit=9
        )
        assert [one.execution_id for one in found] == ["b", "a"]

    run(work)


# --- callbacks ---


def test_a_callback_comes_with_the_end_and_is_tried_until_dropped(run: Run) -> None:
    told = Callback(
        execution_id="e-1",
        url="https://example.org/ü?a=b",
        traceparent="00-aa-bb-01",
        tracestate="v=1",
        ready_at=21.0,
    )

    async def work(store: Store) -> None:
        assert await store.queue.next_callback_at() is None
        entry = await leased(store)
        assert await store.queue.settle(ended(entry), 1, callback=told)
        await reopen(store)
        assert await store.queue.callbacks(now=20.5, limit=9) == []
        assert list(await store.queue.callbacks(now=21.0, limit=9)) == [told]
        assert await store.queue.next_callback_at() == 21.0
        later = replace(told, tries=1, ready_at=40.0)
        assert await store.queue.put_callback(told, tries=1, ready_at=40.0)
        assert await store.queue.callbacks(now=39.0, limit=9) == []
        assert list(await store.queue.callbacks(now=40.0, limit=9)) == [later]
        assert await store.queue.drop_callback(later)
        assert await store.queue.next_callback_at() is None
        # Whoever is late does not bring it back.
        assert not await store.queue.put_callback(later, tries=2, ready_at=50.0)
        assert not await store.queue.drop_callback(later)
        assert await store.queue.next_callback_at() is None

    run(work)


def test_the_longest_due_callback_is_first(run: Run) -> None:
    async def work(store: Store) -> None:
        times = {"d": 3.0, "b": 1.0, "c": 2.0, "a": 2.0}
        for key, at in times.items():
            await enqueue(store, queued(key, lease=1))
            told = Callback(execution_id=key, url="http://example.org", ready_at=at)
            await store.queue.settle(ended(queued(key)), 1, died_at=9.0, callback=told)

        async def due(now: float, limit: int) -> list[str]:
            return [one.execution_id for one in await store.queue.callbacks(now=now, limit=limit)]

        assert await due(9.0, 9) == ["b", "a", "c", "d"]
        assert await due(2.0, 2) == ["b", "a"]
        assert await due(1.5, 9) == ["b"]
        assert await store.queue.next_callback_at() == 1.0

    run(work)


def test_a_second_end_has_its_own_callback_and_the_first_ends_is_gone(run: Run) -> None:
    first = Callback(execution_id="e-1", url="http://example.org", ready_at=21.0)

    async def work(store: Store) -> None:
        await dead(store, "e-1", 9.0, callback=first)
        await dead(store, "other", 9.0, callback=replace(first, execution_id="other"))
        await store.queue.redrive("e-1", now=30.0)
        assert [one.execution_id for one in await callbacks(store)] == ["other"]
        (entry,) = await lease(store, now=30.0)
        second = replace(first, ready_at=31.0)
        await store.queue.settle(ended(entry), 2, callback=second)
        assert second in await callbacks(store)

    run(work)


def test_who_read_the_first_ends_callback_does_not_change_the_seconds(run: Run) -> None:
    """It was redriven, and ended again, between the look and the write."""
    first = Callback(execution_id="e-1", url="http://example.org", ready_at=21.0)

    async def work(store: Store) -> None:
        await dead(store, "e-1", 9.0, callback=first)
        (read,) = await callbacks(store)
        await store.queue.redrive("e-1", now=30.0)
        (entry,) = await lease(store, now=30.0)
        second = replace(first, ready_at=31.0)
        await store.queue.settle(ended(entry), 2, callback=second)
        assert not await store.queue.drop_callback(read)
        assert not await store.queue.put_callback(read, tries=1, ready_at=99.0)
        assert await callbacks(store) == [second]

    run(work)


def test_a_callback_goes_with_the_record(run: Run) -> None:
    """Else it would tell of whichever execution takes the id next."""

    async def work(store: Store) -> None:
        for key, task_id in (("old", "t-1"), ("task", "t-2"), ("kept", "t-3"), ("dead", "t-2")):
            told = Callback(execution_id=key, url="http://example.org", ready_at=21.0)
            if key == "dead":
                await dead(store, key, 30.0, task_id=task_id, callback=told)
                continue
            entry = queued(key, lease=1, task_id=task_id)
            await enqueue(store, entry)
            end = ended(entry, completed_at=5.0 if key == "old" else 20.0)
            assert await store.queue.settle(end, 1, callback=told)
        bounds: dict[str, Any] = {"spare_since": 0.0, "keep": 99, "keep_bytes": 1 << 30}
        assert await store.prune_executions(ended_before=10.0, **bounds) == 1
        assert await callback_ids(store) == ["dead", "kept", "task"]
        assert sorted(await store.forget_executions("t-2")) == ["dead", "task"]
        assert await callback_ids(store) == ["kept"]

    run(work)


@pytest.mark.parametrize("bound", [{"keep": 0}, {"keep_bytes": 0}])
def test_a_callback_goes_with_a_record_that_was_one_too_many(
    run: Run, bound: dict[str, Any]
) -> None:
    async def work(store: Store) -> None:
        entry = queued(lease=1)
        await enqueue(store, entry)
        told = Callback(execution_id="e-1", url="http://example.org")
        await store.queue.settle(ended(entry), 1, callback=told)
        bounds: dict[str, Any] = {"keep": 99, "keep_bytes": 1 << 30} | bound
        assert await store.prune_executions(ended_before=0.0, spare_since=1e9, **bounds) == 1
        assert await callback_ids(store) == []

    run(work)


async def callbacks(store: Store) -> list[Callback]:
    return list(await store.queue.callbacks(now=1e9, limit=99))


async def callback_ids(store: Store) -> list[str]:
    return sorted(one.execution_id for one in await callbacks(store))
