"""One stream of events, several listeners."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from atlatl.events import Event
from atlatl.ports import Telemetry

log = logging.getLogger(__name__)


class Fanout:
    """Passes each event to every listener; one that fails keeps it from no other."""

    def __init__(self, listeners: Sequence[Telemetry]) -> None:
        self._listeners = tuple(listeners)

    def emit(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener.emit(event)
            except Exception:
                log.exception("a listener failed on %s", type(event).__name__)
