"""Looks at files that others change while the service runs: tokens and certificates."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

EVERY_S = 0.5
"""A change is noticed within a second, also when reading takes its time."""
STOP_S = 2.0
"""A look that a disk holds up for longer is left behind."""


class Watch:
    """Calls something twice a second in a thread of its own, so that no call waits for a disk.

    Args:
        looks: what is called; it does not raise.
        as_long_as: the thread ends by itself when this is false.
    """

    def __init__(
        self, *looks: Callable[[], None], as_long_as: Callable[[], bool] = lambda: True
    ) -> None:
        self._looks = looks
        self._as_long_as = as_long_as
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Looks once, and then again and again; does nothing when it does so already."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._look()
        self._stop = threading.Event()  # of this thread: one that was left behind has its own
        self._thread = threading.Thread(
            target=self._run, args=(self._stop,), name="watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Waits at most `STOP_S` for a look that is under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
            self._thread = None

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(EVERY_S) and self._as_long_as():
            self._look()

    def _look(self) -> None:
        for look in self._looks:
            try:
                look()
            except Exception:
                log.exception("looking at files that may have changed failed")
