"""Lists of dead letters, page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atlatl.engine.listing import FILTERED_AT_ONCE, Cursors, Sees
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

    async def page(
        self, limit: int, start_after: str, sees: Sees | None = None
    ) -> Page[DeadLetter]:
        """The latest to die first.

        Args:
            limit: at most so many.
            start_after: id of the last one of the page before; empty begins at the latest.
            sees: only of tasks for whose name it is true; None is all.

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
        found = await self._found(before, limit + 1, sees)
        if len(found) <= limit:
            return Page(items=found, next_start_after=None)
        last = found[limit - 1]
        execution_id = last.execution.execution_id
        self._cursors.remember(execution_id, _place_of(last))
        return Page(items=found[:limit], next_start_after=execution_id)

    async def _found(self, before: Place | None, most: int, sees: Sees | None) -> list[DeadLetter]:
        if sees is None:
            return list(await self._queue.dead_letters(before=before, limit=most))
        found: list[DeadLetter] = []
        while len(found) < most:
            some = await self._queue.dead_letters(before=before, limit=FILTERED_AT_ONCE)
            found += (letter for letter in some if sees(letter.execution.task_name))
            if len(some) < FILTERED_AT_ONCE:
                break
            before = _place_of(some[-1])
        return found[:most]

    async def delete(self, execution_id: str) -> bool:
        """Forgets that it may be redriven; False when there is none of this id."""
        deleted = await self._queue.delete_dead_letter(execution_id)
        if deleted:
            self._changed()
        return deleted


def _place_of(letter: DeadLetter) -> Place:
    return letter.died_at, letter.execution.execution_id
