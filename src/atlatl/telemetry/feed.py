"""The live stream of events: what happens, as it happens, for whoever looks on.

Nobody looks on: it is no listener, and costs nothing. Somebody does: executions are counted by
task, and once a second there is one event `figures` with their rates; single executions are
thinned. Who reads slowly loses events and is told how many; nobody waits for a reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from atlatl.core.moments import show_moment
from atlatl.core.window import (
    EXECUTED,
    OUTCOME_COLUMNS,
    Row,
    add_execution,
    add_to,
    new_row,
)
from atlatl.errors import Draining, InvalidRequest, NoCapacity
from atlatl.events import (
    AttemptFailed,
    BreakerChanged,
    CallbackTried,
    CallRefused,
    CallRetried,
    Event,
    ExecutionAccepted,
    ExecutionDied,
    ExecutionFinished,
    InstanceEnded,
    InstanceStarted,
    PoolScaled,
    StartFailedEvent,
    TaskDeleted,
    TaskDeployed,
)
from atlatl.model import OutcomeKind
from atlatl.telemetry.fanout import Fanout
from atlatl.telemetry.happenings import fields_of

TICK_S = 1.0
MAX_LISTENERS = 64
MAX_WAITING = 1000
"""Events that wait for one reader; beyond it the oldest are lost."""
PER_SECOND = 50
"""Events of one kind about single executions, for each listener; the rest is counted."""
SUCCESSES_PER_SECOND = 40
"""Of them, so that the failures among many successes are seen."""

KINDS: dict[type[Event], str] = {
    ExecutionFinished: "execution_finished",
    ExecutionAccepted: "execution_accepted",
    AttemptFailed: "attempt_failed",
    CallRetried: "call_retried",
    ExecutionDied: "execution_died",
    CallbackTried: "callback_tried",
    CallRefused: "call_refused",
    InstanceStarted: "instance_started",
    InstanceEnded: "instance_ended",
    StartFailedEvent: "start_failed",
    PoolScaled: "pool_scaled",
    BreakerChanged: "breaker_changed",
    TaskDeployed: "task_deployed",
    TaskDeleted: "task_deleted",
}
FIGURES, LOST = "figures", "lost"
_THINNED = frozenset(
    {
        "execution_finished",
        "execution_accepted",
        "attempt_failed",
        "call_retried",
        "execution_died",
        "callback_tried",
        "call_refused",
    }
)

Item = tuple[str, bytes]
"""Kind and JSON of an event."""
Figures = Callable[[Mapping[str, Row], Row, float], dict[str, Any]]


class Listener:
    """One who looks on. Made by `Feed.listen`; `leave` ends it.

    Attributes:
        ended: the feed is closed, nothing comes any more.
    """

    def __init__(self, feed: Feed, kinds: frozenset[str], task_name: str) -> None:
        self.ended = False
        self._feed = feed
        self._kinds = kinds
        self._task_name = task_name
        self._items: deque[Item] = deque()
        self._more = asyncio.Event()
        self._lost = 0
        self._skipped = 0
        self._left: dict[str, int] = {}

    def leave(self) -> None:
        """Wants no more."""
        self._feed.forget(self)

    async def take(self, within_s: float) -> list[Item]:
        """What has come since the last time; waits for the first, at most so long."""
        if not self._items and not self.ended:
            self._more.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._more.wait()
            except TimeoutError:
                return []
        items = list(self._items)
        self._items.clear()
        if self._lost:
            items.insert(0, self._feed.encoded(LOST, {"count": self._lost}))
            self._lost = 0
        return items

    # --- for the feed ---

    def wants(self, kind: str, task_name: str = "") -> bool:
        of_task = not self._task_name or not task_name or task_name == self._task_name
        return of_task and (not self._kinds or kind in self._kinds)

    def has_room(self, kind: str, *, success: bool) -> bool:
        """Whether another one of a kind that is thinned goes out in this second."""
        left = self._left.get(kind, PER_SECOND)
        if left <= (PER_SECOND - SUCCESSES_PER_SECOND if success else 0):
            self._skipped += 1
            return False
        self._left[kind] = left - 1
        return True

    def begin_second(self) -> int:
        """Gives how many were skipped in the one before."""
        self._left.clear()
        skipped, self._skipped = self._skipped, 0
        return skipped

    def push(self, item: Item) -> None:
        if len(self._items) >= MAX_WAITING:
            self._items.popleft()
            self._lost += 1
        self._items.append(item)
        self._more.set()

    def end(self) -> None:
        self.ended = True
        self._more.set()

    def only_task(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not self._task_name:
            return rows
        return [row for row in rows if row["task_name"] == self._task_name]


class Feed:
    """Hands events to those who look on; hears of events only while there is one.

    Args:
        fanout: to join while somebody looks on.
        figures: makes the members of `figures` out of what was counted by task, the sum, and the
            seconds that it took.
        clock: monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        fanout: Fanout,
        figures: Figures,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._fanout = fanout
        self._figures = figures
        self._clock = clock
        self._wall = wall
        self._listeners: list[Listener] = []
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._begin_counting()

    def listen(self, kinds: Iterable[str] = (), task_name: str = "") -> Listener:
        """Somebody looks on from now on.

        Args:
            kinds: of events; none is all.
            task_name: only events of this task; empty is all.

        Raises:
            InvalidRequest: there is no such kind.
            NoCapacity: too many look on already.
            Draining: the service ends.
        """
        wanted = frozenset(kinds)
        check_kinds(wanted)
        if self._closed:
            raise Draining("the service is shutting down; nothing more is told", retry_after_s=1.0)
        if len(self._listeners) >= MAX_LISTENERS:
            raise NoCapacity(
                f"{MAX_LISTENERS} read the events already; close one of them", retry_after_s=10.0
            )
        listener = Listener(self, wanted, task_name)
        if not self._listeners:
            self._begin_counting()
            self._fanout.add(self)
            self._set_timer()
        self._listeners.append(listener)
        return listener

    def forget(self, listener: Listener) -> None:
        """Nothing happens when it was forgotten already."""
        if listener not in self._listeners:
            return
        self._listeners.remove(listener)
        if not self._listeners:
            self._fanout.remove(self)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def close(self) -> None:
        """Ends all streams, after what they have still to read."""
        self._closed = True
        for listener in tuple(self._listeners):
            listener.end()
            self.forget(listener)

    # --- events ---

    def emit(self, event: Event) -> None:
        self._count(event)
        kind = KINDS.get(type(event))
        if kind is None:
            return
        thinned, success = kind in _THINNED, _succeeded(event)
        item: Item | None = None
        for listener in self._listeners:
            if not listener.wants(kind, event.task_name):
                continue
            if thinned and not listener.has_room(kind, success=success):
                continue
            item = item or self.encoded(kind, fields_of(event), event.at, event.task_name)
            listener.push(item)

    def encoded(
        self, kind: str, fields: Mapping[str, Any], at: float | None = None, task_name: str = ""
    ) -> Item:
        moment = show_moment(self._wall() if at is None else at)
        head = {"at": moment, "kind": kind, "task_name": task_name}
        return kind, msgspec.json.encode({**head, **fields})

    # --- figures ---

    def _count(self, event: Event) -> None:
        if isinstance(event, ExecutionFinished):
            outcome = event.execution.outcome
            if outcome is None or event.redriven:
                return
            rows = self._rows(event.task_name)
            if outcome.kind in EXECUTED:
                cold = event.execution.cold_start
                latency_s = max(0.0, event.latency_s)
                add_execution(rows, outcome.kind, latency_s, outcome.run_s, cold)
            else:
                add_to(rows, OUTCOME_COLUMNS[outcome.kind], 1)
        elif isinstance(event, CallRefused):
            # A call of what is not there belongs to no task, but it was made.
            refused: Sequence[Row] = (self._sum,)
            if event.task_name:
                refused = self._rows(event.task_name)
            add_to(refused, OUTCOME_COLUMNS[OutcomeKind(event.outcome)], 1)

    def _rows(self, task_name: str) -> tuple[Row, Row]:
        row = self._by_task.get(task_name)
        if row is None:
            row = self._by_task[task_name] = new_row()
        return row, self._sum

    def _begin_counting(self) -> None:
        self._by_task: dict[str, Row] = {}
        self._sum = new_row()
        self._since = self._clock()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        self._set_timer()
        span_s = max(self._clock() - self._since, 0.001)
        by_task, total = self._by_task, self._sum
        self._begin_counting()
        figures: dict[str, Any] | None = None
        for listener in self._listeners:
            skipped = listener.begin_second()
            if listener.wants(FIGURES):
                figures = figures or self._figures(by_task, total, span_s)
                own = {
                    **figures,
                    "tasks": listener.only_task(figures["tasks"]),
                    "skipped": skipped,
                }
                listener.push(self.encoded(FIGURES, own))


def check_kinds(kinds: Iterable[str]) -> None:
    """Raises InvalidRequest for a kind that there is not."""
    known = (*KINDS.values(), FIGURES, LOST)
    for kind in kinds:
        if kind not in known:
            raise InvalidRequest(f"`kinds` has {kind[:140]!r}; the kinds are {', '.join(known)}")


def _succeeded(event: Event) -> bool:
    if not isinstance(event, ExecutionFinished):
        return False
    outcome = event.execution.outcome
    return outcome is not None and outcome.kind is OutcomeKind.SUCCESS
