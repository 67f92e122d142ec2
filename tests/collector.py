"""An OpenTelemetry collector in a thread: it reads what is sent to it, and keeps it."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Seen(NamedTuple):
    """One span as it arrived; ids in hexadecimal digits."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    failed: bool
    error: str
    service: str


class Collector:
    """Takes what is POSTed to its `url`.

    Attributes:
        held: while it is set nothing is answered.
        status: that everything is answered with.
    """

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.held = threading.Event()
        self.release = threading.Event()
        self.url = ""

    def of(self, trace_id: str) -> list[Seen]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def named(self, trace_id: str, name: str) -> Seen:
        [found] = [span for span in self.of(trace_id) if span.name == name]
        return found

    def take(self, body: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {each.key: each.value.string_value for each in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += [_seen(span, about["service.name"]) for span in scope.spans]


def _seen(span: Any, service: str) -> Seen:
    return Seen(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=span.kind,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes={
            each.key: getattr(each.value, each.value.WhichOneof("value"))
            for each in span.attributes
        },
        failed=span.status.code == 2,
        error=span.status.message,
        service=service,
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if collector.held.is_set():
                collector.release.wait(30)
            if collector.status == 200:
                collector.headers.append({k.lower(): v for k, v in self.headers.items()})
                collector.take(body)
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield collector
    finally:
        collector.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
