"""Executions as answers over HTTP: those that ended, and those that were accepted."""

from __future__ import annotations

import re
from urllib.parse import quote

from starlette.responses import Response

from atlatl.errors import AtlatlError, InternalFailure, ResultInvalid
from atlatl.front.answers import json_answer
from atlatl.front.problems import problem_response
from atlatl.front.rows import execution_row
from atlatl.model import Execution, Result

HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Of the connection and not of the answer: a function's own are left out."""

OF_ALL_PAGES = frozenset(
    {
        "alt-svc",
        "clear-site-data",
        "nel",
        "report-to",
        "service-worker-allowed",
        "strict-transport-security",
    }
)
"""Left out too: they speak for all that is of the same origin, the dashboard included. A function's
page could put itself in front of it, sign it out, or be told what it asks for."""

SANDBOX = (
    "sandbox allow-downloads allow-forms allow-modals allow-popups allow-popups-to-escape-sandbox "
    "allow-scripts"
)
"""Policy of what a browser would show as a page: its scripts run, but in an origin of their own and
not in that of the dashboard (HTML, 7.1.5)."""

_NO_PAGE = re.compile(
    r"(?:application/(?:gzip|javascript|json|octet-stream|pdf|x-ndjson|zip)"
    r"|(?:audio|font|video)/[a-z0-9.+-]+|image/(?:avif|bmp|gif|jpeg|png|webp|x-icon)"
    r"|text/(?:css|csv|event-stream|javascript|plain))(?:\s*;[^,]*)?",
    re.IGNORECASE,
)
"""Media types that run nothing where they are shown. Those that do (HTML, SVG, whatever is made of
XML) are too many to be named."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""RFC 9110, 5.5: with a line break in it, a value could add headers of its own."""


def answer(execution: Execution, *, sandbox: bool) -> Response:
    """An execution that ended, as its caller gets it.

    Args:
        execution: its record.
        sandbox: a page gets an origin of its own; `http.sandbox_pages`.
    """
    outcome = execution.outcome
    if outcome is None:
        raise InternalFailure(f"execution {execution.execution_id} ended without an outcome")
    if outcome.error is not None:
        return _failed(execution, outcome.error)
    result = outcome.result or Result(kind="json", body=b"null")
    if fault := _fault(result):
        return _failed(execution, ResultInvalid(fault))
    response = Response(
        b"" if result.status in (204, 205, 304) else result.body,
        status_code=result.status,
        headers=execution_headers(execution),
        media_type=None if result.kind == "response" else result.content_type,
    )
    if result.kind == "response":
        _add_own_headers(response, result)
        # No browser shall take it for another media type than that by which it was judged.
        response.headers["x-content-type-options"] = "nosniff"
        if sandbox and not _NO_PAGE.fullmatch(result.content_type):
            _keep_apart(response)
    return response


def accepted(execution: Execution, root: str) -> Response:
    """The answer to a call that is done in the background.

    Args:
        execution: its record.
        root: prefix that the front is mounted at.
    """
    where = f"{root}/api/v1/executions/{quote(execution.execution_id, safe='')}"
    headers = {
        "Location": where,
        "Preference-Applied": "respond-async",
        "Atlatl-Execution-Id": execution.execution_id,
    }
    return json_answer(execution_row(execution), status=202, headers=headers)


def _fault(result: Result) -> str:
    """Why HTTP cannot carry a function's own answer; empty when it can."""
    if not 200 <= result.status <= 599:
        return f"the function answered with status {result.status}; it must be from 200 to 599"
    for name, value in result.headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            return f"the function answered with header {name!r}, which HTTP cannot carry"
    return ""


def execution_headers(execution: Execution) -> dict[str, str]:
    headers = {"Atlatl-Execution-Id": execution.execution_id}
    outcome = execution.outcome
    instance_id = execution.instance_id or (outcome.instance_id if outcome else "")
    if instance_id:
        headers["Atlatl-Instance-Id"] = instance_id
    if outcome is not None:
        headers["Atlatl-Duration-Ms"] = f"{outcome.run_s * 1000:.3f}"
    if execution.cold_start:
        headers["Atlatl-Cold-Start"] = "1"
    return headers


def _add_own_headers(response: Response, result: Result) -> None:
    """The headers that a function set itself; our own names stay ours."""
    for name, value in (("content-type", result.content_type), *result.headers):
        lower = name.lower()
        if lower in HOP_BY_HOP or lower in OF_ALL_PAGES or lower.startswith("atlatl-"):
            continue
        if lower == "set-cookie":
            response.headers.append(name, value)
        else:
            response.headers[name] = value


def _keep_apart(page: Response) -> None:
    """Adds the policy of an origin of its own, unless the page has one that is as good.

    Of several policies each holds; where browsers take the last sandbox alone, it is ours.
    """
    own = page.headers.get("content-security-policy", "").lower()
    directives = [directive.split() for directive in re.split("[;,]", own)]
    sandboxed = any(words[:1] == ["sandbox"] for words in directives)
    # Of what is not ASCII browsers make nothing.
    if not sandboxed or "allow-same-origin" in own or not own.isascii():
        page.headers.append("content-security-policy", SANDBOX)


def _failed(execution: Execution, error: AtlatlError) -> Response:
    response = problem_response(error, execution_id=execution.execution_id)
    response.headers.update(execution_headers(execution))
    return response
