"""Whether the calls of a task are so short that its instances may be handed several at once."""

from __future__ import annotations

from collections import deque

SHORT_S = 0.001
LOOKED_AT = 1000
"""The last so many calls are judged."""
LONG_ALLOWED = 10
"""Of them; so their 99th percentile is below `SHORT_S`."""


class Pace:
    """Judges the last `LOOKED_AT` calls by how long they ran."""

    __slots__ = ("_long", "_noted")

    def __init__(self) -> None:
        self._noted = 0
        self._long: deque[int] = deque()
        """Which ones were long, by their number."""

    def note(self, run_s: float) -> None:
        """Takes in how long a call ran, in seconds."""
        self._noted += 1
        if run_s >= SHORT_S:
            self._long.append(self._noted)
        elif self._long and self._long[0] <= self._noted - LOOKED_AT:
            self._long.popleft()

    @property
    def short(self) -> bool:
        """Whether hardly any of the last calls was long; False until there are enough."""
        return self._noted >= LOOKED_AT and len(self._long) < LONG_ALLOWED
