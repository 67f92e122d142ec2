"""Finds what a zygote that was killed has left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from atlatl_worker.means import uid_of

MARK = "ATLATL_SERVICE"
"""Environment variable by which processes of this service are known."""

END_S = 2.0
AGAIN_S = 0.001


def kill_marked(mark: str, sessions: Collection[int]) -> None:
    """Kills what a dead zygote left.

    Args:
        mark: all that it started has it in its environment.
        sessions: process ids of its instances, whose sessions and users of their own are meant.
    """
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
    users = {uid_of(pid) for pid in sessions} if os.geteuid() == 0 else set()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            # Bytes: a process may call itself what it likes.
            stat = (process / "stat").read_bytes()
        except OSError:
            continue  # it ended while we looked
        state, _, _, session = stat.rpartition(b")")[2].split()[:4]
        if state not in (b"Z", b"X") and (
            int(session) in sessions or _is_ours(process, wanted, users)
        ):
            yield int(process.name)


def _is_ours(process: Path, variable: bytes, users: Collection[int]) -> bool:
    try:
        return variable in (process / "environ").read_bytes().split(b"\0")
    except PermissionError:  # it lets nobody look, or nobody without the capability SYS_PTRACE
        return _user_of(process) in users
    except OSError:  # it ended meanwhile
        return False


def _user_of(process: Path) -> int:
    """-1 when it is gone."""
    try:
        lines = (process / "status").read_bytes().splitlines()
    except OSError:
        return -1
    return next(int(line.split()[1]) for line in lines if line.startswith(b"Uid:"))
