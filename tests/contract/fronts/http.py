"""The HTTP front, in this process and behind its listener."""

from __future__ import annotations

import base64
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from urllib.parse import quote

import httpx
import msgspec

from atlatl.errors import AtlatlError
from tests.contract.fronts.front import (
    Answer,
    Front,
    GaveUp,
    Health,
    How,
    Listed,
    Reading,
    Record,
    Stats,
)
from tests.contract.fronts.memory import InMemory

EVENTS = "text/event-stream"
STATUS_OF = {"EXECUTION_TIMEOUT": "TIMEOUT", "CANCELLED": "CANCELLED"}
"""Of the executions that failed with these codes; all others are FAILED."""


class HttpFront(Front):
    """Whatever speaks HTTP."""

    can: ClassVar[frozenset[str]] = frozenset({"stream", "chunks", "priority"})

    @abstractmethod
    def transport(self) -> httpx.AsyncBaseTransport: ...

    async def open(self) -> None:
        self.http = httpx.AsyncClient(
            transport=self.transport(),
            base_url=self.stand.url,
            headers={"Authorization": f"Bearer {self.stand.token}"},
        )

    async def close(self) -> None:
        await self.http.aclose()

    def expected(self, leaf: type[AtlatlError], *, streaming: bool = False) -> tuple[str, str]:
        return str(leaf.http_status), leaf.code

    # --- calls ---

    async def ask(self, name: str, value: Any, how: How) -> Answer:
        request = self._request(name, value, how)
        try:
            return answer_of(await self.http.send(request))
        except httpx.TimeoutException:
            raise GaveUp from None

    def _request(self, name: str, value: Any, how: How, **accept: str) -> httpx.Request:
        content, content_type = _body(value)
        stated = {
            "content-type": content_type,
            "idempotency-key": how.execution_id,
            "atlatl-timeout-ms": str(how.timeout_ms) if how.timeout_ms else "",
            "atlatl-max-retries": "" if how.max_retries is None else str(how.max_retries),
            "priority": "" if how.priority is None else f"u={how.priority}",
            "prefer": "respond-async" if how.later else "",
        }
        headers = {header: text for header, text in stated.items() if text}
        return self.http.build_request(
            "POST",
            f"/functions/{quote(name, safe='')}",
            content=content,
            headers={**headers, **how.headers, **accept},
            timeout=how.patience_s,
        )

    @asynccontextmanager
    async def read(self, name: str, value: Any, how: How) -> AsyncIterator[Reading]:
        request = self._request(name, value, how, accept=EVENTS)
        response = await self.http.send(request, stream=True)
        try:
            yield Reading(_events(response))
        finally:
            await response.aclose()

    @asynccontextmanager
    async def chunks(self, name: str) -> AsyncIterator[httpx.Response]:
        response = await self.http.send(self._request(name, None, How()), stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    # --- executions ---

    async def status(self, execution_id: str) -> Record | None:
        one = f"/api/v1/executions/{quote(execution_id, safe='')}"
        response = await self.http.get(one)
        if response.status_code == 404:
            assert answer_of(response).code == "EXECUTION_NOT_FOUND"
            return None
        row = _json(response)
        value = b""
        if row["status"] == "COMPLETED":
            value = (await self.http.get(one + "/result")).content
        logs = _json(await self.http.get(one + "/logs"))["lines"]
        assert row["execution_id"] == execution_id
        code = row["error_code"] or ""
        return Record(status=row["status"], code=code, value=value, logs=tuple(logs))

    async def cancel(self, execution_id: str, *, force: bool = False) -> tuple[bool, str]:
        response = await self.http.post(
            f"/api/v1/executions/{quote(execution_id, safe='')}/cancel",
            json={"reason": "the suite asks", "force": force},
        )
        if response.status_code == 404:
            return False, ""
        row = _json(response)
        return row["cancelled"], row["status"]

    async def executions(
        self, task: str, *, limit: int, after: str = "", status: str = ""
    ) -> Listed:
        query: dict[str, Any] = {
            "task": task,
            "limit": limit,
            "start_after": after,
            "status": status,
        }
        tree = _json(await self.http.get("/api/v1/executions", params=query))
        ids = [row["execution_id"] for row in tree["executions"]]
        return Listed(ids=ids, after=tree["next_start_after"] or "")

    # --- tasks ---

    async def tasks(self, prefix: str, *, limit: int, after: str = "") -> Listed:
        query: dict[str, Any] = {"prefix": prefix, "limit": limit, "start_after": after}
        tree = _json(await self.http.get("/api/v1/tasks", params=query))
        ids = [row["task_id"] for row in tree["tasks"]]
        return Listed(ids=ids, after=tree["next_start_after"] or "")

    async def create(self, name: str, code: bytes, *, kind: str = "py", token: bool = True) -> str:
        path, query = f"/api/v1/tasks/{quote(name, safe='')}", {"filename": f"main.{kind}"}
        request = self.http.build_request("PUT", path, params=query, content=code)
        if not token:
            del request.headers["authorization"]
        return answer_of(await self.http.send(request)).code

    async def delete(self, name: str, *, force: bool = False) -> bool:
        path = f"/api/v1/tasks/{quote(name, safe='')}"
        response = await self.http.delete(path, params={"force": str(force).lower()})
        if response.status_code in (404, 409):
            return False
        return bool(_json(response)["deleted"])

    # --- figures ---

    async def health(self) -> Health:
        return health_of(_json(await self.http.get("/api/v1/health")))

    async def stats(self) -> Stats:
        tree = _json(await self.http.get("/api/v1/stats"))
        executions = tree["execution_stats"]
        return Stats(
            total=tree["service_stats"]["total_executions"],
            completed=executions["completed_executions"],
            failed=executions["failed_executions"],
            tasks=tree["service_stats"]["total_tasks"],
        )


class AsgiFront(HttpFront):
    """The application itself, without a server."""

    name = "asgi"

    def transport(self) -> httpx.AsyncBaseTransport:
        return InMemory(self.stand.app)


class ListenerFront(HttpFront):
    """The application behind our listener, on a real socket."""

    name = "listener"

    def transport(self) -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))


# --- what comes back ---


def answer_of(response: httpx.Response) -> Answer:
    """A whole answer; of a failure the problem document, which has to be complete."""
    headers = response.headers
    found: dict[str, Any] = {
        "told": str(response.status_code),
        "execution_id": headers.get("atlatl-execution-id", ""),
        "instance_id": headers.get("atlatl-instance-id", ""),
        "cold": headers.get("atlatl-cold-start") == "1",
        "content_type": headers.get("content-type", ""),
    }
    if headers.get("preference-applied") == "respond-async":
        return _taken(response, found)
    if found["content_type"] != "application/problem+json":
        return Answer(status="COMPLETED", value=response.content, **found)
    problem = response.json()
    assert problem["status"] == response.status_code
    assert (problem["execution_id"] or "") == found["execution_id"]
    retry_after = headers.get("retry-after")
    return failed(
        problem, **found, retry_after_s=None if retry_after is None else float(retry_after)
    )


def _taken(response: httpx.Response, found: dict[str, Any]) -> Answer:
    """202 with the record, which is to be found where it says."""
    row = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/api/v1/executions/{found['execution_id']}"
    assert row["execution_id"] == found["execution_id"]
    return Answer(status=row["status"], **found)


def failed(problem: dict[str, Any], **found: Any) -> Answer:
    assert set(problem) >= {"type", "title", "status", "detail", "code", "retryable"}
    code = problem["code"]
    return Answer(
        status=STATUS_OF.get(code, "FAILED"), code=code, message=problem["detail"], **found
    )


async def _events(response: httpx.Response) -> AsyncIterator[bytes | Answer]:
    """The data of the events, then how it ended."""
    if not response.headers.get("content-type", "").startswith(EVENTS):
        await response.aread()
        yield answer_of(response)
        return
    found: dict[str, Any] = {
        "told": str(response.status_code),
        "execution_id": response.headers["atlatl-execution-id"],
    }
    kind, data = "", []
    async for line in response.aiter_lines():
        field, _, text = line.partition(": ")
        if field == "event":
            kind = text
        elif field == "data":
            data.append(text)
        elif not line and kind == "error":
            yield failed(msgspec.json.decode("\n".join(data)), **found)
            return
        elif not line:
            content = "\n".join(data).encode()
            yield base64.b64decode(content) if kind == "bytes" else content
            kind, data = "", []
    yield Answer(status="COMPLETED", **found)


def health_of(tree: dict[str, Any]) -> Health:
    """Of GetHealthResponse in proto3 JSON."""
    details = tree["details"]
    return Health(
        status=tree["status"],
        running=details["running_executions"],
        pending=details["pending_executions"],
        total=int(details["total_executions"]),
        memory_bytes=int(details["total_memory_used"]),
    )


def _json(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    tree: dict[str, Any] = response.json()
    return tree


def _body(value: Any) -> tuple[bytes, str]:
    if value is None:
        return b"", ""
    if isinstance(value, bytes):
        return value, "application/octet-stream"
    if isinstance(value, str):
        return value.encode(), "text/plain; charset=utf-8"
    return msgspec.json.encode(value), "application/json"
