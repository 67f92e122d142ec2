"""A single-threaded process that forks instances: the base zygote, or one task's own.

It speaks JSON over a SOCK_SEQPACKET socket, one message a packet. A `spawn` with an `id` and
`in_stock` has what the instance is to hold attached, and is answered by `spawned` with that `id`,
the `pid` and an attached pidfd, or by `failed` with a `message`. `exited` with `pid`, `code` and
`signal` comes when an instance ends. When the service hangs up, everything below this process
is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Container
from typing import Any, Final, NoReturn

from atlatl_worker import confine

INT_BYTES: Final = struct.calcsize("i")

SWEEP_MS: Final = 500
"""A process that left its instance gives no sign; it is looked for this often."""
AGAIN_MS: Final = 5
"""One that was killed has died by then, and its own children have come to us."""
END_AGAIN_MS: Final = 1
TEND_S: Final = 1.0
"""While there are instances."""


class Forker:
    """Forks, reaps, and kills what outlives its instance.

    Args:
        control: to the service.
        fork: as `os.fork`.
        live: what a child does, given its parent's process id, whether it is forked in stock,
            and the descriptors that `confine.prepare` takes.
        tend: called once in `TEND_S` while there are instances, however busy it is.
    """

    def __init__(
        self,
        control: socket.socket,
        fork: Callable[[], int],
        live: Callable[..., NoReturn],
        tend: Callable[[], None] | None = None,
    ) -> None:
        self._tend = tend
        self._tend_at = time.monotonic() + TEND_S
        self._control = control
        self._fork = fork
        self._live = live
        self._instances: dict[int, int] = {}
        """Process ids, and the descriptors that tell of their ends."""
        self._pidfds: dict[int, int] = {}
        """The other way round."""
        self._strays = False
        self._poll = select.poll()
        self._poll.register(self._control, select.POLLIN)

    def serve(self) -> NoReturn:
        try:
            while True:
                ready = self._poll.poll(self._patience_ms())
                if any(descriptor == self._control.fileno() for descriptor, _ in ready):
                    self._take_message()
                self._reap([self._pidfds[fd] for fd, _ in ready if fd in self._pidfds])
                self._kill_strays()
                if self._tend is not None and time.monotonic() >= self._tend_at:
                    self._tend_at = time.monotonic() + TEND_S
                    self._tend()
        except (OSError, ValueError):
            # The service is gone, or nobody that we know how to talk to.
            pass
        finally:
            end_all()

    def _patience_ms(self) -> int | None:
        if self._strays:
            return AGAIN_MS
        return SWEEP_MS if self._instances else None

    def tell(self, message: dict[str, Any]) -> None:
        self._control.send(json.dumps(message).encode())

    def _take_message(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 4)
        if not data:
            raise OSError("the service hung up")
        message = json.loads(data)
        try:
            if message["op"] == "spawn":
                self._spawn(message["id"], message["in_stock"], *descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _spawn(self, request: int, in_stock: bool, *descriptors: int) -> None:
        parent = os.getpid()
        try:
            pid = self._fork()
        except OSError as error:
            self.tell({"op": "failed", "id": request, "message": f"fork: {error.strerror}"})
            return
        if pid == 0:
            self._live(parent, in_stock, *descriptors)
        pidfd = self._instances[pid] = os.pidfd_open(pid)
        self._pidfds[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        # By hand: what an encoder touches here, each child would get a copy of.
        told = b'{"op":"spawned","id":%d,"pid":%d}' % (request, pid)
        attached = (socket.SOL_SOCKET, socket.SCM_RIGHTS, pidfd.to_bytes(INT_BYTES, sys.byteorder))
        self._control.sendmsg([told], [attached])

    def _reap(self, pids: list[int]) -> None:
        """Of instances only."""
        for pid in pids:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
            if ended is not None:
                pidfd = self._instances.pop(pid)
                del self._pidfds[pidfd]
                self._poll.unregister(pidfd)
                os.close(pidfd)
                self._tell_end(ended)

    def _tell_end(self, ended: os.waitid_result) -> None:
        exited = ended.si_code == os.CLD_EXITED
        self.tell(
            {
                "op": "exited",
                "pid": ended.si_pid,
                "code": ended.si_status if exited else 0,
                "signal": 0 if exited else ended.si_status,
            }
        )

    def _kill_strays(self) -> None:
        """Whatever came to us by the death of its parent; its own children come to us next.

        The dead are reaped only when none is left alive. Until then they count as processes of
        their instance, and what forks faster than we kill finds no room for more.
        """
        strays, alive = kill_children(self._instances)
        self._strays = bool(strays)
        if not alive:
            for pid in strays:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)


def kill_children(spared: Container[int]) -> tuple[list[int], bool]:
    """Kills all children but these; gives them, the dead too, and whether any was alive."""
    before: list[int] = []
    while True:
        pids = [pid for pid in children() if pid not in spared]
        living = [pid for pid in pids if not _has_ended(pid)]
        for pid in living:
            kill(pid)
        if living or pids == before:
            return pids, bool(living)
        # Not the first list: what ends while it is read hides others in it.
        before = pids


def _has_ended(pid: int) -> bool:
    """Leaves it to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def children() -> list[int]:
    """Process ids of this process' children."""
    file = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)
    try:
        # Not `open()`: what it touches here, each child would get a copy of.
        return [int(pid) for pid in b"".join(iter(lambda: os.read(file, 4096), b"")).split()]
    finally:
        os.close(file)


def kill(pid: int) -> None:
    # What is gone already is what we want.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_all() -> NoReturn:
    """As `kill_all`; then exits."""
    try:
        kill_all()
        os._exit(0)
    finally:
        os._exit(1)


def kill_all() -> None:
    """Kills all children, and theirs as they come to us, until none is left.

    The dead are reaped last, for the reason that `Forker` has.
    """
    with contextlib.suppress(ChildProcessError):
        while True:
            if kill_children(())[1]:
                select.poll().poll(END_AGAIN_MS)
                continue
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
                pass


_main_thread: Final = threading.main_thread()


def begin(parent: int, *descriptors: int) -> None:
    """What a forked child does first: it keeps what is its own, and shares no chance."""
    confine.prepare(parent, *descriptors)
    _main_thread._native_id = os.getpid()  # type: ignore[attr-defined]
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        # Whatever an artifact calls so.
        with contextlib.suppress(Exception):
            numpy_random.seed()
