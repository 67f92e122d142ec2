"""Every store, for the tests of what all of them promise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from atlatl.ports import Store
from atlatl.settings import Settings
from atlatl.stores.memory import MemoryStore
from atlatl.stores.sqlite import SqliteStore

Run = Callable[[Callable[[Store], Awaitable[None]]], None]


@pytest.fixture(params=["memory", "sqlite"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a coroutine function with an open store."""

    def run(work: Callable[[Store], Awaitable[None]]) -> None:
        async def main() -> None:
            store: Store = (
                MemoryStore()
                if request.param == "memory"
                else SqliteStore(tmp_path / "data", Settings())
            )
            await store.open()
            try:
                await work(store)
            finally:
                await store.close()

        asyncio.run(main())

    return run


async def reopen(store: Store) -> None:
    await store.close()
    await store.open()
