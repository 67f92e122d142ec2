"""Reads the SQL files: named statements, and the numbered steps of the schema."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def _sql_files() -> Traversable:
    return files("atlatl.stores") / "sql"


@cache
def statements() -> dict[str, str]:
    """The statements of `statements.sql` and `queue.sql` by the names in `-- name:` lines."""
    found: dict[str, str] = {}
    for file in ("statements.sql", "queue.sql"):
        _, *pieces = _NAME.split((_sql_files() / file).read_text("utf-8"))
        found |= {name: text.strip() for name, text in zip(pieces[::2], pieces[1::2], strict=True)}
    return found


@cache
def migrations() -> tuple[str, ...]:
    """The scripts `0001_*.sql`, `0002_*.sql`, ...; the nth leads to schema version n."""
    scripts = (entry for entry in _sql_files().iterdir() if entry.name[:4].isdigit())
    ordered = sorted(scripts, key=lambda entry: entry.name)
    return tuple(entry.read_text("utf-8") for entry in ordered)
