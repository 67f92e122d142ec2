"""What is known of executions: in memory, on its way to the store, and in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from atlatl.engine import recent, records
from atlatl.engine.executions import PRUNE_S, Executions
from atlatl.errors import Conflict, ExecutionNotFound, InvalidRequest, StoreUnavailable
from atlatl.model import Execution, ExecutionRecord, ExecutionStatus, Outcome
from atlatl.settings import Settings, parse
from tests.store_samples import claim, execution, failure, success
from tests.troubled_store import TroubledStore
from tests.virtual_time import virtual

KEY = b"f" * 32
LARGE = b"x" * 5000


class Live:
    def __init__(self, seen: Execution) -> None:
        self.seen = seen

    def view(self) -> Execution:
        return self.seen


class Known:
    """Executions in front of a store in memory."""

    def __init__(self, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        self.store = TroubledStore()
        self.executions = Executions(
            parse(Settings, settings), self.store, clock=loop.time, wall=loop.time
        )

    def end(
        self, key: str, outcome: Outcome | None = None, fingerprint: bytes = b"", **facts: Any
    ) -> Execution:
        ended = execution(key, outcome or success(), **facts)
        self.executions.end(ended, fingerprint)
        return ended

    async def stored(self, key: str) -> ExecutionRecord | None:
        return await self.store.inner.execution(key)

    async def page(self, limit: int = 100, start_after: str = "", **asked: Any) -> Any:
        asked = {"task": "", "status": None} | asked
        return await self.executions.page(limit=limit, start_after=start_after, **asked)

    async def pages(self, limit: int, **asked: Any) -> list[str]:
        """All ids, page by page."""
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await self.page(limit, cursor, **asked)
            assert len(page.items) <= limit
            found += [one.execution_id for one in page.items]
            cursor = page.next_start_after
        return found


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Known]:
    known = Known(**settings)
    await known.store.open()
    await known.executions.open()
    try:
        yield known
    finally:
        await known.executions.close()


# --- memory ---


@virtual
async def test_memory_answers_without_the_store() -> None:
    async with opened() as known:
        done, failed = known.end("a"), known.end("b", failure())
        known.executions.begin("c", Live(execution("c")))
        assert await known.executions.get("a") == done
        assert await known.executions.get("b") == failed
        assert (await known.executions.get("c")).status is ExecutionStatus.PENDING
        assert known.store.asked == []


@virtual
async def test_unknown_and_impossible_ids_are_not_found() -> None:
    async with opened() as known:
        for key in ("never", "", "a b", "\udc80", "x" * 10_000):
            with pytest.raises(ExecutionNotFound):
                await known.executions.get(key)
            assert await known.executions.find(key) is None
        assert known.store.asked == ["execution"] * 2  # only what can have been given


@virtual
async def test_ids_are_taken_while_memory_knows_them() -> None:
    async with opened() as known:
        known.executions.begin("a", Live(execution("a")))
        for given in (True, False):
            with pytest.raises(Conflict):
                known.executions.begin("a", Live(execution("a")), given=given)
        known.end("a")
        with pytest.raises(Conflict):
            known.executions.begin("a", Live(execution("a")))
        known.executions.begin("a", Live(execution("a")), given=True)


@virtual
async def test_large_results_stay_in_memory_for_nobody_and_in_the_store_for_ids() -> None:
    async with opened() as known:
        given = known.end("given", success(LARGE), KEY)
        known.end("plain", success(LARGE))
        assert await known.executions.get("given") == given  # on its way
        await asyncio.sleep(1)
        assert await known.executions.get("given") == given  # from the store
        assert known.executions.first_of("given") is None
        kept = await known.executions.get("plain")
        assert kept.outcome is not None
        assert kept.outcome.result is None
        assert kept.outcome.output == success().output
        known.store.down = True
        assert (await known.executions.get("given")).status is ExecutionStatus.COMPLETED


@virtual
async def test_memory_is_bounded_in_bytes_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "KEPT_BYTES", 3000)
    async with opened(records={"recent_executions": 5}) as known:
        for n in range(8):
            known.end(f"e-{n}", success(b"", b"x" * 1000))
        held = [await known.executions.get(f"e-{n}") for n in range(8)]
        assert [one.outcome is not None and len(one.outcome.output) for one in held] == [1000] * 8
        await asyncio.sleep(1)
        known.store.down = True
        lengths = []
        for n in range(3, 8):
            outcome = (await known.executions.get(f"e-{n}")).outcome
            lengths.append(len(outcome.output) if outcome else None)
        assert lengths == [0, 0, 1000, 1000, 1000]
        with pytest.raises(StoreUnavailable):
            await known.executions.get("e-2")
        known.store.down = False
        assert (await known.executions.get("e-2")).execution_id == "e-2"


@virtual
async def test_output_that_comes_after_the_end_is_added_everywhere() -> None:
    async with opened() as known:
        known.end("a", failure(b"before "), KEY)
        await asyncio.sleep(1)
        known.executions.add_output("a", b"after")
        known.executions.add_output("b", b"nobody")
        known.executions.add_output("a", b"")
        await asyncio.sleep(1)
        stored = await known.stored("a")
        assert stored is not None
        assert stored.fingerprint == KEY
        for one in (await known.executions.get("a"), stored.execution):
            assert one.outcome is not None
            assert one.outcome.output == b"before after"


# --- writing behind ---


@virtual
async def test_successes_are_stored_at_a_bounded_rate_and_all_else_always() -> None:
    async with opened(records={"record_writes_per_s": 10}) as known:
        for n in range(25):
            known.end(f"ok-{n}")
            known.end(f"bad-{n}", failure())
            known.end(f"given-{n}", None, KEY)
        await asyncio.sleep(0.5)
        assert len(known.store.inner._records) == 10 + 50
        assert known.executions.dropped == {"rate": 15, "store": 0}
        # Five more were saved up, and one is in the list from before.
        for n in range(25, 50):
            known.end(f"ok-{n}")
        await asyncio.sleep(0.5)
        assert known.executions.dropped == {"rate": 15 + 20, "store": 0}


@virtual
async def test_no_rate_stores_no_success() -> None:
    async with opened(records={"record_writes_per_s": 0}) as known:
        known.end("ok")
        known.end("bad", failure())
        await asyncio.sleep(1)
        assert list(known.store.inner._records) == ["bad"]
        assert known.executions.dropped == {"rate": 1, "store": 0}


@virtual
async def test_of_successes_little_output_is_stored() -> None:
    async with opened() as known:
        known.end("ok", success(output=LARGE))
        known.end("bad", failure(output=LARGE))
        await asyncio.sleep(1)
        for key, length in (("ok", 4096), ("bad", 5000)):
            stored = await known.stored(key)
            assert stored is not None
            assert stored.execution.outcome is not None
            assert len(stored.execution.outcome.output) == length


@virtual
async def test_a_store_that_comes_back_gets_what_was_promised_most(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened() as known:
        known.store.down = True
        given, _, _ = known.end("given", None, KEY), known.end("ok"), known.end("bad", failure())
        await asyncio.sleep(10)
        assert known.executions.dropped == {"rate": 0, "store": 2}
        assert caplog.text.count("cannot be stored") == 1
        assert await known.executions.get("given") == given
        known.store.down = False
        await asyncio.sleep(2)
        assert list(known.store.inner._records) == ["given"]
        known.end("later")
        await asyncio.sleep(1)
        assert await known.stored("later") is not None


class OneRecordIsToo:
    """Refuses every batch that has a certain record in it."""

    def __init__(self, store: TroubledStore, key: str, error: Exception) -> None:
        self._put, self._key, self._error = store.inner.put_executions, key, error
        store.inner.put_executions = self.put  # type: ignore[method-assign]

    async def put(self, batch: Any) -> None:
        if any(one.execution.execution_id == self._key for one in batch):
            raise self._error
        await self._put(batch)


@virtual
async def test_a_record_that_no_store_can_take_costs_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened() as known:
        OneRecordIsToo(known.store, "odd", ValueError("no such text"))
        for key in ("a", "odd", "b"):
            known.end(key, None, KEY)
        await asyncio.sleep(1)
        assert sorted(known.store.inner._records) == ["a", "b"]
        assert known.executions.dropped == {"rate": 0, "store": 1}
        assert "the record of odd cannot be stored" in caplog.text


@virtual
async def test_a_result_that_does_not_fit_keeps_others_from_nothing() -> None:
    async with opened() as known:
        OneRecordIsToo(known.store, "large", StoreUnavailable("no room is left"))
        known.end("large", success(LARGE), KEY)
        await asyncio.sleep(1.5)
        for n in range(5):
            known.end(f"e-{n}")
        await asyncio.sleep(5)
        assert sorted(known.store.inner._records) == [f"e-{n}" for n in range(5)]
        assert known.executions.dropped == {"rate": 0, "store": 0}
        assert (await known.executions.get("large")).outcome == success(LARGE)
    assert known.executions.dropped == {"rate": 0, "store": 1}


@virtual
async def test_a_store_that_does_not_keep_up_bounds_what_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "MAX_WAITING", 3)
    async with opened() as known:
        known.store.hold = True
        for n in range(5):
            known.end(f"bad-{n}", failure())
            known.end(f"ok-{n}")
            known.end(f"given-{n}", None, KEY)
        assert known.executions.dropped == {"rate": 0, "store": 8}
        answers: list[object] = []
        known.executions.claim(claim("new"), answers.append)
        await asyncio.sleep(0.01)
        assert isinstance(answers[0], StoreUnavailable)
        assert "7 records wait" in answers[0].message
        known.store.hold = False
        await asyncio.sleep(1)
        known.executions.claim(claim("new"), answers.append)
        await asyncio.sleep(1)
        assert answers[1:] == [None]


@virtual
async def test_closing_writes_all_that_waits() -> None:
    async with opened() as known:
        for n in range(600):
            known.end(f"e-{n}", failure())
    assert len(known.store.inner._records) == 600
    assert known.executions.dropped == {"rate": 0, "store": 0}


@virtual
async def test_what_cannot_be_written_at_the_end_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with opened() as known:
        known.end("a", None, KEY)
        known.store.down = True
    assert known.executions.dropped == {"rate": 0, "store": 1}
    assert "1 records of executions could not be stored" in caplog.text


@virtual
async def test_a_store_with_a_bug_refuses_the_claim(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as known:
        known.store.inner.claim_execution = None  # type: ignore[method-assign, assignment]
        answers: list[Any] = []
        known.executions.claim(claim(), answers.append)
        await asyncio.sleep(1)
        assert answers[0].code == "SYNC_EXECUTION_FAILED"
        assert "the store failed" in caplog.text


# --- lists ---


@virtual
async def test_pages_join_memory_and_store() -> None:
    async with opened(records={"recent_executions": 8, "record_writes_per_s": 12}) as known:
        for n in range(20):
            # Calls end in another order than they began.
            known.end(f"e-{n:02}", queued_at=float(n ^ 1), completed_at=100.0 + n)
        known.executions.begin("live", Live(execution("live", queued_at=30.0)))
        known.end("given", success(LARGE), KEY, queued_at=4.5)
        await asyncio.sleep(0.01)
        # 12 to 19 are in memory (but for the one that made room), 0 to 11 in the store.
        memory = [f"e-{n:02}" for n in range(13, 20)]
        stored = [f"e-{n:02}" for n in range(12)]
        expected = sorted([*memory, *stored], key=lambda key: int(key[2:]) ^ 1, reverse=True)
        expected.insert(expected.index("e-05"), "given")
        for limit in (1, 2, 3, 7, 100):
            assert await known.pages(limit) == ["live", *expected]
        assert await known.pages(2, status=ExecutionStatus.PENDING) == ["live"]
        assert await known.pages(2, task="nobody") == []


@virtual
async def test_a_stored_claim_is_not_listed_beside_its_end() -> None:
    async with opened() as known:
        answers: list[object] = []
        known.executions.claim(claim("mine"), answers.append)
        await asyncio.sleep(0.01)
        assert answers == [None]
        known.store.hold = True
        known.end("mine", None, KEY)
        assert await known.pages(1, status=ExecutionStatus.PENDING) == []
        assert await known.pages(1, status=ExecutionStatus.COMPLETED) == ["mine"]
        assert await known.pages(1) == ["mine"]
        known.store.hold = False


@virtual
async def test_cursors_outlive_their_executions_and_inserts() -> None:
    async with opened(records={"recent_executions": 4, "record_writes_per_s": 0}) as known:
        for n in range(4):
            known.end(f"e-{n}", queued_at=float(n), task_id=f"t-{n}")
        page = await known.page(2)
        assert [one.execution_id for one in page.items] == ["e-3", "e-2"]
        assert await known.executions.forget_task("t-2") == 1
        known.end("new", queued_at=9.0)
        rest = await known.page(2, page.next_start_after)
        assert [one.execution_id for one in rest.items] == ["e-1", "e-0"]
        for n in range(4):
            known.end(f"later-{n}", queued_at=20.0 + n)  # all others leave memory
        assert (await known.page(2, page.next_start_after)).items == []
        with pytest.raises(InvalidRequest, match="'e-0' is no execution that is still known"):
            await known.page(2, "e-0")
        assert await known.pages(3) == [f"later-{n}" for n in (3, 2, 1, 0)]


@virtual
async def test_forgetting_a_task_counts_each_execution_once() -> None:
    async with opened() as known:
        known.end("stored", None, KEY)
        known.end("failed", failure())
        await asyncio.sleep(1)
        known.end("waiting", None, KEY)
        known.end("kept", task_id="t-2")
        assert await known.executions.forget_task("t-1") == 3
        await asyncio.sleep(1)
        assert await known.pages(9) == ["kept"]
        assert list(known.store.inner._records) == ["kept"]


# --- bounds of the store ---


@virtual
async def test_stored_records_are_held_against_their_bounds_again_and_again() -> None:
    limits = {"execution_retention_s": 200, "execution_retention_count": 3}
    async with opened(
        limits=limits, records={"execution_retention_bytes": 8000, "recent_executions": 1}
    ) as known:
        for n in range(5):
            known.end(f"e-{n}", success(b"", b""), completed_at=float(n))
        await asyncio.sleep(PRUNE_S + 1)
        assert sorted(known.store.inner._records) == ["e-2", "e-3", "e-4"]
        known.end("a", failure(LARGE), completed_at=30.0)
        known.end("b", failure(LARGE), completed_at=31.0)
        await asyncio.sleep(PRUNE_S)
        assert sorted(known.store.inner._records) == ["b"]
        known.store.down = True  # it is tried again
        await asyncio.sleep(PRUNE_S)
        known.store.down = False
        await asyncio.sleep(200)
        assert known.store.inner._records == {}
