"""Probes, health and figures over HTTP. Reading any of them changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from atlatl.front import reports
from atlatl.front.answers import address, count_parameter, json_answer, text_parameter
from atlatl.front.auth import Scope
from atlatl.front.proto_json import to_json
from atlatl.front.reach import Reach, filtered, grant_of, touch
from atlatl.front.routes import Endpoint
from atlatl.telemetry.metrics import DEFAULT_WINDOW_S, parse_window
from atlatl.telemetry.prometheus import OPENMETRICS, content_type

if TYPE_CHECKING:
    from atlatl.service import FunctionService

_ALL_TASKS = 1000
_READY = {"200": ["application/json"], "503": ["application/json"]}
_TEXTS = {"200": ["text/plain", "application/openmetrics-text"]}


class Figures:
    """Answers probes, metrics, health and statistics."""

    def __init__(self, service: FunctionService) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        serverless = "/api/serverless"
        none, shown = Reach.NONE, Reach.SHOWN
        return [
            Endpoint("GET", "/healthz", self.alive, Scope.PROBE, reach=none),
            Endpoint("GET", "/readyz", self.ready, Scope.PROBE, answers=_READY, reach=none),
            Endpoint("GET", "/metrics", self.prometheus, Scope.WATCH, answers=_TEXTS),
            Endpoint("GET", "/api/v1/health", self.health, Scope.WATCH, reach=none),
            Endpoint("GET", "/api/v1/stats", self.stats, Scope.WATCH, ("time_range_hours",)),
            Endpoint(
                "GET",
                serverless + "/metrics",
                self.metrics,
                Scope.WATCH,
                ("window", "task"),
                reach=shown,
            ),
            Endpoint("GET", serverless + "/health", self.pool_health, Scope.WATCH, reach=none),
            Endpoint("GET", serverless + "/functions", self.functions, Scope.DEPLOY, reach=shown),
        ]

    async def alive(self, request: Request) -> Response:
        """Says that the process runs."""
        return json_answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Says whether calls can be served: 200, or 503 with the reason."""
        ready, reason = self._service.ready()
        return json_answer({"ready": ready, "reason": reason}, status=200 if ready else 503)

    async def prometheus(self, request: Request) -> Response:
        """Figures in Prometheus' text format, or in OpenMetrics when asked for."""
        media_type = content_type(request.headers.get("accept", ""))
        text = await self._service.scrape(openmetrics=media_type == OPENMETRICS)
        return Response(text, headers={"Content-Type": media_type})

    async def health(self, request: Request) -> Response:
        """Answers as GetHealth does, in proto3 JSON."""
        return json_answer(to_json(reports.health(self._service.health())))

    async def stats(self, request: Request) -> Response:
        """Answers as GetStats does, in proto3 JSON and with all its parts."""
        hours = count_parameter(request, "time_range_hours", 0)
        figures = self._service.stats(hours=hours)
        return json_answer(to_json(reports.stats(figures, with_tasks=True, with_executions=True)))

    async def metrics(self, request: Request) -> Response:
        """Figures since the start and over a sliding window."""
        window = text_parameter(request, "window")
        window_s = parse_window(window) if window else DEFAULT_WINDOW_S
        task = text_parameter(request, "task") or None
        grant = grant_of(request)
        if task is None:
            grant.touch_all()
        else:
            touch(grant, self._service, task)
        answer = json_answer(self._service.metrics_answer(window_s, task))
        answer.headers["Content-Type"] = "application/json; charset=utf-8"
        return answer

    async def pool_health(self, request: Request) -> Response:
        """Says in a word how the service does, with the sums of its pools."""
        pools = self._service.pools()
        return json_answer(
            {
                "status": "ok" if self._service.ready()[0] else "unavailable",
                "pool": {
                    "total": sum(pool.total for pool in pools),
                    "inUse": sum(pool.in_use for pool in pools),
                    "available": sum(pool.available for pool in pools),
                },
            }
        )

    async def functions(self, request: Request) -> Response:
        """Lists the address of each function; hooks and workers are things we do not have."""
        tasks = self._service.tasks(limit=_ALL_TASKS, **filtered(grant_of(request))).items
        rows = [
            {"path": address(request, "functions", task.name), "task_name": task.name}
            for task in tasks
        ]
        return json_answer({"routes": rows, "hooks": [], "workers": []})
