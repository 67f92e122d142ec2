"""Tells addresses how durable executions ended: `Atlatl-Callback-Url`.

At least once, in no order, and never in the way of the queue. What can't be told is tried again
with growing pauses, and given up after some tries; the result can be fetched by its id all the
same. A receiver that is slow has a few places of its own.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from atlatl.core.turns import MAX_BACKOFF_S, Turns, delay_after, wished_delay_s
from atlatl.engine.due_callbacks import DueCallbacks
from atlatl.engine.messenger import Messenger, Refusal, span_of_try
from atlatl.events import CallbackTried
from atlatl.model import Callback, Execution

if TYPE_CHECKING:
    from atlatl.ports import Queue, Telemetry

log = logging.getLogger(__name__)

PLACES = 16
"""Tries at the same time."""
PER_HOST = 4
"""Of them to one host: another port of it is another one."""

PAGE = 256
KEPT = 1000
MAX_WAITING = 4000
"""Callbacks in memory. When there are more, and none for a host that has a place left, then the
host with most of them keeps `KEPT`: the others are put off, so that what is behind them is seen."""

MOMENT_S = 0.1
"""By which memory may know of an end later than the store."""

Find = Callable[[str], Awaitable[Execution | None]]


class Callbacks:
    """Makes the callbacks that are due, while `run` runs.

    Args:
        queue: has the callbacks.
        find: the record of an execution, with its result; None when it is not kept any more.
        messenger: makes the tries; closed at the end of `run`.
        telemetry: told of each try.
        steady: Unix seconds of the queue's clock.
        chance: a number in [0, 1), for jitter.
        max_tries: that fail, until a callback is given up.
    """

    def __init__(
        self,
        queue: Queue,
        find: Find,
        messenger: Messenger,
        telemetry: Telemetry,
        *,
        steady: Callable[[], float],
        chance: Callable[[], float],
        max_tries: int,
    ) -> None:
        self._due = DueCallbacks(queue, steady=steady)
        self._find = find
        self._messenger = messenger
        self._telemetry = telemetry
        self._steady = steady
        self._chance = chance
        self._max_tries = max_tries
        self._turns = Turns(PLACES, PER_HOST)
        self._attended: set[str] = set()
        """Since the store was asked."""
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """A callback was put into the queue."""
        self._due.ask_by()
        self._changed.set()

    async def run(self) -> None:
        """Makes callbacks until it is cancelled; those under way are made again in another life."""
        try:
            async with asyncio.TaskGroup() as tries:
                while True:
                    self._changed.clear()
                    self._begin(tries)
                    if self._turns.free and self._ask_at() <= self._steady():
                        await self._look(tries)
                    await self._pause()
        finally:
            self._messenger.close()

    # --- which ---

    def _begin(self, tries: asyncio.TaskGroup) -> None:
        while (callback := self._turns.take()) is not None:
            tries.create_task(self._make(callback))

    def _ask_at(self) -> float:
        return self._due.ask_at(len(self._turns))

    async def _look(self, tries: asyncio.TaskGroup) -> None:
        """Takes in what is due, as far as one can see."""
        # Those in memory come first again: they are the longest due.
        limit = PAGE + 2 * len(self._turns)
        self._attended.clear()
        found = await self._due.ask(limit)
        for callback in found:
            if callback.execution_id in self._attended:  # read as it stood before that
                self._due.ask_by()
            else:
                self._turns.add(callback, _host(callback.url))
        self._begin(tries)
        hidden = len(found) == limit and self._turns.free
        if hidden and self._turns.waiting >= MAX_WAITING:
            await self._put_off(self._turns.thin_out(KEPT))

    async def _put_off(self, crowd: Sequence[Callback]) -> None:
        now = self._steady()
        log.info("%d callbacks to one host are put off: it is slower than they come", len(crowd))
        writes = [
            self._due.put(
                each, tries=each.tries, ready_at=now + MAX_BACKOFF_S * (1 + self._chance())
            )
            for each in crowd
        ]
        for failure in await asyncio.gather(*writes, return_exceptions=True):
            if failure is not None:
                log.error("a callback could not be put off: %r", failure)

    async def _pause(self) -> None:
        """Until something has changed, or it is time to look."""
        until = self._ask_at() if self._turns.free else math.inf
        delay_s = None if until == math.inf else max(0.0, until - self._steady())
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._changed.wait()

    # --- one of them ---

    async def _make(self, callback: Callback) -> None:
        """One try and what follows from it; never raises."""
        written = False
        try:
            await self._attend_to(callback)
            written = True
        except Exception:
            log.exception(
                "what came of the callback of execution %s can't be stored; it is made again "
                "when the service starts again",
                callback.execution_id,
            )
        finally:
            self._turns.finish(callback.execution_id, forget=written)
            self._attended.add(callback.execution_id)
            self._changed.set()

    async def _attend_to(self, callback: Callback) -> None:
        try:
            execution = await self._find(callback.execution_id)
        except Exception as error:
            await self._failed(callback, Refusal(f"the record can't be read: {error}"))
            return
        if execution is None:
            log.warning(
                "execution %s: %s is not told how it ended, its record is not kept any more",
                callback.execution_id,
                _host(callback.url),
            )
            await self._due.drop(callback)
        elif not execution.status.terminal:
            # Or it was redriven since, and this one is gone.
            later = self._steady() + MOMENT_S
            await self._due.put(callback, tries=callback.tries, ready_at=later)
        else:
            await self._try(callback, execution)

    async def _try(self, callback: Callback, execution: Execution) -> None:
        tries, began = callback.tries + 1, self._steady()
        span = span_of_try(callback, execution, tries)
        refusal = await self._messenger.tell(callback, execution, span)
        self._telemetry.emit(
            CallbackTried(
                at=(now := self._steady()),
                task_name=execution.task_name,
                execution_id=callback.execution_id,
                tries=tries,
                failure=refusal.reason if refusal else "",
                given_up=refusal is not None and self._is_last(callback),
                took_s=now - began,
                traceparent=callback.traceparent,
                span_id=span,
            )
        )
        if refusal is None:
            await self._due.drop(callback)
        else:
            await self._failed(callback, refusal)

    def _is_last(self, callback: Callback) -> bool:
        return callback.tries + 1 >= self._max_tries

    async def _failed(self, callback: Callback, refusal: Refusal) -> None:
        tries, now = callback.tries + 1, self._steady()
        if not self._is_last(callback):
            wish_s = wished_delay_s(refusal.retry_after, now)
            delay_s = delay_after(tries, self._chance(), wish_s)
            await self._due.put(callback, tries=tries, ready_at=now + delay_s)
            return
        log.warning(
            "execution %s: %s was not told how it ended, given up after %d tries: %s",
            callback.execution_id,
            _host(callback.url),
            tries,
            refusal.reason,
        )
        await self._due.drop(callback)


def _host(url: str) -> str:
    """Whose places a callback takes, with the port if it is given; empty when the URL has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    return host if port is None else f"{host}:{port}"
