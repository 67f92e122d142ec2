"""The work that both sides of a benchmark do, and what a round of it came to.

A function gets 100 bytes of JSON and gives JSON back. Every execution has a number of its own,
so that an answer that belongs to another execution is seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from bench.rounds import Wrong

BODY_BYTES = 100
SOURCE = '''"""What the queue benchmark has done."""


def main(number: int, text: str) -> dict:
    return {"number": number + 1, "text": text}
'''
"""Of the function as atlatl deploys it; `answer` is the same for the other side."""


class Ran(NamedTuple):
    """What one round of executions came to; checked, so all of them have ended well."""

    submitted_s: float
    """From the first submit until the last one was accepted."""
    completed_s: float
    """From the first submit until the last execution has ended."""

    def rates(self, n: int) -> dict[str, float]:
        """Executions a second."""
        return {
            "submitted": round(n / self.submitted_s, 1),
            "completed": round(n / self.completed_s, 1),
        }


def arguments(number: int) -> dict[str, Any]:
    """Of one execution; as compact JSON they are 100 bytes long."""
    bare = len(json.dumps({"number": number, "text": ""}, separators=(",", ":")))
    return {"number": number, "text": "x" * (BODY_BYTES - bare)}


def body(number: int) -> bytes:
    return json.dumps(arguments(number), separators=(",", ":")).encode()


def answer(number: int, text: str) -> dict[str, Any]:
    """What the function does."""
    return {"number": number + 1, "text": text}


def check(answers: Iterable[tuple[int, Any]]) -> int:
    """Counts the answers, each beside its number; raises Wrong at the first that is not right."""
    count = 0
    for number, found in answers:
        wanted = answer(**arguments(number))
        if found != wanted:
            raise Wrong(f"execution {number} answered {found!r} instead of {wanted!r}")
        count += 1
    return count


def shares(n: int, parts: int) -> list[range]:
    """The numbers below `n` in as many parts of about the same size."""
    ends = [n * part // parts for part in range(parts + 1)]
    return [range(first, end) for first, end in pairwise(ends)]


def ended_well(metrics: str, task: str) -> int:
    """Executions of a task, from the service's Prometheus text; 0 while it does not name it."""
    labels = rf'[^}}]*faas_name="{re.escape(task)}"[^}}]*'
    found = re.search(rf"^faas_invocations_total\{{{labels}\}} (\S+)", metrics, re.MULTILINE)
    return int(float(found[1])) if found else 0
