"""The base zygote: executed by the service, it prepares what all instances share and forks them."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import socket
import sys
import types
from typing import Final, NoReturn

from atlatl_worker import confine, forking, means, output, rooms, serve
from atlatl_worker.freezing import freeze

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

_libc: Final = ctypes.PyDLL(None, use_errno=True)


def main(descriptor: int, entered: list[str]) -> NoReturn:
    """Serves until the service hangs up.

    Args:
        descriptor: of the socket to the service.
        entered: directories in which the code of instances lies.
    """
    gc.disable()
    os.umask(0o022)
    confine.become_subreaper()
    readable = [*rooms.interpreter(), os.path.dirname(os.path.abspath(__file__))]  # noqa: PTH100, PTH120
    found = means.find(readable, entered)
    confine.prepare_parent(found, readable)
    preload()
    # In each child these streams lead to its own file: they know a descriptor's number only.
    output.install()
    rehearse()
    # Nobody may find our own beginnings where a program keeps its own.
    sys.modules["__main__"] = types.ModuleType("__main__")
    tend = rooms.refresh if found.mounts else None
    forker = forking.Forker(socket.socket(fileno=descriptor), fork, live, tend)
    freeze()
    forker.tell({"op": "ready", "kept": found._asdict()})
    forker.serve()


def preload() -> None:
    """Imports what instances need, before any of them exists."""
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
    for _ in range(REHEARSALS):
        serve.rehearse()


def fork() -> int:
    """Not `os.fork`: that has each child repair the locks and threads of the standard library.

    It copies 430 KiB into every instance. We hold no lock and have one thread; what is left to
    repair, `forking.begin` does.
    """
    pid: int = _libc.fork()
    if pid < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return pid


def live(parent: int, in_stock: bool, *descriptors: int) -> NoReturn:
    """The child's side of a fork."""
    try:
        forking.begin(parent, *descriptors)
        confine.separate()
        gc.enable()
        serve.run(confine.SOCKET_FD, None, in_stock)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(70)
