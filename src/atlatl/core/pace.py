"""Whether the calls of a task are so short that its instances may be handed several at once."""

from __future__ import annotations

from collections import deque

SHORT_S = 0.001
LOOKED_AT = 1000
"""The last so many calls are judged."""
LONG_ALLOWED = 10
"""Of them; so their 99th percentile is below `SHORT_S`."""
SMOOTHING = 0.01
"""Weight of the newest call in the mean."""


class Pace:
    """Judges the last `LOOKED_AT` calls by how long they ran."""

    __slots__ = ("_long", "mean_s", "noted")

    def __init__(self) -> None:
        self.noted = 0
        """How many there were so far."""
        self.mean_s = 0.0
        """Moving average; a long call counts as one of `SHORT_S`."""
        self._long: deque[int] = deque()
        """Which of the last ones were long, by their number."""

    def note(self, run_s: float) -> None:
        """Takes in how long a call ran, in seconds."""
        self.noted += 1
        if self._long and self._long[0] <= self.noted - LOOKED_AT:
            self._long.popleft()
        if run_s >= SHORT_S:
            run_s = SHORT_S
            self._long.append(self.noted)
        self.mean_s += SMOOTHING * (run_s - self.mean_s)

    @property
    def short(self) -> bool:
        """Whether hardly any of the last calls was long; False until there are enough."""
        return self.noted >= LOOKED_AT and len(self._long) < LONG_ALLOWED
