"""The frame of a CALL: what an instance is told about one execution."""

from __future__ import annotations

from typing import Any

import msgspec

from atlatl.errors import InvalidRequest
from atlatl.model import Call, Encoded, HttpRequest, Shape, Task
from atlatl_worker import wire


def call_frame(
    request_id: int,
    call: Call,
    encoded: Encoded,
    task: Task,
    shapes: dict[str, Shape],
    deadline: float,
    attempt: int,
    flags: int = 0,
) -> bytes:
    """The bytes that hand a call over.

    Raises:
        InvalidRequest: what was asked for cannot be had in a process, or not be sent to it.
    """
    function = call.function or task.function
    meta: dict[str, Any] = {
        "function": function,
        "execution_id": call.execution_id,
        "deadline": deadline,
        "payload": encoded.kind,
        **encoded.meta,
    }
    if attempt != 1:
        meta["attempt"] = attempt
    shape = shapes.get(function)
    if shape is not None and shape.wants_context:
        meta["context_headers"] = _headers(call)
        meta["traceparent"] = call.traceparent
    try:
        if call.environment:
            meta["environment"] = call.environment
        return wire.encode(wire.CALL, request_id, msgspec.json.encode(meta), encoded.body, flags)
    except ValueError as error:
        # Lone surrogates anywhere in the caller's texts, and a body of over 4 GiB, end here too.
        raise InvalidRequest(f"the call cannot be sent to an instance: {error}") from None


def _headers(call: Call) -> dict[str, str]:
    if call.headers or not isinstance(call.payload, HttpRequest):
        return call.headers
    return call.payload.headers
