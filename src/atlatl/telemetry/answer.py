"""The answer of `GET /api/serverless/metrics`, joined from the figures of all owners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from atlatl.core.breaker import CircuitState
from atlatl.core.window import BOUNDS_MS
from atlatl.telemetry.figures import (
    BreakerFigures,
    BreakersFigures,
    MemoryFigures,
    PoolFigures,
    Stats,
    WindowStats,
)
from atlatl.telemetry.queues import DurableStats, QueueFigures


def answer(
    total: Stats,
    window: WindowStats,
    durable: DurableStats,
    pools: Sequence[PoolFigures],
    memory: MemoryFigures,
    breakers: BreakersFigures,
    queue: QueueFigures,
    task: str = "",
) -> dict[str, Any]:
    """The body, ready for JSON: units stand in the keys, and no figure is NaN or infinite.

    Args:
        total: since the start, of `task` or of all.
        window: of the last seconds, of the same.
        durable: what happened to durable executions, of the same.
        pools: of all tasks.
        memory: of all tasks.
        breakers: of all tasks.
        queue: of all tasks.
        task: the one asked for; empty is all.
    """
    chosen = [pool for pool in pools if not task or pool.task_name == task]
    return {
        "total": {**_executions(total), **_sizes(chosen), **_memory(memory, task)},
        "window": _window(window),
        "circuit_breaker": _breakers(breakers, task),
        "pool": _pools(chosen),
        "queue": _queue(queue, durable, task),
    }


def _executions(stats: Stats) -> dict[str, Any]:
    bounds = (*BOUNDS_MS, None)
    return {
        "request_count": stats.request_count,
        "success_count": stats.success_count,
        "error_count": stats.error_count,
        "timeout_count": stats.timeout_count,
        "crashed_count": stats.crashed_count,
        "rejected_count": stats.rejected_count,
        "cancelled_count": stats.cancelled_count,
        "invalid_count": stats.invalid_count,
        "cold_start_count": stats.cold_start_count,
        "avg_latency_ms": stats.avg_latency_ms,
        "p50_latency_ms": stats.p50_latency_ms,
        "p95_latency_ms": stats.p95_latency_ms,
        "p99_latency_ms": stats.p99_latency_ms,
        "latency_histogram": [
            {"le_ms": bound, "count": count}
            for bound, count in zip(bounds, stats.latency_buckets, strict=True)
        ],
        "uptime_seconds": stats.uptime_s,
    }


def _sizes(pools: Sequence[PoolFigures]) -> dict[str, int]:
    in_use = sum(pool.in_use for pool in pools)
    available = sum(pool.available for pool in pools)
    return {
        "pool_size": in_use + available,
        "pool_in_use": in_use,
        "pool_available": available,
    }


def _memory(memory: MemoryFigures, task: str) -> dict[str, int]:
    return {
        "memory_used_bytes": memory.by_task.get(task, 0) if task else memory.used_bytes,
        "memory_limit_bytes": memory.limit_bytes,
    }


def _window(window: WindowStats) -> dict[str, Any]:
    return {
        "duration_seconds": window.duration_s,
        "request_count": window.request_count,
        "success_count": window.success_count,
        "error_count": window.error_count,
        "rejected_count": window.rejected_count,
        "avg_latency_ms": window.avg_latency_ms,
        "p95_latency_ms": window.p95_latency_ms,
        "qps": window.qps,
        "error_rate": window.error_rate,
    }


def _breakers(figures: BreakersFigures, task: str) -> dict[str, Any]:
    chosen = [one for one in figures.breakers if not task or one.task_name == task]
    settings = chosen[0].settings if task and chosen else figures.defaults
    rejected = sum(one.rejected_count for one in chosen) if task else figures.rejected_count
    return {
        "state": str(_worst_state(chosen)),
        "failure_threshold": settings.failure_threshold,
        "success_threshold": settings.success_threshold,
        "timeout_seconds": settings.timeout_s,
        "rejected_count": rejected,
        "functions": {
            one.task_name: {"state": str(one.state)}
            for one in chosen
            if one.state is not CircuitState.CLOSED
        },
    }


def _worst_state(breakers: Sequence[BreakerFigures]) -> CircuitState:
    """Open before half-open before closed."""
    states = {one.state for one in breakers}
    for state in (CircuitState.OPEN, CircuitState.HALF_OPEN):
        if state in states:
            return state
    return CircuitState.CLOSED


def _pools(pools: Sequence[PoolFigures]) -> dict[str, Any]:
    return {
        "total_requests": sum(pool.total_requests for pool in pools),
        "utilization": _mean([(pool.utilization, pool.total) for pool in pools]),
        "waiting": sum(pool.waiting for pool in pools),
        "avg_wait_ms": _mean([(pool.avg_wait_ms, pool.total_requests) for pool in pools]),
        "scale_up_count": sum(pool.scale_up_count for pool in pools),
        "scale_down_count": sum(pool.scale_down_count for pool in pools),
    }


def _queue(queue: QueueFigures, durable: DurableStats, task: str) -> dict[str, Any]:
    waiting = queue.of(task)
    return {
        "depth": waiting.depth,
        "depth_limit": queue.limit,
        "ready": waiting.ready,
        "delayed": waiting.delayed,
        "leased": waiting.leased,
        "oldest_seconds": waiting.oldest_s,
        "dead_letters": waiting.dead,
        **asdict(durable),
    }


def _mean(weighted: Sequence[tuple[float, int]]) -> float:
    """The mean of values with their weights; 0 when nothing weighs."""
    weight = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / weight if weight else 0.0
