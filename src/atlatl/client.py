"""Clients of the HTTP API, for programs, for the command line and for tests.

`Client` waits, `AsyncClient` is awaited; both offer the same. What fails raises the same
class of `atlatl.errors` as inside the service, or ServiceUnreachable.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from atlatl import exchange
from atlatl.exchange import Answer, Events, Item, Question, Row, ServiceUnreachable, reaching

__all__ = ["Answer", "AsyncClient", "Client", "Item", "Row", "ServiceUnreachable"]

DEFAULT_URL = "http://127.0.0.1:8081"
STREAMED = {"Accept": "text/event-stream"}
ASYNC = {"Prefer": "respond-async"}


class Client:
    """A client that waits for its answers. Also a context manager that closes it.

    Args:
        url: of the service, with the prefix that it is mounted at, if it is.
        token: empty is none: enough to call functions on the same machine.
        ca_file: PEM; of the authorities that an `https://` service is believed by. Empty takes
            the public ones.
        tls: says the same and more, such as a client's certificate.
        transport: another way to the service, for tests.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str = "",
        ca_file: str = "",
        tls: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        options = exchange.client_options(url, token, ca_file, tls)
        self._http = httpx.Client(transport=transport, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _send(self, question: Question) -> httpx.Response:
        with reaching(self._http.base_url):
            return self._http.request(question.method, question.path, **question.options)

    @contextmanager
    def _answered(self, question: Question) -> Iterator[httpx.Response]:
        """The answer as it begins to come, its body not read yet."""
        with (
            reaching(self._http.base_url),
            self._http.stream(question.method, question.path, **question.options) as response,
        ):
            yield response

    def _rows(self, question: Question) -> Row:
        return exchange.rows(self._send(question))

    def call(self, name: str, value: Any = None, **options: Any) -> Answer:
        """Calls a function.

        Args:
            name: of the task.
            value: None is no body; str and bytes go as they are, all else as JSON. A dict is
                bound to the handler's parameters.
            options: `timeout_ms`, `execution_id` (makes the call idempotent), `priority` from 0
                (most urgent) to 7, `max_retries`, and `headers` for the function.

        Raises:
            ExecutionError: one of its leaves says what happened.
        """
        return exchange.answer(self._send(exchange.call(name, value, **options)))

    def invoke(self, name: str, value: Any = None, **options: Any) -> Any:
        """The value that the function returned; otherwise like `call`."""
        return self.call(name, value, **options).value

    def submit(self, name: str, value: Any = None, **options: Any) -> Row:
        """Has the function called later, durably; gives the record of the execution.

        Args:
            name: of the task.
            value: as for `call`.
            options: those of `call`; `not_before`, a time with its timezone or Unix seconds,
                before which it does not begin; and `callback_url`, which is told of the end.
        """
        return self._rows(exchange.call(name, value, preferences=ASYNC, **options))

    def stream(self, name: str, value: Any = None, **options: Any) -> Iterator[Item]:
        """Calls a generator handler and gives its items as they come.

        JSON items come as the text they were sent as. A function that is no generator gives one
        item. Raises like `call`, also in the middle.
        """
        question = exchange.call(name, value, preferences=STREAMED, **options)
        with self._answered(question) as response:
            if not exchange.is_events(response):
                response.read()
                exchange.raise_problem(response)
                yield exchange.single_item(response)
                return
            events = Events()
            for line in response.iter_lines():
                yield from events.line(line)

    def deploy(
        self,
        name: str,
        artifact: bytes,
        *,
        filename: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> Row:
        """Deploys a task, or changes it; gives its row with `created`, `changed` and `log`.

        Args:
            name: of the task.
            artifact: bytes of a `.py` file, or of a zip of a directory.
            filename: names the kind, like `hello.py` or `hello.zip`; empty tells it by the bytes.
            settings: of the task, for example `{"timeout_ms": 5000}`.
        """
        return self._rows(exchange.deploy(name, artifact, filename, settings))

    def tasks(self, *, prefix: str = "", limit: int = 100, start_after: str = "") -> Row:
        """One page: `tasks`, and `next_start_after` for the next one."""
        return self._rows(
            exchange.get("tasks", prefix=prefix, limit=limit, start_after=start_after)
        )

    def task(self, name: str) -> Row:
        return self._rows(exchange.task(name))

    def delete(self, name: str, *, force: bool = False) -> Row:
        """Deletes a task; with executions in progress only by force."""
        return self._rows(exchange.deletion(name, force))

    def executions(
        self, *, task: str = "", status: str = "", limit: int = 100, start_after: str = ""
    ) -> Row:
        """One page, newest first: `executions`, and `next_start_after` for the next one."""
        query = {"task": task, "status": status, "limit": limit, "start_after": start_after}
        return self._rows(exchange.get("executions", **query))

    def execution(self, execution_id: str) -> Row:
        return self._rows(exchange.get("executions", execution_id))

    def wait(self, execution_id: str, timeout_s: float) -> Row:
        """The record when the execution has ended, or as it stands when the time is over."""
        record: Row = {}
        for question in exchange.waits(execution_id, timeout_s, time.monotonic):
            record = self._rows(question)
            if exchange.has_ended(record):
                break
        return record

    def result(self, execution_id: str) -> Answer:
        """What the call returned; raises what it failed with. Status 202 while it goes on."""
        return exchange.answer(self._send(exchange.get("executions", execution_id, "result")))

    def dead_letters(self, *, limit: int = 100, start_after: str = "") -> Row:
        """One page, the latest to fail first: `dead_letters`, and `next_start_after`."""
        return self._rows(exchange.get("dead-letters", limit=limit, start_after=start_after))

    def redrive(self, execution_id: str) -> Row:
        """Has a dead letter tried again under its id; gives its record."""
        return self._rows(exchange.redrive(execution_id))

    def delete_dead_letter(self, execution_id: str) -> None:
        """Gives up trying a dead letter again; its record stays."""
        exchange.nothing(self._send(exchange.dead_letter_deletion(execution_id)))

    def logs(self, execution_id: str) -> Row:
        """What the execution printed, in `lines`, and its `traceback`."""
        return self._rows(exchange.get("executions", execution_id, "logs"))

    def explain(self, execution_id: str) -> Row:
        """The life of an execution: `summary`, and `steps` in the order of time."""
        return self._rows(exchange.get("executions", execution_id, "explain"))

    def cancel(self, execution_id: str, *, reason: str = "", force: bool = False) -> Row:
        return self._rows(exchange.cancel(execution_id, reason, force))

    def instances(self) -> list[Row]:
        return _list(self._rows(exchange.get("instances")), "instances")

    def pools(self) -> list[Row]:
        return _list(self._rows(exchange.get("pools")), "pools")

    def breakers(self) -> list[Row]:
        return _list(self._rows(exchange.get("breakers")), "breakers")

    def set_breaker(self, task: str, verb: str) -> Row:
        """`reset`, `open` or `disable` the breaker of a task."""
        return self._rows(exchange.set_breaker(task, verb))

    def prewarm(self, task: str, count: int = 1) -> Row:
        """Has `count` instances of a task ready."""
        return self._rows(exchange.prewarm(task, count))

    def health(self) -> Row:
        """GetHealthResponse in proto3 JSON: 64-bit numbers are text."""
        return self._rows(exchange.get("health"))

    def stats(self, *, hours: int = 0) -> Row:
        """GetStatsResponse in proto3 JSON, of the last hours; 0 is since the start."""
        return self._rows(exchange.get("stats", time_range_hours=hours))

    def figures(self, *, task: str = "", window: str = "") -> Row:
        """Figures since the start and over a window such as `30s` or `5m`; of one task, or all."""
        return self._rows(exchange.figures(task, window))

    def prometheus(self) -> str:
        """The same figures as Prometheus reads them."""
        return exchange.text(self._send(exchange.exposition()))

    def events(self, *, kinds: Sequence[str] = (), task: str = "") -> Iterator[Row]:
        """What happens from now on, until the service ends the stream; no kinds is all of them."""
        with self._answered(exchange.happenings(kinds, task)) as response:
            if not exchange.is_events(response):
                response.read()
                exchange.refuse_others(response)
            events = Events()
            for line in response.iter_lines():
                yield from exchange.as_rows(events.line(line))

    def dashboard_address(self) -> str:
        """An address of the dashboard that signs one browser in; needs the admin token itself."""
        code = self._rows(exchange.dashboard_code())["code"]
        return exchange.dashboard_address(self._http.base_url, code)

    def is_guarded(self) -> bool:
        """Whether the service refuses to be managed without a token."""
        return self._send(exchange.management_without_token()).status_code == 401


class AsyncClient:
    """The same as Client, to be awaited. Also an async context manager that closes it."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str = "",
        ca_file: str = "",
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        options = exchange.client_options(url, token, ca_file, tls)
        self._http = httpx.AsyncClient(transport=transport, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def _send(self, question: Question) -> httpx.Response:
        with reaching(self._http.base_url):
            return await self._http.request(question.method, question.path, **question.options)

    @asynccontextmanager
    async def _answered(self, question: Question) -> AsyncIterator[httpx.Response]:
        with reaching(self._http.base_url):
            async with self._http.stream(
                question.method, question.path, **question.options
            ) as response:
                yield response

    async def _rows(self, question: Question) -> Row:
        return exchange.rows(await self._send(question))

    async def call(self, name: str, value: Any = None, **options: Any) -> Answer:
        return exchange.answer(await self._send(exchange.call(name, value, **options)))

    async def invoke(self, name: str, value: Any = None, **options: Any) -> Any:
        return (await self.call(name, value, **options)).value

    async def submit(self, name: str, value: Any = None, **options: Any) -> Row:
        return await self._rows(exchange.call(name, value, preferences=ASYNC, **options))

    async def stream(self, name: str, value: Any = None, **options: Any) -> AsyncIterator[Item]:
        """See Client."""
        question = exchange.call(name, value, preferences=STREAMED, **options)
        async with self._answered(question) as response:
            if not exchange.is_events(response):
                await response.aread()
                exchange.raise_problem(response)
                yield exchange.single_item(response)
                return
            events = Events()
            async for line in response.aiter_lines():
                for item in events.line(line):
                    yield item

    async def deploy(
        self,
        name: str,
        artifact: bytes,
        *,
        filename: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> Row:
        return await self._rows(exchange.deploy(name, artifact, filename, settings))

    async def tasks(self, *, prefix: str = "", limit: int = 100, start_after: str = "") -> Row:
        return await self._rows(
            exchange.get("tasks", prefix=prefix, limit=limit, start_after=start_after)
        )

    async def task(self, name: str) -> Row:
        return await self._rows(exchange.task(name))

    async def delete(self, name: str, *, force: bool = False) -> Row:
        return await self._rows(exchange.deletion(name, force))

    async def executions(
        self, *, task: str = "", status: str = "", limit: int = 100, start_after: str = ""
    ) -> Row:
        query = {"task": task, "status": status, "limit": limit, "start_after": start_after}
        return await self._rows(exchange.get("executions", **query))

    async def execution(self, execution_id: str) -> Row:
        return await self._rows(exchange.get("executions", execution_id))

    async def wait(self, execution_id: str, timeout_s: float) -> Row:
        record: Row = {}
        for question in exchange.waits(execution_id, timeout_s, time.monotonic):
            record = await self._rows(question)
            if exchange.has_ended(record):
                break
        return record

    async def result(self, execution_id: str) -> Answer:
        return exchange.answer(await self._send(exchange.get("executions", execution_id, "result")))

    async def dead_letters(self, *, limit: int = 100, start_after: str = "") -> Row:
        return await self._rows(exchange.get("dead-letters", limit=limit, start_after=start_after))

    async def redrive(self, execution_id: str) -> Row:
        return await self._rows(exchange.redrive(execution_id))

    async def delete_dead_letter(self, execution_id: str) -> None:
        exchange.nothing(await self._send(exchange.dead_letter_deletion(execution_id)))

    async def logs(self, execution_id: str) -> Row:
        return await self._rows(exchange.get("executions", execution_id, "logs"))

    async def explain(self, execution_id: str) -> Row:
        return await self._rows(exchange.get("executions", execution_id, "explain"))

    async def cancel(self, execution_id: str, *, reason: str = "", force: bool = False) -> Row:
        return await self._rows(exchange.cancel(execution_id, reason, force))

    async def instances(self) -> list[Row]:
        return _list(await self._rows(exchange.get("instances")), "instances")

    async def pools(self) -> list[Row]:
        return _list(await self._rows(exchange.get("pools")), "pools")

    async def breakers(self) -> list[Row]:
        return _list(await self._rows(exchange.get("breakers")), "breakers")

    async def set_breaker(self, task: str, verb: str) -> Row:
        return await self._rows(exchange.set_breaker(task, verb))

    async def prewarm(self, task: str, count: int = 1) -> Row:
        return await self._rows(exchange.prewarm(task, count))

    async def health(self) -> Row:
        return await self._rows(exchange.get("health"))

    async def stats(self, *, hours: int = 0) -> Row:
        return await self._rows(exchange.get("stats", time_range_hours=hours))

    async def figures(self, *, task: str = "", window: str = "") -> Row:
        return await self._rows(exchange.figures(task, window))

    async def prometheus(self) -> str:
        return exchange.text(await self._send(exchange.exposition()))

    async def events(self, *, kinds: Sequence[str] = (), task: str = "") -> AsyncIterator[Row]:
        """See Client."""
        async with self._answered(exchange.happenings(kinds, task)) as response:
            if not exchange.is_events(response):
                await response.aread()
                exchange.refuse_others(response)
            events = Events()
            async for line in response.aiter_lines():
                for row in exchange.as_rows(events.line(line)):
                    yield row

    async def dashboard_address(self) -> str:
        code = (await self._rows(exchange.dashboard_code()))["code"]
        return exchange.dashboard_address(self._http.base_url, code)

    async def is_guarded(self) -> bool:
        return (await self._send(exchange.management_without_token())).status_code == 401


def _list(row: Row, name: str) -> list[Row]:
    items: list[Row] = row[name]
    return items
