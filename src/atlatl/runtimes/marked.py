"""Finds what a zygote that was killed has left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

MARK = "ATLATL_SERVICE"
"""Environment variable by which processes of this service are known."""

END_S = 2.0
AGAIN_S = 0.001


def kill_marked(mark: str, sessions: Collection[int]) -> None:
    """Kills what a dead zygote left: all with its mark, or in a session of its instances."""
    until = time.monotonic() + END_S
    while time.monotonic() < until:
        found = list(_left(mark, sessions))
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(AGAIN_S)  # a process has to leave what it shares before it is gone


def _left(mark: str, sessions: Collection[int]) -> Iterator[int]:
    wanted = f"{MARK}={mark}".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            # Bytes: a process may call itself what it likes.
            stat = (process / "stat").read_bytes()
        except OSError:
            continue  # it ended while we looked
        state, _, _, session = stat.rpartition(b")")[2].split()[:4]
        if state not in (b"Z", b"X") and (int(session) in sessions or _has(process, wanted)):
            yield int(process.name)


def _has(process: Path, variable: bytes) -> bool:
    try:
        return variable in (process / "environ").read_bytes().split(b"\0")
    except OSError:  # it ended meanwhile, belongs to somebody else, or lets nobody look
        return False
