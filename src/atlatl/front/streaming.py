"""The two forms in which the items of a generator handler go out over HTTP."""

from __future__ import annotations

import base64

import msgspec

from atlatl.errors import AtlatlError
from atlatl.model import Result
from atlatl.problem import problem


class ServerSentEvents:
    """One event an item (WHATWG HTML, 9.2): JSON and text as `data`, bytes as base64.

    An item of bytes has the event type `bytes`; a failure is `event: error` with its problem
    document.
    """

    def media_type(self, first: Result | None) -> str:
        return "text/event-stream; charset=utf-8"

    def item(self, result: Result) -> bytes:
        if result.kind in ("json", "text"):
            return _event(result.body)
        return _event(base64.b64encode(result.body), kind=b"bytes")

    def failure(self, error: AtlatlError, execution_id: str) -> bytes | None:
        document = msgspec.json.encode(problem(error, execution_id=execution_id))
        return _event(document, kind=b"error")


class Chunked:
    """The items one after the other; JSON ones end with a line feed (NDJSON)."""

    def media_type(self, first: Result | None) -> str:
        if first is not None and first.kind == "json":
            return "application/x-ndjson"
        return "application/octet-stream" if first is None else first.content_type

    def item(self, result: Result) -> bytes:
        return result.body + b"\n" if result.kind == "json" else result.body

    def failure(self, error: AtlatlError, execution_id: str) -> bytes | None:
        """None: nothing can be said any more, the answer is broken off."""
        return None


def _event(data: bytes, kind: bytes = b"") -> bytes:
    # A line break inside the data would end the field, so each line is a field of its own.
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    head = b"event: " + kind + b"\n" if kind else b""
    return head + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
