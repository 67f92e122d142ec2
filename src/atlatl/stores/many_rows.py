"""Statements over many rows at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

MOST = 64
"""Rows of one statement."""


def execute_rows(
    connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]
) -> int:
    """Executes a statement in which `:rows` stands for the values; returns how many it changed.

    The numbers of rows are powers of two, so that the statements are few and stay prepared.
    """
    changed = start = 0
    while (left := len(rows) - start) > 0:
        some = rows[start : start + min(MOST, 1 << left.bit_length() - 1)]
        places = f"({', '.join('?' * len(some[0]))})"
        text = statement.replace(":rows", ", ".join([places] * len(some)))
        changed += connection.execute(text, list(chain.from_iterable(some))).rowcount
        start += len(some)
    return changed
