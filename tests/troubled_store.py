"""A store whose answers a test holds back or refuses."""

from __future__ import annotations

import asyncio
from typing import Any

from atlatl.errors import StoreUnavailable
from atlatl.stores.memory import MemoryStore

ALWAYS = ("open", "close", "end_unfinished")
HELD = ("claim_execution", "put_executions", "enqueue", "put_back", "settle")


class TroubledStore:
    """`ports.Store` in front of one in memory, its queue included.

    Attributes:
        down: every operation raises.
        hold: writes about an execution on its way wait until it is cleared.
        asked: names of the operations, in their order.
    """

    def __init__(self, inner: MemoryStore | None = None) -> None:
        self.inner = inner or MemoryStore()
        self.queue = _Troubled(self, self.inner.queue)
        self.down = False
        self.asked: list[str] = []
        self._go = asyncio.Event()
        self._go.set()

    @property
    def hold(self) -> bool:
        return not self._go.is_set()

    @hold.setter
    def hold(self, value: bool) -> None:
        if value:
            self._go.clear()
        else:
            self._go.set()

    async def pass_through(self, name: str) -> None:
        """Has an operation wait, or raises, as the test wants it."""
        if name in ALWAYS:
            return
        self.asked.append(name)
        if self.down:
            raise StoreUnavailable("the disk is gone", retry_after_s=1.0)
        if name in HELD:
            await self._go.wait()

    def __getattr__(self, name: str) -> Any:
        return _troubled(self, getattr(self.inner, name), name)


class _Troubled:
    def __init__(self, store: TroubledStore, inner: Any) -> None:
        self._store = store
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return _troubled(self._store, getattr(self._inner, name), name)


def _troubled(store: TroubledStore, operation: Any, name: str) -> Any:
    async def troubled(*args: Any, **kwargs: Any) -> Any:
        await store.pass_through(name)
        return await operation(*args, **kwargs)

    return troubled
