"""The objects that functions meet: Context, Request, Response; and `after_fork`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs

Hook = Callable[[], object]

_hooks: Final[list[Hook]] = []


def after_fork(hook: Hook) -> Hook:
    """Has `hook` called in each instance before its first call; usable as a decorator.

    Open connections, seed generators and start threads there: what a module does while it is
    imported may be shared by several instances.
    """
    _hooks.append(hook)
    return hook


def run_hooks() -> None:
    """Calls what `after_fork` was given, in order."""
    for hook in _hooks:
        hook()


class Headers(dict[str, str]):
    """Names in lower case; looked up in any case."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.lower() if isinstance(name, str) else name)

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class Request:
    """A whole HTTP request.

    Attributes:
        method: in upper case.
        path: the part after the task's name; begins with `/`.
        query_string: as it was sent, without the `?`.
        headers: by name in lower case; a lookup may use any case.
        body: the bytes as they came.
    """

    __slots__ = ("body", "headers", "method", "path", "query_string")

    def __init__(
        self,
        method: str = "POST",
        path: str = "/",
        query_string: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        self.method = method
        self.path = path
        self.query_string = query_string
        self.headers = Headers({name.lower(): text for name, text in (headers or {}).items()})
        self.body = body

    @property
    def query(self) -> dict[str, str]:
        """Query parameters; of a repeated one the last."""
        return {name: texts[-1] for name, texts in self.query_lists.items()}

    @property
    def query_lists(self) -> dict[str, list[str]]:
        """Query parameters with all their values."""
        return parse_qs(self.query_string, keep_blank_values=True)

    @property
    def text(self) -> str:
        """The body as UTF-8; raises UnicodeDecodeError."""
        return self.body.decode()

    def json(self) -> Any:
        """The decoded body; raises ValueError when it is no JSON."""
        return json.loads(self.body)


class Response:
    """An answer with a status and headers of its own.

    Args:
        body: bytes and text as they are; all else is sent as JSON.
        status: HTTP status.
        headers: a mapping, or pairs where a name stands more than once.
        content_type: overrides what the body's type says.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: Any = b"",
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        content_type: str = "",
    ) -> None:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        self.headers = [(str(name), str(text)) for name, text in pairs]
        self.status = status
        self.body = body
        if content_type:
            self.headers = [pair for pair in self.headers if pair[0].lower() != "content-type"]
            self.headers.append(("content-type", content_type))


class Context:
    """What a function may know about the call that it serves.

    Attributes:
        execution_id: id of the execution, the same in every attempt.
        deadline: `time.monotonic()` at which the call is ended.
        attempt: 1, and one more with each retry.
        headers: of the request, by name in lower case.
        traceparent: W3C trace context, to be passed on; may be empty.
        task_name: name of the task.
        version: its version.
        environment: what the caller added to the environment for this call.
    """

    __slots__ = (
        "_ask_cancelled",
        "attempt",
        "deadline",
        "environment",
        "execution_id",
        "headers",
        "task_name",
        "traceparent",
        "version",
    )

    def __init__(
        self,
        execution_id: str = "",
        deadline: float = float("inf"),
        attempt: int = 1,
        headers: Mapping[str, str] | None = None,
        traceparent: str = "",
        task_name: str = "",
        version: int = 0,
        environment: Mapping[str, str] | None = None,
        ask_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.execution_id = execution_id
        self.deadline = deadline
        self.attempt = attempt
        self.headers = Headers({name.lower(): text for name, text in (headers or {}).items()})
        self.traceparent = traceparent
        self.task_name = task_name
        self.version = version
        self.environment = dict(environment or {})
        self._ask_cancelled = ask_cancelled

    def remaining_ms(self) -> int:
        """Milliseconds until the deadline, 0 when it is over."""
        return max(0, min(round((self.deadline - time.monotonic()) * 1000), 2**53))

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more.

        True from the deadline on, when the call was cancelled, and after it has ended. This is
        how a plain function learns that its caller hung up, which leaves it 5 seconds to tidy up
        and return, and, where executions share an instance, of every cancellation. One that has
        the instance to itself is otherwise not asked: the service ends it with the process.
        """
        return time.monotonic() >= self.deadline or self._ask_cancelled()
