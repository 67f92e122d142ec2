"""What every store promises of executions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from atlatl.errors import CircuitOpenError, InstanceLost, StoreUnavailable
from atlatl.model import (
    Execution,
    ExecutionStatus,
    Mode,
    Outcome,
    OutcomeKind,
    Result,
    Way,
    failed,
    place_of,
)
from atlatl.ports import Store
from tests.contract.conftest import Run, reopen
from tests.store_samples import TRIED, claim, failure, plain, record, success

LOST = failed(InstanceLost("the service ended"))
LARGE = bytes(range(256)) * 1000


def ids(executions: Sequence[Execution]) -> list[str]:
    return [one.execution_id for one in executions]


async def listed(store: Store, **asked: Any) -> list[str]:
    everything: dict[str, Any] = {"task": "", "status": None, "before": None, "limit": 1000}
    return ids(await store.executions(**everything | asked))


async def prune(store: Store, **bounds: float) -> int:
    none: dict[str, Any] = {
        "ended_before": 0.0,
        "spare_since": 0.0,
        "keep": 2**40,
        "keep_bytes": 2**40,
    }
    return await store.prune_executions(**none | bounds)


@pytest.mark.parametrize(
    "outcome",
    [
        success(),
        success(body=LARGE, output=LARGE[::-1]),
        success(body=b"", output=b""),
        failure(output=LARGE),
        failed(CircuitOpenError("hello", retry_after_s=1.5), output=b"x"),
        Outcome(
            kind=OutcomeKind.SUCCESS,
            result=Result(kind="response", body=b"\0", status=418, headers=(("a", "b"),) * 2),
        ),
        Outcome(kind=OutcomeKind.SUCCESS),
    ],
)
def test_a_record_comes_back_equal_after_a_restart(run: Run, outcome: Outcome) -> None:
    kept = record(
        outcome=outcome,
        mode=Mode.STREAM,
        attempt=3,
        started_at=1700000000.75,
        queue_s=0.25,
        instance_id="i-9",
        version=7,
        cold_start=True,
        trace_id="a" * 32,
        metadata={"naïve ☃": "'; DROP TABLE executions; --", "": "a\0b"},
        way=Way(waited_s=0.25, waiting=3, lent=2, size=1, probe=True, policy="random", uses=9),
        tried=(TRIED, replace(TRIED, attempt=2, recovered=True)),
    )

    async def work(store: Store) -> None:
        await store.put_executions([kept])
        await reopen(store)
        assert plain(await store.execution("e-1")) == plain(kept)
        assert await store.execution("e-2") is None

    run(work)


def test_a_claim_is_granted_once_and_then_says_what_is_there(run: Run) -> None:
    async def work(store: Store) -> None:
        claims = [claim(fingerprint=bytes([n]) * 32) for n in range(10)]
        answers = await asyncio.gather(*map(store.claim_execution, claims))
        winners = [one for one, answer in zip(claims, answers, strict=True) if answer is None]
        assert len(winners) == 1
        assert [answer for answer in answers if answer is not None] == winners * 9
        await reopen(store)
        assert await store.claim_execution(claim(fingerprint=b"other")) == winners[0]
        await store.put_executions([record()])
        assert plain(await store.claim_execution(claim())) == plain(record())

    run(work)


def test_records_replace_each_other_by_id(run: Run) -> None:
    async def work(store: Store) -> None:
        for outcome in (failure(), success(body=LARGE), success(output=LARGE), success()):
            await store.put_executions([record(outcome=outcome), record("e-2", outcome)])
            assert plain(await store.execution("e-1")) == plain(record(outcome=outcome))
        assert await listed(store) == ["e-2", "e-1"]

    run(work)


def test_lists_are_newest_first_without_bytes(run: Run) -> None:
    async def work(store: Store) -> None:
        times = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 2.0}
        await store.put_executions(
            [record(key, success(body=LARGE), queued_at=at) for key, at in times.items()]
        )
        assert await listed(store) == ["a", "d", "c", "b"]
        for one in await store.executions(task="", status=None, before=None, limit=2):
            assert one.outcome is not None
            assert (one.outcome.result, one.outcome.output) == (None, b"")
            assert one.outcome.run_s == 0.25

    run(work)


def test_lists_are_of_a_task_by_name_or_id_and_of_a_status(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.put_executions(
            [
                record("a", queued_at=1.0),
                record("b", failure(), queued_at=2.0),
                record("c", task_id="t-2", task_name="other", queued_at=3.0),
            ]
        )
        await store.claim_execution(claim("d", queued_at=4.0))
        assert await listed(store, task="hello") == ["d", "b", "a"]
        assert await listed(store, task="t-2") == ["c"]
        assert await listed(store, task="nobody \udc80 \0") == []
        assert await listed(store, status=ExecutionStatus.COMPLETED) == ["c", "a"]
        assert await listed(store, task="t-1", status=ExecutionStatus.FAILED) == ["b"]
        assert await listed(store, status=ExecutionStatus.PENDING) == ["d"]

    run(work)


def test_pages_join_under_inserts_and_after_the_cursor_was_deleted(run: Run) -> None:
    async def work(store: Store) -> None:
        # Equal times happen: the id decides.
        many = [record(f"e-{n:02}", queued_at=float(n // 3), task_id=f"t-{n}") for n in range(20)]
        await store.put_executions(many)
        seen: list[str] = []
        before = None
        while True:
            page = await store.executions(task="", status=None, before=before, limit=3)
            if not page:
                break
            seen += ids(page)
            before = place_of(page[-1])
            await store.put_executions([record(f"new-{len(seen)}", queued_at=100.0 + len(seen))])
            cursor = page[-1].task_id
            assert list(await store.forget_executions(cursor)) == [page[-1].execution_id]
        assert seen == [f"e-{n:02}" for n in reversed(range(20))]

    run(work)


def test_what_a_former_life_left_is_ended_and_marked(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.claim_execution(claim("open"))
        await store.put_executions([claim("queued", mode=Mode.ASYNC), record("done")])
        await reopen(store)
        assert await store.end_unfinished(LOST, 99.5) == 1
        assert await store.end_unfinished(LOST, 100.5) == 0
        ended = await store.execution("open")
        assert ended is not None
        assert ended.interrupted
        assert ended.fingerprint == claim().fingerprint
        lost = record("open", LOST, completed_at=99.5)
        assert plain(ended)[0].execution == plain(lost)[0].execution
        assert plain(ended)[1] == plain(lost)[1]
        assert ended.execution.status is ExecutionStatus.FAILED
        assert await store.execution("queued") == claim("queued", mode=Mode.ASYNC)
        assert plain(await store.execution("done")) == plain(record("done"))

    run(work)


def test_forgetting_a_task_says_what_went(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.put_executions(
            [record("a", success(body=LARGE)), record("b"), record("c", task_id="t-2")]
        )
        await store.claim_execution(claim("d"))
        assert sorted(await store.forget_executions("t-1")) == ["a", "b", "d"]
        assert await store.forget_executions("t-1") == []
        assert await listed(store) == ["c"]
        assert await store.claim_execution(claim("a")) is None

    run(work)


def test_bytes_shared_by_two_records_go_with_the_last(run: Run) -> None:
    async def work(store: Store) -> None:
        first, second = record("a", success(body=LARGE)), record("b", failure(output=LARGE))
        await store.put_executions([first, second])
        await store.put_executions([record("a", success(body=LARGE), task_id="t-2")])
        await store.forget_executions("t-2")
        assert plain(await store.execution("b")) == plain(second)
        await store.forget_executions("t-1")
        await store.put_executions([first])
        assert plain(await store.execution("a")) == plain(first)

    run(work)


def test_the_old_go_and_the_unfinished_stay(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.put_executions(
            [
                record("old", completed_at=1.0),
                record("failed", failure(), completed_at=1.5),
                record("edge", completed_at=2.0),
                record("new", completed_at=3.0),
                claim("open", queued_at=0.0),
            ]
        )
        assert await prune(store, ended_before=2.0) == 2
        assert sorted(await listed(store)) == ["edge", "new", "open"]
        assert await prune(store, ended_before=2.0) == 0

    run(work)


def test_beyond_the_number_the_unpromised_go_first(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.put_executions(
            [
                *(record(f"ok-{n}", completed_at=10.0 + n) for n in range(4)),
                *(record(f"bad-{n}", failure(), completed_at=1.0 + n) for n in range(4)),
                claim("open"),
            ]
        )
        assert await prune(store, keep=7) == 2
        assert sorted(await listed(store)) == [
            *(f"bad-{n}" for n in range(4)), "ok-2", "ok-3", "open",
        ]  # fmt: skip
        assert await prune(store, keep=2, spare_since=3.0) == 4
        assert sorted(await listed(store)) == ["bad-2", "bad-3", "open"]
        assert await prune(store, keep=0, spare_since=99.0) == 2
        assert await listed(store) == ["open"]

    run(work)


def test_a_thousand_go_at_once(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.put_executions([record(f"e-{n}", completed_at=float(n)) for n in range(1300)])
        assert await prune(store, keep=10) == 1290
        assert await listed(store) == [f"e-{n}" for n in sorted(map(str, range(1290, 1300)))][::-1]

    run(work)


def test_beyond_the_bytes_the_oldest_unpromised_go_first(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.put_executions(
            [
                record("small", success(b"", b""), completed_at=1.0),
                record("large", success(LARGE, b""), completed_at=2.0),
                record("newer", success(LARGE, b""), completed_at=3.0),
                record("failed", failure(LARGE), completed_at=0.5),
            ]
        )
        assert await prune(store, keep_bytes=3 * len(LARGE)) == 0
        assert await prune(store, keep_bytes=3 * len(LARGE) - 1) == 2
        assert sorted(await listed(store)) == ["failed", "newer"]
        assert await prune(store, keep_bytes=1, spare_since=0.0) == 2
        assert await listed(store) == []

    run(work)


def test_a_closed_store_says_so(run: Run) -> None:
    async def work(store: Store) -> None:
        await store.close()
        for use in (
            lambda: store.claim_execution(claim()),
            lambda: store.put_executions([record()]),
            lambda: store.execution("e-1"),
            lambda: store.executions(task="", status=None, before=None, limit=1),
            lambda: store.end_unfinished(LOST, 1.0),
            lambda: store.forget_executions("t-1"),
            lambda: prune(store),
        ):
            with pytest.raises(StoreUnavailable, match="closed"):
                await use()

    run(work)
