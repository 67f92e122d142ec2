"""The callbacks in the queue: which are due, and when to ask for them again.

The store is asked seldom, however fast executions end, and waited for while it is not available.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from atlatl.errors import StoreUnavailable
from atlatl.model import Callback

if TYPE_CHECKING:
    from atlatl.ports import Queue

log = logging.getLogger(__name__)

APART_S = 0.05
APART_EACH_S = 0.0001
"""Between two questions, and as much more for each callback that is in memory."""
ASK_AGAIN_S = 1.0
"""While those that are due are under way, the store can't tell when others will be."""
STORE_PAUSE_S = 1.0

T = TypeVar("T")


class DueCallbacks:
    """Asks the queue.

    Args:
        queue: has the callbacks.
        steady: Unix seconds of the queue's clock.
    """

    def __init__(self, queue: Queue, *, steady: Callable[[], float]) -> None:
        self._queue = queue
        self._steady = steady
        self._wanted_at = self._asked_at = -math.inf
        self._failing = False

    def ask_by(self, at: float = -math.inf) -> None:
        """There will be something that is due at this time."""
        self._wanted_at = min(self._wanted_at, at)

    def ask_at(self, known: int) -> float:
        """When to ask again, with so many callbacks in memory; infinity is not before `ask_by`."""
        return max(self._wanted_at, self._asked_at + APART_S + APART_EACH_S * known)

    async def ask(self, limit: int) -> Sequence[Callback]:
        """At most `limit` that are due, those in memory among them."""
        now = self._asked_at = self._steady()
        self._wanted_at = math.inf  # what comes in the middle of this says so
        try:
            found = await self._insist(partial(self._queue.callbacks, now=now, limit=limit))
            next_at = await self._insist(self._queue.next_callback_at)
        except Exception:
            log.exception("the callbacks that are due can't be read; it is tried again")
            self.ask_by(now + ASK_AGAIN_S)
            return ()
        if len(found) == limit:
            self.ask_by()
        elif next_at is not None:
            self.ask_by(next_at if next_at > now else now + ASK_AGAIN_S)
        return found

    async def put(self, callback: Callback, *, tries: int, ready_at: float) -> None:
        """Has it due again, unless there is another one of the execution by now."""
        write = partial(self._queue.put_callback, callback, tries=tries, ready_at=ready_at)
        self.ask_by(ready_at if await self._insist(write) else -math.inf)

    async def drop(self, callback: Callback) -> None:
        """It needs no more tries; there may be another one of the execution by now."""
        if not await self._insist(partial(self._queue.drop_callback, callback)):
            self.ask_by()

    async def _insist(self, question: Callable[[], Awaitable[T]]) -> T:
        """The store's answer, however long it is not available."""
        while True:
            try:
                answer = await question()
            except StoreUnavailable as error:
                if not self._failing:
                    log.warning("callbacks wait until the store is available: %s", error)
                self._failing = True
                await asyncio.sleep(STORE_PAUSE_S)
            else:
                self._failing = False
                return answer
