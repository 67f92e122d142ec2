"""What a process that forks instances does beside it."""

from __future__ import annotations

import select
import socket
from typing import Any

import pytest

from atlatl_worker import forking
from atlatl_worker.forking import TEND_S, Forker


@pytest.mark.parametrize("busy", [True, False])
def test_it_is_tended_however_busy_it_is(monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    now, tended = 0.0, list[float]()

    class Poll:
        def poll(self, patience_ms: int | None) -> list[tuple[int, int]]:
            nonlocal now
            now += TEND_S / 4
            if now > 4 * TEND_S:
                raise OSError("the service is gone")
            return [(ours.fileno(), select.POLLIN)] if busy else []

    monkeypatch.setattr(forking.time, "monotonic", lambda: now)
    monkeypatch.setattr(forking, "end_all", lambda: None)
    monkeypatch.setattr(Forker, "_take_message", lambda _: None)
    monkeypatch.setattr(Forker, "_kill_strays", lambda _: None)
    never: Any = None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        forker = Forker(ours, never, never, lambda: tended.append(now))
        monkeypatch.setattr(forker, "_poll", Poll())
        forker.serve()
    assert tended == [TEND_S * turn for turn in (1, 2, 3, 4)]
