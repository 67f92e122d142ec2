"""Lists of dead letters, page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atlatl.engine.listing import Cursors
from atlatl.engine.views import Page
from atlatl.errors import InvalidRequest
from atlatl.model import DeadLetter, Place

if TYPE_CHECKING:
    from atlatl.ports import Queue


class DeadLetters:
    """Reads and removes dead letters.

    Args:
        queue: where they are.
        changed: called after one was removed.
    """

    def __init__(self, queue: Queue, changed: Callable[[], None]) -> None:
        self._queue = queue
        self._changed = changed
        self._cursors = Cursors()

    async def page(self, limit: int, start_after: str) -> Page[DeadLetter]:
        """The latest to die first.

        Args:
            limit: at most so many.
            start_after: id of the last one of the page before; empty begins at the latest.

        Raises:
            InvalidRequest: the cursor was not handed out, or too long ago.
            StoreUnavailable.
        """
        before = None
        if start_after:
            before = self._cursors.place_of(start_after)
            if before is None:
                raise InvalidRequest(
                    f"start_after {start_after[:140]!r} ended no page that is remembered; begin "
                    "again without it"
                )
        found = list(await self._queue.dead_letters(before=before, limit=limit + 1))
        if len(found) <= limit:
            return Page(items=found, next_start_after=None)
        last = found[limit - 1]
        execution_id = last.execution.execution_id
        self._cursors.remember(execution_id, _place_of(last))
        return Page(items=found[:limit], next_start_after=execution_id)

    async def delete(self, execution_id: str) -> bool:
        """Forgets that it may be redriven; False when there is none of this id."""
        deleted = await self._queue.delete_dead_letter(execution_id)
        if deleted:
            self._changed()
        return deleted


def _place_of(letter: DeadLetter) -> Place:
    return letter.died_at, letter.execution.execution_id
