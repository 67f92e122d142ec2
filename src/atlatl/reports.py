"""What the service says of itself: health, figures, views of pools, instances and breakers.

Everything is read from its owner at the moment of asking, and reading changes nothing.
"""

from __future__ import annotations

import math
import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from atlatl.core.admission import Gate
from atlatl.core.breaker import CircuitState
from atlatl.engine.breaker import Breakers
from atlatl.engine.catalogue import Catalogue
from atlatl.engine.manager import TaskExecutionManager
from atlatl.engine.registry import Deployed, Registry
from atlatl.engine.views import (
    BreakerView,
    ConfinementView,
    Figures,
    Health,
    HealthStatus,
    InstanceView,
    PoolView,
    TaskView,
)
from atlatl.model import QueueDepth, Task
from atlatl.runtimes.manager import RuntimeManager
from atlatl.settings import Settings
from atlatl.telemetry.figures import BreakerFigures, BreakersFigures, MemoryFigures, PoolFigures
from atlatl.telemetry.metrics import Metrics, metrics_answer
from atlatl.telemetry.queues import QueueFigures, queue_figures_of

MOST_ACTIVE = 10
"""Tasks named in the statistics."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Reports:
    """Joins what the owners know into the answers that fronts give.

    Args:
        clock: monotonic seconds.
        wall: Unix seconds.
        cpu_clock: CPU seconds of this process.
        memory_budget_bytes: what the instances may use together.
        reserve_bytes: gives what task zygotes use, as measured last.
        queue_depths: what the queue holds; asks nobody, and counts what has not begun as ready.
        queue_clock: Unix seconds of the queue's clock, for ages.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        catalogue: Catalogue,
        manager: TaskExecutionManager,
        gate: Gate,
        breakers: Breakers,
        metrics: Metrics,
        runtimes: RuntimeManager,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        cpu_clock: Callable[[], float],
        memory_budget_bytes: int,
        reserve_bytes: Callable[[], int],
        queue_depths: Callable[[], Sequence[QueueDepth]],
        queue_clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._catalogue = catalogue
        self._manager = manager
        self._gate = gate
        self._breakers = breakers
        self._metrics = metrics
        self._runtimes = runtimes
        self._clock = clock
        self._wall = wall
        self._cpu_clock = cpu_clock
        self._budget = memory_budget_bytes
        self._reserve_bytes = reserve_bytes
        self._queue_depths = queue_depths
        self._queue_clock = queue_clock
        self._started = clock()
        self._cpu_since = (clock(), cpu_clock())

    def sample(self) -> None:
        """Begins a new span for the CPU figure; called every few seconds."""
        self._cpu_since = (self._clock(), self._cpu_clock())

    # --- health ---

    def ready(self, *, opened: bool) -> tuple[bool, str]:
        """Whether calls can be served, and if not, why."""
        if not opened:
            return False, "the service is not open"
        if self._manager.draining:
            return False, "the service is shutting down"
        if not self._runtimes.ready:
            return False, "no runtime is up"
        return True, "ready"

    def health(self, *, opened: bool) -> Health:
        status, message = self._status(opened)
        service_bytes = _own_memory_bytes()
        return Health(
            status=status,
            message=message,
            uptime_s=self._clock() - self._started,
            active_tasks=self._active_tasks(),
            running=self._manager.running,
            pending=self._pending(),
            memory_bytes=service_bytes + self._memory().used_bytes,
            service_memory_bytes=service_bytes,
            cpu_percent=self._cpu_percent(),
            total_executions=self._metrics.stats().request_count,
            system_info=_system_info(),
            version=VERSION,
        )

    def live(self) -> dict[str, Any]:
        """What is told of the service as a whole every second."""
        memory, since_start = self._memory(), self._metrics.stats()
        return {
            "uptime_s": self._clock() - self._started,
            "tasks": len(self._registry),
            "executions": since_start.request_count,
            "errors": since_start.error_count,
            "cpu_percent": self._cpu_percent(),
            "service_memory_bytes": _own_memory_bytes(),
            "instances_memory_bytes": memory.used_bytes,
            "memory_budget_bytes": memory.limit_bytes,
        }

    def _status(self, opened: bool) -> tuple[HealthStatus, str]:
        ready, reason = self.ready(opened=opened)
        if not ready:
            return "unhealthy", reason
        reasons = [f"the breaker of {name} is {state}" for name, state in self._troubled()]
        reasons += [
            f"the pool of {view.task_name} is at its maximum with {view.waiting} waiting"
            for deployed in self._registry
            if (view := _pool_view(deployed)).waiting
            and view.total >= deployed.task.settings.pool.max_size
        ]
        limit = self._settings.limits.max_concurrent_executions
        if self._gate.lent >= limit:
            reasons.append(f"the limit of {limit} executions at once is reached")
        if not reasons:
            return "healthy", "all is well"
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        return "degraded", "; ".join(reasons[:3]) + more

    def _troubled(self) -> list[tuple[str, CircuitState]]:
        return sorted(self._breakers.not_closed().items())

    # --- figures ---

    def stats(self, hours: int) -> Figures:
        """Of the last `hours` hours; 0 is since the start."""
        since_start = self._metrics.stats()
        span = self._metrics.history(hours) if hours else since_start
        memory = _own_memory_bytes() + self._memory().used_bytes
        active = self._active_tasks()
        finished = span.success_count + span.error_count
        return Figures(
            uptime_s=self._clock() - self._started,
            total_tasks=len(self._registry),
            total_executions=since_start.request_count,
            memory_bytes=memory,
            cpu_percent=self._cpu_percent(),
            memory_percent=100 * memory / self._budget if self._budget else 0.0,
            active_tasks=active,
            idle_tasks=len(self._registry) - active,
            tasks_by_type=self._by_type(),
            most_active=self._most_active(),
            running=self._manager.running,
            pending=self._pending(),
            completed=span.success_count,
            failed=span.error_count,
            average_execution_ms=span.avg_run_ms,
            success_rate_percent=100 * span.success_count / finished if finished else 0.0,
            by_function=self._metrics.by_function(hours),
            artifact_count=len(self._catalogue),
            instance_count=sum(each.pool.stats().total for each in self._registry),
            average_response_ms=span.avg_latency_ms,
        )

    def mean_ms(self, task_name: str) -> int:
        """Mean duration of the task's runs so far, rounded up; 0 without any."""
        return math.ceil(1000 * (self._metrics.mean_run_s(task_name) or 0.0))

    def metrics_answer(self, window_s: float, task: str | None) -> dict[str, Any]:
        """Raises TaskNotFound."""
        name = self._registry.get(task).task.name if task else ""
        breakers = self._breaker_figures()
        queue = self._queue_figures()
        return metrics_answer(
            self._metrics, self._pool_figures(), self._memory(), breakers, queue, window_s, name
        )

    def _queue_figures(self) -> QueueFigures:
        return queue_figures_of(
            self._queue_depths(),
            deployed=[each.task.name for each in self._registry],
            now=self._queue_clock(),
            limit=self._settings.limits.max_durable_pending,
        )

    def _pending(self) -> int:
        """Accepted and not begun."""
        queued = sum(depth.ready + depth.delayed for depth in self._queue_depths())
        return self._manager.pending + queued

    def _most_active(self) -> list[TaskView]:
        most = sorted(self._registry, key=lambda each: each.execution_count, reverse=True)
        return [_task_view(each) for each in most[:MOST_ACTIVE]]

    def _by_type(self) -> dict[str, int]:
        return dict(Counter(each.task.artifact.artifact_type for each in self._registry))

    def _active_tasks(self) -> int:
        return sum(1 for each in self._registry if each.running or each.pool.stats().total)

    def _memory(self) -> MemoryFigures:
        by_task: Counter[str] = Counter()
        for view in self.instances():
            by_task[view.task_name] += view.memory_bytes
        return MemoryFigures(
            used_bytes=by_task.total() + self._reserve_bytes(),
            limit_bytes=self._budget,
            by_task=dict(by_task),
        )

    def _cpu_percent(self) -> float:
        """Of this process since the last sample; 100 is one full core."""
        at, used = self._cpu_since
        span = self._clock() - at
        return 100 * (self._cpu_clock() - used) / span if span > 0 else 0.0

    # --- views ---

    def task_view(self, task: Task) -> TaskView:
        return _task_view(self._registry.get(task.task_id))

    def instances(self) -> list[InstanceView]:
        return [view for each in self._registry for view in each.pool.instances()]

    def pools(self) -> list[PoolView]:
        return [
            replace(
                _pool_view(each),
                zygote=self._runtimes.reserve.state(each.task),
                confinement=ConfinementView(
                    level=each.task.settings.confinement.level,
                    not_kept=self._runtimes.not_kept(each.task.settings),
                ),
            )
            for each in self._registry
        ]

    def breakers(self) -> list[BreakerView]:
        # Breakers count in monotonic seconds; people read wall time.
        offset = self._wall() - self._clock()
        return [_breaker_view(each, offset) for each in self._registry]

    def _pool_figures(self) -> list[PoolFigures]:
        return [_pool_figures(each) for each in self._registry]

    def _breaker_figures(self) -> BreakersFigures:
        return BreakersFigures(
            defaults=self._settings.breaker,
            rejected_count=self._breakers.rejected_count(),
            breakers=tuple(
                BreakerFigures(
                    task_name=each.task.name,
                    state=(stats := each.breaker.stats()).state,
                    rejected_count=stats.rejected_count,
                    settings=each.breaker.settings,
                )
                for each in self._registry
            ),
        )


def _task_view(deployed: Deployed) -> TaskView:
    return TaskView(
        task=deployed.task,
        state=deployed.state,
        execution_count=deployed.execution_count,
        last_status=deployed.last_status,
        instances=deployed.pool.stats().total,
    )


def _pool_figures(deployed: Deployed) -> PoolFigures:
    stats = deployed.pool.stats()
    return PoolFigures(
        task_name=deployed.task.name,
        total=stats.total,
        in_use=stats.in_use,
        available=stats.available,
        waiting=stats.waiting,
        starting=stats.starting,
        max_size=deployed.pool.settings.max_size,
        total_requests=stats.total_requests,
        avg_wait_ms=stats.avg_wait_ms,
        scale_up_count=stats.scale_up_count,
        scale_down_count=stats.scale_down_count,
        utilization=stats.utilization,
    )


def _pool_view(deployed: Deployed) -> PoolView:
    stats = deployed.pool.stats()
    return PoolView(
        task_name=deployed.task.name,
        version=deployed.task.version,
        policy=deployed.task.settings.scheduler.policy,
        total=stats.total,
        in_use=stats.in_use,
        available=stats.available,
        waiting=stats.waiting,
        starting=stats.starting,
        total_requests=stats.total_requests,
        failures=stats.failures,
        avg_wait_ms=stats.avg_wait_ms,
        p95_wait_ms=stats.p95_wait_ms,
        scale_up_count=stats.scale_up_count,
        scale_down_count=stats.scale_down_count,
        utilization=stats.utilization,
        last_decision=stats.last_decision,
    )


def _breaker_view(deployed: Deployed, offset: float) -> BreakerView:
    stats = deployed.breaker.stats()
    return BreakerView(
        task_name=deployed.task.name,
        state=str(stats.state),  # type: ignore[arg-type]
        mode=stats.mode,
        failure_count=stats.failure_count,
        success_count=stats.success_count,
        rejected_count=stats.rejected_count,
        last_error=stats.last_error or "",
        last_failure_at=_shifted(stats.last_failure_at, offset),
        last_state_change_at=_shifted(stats.last_state_change_at, offset),
        retry_after_s=stats.retry_after_s,
        generation=stats.generation,
    )


def _shifted(at: float | None, offset: float) -> float | None:
    return None if at is None else at + offset


def _own_memory_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_BYTES


def _system_info() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": str(os.cpu_count() or 0),
        "version": VERSION,
    }


VERSION = package_version("atlatl")
