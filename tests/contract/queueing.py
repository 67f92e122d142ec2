"""What the tests of durable executions do again and again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from atlatl.errors import InstanceLost
from atlatl.model import (
    Callback,
    DeadLetter,
    Execution,
    Outcome,
    Queued,
    failed,
)
from atlatl.ports import Store
from tests.store_samples import accepted, ended, failure, queued

LARGE = bytes(range(256)) * 1000
LOST = failed(InstanceLost("the service ended"))


async def enqueue(store: Store, *entries: Queued) -> None:
    for entry in entries:
        assert await store.queue.enqueue(accepted(entry), entry) is None


async def lease(
    store: Store, limit: int = 9, task: str = "hello", now: float = 10.0
) -> list[Queued]:
    return list(await store.queue.lease({task: limit}, now=now, until=now + 60))


async def leased(store: Store, **facts: Any) -> Queued:
    """An execution that has been accepted and leased."""
    await enqueue(store, queued(**facts))
    (entry,) = await lease(store)
    return entry


async def dead(
    store: Store,
    execution_id: str,
    died_at: float,
    *,
    outcome: Outcome | None = None,
    callback: Callback | None = None,
    **facts: Any,
) -> None:
    """Accepts an execution that then fails for good."""
    entry = queued(execution_id, lease=1, **facts)
    await enqueue(store, entry)
    end = ended(entry, outcome or failure())
    assert await store.queue.settle(end, 1, died_at=died_at, callback=callback)


async def depth(store: Store) -> dict[str, int]:
    """Of the one task that there is; states that nothing is in are left out."""
    depths = await store.queue.depths()
    assert len(depths) <= 1
    states = ("ready", "delayed", "leased", "dead")
    counts = {state: getattr(one, state) for one in depths for state in states}
    return {state: number for state, number in counts.items() if number}


async def execution(store: Store, execution_id: str = "e-1") -> Execution:
    found = await store.execution(execution_id)
    assert found is not None
    return found.execution


async def recover(store: Store, lapsed_before: float | None = None, limit: int = 20) -> list[Any]:
    taken = await store.queue.recover(
        lapsed_before=lapsed_before, now=30.0, limit=limit, outcome=LOST
    )
    return sorted(taken, key=lambda each: each[0].call.execution_id)


def ids(entries: Iterable[Queued]) -> list[str]:
    return [entry.call.execution_id for entry in entries]


def letter_ids(letters: Sequence[DeadLetter]) -> list[str]:
    return [letter.execution.execution_id for letter in letters]


async def letters(store: Store, **asked: Any) -> list[str]:
    return letter_ids(await store.queue.dead_letters(**{"before": None, "limit": 99} | asked))
