"""Takes things of which the kernel has only so many."""

import ctypes
import os
import select
import socket

from trying import INTEL, attempts, call, libc, syscall, why

MOST = 100_000


def descriptors() -> dict:
    kept = []
    try:
        while len(kept) < MOST:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return {"made": len(kept), "then": why(error)}
    return {"made": len(kept)}


def watches() -> dict:
    """Instances of inotify, and files that they watch."""
    made = watched = 0
    try:
        while made < MOST:
            watcher = call("inotify_init1", 0)
            made += 1
            for name in os.listdir("/tmp") or ["."]:
                libc.inotify_add_watch(watcher, f"/tmp/{name}".encode(), 0xFFF)
                watched += 1
    except OSError as error:
        return {"made": made, "watched": watched, "then": why(error)}
    return {"made": made}


def sockets() -> dict:
    """Pairs, filled as far as they go; and what can be sent through them, others."""
    kept = []
    try:
        while len(kept) < MOST:
            pair = socket.socketpair()
            pair[0].setblocking(False)
            pair[0].send(bytes(200_000))
            kept.append(pair)
    except OSError as error:
        return {"made": len(kept), "then": why(error)}
    return {"made": len(kept)}


def in_flight() -> dict:
    """Descriptors that are only in messages, and so count as open nowhere."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    sent = 0
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        while sent < MOST:
            socket.send_fds(ours, [b"x"], [null] * 200)
            sent += 200
    except OSError as error:
        return {"made": sent, "then": why(error), "peer": theirs.fileno()}
    return {"made": sent}


def epolls() -> dict:
    kept = []
    try:
        while len(kept) < MOST:
            kept.append(select.epoll())
    except OSError as error:
        return {"made": len(kept), "then": why(error)}
    return {"made": len(kept)}


SHMGET, SEMGET, MSGGET, MQ_OPEN = (29, 64, 68, 240) if INTEL else (194, 190, 186, 180)
IPC_CREAT, KEY, NAME = 0o1000, 0x41544C41, b"atlatl-test"


def outlasting() -> object:
    """What stays in the kernel when its maker has long ended."""

    def queue() -> int:
        made = syscall(MQ_OPEN, NAME, os.O_CREAT | os.O_RDWR, 0o600, None)
        return made + syscall(MQ_OPEN + 1, NAME)  # not even then is it left

    def kept(make: int, remove: str, *arguments: int) -> int:
        made = syscall(make, KEY, *arguments)
        return libc[remove](made, 0, 0, None)

    mode = IPC_CREAT | 0o600
    return attempts(
        {
            "shared memory": lambda: kept(SHMGET, "shmctl", 1024 * 1024, mode),
            "semaphores": lambda: kept(SEMGET, "semctl", 1, mode),
            "messages": lambda: kept(MSGGET, "msgctl", mode),
            "queue": queue,
        }
    )


def locked() -> object:
    """Memory that cannot be paged out, more than an ordinary process may lock."""

    def lock() -> int:
        size = 64 * 1024 * 1024
        libc.mmap.restype = ctypes.c_void_p
        address = libc.mmap(None, ctypes.c_size_t(size), 3, 0x22, -1, 0)
        return call("mlock", ctypes.c_void_p(address), ctypes.c_size_t(size))

    return attempts({"lock 64 MiB": lock})


main = descriptors
