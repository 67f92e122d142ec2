"""What a client asks the HTTP API, and how it reads the answers; nothing is sent here."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from atlatl import errors
from atlatl.core.moments import show_moment
from atlatl.errors import AtlatlError, CircuitOpenError, ExecutionError, InvalidRequest
from atlatl.model import ExecutionStatus, check_task_name

Row = dict[str, Any]

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 960.0
"""The service ends every call by its deadline, at most 900 s by default; this is for its end."""

EVENTS_TIMEOUT_S = 60.0
"""Of a stream of events: something comes every 15 s, if only a comment."""

WAIT_S = 20.0
"""Longest time that one question waits for an end; what lies between keeps the connection."""

PROBLEM = "application/problem+json"
_LINES = msgspec.json.Decoder()
_LOCAL = re.compile(r"localhost|127\.[0-9.]+|::1")


class ServiceUnreachable(ConnectionError):
    """No service answers at its address, or the connection broke."""


class Answer(msgspec.Struct, frozen=True):
    """What a function returned, and how it came to it."""

    value: Any
    """JSON decoded, text as str, all else as bytes; of a generator, all its JSON items."""
    status: int
    headers: Mapping[str, str]
    execution_id: str = ""
    instance_id: str = ""
    duration_ms: float = 0.0
    cold_start: bool = False


class Question(msgspec.Struct, frozen=True):
    """One request; `options` are httpx's."""

    method: str
    path: str
    options: dict[str, Any] = {}


def _path(*segments: str) -> str:
    return "".join("/" + quote(segment, safe="") for segment in segments)


def _api(*segments: str) -> str:
    return "/api/v1" + _path(*segments)


def _of_task(kind: str, name: str, *rest: str) -> str:
    """A path of the API with a task's name in it; a `/` in a name would lead elsewhere."""
    return _api(kind, check_task_name(name), *rest)


def get(*segments: str, **query: Any) -> Question:
    """Reads something below `/api/v1`; empty query parameters are left out."""
    params = {name: value for name, value in query.items() if value not in ("", None)}
    return Question("GET", _api(*segments), {"params": params})


def call(
    name: str,
    value: Any,
    *,
    timeout_ms: int = 0,
    execution_id: str = "",
    priority: int | None = None,
    max_retries: int | None = None,
    not_before: datetime | float | None = None,
    callback_url: str = "",
    headers: Mapping[str, str] | None = None,
    preferences: Mapping[str, str] | None = None,
) -> Question:
    """Calls a function; see `Client.call` and `Client.submit`.

    `preferences` say how the answer is wanted.
    """
    content, content_type = _body(value)
    stated = {
        "Content-Type": content_type,
        "Idempotency-Key": execution_id,
        "Atlatl-Timeout-Ms": str(timeout_ms) if timeout_ms else "",
        "Priority": "" if priority is None else f"u={priority}",
        "Atlatl-Max-Retries": "" if max_retries is None else str(max_retries),
        "Atlatl-Not-Before": "" if not_before is None else _moment(not_before),
        "Atlatl-Callback-Url": callback_url,
    }
    own = {header: text for header, text in stated.items() if text}
    sent = {**own, **(headers or {}), **(preferences or {})}
    return Question(
        "POST", _path("functions", check_task_name(name)), {"content": content, "headers": sent}
    )


def _moment(at: datetime | float) -> str:
    try:
        return show_moment(at)
    except ValueError as error:
        raise InvalidRequest(f"`not_before`: {error}") from None


def _body(value: Any) -> tuple[bytes, str]:
    if value is None:
        return b"", ""
    if isinstance(value, bytes):
        return value, "application/octet-stream"
    if isinstance(value, str):
        return value.encode(), "text/plain; charset=utf-8"
    return msgspec.json.encode(value), "application/json"


def deploy(
    name: str, artifact: bytes, filename: str, settings: Mapping[str, Any] | None
) -> Question:
    """Deploys a task; see `Client.deploy`."""
    # Without a file name, the part would be taken for text.
    named = filename or ("main.zip" if artifact.startswith(b"PK") else "main.py")
    files = {"artifact": (named, artifact)}
    data = {"settings": msgspec.json.encode(settings or {}).decode()}
    return Question("PUT", _of_task("tasks", name), {"files": files, "data": data})


def task(name: str) -> Question:
    """Reads one task."""
    return Question("GET", _of_task("tasks", name))


def waits(execution_id: str, timeout_s: float, clock: Callable[[], float]) -> Iterator[Question]:
    """Reads a record when the execution has ended: again and again until the time is over.

    Args:
        execution_id: of the execution.
        timeout_s: 0 asks once and does not wait.
        clock: monotonic seconds.
    """
    ends = clock() + timeout_s
    left = timeout_s
    while True:
        yield get("executions", execution_id, wait=f"{min(max(left, 0.0), WAIT_S):.3f}")
        left = ends - clock()
        if left <= 0:
            return


def has_ended(record: Row) -> bool:
    """Whether an execution changes no more, by its record."""
    return ExecutionStatus(record["status"]).terminal


def redrive(execution_id: str) -> Question:
    """Has a dead letter tried again."""
    return Question("POST", _api("dead-letters", execution_id, "redrive"))


def dead_letter_deletion(execution_id: str) -> Question:
    """Lets a dead letter go."""
    return Question("DELETE", _api("dead-letters", execution_id))


def cancel(execution_id: str, reason: str, force: bool) -> Question:
    """Stops an execution."""
    body = {"json": {"reason": reason, "force": force}}
    return Question("POST", _api("executions", execution_id, "cancel"), body)


def deletion(name: str, force: bool) -> Question:
    """Deletes a task."""
    return Question("DELETE", _of_task("tasks", name), {"params": {"force": force}})


def set_breaker(task: str, verb: str) -> Question:
    """Resets, opens or disables a breaker."""
    return Question("POST", _of_task("breakers", task, verb))


def dashboard_code() -> Question:
    """Asks for a code that signs a browser in."""
    return Question("POST", "/api/v1/dashboard/codes")


def dashboard_address(url: httpx.URL, code: str) -> str:
    """Where a browser uses the code; the fragment is sent to nobody."""
    return f"{str(url).rstrip('/')}/#code={code}"


def prewarm(task: str, count: int) -> Question:
    """Warms a pool."""
    return Question("POST", _of_task("pools", task, "prewarm"), {"params": {"count": count}})


def figures(task: str, window: str) -> Question:
    """Figures since the start and over a window."""
    query = {name: value for name, value in (("task", task), ("window", window)) if value}
    return Question("GET", "/api/serverless/metrics", {"params": query})


def exposition() -> Question:
    """The same figures as Prometheus reads them."""
    return Question("GET", "/metrics")


def management_without_token() -> Question:
    """Something that somebody without a token must not be told."""
    options = {"params": {"limit": 1}, "headers": {"Authorization": ""}}
    return Question("GET", _api("tasks"), options)


def answer(response: httpx.Response) -> Answer:
    """What the function returned; raises what the call failed with."""
    raise_problem(response)
    headers = response.headers
    return Answer(
        value=_value(response),
        status=response.status_code,
        headers=dict(headers),
        execution_id=headers.get("atlatl-execution-id", ""),
        instance_id=headers.get("atlatl-instance-id", ""),
        duration_ms=float(headers.get("atlatl-duration-ms", 0)),
        cold_start=headers.get("atlatl-cold-start") == "1",
    )


def _media_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def rows(response: httpx.Response) -> Row:
    """The JSON object of a management answer; raises what it failed with."""
    _require_kind(response, "application/json")
    return msgspec.json.decode(response.content, type=Row)


def nothing(response: httpx.Response) -> None:
    """An answer without a body; raises what it failed with."""
    raise_problem(response)
    if response.status_code != 204:
        raise _stranger(response)


def text(response: httpx.Response) -> str:
    """The text of an answer that is for other programs; raises what it failed with."""
    _require_kind(response, "text/plain")
    return response.text


def _require_kind(response: httpx.Response, media_type: str) -> None:
    raise_problem(response)
    if response.status_code >= 400 or _media_type(response) != media_type:
        raise _stranger(response)


def _stranger(response: httpx.Response) -> ServiceUnreachable:
    return ServiceUnreachable(
        f"what answers at {response.url} is no atlatl service (status {response.status_code})"
    )


def _value(response: httpx.Response) -> Any:
    media_type = _media_type(response)
    if media_type == "application/json" or media_type.endswith("+json"):
        return msgspec.json.decode(response.content)
    if media_type == "application/x-ndjson":
        return _LINES.decode_lines(response.content)
    return response.text if media_type.startswith("text/") else response.content


def raise_problem(response: httpx.Response) -> None:
    """Raises when the answer is a problem; a function's own 404 is an answer like any other."""
    if _media_type(response) == PROBLEM:
        hint = response.headers.get("retry-after", "")
        raise error_from(msgspec.json.decode(response.content), float(hint) if hint else None)


def error_from(problem: Row, retry_after_s: float | None = None) -> AtlatlError:
    """The error that a problem document stands for: by `type`, else by `code`.

    Args:
        problem: the document.
        retry_after_s: the hint that came with it.
    """
    kind = _kind(problem)
    error = kind.__new__(kind)
    message = str(problem.get("detail") or problem.get("title") or "the service gave no reason")
    log = str(problem.get("log") or "")
    AtlatlError.__init__(error, message, retry_after_s=retry_after_s, detail=log)
    error.execution_id = str(problem.get("execution_id") or "")
    if isinstance(error, CircuitOpenError):
        named = re.search(r"for '(.*?)'", message)
        error.name = named[1] if named else ""
    return error


def _kind(problem: Row) -> type[AtlatlError]:
    words = str(problem.get("type", "")).rpartition(":")[2].split("-")
    kind = getattr(errors, "".join(word.capitalize() for word in words), None)
    if isinstance(kind, type) and issubclass(kind, AtlatlError):
        return kind
    kinds = (k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, AtlatlError))
    return next((k for k in kinds if vars(k).get("code") == problem.get("code")), AtlatlError)


Item = str | bytes
"""One of a stream: JSON as text, text, or bytes."""


class Events:
    """Reads server-sent events (WHATWG HTML, 9.2) line by line."""

    def __init__(self) -> None:
        self._kind = ""
        self._data: list[str] = []

    def line(self, line: str) -> Iterator[Item]:
        """The item that this line completes, if it completes one; raises the stream's error."""
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._kind = value
        elif field == "data":
            self._data.append(value)
        elif not line and self._data:
            kind, data = self._kind, "\n".join(self._data)
            self._kind, self._data = "", []
            if kind == "error":
                raise error_from(msgspec.json.decode(data))
            yield base64.b64decode(data) if kind == "bytes" else data


def happenings(kinds: Sequence[str], task: str) -> Question:
    """Listens to what happens."""
    question = get("events", kinds=",".join(kinds), task=task)
    return Question("GET", question.path, {**question.options, "timeout": EVENTS_TIMEOUT_S})


def as_rows(items: Iterable[Item]) -> Iterator[Row]:
    """Events as the objects that their data is."""
    for item in items:
        yield msgspec.json.decode(item, type=Row)


def refuse_others(response: httpx.Response) -> None:
    """Raises what was answered instead of events."""
    raise_problem(response)
    raise _stranger(response)


def is_events(response: httpx.Response) -> bool:
    """Whether the function streams."""
    return _media_type(response) == "text/event-stream"


def single_item(response: httpx.Response) -> Item:
    """The one item of a function that does not stream."""
    kind = _media_type(response)
    textual = kind.startswith("text/") or kind == "application/json"
    return response.text if textual else response.content


def client_options(
    url: str, token: str, ca_file: str = "", tls: ssl.SSLContext | None = None
) -> dict[str, Any]:
    """How to make an httpx client for a service."""
    if tls is None and ca_file:
        tls = ssl.create_default_context(cafile=ca_file)
    headers = {"User-Agent": "atlatl"} | ({"Authorization": f"Bearer {token}"} if token else {})
    return {
        "base_url": url,
        "headers": headers,
        "verify": tls if tls is not None else True,
        "timeout": httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        # A proxy for the outer world cannot reach this machine's loopback.
        "trust_env": _LOCAL.fullmatch(urlsplit(url).hostname or "") is None,
    }


@contextmanager
def reaching(url: httpx.URL) -> Iterator[None]:
    """Failures of the connection, in words."""
    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        if "incomplete chunked read" in reason:
            # Only a generator's answer is chunked, and this is how the service says it failed.
            raise ExecutionError(
                "the answer was broken off: the function failed after its first items; `stream` "
                "gives the reason too"
            ) from None
        raise ServiceUnreachable(f"no service answers at {url}: {reason}") from None
