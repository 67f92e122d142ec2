"""What is alive now, over HTTP: instances, pools and breakers."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from atlatl.engine.views import BreakerView, InstanceView, PoolView
from atlatl.front.answers import count_parameter, json_answer
from atlatl.front.auth import Scope
from atlatl.front.reach import Reach, grant_of
from atlatl.front.routes import Endpoint
from atlatl.front.rows import breaker_row, instance_row, pool_row

if TYPE_CHECKING:
    from atlatl.service import FunctionService

V = TypeVar("V", InstanceView, PoolView, BreakerView)


class Live:
    """Answers `/api/v1/instances`, `/api/v1/pools` and `/api/v1/breakers`."""

    def __init__(self, service: FunctionService) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        breaker = "/api/v1/breakers/{task}"
        shown, named = Reach.SHOWN, Reach.NAMED
        return [
            Endpoint("GET", "/api/v1/instances", self.instances, Scope.ADMIN, reach=shown),
            Endpoint("GET", "/api/v1/pools", self.pools, Scope.ADMIN, reach=shown),
            Endpoint(
                "POST",
                "/api/v1/pools/{task}/prewarm",
                self.prewarm,
                Scope.ADMIN,
                ("count",),
                reach=named,
            ),
            Endpoint("GET", "/api/v1/breakers", self.breakers, Scope.ADMIN, reach=shown),
            Endpoint("POST", breaker + "/reset", self.reset_breaker, Scope.ADMIN, reach=named),
            Endpoint("POST", breaker + "/open", self.open_breaker, Scope.ADMIN, reach=named),
            Endpoint("POST", breaker + "/disable", self.disable_breaker, Scope.ADMIN, reach=named),
        ]

    async def instances(self, request: Request) -> Response:
        """Lists the live instances."""
        views = self._seen(request, self._service.instances())
        return json_answer({"instances": [instance_row(view) for view in views]})

    async def pools(self, request: Request) -> Response:
        """Lists the pools, each with its last scaling decision."""
        views = self._seen(request, self._service.pools())
        return json_answer({"pools": [pool_row(view) for view in views]})

    async def prewarm(self, request: Request) -> Response:
        """Has `count` instances of a task ready."""
        name = request.path_params["task"]
        live = await self._service.prewarm(name, count_parameter(request, "count", 1))
        return json_answer({"task_name": name, "instances": live})

    async def breakers(self, request: Request) -> Response:
        """Lists the circuit breakers."""
        views = self._seen(request, self._service.breakers())
        return json_answer({"breakers": [breaker_row(view) for view in views]})

    def _seen(self, request: Request, views: list[V]) -> list[V]:
        grant = grant_of(request)
        return [view for view in views if grant.sees(view.task_name)]

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
