"""Counts down to zero, one line at a time. A generator streams what it yields."""

import time
from collections.abc import Iterator


def main(start: int = 5, pause_s: float = 0.1) -> Iterator[str]:
    for number in range(start, 0, -1):
        yield f"{number}\n"
        time.sleep(pause_s)
    yield "lift-off\n"
