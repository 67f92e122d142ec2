"""One call while it is in an instance."""

from __future__ import annotations

import asyncio

from atlatl.errors import AtlatlError
from atlatl.ports import Done, OnChunk
from atlatl.runtimes.answers import Joined


class Flight:
    """What the channel keeps about it."""

    __slots__ = (
        "done",
        "execution_id",
        "joined",
        "on_chunk",
        "outstanding",
        "overdue",
        "pong",
        "request_id",
        "sent_at",
        "verdict",
    )

    def __init__(
        self, request_id: int, execution_id: str, done: Done, on_chunk: OnChunk | None, now: float
    ) -> None:
        self.request_id = request_id
        self.execution_id = execution_id
        self.done = done
        self.on_chunk = on_chunk
        self.sent_at = now
        self.joined = Joined()
        self.outstanding = 0
        self.verdict: AtlatlError | None = None
        """Why its work is being ended; what it answers does not matter any more."""
        self.overdue = False
        """It had its time to end by itself."""
        self.pong: asyncio.Future[None] | None = None
