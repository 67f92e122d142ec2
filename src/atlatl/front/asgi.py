"""The HTTP front as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from atlatl.assembly import wall_clock
from atlatl.errors import AtlatlError, Draining
from atlatl.front.access import Gate, visitor
from atlatl.front.answers import address, json_answer
from atlatl.front.auth import Authorizer, Scope
from atlatl.front.dashboard import Dashboard
from atlatl.front.dead_letters import DeadLetters
from atlatl.front.events import Events
from atlatl.front.executions import Executions
from atlatl.front.figures import Figures
from atlatl.front.invocations import Invocations
from atlatl.front.invoke import Functions
from atlatl.front.live import Live
from atlatl.front.problems import on_crash, on_error, on_gone, on_http_exception
from atlatl.front.reach import Reach, keep_grant, keep_within
from atlatl.front.routes import Endpoint, openapi, routes
from atlatl.front.sending import CountedAnswers
from atlatl.front.sessions import Sessions
from atlatl.front.tasks import Tasks
from atlatl.front.tokens import TokenKeeper
from atlatl.front.watching import Watch

if TYPE_CHECKING:
    from atlatl.service import FunctionService


def asgi(
    service: FunctionService,
    *,
    authorizer: Authorizer | None = None,
    sessions: Sessions | None = None,
) -> Starlette:
    """The whole HTTP front of a service, to be served or to be mounted.

    Served by itself, it opens the service at its start and closes it at its end, unless the
    service is open already: then whoever opened it closes it.

    Mounted into another application, it never hears of start and end, because neither Starlette
    nor FastAPI tells mounted applications. There the outer application opens the service, and
    until it does every request gets 503:

        @asynccontextmanager
        async def lifespan(app):
            async with service:
                yield

        app = FastAPI(lifespan=lifespan)
        app.mount("/fn", atlatl.asgi(service))

    Every address in an answer begins with the prefix then.

    Args:
        service: what the front speaks for.
        authorizer: who may do what; by default by `auth.required` of the service's settings,
            with the tokens of its data directory.
        sessions: of the dashboard; whoever gives them calls their `look` from time to time.
    """
    settings = service.settings
    watch = None
    if authorizer is None:
        keeper = TokenKeeper(Path(settings.data_dir), settings.auth.required, wall_clock)
        authorizer = keeper.authorizer
        sessions = Sessions(authorizer)
        # Begun with the first request: there must be no thread before the service is open.
        watch = Watch(keeper.look, sessions.look, as_long_as=lambda: service.is_open)
    gate = Gate(authorizer, settings.http.host)

    async def admit(request: Request, endpoint: Endpoint) -> None:
        if watch is not None and service.is_open:
            watch.start()
        grant = gate.admit(visitor(request), endpoint.scope)
        keep_grant(request, grant)
        if endpoint.scope is not Scope.PROBE and not service.is_open:
            raise Draining(
                "the service is not open: `async with service:` belongs into the lifespan of the "
                "application that serves it",
                retry_after_s=1.0,
            )
        if grant.limited:
            await keep_within(grant, endpoint.reach, service, request.path_params)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if service.is_open:
            yield
            return
        async with service:
            yield

    app = Starlette(
        routes=routes(endpoints(service, gate, sessions), admit),
        middleware=[Middleware(CountedAnswers, service)],
        lifespan=lifespan,
        exception_handlers={
            AtlatlError: on_error,
            HTTPException: on_http_exception,
            ClientDisconnect: on_gone,
            Exception: on_crash,
        },
    )
    # A redirect would lose the body of a POST, and a handler may tell `/x/` from `/x`.
    app.router.redirect_slashes = False
    return app


def endpoints(
    service: FunctionService, gate: Gate, sessions: Sessions | None = None
) -> list[Endpoint]:
    """The table: everything that the front serves."""
    functions = Functions(service, gate)
    table = [
        *functions.endpoints(),
        *Tasks(service).endpoints(),
        *Executions(service).endpoints(),
        *DeadLetters(service).endpoints(),
        *Invocations(service).endpoints(),
        *Live(service).endpoints(),
        *Figures(service).endpoints(),
        *Events(service).endpoints(),
        *Dashboard(sessions if sessions is not None else Sessions(gate.authorizer)).endpoints(),
    ]

    async def describe(request: Request) -> Response:
        """Describes everything that is served here."""
        return json_answer(openapi(table, version=version("atlatl"), root=address(request)))

    table.append(Endpoint("GET", "/openapi.json", describe, Scope.PROBE, reach=Reach.NONE))
    return table
