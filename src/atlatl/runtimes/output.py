"""The service's end of the file that an instance prints into."""

from __future__ import annotations

import os

from atlatl.runtimes import memory_file

CAPACITY_BYTES = 16 * 1024 * 1024
"""Sparse: what was never written costs nothing."""

REWIND_BYTES = 1024 * 1024
"""Beyond this an idle instance begins its file anew, so that each call finds room."""


class OutputFile:
    """A memory file of fixed size, shared with one instance.

    The descriptor shares its offset with the instance's, so the offset tells how much was
    written by whomever, alive or dead. Seals keep the instance from changing the size.
    """

    def __init__(self) -> None:
        self.descriptor = memory_file.make("output", CAPACITY_BYTES)
        self._mark = 0

    def take(self, start: int, end: int, limit: int) -> bytes:
        """What one call wrote, cut at `limit` bytes; raises ValueError for no such range."""
        if not 0 <= start <= end <= CAPACITY_BYTES:
            raise ValueError("a range outside the output file")
        self._mark = end
        data = os.pread(self.descriptor, min(end - start, limit), start)
        full = end == CAPACITY_BYTES
        return cut(data, end - start, limit, at_least=full)

    def take_rest(self, limit: int) -> bytes:
        """What was written since the last `take`, by an instance that says nothing any more."""
        end = self._position()
        return self.take(min(self._mark, end), end, limit)

    def _position(self) -> int:
        # The instance may have moved it anywhere.
        return min(os.lseek(self.descriptor, 0, os.SEEK_CUR), CAPACITY_BYTES)

    def skip(self) -> None:
        """What was written so far belongs to no call that is still to come."""
        self._mark = self._position()
        self.rewind()

    def rewind(self) -> None:
        """Makes room when a good part is used; only while no call writes."""
        if self._mark < REWIND_BYTES:
            return
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self._mark = 0
        memory_file.empty(self.descriptor, CAPACITY_BYTES)

    def close(self) -> None:
        os.close(self.descriptor)


def cut(data: bytes, written: int, limit: int, *, at_least: bool = False) -> bytes:
    """The first `limit` bytes, with a last line that says how much is missing."""
    kept = data[:limit]
    missing = written - len(kept)
    if missing <= 0 and not at_least:
        return kept
    much = f"at least {missing}" if at_least else str(missing)
    return kept + f"\n[{much} more bytes were cut off: output_bytes is {limit}]\n".encode()
