"""Ids of spans, and what a `traceparent` says: https://www.w3.org/TR/trace-context/

The ids of a call's spans follow from its trace and its execution id. So nothing has to be kept
while it runs, or waits on disk: whoever tells of an end knows the ids that its beginning had.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

EXECUTION, QUEUE, START = "execution", "queue", "start"
_ROOT = "root"
_LENGTH = 55


class TraceContext(NamedTuple):
    """The parts of a well-formed `traceparent`."""

    trace_id: str
    parent_id: str
    flags: str

    def child(self, span_id: str) -> str:
        """The `traceparent` for what happens inside of a span."""
        return f"00-{self.trace_id}-{span_id}-{self.flags}"


def sampled(traceparent: str) -> TraceContext | None:
    """The parts of a checked `traceparent`; None when it is empty or its trace is not recorded."""
    if len(traceparent) < _LENGTH or not int(traceparent[53:55], 16) & 1:
        return None
    return TraceContext(traceparent[3:35], traceparent[36:52], traceparent[53:55])


def root(trace_id: str) -> str:
    """The `traceparent` of a call that begins a trace; `is_root` tells it from a caller's.

    Args:
        trace_id: 32 hexadecimal digits, not all 0.
    """
    return f"00-{trace_id}-{_digest(trace_id, _ROOT)}-01"


def is_root(context: TraceContext) -> bool:
    return context.parent_id == _digest(context.trace_id, _ROOT)


def span_id(context: TraceContext, execution_id: str, part: str) -> str:
    """Id of one span of an execution: 16 hexadecimal digits, not all 0.

    Args:
        context: that the call came with. Its parent counts: an execution id may occur twice in
            one trace, when a function hands it on to another service.
        execution_id: of the call.
        part: what the span is about, such as `EXECUTION`.
    """
    return _digest(context.trace_id, context.parent_id, execution_id, part)


def run_part(attempt: int) -> str:
    """The part that is the run of an attempt."""
    return f"run {attempt}"


def callback_part(attempt: int, tries: int) -> str:
    """The part that is a try to tell of an execution's end, which was that of an attempt."""
    return f"callback {attempt} {tries}"


def _digest(*parts: str) -> str:
    found = hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()
    return found if int(found, 16) else "0" * 15 + "1"
