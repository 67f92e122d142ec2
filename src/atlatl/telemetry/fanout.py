"""One stream of events, several listeners."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from atlatl.events import Event, ExecutionFinished
from atlatl.ports import Telemetry

log = logging.getLogger(__name__)


class Fanout:
    """Passes each event to every listener; one that fails keeps it from no other.

    Args:
        listeners: hear everything.
        rarities: hear everything but the ends of executions, of which there are many.
    """

    def __init__(
        self, listeners: Sequence[Telemetry], *, rarities: Sequence[Telemetry] = ()
    ) -> None:
        self._listeners = tuple(listeners)
        self._of_rest = (*listeners, *rarities)

    def emit(self, event: Event) -> None:
        for listener in self._listeners if type(event) is ExecutionFinished else self._of_rest:
            try:
                listener.emit(event)
            except Exception:
                log.exception("a listener failed on %s", type(event).__name__)

    def add(self, listener: Telemetry) -> None:
        """From now on it hears everything too."""
        self._listeners = (*self._listeners, listener)
        self._of_rest = (*self._of_rest, listener)

    def remove(self, listener: Telemetry) -> None:
        self._listeners = tuple(each for each in self._listeners if each is not listener)
        self._of_rest = tuple(each for each in self._of_rest if each is not listener)
