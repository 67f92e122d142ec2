"""What the kernel at hand lets a zygote keep its instances from: tried once, when it comes up."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from atlatl_worker import kernel, landlock, rooms, seccomp

FIRST_UID: Final = 0x7000_0000
"""An instance's user id is this and its process id: no two that live have the same."""
LAST_PID: Final = 0x0040_0000
"""More than any process id."""
INSTANCES: Final = FIRST_UID - 1
"""Group of all instances where they have no room: it may enter the directory of their code."""

_ID_MAPS: Final = ("uid_map", "gid_map")


class Means(NamedTuple):
    """What was tried and held; see `atlatl.core.confinement.Kept`."""

    landlock: int = 0
    seccomp: bool = False
    uids: bool = False
    mounts: bool = False
    user_namespaces: bool = False
    network_namespaces: bool = False
    private_proc: bool = False
    processes: bool = False
    as_root: bool = False


def find(needed: list[str], entered: list[str]) -> Means:
    """Tries everything in processes made for it, and builds the room in this one.

    This process has no new privileges from then on: for whoever is not root the kernel wants that
    of those that restrict themselves.

    Args:
        needed: what has to be in the room besides the system.
        entered: directories in which code will lie. Without a room users of their own have to be
            able to enter them: those that are closed to all but root are opened to their group.
    """
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    uids = succeeds(_try_user)
    mounts = user_namespaces = private_proc = False
    for namespace in (False,) if uids else (True,):
        for private in (True, False) if uids else (False,):
            if not mounts and succeeds(lambda: _try_room(needed, namespace, private)):  # noqa: B023
                mounts, user_namespaces, private_proc = True, namespace, private
    if mounts:
        own_mounts(user_namespaces)
        rooms.build(needed, private_proc=private_proc)
    elif uids:
        _let_in(entered)
        uids = succeeds(lambda: _try_enter(needed, entered))
    alone = user_namespaces
    return Means(
        landlock=landlock.version() if succeeds(_try_landlock) else 0,
        seccomp=succeeds(_try_seccomp),
        uids=uids,
        mounts=mounts,
        user_namespaces=user_namespaces,
        network_namespaces=succeeds(lambda: _try_network(alone)),
        private_proc=private_proc and succeeds(_try_hidden),
        processes=uids or (alone and succeeds(_try_processes)),
        as_root=not uids and os.geteuid() == 0,
    )


def succeeds(attempt: Callable[[], Any]) -> bool:
    """Whether something can be done, without having done it here."""
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def own_mounts(user_namespace: bool) -> None:
    """Gives this process mounts that are its own to change.

    Args:
        user_namespace: needed by whoever is not root; it keeps its own user id there, and is
            privileged as to what belongs to the namespace.

    Raises:
        OSError: the kernel refused.
    """
    if not user_namespace:
        kernel.unshare(kernel.CLONE_NEWNS)
        return
    ids = os.getuid(), os.getgid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    with contextlib.suppress(OSError):  # denied already, by the namespace around this one
        _write("/proc/self/setgroups", b"deny")
    for name, number in zip(_ID_MAPS, ids, strict=True):
        _write(f"/proc/self/{name}", b"%d %d 1" % (number, number))


def _write(path: str, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, content)
    finally:
        os.close(file)


def uid_of(pid: int) -> int:
    """The user id of an instance."""
    return FIRST_UID + pid % LAST_PID


def become_user(pid: int, *, in_room: bool = True) -> None:
    """Makes this process, which is root's, its own user's; raises OSError.

    Args:
        pid: its own.
        in_room: its code is in its room; else it is where the group of all instances may enter.
    """
    uid = uid_of(pid)
    os.setgroups([] if in_room else [INSTANCES])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _let_in(places: list[str]) -> None:
    """Lets the group of all instances pass through directories that are only root's.

    What somebody has opened to others already is left as it is.
    """
    for place in places:
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(os.stat(place).st_mode)
            if not mode & 0o077:
                os.chown(place, -1, INSTANCES)
                os.chmod(place, mode | 0o010)  # to pass, not to see what is there


# --- attempts ---


def _try_user() -> None:
    """Whether a process can become another user's, and be ended all the same."""
    told, tell = os.pipe()
    held, hold = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(hold)
            become_user(os.getpid())
            os.write(tell, b"1")
            os.read(held, 1)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        if not os.read(told, 1):
            raise OSError("it stays root's")
        os.kill(pid, signal.SIGKILL)
    finally:
        os.close(hold)
        os.waitpid(pid, 0)


def _try_room(needed: list[str], namespace: bool, private_proc: bool) -> None:
    own_mounts(namespace)
    rooms.build(needed, private_proc=private_proc)
    own_mounts(namespace)
    rooms.enter(rooms.BYTES_PER_FILE * 1024)
    rooms.resize(rooms.BYTES_PER_FILE * 2048)
    rooms.close()


def _try_enter(needed: list[str], entered: list[str]) -> None:
    """Whether another user reaches what is there; what is still to be made will be closed."""
    there = [place for place in needed if os.path.exists(place)]
    become_user(os.getpid(), in_room=False)
    for place in there:
        os.stat(place)
    for place in entered:
        if not os.access(place, os.X_OK):
            raise PermissionError(place)


def _try_landlock() -> None:
    abi = landlock.version()
    landlock.restrict(landlock.file_rules(abi))


def _try_seccomp() -> None:
    machine = seccomp.MACHINES[kernel.MACHINE]
    seccomp.Filter(seccomp.program(machine, network=False, own_user=False)).install()


def _try_network(namespace: bool) -> None:
    own_mounts(namespace)
    kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)


def _try_hidden() -> None:
    """The zygote must not be seen by another user."""
    zygote = os.getppid()
    become_user(os.getpid())
    if os.path.exists(f"/proc/{zygote}"):
        raise OSError("processes of others are visible")


def _try_processes() -> None:
    """Whether a limit of two lets this process have a child: its user has more than that."""
    own_mounts(user_namespace=True)
    kernel.drop_capabilities()
    resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
    if not succeeds(lambda: None):
        raise OSError("processes of others count")
