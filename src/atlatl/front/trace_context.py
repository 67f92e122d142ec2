"""W3C Trace Context, as far as a front reads it: https://www.w3.org/TR/trace-context/"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def trace_context(headers: Mapping[str, str]) -> dict[str, Any]:
    """`traceparent` and `tracestate` for a Call; a malformed `traceparent` counts as none.

    Args:
        headers: names in lower case.
    """
    traceparent = headers.get("traceparent", "").strip()
    if not _TRACEPARENT.fullmatch(traceparent):
        return {}
    return {"traceparent": traceparent, "tracestate": headers.get("tracestate", "")}
