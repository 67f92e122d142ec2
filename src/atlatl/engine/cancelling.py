"""Stopping durable executions, wherever they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from atlatl.errors import Cancelled, StoreUnavailable
from atlatl.model import failed

if TYPE_CHECKING:
    from atlatl.engine.held import Held
    from atlatl.engine.ledger import Ledger
    from atlatl.engine.lines import Lines
    from atlatl.ports import Queue

AT_ONCE = 100
"""Executions that are cancelled in one go."""
PATIENCE_S = 5.0
"""For the store, before it is said that it does not answer."""


class Cancelling:
    """Cancels durable executions.

    Args:
        queue: of the store.
        lines: what is leased.
        ledger: leases what is not, and writes the ends.
        steady: Unix seconds that no change of the machine's clock moves.
    """

    def __init__(
        self, queue: Queue, lines: Lines, ledger: Ledger, *, steady: Callable[[], float]
    ) -> None:
        self._queue = queue
        self._lines = lines
        self._ledger = ledger
        self._steady = steady

    async def cancel(self, execution_id: str, reason: str, grace_s: float | None) -> bool:
        """As `Dispatcher.cancel`."""
        while True:
            held = self._lines.find(execution_id)
            if held is None:
                held = await self._ledger.take(execution_id)
                if held is not None:
                    return await self._end(held, reason)
                if self._lines.find(execution_id) is None:
                    return False
            elif held.coming is not None:
                await held.coming.wait()
            elif held.leaving:
                # It may go back to wait, where it can be cancelled like any other.
                await _written(held)
            else:
                return await self._cancel_held(held, reason, grace_s)

    async def _cancel_held(self, held: Held, reason: str, grace_s: float | None) -> bool:
        if self._lines.of(held.queued.call.task_name).remove(held):
            return await self._end(held, reason)
        stopped = held.ticket is not None and held.ticket.cancel(reason, grace_s=grace_s)
        await _written(held)
        return stopped

    async def _end(self, held: Held, reason: str) -> bool:
        said = f": {reason}" if reason else ""
        outcome = failed(Cancelled(f"cancelled{said}"))
        self._ledger.settle(held, held.ended(outcome, self._steady()), dead=False)
        await _written(held)
        return True

    async def cancel_all(self, task_name: str, reason: str) -> int:
        """As `Dispatcher.cancel_all`."""
        cancelled = 0
        while True:
            ids = {held.execution_id for held in self._lines.held(task_name)}
            ids.update(await self._queue.waiting_ids(task_name, AT_ONCE))
            if not ids:
                return cancelled
            answers = await asyncio.gather(*(self.cancel(key, reason, 0.0) for key in ids))
            cancelled += sum(answers)


async def _written(held: Held) -> None:
    """Waits until it has left; raises StoreUnavailable when that takes too long."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await held.gone.wait()
    except TimeoutError:
        raise StoreUnavailable(
            f"how execution {held.execution_id!r} goes on or ends can't be stored at present; it "
            "is tried until it can: look at its record later",
            retry_after_s=PATIENCE_S,
        ) from None
