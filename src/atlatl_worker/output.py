"""What a function prints and logs.

File descriptors 1 and 2 are one memory file of fixed size whose duplicate the service holds:
what was written before a crash is still there. Printing never raises and never waits; what
finds no room is dropped.
"""

from __future__ import annotations

import contextvars
import io
import logging
import os
import sys
from typing import Any, Final


class Capture:
    """What one of several executions in flight wrote through Python."""

    __slots__ = ("_limit", "_parts", "_size", "written")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.written = 0

    def add(self, data: bytes) -> None:
        self.written += len(data)
        room = self._limit - self._size
        if room > 0:
            self._parts.append(data[:room])
            self._size += len(self._parts[-1])

    def text(self) -> str:
        return b"".join(self._parts).decode("utf-8", "backslashreplace")


current: Final[contextvars.ContextVar[Capture | None]] = contextvars.ContextVar(
    "atlatl_output", default=None
)


class Sink(io.RawIOBase):
    """The bottom of `sys.stdout` and `sys.stderr`."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def write(self, data: Any) -> int:
        written = bytes(data)
        capture = current.get()
        if capture is not None:
            capture.add(written)
        try:
            rest = memoryview(written)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            # The memory file is full, or the function closed it: dropped.
            pass
        return len(written)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """A function that closes its output must not silence the next call."""

    @property
    def mode(self) -> str:
        return "wb"

    @property
    def name(self) -> str:
        return "<stdout>" if self._descriptor == 1 else "<stderr>"


def install() -> None:
    """Gives this process its output streams, and unconfigured logging a way into them."""
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _stream(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2)  # type: ignore[misc]
    logging.getLogger().setLevel(logging.INFO)
    if logging.lastResort is not None:
        # Used only while no handler is configured: a function's own set-up replaces it.
        logging.lastResort.setLevel(logging.INFO)
        logging.lastResort.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))


def _stream(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        Sink(descriptor),
        encoding="utf-8",
        errors="backslashreplace",
        newline="\n",
        write_through=True,
    )
