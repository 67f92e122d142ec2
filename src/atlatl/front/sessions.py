"""Signing in to the dashboard: a code that works once, for a token that only memory holds.

The code stands in the fragment of an address, which browsers send to nobody. What the page gets
for it ends by itself, with the service, or when the page signs out.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from atlatl.errors import Unauthenticated
from atlatl.front.auth import TOKEN_BYTES, Authorizer, Token, sha256

CODE_S = 600.0
"""How long a code waits to be used."""
SESSION_S = 12 * 3600.0
"""How long a token of the dashboard is good: a working day."""

MOST_CODES = 32
MOST_SESSIONS = 256
"""Beyond these the oldest goes."""

_WRONG_CODE = (
    "this address of the dashboard is not good any more: it works once and for ten minutes; "
    "`atlatl dashboard` prints a fresh one, or paste a token"
)


class Sessions:
    """Gives out codes, and tokens for them. Safe to use from many threads.

    Args:
        authorizer: learns of the tokens.
        clock: monotonic seconds.
    """

    def __init__(self, authorizer: Authorizer, clock: Callable[[], float] = time.monotonic) -> None:
        self.authorizer = authorizer
        self._clock = clock
        self._lock = threading.Lock()
        # Ends by the hash of what was given out; the oldest first.
        self._codes: dict[str, float] = {}
        self._tokens: dict[str, float] = {}

    def new_code(self) -> str:
        """A code that `exchange` takes once, within CODE_S."""
        code = secrets.token_urlsafe(TOKEN_BYTES)
        with self._lock:
            self._codes[sha256(code)] = self._clock() + CODE_S
            while len(self._codes) > MOST_CODES:
                del self._codes[next(iter(self._codes))]
        return code

    def exchange(self, code: str) -> str:
        """A token of scope `admin` that is good for SESSION_S.

        Raises:
            Unauthenticated: the code was used, is too old, or never was one.
        """
        now = self._clock()
        with self._lock:
            if self._codes.pop(sha256(code), 0.0) <= now:
                raise Unauthenticated(_WRONG_CODE)
            secret = secrets.token_urlsafe(TOKEN_BYTES)
            kept = Token(
                name="dashboard",
                scope="admin",
                sha256=sha256(secret),
                created_at=datetime.fromtimestamp(0, UTC),
            )
            self._tokens[kept.sha256] = now + SESSION_S
            self.authorizer.begin_session(kept)
            while len(self._tokens) > MOST_SESSIONS:
                self._end(next(iter(self._tokens)))
        return secret

    def end(self, digest: str) -> None:
        """The token with this hash is good no more; does nothing when it was none of ours."""
        with self._lock:
            if digest in self._tokens:
                self._end(digest)

    def look(self) -> None:
        """Lets go of what is over; never raises."""
        now = self._clock()
        with self._lock:
            self._codes = {code: ends for code, ends in self._codes.items() if ends > now}
            for digest in [each for each, ends in self._tokens.items() if ends <= now]:
                self._end(digest)

    def _end(self, digest: str) -> None:
        del self._tokens[digest]
        self.authorizer.end_session(digest)
