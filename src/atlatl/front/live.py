"""What is alive now, over HTTP: instances, pools and breakers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from atlatl.front.answers import count_parameter, json_answer
from atlatl.front.auth import Scope
from atlatl.front.routes import Endpoint
from atlatl.front.rows import breaker_row, instance_row, pool_row

if TYPE_CHECKING:
    from atlatl.service import FunctionService


class Live:
    """Answers `/api/v1/instances`, `/api/v1/pools` and `/api/v1/breakers`."""

    def __init__(self, service: FunctionService) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        breaker = "/api/v1/breakers/{task}"
        return [
            Endpoint("GET", "/api/v1/instances", self.instances, Scope.ADMIN),
            Endpoint("GET", "/api/v1/pools", self.pools, Scope.ADMIN),
            Endpoint("POST", "/api/v1/pools/{task}/prewarm", self.prewarm, Scope.ADMIN, ("count",)),
            Endpoint("GET", "/api/v1/breakers", self.breakers, Scope.ADMIN),
            Endpoint("POST", breaker + "/reset", self.reset_breaker, Scope.ADMIN),
            Endpoint("POST", breaker + "/open", self.open_breaker, Scope.ADMIN),
            Endpoint("POST", breaker + "/disable", self.disable_breaker, Scope.ADMIN),
        ]

    async def instances(self, request: Request) -> Response:
        """Lists the live instances."""
        return json_answer(
            {"instances": [instance_row(view) for view in self._service.instances()]}
        )

    async def pools(self, request: Request) -> Response:
        """Lists the pools, each with its last scaling decision."""
        return json_answer({"pools": [pool_row(view) for view in self._service.pools()]})

    async def prewarm(self, request: Request) -> Response:
        """Has `count` instances of a task ready."""
        name = request.path_params["task"]
        live = await self._service.prewarm(name, count_parameter(request, "count", 1))
        return json_answer({"task_name": name, "instances": live})

    async def breakers(self, request: Request) -> Response:
        """Lists the circuit breakers."""
        return json_answer({"breakers": [breaker_row(view) for view in self._service.breakers()]})

    async def reset_breaker(self, request: Request) -> Response:
        """Closes a breaker and lets it work by itself again."""
        self._service.breaker(request.path_params["task"]).reset()
        return self._breaker(request)

    async def open_breaker(self, request: Request) -> Response:
        """Holds a breaker open: calls of the task are refused until it is reset."""
        self._service.breaker(request.path_params["task"]).force_open()
        return self._breaker(request)

    async def disable_breaker(self, request: Request) -> Response:
        """Switches a breaker off until it is reset: it admits every call."""
        self._service.breaker(request.path_params["task"]).disable()
        return self._breaker(request)

    def _breaker(self, request: Request) -> Response:
        name = self._service.task(request.path_params["task"]).name
        views = self._service.breakers()
        return json_answer(next(breaker_row(view) for view in views if view.task_name == name))
