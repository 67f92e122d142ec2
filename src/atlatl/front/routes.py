"""The table of routes: what is served, to whom, and how the router gets there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from atlatl.front.answers import MAX_WAIT_S
from atlatl.front.auth import Scope
from atlatl.front.problems import MethodNotAllowed
from atlatl.front.reach import Reach
from atlatl.model import ExecutionStatus

ANY_METHOD = ""

JSON = "application/json"

Answers = Mapping[str, Sequence[str]]
"""Media types by status, as OpenAPI writes both."""


class Endpoint(NamedTuple):
    """One thing that the HTTP front does."""

    method: str
    """ANY_METHOD is every method, also ones that HTTP does not know."""
    path: str
    """Parts in braces are parameters; `{path:path}` takes slashes too."""
    handler: Callable[[Request], Awaitable[ASGIApp]]
    """Its docstring's first line is the summary in the description of the API."""
    scope: Scope
    query: tuple[str, ...] = ()
    """Names of the query parameters that it reads."""
    body: Mapping[str, Mapping[str, Any]] = {}
    """Media types of the bodies that it reads, each with its JSON Schema."""
    answers: Answers = {"200": [JSON]}
    """Of success. All else is a problem document, unless there is one for `default`."""
    reach: Reach = Reach.ALL
    """A parameter `task` or `name` of its path is the task, `id` the execution."""


Admit = Callable[[Request, Endpoint], Awaitable[None]]
"""Lets a request in, or raises."""


def routes(endpoints: Iterable[Endpoint], admit: Admit) -> list[Route]:
    """One route a path, fixed paths before those with parameters."""
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    return [Route(path, PathApp(by_path[path], admit)) for path in sorted(by_path, key=_rank)]


def _rank(path: str) -> str:
    """Orders paths: at each place letters come before `{`, and before `~`, which takes the rest."""
    return re.sub(r"{\w+:path}$", "~", path)


class PathApp:
    """Everything that is served at one path: picks by method, once the request is let in."""

    def __init__(self, endpoints: Sequence[Endpoint], admit: Admit) -> None:
        self._by_method = {endpoint.method: endpoint for endpoint in endpoints}
        self._admit = admit

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        endpoint = self._endpoint(request.method)
        await self._admit(request, endpoint)
        answer = await endpoint.handler(request)
        await answer(scope, receive, send)

    def _endpoint(self, method: str) -> Endpoint:
        asked = "GET" if method == "HEAD" and "HEAD" not in self._by_method else method
        endpoint = self._by_method.get(asked) or self._by_method.get(ANY_METHOD)
        if endpoint is None:
            head = ["HEAD"] if "GET" in self._by_method else []
            raise MethodNotAllowed(method, [*self._by_method, *head])
        return endpoint


def openapi(endpoints: Iterable[Endpoint], *, version: str, root: str) -> dict[str, Any]:
    """The OpenAPI 3.1 description of the table.

    Args:
        endpoints: the table.
        version: of the running package.
        root: prefix that the front is mounted at; empty at the top.
    """
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", endpoint.path)
        for method in [endpoint.method] if endpoint.method else ["GET", "POST", "PUT", "DELETE"]:
            paths.setdefault(path, {})[method.lower()] = _operation(endpoint, method, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "atlatl", "version": version},
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _PROBLEM},
        },
    }


def _operation(endpoint: Endpoint, method: str, path: str) -> dict[str, Any]:
    parameters = [
        *(_parameter(name, "path") for name in re.findall(r"{(\w+)}", path)),
        *(_parameter(name, "query") for name in endpoint.query),
    ]
    summary = (endpoint.handler.__doc__ or "").partition("\n")[0]
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": summary,
        "parameters": parameters,
        "x-scope": endpoint.scope.value,
        "security": [] if endpoint.scope is Scope.PROBE else [{"token": []}],
        "responses": _responses(endpoint.answers),
    }
    if endpoint.body:
        content = {media_type: {"schema": schema} for media_type, schema in endpoint.body.items()}
        operation["requestBody"] = {"content": content}
    return operation


def _responses(answers: Answers) -> dict[str, Any]:
    described: dict[str, Any] = {
        status: {
            "description": "The answer." if status != "default" else "Whatever is answered here.",
            "content": {media_type: {} for media_type in media_types},
        }
        for status, media_types in answers.items()
    }
    if "default" in described:
        return described
    return {**described, "4XX": _PROBLEM_ANSWER, "5XX": _PROBLEM_ANSWER}


def _parameter(name: str, place: str) -> dict[str, Any]:
    schema = _QUERY.get(name, _TEXT) if place == "query" else _TEXT
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_QUERY: dict[str, dict[str, Any]] = {
    "cleanup_executions": _FLAG,
    "count": {"type": "integer", "minimum": 1},
    "force": _FLAG,
    "limit": _COUNT,
    "status": {"type": "string", "enum": ["", *(status.value for status in ExecutionStatus)]},
    "time_range_hours": _COUNT,
    "timeout_ms": _COUNT,
    "wait": {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S},
    "window": {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?[sm]?$"},
}
"""What a query parameter of that name takes, at every path; the others are texts."""

_PROBLEM_ANSWER = {
    "description": "A problem document (RFC 9457).",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "execution_id", "retryable"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "execution_id": {"type": ["string", "null"]},
        "retryable": {"type": "boolean"},
    },
}
