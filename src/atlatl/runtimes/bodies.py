"""The service's end of the file through which large bodies go to an instance and come back."""

from __future__ import annotations

import os

from atlatl.runtimes import memory_file
from atlatl_worker import wire

CAPACITY_BYTES = 33_554_432
"""Sparse: what was never written costs nothing."""

KEPT_BYTES = 1024 * 1024
"""Memory that stays in the file for good, at most."""
KEPT_S = 1.0
"""More stays while large bodies come so often: to get it anew takes as long as to fill it."""


class BodyFile:
    """A memory file of fixed size, shared with one instance.

    Through the socket a body goes in pieces of what the socket holds, and each wakes the other
    process; here it is there in one go. A call that has the instance to itself has the file to
    itself, from its frame to its answer. Seals keep the instance from changing the size.
    """

    def __init__(self) -> None:
        self.descriptor = memory_file.make("bodies", CAPACITY_BYTES)
        self._used = 0
        self._touched = False

    def put(self, body: bytes) -> bool:
        """Puts a body in; False when it goes through the socket as well, or does not fit."""
        if not wire.SHARED_FROM_BYTES < len(body) <= CAPACITY_BYTES:
            return False
        self._touch(len(body))
        try:
            return os.pwrite(self.descriptor, body, 0) == len(body)
        except OSError:  # no memory is left for it
            return False

    def take(self, frame: wire.Frame, limit: int) -> wire.Frame:
        """The frame with its body, which may be in the file.

        Raises:
            WireError: the body is over `limit` bytes, or larger than the file.
        """
        if not frame.flags & wire.SHARED:
            return frame
        n_bytes = wire.amount_of(frame)
        if n_bytes > min(limit, CAPACITY_BYTES):
            raise wire.WireError(f"a body of {n_bytes} bytes, over the limit")
        self._touch(n_bytes)
        body = os.pread(self.descriptor, n_bytes, 0)
        return frame._replace(body=body, flags=frame.flags & ~wire.SHARED)

    def _touch(self, n_bytes: int) -> None:
        self._used = max(self._used, n_bytes)
        self._touched = True

    @property
    def clearable(self) -> bool:
        """Whether there is memory to be given back one day."""
        return self._used > KEPT_BYTES

    def clear(self) -> bool:
        """Gives memory back, only while no call has the file; False when it was used of late.

        Of late is since the last time that this was asked for.
        """
        if self._touched:
            self._touched = False
            return False
        self._used = 0
        memory_file.empty(self.descriptor, CAPACITY_BYTES)
        return True

    def close(self) -> None:
        os.close(self.descriptor)
