"""From what a caller gave to what an instance gets."""

from __future__ import annotations

import datetime
import math
from typing import Any

import msgspec
import pytest

from atlatl.engine.arguments import MAX_FIELDS, encode
from atlatl.errors import InvalidRequest
from atlatl.model import Arguments, Encoded, Event, HttpRequest, Parameter, Payload, Shape

EVENT = Shape(function="main", kind="event")
REQUEST = Shape(function="main", kind="request")


def parameters(*names: str, **annotations: str) -> Shape:
    """Names that end in `?` have a default."""
    known = {**dict.fromkeys(names, ""), **annotations}
    return Shape(
        function="main",
        kind="parameters",
        parameters=tuple(
            Parameter(name=name.rstrip("?"), required=name[-1] != "?", annotation=annotation)
            for name, annotation in known.items()
        ),
    )


def post(body: bytes, content_type: str = "application/json", query: str = "") -> HttpRequest:
    headers = {"content-type": content_type} if content_type else {}
    return HttpRequest(method="POST", path="/", query=query, headers=headers, body=body)


def refused(shape: Shape, payload: Payload) -> str:
    with pytest.raises(InvalidRequest) as caught:
        encode(shape, payload)
    return str(caught.value)


def test_json_that_fits_travels_as_the_very_bytes_that_came() -> None:
    body = b'{ "name": "Ada",\n "times": 2 }'
    encoded = encode(parameters("name", times="int"), post(body))
    assert encoded == Encoded(kind="arguments", body=body)
    assert encoded.body is body


def test_query_parameters_join_the_body() -> None:
    encoded = encode(parameters("name", times="int"), post(b'{"name":"x"}', query="times=3"))
    assert msgspec.json.decode(encoded.body) == {"name": "x", "times": 3}


def test_a_name_in_both_is_refused() -> None:
    assert "`name`" in refused(parameters("name"), post(b'{"name":"x"}', query="name=y"))


def test_without_a_body_the_query_is_all() -> None:
    shape = parameters("name", times="int")
    encoded = encode(shape, post(b"", "", "name=a%20b&times=2"))
    assert msgspec.json.decode(encoded.body) == {"name": "a b", "times": 2}
    assert "`name`" in refused(shape, post(b"", "", "times=2"))


def test_curl_calls_json_a_form() -> None:
    form = "application/x-www-form-urlencoded"
    encoded = encode(parameters("name"), post(b'{"name":"x"}', form))
    assert (encoded.kind, encoded.body) == ("arguments", b'{"name":"x"}')
    encoded = encode(parameters("name", times="int"), post(b"name=x&times=2", form))
    assert msgspec.json.decode(encoded.body) == {"name": "x", "times": 2}


def test_a_form_has_a_bound_of_names() -> None:
    """Each costs many times its bytes, and all of them are read in one go."""
    form = "application/x-www-form-urlencoded"
    encode(EVENT, post(b"a=&" * (MAX_FIELDS - 1) + b"a=", form))
    message = refused(EVENT, post(b"a=&" * MAX_FIELDS + b"a=", form))
    assert f"more than {MAX_FIELDS} names" in message


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b"[1,2]", "application/json", "json"),
        (b"5", "", "json"),
        (b"5", "application/vnd.api+json; charset=utf-8", "json"),
        (b"not json", "", "text"),
        (b"hi", "text/plain", "text"),
        (b"\xff\xfe", "application/octet-stream", "bytes"),
        (b"\xff\xfe", "", "bytes"),
    ],
)
def test_one_value_goes_to_the_one_parameter_or_the_event(
    body: bytes, content_type: str, kind: str
) -> None:
    to_parameter = encode(parameters("it", "more?"), post(body, content_type))
    assert to_parameter == Encoded(kind=kind, body=body, meta={"parameter": "it"})
    assert encode(EVENT, post(body, content_type)) == Encoded(kind=kind, body=body)
    assert "named arguments" in refused(parameters("a", "b"), post(body, content_type))


def test_bytes_and_text_follow_the_annotation() -> None:
    octets = "application/octet-stream"
    assert encode(parameters(it="str"), post(b"hi", octets)).kind == "text"
    assert encode(parameters(it="bytes"), post(b"hi", "text/plain")).kind == "bytes"
    encoded = encode(parameters(it="bytes"), post(b'"aGk="'))
    assert encoded.meta == {"parameter": "it", "base64": ["it"]}
    assert encode(parameters(it="bytes"), post(b'{"it":"aGk="}')).meta == {"base64": ["it"]}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert "no JSON" in refused(EVENT, post(body)) or "JSON nested" in refused(EVENT, post(body))


def test_text_that_is_no_utf8_is_refused() -> None:
    assert "UTF-8" in refused(EVENT, post(b"\xff", "text/plain"))


def test_an_event_gets_the_body_or_else_the_query() -> None:
    assert encode(EVENT, post(b'{"a":1}', query="b=2")).body == b'{"a":1}'
    assert encode(EVENT, post(b"", "", "b=2")) == Encoded(kind="arguments", body=b'{"b":"2"}')
    assert encode(EVENT, post(b"", "")) == Encoded(kind="arguments", body=b"{}")


def test_a_request_gets_everything_untouched() -> None:
    request = HttpRequest(
        method="PUT", path="/a", query="b=1", headers={"x-y": "z"}, body=b"\xffraw"
    )
    meta = {"method": "PUT", "path": "/a", "query": "b=1", "headers": {"x-y": "z"}}
    assert encode(REQUEST, request) == Encoded(kind="request", body=b"\xffraw", meta=meta)


def test_other_payloads_become_a_request() -> None:
    encoded = encode(REQUEST, Arguments(values={"a": 1}))
    assert (encoded.kind, encoded.body, encoded.meta["method"]) == ("request", b'{"a":1}', "POST")
    assert encoded.meta["headers"]["content-type"] == "application/json"
    encoded = encode(REQUEST, Event(value=b"raw"))
    assert (encoded.body, encoded.meta["headers"]["content-type"]) == (
        b"raw",
        "application/octet-stream",
    )


def test_arguments_are_checked_and_encoded() -> None:
    shape = parameters("name", raw="bytes")
    encoded = encode(shape, Arguments(values={"name": "x", "raw": b"hi"}))
    assert msgspec.json.decode(encoded.body) == {"name": "x", "raw": "aGk="}
    assert encoded.meta == {"base64": ["raw"]}
    assert "`raw`" in refused(shape, Arguments(values={"name": "x"}))
    assert encode(EVENT, Arguments(values={"raw": b"hi"})).meta == {"base64": ["raw"]}


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (math.nan, "NaN"),
        ([math.inf], "NaN"),
        ({"deep": b"raw"}, "bytes"),
        (object(), "type object cannot be sent as JSON"),
        ({1, 2}, "type set cannot"),
        ({"deep": [{1}]}, "type set cannot"),
        (datetime.date(2024, 1, 1), "type date cannot"),
        ({1: 2}, "the key 1 "),
        ({"deep": {(1, 2): 3}}, "the key (1, 2) "),
        ("\ud800", "JSON"),
    ],
)
def test_values_that_json_would_change_are_refused(value: Any, word: str) -> None:
    assert word in refused(parameters("it"), Arguments(values={"it": value}))
    assert word in refused(EVENT, Event(value={"it": value}))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("annotation", ["", "bytes"])
def test_whatever_holds_bytes_arrives_as_bytes(kind: type, annotation: str) -> None:
    encoded = encode(parameters(it=annotation), Arguments(values={"it": kind(b"hi")}))
    assert encoded.meta == {"base64": ["it"]}
    assert msgspec.json.decode(encoded.body) == {"it": "aGk="}


def test_endless_nesting_of_values_is_refused() -> None:
    value: list[Any] = []
    for _ in range(5000):
        value = [value]
    assert "nested" in refused(EVENT, Event(value=value))


@pytest.mark.parametrize(
    ("value", "kind", "body"),
    [("hi", "text", b"hi"), (b"\xff", "bytes", b"\xff"), ([1], "json", b"[1]")],
)
def test_events_keep_their_kind(value: object, kind: str, body: bytes) -> None:
    assert encode(EVENT, Event(value=value)) == Encoded(kind=kind, body=body)
    assert encode(parameters("it"), Event(value=value)).meta == {"parameter": "it"}
