"""The executions that the service remembers: those under way, and the newest that ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from msgspec.structs import replace

from atlatl.engine.views import Page
from atlatl.errors import Conflict, ExecutionNotFound, InvalidRequest
from atlatl.model import Execution, ExecutionStatus

KEPT_BYTES = 16 * 1024 * 1024
"""Results and output of ended executions, all together; the oldest give way."""

KEPT_BYTES_EACH = 1024 * 1024
"""A result larger than this is not kept after it was answered."""


class LiveExecution(Protocol):
    """An execution under way."""

    def view(self) -> Execution: ...


class Executions:
    """Index of executions by id; bounded by number and by bytes.

    Args:
        max_recent: ended executions remembered.
    """

    def __init__(self, max_recent: int) -> None:
        self._max_recent = max_recent
        self._live: dict[str, LiveExecution] = {}
        self._ended: OrderedDict[str, Execution] = OrderedDict()
        self._with_bytes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0
        self._fingerprints: dict[str, bytes] = {}

    def live(self, execution_id: str) -> LiveExecution | None:
        return self._live.get(execution_id)

    def ended(self, execution_id: str) -> Execution | None:
        return self._ended.get(execution_id)

    def begin(self, execution_id: str, execution: LiveExecution) -> None:
        """Raises Conflict when the id is taken: the caller looks first."""
        if execution_id in self._live or execution_id in self._ended:
            raise Conflict(f"execution id {execution_id!r} is taken")
        self._live[execution_id] = execution

    def fingerprint(self, execution_id: str) -> bytes:
        """What the call of an ended execution did; empty when the caller gave no id."""
        return self._fingerprints.get(execution_id, b"")

    def end(self, execution: Execution, fingerprint: bytes = b"") -> None:
        """Moves an execution from those under way to those that ended."""
        self._live.pop(execution.execution_id, None)
        self._remember(execution)
        if fingerprint:
            self._fingerprints[execution.execution_id] = fingerprint
        while len(self._ended) > self._max_recent:
            oldest, _ = self._ended.popitem(last=False)
            self._drop(oldest)

    def add_output(self, execution_id: str, output: bytes) -> None:
        """Adds what an ended execution printed, when it is known only after its end.

        That is so for a call whose deadline passed: its caller is answered at once, its output
        is collected when the process is gone.
        """
        ended = self._ended.get(execution_id)
        if ended is None or ended.outcome is None or not output:
            return
        outcome = replace(ended.outcome, output=ended.outcome.output + output)
        self._remember(replace(ended, outcome=outcome))

    def get(self, execution_id: str) -> Execution:
        """Raises ExecutionNotFound."""
        live = self._live.get(execution_id)
        if live is not None:
            return live.view()
        ended = self._ended.get(execution_id)
        if ended is None:
            raise ExecutionNotFound(
                f"no execution {execution_id[:140]!r} is known; it never was, or it is too long ago"
            )
        return ended

    def page(
        self, *, task: str, status: ExecutionStatus | None, limit: int, start_after: str
    ) -> Page[Execution]:
        """Newest first.

        Args:
            task: only of the task with this name or id; empty is all.
            status: only with this status; None is all.
            limit: at most so many.
            start_after: id of the last execution of the page before; empty begins at the newest.

        Raises:
            InvalidRequest: the cursor names no execution that is still known.
        """
        rows = self._newest_first()
        if start_after:
            _skip_past(rows, start_after)
        items: list[Execution] = []
        for row in rows:
            if task and task not in (row.task_name, row.task_id):
                continue
            if status is not None and row.status is not status:
                continue
            if len(items) == limit:
                return Page(items=items, next_start_after=items[-1].execution_id)
            items.append(row)
        return Page(items=items, next_start_after=None)

    def forget_task(self, task_id: str) -> int:
        """Removes the ended executions of a task; returns how many."""
        ids = [each.execution_id for each in self._ended.values() if each.task_id == task_id]
        for execution_id in ids:
            del self._ended[execution_id]
            self._drop(execution_id)
        return len(ids)

    def _drop(self, execution_id: str) -> None:
        self._bytes -= self._with_bytes.pop(execution_id, 0)
        self._fingerprints.pop(execution_id, None)

    def _newest_first(self) -> Iterator[Execution]:
        for live in reversed(list(self._live.values())):
            yield live.view()
        yield from reversed(list(self._ended.values()))

    def _remember(self, execution: Execution) -> None:
        execution_id = execution.execution_id
        self._bytes -= self._with_bytes.pop(execution_id, 0)
        execution = _without_large_result(execution)
        self._ended[execution_id] = execution
        size = _payload_bytes(execution)
        if size:
            self._with_bytes[execution_id] = size
            self._bytes += size
        while self._bytes > KEPT_BYTES:
            oldest, freed = self._with_bytes.popitem(last=False)
            self._bytes -= freed
            self._ended[oldest] = _without_payload(self._ended[oldest])


def _skip_past(rows: Iterator[Execution], execution_id: str) -> None:
    for row in rows:
        if row.execution_id == execution_id:
            return
    raise InvalidRequest(
        f"start_after {execution_id[:140]!r} is no execution that is still known; "
        "begin again without it"
    )


def _payload_bytes(execution: Execution) -> int:
    outcome = execution.outcome
    if outcome is None:
        return 0
    return len(outcome.output) + (len(outcome.result.body) if outcome.result else 0)


def _without_large_result(execution: Execution) -> Execution:
    outcome = execution.outcome
    if outcome is None or outcome.result is None or len(outcome.result.body) <= KEPT_BYTES_EACH:
        return execution
    return replace(execution, outcome=replace(outcome, result=None))


def _without_payload(execution: Execution) -> Execution:
    if execution.outcome is None:
        return execution
    return replace(execution, outcome=replace(execution.outcome, result=None, output=b""))
