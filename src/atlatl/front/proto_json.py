"""The gRPC messages as proto3 JSON, for the HTTP routes that answer with them."""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message


def to_json(message: Message) -> dict[str, Any]:
    """A response in proto3 JSON, with the field names of the proto file and no field left out.

    An output cannot be expressed by the standard mapping, which would have to know a message
    ExecutionData; it becomes `{"@type": ..., "value": base64}`, as a bytes wrapper would.
    """
    result = getattr(message, "result", None)
    if result is None or not result.HasField("result"):
        return _to_json(message)
    bare = type(message)()
    bare.CopyFrom(message)
    bare.result.ClearField("result")  # type: ignore[attr-defined]
    tree = _to_json(bare)
    output = result.result
    tree["result"]["result"] = {
        "@type": output.type_url,
        "value": base64.b64encode(output.value).decode(),
    }
    return tree


def _to_json(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
