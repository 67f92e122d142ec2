"""Spans to a collector, by OpenTelemetry's own exporter: OTLP, protobuf over HTTP.

OpenTelemetry is an optional dependency (`atlatl[traces]`) and imported here alone. Its standard
environment variables hold too, such as OTEL_EXPORTER_OTLP_HEADERS and OTEL_RESOURCE_ATTRIBUTES.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from atlatl.errors import SettingInvalid

if TYPE_CHECKING:
    from atlatl.telemetry.spans import Span
    from atlatl.telemetry.traces import Exporter

TIMEOUT_S = 10.0
"""For one message, tries that failed included."""


def otlp_exporter(endpoint: str, version: str) -> Exporter:
    """An exporter to the collector at a URL.

    Args:
        endpoint: with its path.
        version: of the service.

    Raises:
        SettingInvalid: OpenTelemetry is not installed.
    """
    try:
        return _OtlpExporter(endpoint, version)
    except ImportError as error:
        raise SettingInvalid(
            f"`telemetry.traces_endpoint` is set and {error.name or 'opentelemetry'} is not "
            'installed: `pip install "atlatl[traces]"`'
        ) from None


class _OtlpExporter:
    def __init__(self, endpoint: str, version: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        self._span: Any = trace.ReadableSpan
        self._context: Any = SpanContext
        self._kind: Any = SpanKind
        self._flags: Any = TraceFlags
        self._ok = Status()
        self._failed: Callable[[str], Any] = lambda text: Status(StatusCode.ERROR, text)
        self._success = SpanExportResult.SUCCESS
        self._scope = InstrumentationScope("atlatl", version)
        self._resource = Resource.create({"service.name": "atlatl", "service.version": version})
        self._exporter: Any = OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT_S)

    def export(self, spans: Sequence[Span]) -> bool:
        done = self._exporter.export([self._converted(span) for span in spans])
        return bool(done is self._success)

    def close(self) -> None:
        self._exporter.shutdown()

    def _converted(self, span: Span) -> Any:
        trace_id, flags = int(span.trace_id, 16), self._flags(int(span.flags, 16))
        parent = None
        if span.parent_id:
            parent = self._context(trace_id, int(span.parent_id, 16), span.remote_parent, flags)
        return self._span(
            name=span.name,
            context=self._context(trace_id, int(span.span_id, 16), False, flags),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            kind=self._kind[span.kind],
            status=self._failed(span.error) if span.error else self._ok,
            start_time=round(span.began * 1e9),
            end_time=round(span.ended * 1e9),
            instrumentation_scope=self._scope,
        )
