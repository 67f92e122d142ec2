"""Everybody takes a turn in each round: both sides of a ratio come from the same minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench import machine
from bench.results import say

Measured = Mapping[str, float]
"""What a turn came to, by `side: quantity`."""
Turns = Mapping[str, Callable[[], Measured]]
"""By the name of a side: has it do its work, checks that, and gives what was measured."""


class Missing(Exception):
    """A peer is not on this machine; the message says what to do."""


class Wrong(AssertionError):
    """Work was refused, lost, or not done as it should have been: nothing that was timed counts."""


def interleaved(
    turns: Turns, rounds: int, label: str
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """What was measured by name, one of each round; and why a side was left out, by its name.

    Raises:
        Wrong: a side did not do its work.
    """
    found: dict[str, list[float]] = {}
    skipped: dict[str, str] = {}
    for number in range(1, rounds + 1):
        # Each round goes the other way round: nobody always comes first.
        for side in list(turns)[:: 1 if number % 2 else -1]:
            if side in skipped:
                continue
            try:
                measured = turns[side]()
            except Missing as missing:
                skipped[side] = str(missing)
                say(f"{label}: {side} is skipped: {missing}")
                continue
            for name, value in measured.items():
                found.setdefault(name, []).append(round(value, 4))
        say(f"{label}: round {number} of {rounds}")
    return found, skipped


@contextmanager
def watched(wait: bool = True) -> Iterator[dict[str, Any]]:
    """Waits for a quiet moment; afterwards the dict says what others did meanwhile."""
    quiet = machine.wait_for_quiet(say) if wait else False
    if wait and not quiet:
        say("it did not become quiet: take these figures with care")
    load: dict[str, Any] = {
        "quiet_before": quiet,
        "load_average_before": round(os.getloadavg()[0], 2),
    }
    others, began = machine.Others(), time.monotonic()
    yield load
    load["took_s"] = round(time.monotonic() - began, 1)
    load["others_cores"] = round(others.cores(), 2)
