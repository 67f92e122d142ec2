"""From what a caller gave to what an instance gets. Pure.

The forms of the result are described in `atlatl_worker.binding`, which reads them on the
other side. A JSON body that needs no change travels as the very bytes that came in.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

import msgspec

from atlatl.errors import InvalidRequest
from atlatl.model import Arguments, Encoded, HttpRequest, Parameter, Payload, Shape
from atlatl_worker.binding import BindingError, check_arguments, convert_query, is_raw

MAX_DEPTH = 200
"""Nesting of Python values given as arguments."""

MAX_FIELDS = 10_000
"""Of a query or form: each takes fifty times as much memory as it has bytes, at worst."""

_FORM = "application/x-www-form-urlencoded"


def encode(shape: Shape, payload: Payload) -> Encoded:
    """The payload in the form that travels to an instance.

    Raises:
        InvalidRequest: it does not fit the function; the message names the parameter.
    """
    try:
        if isinstance(payload, HttpRequest):
            return _from_http(shape, payload)
        if isinstance(payload, Arguments):
            return _from_arguments(shape, payload.values)
        return _from_event(shape, payload.value)
    except BindingError as error:
        raise InvalidRequest(str(error)) from None


# --- from Python values ---


def _from_arguments(shape: Shape, values: dict[str, Any]) -> Encoded:
    body = _dump(values, bytes_allowed=True)
    if shape.kind == "request":
        return _synthetic_request(body, "application/json")
    if shape.kind == "event":
        return _arguments(body, [name for name, value in values.items() if is_raw(value)])
    return _arguments(body, check_arguments(shape, values))


def _from_event(shape: Shape, value: Any) -> Encoded:
    if is_raw(value):
        return _single(shape, "bytes", bytes(value), value)
    if isinstance(value, str):
        return _single(shape, "text", _utf8(value), value)
    return _single(shape, "json", _dump(value), value)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the text is no Unicode: {error}") from None


def _dump(value: Any, *, bytes_allowed: bool = False) -> bytes:
    _check_plain(value, 0, bytes_allowed)
    try:
        return msgspec.json.encode(value)
    except (TypeError, UnicodeEncodeError, msgspec.MsgspecError, OverflowError) as error:
        raise InvalidRequest(f"the arguments cannot be sent as JSON: {error}") from None


def _check_plain(value: Any, depth: int, bytes_allowed: bool) -> None:
    """What the encoder would change in silence is refused: NaN, sets, dates, keys of numbers."""
    if value is None or isinstance(value, str | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest("NaN and Infinity are refused: JSON has no such numbers")
    elif isinstance(value, dict | list | tuple):
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"the arguments are nested more than {MAX_DEPTH} levels deep")
        for member in _members(value):
            _check_plain(member, depth + 1, bytes_allowed)
    elif not is_raw(value):
        raise InvalidRequest(
            f"a value of type {type(value).__name__} cannot be sent as JSON; "
            "pass dicts, lists, text, numbers, booleans and None"
        )
    elif not bytes_allowed or depth != 1:
        raise InvalidRequest("bytes may only be a whole argument, not a part of one")


def _members(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterable[Any]:
    if not isinstance(value, dict):
        return value
    for key in value:
        if not isinstance(key, str):
            raise InvalidRequest(
                f"the key {key!r} of a dict cannot be sent as JSON, where all keys are text"
            )
    return value.values()


# --- from HTTP ---


def _from_http(shape: Shape, request: HttpRequest) -> Encoded:
    if shape.kind == "request":
        return Encoded(
            kind="request",
            body=request.body,
            meta={
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "headers": request.headers,
            },
        )
    if not request.body:
        return _from_query(shape, _query(request.query))
    kind, value = _read_body(request)
    if kind == "form":
        return _from_query(shape, _merged(value, _query(request.query)))
    if shape.kind == "event":
        return Encoded(kind="arguments" if isinstance(value, dict) else kind, body=request.body)
    query = convert_query(shape, _query(request.query))
    if isinstance(value, dict):
        return _from_object(shape, value, query, request.body)
    return _single(shape, kind, request.body, value, query)


def _read_body(request: HttpRequest) -> tuple[str, Any]:
    """How the body travels (`json`, `text`, `bytes` or `form`) and what it says."""
    content_type = request.content_type
    if content_type == "application/json" or content_type.endswith("+json"):
        return "json", _load(request.body)
    if content_type.startswith("text/"):
        return "text", _text(request.body)
    if content_type == _FORM:
        return _read_form(request.body)
    if not content_type:
        with contextlib.suppress(InvalidRequest):
            return "json", _load(request.body)
        with contextlib.suppress(UnicodeDecodeError):
            return "text", request.body.decode()
    return "bytes", request.body


def _read_form(body: bytes) -> tuple[str, Any]:
    """A form; or JSON, because `curl -d '{...}'` says that it is a form."""
    if body.lstrip()[:1] == b"{":
        with contextlib.suppress(InvalidRequest):
            return "json", _load(body)
    return "form", _query(_text(body))


def _load(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidRequest(f"the body is no JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is no JSON: it is not UTF-8 ({error})") from None
    except RecursionError:
        raise InvalidRequest("the body is JSON nested too deep") from None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the body says that it is text but is no UTF-8 ({error}); send other bytes as "
            "application/octet-stream"
        ) from None


def _query(text: str) -> dict[str, list[str]]:
    if not text:
        return {}
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise InvalidRequest(f"more than {MAX_FIELDS} names stand in the query or form") from None


def _merged(first: dict[str, list[str]], second: dict[str, list[str]]) -> dict[str, list[str]]:
    _check_apart(first, second)
    return {**first, **second}


def _check_apart(body: Any, query: dict[str, Any]) -> None:
    for name in query:
        if name in body:
            raise InvalidRequest(f"parameter `{name}` is both in the body and in the query")


def _from_query(shape: Shape, query: dict[str, list[str]]) -> Encoded:
    values = convert_query(shape, query)
    if shape.kind == "event":
        return _arguments(_dump(values), [])
    return _arguments(_dump(values), check_arguments(shape, values))


def _from_object(
    shape: Shape, value: dict[str, Any], query: dict[str, Any], body: bytes
) -> Encoded:
    if query:
        _check_apart(value, query)
        value = {**value, **query}
        body = _dump(value)
    return _arguments(body, check_arguments(shape, value))


# --- one value ---


def _single(
    shape: Shape, kind: str, body: bytes, value: Any, query: dict[str, Any] | None = None
) -> Encoded:
    """A value that is no set of names: the event, or the one parameter that can take it."""
    if shape.kind == "request":
        return _synthetic_request(body, _CONTENT_TYPES[kind])
    if shape.kind == "event":
        return Encoded(kind=kind, body=body)
    parameter = _receiver(shape)
    if kind == "bytes" and parameter.annotation == "str":
        kind, value = "text", _text(body)
    if kind == "text" and parameter.annotation == "bytes":
        kind, value = "bytes", body
    if query:
        _check_apart({parameter.name: value}, query)
        return _from_arguments(shape, {parameter.name: value, **query})
    base64_names = check_arguments(shape, {parameter.name: value})
    meta: dict[str, Any] = {"parameter": parameter.name}
    if base64_names and kind == "json":
        meta["base64"] = base64_names
    return Encoded(kind=kind, body=body, meta=meta)


def _receiver(shape: Shape) -> Parameter:
    """The parameter that takes a whole body: the only one, or the only required one."""
    candidates = [p for p in shape.parameters if p.required]
    if len(shape.parameters) == 1:
        candidates = list(shape.parameters)
    if len(candidates) == 1:
        return candidates[0]
    takes = ", ".join(f"`{p.name}`" for p in shape.parameters) or "none"
    raise InvalidRequest(
        f"{shape.function}() takes named arguments: send a JSON object; its parameters: {takes}"
    )


_CONTENT_TYPES = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "bytes": "application/octet-stream",
}


def _arguments(body: bytes, base64_names: list[str]) -> Encoded:
    meta = {"base64": base64_names} if base64_names else {}
    return Encoded(kind="arguments", body=body, meta=meta)


def _synthetic_request(body: bytes, content_type: str) -> Encoded:
    headers = {"content-type": content_type, "content-length": str(len(body))}
    meta = {"method": "POST", "path": "/", "query": "", "headers": headers}
    return Encoded(kind="request", body=body, meta=meta)
