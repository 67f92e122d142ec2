"""Hypothesis strategies over the messages of the gRPC front, read off their descriptors.

Field by name where the name has a meaning (ids, locations, types), by type otherwise.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from google.protobuf import struct_pb2, wrappers_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from atlatl.front.proto import function_pb2 as pb
from tests.fuzz.field import CODE, HANDLERS

DATA = "data:text/x-python;base64," + base64.b64encode(CODE).decode()

ODD_TEXTS = [
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "%2e%2e%2f",
    "\0",
    "a\0b",
    "\n",
    "line\r\nInjected: header",
    "\x1b[31mred",
    "\x7f",
    "\x85",
    "\u2028",
    "\u202egnirts",
    "\ufeff",
    "é",
    "é",
    "ﷺ" * 50,
    "👩\u200d👩\u200d👧",
    "\U0010ffff",
    "__init__",
    "_private",
    "{0.__class__}",
    "%s%n",
    "'; DROP TABLE tasks; --",
    "null",
    "NaN",
]

long_texts = st.tuples(
    st.sampled_from(["x", "é", "\0", "/"]), st.sampled_from([128, 129, 4096, 10_000])
).map(lambda chosen: chosen[0] * chosen[1])
odd_texts = st.one_of(
    st.sampled_from(ODD_TEXTS), long_texts, st.text(st.characters(codec="utf-8"), max_size=40)
)
names = st.one_of(st.sampled_from(HANDLERS), odd_texts)
execution_ids = st.one_of(st.just(""), st.sampled_from(["e-1", "e-2", "e-3"]), odd_texts)
locations = st.one_of(
    st.sampled_from(
        [
            DATA,
            DATA[:-7],
            "data:",
            "data:,",
            "data:,def main(): return 1",
            "data:text/x-python;base64,####",
            "data:application/zip;base64,UEsDBA==",
            "/etc/passwd",
            "/",
            "relative.py",
            "file:///etc/passwd",
            "file://elsewhere/etc/passwd",
            "file:",
            "file:///%00",
            "http://127.0.0.1:1/x.py",
            "http://[::1]:1/x.py",
            "http://[::1",
            "http://",
            "http://169.254.169.254/latest",
            "https://0x7f000001:99999/",
            "sms+file://1",
            "gopher://127.0.0.1",
        ]
    ),
    odd_texts,
)
artifact_types = st.one_of(
    st.sampled_from(["", "process", "python", "zip", "wasm", "docker", "kubernetes"]), odd_texts
)
_FULL_NAME = "type.googleapis.com/google.protobuf."
_KINDS = ["StringValue", "BytesValue", "BoolValue", "Int32Value", "Int64Value", "UInt32Value"]
_KINDS += ["UInt64Value", "FloatValue", "DoubleValue", "Struct", "Value", "ListValue", "Any"]


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def nested(depth: int) -> bytes:
    """A `google.protobuf.ListValue` of lists, `depth` levels deep; no encoder would write it."""
    content = b""
    for _ in range(depth):
        value = b"\x32" + _varint(len(content)) + content
        content = b"\x0a" + _varint(len(value)) + value
    return content


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


type_urls = st.one_of(
    st.sampled_from([_FULL_NAME + kind for kind in _KINDS]),
    st.sampled_from(["", "/", "StringValue", "type.googleapis.com/spearlet.ExecutionData"]),
    odd_texts,
)
garbage = st.builds(
    AnyMessage,
    type_url=type_urls,
    value=st.one_of(
        st.binary(max_size=30),
        st.sampled_from([b"\xff" * 11, nested(20), nested(98), nested(150), b'{"a": 1}', b"NaN"]),
    ),
)
values = st.one_of(
    garbage,
    st.builds(wrappers_pb2.Int64Value, value=st.integers(-(2**63), 2**63 - 1)).map(_packed),
    st.builds(wrappers_pb2.DoubleValue, value=st.floats()).map(_packed),
    st.builds(wrappers_pb2.StringValue, value=odd_texts).map(_packed),
    st.builds(wrappers_pb2.BytesValue, value=st.binary(max_size=20)).map(_packed),
    st.builds(struct_pb2.Value, number_value=st.floats()).map(_packed),
)

_INT64 = st.one_of(
    st.sampled_from([0, 1, -1, 2**31, -(2**31), 2**63 - 1, -(2**63)]), st.integers(-10, 30_000)
)
_INT32 = st.one_of(st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]), st.integers(-10, 2000))

BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "task_id": names,
    "task_name": names,
    "artifact_id": names,
    "execution_id": execution_ids,
    "start_after": execution_ids,
    "location": locations,
    "artifact_type": artifact_types,
    "function_name": names,
    "name": st.one_of(st.sampled_from(["", "a", "b", "e", "f", "g", "n", "s", "event"]), odd_texts),
    "type": st.one_of(st.sampled_from(["", "json", "string", " JSON "]), odd_texts),
    "value": values,
    # 0 is 30 s; what naps is cut off by its client's patience, not by ours.
    "timeout_ms": st.one_of(st.integers(1, 3000), st.integers(max_value=-1, min_value=-(2**63))),
}
_BY_TYPE: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: odd_texts,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    # Enums are open: any int32 goes.
    FieldDescriptor.TYPE_ENUM: st.one_of(st.integers(0, 6), _INT32),
}
_texts_by_text = st.dictionaries(odd_texts, odd_texts, max_size=4)


def messages(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Messages of a kind; any of their fields may be absent."""
    fields = {field.name: _values_of(field) for field in kind.DESCRIPTOR.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: kind(**chosen))


def _values_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _texts_by_text
    if field.name in BY_NAME:
        one = BY_NAME[field.name]
    elif field.message_type is not None:
        one = messages(getattr(pb, field.message_type.name))
    else:
        one = _BY_TYPE[field.type]
    return st.lists(one, max_size=4) if field.is_repeated else one


# --- calls that get further ---

plain_texts = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | odd_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=8,
)
_json_parameter = _json.map(
    lambda tree: pb.FunctionParameter(
        type="json", value=AnyMessage(value=json.dumps(tree).encode())
    )
)


def _parameter(name: str, message: Message) -> pb.FunctionParameter:
    return pb.FunctionParameter(name=name, value=_packed(message))


_arguments: dict[str, st.SearchStrategy[Any]] = {
    "main": _json_parameter | messages(pb.FunctionParameter),
    "whole": _json_parameter | messages(pb.FunctionParameter),
    "add": _INT64.map(lambda n: _parameter("a", wrappers_pb2.Int64Value(value=n))),
    "items": _INT64.map(lambda n: _parameter("n", wrappers_pb2.Int64Value(value=n))),
    "nap": st.floats(0.0, 0.1).map(lambda s: _parameter("s", wrappers_pb2.DoubleValue(value=s))),
    "many": st.one_of(
        odd_texts.map(lambda text: _parameter("c", wrappers_pb2.StringValue(value=text))),
        st.binary().map(lambda raw: _parameter("e", wrappers_pb2.BytesValue(value=raw))),
        st.floats().map(lambda n: _parameter("b", wrappers_pb2.DoubleValue(value=n))),
    ),
}
_deferrals = st.fixed_dictionaries(
    {},
    optional={
        "Atlatl-Not-Before": st.sampled_from(["2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
        | odd_texts,
        "ATLATL-CALLBACK-URL": st.sampled_from(["http://hooks.invalid/", "http://127.0.0.1/"])
        | odd_texts,
    },
)
_contexts = st.builds(
    pb.ExecutionContext,
    session_id=odd_texts,
    user_id=odd_texts,
    headers=_texts_by_text | _deferrals,
    environment=st.dictionaries(plain_texts.filter(bool), plain_texts, max_size=3),
    timeout_ms=st.integers(1, 3000),
    max_retries=st.integers(0, 2),
)


def _call_of(task: str) -> st.SearchStrategy[Any]:
    arguments = _arguments.get(task)
    return st.builds(
        pb.InvokeFunctionRequest,
        task_id=st.just(task),
        invocation_type=st.sampled_from([0, 2, 2, -7]),
        execution_mode=st.sampled_from([1, 1, 1, 2]),
        wait=st.booleans(),
        execution_id=st.sampled_from([*[""] * 9, "e-1", "e-2"]),
        parameters=st.tuples() if arguments is None else st.tuples(arguments),
        context=_contexts,
        force_new_instance=st.sampled_from([False, False, False, True]),
        invocation_metadata=_texts_by_text,
    )


_new_tasks = st.builds(
    pb.InvokeFunctionRequest,
    invocation_type=st.sampled_from([1, 1, 0]),
    task_name=st.sampled_from(["made-1", "made-2", "made-3"]) | names,
    task_description=odd_texts,
    function_name=st.sampled_from(["", "", "boom", "_private", "nothing"]),
    artifact_spec=st.builds(
        pb.ArtifactSpec,
        artifact_id=names,
        artifact_type=st.sampled_from(["", "", "", "process", "zip", "wasm", "\0"]),
        location=st.sampled_from([DATA] * 20) | locations,
        version=odd_texts,
        checksum=st.sampled_from(["", "", "", "0" * 64, "x"]),
        metadata=_texts_by_text,
    ),
    execution_mode=st.just(1),
    context=_contexts,
)
calls = st.one_of(
    messages(pb.InvokeFunctionRequest), _new_tasks, *(_call_of(task) for task in HANDLERS)
)
