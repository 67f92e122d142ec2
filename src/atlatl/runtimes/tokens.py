"""The tokens that decide who has a call that was sent ahead."""

from __future__ import annotations

import os

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class Tokens:
    """One token for each call that was sent to an instance ahead and has not begun.

    Whoever takes a token has a call: the instance the next one, to begin it, the service the last
    one, to give it to another. Tokens are bytes in a pipe, so each is taken once.
    """

    def __init__(self) -> None:
        theirs, self._in = os.pipe2(_FLAGS)
        self.theirs = os.fdopen(theirs, "rb", buffering=0)
        """The instance's end; to be closed when it has it."""
        try:
            # Opened once more: an instance could make the reader that it shares with us wait.
            self._out = os.open(f"/proc/self/fd/{theirs}", os.O_RDONLY | _FLAGS)
        except OSError:
            self.theirs.close()
            os.close(self._in)
            raise

    def put(self, count: int) -> None:
        """Adds tokens; raises BlockingIOError when the instance has filled the pipe."""
        os.write(self._in, bytes(count))

    def take(self, most: int) -> int:
        """Takes up to so many tokens; returns how many there were."""
        try:
            return len(os.read(self._out, most))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.theirs.close()
        os.close(self._in)
        os.close(self._out)
