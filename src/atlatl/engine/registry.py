"""What is deployed, in memory: the one owner of the indexes by name, id and artifact.

A call looks its task up here and nowhere else; there is no database in its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from atlatl.core.admission import TokenBucket
from atlatl.core.retrying import RetryBudget
from atlatl.errors import InvalidRequest, TaskNotFound
from atlatl.model import ExecutionStatus, Shape, Task, TaskState

if TYPE_CHECKING:
    from atlatl.engine.breaker import CircuitBreaker
    from atlatl.engine.pool import InstancePool


class Deployed:
    """A task with what it owns while the service runs: its pool, breaker, budgets and counts."""

    __slots__ = (
        "breaker",
        "bucket",
        "execution_count",
        "last_status",
        "last_used",
        "pool",
        "retry_budget",
        "running",
        "task",
    )

    def __init__(self, task: Task, pool: InstancePool, breaker: CircuitBreaker, now: float) -> None:
        self.running = 0
        self.execution_count = 0
        self.last_status: ExecutionStatus | None = None
        self.switch(task, pool, breaker, now)

    def switch(self, task: Task, pool: InstancePool, breaker: CircuitBreaker, now: float) -> None:
        """From here on this version is the one that is called; the counts go on."""
        self.task = task
        self.pool = pool
        self.breaker = breaker
        self.last_used = now
        rate = task.settings.rate_limit_per_s
        self.bucket = TokenBucket(rate, now) if rate else None
        self.retry_budget = RetryBudget(task.settings.retry.budget_ratio, now)

    def shape(self, function: str) -> Shape:
        """The shape of the function that a call names; the task's own handler for an empty name.

        Raises:
            InvalidRequest: the artifact has no such function that a call may name.
        """
        name = function or self.task.function
        shape = self.task.shapes.get(name)
        if shape is None:
            known = ", ".join(sorted(self.task.shapes))
            raise InvalidRequest(
                f"task {self.task.name!r} has no function {name!r} that a call may name; "
                f"it has: {known}"
            )
        return shape

    @property
    def state(self) -> TaskState:
        """Derived: a task runs while at least one of its executions is in progress."""
        return TaskState.RUNNING if self.running else TaskState.READY


class Registry:
    """Tasks by name and by id."""

    def __init__(self) -> None:
        self._by_name: dict[str, Deployed] = {}
        self._by_id: dict[str, Deployed] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Deployed]:
        return iter(list(self._by_name.values()))

    def add(self, deployed: Deployed) -> None:
        self._by_name[deployed.task.name] = deployed
        self._by_id[deployed.task.task_id] = deployed

    def remove(self, deployed: Deployed) -> None:
        del self._by_name[deployed.task.name]
        del self._by_id[deployed.task.task_id]

    def named(self, name: str) -> Deployed:
        """Raises TaskNotFound."""
        try:
            return self._by_name[name]
        except KeyError:
            raise _unknown(name) from None

    def find_name(self, name: str) -> Deployed | None:
        return self._by_name.get(name)

    def find(self, ref: str) -> Deployed | None:
        """By name, else by id."""
        return self._by_name.get(ref) or self._by_id.get(ref)

    def get(self, ref: str) -> Deployed:
        """By name, else by id; raises TaskNotFound."""
        found = self.find(ref)
        if found is None:
            raise _unknown(ref)
        return found


def _unknown(ref: str) -> TaskNotFound:
    shown = ref if len(ref) <= 140 else ref[:140] + "..."
    return TaskNotFound(f"there is no task {shown!r}; `atlatl tasks` lists those that are deployed")
