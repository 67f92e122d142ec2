"""How functions want to be called, read once from each. Pure.

A plain function's code object says all of it. `inspect`, which says it of every callable, costs an
instance a seventh of its memory and most of the time that it takes to load a small artifact.
"""

from __future__ import annotations

import builtins
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from atlatl_worker.api import Context, Request

CHECKED: Final[dict[Any, str]] = {
    kind: kind.__name__ for kind in (int, float, str, bool, bytes, list, dict)
}
"""Annotations that are checked, and their names."""


class ParameterShape(NamedTuple):
    name: str
    required: bool
    annotation: str = ""
    optional: bool = False
    positional_only: bool = False


class FunctionShape(NamedTuple):
    function: str
    kind: str
    parameters: tuple[ParameterShape, ...] = ()
    accepts_any: bool = False
    wants_context: bool = False
    is_async: bool = False
    streams: bool = False
    context_name: str = ""
    request_name: str = ""
    """The parameter that takes the whole event or request."""
    positional: tuple[tuple[str, Any], ...] = ()
    """Name and default of each parameter that can't be passed by name."""

    def plain(self) -> dict[str, Any]:
        """What the service stores about it."""
        told = self._asdict()
        del told["context_name"], told["request_name"], told["positional"]
        return {**told, "parameters": [parameter._asdict() for parameter in self.parameters]}


def public_functions(module: types.ModuleType) -> dict[str, Callable[..., Any]]:
    """The functions that the module itself defines and that do not begin with `_`."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and not isinstance(value, type)
        and hasattr(value, "__name__")
        and getattr(value, "__module__", None) == module.__name__
    }


class _Parameter(NamedTuple):
    """What one word of a signature says."""

    name: str
    default: Any
    """`NOTHING` for none, as in `annotation`."""
    annotation: Any
    positional_only: bool = False


class _Signature(NamedTuple):
    parameters: list[_Parameter]
    """Without `*args` and `**kwargs`."""
    accepts_any: bool
    is_async: bool
    streams: bool


NOTHING: Final = inspect.Parameter.empty


def read_shape(name: str, function: Callable[..., Any]) -> FunctionShape:
    """How `function` wants to be called; raises ValueError when it has no readable signature."""
    found, accepts_any, is_async, streams = _signature(function)
    context = _context_name(found)
    ordinary = [p for p in found if p.name != context]
    kind = _kind(ordinary)
    return FunctionShape(
        function=name,
        kind=kind,
        parameters=tuple(map(_read_parameter, ordinary)) if kind == "parameters" else (),
        accepts_any=accepts_any,
        wants_context=bool(context),
        is_async=is_async,
        streams=streams,
        context_name=context,
        request_name=ordinary[0].name if kind in ("request", "event") else "",
        positional=tuple((p.name, p.default) for p in found if p.positional_only),
    )


def _signature(function: Callable[..., Any]) -> _Signature:
    # One with attributes may be a wrapper, or say that it is something else than it looks like.
    if type(function) is types.FunctionType and not function.__dict__:
        return _plain_signature(function)
    return _any_signature(function)


def _plain_signature(function: types.FunctionType) -> _Signature:
    code, flags = function.__code__, function.__code__.co_flags
    n_positional, n_all = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    names = code.co_varnames[:n_all]
    defaults = dict(function.__kwdefaults__ or {})
    given = function.__defaults__ or ()
    defaults.update(zip(names[n_positional - len(given) : n_positional], given, strict=True))
    annotations = _annotations(function)
    return _Signature(
        [
            _Parameter(
                name,
                defaults.get(name, NOTHING),
                annotations.get(name, NOTHING),
                at < code.co_posonlyargcount,
            )
            for at, name in enumerate(names)
        ],
        accepts_any=bool(flags & inspect.CO_VARKEYWORDS),
        is_async=bool(flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR)),
        streams=bool(flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)),
    )


def _annotations(function: types.FunctionType) -> dict[str, Any]:
    """Evaluated; as text when one of them exists for type checkers only."""
    found: dict[str, Any] = {}
    try:
        found = dict(function.__annotations__)
        found.pop("return", None)
        return {
            name: _evaluated(text, function.__globals__) if isinstance(text, str) else text
            for name, text in found.items()
        }
    except (NameError, SyntaxError, TypeError, AttributeError):
        return found


def _evaluated(annotation: str, namespace: dict[str, Any]) -> Any:
    if annotation in namespace:
        return namespace[annotation]
    # To compile even `str` would cost more than all the rest.
    known = getattr(builtins, annotation, None)
    return known if known in CHECKED else eval(annotation, namespace)  # nosec: B307 # the function's own


_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _any_signature(function: Callable[..., Any]) -> _Signature:
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, SyntaxError, TypeError, AttributeError):
        # An annotation that exists for type checkers only; its text is all there is.
        signature = inspect.signature(function)
    found = signature.parameters.values()
    asyncgen = inspect.isasyncgenfunction(function)
    return _Signature(
        [
            _Parameter(p.name, p.default, p.annotation, p.kind is p.POSITIONAL_ONLY)
            for p in found
            if p.kind not in _VARIADIC
        ],
        accepts_any=any(p.kind is p.VAR_KEYWORD for p in found),
        is_async=asyncgen or inspect.iscoroutinefunction(function),
        streams=asyncgen or inspect.isgeneratorfunction(function),
    )


def _kind(ordinary: list[_Parameter]) -> str:
    if len(ordinary) != 1:
        return "parameters"
    only = ordinary[0]
    if only.name == "request" or only.annotation is Request or only.annotation == "Request":
        return "request"
    return "event" if only.name == "event" else "parameters"


def _context_name(found: list[_Parameter]) -> str:
    """Annotated as Context, or called `context` without saying that it is anything else."""
    for parameter in found:
        annotation = parameter.annotation
        if annotation is Context or annotation == "Context":
            return parameter.name
        if parameter.name == "context" and annotation is NOTHING:
            return "context"
    names = [parameter.name for parameter in found]
    return "context" if names in (["event", "context"], ["request", "context"]) else ""


def _read_parameter(parameter: _Parameter) -> ParameterShape:
    annotation, optional = _read_annotation(parameter.annotation)
    return ParameterShape(
        name=parameter.name,
        required=parameter.default is NOTHING,
        annotation=annotation,
        optional=optional or parameter.default is None,
        positional_only=parameter.positional_only,
    )


def _read_annotation(annotation: Any) -> tuple[str, bool]:
    """Name of the type that is checked (empty for none), and whether None is allowed too."""
    if type(annotation) is type:
        return (CHECKED.get(annotation, ""), False)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _read_annotation(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(annotation) if m is not type(None)]
        optional = len(members) < len(typing.get_args(annotation))
        return (_read_annotation(members[0])[0] if len(members) == 1 else "", optional)
    if isinstance(annotation, str):
        return (annotation if annotation in CHECKED.values() else "", False)
    kind = origin or annotation
    return (CHECKED[kind] if isinstance(kind, type) and kind in CHECKED else "", False)
