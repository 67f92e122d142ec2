"""What may be passed to functions, and how it reaches them. Pure.

The body of a CALL is read by the `payload` of its metadata:

    arguments   a JSON object of named arguments; `base64` names those that are bytes
    json        one JSON value, for `event` or the parameter named by `parameter`
    text        the same as UTF-8 text
    bytes       the same as it is
    request     the body of an HTTP request, with `method`, `path`, `query` and `headers`
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from atlatl_worker.api import Context, Request
from atlatl_worker.shapes import FunctionShape

_PYTHON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "bytes": (bytes, bytearray, memoryview, str),
    "list": (list,),
    "dict": (dict,),
}
_TRUTHS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class BindingError(ValueError):
    """The arguments do not fit the function; the message names the parameter."""


class ParameterLike(Protocol):
    """One parameter, as `read_shape` found it or as the service stored it."""

    @property
    def name(self) -> str: ...
    @property
    def required(self) -> bool: ...
    @property
    def annotation(self) -> str: ...
    @property
    def optional(self) -> bool: ...


class ShapeLike(Protocol):
    """A function's shape, as `read_shape` found it or as the service stored it."""

    @property
    def function(self) -> str: ...
    @property
    def parameters(self) -> Sequence[ParameterLike]: ...
    @property
    def accepts_any(self) -> bool: ...


# --- checking ---


def check_arguments(shape: ShapeLike, values: Mapping[str, Any]) -> list[str]:
    """Checks named arguments against a function's shape.

    Args:
        shape: of the function to call.
        values: as JSON decodes them; bytes may also stand as they are.

    Returns:
        The names of the values that travel as base64 text.

    Raises:
        BindingError: a name is missing or unknown, or a value has the wrong type.
    """
    base64_names: list[str] = []
    met = 0
    for parameter in shape.parameters:
        name = parameter.name
        if name in values:
            met += 1
            if _check_value(parameter, values[name]):
                base64_names.append(name)
        elif parameter.required:
            raise BindingError(f"{shape.function}() is missing the parameter `{name}`")
    if met < len(values):
        base64_names += _check_others(shape, values)
    return base64_names


def is_raw(value: Any) -> bool:
    """Whether the value is bytes, which JSON can hold as base64 text only."""
    return isinstance(value, bytes | bytearray | memoryview)


def _check_others(shape: ShapeLike, values: Mapping[str, Any]) -> list[str]:
    known = [parameter.name for parameter in shape.parameters]
    others = [name for name in values if name not in known]
    if not shape.accepts_any:
        takes = ", ".join(f"`{name}`" for name in known) or "none"
        raise BindingError(
            f"{shape.function}() has no parameter `{others[0][:140]}`; its parameters: {takes}"
        )
    return [name for name in others if is_raw(values[name])]


def _check_value(parameter: ParameterLike, value: Any) -> bool:
    """Whether the value travels as base64; raises when it is of the wrong type."""
    annotation = parameter.annotation
    if value is None and (parameter.optional or not annotation):
        return False
    if not annotation:
        return is_raw(value)
    if not isinstance(value, _PYTHON_TYPES[annotation]) or (
        isinstance(value, bool) and annotation != "bool"
    ):
        raise BindingError(f"parameter `{parameter.name}` must be {_wanted(parameter, value)}")
    if annotation == "bytes" and isinstance(value, str):
        _check_base64(parameter.name, value)
    return annotation == "bytes"


def _wanted(parameter: ParameterLike, value: Any) -> str:
    alternative = " or null" if parameter.optional else ""
    given = "null" if value is None else f"{type(value).__name__} {_short(value)}"
    return f"{parameter.annotation}{alternative}, it is {given}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_base64(name: str, text: str) -> None:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BindingError(f"parameter `{name}` must be bytes, written as base64 text") from None


def convert_query(shape: ShapeLike, query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The texts of a query string as values of the annotated types.

    Args:
        shape: of the function to call.
        query: each name with all its values.

    Raises:
        BindingError: a text is not of its parameter's type, or a single value stands twice.
    """
    parameters = {parameter.name: parameter for parameter in shape.parameters}
    return {name: _convert(parameters.get(name), name, texts) for name, texts in query.items()}


def _convert(parameter: ParameterLike | None, name: str, texts: Sequence[str]) -> Any:
    annotation = parameter.annotation if parameter else ""
    if annotation == "list":
        return _json_text(texts[0], list) if texts[0][:1] == "[" else list(texts)
    if len(texts) > 1:
        if annotation:
            raise BindingError(f"parameter `{name}` is given {len(texts)} times")
        return list(texts)
    text = texts[0]
    if not text and parameter and parameter.optional and annotation not in ("str", "bytes", ""):
        return None
    value = _converted(annotation, text)
    if value is None:
        raise BindingError(f"parameter `{name}` must be {annotation}, it is {_short(text)}")
    return value


def _converted(annotation: str, text: str) -> Any:
    """The text as that type, None when it is none."""
    if annotation == "bool":
        return _TRUTHS.get(text.lower())
    if annotation == "dict":
        return _json_text(text, dict)
    try:
        if annotation == "int":
            return int(text)
        if annotation == "float":
            number = float(text)
            return number if abs(number) < float("inf") else None
    except ValueError:
        return None
    return text


def _json_text(text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None


# --- calling ---


def bind(
    shape: FunctionShape, meta: Mapping[str, Any], body: bytes, context: Context
) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments for a CALL; raises ValueError when it cannot be read."""
    named = _named(shape, meta, body)
    if shape.context_name:
        named[shape.context_name] = context
    return _positional(shape, named), named


def _named(shape: FunctionShape, meta: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    payload = meta["payload"]
    if payload == "request":
        request = Request(meta["method"], meta["path"], meta["query"], meta["headers"], body)
        return {shape.request_name: request}
    if payload == "arguments":
        values: dict[str, Any] = json.loads(body) if body else {}
        for name in meta.get("base64", ()):
            values[name] = base64.b64decode(values[name])
        return {shape.request_name: values} if shape.kind == "event" else values
    return {meta.get("parameter") or shape.request_name: _single(meta, body)}


def _single(meta: Mapping[str, Any], body: bytes) -> Any:
    payload = meta["payload"]
    if payload == "json":
        value = json.loads(body)
        return base64.b64decode(value) if meta.get("base64") else value
    return body.decode() if payload == "text" else body


def _positional(shape: FunctionShape, named: dict[str, Any]) -> list[Any]:
    """Takes what must be passed by position out of `named`, gaps filled with defaults."""
    only = list(shape.positional)
    while only and only[-1][0] not in named:
        only.pop()
    return [named.pop(name, default) for name, default in only]
