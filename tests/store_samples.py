"""Tasks and artifacts for the tests of stores."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from atlatl.model import Artifact, Parameter, Shape, Task
from atlatl.settings import Settings, task_settings
from atlatl.stores.sqlite import SqliteStore

T = TypeVar("T")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def artifact(content: bytes = b"code", **facts: Any) -> Artifact:
    known: dict[str, Any] = {
        "artifact_id": "art-1",
        "version": "1",
        "checksum": sha256(content),
        "filename": "app.py",
        "size_bytes": len(content),
        "location": "file:///srv/app.py",
        "labels": {"team": "blue"},
        "created_at": 1700000000.25,
    }
    return Artifact(**known | facts)


def task(task_id: str = "t-1", name: str = "hello", **facts: Any) -> Task:
    overrides = facts.pop("overrides", {"timeout_ms": 5000, "pool": {"max_size": 4}})
    known: dict[str, Any] = {
        "version": 1,
        "artifact": artifact(),
        "handler": "app.py:main",
        "shapes": {
            "main": Shape(
                function="main",
                kind="parameters",
                parameters=(Parameter(name="who", required=True, annotation="str"),),
            )
        },
        "created_by_call": True,
        "created_at": 1700000000.5,
        "updated_at": 1700000001.5,
    }
    resolved = task_settings(Settings(), overrides)
    return Task(task_id=task_id, name=name, overrides=overrides, settings=resolved, **known | facts)


@asynccontextmanager
async def sqlite_store(
    directory: Path, settings: Settings | None = None
) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(directory, settings or Settings())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def with_sqlite(directory: Path, work: Callable[[SqliteStore], Awaitable[T]]) -> T:
    """Runs `work` with the directory's store open."""

    async def run() -> T:
        async with sqlite_store(directory) as store:
            return await work(store)

    return asyncio.run(run())
