"""The work on functions-framework."""

from __future__ import annotations

from typing import Any

import flask
import functions_framework


@functions_framework.http
def work(request: flask.Request) -> dict[str, Any]:
    body = request.get_json()
    return {"number": body["number"] + 1, "text": body["text"]}
