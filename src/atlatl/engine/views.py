"""What the service answers with, and what it is asked with, whichever front asks.

All are frozen. Counts are plain integers of any size: a front whose format has
narrower ones saturates them itself.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from atlatl.model import ExecutionStatus, InstanceState, Record, Task, TaskState

T = TypeVar("T")

HealthStatus = Literal["healthy", "degraded", "unhealthy"]
BreakerState = Literal["closed", "open", "half-open"]


class Page(Record, Generic[T], frozen=True):
    """One page of a list."""

    items: list[T]
    next_start_after: str | None = None
    """Cursor of the next page; None when there is none."""


# --- asked with ---


class ArtifactSpec(Record, frozen=True):
    """The code that a call names when it wants its task created."""

    artifact_id: str = ""
    artifact_type: str = ""
    """As the caller wrote it; the service decides what it supports."""
    location: str = ""
    """A path or an address; empty when a known artifact is meant."""
    version: str = ""
    checksum: str = ""
    """Hex SHA-256 of the bytes; empty is unchecked."""
    metadata: dict[str, str] = {}


class InvocationTarget(Record, frozen=True):
    """Which task a call is for, and what to make it from when it is not there."""

    invocation_type: Literal["new", "existing", "unknown"] = "unknown"
    task_name: str = ""
    task_description: str = ""
    task_id: str = ""
    create_if_not_exists: bool = False
    spec: ArtifactSpec | None = None


# --- answered with ---


class Deployment(Record, frozen=True):
    task: Task
    created: bool
    changed: bool
    """False when the same bytes and settings were already deployed."""
    log: str = ""
    """What installing the dependencies printed."""


class Deletion(Record, frozen=True):
    found: bool
    deleted: bool
    running: int = 0
    """Executions in progress that kept the task from being deleted, or were cancelled for it."""
    cleaned_executions: int = 0


class CancelAnswer(Record, frozen=True):
    success: bool
    """True when this request stopped the execution."""
    message: str
    final_status: ExecutionStatus | None = None
    """Status after the request; None when the execution is unknown."""


class TaskView(Record, frozen=True):
    """A task as it stands now."""

    task: Task
    state: TaskState
    execution_count: int = 0
    last_status: ExecutionStatus | None = None
    """Of the newest execution; None when there was none."""
    instances: int = 0
    """Live ones."""


class InstanceView(Record, frozen=True):
    instance_id: str
    task_name: str
    version: int
    state: InstanceState
    pid: int
    age_s: float
    uses: int
    in_flight: int
    memory_bytes: int
    """PSS when last sampled."""
    origin: str
    """`blank`, `fork` (when no blank was in stock) or `task_zygote`."""


class ConfinementView(Record, frozen=True):
    """What the functions of a task are kept from and within."""

    level: str = "standard"
    not_kept: list[str] = []
    """What of the level this machine can't keep, each in words."""


class PoolView(Record, frozen=True):
    task_name: str
    version: int
    policy: str
    """Of the scheduler."""
    total: int = 0
    in_use: int = 0
    available: int = 0
    waiting: int = 0
    """Callers that wait for an instance."""
    starting: int = 0
    total_requests: int = 0
    """Leases asked for."""
    failures: int = 0
    avg_wait_ms: float = 0.0
    """Of successful acquisitions, as is the one below."""
    p95_wait_ms: float | None = None
    scale_up_count: int = 0
    scale_down_count: int = 0
    utilization: float = 0.0
    """Busy time / live time of the instances, 0 to 1."""
    last_decision: str = ""
    """The last scaling decision and its reason."""
    zygote: str = ""
    """State of the process that has imported the artifact and forks further instances: `starting`,
    `ready`, or `unused: ` and why; empty when they come from blanks, as those of most tasks do."""
    confinement: ConfinementView = ConfinementView()


class BreakerView(Record, frozen=True):
    task_name: str
    state: BreakerState
    mode: str
    failure_count: int = 0
    success_count: int = 0
    rejected_count: int = 0
    last_error: str = ""
    last_failure_at: float | None = None
    last_state_change_at: float | None = None
    retry_after_s: float | None = None
    """Until it admits a probe; None unless it is open."""
    generation: int = 0


class Health(Record, frozen=True):
    """How the service does, measured at the moment of asking."""

    status: HealthStatus
    message: str
    uptime_s: float
    """By the monotonic clock."""
    active_tasks: int = 0
    """With an execution in progress or a live instance."""
    running: int = 0
    pending: int = 0
    memory_bytes: int = 0
    """The service and its instances."""
    service_memory_bytes: int = 0
    """The service's process alone."""
    cpu_percent: float = 0.0
    """Of the service's process; 100 is one full core."""
    total_executions: int = 0
    system_info: dict[str, str] = {}
    version: str = ""


class Figures(Record, frozen=True):
    """The statistics of a service, over all time since its start or the last hours of it."""

    uptime_s: float
    total_tasks: int = 0
    total_executions: int = 0
    memory_bytes: int = 0
    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    """Memory in use against the budget."""
    active_tasks: int = 0
    idle_tasks: int = 0
    tasks_by_type: dict[str, int] = {}
    most_active: list[TaskView] = []
    """Most executions first."""
    running: int = 0
    pending: int = 0
    completed: int = 0
    failed: int = 0
    """Those that timed out included."""
    average_execution_ms: float = 0.0
    """Mean duration of finished executions; 0 when there is none."""
    success_rate_percent: float = 0.0
    """completed / (completed + failed) x 100; 0 when there is none."""
    by_function: dict[str, int] = {}
    artifact_count: int = 0
    instance_count: int = 0
    average_response_ms: float = 0.0
    """Mean time from acceptance to the end; 0 when there is none."""
