"""The attempts of durable executions: when one begins, and what follows it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from atlatl.core.following import Again, Later, after_attempt
from atlatl.engine.lines import MAX_AHEAD
from atlatl.engine.trail import noted
from atlatl.errors import AtlatlError, Draining, InternalFailure, TimedOutWaiting
from atlatl.model import Execution, Queued, Tried, failed
from atlatl.settings import RetrySettings

if TYPE_CHECKING:
    from atlatl.engine.held import Held
    from atlatl.engine.ledger import Ledger
    from atlatl.engine.lines import Line, Lines
    from atlatl.engine.manager import TaskExecutionManager
    from atlatl.engine.registry import Registry
    from atlatl.engine.telling import Telling

ROOM_WITHOUT_TASK = 16
"""Executions of a task that is gone end at once; so many at a time."""
GIVES_WAY_S = 0.02
"""So long after a call that somebody waits for began, durable executions give way to such calls."""
AHEAD_GIVING_WAY = 8
"""Leased ahead meanwhile; see `lines.MAX_AHEAD`."""


class Attempts:
    """Hands what is leased to the one path of all calls, as its task has room for it.

    Args:
        manager: the path that attempts take.
        registry: what is deployed.
        lines: what is leased and waits for room.
        ledger: writes down what follows.
        telling: told of attempts that another one follows.
        clock: monotonic seconds.
        steady: Unix seconds that no change of the machine's clock moves.
        chance: a number in [0, 1), for the jitter of retries.
    """

    def __init__(
        self,
        manager: TaskExecutionManager,
        registry: Registry,
        lines: Lines,
        ledger: Ledger,
        telling: Telling,
        *,
        clock: Callable[[], float],
        steady: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._manager = manager
        self._registry = registry
        self._lines = lines
        self._ledger = ledger
        self._telling = telling
        self._clock = clock
        self._steady = steady
        self._chance = chance
        self._draining = False

    # --- beginning ---

    def begin_drain(self) -> None:
        """From now on none begins; what was leased and has not begun goes back."""
        self._draining = True
        for line in self._lines:
            for held in line.clear():
                self._ledger.put_back(held, held.queued)

    def appetite(self, line: Line) -> int:
        """How many more to lease."""
        if self._draining or line.resume_at > self._clock():
            return 0
        most = AHEAD_GIVING_WAY if self._gives_way() else MAX_AHEAD
        return line.appetite(self._room(line), most)

    def _room(self, line: Line) -> int:
        """How many more could begin now.

        Short ones go in batches, and a call that somebody waits for would find one before it in
        each turn of the event loop. So while there are such calls, few begin at a time.
        """
        deployed = self._registry.find_name(line.name)
        if deployed is None:
            return ROOM_WITHOUT_TASK
        room, few = deployed.pool.room, deployed.pool.few
        if few is not None and self._gives_way():
            return min(room, few - line.running)
        return room

    def _gives_way(self) -> bool:
        return self._clock() < self._manager.called_at + GIVES_WAY_S

    def line_up(self, held: Held) -> None:
        """Has it begin in its turn."""
        if self._draining:
            self._ledger.put_back(held, held.queued)
        else:
            self._lines.of(held.queued.call.task_name).add(held)

    def feed(self, line: Line) -> None:
        """Begins what there is room for."""
        if line.feeding:
            return
        line.feeding = True
        try:
            while len(line) and line.resume_at <= self._clock() and self._room(line) > 0:
                self._begin(line.next())
        finally:
            line.feeding = False
        if line.stored and self.appetite(line) > 0:
            self._lines.changed.set()

    def _begin(self, held: Held) -> None:
        queued, now = held.queued, self._steady()
        if queued.damage:
            self._end_without_run(held, InternalFailure(queued.damage))
            return
        left_s = math.inf if queued.expires_at is None else queued.expires_at - now
        if left_s <= 0:
            self.expire(held)
            return
        held.tried_at = now
        self._lines.of(queued.call.task_name).running += 1
        ticket = self._manager.attempt(
            queued.call,
            partial(self._ended, held),
            number=queued.attempt,
            expires=self._clock() + left_s,
        )
        if ticket.settled is None:
            held.ticket = ticket

    # --- what follows ---

    def _ended(self, held: Held, record: Execution) -> None:
        """An attempt is over: decides what follows."""
        outcome = record.outcome
        assert outcome is not None
        queued = held.queued
        line = self._lines.of(queued.call.task_name)
        line.note_end(self._clock())
        if isinstance(outcome.error, Draining):
            self._resume(held, record, outcome.error)
            return
        deployed = self._registry.find_name(line.name)
        settings = RetrySettings() if deployed is None else deployed.task.settings.retry
        follows = after_attempt(
            outcome, queued.failures, settings, self._chance, max_retries=queued.call.max_retries
        )
        error = outcome.error
        if isinstance(follows, Later):
            self._again_later(line, held, follows.pause_s)
        elif error and isinstance(follows, Again) and not self._too_late(queued, follows.delay_s):
            self._retry(held, record, follows.delay_s)
        else:
            dead = error is not None and (isinstance(follows, Again) or follows.dead)
            self._ledger.settle(held, held.of_attempt(record), dead=dead)
        self.feed(line)

    def _resume(self, held: Held, record: Execution, error: AtlatlError) -> None:
        """The service ends: the next life of it goes on, with another attempt if one had begun."""
        queued, cut_off = held.queued, record.started_at is not None
        tried = queued.tried
        if cut_off:
            self._telling.attempt_failed(
                queued,
                error.code,
                recovered=True,
                started_at=held.of_attempt(record).started_at,
            )
            tried = self._noted(held, record, recovered=True)
        again = replace(
            queued,
            attempt=queued.attempt + cut_off,
            recoveries=queued.recoveries + cut_off,
            tried=tried,
        )
        self._ledger.put_back(held, again)

    def _noted(
        self, held: Held, record: Execution, delay_s: float = 0.0, *, recovered: bool = False
    ) -> tuple[Tried, ...]:
        attempt = held.of_attempt(record)
        assert attempt.outcome is not None
        ended_at = attempt.completed_at or self._steady()
        return noted(
            attempt.tried, attempt, attempt.outcome, ended_at, delay_s, recovered=recovered
        )

    def _again_later(self, line: Line, held: Held, pause_s: float) -> None:
        held.ticket = None
        self.line_up(held)
        line.resume_at = self._clock() + pause_s
        asyncio.get_running_loop().call_later(pause_s, self._lines.changed.set)

    def _too_late(self, queued: Queued, delay_s: float) -> bool:
        return queued.expires_at is not None and self._steady() + delay_s >= queued.expires_at

    def _retry(self, held: Held, record: Execution, delay_s: float) -> None:
        queued, tried = held.queued, self._noted(held, record, delay_s)
        self._telling.attempt_failed(
            queued, tried[-1].code, delay_s, started_at=held.of_attempt(record).started_at
        )
        again = replace(
            queued,
            attempt=queued.attempt + 1,
            failures=queued.failures + 1,
            ready_at=self._steady() + delay_s,
            tried=tried,
        )
        self._ledger.put_back(held, again)

    # --- ends without an attempt ---

    def expire(self, held: Held) -> None:
        """Ends one whose time is over."""
        error = TimedOutWaiting(
            f"task {held.queued.call.task_name!r}: the execution did not end before it expired "
            "(`expires_after_s`)"
        )
        self._end_without_run(held, error)

    def _end_without_run(self, held: Held, error: AtlatlError) -> None:
        self._ledger.settle(held, held.ended(failed(error), self._steady()), dead=True)
