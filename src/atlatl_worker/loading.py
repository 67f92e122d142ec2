"""From a blank to an instance of one task: environment, import path, the artifact's module."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from atlatl_worker import api, environment, faults, shapes


class Assignment(NamedTuple):
    """What a blank is told to become."""

    code: str
    """Directory of the artifact."""
    deps: str
    """Directory of its dependencies; may be empty."""
    handler: str
    """`file.py:function`."""
    environment: dict[str, str]
    task_name: str
    version: int
    concurrency: int
    """Executions in flight at once."""
    output_bytes: int
    response_bytes: int
    confinement: dict[str, Any]
    """The fields of `confine.Confinement`."""
    forks: bool = False
    """To fork further instances instead of serving calls."""


class Function(NamedTuple):
    call: Callable[..., Any]
    shape: shapes.FunctionShape


Program = dict[str, Function]
"""The functions that a call may name."""


class NotLoaded(Exception):
    """The artifact cannot be used; `fault` says why."""

    def __init__(self, fault: faults.Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def load(assignment: Assignment) -> Program:
    """Imports the task's artifact into this process; raises NotLoaded."""
    file, _, function = assignment.handler.rpartition(":")
    environment.replace(assignment.environment)
    sys.path[:0] = [path for path in (assignment.code, assignment.deps) if path]
    sys.argv = [os.path.join(assignment.code, file)]  # noqa: PTH118
    try:
        os.chdir(assignment.code)
        module = _import(assignment.code, file)
        return _program(module, function)
    except NotLoaded:
        raise
    except BaseException as error:
        raise NotLoaded(faults.describe_import(error, assignment.code, file)) from None


def run_hooks(assignment: Assignment) -> None:
    """What the artifact wants done in each instance; raises NotLoaded."""
    try:
        api.run_hooks()
    except BaseException as error:
        file = assignment.handler.rpartition(":")[0]
        raise NotLoaded(faults.describe_import(error, assignment.code, file)) from None


def _import(code: str, file: str) -> types.ModuleType:
    parts = file.removesuffix(".py").split("/")
    path = os.path.join(code, file)  # noqa: PTH118
    taken = parts[0] in sys.modules or parts[0] in sys.stdlib_module_names
    if taken or not all(part.isidentifier() for part in parts):
        # A file called `random.py` must neither hide the library's module nor be hidden by it.
        return _import_file(f"function_{parts[-1]}", path)
    if len(parts) > 1:
        return importlib.import_module(".".join(parts))
    # Where it is is known: the search would take a third of the import.
    return _import_file(parts[0], path)


def _import_file(name: str, path: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _program(module: types.ModuleType, handler: str) -> Program:
    candidates = shapes.public_functions(module)
    named = getattr(module, handler, None)
    if callable(named) and not isinstance(named, type):
        candidates[handler] = named
    program: Program = {}
    for name, function in candidates.items():
        try:
            program[name] = Function(function, shapes.read_shape(name, function))
        except ValueError:
            # No readable signature: some callables of C extensions.
            continue
    if handler not in program:
        known = ", ".join(sorted(program)) or "none"
        raise NotLoaded(
            faults.Fault(
                "import", f"the artifact has no function {handler!r}; its functions: {known}"
            )
        )
    return program
