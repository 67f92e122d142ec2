"""A plain function's shape comes from its code object, and is what `inspect` would say."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from atlatl_worker import shapes
from atlatl_worker.api import Context, Request

if TYPE_CHECKING:
    from decimal import Decimal

MODULES = ("argparse", "asyncio.streams", "contextlib", "inspect", "random", "shutil", "statistics")


def functions_of(module: types.ModuleType) -> list[types.FunctionType]:
    spaces = [module, *(value for value in vars(module).values() if isinstance(value, type))]
    return [
        value
        for space in spaces
        for value in vars(space).values()
        if type(value) is types.FunctionType and not value.__dict__
    ]


@pytest.mark.parametrize("name", MODULES)
def test_both_ways_agree_on_the_standard_library(name: str) -> None:
    found = functions_of(importlib.import_module(name))
    assert len(found) > 10
    for function in found:
        assert shapes._plain_signature(function) == shapes._any_signature(function), function


def all_kinds(a, b=2, /, c: int = 3, *rest: str, d: "Decimal", e: bool = True, **more) -> None: ...  # type: ignore[no-untyped-def] # noqa: UP037
def annotated(a: int, b: str | None, c: list[int], d: Request, e: Context = ...) -> None: ...
def unknown(a: int, b: Decimal) -> None: ...
def broken(a: "not an expression") -> None: ...  # type: ignore[valid-type] # noqa: F722
async def waits(a: int) -> None: ...
def yields(*, a: float = 0.5) -> Iterator[int]:
    yield 1


async def both(**named: int) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    "function", [all_kinds, annotated, unknown, broken, waits, yields, both, lambda x, y=1: x]
)
def test_both_ways_agree(function: types.FunctionType) -> None:
    assert shapes._plain_signature(function) == shapes._any_signature(function)


def test_a_result_that_only_type_checkers_know_hides_no_parameter() -> None:
    def compute(rows: list[int]) -> Decimal: ...  # type: ignore[empty-body]

    assert shapes.read_shape("compute", compute).parameters[0].annotation == "list"


def test_a_plain_function_needs_no_inspect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(inspect, "signature")
    shape = shapes.read_shape("annotated", annotated)
    assert [p.name for p in shape.parameters] == ["a", "b", "c", "d"]
    assert shape.context_name == "e"


@functools.wraps(annotated)
def wrapper(*args: Any, **named: Any) -> Any: ...


class Odd:
    def __call__(self, name: str, times: int = 1) -> None: ...
    def method(self, name: str) -> None: ...


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (wrapper, ["a", "b", "c", "d"]),
        (Odd(), ["name", "times"]),
        (Odd().method, ["name"]),
        (functools.partial(annotated, 1), ["b", "c", "d"]),
    ],
)
def test_other_callables_are_asked_for_their_signature(
    function: Callable[..., Any], names: list[str]
) -> None:
    assert [p.name for p in shapes.read_shape("f", function).parameters] == names


def test_what_has_no_signature_says_so() -> None:
    with pytest.raises(ValueError, match="signature"):
        shapes.read_shape("max", max)


def test_an_attribute_may_change_what_a_function_looks_like() -> None:
    def wrapped(*args: Any) -> None: ...

    wrapped.__signature__ = inspect.signature(lambda event: None)  # type: ignore[attr-defined]
    assert shapes.read_shape("wrapped", wrapped).kind == "event"
    with contextlib.suppress(AttributeError):  # from Python 3.12 on
        inspect.markcoroutinefunction(wrapped)  # type: ignore[attr-defined]
        assert shapes.read_shape("wrapped", wrapped).is_async
