"""What is read again and again, or of one execution: live figures, and facts that explain it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from atlatl.core.timeline import Facts
from atlatl.core.window import Row, count_of, quantile_ms, requests
from atlatl.model import Execution, Mode, OutcomeKind, QueueDepth

if TYPE_CHECKING:
    from atlatl.engine.manager import TaskExecutionManager
    from atlatl.engine.registry import Deployed, Registry
    from atlatl.reports import Reports
    from atlatl.telemetry.journal import Journal


class LiveReports:
    """Joins what is counted with how the owners stand at the moment.

    Args:
        registry: what is deployed.
        manager: what is under way.
        journal: what happened lately.
        reports: of the whole service.
        depths: of the durable queue; asks nobody.
        wall: Unix seconds.
        steady: Unix seconds of the queue's clock.
    """

    def __init__(
        self,
        registry: Registry,
        manager: TaskExecutionManager,
        journal: Journal,
        reports: Reports,
        *,
        depths: Callable[[], Sequence[QueueDepth]],
        wall: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._manager = manager
        self._journal = journal
        self._reports = reports
        self._depths = depths
        self._wall = wall
        self._steady = steady

    # --- of the service, once a second ---

    def figures(self, by_task: Mapping[str, Row], total: Row, span_s: float) -> dict[str, Any]:
        """The members of an event `figures`.

        Args:
            by_task: what was counted in the span, of the tasks that had calls.
            total: their sum.
            span_s: seconds.
        """
        return {
            "span_s": span_s,
            "tasks": [
                {
                    "task_name": deployed.task.name,
                    **_rates(by_task.get(deployed.task.name), span_s),
                    **_state(deployed),
                }
                for deployed in self._registry
                if deployed.running or deployed.task.name in by_task
            ],
            "queue": self._queue(),
            "service": self._reports.live()
            | _rates(total, span_s)
            | {"running": self._manager.running, "waiting": self._manager.pending},
        }

    def _queue(self) -> dict[str, Any]:
        depths = self._depths()
        oldest = [each.oldest_ready_at for each in depths if each.oldest_ready_at is not None]
        return {
            "ready": sum(each.ready for each in depths),
            "delayed": sum(each.delayed for each in depths),
            "running": sum(each.leased for each in depths),
            "dead": sum(each.dead for each in depths),
            "oldest_s": max(0.0, self._steady() - min(oldest)) if oldest else 0.0,
        }

    # --- of one execution ---

    def facts(self, execution: Execution) -> Facts:
        """What explains an execution besides its record."""
        facts = self._journal.facts(execution, self._wall())
        deployed = self._registry.find_name(execution.task_name)
        if deployed is None:
            return facts
        if deployed.task.version == execution.version:
            facts = replace(facts, policy=deployed.pool.policy)
        if execution.status.terminal:
            return facts
        return replace(
            facts,
            pool=_pool(deployed),
            breaker=str(deployed.breaker.state),
            limit_s=self._limit_s(execution),
        )

    def _limit_s(self, execution: Execution) -> float | None:
        """Of a call that somebody waits for; an attempt of a durable one begins later."""
        ticket = self._manager.ticket(execution.execution_id)
        if ticket is None or execution.mode is Mode.ASYNC:
            return None
        return ticket.deadline - ticket.accepted


_NOTHING = {
    "calls_per_s": 0.0,
    "errors_per_s": 0.0,
    "refused_per_s": 0.0,
    "p50_ms": None,
    "p99_ms": None,
}


def _rates(row: Row | None, span_s: float) -> dict[str, Any]:
    if row is None:
        return _NOTHING
    count = requests(row)
    refused = count_of(row, OutcomeKind.REJECTED) + count_of(row, OutcomeKind.INVALID)
    return {
        "calls_per_s": count / span_s,
        "errors_per_s": (count - count_of(row, OutcomeKind.SUCCESS)) / span_s,
        "refused_per_s": refused / span_s,
        "p50_ms": quantile_ms(row, 0.50),
        "p99_ms": quantile_ms(row, 0.99),
    }


def _state(deployed: Deployed) -> dict[str, Any]:
    pool = _pool(deployed)
    return {
        "in_use": pool["in_use"],
        "idle": pool["available"],
        "starting": pool["starting"],
        "waiting": pool["waiting"],
        "breaker": str(deployed.breaker.state),
    }


def _pool(deployed: Deployed) -> dict[str, int]:
    stats = deployed.pool.stats()
    return {
        "total": stats.total,
        "in_use": stats.in_use,
        "available": stats.available,
        "starting": stats.starting,
        "waiting": stats.waiting,
    }
