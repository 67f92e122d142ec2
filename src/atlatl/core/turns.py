"""Which callback is made next, when many wait and some hosts are slow.

A host has only some of the places, and hosts take turns: one that never answers keeps its own
callbacks waiting and nobody else's.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC
from email.utils import parsedate_to_datetime

from atlatl.core.retrying import backoff
from atlatl.model import Callback

INITIAL_BACKOFF_S = 1.0
MAX_BACKOFF_S = 300.0
JITTER_RATIO = 0.2
MAX_WISH_S = 3600.0
"""Of what a receiver asks for: it may not keep a callback waiting for ever."""

_DATE_CHARACTERS = 40
"""No date is longer, in any of its three forms."""


def delay_after(tries: int, chance: float, wish_s: float = 0.0) -> float:
    """Seconds until the next try.

    Args:
        tries: that have failed.
        chance: from 0 to 1; spreads the delay to both sides, a wish to later alone.
        wish_s: not before that, at the receiver's wish; counts up to `MAX_WISH_S`.
    """
    delay_s = backoff(tries, INITIAL_BACKOFF_S, 2.0, MAX_BACKOFF_S)
    wished_s = min(wish_s, MAX_WISH_S) * (1 + JITTER_RATIO * chance)
    return max(delay_s * (1 + JITTER_RATIO * (2 * chance - 1)), wished_s)


def wished_delay_s(retry_after: str, now: float) -> float:
    """Seconds of a `Retry-After` (RFC 9110, 10.2.3): a number of them, or a date.

    Args:
        retry_after: the header's value; what is neither counts as no wish.
        now: Unix seconds.
    """
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    if len(text) > _DATE_CHARACTERS:
        return 0.0
    try:
        at = parsedate_to_datetime(text)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


class Turns:
    """Callbacks that wait, and those under way.

    Args:
        places: so many are under way at most.
        per_host: of them to one host.
    """

    def __init__(self, places: int, per_host: int) -> None:
        self._places = places
        self._per_host = per_host
        self._hosts: dict[str, str] = {}
        """By execution id, of all that are known."""
        self._waiting: dict[str, deque[Callback]] = {}
        """By host; only hosts for which some wait."""
        self._under_way: dict[str, int] = {}
        """By host; only hosts that have some."""
        self._line: deque[str] = deque()
        """Hosts for which some wait and that may have another place, the next one first."""

    def __contains__(self, execution_id: object) -> bool:
        return execution_id in self._hosts

    def __len__(self) -> int:
        """Waiting and under way."""
        return len(self._hosts)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def free(self) -> bool:
        """Whether there is a place."""
        return sum(self._under_way.values()) < self._places

    def add(self, callback: Callback, host: str) -> None:
        """Has a callback wait for its turn, unless it is known."""
        if callback.execution_id in self._hosts:
            return
        self._hosts[callback.execution_id] = host
        if host in self._waiting:
            self._waiting[host].append(callback)
            return
        self._waiting[host] = deque([callback])
        self._line_up(host)

    def take(self) -> Callback | None:
        """The next one, which is under way from now on; None when none may be."""
        if not self.free or not self._line:
            return None
        host = self._line.popleft()
        callback = self._waiting[host].popleft()
        if not self._waiting[host]:
            del self._waiting[host]
        self._under_way[host] = self._under_way.get(host, 0) + 1
        self._line_up(host)
        return callback

    def finish(self, execution_id: str, *, forget: bool = True) -> None:
        """A callback is no longer under way.

        Args:
            execution_id: whose it is.
            forget: whether it may be added again.
        """
        host = self._hosts[execution_id]
        if forget:
            del self._hosts[execution_id]
        was_full = self._under_way[host] == self._per_host
        self._under_way[host] -= 1
        if not self._under_way[host]:
            del self._under_way[host]
        if was_full:
            self._line_up(host)

    def thin_out(self, keep: int) -> list[Callback]:
        """Takes out the last of those that wait for the host with most; the first `keep` stay."""
        host = max(self._waiting, key=lambda host: len(self._waiting[host]), default="")
        line = self._waiting.get(host, deque())
        taken = [line.pop() for _ in range(len(line) - keep)]
        for callback in taken:
            del self._hosts[callback.execution_id]
        return taken

    def _line_up(self, host: str) -> None:
        if host in self._waiting and self._under_way.get(host, 0) < self._per_host:
            self._line.append(host)
