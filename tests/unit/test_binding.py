"""Shapes of functions, and arguments checked against them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Optional

import pytest

from atlatl_worker import wire
from atlatl_worker.api import Context, Request, Response
from atlatl_worker.binding import (
    BindingError,
    bind,
    check_arguments,
    convert_query,
)
from atlatl_worker.results import ResultError, encode_result
from atlatl_worker.shapes import FunctionShape, read_shape


def shape_of(function: Callable[..., Any]) -> FunctionShape:
    return read_shape(function.__name__, function)


def ordinary(name: str, times: int = 1, *, ratio: float = 0.5, tag: Optional[str] = None) -> None:  # noqa: UP045
    """All that is checked."""


def test_ordinary_parameters() -> None:
    shape = shape_of(ordinary)
    assert shape.kind == "parameters"
    assert [(p.name, p.required, p.annotation, p.optional) for p in shape.parameters] == [
        ("name", True, "str", False),
        ("times", False, "int", False),
        ("ratio", False, "float", False),
        ("tag", False, "str", True),
    ]


def one_event(event): ...  # type: ignore[no-untyped-def]
def event_and_context(event, context): ...  # type: ignore[no-untyped-def]
def foreign_context(event: dict[str, Any], context: Unknown): ...  # type: ignore[name-defined, no-untyped-def] # noqa: F821
def one_request(request): ...  # type: ignore[no-untyped-def]
def annotated(incoming: Request) -> None: ...
def request_and_context(request: Request, ctx: Context) -> None: ...
def event_among_others(event: str, name: str) -> None: ...
def with_context(name, context): ...  # type: ignore[no-untyped-def]
def context_of_their_own(question: str, context: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "kind", "wants_context", "names"),
    [
        (one_event, "event", False, []),
        (event_and_context, "event", True, []),
        (foreign_context, "event", True, []),
        (one_request, "request", False, []),
        (annotated, "request", False, []),
        (request_and_context, "request", True, []),
        (event_among_others, "parameters", False, ["event", "name"]),
        (with_context, "parameters", True, ["name"]),
        (context_of_their_own, "parameters", False, ["question", "context"]),
    ],
)
def test_shapes_go_by_exact_names(
    function: Callable[..., Any], kind: str, wants_context: bool, names: list[str]
) -> None:
    shape = shape_of(function)
    assert (shape.kind, shape.wants_context) == (kind, wants_context)
    assert [parameter.name for parameter in shape.parameters] == names


async def waits() -> None: ...
def yields() -> Iterator[int]:
    yield 1


async def awaits_and_yields() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "is_async", "streams"),
    [(waits, True, False), (yields, False, True), (awaits_and_yields, True, True)],
)
def test_what_kind_of_function(function: Callable[..., Any], is_async: bool, streams: bool) -> None:
    shape = shape_of(function)
    assert (shape.is_async, shape.streams) == (is_async, streams)


def everything(
    i: int = 0,
    f: float = 0,
    s: str = "",
    b: bool = False,
    raw: bytes = b"",
    items: list[int] = [],  # noqa: B006
    table: dict[str, int] = {},  # noqa: B006
    maybe: int | None = None,
    free: Any = None,
) -> None: ...


@pytest.mark.parametrize(
    "values",
    [
        {"i": 1, "f": 1, "s": "x", "b": True, "items": [1], "table": {}, "maybe": None},
        {"f": 1.5, "maybe": 3, "free": None},
        {"free": {"any": ["thing"]}},
    ],
)
def test_fitting_arguments_need_no_change(values: dict[str, Any]) -> None:
    assert check_arguments(shape_of(everything), values) == []


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"i": "1"}, "i"),
        ({"i": 1.0}, "i"),
        ({"i": True}, "i"),
        ({"f": True}, "f"),
        ({"b": 1}, "b"),
        ({"s": None}, "s"),
        ({"items": {}}, "items"),
        ({"table": []}, "table"),
        ({"maybe": "x"}, "maybe"),
        ({"raw": "not base64!"}, "raw"),
        ({"other": 1}, "other"),
    ],
)
def test_the_message_names_the_parameter(values: dict[str, Any], name: str) -> None:
    with pytest.raises(BindingError, match=f"`{name}`"):
        check_arguments(shape_of(everything), values)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(BindingError, match="missing the parameter `name`"):
        check_arguments(shape_of(ordinary), {"times": 2})


def test_bytes_travel_as_base64() -> None:
    assert check_arguments(shape_of(everything), {"raw": "YWI="}) == ["raw"]
    assert check_arguments(shape_of(everything), {"raw": b"ab", "free": b"c"}) == ["raw", "free"]


def test_keywords_take_any_name() -> None:
    def open_ended(name: str, **rest: Any) -> None: ...

    assert check_arguments(shape_of(open_ended), {"name": "x", "more": 1}) == []


def test_query_texts_become_values() -> None:
    query = {
        "i": ["-3"],
        "f": ["2.5"],
        "s": ["5"],
        "b": ["True"],
        "items": ["1", "2"],
        "table": ['{"a": 1}'],
        "maybe": [""],
        "free": ["7"],
    }
    assert convert_query(shape_of(everything), query) == {
        "i": -3,
        "f": 2.5,
        "s": "5",
        "b": True,
        "items": ["1", "2"],
        "table": {"a": 1},
        "maybe": None,
        "free": "7",
    }


@pytest.mark.parametrize(
    ("name", "texts"),
    [("i", ["x"]), ("f", ["nan"]), ("b", ["maybe"]), ("table", ["[]"]), ("s", ["a", "b"])],
)
def test_query_texts_of_the_wrong_type(name: str, texts: list[str]) -> None:
    with pytest.raises(BindingError, match=f"`{name}`"):
        convert_query(shape_of(everything), {name: texts})


def test_positional_only_parameters_get_their_places() -> None:
    def places(a: int, b: int = 2, c: int = 3, /, d: int = 4) -> tuple[int, ...]:
        return a, b, c, d

    shape = read_shape("places", places)
    body = b'{"a": 1, "c": 30, "d": 40}'
    arguments, named = bind(shape, {"payload": "arguments"}, body, Context())
    assert places(*arguments, **named) == (1, 2, 30, 40)


def test_each_payload_is_read() -> None:
    context = Context(execution_id="e")
    text = base64.b64encode(b"raw").decode()
    meta: dict[str, Any] = {"payload": "arguments", "base64": ["raw"]}
    assert bind(shape_of(everything), meta, b'{"raw": "%s"}' % text.encode(), context)[1] == {
        "raw": b"raw"
    }
    assert bind(shape_of(one_event), {"payload": "json"}, b"[1]", context)[1] == {"event": [1]}
    assert bind(shape_of(one_event), {"payload": "text"}, b"hi", context)[1] == {"event": "hi"}
    _, named = bind(shape_of(event_and_context), {"payload": "bytes"}, b"\xff", context)
    assert named == {"event": b"\xff", "context": context}
    meta = {"payload": "request", "method": "PUT", "path": "/a", "query": "b=1", "headers": {}}
    _, named = bind(shape_of(annotated), meta, b"body", context)
    request = named["incoming"]
    assert (request.method, request.path, request.query) == ("PUT", "/a", {"b": "1"})
    assert request.body == b"body"


def test_results_by_their_type() -> None:
    assert encode_result("f", {"a": [1, None]}) == (wire.JSON, b'{"a":[1,null]}', {})
    assert encode_result("f", "é") == (wire.TEXT, "é".encode(), {})
    assert encode_result("f", bytearray(b"x")) == (wire.BYTES, b"x", {})
    assert encode_result("f", None) == (wire.JSON, b"null", {})


def test_a_response_says_what_it_is() -> None:
    content, body, meta = encode_result("f", Response({"a": 1}, 201, {"X-A": "b"}))
    assert (content, body) == (wire.RESPONSE, b'{"a":1}')
    assert meta == {
        "status": 201,
        "headers": [("X-A", "b"), ("content-type", "application/json")],
    }


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({1, 2}, "set"),
        ([object()], "object"),
        (float("nan"), "NaN|nan|Out of range"),
        ("\ud800", "Unicode"),
        (Response("x", status=99), "status 99"),
        (Response("x", headers={"a": "b\r\nc: d"}), "header 'a'"),
        (Response(Response("x")), "Response whose body"),
    ],
)
def test_what_cannot_be_sent_is_named(value: object, word: str) -> None:
    with pytest.raises(ResultError, match=word):
        encode_result("f", value)
