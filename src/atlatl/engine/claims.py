"""Calls whose caller chose the execution id: the same id again is the same execution.

The id is stored before the call starts. What it stood for is then known whatever happens:
the call is answered with the first execution, or refused when it is another call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from atlatl.engine.ticket import Ticket
from atlatl.errors import AtlatlError, Conflict, InstanceLost
from atlatl.model import Execution, ExecutionRecord, Mode, Outcome, OutcomeKind, failed

if TYPE_CHECKING:
    from atlatl.engine.deadlines import Deadlines
    from atlatl.engine.executions import Executions


class Claims:
    """Decides what becomes of an accepted call with an id.

    Args:
        executions: what is known of earlier calls.
        clock: monotonic seconds.
        attempt: begins an attempt.
        settle: ends the execution.
        withdraw: ends a call that is no execution of its own, with its answer.
        release: frees what an accepted call that is no execution of its own took.
        refuse: ends a call that was never accepted.
        deadlines: of the calls that wait for another one's end.
    """

    def __init__(
        self,
        executions: Executions,
        *,
        clock: Callable[[], float],
        attempt: Callable[[Ticket, float], None],
        settle: Callable[[Ticket, Outcome], None],
        withdraw: Callable[[Ticket, Execution | AtlatlError], None],
        release: Callable[[Ticket], None],
        refuse: Callable[[Ticket, AtlatlError], None],
        deadlines: Deadlines[Ticket],
    ) -> None:
        self._executions = executions
        self._clock = clock
        self._attempt = attempt
        self._settle = settle
        self._withdraw = withdraw
        self._release = release
        self._refuse = refuse
        self._deadlines = deadlines

    def joins_first(self, ticket: Ticket) -> bool:
        """Whether memory has an earlier execution to answer with; Conflict for another call."""
        live = self._executions.live(ticket.execution_id)
        if isinstance(live, Ticket):
            _check_same(live.fingerprint, ticket)
            if live.settled is None:
                self._follow(ticket, live)
            else:
                ticket.answer(live.settled)
            return True
        if live is not None:
            self._follow_durable(ticket)
            return True
        first = self._executions.first_of(ticket.execution_id)
        if first is None:
            return False
        _check_same(first.fingerprint, ticket)
        if may_run_again(first, ticket.max_retries):
            return False
        ticket.answer(first.execution)
        return True

    def _follow(self, ticket: Ticket, first: Ticket) -> None:
        """Waits for the end of the first call, but not for longer than this one's deadline."""
        ticket.following = True
        ticket.slot = self._deadlines.add(ticket.deadline, ticket)
        first.finished.append(partial(self._first_ended, ticket))

    def _first_ended(self, ticket: Ticket, record: Execution) -> None:
        self._deadlines.discard(ticket.slot, ticket)
        if ticket.settled is None:
            ticket.answer(record)

    def _follow_durable(self, ticket: Ticket) -> None:
        """As `_follow`, the first one being a durable execution, of which the store knows."""
        ticket.following = True
        ticket.slot = self._deadlines.add(ticket.deadline, ticket)
        self._executions.recall(ticket.execution_id, partial(self._recalled, ticket))

    def _recalled(self, ticket: Ticket, answer: ExecutionRecord | AtlatlError | None) -> None:
        if ticket.settled is not None:
            return
        if answer is None:
            answer = Conflict(f"execution {ticket.execution_id!r} was just removed; call again")
        try:
            if isinstance(answer, AtlatlError):
                raise answer
            _check_same(answer.fingerprint, ticket)
        except AtlatlError as error:
            self._deadlines.discard(ticket.slot, ticket)
            self._refuse(ticket, error)
            return
        if answer.execution.status.terminal:
            self._first_ended(ticket, answer.execution)
        elif not ticket.watching:
            ticket.watching = True
            self._executions.watch(ticket.execution_id, partial(self._first_ended, ticket))
            # It may have ended between that reading and the watch.
            self._executions.recall(ticket.execution_id, partial(self._recalled, ticket))

    def claim(self, ticket: Ticket) -> None:
        """Has the id stored; the call goes on, or not, when that is decided."""
        ticket.asking = True
        self._executions.claim(ticket.unfinished(), partial(self._claimed, ticket))

    def note_attempt(self, ticket: Ticket) -> None:
        """Has another attempt stored before it begins, as the first one was."""
        ticket.asking = True
        self._executions.note(ticket.unfinished(), partial(self._noted, ticket))

    def _claimed(self, ticket: Ticket, answer: ExecutionRecord | AtlatlError | None) -> None:
        ticket.asking = False
        if ticket.settled is not None:  # its deadline or its caller did not wait for the store
            if answer is None:
                self._executions.end(ticket.settled, ticket.fingerprint)
            else:
                self._executions.leave(ticket.execution_id, ticket)
        elif answer is None:
            self._attempt(ticket, self._clock())
        elif isinstance(answer, AtlatlError):
            self._withdraw(ticket, answer)
        else:
            self._repeat(ticket, answer)

    def _repeat(self, ticket: Ticket, first: ExecutionRecord) -> None:
        """An earlier execution has the id."""
        try:
            _check_same(first.fingerprint, ticket)
        except Conflict as error:
            self._withdraw(ticket, error)
            return
        if may_run_again(first, ticket.max_retries):
            ticket.attempt = first.execution.attempt + first.interrupted
            self.note_attempt(ticket)
        elif first.execution.status.terminal:
            self._withdraw(ticket, first.execution)
        elif first.execution.mode is Mode.ASYNC:
            self._release(ticket)
            self._follow_durable(ticket)
        else:
            self._withdraw(ticket, InstanceLost("how the first call ended could not be stored"))

    def _noted(self, ticket: Ticket, answer: ExecutionRecord | AtlatlError | None) -> None:
        ticket.asking = False
        if ticket.settled is not None:
            self._executions.end(ticket.settled, ticket.fingerprint)
        elif isinstance(answer, AtlatlError):
            self._settle(ticket, ticket.last or failed(answer))
        else:
            self._attempt(ticket, self._clock())


def may_run_again(first: ExecutionRecord, max_retries: int) -> bool:
    """Whether the same call under the same id is run rather than answered with `first`.

    So it is when the function certainly did not begin, and when the service ended in the
    middle of it and the call may have another attempt.
    """
    execution = first.execution
    if first.interrupted:
        return execution.attempt <= max_retries
    outcome = execution.outcome
    refused = outcome is not None and outcome.kind is OutcomeKind.REJECTED
    return refused and execution.started_at is None


def _check_same(first: bytes, ticket: Ticket) -> None:
    if first != ticket.fingerprint:
        raise Conflict(
            f"execution id {ticket.execution_id!r} was given to another call (task, function or "
            "arguments differ); choose a new id"
        )
