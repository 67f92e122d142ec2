"""The tables of numbers within pages that are written by hand.

Between `<!-- numbers: NAMES -->` and `<!-- end of the numbers -->` stands a table of settings
(`pool.min_size`, `pool.*`) and of constants (`core.scaling.LOW_TICKS`), with their values and
meanings from the code.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from atlatl.settings import Group, Settings

BLOCK = re.compile(r"(<!-- numbers: (.*?) -->\n).*?(<!-- end of the numbers -->)", re.DOTALL)
HEAD = ("name", "value", "meaning")

Describe = Callable[[type[Group]], Iterator[tuple[str, ...]]]
Table = Callable[[tuple[str, ...], list[tuple[str, ...]]], str]


def filled(page: str, describe: Describe, table: Table) -> str:
    """The page with its numbers as they are in the code.

    Args:
        page: Markdown.
        describe: name, type, default and meaning of each member of a group of settings.
        table: Markdown of a table.
    """

    def block(found: re.Match[str]) -> str:
        rows = [row for name in found[2].split() for row in _rows(name, describe)]
        return f"{found[1]}\n{table(HEAD, rows)}\n{found[3]}"

    return BLOCK.sub(block, page)


def pages(docs: Path) -> list[Path]:
    """Those that have such tables."""
    return [page for page in sorted(docs.rglob("*.md")) if BLOCK.search(page.read_text("utf-8"))]


def _rows(name: str, describe: Describe) -> Iterator[tuple[str, ...]]:
    group, _, member = name.partition(".")
    if group in Settings.__struct_fields__:
        found = list(describe(type(getattr(Settings(), group))))
        rows = [row for row in found if member in ("*", row[0])]
        assert rows, f"there is no setting {name}"
        for setting, _, default, meaning in rows:
            yield f"`{group}.{setting}`", default, meaning
    else:
        yield constant(name)


def constant(path: str) -> tuple[str, ...]:
    """A constant of `atlatl`, by module and name."""
    module_name, _, name = path.rpartition(".")
    module = importlib.import_module(f"atlatl.{module_name}")
    value = getattr(module, name)
    return f"`{name}` in `{module_name.replace('.', '/')}.py`", f"`{value}`", _meaning(module, name)


def _meaning(module: Any, name: str) -> str:
    """The string right below the constant."""
    body = ast.parse(inspect.getsource(module)).body
    for line, below in itertools.pairwise(body):
        target = line.targets[0] if isinstance(line, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id == name:
            assert isinstance(below, ast.Expr), f"{name} has no meaning below it"
            assert isinstance(below.value, ast.Constant), f"{name} has no meaning below it"
            return " ".join(str(below.value.value).split())
    raise AssertionError(f"there is no {name} in {module.__name__}")
