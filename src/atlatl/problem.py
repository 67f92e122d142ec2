"""Problem documents (RFC 9457): a failure as JSON, wherever it is told over HTTP."""

from __future__ import annotations

import re
from typing import Any

from atlatl.errors import AtlatlError

MEDIA_TYPE = "application/problem+json"

PROBLEM_TYPE = "urn:atlatl:problem:"
"""The class of the error follows: finer than `code`, which several classes share."""


def problem(error: AtlatlError, *, execution_id: str | None = None, **more: Any) -> dict[str, Any]:
    """The problem document of an error. `error.detail` (a traceback) is never in it.

    Args:
        error: what went wrong.
        execution_id: of the call that failed, if it was one.
        more: further members.
    """
    words = re.findall("[A-Z][a-z]*", type(error).__name__)
    return {
        "type": PROBLEM_TYPE + "-".join(words).lower(),
        "title": " ".join(words).capitalize(),
        "status": error.http_status,
        "detail": error.message,
        "code": error.code,
        "execution_id": execution_id,
        "retryable": error.retryable,
        **more,
    }
