"""The calls that are in an instance."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from atlatl.errors import AtlatlError
from atlatl.model import Outcome
from atlatl.ports import Done, OnChunk
from atlatl.runtimes.answers import Joined

log = logging.getLogger(__name__)


class Flight:
    """What the channel keeps about one call."""

    __slots__ = (
        "ahead",
        "asked_to_end",
        "clears",
        "done",
        "execution_id",
        "joined",
        "on_chunk",
        "outstanding",
        "overdue",
        "pong",
        "request_id",
        "sent_at",
        "taken",
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
        self.taken = 0
        """Of its stream, and not yet told."""
        self.ahead = False
        """It was sent while others were before it."""
        self.clears = False
        """It was sent after others were taken back: whoever answers it has read past those."""
        self.verdict: AtlatlError | None = None
        """Why its work is being ended; what it answers does not matter any more."""
        self.asked_to_end = False
        self.overdue = False
        """It had its time to end by itself."""
        self.pong: asyncio.Future[None] | None = None

    def tell(self, outcome: Outcome | None) -> None:
        """Runs `done`, whose failure is not ours."""
        try:
            self.done(outcome)
        except Exception:
            log.exception("the callback of execution %s failed", self.execution_id)


class Flights:
    """The calls of one instance that have not been answered."""

    def __init__(self) -> None:
        self._by_request: dict[int, Flight] = {}
        self._by_execution: dict[str, Flight] = {}
        self._undisturbed: Flight | None = None

    def __len__(self) -> int:
        return len(self._by_request)

    def __iter__(self) -> Iterator[Flight]:
        return iter(self._by_request.values())

    def add(self, flight: Flight) -> None:
        self._undisturbed = None if self._by_request else flight
        self._by_request[flight.request_id] = flight
        self._by_execution[flight.execution_id] = flight

    def first(self) -> Flight | None:
        return next(iter(self._by_request.values()), None)

    def last(self) -> Flight | None:
        return next(reversed(self._by_request.values()), None)

    def ahead(self) -> list[Flight]:
        """Those that were sent ahead, in their order; only the first of all may be none."""
        return [flight for flight in self._by_request.values() if flight.ahead]

    def by_request(self, request_id: int) -> Flight | None:
        return self._by_request.get(request_id)

    def by_execution(self, execution_id: str) -> Flight | None:
        return self._by_execution.get(execution_id)

    def undisturbed(self, flight: Flight) -> bool:
        """Whether no other call was in the instance since this one came."""
        return self._undisturbed is flight

    def finish(self, flight: Flight, outcome: Outcome | None) -> None:
        """Ends a call, unless it has ended."""
        if self.remove(flight):
            flight.tell(outcome)

    def remove(self, flight: Flight) -> bool:
        """The one way out, so `done` runs exactly once; False when it was taken before."""
        if self._by_request.pop(flight.request_id, None) is None:
            return False
        if self._by_execution.get(flight.execution_id) is flight:
            del self._by_execution[flight.execution_id]
        return True
