"""Lists of executions, newest first, page by page, out of memory and the store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from atlatl.engine.views import Page
from atlatl.errors import InvalidRequest
from atlatl.model import Execution, ExecutionStatus, Place, place_of

if TYPE_CHECKING:
    from atlatl.ports import Store

MAX_CURSORS = 10_000
"""Places of handed-out cursors that are remembered, so that they outlive their executions."""

FILTERED_AT_ONCE = 1000
"""Rows that are read together when most of them may not be shown."""

Sees = Callable[[str], bool]
"""Whether the tasks of a name are to be shown."""


class Cursors:
    """Remembers where handed-out cursors stand, so that they outlive what they name."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, Place] = OrderedDict()

    def remember(self, cursor: str, place: Place) -> None:
        self._places[cursor] = place
        self._places.move_to_end(cursor)
        if len(self._places) > MAX_CURSORS:
            self._places.popitem(last=False)

    def place_of(self, cursor: str) -> Place | None:
        return self._places.get(cursor)


class Listing:
    """Joins what memory and the store have into pages.

    Args:
        store: where older executions are.
        find: gives an execution by its id.
        in_memory: gives all that memory knows, and knows better than the store.
        in_memory_is: whether that has an id.
    """

    def __init__(
        self,
        store: Store,
        find: Callable[[str], Awaitable[Execution | None]],
        in_memory: Callable[[], Iterable[Execution]],
        in_memory_is: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._find = find
        self._in_memory = in_memory
        self._in_memory_is = in_memory_is
        self._cursors = Cursors()

    async def page(
        self,
        *,
        task: str,
        status: ExecutionStatus | None,
        limit: int,
        start_after: str,
        sees: Sees | None = None,
    ) -> Page[Execution]:
        """Newest first, by the time of acceptance.

        Args:
            task: only of the task with this name or id; empty is all.
            status: only with this status; None is all.
            limit: at most so many.
            start_after: id of the last execution of the page before; empty begins at the newest.
            sees: only of tasks for whose name it is true; None is all.

        Raises:
            InvalidRequest: the cursor names no execution that is still known.
            StoreUnavailable.
        """
        before = await self._place_of(start_after) if start_after else None
        rows = [
            execution
            for execution in self._in_memory()
            if task in ("", execution.task_name, execution.task_id)
            and status in (None, execution.status)
            and (sees is None or sees(execution.task_name))
            and (before is None or place_of(execution) < before)
        ]
        rows = _newest(rows, limit + 1)
        listed = {row.execution_id for row in rows}  # memory may lose some while the store looks
        # Memory need not have the newest: what it lost or never had may lie between.
        reached = before
        at_once = limit + 1 if sees is None else max(limit + 1, FILTERED_AT_ONCE)
        while True:
            stored = await self._store.executions(
                task=task, status=status, before=reached, limit=at_once
            )
            rows += (
                row
                for row in stored
                if row.execution_id not in listed
                and not self._in_memory_is(row.execution_id)
                and (sees is None or sees(row.task_name))
            )
            if len(stored) < at_once:
                break
            reached = place_of(stored[-1])
            if sum(place_of(row) >= reached for row in rows) > limit:
                break
        return self._cut(_newest(rows, limit + 1), limit)

    def _cut(self, rows: list[Execution], limit: int) -> Page[Execution]:
        if len(rows) <= limit:
            return Page(items=rows, next_start_after=None)
        last = rows[limit - 1]
        self._cursors.remember(last.execution_id, place_of(last))
        return Page(items=rows[:limit], next_start_after=last.execution_id)

    async def _place_of(self, cursor: str) -> Place:
        """The cursor's place when it was handed out, which may be all that is left of it."""
        place = self._cursors.place_of(cursor)
        if place is not None:
            return place
        execution = await self._find(cursor)
        if execution is None:
            raise InvalidRequest(
                f"start_after {cursor[:140]!r} is no execution that is still known; "
                "begin again without it"
            )
        return place_of(execution)


def _newest(rows: list[Execution], limit: int) -> list[Execution]:
    # Sorting is quick here: the rows come nearly in order.
    rows.sort(key=place_of)
    return rows[: -limit - 1 : -1]
