"""The store on disk and the one in memory answer every history of records alike."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from atlatl.errors import InstanceLost
from atlatl.model import ExecutionStatus, Mode, failed
from atlatl.ports import Store
from atlatl.settings import Settings
from atlatl.stores.memory import MemoryStore
from atlatl.stores.sqlite import SqliteStore
from tests.store_samples import claim, failure, plain, record, success

# Few ids and few times, so that ties and repetitions happen.
IDS = [f"e-{n}" for n in range(6)]
ids, times = st.sampled_from(IDS), st.integers(0, 4).map(float)
tasks = st.sampled_from(["t-1", "t-2"])
bodies = st.sampled_from([b"", b"x" * 10, b"y" * 70_000])
outcomes = st.one_of(st.builds(success, bodies, bodies), st.builds(failure, bodies))
modes = st.sampled_from([Mode.SYNC, Mode.STREAM, Mode.ASYNC])
claims = st.builds(
    lambda key, task_id, mode, at: claim(key, task_id=task_id, mode=mode, queued_at=at),
    ids, tasks, modes, times,
)  # fmt: skip
records = st.builds(
    lambda key, outcome, task_id, queued_at, completed_at: record(
        key, outcome, task_id=task_id, queued_at=queued_at, completed_at=completed_at
    ),
    ids, outcomes, tasks, times, times,
)  # fmt: skip
bounds = st.fixed_dictionaries(
    {
        "ended_before": st.one_of(st.just(0.0), times),
        "spare_since": times,
        "keep": st.integers(0, 6),
        "keep_bytes": st.sampled_from([0, 25, 140_000, 2**40]),
    }
)
places = st.one_of(st.none(), st.tuples(times, ids))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), claims),
        st.tuples(st.just("put"), st.lists(records, max_size=4)),
        st.tuples(st.just("forget"), tasks),
        st.tuples(st.just("prune"), bounds),
        st.tuples(st.just("restart"), times),
        st.tuples(
            st.just("page"),
            st.fixed_dictionaries(
                {
                    "task": st.sampled_from(["", "t-1", "hello", "none"]),
                    "status": st.sampled_from([None, *ExecutionStatus]),
                    "before": places,
                    "limit": st.integers(0, 4),
                }
            ),
        ),
    ),
    max_size=25,
)


async def act(store: Store, action: str, argument: Any) -> Any:
    if action == "claim":
        return plain(await store.claim_execution(argument))
    if action == "put":
        return await store.put_executions(argument)
    if action == "forget":
        return sorted(await store.forget_executions(argument))
    if action == "prune":
        return await store.prune_executions(**argument)
    if action == "page":
        return [one.execution_id for one in await store.executions(**argument)]
    await store.close()
    await store.open()
    return await store.end_unfinished(failed(InstanceLost("gone")), argument)


async def everything(store: Store) -> list[Any]:
    return [plain(await store.execution(key)) for key in IDS]


async def play(store: Store, history: list[tuple[str, Any]]) -> list[Any]:
    await store.open()
    try:
        answers = [await act(store, action, argument) for action, argument in history]
        return [answers, await everything(store)]
    finally:
        await store.close()


@settings(max_examples=60, deadline=None)
@given(steps)
def test_both_stores_answer_alike(history: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        on_disk = asyncio.run(play(SqliteStore(Path(directory) / "data", Settings()), history))
    assert on_disk == asyncio.run(play(MemoryStore(), history))
