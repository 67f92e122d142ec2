"""Runs one command confined and ends what it leaves behind.

`python -I -S supervised_command.py JSON -- COMMAND ...`, executed as a file by the service; the
arguments are those of `confined_command.py`. Standard input is a leash: when the service closes it,
or ends, the command is killed, and in either case everything that descends from it, however it has
detached itself. Then this process ends with the command's status: 128 and the signal when one
ended it, 125 when it could not be confined.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import sys
from typing import Final, NoReturn

TICK_MS: Final = 500
"""What has been left to this process and has ended is reaped this often."""

NICENESS: Final = 10
OOM_SCORE: Final = "1000"
"""The first to go when the machine has no memory left."""


def main(arguments: list[str]) -> NoReturn:
    """Never returns."""
    from atlatl_worker import confined_command, forking, kernel

    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    os.nice(NICENESS)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write(OOM_SCORE)
    leash = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    command = os.fork()
    if command == 0:
        os.close(leash)
        confined_command.main(arguments)
    status = _outlive(command, leash)
    forking.kill_all()
    os._exit(status)


def _outlive(command: int, leash: int) -> int:
    """Returns the status when the command has ended, or is to end."""
    ends = select.poll()
    ends.register(leash, select.POLLIN)
    ends.register(os.pidfd_open(command), select.POLLIN)
    while True:
        ready = ends.poll(TICK_MS)
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)) is not None:
            if ended.si_pid == command:
                exited = ended.si_code == os.CLD_EXITED
                return ended.si_status if exited else 128 + ended.si_status
        if any(descriptor == leash for descriptor, _ in ready):
            return 128 + int(signal.SIGKILL)


def _make_importable() -> None:
    """As in `__main__.py`, which is executed as a file as well."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    path = os.path.join(here, "__main__.py")  # noqa: PTH118
    spec = importlib.util.spec_from_file_location("_beginning", path)
    assert spec is not None
    assert spec.loader is not None
    beginning = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(beginning)
    beginning.make_importable()


if __name__ == "__main__":
    _make_importable()
    main(sys.argv[1:])
