"""Reads what the kernel tells of other processes: environment, memory, files."""

import os

from trying import Refused, attempts, others

FILES = ("environ", "maps", "mem", "cmdline", "auxv", "stack", "syscall")


def main(pids: dict) -> object:
    pids = others(pids)
    return attempts(
        {
            f"{name} {whose}": lambda pid=pid, name=name: read(f"/proc/{pid}/{name}")
            for whose, pid in pids.items()
            for name in FILES
        }
        | {
            f"{name} {whose}": lambda pid=pid, name=name: os.readlink(f"/proc/{pid}/{name}")
            for whose, pid in pids.items()
            for name in ("cwd", "exe", "root", "fd/0")
        }
        | {
            f"descriptors {whose}": lambda pid=pid: os.listdir(f"/proc/{pid}/fd")
            for whose, pid in pids.items()
        }
    )


def all_of_them() -> object:
    """Whatever /proc shows."""
    own = os.getpid()
    others = [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != own]
    return main({str(pid): pid for pid in others})


def by_number(most: int) -> object:
    """Without asking for a list."""
    own = os.getpid()
    readable = [
        pid
        for pid in range(1, most)
        if pid != own and os.path.exists(f"/proc/{pid}/cmdline") and can_read(pid)
    ]
    return attempts({"others' files": lambda: readable or refuse()})


def can_read(pid: int) -> bool:
    try:
        read(f"/proc/{pid}/environ")
    except OSError:
        return False
    return True


def refuse() -> None:
    raise PermissionError(1, "none can be read")


def read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = os.read(descriptor, 100)
    finally:
        os.close(descriptor)
    if not found:
        raise Refused("empty")  # as of the kernel's own processes, for everybody
    return found
