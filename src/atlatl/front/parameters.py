"""The parameters of a gRPC call, out of their `Any` and into Python values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any as Anything

import msgspec
from google.protobuf import struct_pb2, unknown_fields, wrappers_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from atlatl.errors import InvalidRequest
from atlatl.front.proto import function_pb2 as pb
from atlatl.model import Arguments, Event, Payload

EXACT_BELOW = 2**53
"""Whole doubles below this are exact integers."""


def payload(parameters: Iterable[pb.FunctionParameter]) -> Payload:
    """Named arguments, or the one value when the only parameter has no name.

    Raises:
        InvalidRequest: a name stands twice or is missing, a required value is missing, or a
            value cannot be read; the message names the parameter.
    """
    values: dict[str, Anything] = {}
    seen: set[str] = set()
    for parameter in parameters:
        name = parameter.name
        if name in seen:
            raise InvalidRequest(f"parameter {shown(name)} is given more than once")
        seen.add(name)
        if parameter.HasField("value"):
            values[name] = _value(parameter)
        elif parameter.required:
            raise InvalidRequest(f"parameter {shown(name)} is required and has no value")
    if "" not in values:
        return Arguments(values=values)
    if len(seen) > 1:
        raise InvalidRequest(
            "a parameter without a name is the whole event, so it must be the only one"
        )
    return Event(value=values[""])


def shown(text: str) -> str:
    """A text of any length as it may stand in a message."""
    return repr(text if len(text) <= 140 else text[:140] + "...")


def _value(parameter: pb.FunctionParameter) -> Anything:
    name, value = shown(parameter.name), parameter.value
    full_name = value.type_url.rpartition("/")[2]
    try:
        if full_name in _WELL_KNOWN:
            return _well_known(full_name, value)
        return _raw(parameter.type.strip().lower(), value.value)
    except (DecodeError, ValueError, RecursionError) as error:
        kind = full_name if full_name in _WELL_KNOWN else parameter.type
        raise InvalidRequest(f"parameter {name} cannot be read as {kind}: {error}") from None


def _raw(declared: str, content: bytes) -> Anything:
    if declared == "json":
        return msgspec.json.decode(content)
    if declared == "string":
        return content.decode()
    return content


def _well_known(full_name: str, value: Any) -> Anything:
    kind, read = _WELL_KNOWN[full_name]
    message = kind()
    if kind is wrappers_pb2.StringValue:
        return _string(message, value.value)
    message.ParseFromString(value.value)
    return read(message)


def _string(message: Anything, content: bytes) -> str:
    """Clients in the field put bare text under this name, and some of it parses: "he" is a field
    13 that the type does not have. So only bytes without such fields count as the message.
    """
    try:
        message.ParseFromString(content)
        known = len(unknown_fields.UnknownFieldSet(message)) == 0
    except DecodeError:
        known = False
    return message.value if known else content.decode()


def _plain(message: Anything) -> Anything:
    return message.value


def _finite(message: Anything) -> float:
    return _checked(message.value)


def _checked(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("NaN and Infinity are refused")
    return number


def _json_value(message: Anything) -> Anything:
    """A `google.protobuf.Value`; without any kind set it is null."""
    kind = message.WhichOneof("kind")
    if kind == "number_value":
        return _number(message.number_value)
    if kind == "struct_value":
        return _json_object(message.struct_value)
    if kind == "list_value":
        return _json_list(message.list_value)
    return None if kind in (None, "null_value") else getattr(message, kind)


def _number(number: float) -> int | float:
    """A JSON number: these messages have doubles only, so a whole one is taken as an integer."""
    if _checked(number).is_integer() and abs(number) < EXACT_BELOW:
        return int(number)
    return number


def _json_object(message: Anything) -> dict[str, Anything]:
    return {key: _json_value(value) for key, value in message.fields.items()}


def _json_list(message: Anything) -> list[Anything]:
    return [_json_value(value) for value in message.values]


_READERS: dict[type[Message], Callable[[Anything], Anything]] = {
    wrappers_pb2.StringValue: _plain,
    wrappers_pb2.BytesValue: _plain,
    wrappers_pb2.BoolValue: _plain,
    wrappers_pb2.Int32Value: _plain,
    wrappers_pb2.Int64Value: _plain,
    wrappers_pb2.UInt32Value: _plain,
    wrappers_pb2.UInt64Value: _plain,
    wrappers_pb2.FloatValue: _finite,
    wrappers_pb2.DoubleValue: _finite,
    struct_pb2.Struct: _json_object,
    struct_pb2.Value: _json_value,
    struct_pb2.ListValue: _json_list,
}
_WELL_KNOWN = {kind.DESCRIPTOR.full_name: (kind, read) for kind, read in _READERS.items()}
