"""The stores do what a dictionary does, restarts included."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlatl.errors import ArtifactNotFound, Conflict
from atlatl.model import Artifact, Task
from atlatl.ports import Store
from atlatl.settings import Settings
from atlatl.stores.memory import MemoryStore
from atlatl.stores.sqlite import SqliteStore
from tests.store_samples import artifact, sha256, task

CONTENTS = [b"one", b"two", b"three"]
LABELS = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2)

artifacts = st.builds(
    lambda content, version, labels: artifact(content, version=version, labels=labels),
    st.sampled_from(CONTENTS),
    st.sampled_from(["1", "2"]),
    LABELS,
)
tasks = st.builds(
    lambda number, name, version, one, labels, created_at: task(
        f"t-{number}",
        name,
        version=version,
        artifact=one,
        overrides={"labels": labels},
        created_at=created_at,
    ),
    st.integers(0, 3),
    st.sampled_from(["a", "b", "c", "ä"]),
    st.integers(1, 2**62),
    artifacts,
    LABELS,
    st.floats(0, 1e10, allow_nan=False),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put_task"), tasks),
        st.tuples(st.just("delete_task"), st.sampled_from(["t-0", "t-1", "t-2", "t-3"])),
        st.tuples(st.just("put_blob"), st.sampled_from(CONTENTS)),
        st.tuples(st.just("delete_artifact"), st.sampled_from([sha256(c) for c in CONTENTS])),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=25,
)


class Model:
    """The store as dictionaries, in the plainest words."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.artifacts: dict[tuple[str, str], Artifact] = {}
        self.blobs: set[str] = set()

    def put_task(self, new: Task) -> object:
        if any(t.name == new.name and t.task_id != new.task_id for t in self.tasks.values()):
            return Conflict
        self.tasks[new.task_id] = new
        self.artifacts[new.artifact.version, new.artifact.checksum] = new.artifact
        return None

    def delete_task(self, task_id: str) -> object:
        return self.tasks.pop(task_id, None) is not None

    def put_blob(self, content: bytes) -> object:
        self.blobs.add(sha256(content))
        return sha256(content)

    def delete_artifact(self, checksum: str) -> object:
        named = {(t.artifact.version, t.artifact.checksum) for t in self.tasks.values()}
        self.artifacts = {
            key: one for key, one in self.artifacts.items() if key in named or key[1] != checksum
        }
        if checksum not in self.named():
            self.blobs.discard(checksum)
        return None

    def reopen(self, _: None) -> object:
        self.blobs &= self.named()
        return None

    def named(self) -> set[str]:
        return {checksum for _, checksum in self.artifacts}


async def act(store: Store, action: str, argument: Any) -> object:
    if action == "reopen":
        await store.close()
        await store.open()
        return None
    try:
        answer: object = await getattr(store, action)(argument)
    except Conflict:
        return Conflict
    return answer


async def assert_same(store: Store, model: Model) -> None:
    expected = {
        task_id: (one.name, one.version, one.overrides, one.settings, one.created_at)
        for task_id, one in model.tasks.items()
    }
    loaded = await store.load_tasks()
    assert {
        one.task_id: (one.name, one.version, one.overrides, one.settings, one.created_at)
        for one in loaded
    } == expected
    for one in loaded:
        assert one.artifact == model.artifacts[one.artifact.version, one.artifact.checksum]
    assert {
        (one.version, one.checksum): one for one in await store.load_artifacts()
    } == model.artifacts
    for content in CONTENTS:
        checksum = sha256(content)
        if checksum in model.blobs:
            assert await store.blob(checksum) == content
        else:
            with pytest.raises(ArtifactNotFound):
                await store.blob(checksum)


async def play(store: Store, history: list[tuple[str, Any]]) -> None:
    model = Model()
    await store.open()
    try:
        for action, argument in history:
            expected = getattr(model, action)(argument)
            assert await act(store, action, argument) == expected
        await assert_same(store, model)
    finally:
        await store.close()


@settings(max_examples=100, deadline=None)
@given(steps)
def test_memory_is_a_dictionary(history: list[tuple[str, Any]]) -> None:
    asyncio.run(play(MemoryStore(), history))


@settings(max_examples=40, deadline=None)
@given(steps)
def test_sqlite_is_a_dictionary(history: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(play(SqliteStore(Path(directory) / "data", Settings()), history))
