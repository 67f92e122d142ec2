"""Kills a program at its nth sync of a file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("die_at_sync.c")
Killer = Callable[[int], tuple[list[str], dict[str, str]]]
"""What to put in front of a command, and into its environment."""


def killer(directory: Path) -> Killer:
    """A way to do it on this machine; skips the test when there is none."""
    if shutil.which("gcc"):
        library = directory / "die_at_sync.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        return lambda n: ([], {"LD_PRELOAD": str(library), "DIE_AT_SYNC": str(n)})
    if shutil.which("strace"):
        # It counts the calls of each thread apart.
        calls = "fsync,fdatasync"
        return lambda n: (
            [
                *("strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}"),
                *("-e", f"inject={calls}:signal=KILL:when={n}"),
            ],
            {},
        )
    pytest.skip("neither gcc nor strace is here, which kill a program at a system call")


def run_until_sync(kill_at: Killer, n: int, module: str, *args: str) -> tuple[int, bool]:
    """Runs a module.

    Returns:
        How many lines it printed, and whether it was killed.
    """
    before, environment = kill_at(n)
    done = subprocess.run(
        [*before, sys.executable, "-m", module, *args],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    killed = done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert killed or done.returncode == 0, done.stderr
    return len(done.stdout.splitlines()), killed
