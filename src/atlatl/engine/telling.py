"""Who is told of what happens to durable executions: telemetry, their tasks, those who wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from atlatl.events import AttemptFailed, ExecutionDied, ExecutionFinished
from atlatl.model import Execution, Queued

if TYPE_CHECKING:
    from atlatl.engine.executions import Executions
    from atlatl.engine.registry import Registry
    from atlatl.ports import Telemetry


class Telling:
    """Tells of attempts and ends, which are in the store by then.

    Args:
        registry: tasks count the executions that ended.
        executions: knows who waits for an end.
        telemetry: told of all.
        steady: Unix seconds that no change of the machine's clock moves.
    """

    def __init__(
        self,
        registry: Registry,
        executions: Executions,
        telemetry: Telemetry,
        *,
        steady: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._executions = executions
        self._telemetry = telemetry
        self._steady = steady

    def ended(self, queued: Queued, record: Execution, *, dead: bool) -> None:
        """It has ended, for good or as a dead letter."""
        deployed = self._registry.find_name(record.task_name)
        if deployed is not None:
            deployed.execution_count += not queued.redriven
            deployed.last_status = record.status
        began = record.started_at
        ended = record.completed_at or began or 0.0
        self._telemetry.emit(
            ExecutionFinished(
                at=ended,
                task_name=record.task_name,
                execution=record,
                latency_s=0.0 if began is None else max(0.0, ended - began),
                redriven=queued.redriven,
                traceparent=queued.call.traceparent,
            )
        )
        if dead and record.outcome is not None and record.outcome.error is not None:
            self._telemetry.emit(
                ExecutionDied(
                    at=self._steady(),
                    task_name=record.task_name,
                    execution_id=record.execution_id,
                    attempts=queued.attempt,
                    code=record.outcome.error.code,
                )
            )
        self._executions.tell(record)

    def attempt_failed(
        self,
        queued: Queued,
        code: str,
        delay_s: float = 0.0,
        *,
        recovered: bool = False,
        started_at: float | None = None,
    ) -> None:
        """Another attempt follows.

        Args:
            queued: as it was during the attempt.
            code: of the error that ended it.
            delay_s: until the next one.
            recovered: the end of the service cut it off.
            started_at: when the attempt began, if that is known.
        """
        self._telemetry.emit(
            AttemptFailed(
                at=self._steady(),
                task_name=queued.call.task_name,
                execution_id=queued.call.execution_id,
                attempt=queued.attempt,
                code=code,
                retry_in_s=delay_s,
                recovered=recovered,
                queued_at=queued.queued_at,
                started_at=started_at,
                traceparent=queued.call.traceparent,
            )
        )
