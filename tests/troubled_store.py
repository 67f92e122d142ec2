"""A store whose answers a test holds back or refuses."""

from __future__ import annotations

import asyncio
from typing import Any

from atlatl.errors import StoreUnavailable
from atlatl.stores.memory import MemoryStore


class TroubledStore:
    """`ports.Store` in front of one in memory.

    Attributes:
        down: every operation raises.
        hold: claims and notes of attempts wait until it is cleared.
        asked: names of the operations, in their order.
    """

    def __init__(self, inner: MemoryStore | None = None) -> None:
        self.inner = inner or MemoryStore()
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

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.inner, name)

        async def troubled(*args: Any, **kwargs: Any) -> Any:
            if name in ("open", "close", "end_unfinished"):
                return await operation(*args, **kwargs)
            self.asked.append(name)
            if self.down:
                raise StoreUnavailable("the disk is gone", retry_after_s=1.0)
            if name in ("claim_execution", "put_executions"):
                await self._go.wait()
            return await operation(*args, **kwargs)

        return troubled
