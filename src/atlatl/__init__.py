"""atlatl: a self-hosted function service.

The names below are the promise to programs that embed it; all else may change.
They are imported when first used, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlatl import errors
    from atlatl.assembly import FunctionService
    from atlatl.client import AsyncClient, Client
    from atlatl.core.breaker import CircuitState
    from atlatl.engine.breaker import CircuitBreaker
    from atlatl.engine.pool import InstancePool, PoolStats
    from atlatl.errors import AtlatlError, CircuitOpenError, ExecutionError
    from atlatl.front.asgi import asgi
    from atlatl.settings import CircuitBreakerSettings, PoolSettings, ScalingSettings, Settings
    from atlatl.telemetry.metrics import Metrics

_HOMES = {
    "AsyncClient": "atlatl.client",
    "AtlatlError": "atlatl.errors",
    "CircuitBreaker": "atlatl.engine.breaker",
    "CircuitBreakerSettings": "atlatl.settings",
    "CircuitOpenError": "atlatl.errors",
    "CircuitState": "atlatl.core.breaker",
    "Client": "atlatl.client",
    "ExecutionError": "atlatl.errors",
    "FunctionService": "atlatl.assembly",
    "InstancePool": "atlatl.engine.pool",
    "Metrics": "atlatl.telemetry.metrics",
    "PoolSettings": "atlatl.settings",
    "PoolStats": "atlatl.engine.pool",
    "ScalingSettings": "atlatl.settings",
    "Settings": "atlatl.settings",
    "asgi": "atlatl.front.asgi",
}

__all__ = [
    "AsyncClient",
    "AtlatlError",
    "CircuitBreaker",
    "CircuitBreakerSettings",
    "CircuitOpenError",
    "CircuitState",
    "Client",
    "ExecutionError",
    "FunctionService",
    "InstancePool",
    "Metrics",
    "PoolSettings",
    "PoolStats",
    "ScalingSettings",
    "Settings",
    "asgi",
    "errors",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("atlatl.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'atlatl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
