"""What this service knows of the durable queue without asking the store, in lines by task."""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

from msgspec.structs import replace

from atlatl.model import Queued, QueueDepth

if TYPE_CHECKING:
    from atlatl.engine.held import Held

AHEAD_S = 0.05
"""So much of a task's work is leased before there is room for it, or its instances would wait
for the disk."""
MAX_AHEAD = 64
PACE_S = 0.05
"""How fast a task works is looked at so often."""


class Line:
    """The durable executions of one task, as far as this service knows of them.

    Attributes:
        depth: accepted and not ended, wherever they are.
        delayed: those whose time has not come, counted by the store, and since then.
        stored: whether the store may have ready ones.
        coming: being accepted with a lease, and so counted among those in line.
        running: attempts that have begun, or wait for an instance.
        resume_at: monotonic; none is begun before.
        feeding: attempts are being begun, further up in the stack.
    """

    __slots__ = (
        "_ahead", "_ended", "_number", "_pace", "_paced_at", "coming", "delayed", "depth",
        "feeding", "name", "resume_at", "running", "stored",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.depth = 0
        self.delayed = 0
        self.stored = False
        self.coming = 0
        self.running = 0
        self.resume_at = 0.0
        self.feeding = False
        self._ended = 0
        self._pace = self._paced_at = 0.0
        self._ahead: list[tuple[float, int, Held]] = []
        self._number = count()

    def __len__(self) -> int:
        return len(self._ahead)

    def add(self, held: Held) -> None:
        heapq.heappush(self._ahead, (held.queued.turn, next(self._number), held))

    def next(self) -> Held:
        return heapq.heappop(self._ahead)[2]

    def remove(self, held: Held) -> bool:
        """False when it is not in line."""
        for index, entry in enumerate(self._ahead):
            if entry[2] is held:
                del self._ahead[index]
                heapq.heapify(self._ahead)
                return True
        return False

    def clear(self) -> list[Held]:
        """Takes all out."""
        held = [entry[2] for entry in self._ahead]
        self._ahead.clear()
        return held

    def note_end(self, now: float) -> None:
        """An attempt is over."""
        self.running -= 1
        self._ended += 1
        self.look(now)

    def look(self, now: float) -> None:
        """Takes how many have ended since the last look as the pace, unless that was just now."""
        since = now - self._paced_at
        if since >= PACE_S:
            self._pace = self._ended / since
            self._ended, self._paced_at = 0, now

    def appetite(self, room: int, most_ahead: int = MAX_AHEAD) -> int:
        """How many more to lease when `room` could begin; not a few at a time."""
        ahead = min(most_ahead, int(self._pace * AHEAD_S))
        lacking = max(0, room) + ahead - len(self._ahead) - self.coming
        return lacking if lacking > ahead // 2 else 0


class Lines:
    """The lines of all tasks, and what is held.

    Attributes:
        due_at: when the time of the next delayed execution comes, on the queue's clock; None
            when none is delayed.
        changed: set when there may be something to do.
        stale: something has changed since the store was last asked for its counts.
    """

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._held: dict[str, Held] = {}
        self._counted: dict[str, QueueDepth] = {}
        self.due_at: float | None = 0.0
        self.changed = asyncio.Event()
        self.stale = True

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Line]:
        return iter(list(self._lines.values()))

    def of(self, task_name: str) -> Line:
        line = self._lines.get(task_name)
        if line is None:
            line = self._lines[task_name] = Line(task_name)
        return line

    def forget_empty(self) -> None:
        for line in self:
            if not line.depth and not len(line):
                del self._lines[line.name]

    # --- what is held ---

    def held(self, task_name: str = "") -> list[Held]:
        """Of one task, or of all."""
        every = self._held.values()
        return [one for one in every if task_name in ("", one.queued.call.task_name)]

    def find(self, execution_id: str) -> Held | None:
        return self._held.get(execution_id)

    def hold(self, held: Held) -> None:
        self._held[held.execution_id] = held

    def let_go(self, held: Held) -> None:
        self.stale = True
        if self._held.get(held.execution_id) is held:
            del self._held[held.execution_id]

    # --- what waits in the store ---

    def note(self, queued: Queued, now: float) -> None:
        """It waits in the store from now on."""
        line = self.of(queued.call.task_name)
        if queued.ready_at <= now:
            line.stored = True
        else:
            line.delayed += 1
        # Even when its time has come by now: it may have been stored as one that has to wait.
        self.due(queued.ready_at)

    def due(self, at: float) -> None:
        """One that is delayed has to be woken then."""
        if self.due_at is None or at < self.due_at:
            self.due_at = at
        self.changed.set()

    def count(self, depths: Iterable[QueueDepth]) -> None:
        """Takes the counts that the store has just made."""
        self._counted = {depth.task_name: depth for depth in depths}
        for line in self:
            line.delayed = 0
        for depth in self._counted.values():
            if depth.ready or depth.delayed:
                line = self.of(depth.task_name)
                line.delayed = depth.delayed
                # Whatever went wrong before: none that is ready waits for longer than a count.
                line.stored = line.stored or depth.ready > 0

    # --- figures ---

    @property
    def pending(self) -> int:
        """Accepted and not ended, all tasks together."""
        return sum(line.depth for line in self._lines.values())

    def pending_of(self, task_name: str) -> int:
        line = self._lines.get(task_name)
        return 0 if line is None else line.depth

    def depths(self) -> list[QueueDepth]:
        """As they are now, except for what only the store can count; see `QueueDepth`."""
        held: dict[str, list[Held]] = defaultdict(list)
        for one in self._held.values():
            held[one.queued.call.task_name].append(one)
        names = sorted({*self._counted, *self._lines})
        depths = (self._depth(name, held[name]) for name in names)
        return [one for one in depths if one.ready or one.delayed or one.leased or one.dead]

    def _depth(self, name: str, held: Sequence[Held]) -> QueueDepth:
        counted = self._counted.get(name, QueueDepth(name))
        line = self._lines.get(name)
        if line is None:
            return replace(counted, ready=0, delayed=0, leased=0, oldest_ready_at=None)
        waiting = [one.queued.ready_at for one in held if one.waits]
        leased = len(held) - len(waiting)
        stored = max(0, line.depth - len(held))
        delayed = min(line.delayed, stored)
        if stored > delayed and counted.oldest_ready_at is not None:
            waiting.append(counted.oldest_ready_at)
        return QueueDepth(
            task_name=name,
            ready=max(0, line.depth - delayed - leased),
            delayed=delayed,
            leased=leased,
            dead=counted.dead,
            oldest_ready_at=min(waiting, default=None),
        )
