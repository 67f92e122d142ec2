"""Failures as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from atlatl.errors import AtlatlError, Cancelled, PayloadTooLarge, Unauthenticated
from atlatl.problem import MEDIA_TYPE, problem

log = logging.getLogger(__name__)


class StreamCut(Exception):
    """Ends a chunked answer without its last chunk.

    The server closes the connection when it sees this: the only way of HTTP to say that what
    was sent so far is not the whole.
    """


class MethodNotAllowed(AtlatlError):
    """The path exists, and not for this method."""

    code = "METHOD_NOT_ALLOWED"
    http_status = 405
    grpc_status = "UNIMPLEMENTED"
    outcome = "invalid"

    def __init__(self, method: str, allowed: list[str]) -> None:
        self.allow = ", ".join(sorted(allowed))
        super().__init__(f"{method} is not possible here; use {self.allow}")


class RouteNotFound(AtlatlError):
    """Nothing is served at this path."""

    code = "NOT_FOUND"
    http_status = 404
    grpc_status = "NOT_FOUND"
    outcome = "invalid"


def problem_headers(error: AtlatlError) -> dict[str, str]:
    """What a client must know besides the document."""
    headers = {}
    if error.retry_after_s is not None and math.isfinite(error.retry_after_s):
        # Whole seconds (RFC 9110, 10.2.3); rounded down, the retry would come too early.
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="atlatl"'
    if isinstance(error, PayloadTooLarge):
        # The rest of the body is not read, so the connection cannot carry another request.
        headers["Connection"] = "close"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = error.allow
    return headers


def problem_response(
    error: AtlatlError, *, execution_id: str | None = None, **more: Any
) -> Response:
    return Response(
        msgspec.json.encode(problem(error, execution_id=execution_id, **more)),
        status_code=error.http_status,
        headers=problem_headers(error),
        media_type=MEDIA_TYPE,
    )


def path_of(request: Request) -> str:
    """The path, as it may stand in a message; `request.url` fails when `Host` is malformed."""
    path: str = request.scope["path"]
    return path if len(path) <= 200 else path[:200] + "..."


async def on_error(request: Request, error: Exception) -> Response:
    """Handler for the errors that atlatl raises on purpose."""
    assert isinstance(error, AtlatlError)
    return problem_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Handler for what the router and the parsers of bodies refuse."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(
            RouteNotFound(f"nothing is served at {path_of(request)}; see /openapi.json")
        )
    phrase = HTTPStatus(error.status_code).phrase
    document = {
        "type": "about:blank",
        "title": phrase,
        "status": error.status_code,
        "detail": error.detail,
        "code": phrase.upper().replace(" ", "_"),
        "execution_id": None,
        "retryable": False,
    }
    return Response(
        msgspec.json.encode(document),
        status_code=error.status_code,
        headers=error.headers,
        media_type=MEDIA_TYPE,
    )


async def on_gone(request: Request, error: Exception) -> Response:
    """Handler for callers who hang up in the middle of their request: nobody reads this."""
    return problem_response(Cancelled("the caller hung up before the request was complete"))


async def on_crash(request: Request, error: Exception) -> Response:
    """Handler for bugs."""
    return crashed(request.method, path_of(request), error)


def crashed(method: str, path: str, error: Exception) -> Response:
    """The answer to a request that met a bug: the log gets the traceback, the caller does not."""
    if not isinstance(error, StreamCut):
        log.error("%s %s failed", method, path, exc_info=error)
    return problem_response(
        AtlatlError("the service failed at this request; its log says why"),
    )
