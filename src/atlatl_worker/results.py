"""What functions return, in the form that travels to the service. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from atlatl_worker import wire
from atlatl_worker.api import Response


class ResultError(ValueError):
    """The function returned what cannot be sent; the message says what."""


_to_json: Final = json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, separators=(",", ":")
).encode


def encode_result(function: str, value: Any) -> tuple[int, bytes, dict[str, Any]]:
    """What a function returned, as content flag, body and metadata.

    Raises:
        ResultError: JSON can't hold it.
    """
    if isinstance(value, str):
        return wire.TEXT, _utf8(function, value), {}
    if isinstance(value, bytes | bytearray | memoryview):
        return wire.BYTES, bytes(value), {}
    if isinstance(value, Response):
        return _encode_response(function, value)
    return wire.JSON, _encode_json(function, value), {}


def _encode_json(function: str, value: Any) -> bytes:
    try:
        return _utf8(function, _to_json(value))
    except TypeError as error:
        raise ResultError(
            f"{function}() returned a {type(value).__name__} that JSON can't hold ({error}); "
            "return a dict, list, str, number, bool, None, bytes or Response"
        ) from None
    except RecursionError:
        raise ResultError(f"{function}() returned a value nested too deep for JSON") from None
    except ResultError:
        raise
    except ValueError as error:
        why = "NaN and Infinity" if "float" in str(error) else str(error)
        raise ResultError(f"{function}() returned what JSON can't hold: {why}") from None


def _utf8(function: str, text: str) -> bytes:
    try:
        # Not `text.encode()`: the text may be of a class that has its own.
        return str.encode(text)
    except UnicodeEncodeError as error:
        raise ResultError(f"{function}() returned text that is no Unicode: {error}") from None


def _encode_response(function: str, response: Response) -> tuple[int, bytes, dict[str, Any]]:
    content, body, meta = encode_result(function, response.body)
    if meta:
        raise ResultError(f"{function}() returned a Response whose body is a Response")
    headers = _pairs(function, response.headers)
    try:
        check_response(response.status, headers)
    except ResultError as error:
        raise ResultError(f"{function}() returned a Response with {error}") from None
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("content-type", _CONTENT_TYPES[content]))
    return wire.RESPONSE, body, {"status": int(response.status), "headers": headers}


def _pairs(function: str, headers: Any) -> list[tuple[str, str]]:
    """The headers as they stand now: the function may have put anything there."""
    try:
        # Raises for all that is no text; of a class with code of its own, takes the plain text.
        return [(str.__str__(name), str.__str__(text)) for name, text in headers]
    except (TypeError, ValueError):
        raise ResultError(
            f"{function}() returned a Response whose `headers` are not pairs of name and text"
        ) from None


_CONTENT_TYPES: Final = {
    wire.JSON: "application/json",
    wire.TEXT: "text/plain; charset=utf-8",
    wire.BYTES: "application/octet-stream",
}


def check_response(status: Any, headers: Sequence[tuple[str, str]]) -> None:
    """Raises ResultError unless both can be sent; a line break would begin a second answer."""
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ResultError(f"status {status!r}; use 200 to 599")
    for name, text in headers:
        plain = all(" " <= c <= "\xff" or c == "\t" for c in text)
        if not name or not _TOKEN.issuperset(name) or not plain:
            raise ResultError(f"a header {name!r} that HTTP does not allow")


_TOKEN: Final = frozenset(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)
