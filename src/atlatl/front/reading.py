"""A stream on its way from its function to its reader, whichever the transport."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Self

from atlatl.model import Call, Execution, Result
from atlatl.service import HANG_UP_GRACE_S

if TYPE_CHECKING:
    from atlatl.service import FunctionService


class Reading:
    """Starts a call, and hands out its items and in the end its record.

    What has come and is not sent yet counts among the bytes in flight. To leave the block with
    an exception is to hang up.

    Args:
        service: runs the call.
        call: whose items are read.
    """

    def __init__(self, service: FunctionService, call: Call) -> None:
        self._call = call
        self._coming: asyncio.Queue[Result | Execution] = asyncio.Queue()
        self._unread = service.hold_answer()
        self._unsent: Result | None = None
        self._over = False
        self.ticket = service.start(call, self._coming.put_nowait, self._arrived)

    def _arrived(self, item: Result) -> None:
        if self._over:
            self.ticket.credit(len(item.body))
        else:
            self._unread.add(len(item.body))
            self._coming.put_nowait(item)

    async def next(self) -> Result | Execution:
        """The next item, to be answered by `sent`; the record when there is none any more."""
        item = await self._coming.get()
        if isinstance(item, Result):
            self._unsent = item
        else:
            self._over = True
        return item

    def sent(self) -> None:
        """Says that there is room for more: a reader who is slow slows its function."""
        if self._unsent is not None:
            n_bytes = len(self._unsent.body)
            self._unsent = None
            self._unread.drop(n_bytes)
            self.ticket.credit(n_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._over:
            self._leave()
        self._unread.release()

    def _leave(self) -> None:
        """Cancels the call, unless its id was given: then it goes on, and its items go nowhere."""
        self._over = True
        if not self._call.id_given:
            self.ticket.cancel("the caller went away", grace_s=HANG_UP_GRACE_S)
            return
        self.sent()
        while not self._coming.empty():
            item = self._coming.get_nowait()
            if isinstance(item, Result):
                self.ticket.credit(len(item.body))
