"""Traces of calls, for OpenTelemetry: which calls are traced, and their way to a collector.

On the event loop a traced call costs a few lines: spans are made and sent by a thread. When the
collector does not keep up, or is not there, what is to be sent is dropped and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec.structs import replace

from atlatl.core.tracing import root, run_part, sampled, span_id
from atlatl.events import (
    AttemptFailed,
    CallbackTried,
    CallRefused,
    CallRetried,
    Event,
    ExecutionFinished,
    InstanceStarted,
)
from atlatl.model import Call, Encoded
from atlatl.telemetry.spans import Span, Traced, spans_of

log = logging.getLogger(__name__)

MAX_WAITING = 4000
"""Events that wait for the collector; further ones are dropped."""
AT_ONCE = 64
"""Events whose spans go out in one message: making it holds calls up for some milliseconds."""
PAUSE_S = 5.0
"""Between two rounds, as OpenTelemetry's own: a message costs as much as the spans of some ten
calls."""
ENOUGH = 512
"""Events that are sent without waiting for the end of a pause."""
MAX_STARTS = 1000
"""Instances whose start is remembered until their first call ends."""
CLOSE_S = 3.0

_TRACED = (ExecutionFinished, AttemptFailed, CallRetried, CallRefused, CallbackTried)


class Exporter(Protocol):
    """Sends spans. Called from one thread; may wait."""

    def export(self, spans: Sequence[Span]) -> bool:
        """Whether the collector took them."""

    def close(self) -> None:
        """Gives up what is being sent; called from another thread."""


class Traces:
    """Decides on traces, and listens to what happens to traced calls.

    Args:
        exporter: sends the spans.
        sample_ratio: share of the calls without a trace of their caller that are traced.
        chance: a number in [0, 1).
        bits: that many random bits, for the ids of traces.
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        sample_ratio: float,
        chance: Callable[[], float],
        bits: Callable[[int], int],
    ) -> None:
        self._exporter = exporter
        self._ratio = sample_ratio
        self._chance = chance
        self._bits = bits
        self._counts: Counter[str] = Counter(exported=0, dropped=0, failed=0)
        self._starts: dict[str, InstanceStarted] = {}
        self._waiting: deque[tuple[Traced, InstanceStarted | None]] = deque()
        self._more = threading.Event()
        self._enough = threading.Event()
        self._closed = False
        # Started by the first event, not here: the zygote is to exist before any thread does.
        self._thread: threading.Thread | None = None

    # --- the context of calls ---

    def begin(self, call: Call) -> Call:
        """The call, with a new trace if it has none and chance will have it."""
        if call.traceparent or self._chance() >= self._ratio:
            return call
        return replace(call, traceparent=root(f"{self._bits(128) or 1:032x}"))

    def entering(self, call: Call, encoded: Encoded, attempt: int) -> tuple[Call, Encoded]:
        """What an instance is told: the trace goes on in the function, as part of this run."""
        context = sampled(call.traceparent)
        if context is None:
            return call, encoded
        inner = context.child(span_id(context, call.execution_id, run_part(attempt)))
        traced = replace(call, traceparent=inner, headers=_with(call.headers, inner))
        if encoded.kind == "request":
            meta: dict[str, Any] = encoded.meta
            encoded = replace(encoded, meta={**meta, "headers": _with(meta["headers"], inner)})
        return traced, encoded

    # --- what happens to them ---

    def emit(self, event: Event) -> None:
        if isinstance(event, _TRACED):
            if sampled(event.traceparent) is not None:
                self._put(event)
        elif isinstance(event, InstanceStarted):
            if len(self._starts) >= MAX_STARTS:
                del self._starts[next(iter(self._starts))]
            self._starts[event.instance_id] = event

    def _put(self, event: Traced) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._counts["dropped"] += 1
            return
        start = None
        if isinstance(event, ExecutionFinished) and event.execution.cold_start:
            start = self._starts.pop(event.execution.instance_id, None)
        self._waiting.append((event, start))
        if not self._more.is_set():
            self._more.set()
        if len(self._waiting) >= ENOUGH:
            self._enough.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
            self._thread.start()

    def counts(self) -> Mapping[str, int]:
        """Ends, failed attempts, refusals and callbacks of traced calls, by what became of them."""
        return dict(self._counts)

    # --- the thread ---

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Sends what is left, unless the collector does not take it in time. Waits."""
        self._closed = True
        self._more.set()
        self._enough.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._exporter.close()

    def _run(self) -> None:
        while not (self._closed and not self._waiting):
            self._more.wait()
            if not self._closed:
                self._enough.wait(PAUSE_S)
            self._more.clear()
            self._enough.clear()
            while self._waiting:
                self._send(
                    [self._waiting.popleft() for _ in range(min(len(self._waiting), AT_ONCE))]
                )
            if self._closed:
                self._more.set()

    def _send(self, some: Sequence[tuple[Traced, InstanceStarted | None]]) -> None:
        try:
            spans = [span for event, start in some for span in spans_of(event, start)]
            taken = self._exporter.export(spans)
        except Exception:
            log.exception("%d traces could not be exported", len(some))
            taken = False
        self._counts["exported" if taken else "failed"] += len(some)


def _with(headers: dict[str, str], traceparent: str) -> dict[str, str]:
    """The headers, with the caller's `traceparent` replaced if there is one."""
    return {**headers, "traceparent": traceparent} if "traceparent" in headers else headers
