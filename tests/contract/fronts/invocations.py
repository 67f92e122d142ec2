"""InvokeFunction in proto3 JSON, and the records as that kind of client reads them."""

from __future__ import annotations

import base64
from typing import Any, ClassVar

import httpx

from atlatl.errors import AtlatlError, Draining, PayloadTooLarge, Unauthenticated
from tests.contract.fronts import grpc, http
from tests.contract.fronts.front import Answer, Front, GaveUp, How, Record

PATH = "/api/v1/invocations"
RAW = "type.googleapis.com/spearlet.ExecutionData"
RAISED = (Draining, PayloadTooLarge, Unauthenticated)
"""Errors that are a problem document rather than an InvokeFunctionResponse."""


class InvocationsFront(http.ListenerFront):
    """Calls by `POST /api/v1/invocations`, on a real socket."""

    name = "invocations"
    can: ClassVar[frozenset[str]] = frozenset({"function", "environment", "fresh"})

    def expected(self, leaf: type[AtlatlError], *, streaming: bool = False) -> tuple[str, str]:
        return str(leaf.http_status) if leaf in RAISED else "200", leaf.code

    async def ask(self, name: str, value: Any, how: How) -> Answer:
        request = self._message(grpc.invocation(name, value, how), how.patience_s)
        try:
            return _answer_of(await self.http.send(request))
        except httpx.TimeoutException:
            raise GaveUp from None

    read = Front.read  # type: ignore[assignment]
    chunks = Front.chunks  # type: ignore[assignment]

    def _message(self, fields: dict[str, Any], timeout_s: float) -> httpx.Request:
        parameters = [_parameter(each) for each in fields.pop("parameters", [])]
        tree = {**fields, "parameters": parameters}
        return self.http.build_request("POST", PATH, json=tree, timeout=timeout_s)

    async def status(self, execution_id: str) -> Record | None:
        one = f"/api/v1/executions/{execution_id}"
        response = await self.http.get(one + "/status")
        if response.status_code == 404:
            return None
        tree = response.json()
        assert tree["found"]
        logs = (await self.http.get(one + "/logs")).json()["lines"]
        result = tree["result"]
        return Record(
            status=result["status"].removeprefix("EXECUTION_STATUS_"),
            code=result["error_code"],
            value=_output(result),
            logs=tuple(logs),
        )

    async def create(self, name: str, code: bytes, *, kind: str = "py", token: bool = True) -> str:
        request = self._message(grpc.creation(name, code, kind), 30.0)
        if not token:
            del request.headers["authorization"]
        return _answer_of(await self.http.send(request)).code


def _parameter(fields: dict[str, Any]) -> dict[str, Any]:
    content = base64.b64encode(fields["value"]["value"]).decode()
    return {**fields, "value": {"@type": RAW, "value": content}}


def _answer_of(response: httpx.Response) -> Answer:
    if response.status_code != 200:
        return http.answer_of(response)
    tree = response.json()
    result = tree["result"]
    metrics = result["metrics"]
    hint = metrics.get("retry_after_ms")
    status = result["status"].removeprefix("EXECUTION_STATUS_")
    assert tree["success"] == (status in ("COMPLETED", "PENDING", "RUNNING"))
    return Answer(
        status=status,
        told="200",
        code=result["error_code"],
        message=result["error_message"],
        value=_output(result),
        content_type=metrics.get("content_type", ""),
        execution_id=tree["execution_id"],
        instance_id=tree["instance_id"],
        cold=metrics.get("cold_start") == "1",
        retry_after_s=None if hint is None else int(hint) / 1000,
    )


def _output(result: dict[str, Any]) -> bytes:
    output = result.get("result")
    if output is None:
        return b""
    assert output["@type"] == RAW
    return base64.b64decode(output["value"])
