"""The zygote: a single-threaded process that the service executes and that forks instances.

It speaks JSON over a SOCK_SEQPACKET socket, one message a packet. A `spawn` with an `id` and
`in_stock` has a socket and a memory file attached, and is answered by `spawned` with that `id`,
the `pid` and an attached pidfd, or by `failed` with a `message`. `exited` with `pid`, `code` and
`signal` comes when an instance ends. When the service hangs up, everything below this process
is killed.

Run as a file, by `python -I -S zygote.py DESCRIPTOR`: neither the service's packages nor its
environment are within reach of what runs here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
from types import FrameType
from typing import Any, Final, NoReturn

PRELOADED: Final = (
    "asyncio",
    "base64",
    "collections.abc",
    "concurrent.futures.thread",
    "contextlib",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "email.message",
    "enum",
    "functools",
    "hashlib",
    "http.client",
    "inspect",
    "io",
    "itertools",
    "json",
    "logging",
    "math",
    "pathlib",
    "random",
    "re",
    "secrets",
    "shutil",
    "sqlite3",
    "string",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "traceback",
    "typing",
    "unicodedata",
    "urllib.parse",
    "urllib.request",
    "uuid",
    "zipfile",
    "zoneinfo",
)
"""What functions often import: shared by all instances, so a cold start need not load it."""

REHEARSALS: Final = 10

SWEEP_MS: Final = 500
"""A process that left its instance gives no sign; it is looked for this often."""


def main(descriptor: int) -> NoReturn:
    """Serves until the service hangs up."""
    gc.disable()
    from atlatl_worker import confine, output

    confine.become_subreaper()
    default_signals()
    preload()
    # In each child these streams lead to its own file: they know a descriptor's number only.
    output.install()
    rehearse()
    zygote = Zygote(socket.socket(fileno=descriptor))
    # What is garbage now would be copied into every child by its first collection.
    gc.collect()
    gc.freeze()
    zygote.tell({"op": "ready"})
    zygote.serve()


def default_signals() -> None:
    """What instances are to begin with, whatever the service or Python has set."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def preload() -> None:
    """Imports what instances need, before any of them exists."""
    importlib.import_module("atlatl_worker.serve")
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError:
            # A Python built without some optional part; functions will be told by themselves.
            continue


def rehearse() -> None:
    """Lets the code that every child will run take its final form, which is then shared.

    Until a function has run some eight times, Python rewrites its code as it runs it.
    """
    from atlatl_worker import serve

    for _ in range(REHEARSALS):
        serve.rehearse()


class Zygote:
    """Forks, reaps, and kills what outlives its instance."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._instances: set[int] = set()
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noticed)
        self._poll = select.poll()
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)

    def serve(self) -> NoReturn:
        try:
            while True:
                ready = self._poll.poll(SWEEP_MS if self._instances else None)
                if any(descriptor == self._control.fileno() for descriptor, _ in ready):
                    self._take_message()
                self._reap()
                self._kill_strays()
        except (OSError, ValueError):
            # The service is gone, or nobody that we know how to talk to.
            pass
        finally:
            end_all()

    def tell(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        attached = [] if descriptor is None else [descriptor]
        socket.send_fds(self._control, [json.dumps(message).encode()], attached)

    def _take_message(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 3)
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
            pid = os.fork()
        except OSError as error:
            self.tell({"op": "failed", "id": request, "message": f"fork: {error.strerror}"})
            return
        if pid == 0:
            _live(parent, in_stock, *descriptors)
        self._instances.add(pid)
        pidfd = os.pidfd_open(pid)
        try:
            self.tell({"op": "spawned", "id": request, "pid": pid}, pidfd)
        finally:
            os.close(pidfd)

    def _reap(self) -> None:
        try:
            os.read(self._woken, 4096)
        except BlockingIOError:
            return
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid in self._instances:
                self._instances.discard(ended.si_pid)
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
        """Whatever came to us by the death of its parent; its own children come to us next."""
        for pid in children():
            if pid not in self._instances:
                kill(pid)


def _noticed(number: int, frame: FrameType | None) -> None:
    """SIGCHLD has to be caught for the wake-up pipe to be written."""


def children() -> list[int]:
    """Process ids of this process' children."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123
        return [int(pid) for pid in file.read().split()]


def kill(pid: int) -> None:
    # What is gone already is what we want.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_all() -> NoReturn:
    """Kills all children, and theirs as they come to us, until none is left; then exits."""
    try:
        while True:
            for pid in children():
                kill(pid)
            os.waitid(os.P_ALL, 0, os.WEXITED)
    except ChildProcessError:
        os._exit(0)
    finally:
        os._exit(1)


def _live(parent: int, in_stock: bool, *descriptors: int) -> NoReturn:
    """The child's side of a fork."""
    try:
        from atlatl_worker import confine, serve

        confine.prepare(parent, *descriptors)
        gc.enable()
        sys.modules["__main__"] = type(sys)("__main__")
        serve.run(confine.SOCKET_FD, in_stock=in_stock)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(70)


def make_importable() -> None:
    """Makes `atlatl_worker` importable, but nothing that happens to be installed beside it."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    spec = importlib.util.spec_from_file_location(
        "atlatl_worker",
        os.path.join(here, "__init__.py"),  # noqa: PTH118
        submodule_search_locations=[here],
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["atlatl_worker"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    make_importable()
    main(int(sys.argv[1]))
