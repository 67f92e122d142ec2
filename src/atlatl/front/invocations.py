"""InvokeFunction over HTTP, in proto3 JSON: everything that gRPC can say."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from starlette.requests import Request
from starlette.responses import Response

from atlatl.errors import InvalidRequest
from atlatl.front import rpcs
from atlatl.front.answers import address, bounded, json_answer, read_json, unless_gone
from atlatl.front.auth import Scope
from atlatl.front.calls import headers_of
from atlatl.front.codec import EXECUTION_DATA
from atlatl.front.proto import function_pb2 as pb
from atlatl.front.proto_json import to_json
from atlatl.front.reach import Reach, grant_of
from atlatl.front.routes import Endpoint

if TYPE_CHECKING:
    from atlatl.service import FunctionService


_NO_REQUEST = "the body is not an InvokeFunctionRequest in proto3 JSON"
_FORM_OF_VALUES = 'the value of a parameter is like {"@type": "...", "value": ...}'

_UNCHECKED = (AttributeError, LookupError, TypeError)
"""What protobuf's reader ends with at a value whose members are missing or of another kind."""


class Invocations:
    """Answers `/api/v1/invocations`."""

    def __init__(self, service: FunctionService) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "POST",
                "/api/v1/invocations",
                self.invoke,
                Scope.CALL,
                body={"application/json": {"type": "object"}},
                reach=Reach.SHOWN,
            )
        ]

    async def invoke(self, request: Request) -> Response:
        """Takes an InvokeFunctionRequest and gives an InvokeFunctionResponse, in proto3 JSON."""
        limit = self._service.settings.http.max_body_bytes
        message = request_from_json(await bounded(request, limit, "http.max_body_bytes").body())
        exchange = rpcs.Exchange(
            self._service,
            headers_of(request.headers.raw, without=frozenset()),
            grant_of(request),
        )
        answer = await unless_gone(request, rpcs.invoke_function(exchange, message))
        tree = to_json(answer)
        if tree["status_endpoint"]:
            tree["status_endpoint"] = address(request) + tree["status_endpoint"]
        return json_answer(tree)


def request_from_json(body: bytes) -> pb.InvokeFunctionRequest:
    """The request out of its proto3 JSON.

    Raw bytes as a parameter are `{"@type": EXECUTION_DATA, "value": base64}`: the standard
    mapping would have to know a message of that name.

    Raises:
        InvalidRequest: it is no such message.
    """
    tree = read_json(body, dict[str, Any], _NO_REQUEST)
    try:
        raw = _take_raw(tree.get("parameters"))
        message = json_format.ParseDict(tree, pb.InvokeFunctionRequest())
    except (json_format.ParseError, ValueError) as error:
        raise InvalidRequest(f"{_NO_REQUEST}: {error}") from None
    except OverflowError:
        raise InvalidRequest(f"{_NO_REQUEST}: a number is too large for a double") from None
    except _UNCHECKED:
        raise InvalidRequest(f"{_NO_REQUEST}: {_FORM_OF_VALUES}") from None
    for index, content in raw.items():
        message.parameters[index].value.type_url = EXECUTION_DATA
        message.parameters[index].value.value = content
    return message


def _take_raw(parameters: Any) -> dict[int, bytes]:
    """Takes the raw bytes out of the parameters; their contents by position."""
    taken = {}
    for index, parameter in enumerate(parameters if isinstance(parameters, list) else []):
        value = parameter.get("value") if isinstance(parameter, dict) else None
        if isinstance(value, dict) and value.get("@type") == EXECUTION_DATA:
            del parameter["value"]
            taken[index] = base64.b64decode(str(value.get("value", "")), validate=True)
    return taken
