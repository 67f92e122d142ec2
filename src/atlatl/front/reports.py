"""Tasks, health and figures as gRPC messages. Pure functions; narrow counters saturate."""

from __future__ import annotations

from collections.abc import Mapping

from atlatl.engine.views import Deletion, Figures, Health, TaskView
from atlatl.front.codec import STATUSES, text, texts
from atlatl.front.proto import function_pb2 as pb
from atlatl.model import Artifact

SERVICE_NAME = "spearlet-function-service"
INT32_MAX = 2**31 - 1
MEBIBYTE = 1024 * 1024


def task_info(view: TaskView, *, details: bool) -> pb.TaskInfo:
    """A task; what it runs and its labels only with `details`."""
    task = view.task
    info = pb.TaskInfo(
        task_id=task.task_id,
        task_name=task.name,
        created_at=int(task.created_at),
        updated_at=int(task.updated_at),
        execution_count=int32(view.execution_count),
        last_status=STATUSES[view.last_status] if view.last_status else None,
    )
    if details:
        info.artifact_spec.CopyFrom(_spec_out(task.artifact))
        info.metadata.update(texts(task.settings.labels))
    return info


def _spec_out(artifact: Artifact) -> pb.ArtifactSpec:
    return pb.ArtifactSpec(
        artifact_id=text(artifact.artifact_id),
        artifact_type=artifact.artifact_type,
        location=text(artifact.location),
        version=text(artifact.version),
        checksum=artifact.checksum,
        metadata=texts(artifact.labels),
    )


def tasks(
    views: list[TaskView], next_start_after: str | None, *, details: bool
) -> pb.ListTasksResponse:
    return pb.ListTasksResponse(
        tasks=[task_info(view, details=details) for view in views],
        has_more=next_start_after is not None,
        next_start_after=next_start_after or "",
    )


def deleted(deletion: Deletion) -> pb.DeleteTaskResponse:
    if deletion.deleted:
        message = "deleted"
    elif deletion.found:
        message = f"{deletion.running} executions are in progress; set force to cancel them"
    else:
        message = "there is no such task"
    return pb.DeleteTaskResponse(
        success=deletion.deleted or not deletion.found,
        message=message,
        deleted=deletion.deleted,
        cleaned_executions=int32(deletion.cleaned_executions),
    )


def health(seen: Health) -> pb.GetHealthResponse:
    uptime = int(seen.uptime_s)
    details = pb.HealthDetails(
        active_tasks=int32(seen.active_tasks),
        running_executions=int32(seen.running),
        pending_executions=int32(seen.pending),
        total_memory_used=seen.memory_bytes,
        total_executions=seen.total_executions,
        system_info=texts(seen.system_info),
        service_name=SERVICE_NAME,
        version=seen.version,
        uptime_seconds=uptime,
        memory_usage_mb=seen.memory_bytes // MEBIBYTE,
        cpu_usage_percent=seen.cpu_percent,
    )
    return pb.GetHealthResponse(
        status=seen.status,
        message=text(seen.message),
        uptime_seconds=uptime,
        details=details,
        healthy=seen.status != "unhealthy",
    )


def stats(figures: Figures, *, with_tasks: bool, with_executions: bool) -> pb.GetStatsResponse:
    return pb.GetStatsResponse(
        service_stats=_service_stats(figures),
        task_stats=_task_stats(figures) if with_tasks else None,
        execution_stats=_execution_stats(figures) if with_executions else None,
        function_service_stats=_function_service_stats(figures),
    )


def _service_stats(figures: Figures) -> pb.ServiceStats:
    return pb.ServiceStats(
        uptime_seconds=int(figures.uptime_s),
        total_tasks=int32(figures.total_tasks),
        total_executions=int32(figures.total_executions),
        total_memory_used=figures.memory_bytes,
        cpu_usage_percent=figures.cpu_percent,
        memory_usage_percent=figures.memory_percent,
    )


def _task_stats(figures: Figures) -> pb.TaskStats:
    return pb.TaskStats(
        active_tasks=int32(figures.active_tasks),
        idle_tasks=int32(figures.idle_tasks),
        tasks_by_type=_counts(figures.tasks_by_type),
        most_active_tasks=[task_info(view, details=True) for view in figures.most_active],
    )


def _execution_stats(figures: Figures) -> pb.ExecutionStats:
    return pb.ExecutionStats(
        running_executions=int32(figures.running),
        pending_executions=int32(figures.pending),
        completed_executions=int32(figures.completed),
        failed_executions=int32(figures.failed),
        average_execution_time_ms=figures.average_execution_ms,
        success_rate_percent=figures.success_rate_percent,
        executions_by_function=_counts(figures.by_function),
    )


def _function_service_stats(figures: Figures) -> pb.FunctionServiceStats:
    return pb.FunctionServiceStats(
        task_count=int32(figures.total_tasks),
        execution_count=int32(figures.total_executions),
        running_executions=int32(figures.running),
        artifact_count=int32(figures.artifact_count),
        instance_count=int32(figures.instance_count),
        successful_executions=int32(figures.completed),
        failed_executions=int32(figures.failed),
        average_response_time_ms=figures.average_response_ms,
    )


def int32(count: int) -> int:
    """A counter that stops at the largest int32 instead of wrapping."""
    return min(count, INT32_MAX)


def _counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {text(key): int32(count) for key, count in counts.items()}
