"""The newest executions that ended, in memory: bounded by number and by bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from msgspec.structs import replace

from atlatl.model import Execution, ExecutionRecord

KEPT_BYTES = 16 * 1024 * 1024
"""Results and output, all together; the oldest give way."""

KEPT_RESULT_BYTES = 4096
"""A result larger than this is not kept in memory after it was answered."""

_Kept = tuple[Execution, bytes, int, bool]
"""An execution, its call's fingerprint, the bytes it holds, and whether those are all."""


class RecentExecutions:
    """Remembers the executions that ended last.

    Args:
        max_recent: so many at most.
    """

    def __init__(self, max_recent: int) -> None:
        self._max_recent = max_recent
        self._kept: dict[str, _Kept] = {}
        # Beside the dictionary, whose first key is slow to find when many before it have gone.
        self._oldest: deque[str] = deque()
        self._with_bytes: deque[str] = deque()
        self._bytes = 0

    def __contains__(self, execution_id: object) -> bool:
        return execution_id in self._kept

    def all(self) -> Iterable[Execution]:
        return (kept[0] for kept in self._kept.values())

    def get(self, execution_id: str) -> Execution | None:
        """As it is remembered, perhaps without its result or output."""
        kept = self._kept.get(execution_id)
        return None if kept is None else kept[0]

    def whole(self, execution_id: str) -> ExecutionRecord | None:
        """None also when its result or output had to go."""
        kept = self._kept.get(execution_id)
        if kept is None or not kept[3]:
            return None
        return ExecutionRecord(execution=kept[0], fingerprint=kept[1])

    def add(self, execution: Execution, fingerprint: bytes = b"") -> Execution:
        """Remembers an execution, and returns it as it is remembered."""
        execution_id = execution.execution_id
        outcome, n_bytes, whole = execution.outcome, 0, True
        if outcome is not None:
            n_bytes = len(outcome.output)
            if outcome.result is not None:
                size = len(outcome.result.body)
                if size <= KEPT_RESULT_BYTES:
                    n_bytes += size
                else:
                    execution = replace(execution, outcome=replace(outcome, result=None))
                    whole = False
        if execution_id in self._kept:
            self._bytes -= self._kept[execution_id][2]
        else:
            self._oldest.append(execution_id)
        self._kept[execution_id] = (execution, fingerprint, n_bytes, whole)
        if n_bytes:
            self._with_bytes.append(execution_id)
            self._bytes += n_bytes
            if self._bytes > KEPT_BYTES:
                self._free_bytes()
        if len(self._oldest) > self._max_recent:
            self._drop_oldest()
        return execution

    def with_output(self, execution_id: str, output: bytes) -> ExecutionRecord | None:
        """Adds to what an execution printed; None when it is not remembered whole any more."""
        kept = self._kept.get(execution_id)
        if kept is None or not kept[3] or kept[0].outcome is None:
            return None
        execution, fingerprint, _, _ = kept
        outcome = replace(kept[0].outcome, output=kept[0].outcome.output + output)
        execution = self.add(replace(execution, outcome=outcome), fingerprint)
        return ExecutionRecord(execution=execution, fingerprint=fingerprint)

    def forget_task(self, task_id: str) -> list[str]:
        """Forgets the executions of a task; returns their ids."""
        ids = [each.execution_id for each in self.all() if each.task_id == task_id]
        for execution_id in ids:
            self._bytes -= self._kept.pop(execution_id)[2]
        self._oldest = deque(key for key in self._oldest if key in self._kept)
        self._with_bytes = deque(key for key in self._with_bytes if key in self._kept)
        return ids

    def _drop_oldest(self) -> None:
        oldest = self._oldest.popleft()
        self._bytes -= self._kept.pop(oldest)[2]
        while self._with_bytes and self._with_bytes[0] not in self._kept:
            self._with_bytes.popleft()

    def _free_bytes(self) -> None:
        while self._bytes > KEPT_BYTES:
            oldest = self._with_bytes.popleft()
            execution, fingerprint, n_bytes, _ = self._kept[oldest]
            self._bytes -= n_bytes
            self._kept[oldest] = (_without_payload(execution), fingerprint, 0, False)


def _without_payload(execution: Execution) -> Execution:
    if execution.outcome is None:
        return execution
    return replace(execution, outcome=replace(execution.outcome, result=None, output=b""))
